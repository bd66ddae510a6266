// Package rules decides what becomes of events before they are stored: which
// are dropped or thinned out, what they are called, where they go, and which
// parts of their payload they keep. Rules are applied in their order, each to
// what those before it left. It stores nothing itself and publishes nothing.
package rules

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/bmatcuk/doublestar/v4"
	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/vm"
	"github.com/rs/zerolog"

	"event2mqtt/internal/config"
	"event2mqtt/internal/event"
	"event2mqtt/internal/topic"
)

// Config is one rule: which events it is for, and what happens to them.
type Config struct {
	// Name tells the rule apart for people and programs. It has no part in
	// what the rule does, nor in what it remembers.
	Name string `koanf:"name" example:"no chatter" doc:"Metrics and messages call the rule by this name, and without one by its number, counted from 0."`
	// Match are patterns of event names, or classes of OctoPrint's such as
	// @printjob; one of them must match. None match all.
	Match []string `koanf:"match" example:"Client*" doc:"Patterns of event names, or OctoPrint's classes such as @printjob; one must match."`
	// Source is a pattern of source names.
	Source string `koanf:"source" doc:"A pattern that the name of the event's source must match."`
	// When is an expression on event, source and payload.
	When string `koanf:"when" example:"payload.time > 3600" doc:"An expression on event, source and payload that must be true."`

	Keep   bool          `koanf:"keep" default:"false" doc:"End the rules for the event, which is sent as it is then."`
	Drop   bool          `koanf:"drop" default:"false" doc:"Do not send the event."`
	Rename string        `koanf:"rename" doc:"The new name of the event."`
	Topic  string        `koanf:"topic" doc:"The topic of the event's message, instead of publish.event_topic and with the same placeholders."`
	QoS    *int          `koanf:"qos" oneof:"0,1,2" doc:"The QoS of the event's message, instead of publish.qos."`
	Retain bool          `koanf:"retain" default:"false" doc:"Whether the event's message is retained."`
	Expiry time.Duration `koanf:"message_expiry" default:"0s" min:"1s" max:"8760h" off:"0s" doc:"How long a broker may keep the event's message for subscribers that are away, instead of publish.message_expiry, and like that with protocol 5 alone; 0s is as there."`

	Pick   []string       `koanf:"pick" doc:"Keep these keys of the payload only."`
	Remove []string       `koanf:"remove" doc:"Take these keys out of the payload."`
	Add    map[string]any `koanf:"add" doc:"Put these keys into the payload."`

	MinInterval time.Duration `koanf:"min_interval" default:"0s" min:"0s" max:"24h" doc:"Send at most one event in this time; the last is sent at its end."`
	Per         []string      `koanf:"per" doc:"Keys of the payload for each value of which min_interval counts by itself."`
	Dedupe      bool          `koanf:"dedupe" default:"false" doc:"Drop an event that says the same as the one before it."`
	Ignore      []string      `koanf:"ignore" doc:"Keys of the payload that do not count for dedupe."`
}

// groups are OctoPrint's classes of events, as its MQTT plugin has them.
var groups = map[string][]string{
	"@server":    {"Startup", "Shutdown", "ClientOpened", "ClientClosed", "ClientAuthed", "ClientDeauthed", "ConnectivityChanged", "ConnectionsAutorefreshed", "UserLoggedIn", "UserLoggedOut"},
	"@comm":      {"Connecting", "Connected", "Disconnecting", "Disconnected", "Error", "PrinterStateChanged", "PrinterReset", "PrinterControlsChanged", "FirmwareData"},
	"@files":     {"Upload", "File*", "Folder*", "UpdatedFiles", "Metadata*", "Transfer*"},
	"@printjob":  {"Print{Started,Failed,Done,Cancelling,Cancelled,Paused,Resumed}", "PausedForUser", "ChartMarked"},
	"@gcode":     {"PowerOn", "PowerOff", "Home", "Dwelling", "Waiting", "Cooling", "Alert", "Conveyor", "Eject", "EStop", "ToolChange", "CommandSuppressed", "InvalidToolReported", "FilamentChange", "RegisteredMessageReceived", "GcodeScript*"},
	"@position":  {"ZChange", "PositionUpdate"},
	"@timelapse": {"CaptureStart", "CaptureFailed", "CaptureDone", "Movie*", "PostRoll*"},
	"@slicing":   {"Slicing*"},
	"@settings":  {"SettingsUpdated", "PrinterProfile*"},
	"@plugin":    {"plugin_*"},
}

