// Package commands is the way back: it judges the messages that others publish
// for sources, gives those that are allowed to their source, one at a time,
// answers them, and tells of each as an event. How messages come and go is the
// main sink's, and what is done is the source's.
//
// Nothing here waits for anybody else: what is too much is ignored, and said so.
package commands

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"event2mqtt/internal/config"
	"event2mqtt/internal/event"
	"event2mqtt/internal/loglimit"
	"event2mqtt/internal/sinks"
	"event2mqtt/internal/sources"
	"event2mqtt/internal/topic"
)

// EventName is the name of the events that tell of commands.
const EventName = "Command"

// Bounds of what is accepted.
const (
	// MaxAge is how old a command may be when it is given to its source: one
	// that comes late would surprise whoever is near the thing by then. It is also
	// how far the clock of whoever gives it may be ahead.
	MaxAge = 10 * time.Second
	// maxPayload bounds the payload of a command, in bytes.
	maxPayload = 8 << 10
	// maxWaiting is how many commands may wait for one source.
	maxWaiting = 16
	// maxAnswers is how many commands that are not done may be answered at a
	// time; more are not.
	maxAnswers = 4
	// maxReply bounds what a source answers, and maxError why it has not done
	// it, in bytes.
	maxReply = 64 << 10
	maxError = 1 << 10
	// maxID bounds the id of a command as it is spelled, in bytes.
	maxID = 128
	// MaxName bounds the name of a command, in bytes, and maxNames how many a
	// source may allow.
	MaxName  = 64
	maxNames = 100
)

// CheckNames tells what is wrong with the option commands of a source.
func CheckNames(names []string) error {
	if len(names) > maxNames {
		return config.Errorf("commands", "there are %d; at most %d are allowed", len(names), maxNames)
	}
	for i, name := range names {
		key := fmt.Sprintf("commands[%d]", i)
		switch {
		case name == "" || len(name) > MaxName || topic.Safe(name) != name:
			return config.Errorf(key, "%q cannot be the name of a command: it is one level of a topic, without spaces, dots and wildcards, and has at most %d bytes", name, MaxName)
		case slices.Contains(names[:i], name):
			return config.Errorf(key, "%q is there already", name)
		}
	}
	return nil
}

// Topic is where commands for a source are published to, without the last level.
func Topic(base, source string) string { return base + "/" + topic.SafePath(source) + "/set/" }

// Options are what a Desk is made with.
type Options struct {
	// Emit stores an event of a source, as Output.Emit of package sources.
	Emit func(ctx context.Context, source string, e event.Event) error
	// Timeout is how long a source may take for a command. Zero is 30 s.
	Timeout time.Duration
	// Grace is how long a source may take to give up a command that is cancelled,
	// since the source or the program ends. Zero is 5 s.
	Grace time.Duration
	Log   zerolog.Logger
}

// Config is what a Desk does.
type Config struct {
	// Link is the way to the broker; nil is none.
	Link sinks.Talker
	// Broker is the bundled broker, at which also commands are heard that nobody
	// takes; nil if it does not run.
	Broker Subscriber
	// Base begins all topics.
	Base string
	// TimestampField and Millis are as in event.Normaliser, for answers.
	TimestampField string
	Millis         bool
	Sources        []Source // all that are configured
}

// Source is one that commands may be published for.
type Source struct {
	Name    string
	To      sources.Commander // nil if it can take none
	Allowed []string          // names of commands
}

// Desk takes the commands for all sources. New makes it, and Close ends it. It
// is safe for concurrent use.
type Desk struct {
	opt     Options
	wg      sync.WaitGroup // of the sources' goroutines and of answering
	answers chan struct{}  // holds one for each refusal that is being answered
	silent  loglimit.Limit // of answers that were not published
	unknown loglimit.Limit // of commands for sources that there are not

	configuring sync.Mutex // held by Configure, and taken before mu
	ears        ears       // configuring guards it

	// mu is held for reading while a message is judged: what a post was given
	// is in its queue before the post can end.
	mu     sync.RWMutex
	config Config
	posts  map[string]*post  // by topic, without the last level
	deaf   map[string]*quiet // sources without a post, likewise
}

// New returns a Desk that takes nothing yet.
func New(o Options) *Desk {
	if o.Timeout == 0 {
		o.Timeout = 30 * time.Second
	}
	if o.Grace == 0 {
		o.Grace = 5 * time.Second
	}
	return &Desk{opt: o, answers: make(chan struct{}, maxAnswers)}
}

// Configure replaces what the Desk does. A source that stays the same goes on
// with its commands, also when others are allowed now, or none. Those of one
// that is gone, or was replaced, are cancelled; that is not waited for.
func (d *Desk) Configure(c Config) {
	d.configuring.Lock()
	defer d.configuring.Unlock()
	old, filters := d.replace(c)
	if old != nil && old != c.Link {
		old.Hear(nil, nil)
	}
	if c.Link != nil {
		c.Link.Hear(filters, d.Take)
	}
	d.listen(c)
}

// replace returns the link before, and what is to be subscribed to.
func (d *Desk) replace(c Config) (old sinks.Talker, filters []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	before := map[string]*post{}
	for _, p := range d.posts {
		before[p.name] = p
	}
	posts, deaf := map[string]*post{}, map[string]*quiet{}
	for _, s := range c.Sources {
		at := Topic(c.Base, s.Name)
		p := before[s.Name]
		if p != nil && same(p.to, s.To) {
			delete(before, s.Name)
		} else if len(s.Allowed) > 0 && s.To != nil {
			p = d.open(s)
		} else {
			deaf[at] = &quiet{name: s.Name, why: off}
			if s.To == nil {
				deaf[at].why = noCommands
			}
			continue
		}
		p.allow(s.Allowed)
		posts[at] = p
		if len(s.Allowed) > 0 {
			filters = append(filters, at+"+")
		}
	}
	for _, p := range before {
		p.cancel()
	}
	old = d.config.Link
	d.config, d.posts, d.deaf = c, posts, deaf
	return old, filters
}

// same reports whether two are the same source, which is a pointer as a rule.
func same(a, b sources.Commander) bool {
	return a != nil && reflect.TypeOf(a).Comparable() && a == b
}

// Close cancels all commands and waits until they have ended, or for Options.Grace
// after what is said of them: a source that ignores that its command is cancelled
// is left to itself, and the log says so.
func (d *Desk) Close() {
	d.Configure(Config{})
	d.wg.Wait()
}

// Take judges a message, and queues it if it is a command that is allowed. It
// never waits.
func (d *Desk) Take(in sinks.Incoming) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	p := d.posts[in.Topic[:strings.LastIndexByte(in.Topic, '/')+1]]
	if p == nil {
		return // it was unsubscribed from
	}
	c := d.read(in, p.name)
	switch {
	case in.Own:
		p.ignore(c, own)
	case !p.allows(c.Name):
		p.ignore(c, notAllowed)
	case in.Retained:
		p.ignore(c, retained)
	case len(in.Payload) > maxPayload:
		p.ignore(c, tooLarge)
	case c.late:
		p.ignore(c, late)
	case c.early:
		p.ignore(c, early)
	default:
		select {
		case p.queue <- c:
		default:
			p.ignore(c, tooMany)
		}
	}
}

// Errors of Ask.
var (
	// ErrNotAllowed is for a command that the source's options do not allow.
	ErrNotAllowed = errors.New("the source's option commands does not allow it")
	ErrTooMany    = fmt.Errorf("%d commands wait for this source already", maxWaiting)
)

// Failure is why a source has not done a command.
type Failure struct{ Reason string }

func (f *Failure) Error() string { return f.Reason }