// Verdict is what the rules say of an event.
type Verdict struct {
	Kind Kind
	// By is the rule that decided; nil if all were applied and the event passes.
	By *Rule
	// Key names what is held among all that is held, as Held.Key does.
	Key string
}

// Kind is a kind of verdict.
type Kind int

// The kinds. What is held is not to be stored now: it is kept until its
// interval is over, unless a newer one takes its place.
const (
	Pass   Kind = iota
	Drop        // by a rule's drop
	Repeat      // left out by a rule's dedupe
	Hold        // by a rule's min_interval
)

// Bounds of what is remembered. Beyond them nothing is thinned out.
const (
	maxKeys        = 10_000
	maxHeldPayload = 64 << 10
)

// Set are rules, ready for use. It is safe for concurrent use.
type Set struct {
	rules []*rule
	log   zerolog.Logger
	watch func(by *Rule, e *event.Event, failed error) // may be nil

	timestamp string // the key of an event's time
	maxHeld   int    // bytes
	*shared
}

// shared goes over from one set to the next, as what is remembered does.
type shared struct {
	// mu is held from the first rule that remembers something until the
	// events are stored: what failed to be stored must not be remembered.
	mu      sync.Mutex
	bytes   int       // that are held, about
	orphans []*memory // of earlier rules, which hold something yet
}

// Options are what a Set needs beside its rules.
type Options struct {
	Base      string // of topics
	Timestamp string // the key of an event's time
	// MaxHeld bounds what may be held at a time, in bytes. Default 256 KiB.
	MaxHeld int
	// Before is the set that this one follows: what its rules remember goes
	// over to those that stay the same. May be nil.
	Before *Set
	// Watch is told of each rule that has changed an event, which is as it is
	// then, and of each whose expression failed, with why. May be nil.
	Watch func(by *Rule, e *event.Event, failed error)
	// Place tells where the rule of an index is written, as Rule has it. May
	// be nil.
	Place func(index int) (file string, line int)
	Log   zerolog.Logger
}

// rule is one of a set.
type rule struct {
	Config
	is     *Rule
	id     string // stays the same as long as what the rule does
	names  []string
	when   *vm.Program
	topic  topic.Template
	add    []addition
	edits  bool        // it changes events
	warned atomic.Bool // that its expression has failed
	*memory
	*counters
}

type addition struct{ key, value string }

// memory is what a rule remembers. Set.mu guards it; it goes over to the same
// rule of the next set.
type memory struct {
	seen map[string]uint64    // hash of the newest payload, by event
	last map[string]time.Time // when the newest was passed, by event and key
	held map[string]*Held
}

func newMemory() *memory {
	return &memory{seen: map[string]uint64{}, last: map[string]time.Time{}, held: map[string]*Held{}}
}

// Held is an event that waits for the end of its interval.
type Held struct {
	Key   string // names it among all that are held
	Event event.Event
	Due   time.Time
	by    *memory // that holds it
}

// New makes a set of rules. The error is of joined KeyErrors below "rules".
func New(list []Config, o Options) (*Set, error) {
	s := &Set{log: o.Log, watch: o.Watch, timestamp: cmp.Or(o.Timestamp, event.DefaultTimestampField), maxHeld: cmp.Or(o.MaxHeld, 256<<10), shared: &shared{}}
	var errs []error
	for i, c := range list {
		r, err := compile(c, o.Base)
		errs = append(errs, below(i, err))
		r.is = &Rule{Index: i, Name: c.Name}
		if o.Place != nil {
			r.is.File, r.is.Line = o.Place(i)
		}
		for _, other := range s.rules {
			if other.id == r.id { // the same rule twice
				r.id += "'"
			}
			if c.Name != "" && other.Name == c.Name {
				errs = append(errs, config.Errorf(fmt.Sprintf("rules[%d].name", i), "%q is the name of rules[%d] already", c.Name, other.is.Index))
				c.Name = "" // said once
			}
		}
		s.rules = append(s.rules, r)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if o.Before != nil {
		s.shared = o.Before.shared
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, r := range s.rules {
			for _, old := range o.Before.rules {
				if old.id == r.id {
					r.memory = old.memory
				}
				if r.follows(old) {
					r.counters = old.counters
				}
			}
		}
	}
	return s, nil
}

func below(i int, err error) error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return err
	}
	var errs []error
	for _, e := range joined.Unwrap() {
		if key, ok := errors.AsType[*config.KeyError](e); ok {
			in := func(key string) string { return strings.TrimSuffix(fmt.Sprintf("rules[%d].%s", i, key), ".") }
			fresh := &config.KeyError{Key: in(key.Key), Err: key.Err}
			if key.Other != "" {
				fresh.Other = in(key.Other)
			}
			e = fresh
		}
		errs = append(errs, e)
	}
	return errors.Join(errs...)
}

func compile(c Config, base string) (*rule, error) {
	r := &rule{Config: c, memory: newMemory(), counters: &counters{}}
	var errs []error
	if err := checkName(c.Name); err != nil {
		errs = append(errs, err)
	}
	bad := func(key, format string, args ...any) { errs = append(errs, config.Errorf(key, format, args...)) }
	relation := func(key, other, text string) { errs = append(errs, config.Relation(key, other, "%s", text)) }
	var err error
	if r.names, err = Names(c.Match); err != nil {
		errs = append(errs, err.(interface{ Unwrap() []error }).Unwrap()...)
	}
	if c.Source != "" && !doublestar.ValidatePattern(c.Source) {
		bad("source", "%q is not a pattern; write for example printer-*", c.Source)
	}
	if c.When != "" {
		var err error
		if r.when, err = expr.Compile(c.When, expr.Env(environment{}), expr.AsBool()); err != nil {
			bad("when", "%s", expressionError(err))
		}
	}
	if len(c.Rename) > event.MaxName || !utf8.ValidString(c.Rename) {
		bad("rename", "is longer than %d bytes, or not UTF-8", event.MaxName)
	}
	if found := placeholder(c.Rename); found != "" {
		bad("rename", "%q looks like a placeholder, and rename takes a name as it is; only topic fills placeholders in", found)
	}
	if c.Topic != "" {
		var err error
		if r.topic, err = topic.Parse(c.Topic, base); err != nil {
			bad("topic", "%w", err)
		} else if place := event.OwnPlace(base, r.topic.Sample(), event.OwnSource); place != "" && r.topic.Outside() {
			bad("topic", "%q: topics below %s are the program's own, and no event may choose one", c.Topic, place)
		}
	}
	r.edits = c.Rename != "" || c.Topic != "" || c.QoS != nil || c.Retain || c.Expiry > 0 || len(c.Pick)+len(c.Remove)+len(c.Add) > 0
	thins := c.MinInterval != 0 || c.Dedupe
	switch {
	case c.Keep && c.Drop:
		relation("drop", "keep", "keep is set already; leave one of them out")
	case (c.Keep || c.Drop) && (r.edits || thins):
		bad("", "keep and drop end what the rules do with an event; put the other actions into a rule before")
	case !c.Keep && !c.Drop && !r.edits && !thins:
		bad("", "the rule does nothing; set one of keep, drop, rename, topic, qos, retain, pick, remove, add, min_interval, dedupe")
	}
	if len(c.Per) > 0 && c.MinInterval == 0 {
		relation("per", "min_interval", "is of use only with min_interval")
	}
	if len(c.Ignore) > 0 && !c.Dedupe {
		relation("ignore", "dedupe", "is of use only with dedupe: true")
	}
	errs = append(errs, r.compileAdd()...)
	c.Name = ""
	text, err := json.Marshal(c)
	if err != nil {
		bad("", "%w", err)
	}
	h := fnv.New64a()
	_, _ = h.Write(text)
	r.id = fmt.Sprintf("%x", h.Sum64())
	return r, errors.Join(errs...)
}