// Ask has a source do a command that did not come from the broker, in its turn,
// and returns what the source answers, as JSON. Like any other it is answered
// over MQTT as well, and becomes an event. The error is ErrNotAllowed, ErrTooMany,
// a *Failure, or ctx's: then it may be done yet.
func (d *Desk) Ask(ctx context.Context, c event.Command) (reply json.RawMessage, err error) {
	ended, err := d.queue(c)
	if err != nil {
		return nil, err
	}
	select {
	case o := <-ended:
		if !o.OK {
			return nil, &Failure{o.Error}
		}
		return o.Reply, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// queue queues what Ask is asked for; how it went is told to ended.
func (d *Desk) queue(c event.Command) (ended <-chan outcome, err error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	at := Topic(d.config.Base, c.Source)
	p := d.posts[at]
	if p == nil || !p.allows(c.Name) {
		return nil, ErrNotAllowed
	}
	if len(c.Payload) > maxPayload {
		return nil, &Failure{why[tooLarge]}
	}
	told := make(chan outcome, 1)
	select {
	case p.queue <- &command{
		Command: c, who: who{User: c.From}, received: time.Now(), answer: strings.TrimSuffix(at, "set/") + "result",
		value: asJSON(c.Payload), ended: told,
	}:
		return told, nil
	default:
		return nil, ErrTooMany
	}
}

// read makes a command of a message. d.mu is held.
func (d *Desk) read(in sinks.Incoming, source string) *command {
	level := strings.LastIndexByte(in.Topic, '/') + 1
	c := &command{
		Command: event.Command{Source: source, Name: in.Topic[level:], Payload: in.Payload, From: in.User},
		who:     who{in.User, in.Client}, received: in.Received,
		answer: strings.TrimSuffix(in.Topic[:level], "set/") + "result",
	}
	if c.From == "" {
		c.From = in.Client
	}
	now := time.Now()
	c.late = now.Sub(c.received) > MaxAge
	if len(in.Payload) <= maxPayload {
		age := now.Sub(c.read(d.config.TimestampField, now))
		c.late, c.early = age > MaxAge || c.late, age < -MaxAge
	}
	// Nobody waits for the answer to one that is old, or may be; and an answer to
	// what the program has published itself could be the next part of a circle.
	c.unanswered = in.Own || in.Retained || c.late || c.early
	return c
}

// command is one that waits or is being done.
type command struct {
	event.Command
	who        who
	received   time.Time
	late       bool            // it was too old when it came
	early      bool            // its time is to come: how old it is nobody knows
	unanswered bool            // also if it is ignored
	answer     string          // the topic
	id         json.RawMessage // a string or a number that the answer repeats; nil is none
	value      json.RawMessage // the payload as JSON; nil is none
	ended      chan<- outcome  // is told how it went, if Ask waits for that; cap 1
}

// who is who has given a command, as far as the broker tells.
type who struct {
	User   string `json:"user,omitempty"`
	Client string `json:"client,omitempty"`
}

// read reads the payload, and returns when the command was given, if it says
// so, or now.
func (c *command) read(stamp string, now time.Time) time.Time {
	c.value = asJSON(c.Payload)
	if len(c.value) == 0 || c.value[0] != '{' {
		return now
	}
	found := event.Pick(c.value, "id", stamp, event.DefaultTimestampField, "timestamp")
	if id := found[0]; event.Text(id) != "" && len(id) <= maxID {
		c.id = id
	}
	for _, value := range found[1:] {
		if given, ok := event.ParseTime(event.Text(value), now); ok {
			return given
		}
	}
	return now
}

// asJSON returns what is JSON as it is, and any other text as a string.
func asJSON(text []byte) json.RawMessage {
	if event.Check(text) == nil {
		return json.RawMessage(strings.TrimSpace(string(text)))
	}
	return event.String(strings.ToValidUTF8(string(text), "\uFFFD"))
}