// Names returns the patterns of names that the option match stands for: classes
// such as @printjob are replaced by theirs. The error is of joined KeyErrors
// below match, one for each item that is wrong.
func Names(match []string) (names []string, err error) {
	var errs []error
	for i, pattern := range match {
		class, isClass := groups[pattern]
		bad := func(format string, args ...any) {
			errs = append(errs, config.Errorf(fmt.Sprintf("match[%d]", i), format, args...))
		}
		switch {
		case isClass:
			names = append(names, class...)
		case strings.HasPrefix(pattern, "@"):
			known := slices.Sorted(maps.Keys(groups))
			text := fmt.Sprintf("there is no class %s; there are %s", pattern, strings.Join(known, ", "))
			if near := config.Near(pattern, known...); near != "" {
				text += "; did you mean " + near + "?"
			}
			bad("%s", text)
		case !doublestar.ValidatePattern(pattern) || pattern == "":
			bad("%q is not a pattern; write for example Print* or {Print,Transfer}Done", pattern)
		default:
			names = append(names, pattern)
		}
	}
	return names, errors.Join(errs...)
}

// compileAdd makes what add puts in, sorted by key.
func (r *rule) compileAdd() (errs []error) {
	for key, value := range r.Add {
		if found := placeholder(value); found != "" {
			errs = append(errs, config.Errorf("add."+key, "%q looks like a placeholder, and add takes values as they are; only topic fills placeholders in", found))
		}
		text, err := json.Marshal(value)
		if err != nil {
			errs = append(errs, config.Errorf("add."+key, "cannot be written as JSON: %w", err))
		}
		r.add = append(r.add, addition{key, string(text)})
	}
	slices.SortFunc(r.add, func(a, b addition) int { return strings.Compare(a.key, b.key) })
	return errs
}

// environment is what expressions see.
type environment struct {
	Event   string         `expr:"event"`
	Source  string         `expr:"source"`
	Payload map[string]any `expr:"payload"`
}

// expressionError is the first line of expr's error, which goes on with a
// picture of the place.
func expressionError(err error) string {
	text, _, _ := strings.Cut(err.Error(), "\n")
	return text
}

// Empty reports whether there are no rules.
func (s *Set) Empty() bool { return len(s.rules) == 0 }

// matches reports whether a rule is for an event. An expression that fails
// does not match: the event goes on.
func (s *Set) matches(r *rule, e *event.Event, payload func() map[string]any) bool {
	if len(r.names) > 0 && !MatchesName(r.names, e.Name) {
		return false
	}
	if !r.fits(e.Source) {
		return false
	}
	if r.when == nil {
		return true
	}
	result, err := expr.Run(r.when, environment{e.Name, e.Source, payload()})
	if err != nil {
		if s.watch != nil {
			s.watch(r.is, e, errors.New(expressionError(err)))
		}
		if r.failed.Add(1); !r.warned.Swap(true) {
			s.log.Warn().Str("when", r.When).Str("event", e.Name).Str("source", e.Source).Str("error", expressionError(err)).Msgf("%s: the expression failed; the rule does not apply to this event", r.is)
		}
		return false
	}
	yes, _ := result.(bool)
	return yes
}

// MatchesName reports whether one of the patterns, which are those of Names, fits
// the name of an event.
func MatchesName(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return match(p, name) })
}

func match(pattern, name string) bool {
	ok, err := doublestar.Match(pattern, name)
	return ok && err == nil
}

var placeholders = regexp.MustCompile(`\{(base|event|source|payload\.[\w.\-]+)(\|\w+)*\}`)

// placeholder finds a topic template's placeholder in a value of any depth.
func placeholder(value any) string {
	text, err := json.Marshal(value)
	if err != nil {
		return ""
	}
	return string(placeholders.Find(text))
}
