package api

import (
	"encoding/json"
	"math"
	"net/http"
	"os"
	"reflect"
	"strconv"
	"strings"
	"time"

	"event2mqtt/internal/journal"
)

// Time is a moment, in JSON as seconds since 1970, to the millisecond.
type Time struct{ time.Time }

// MarshalJSON implements json.Marshaler.
func (t Time) MarshalJSON() ([]byte, error) { return appendTime(nil, t.Time), nil }

// UnmarshalJSON implements json.Unmarshaler.
func (t *Time) UnmarshalJSON(text []byte) error {
	seconds, err := strconv.ParseFloat(string(text), 64)
	if err != nil {
		return err
	}
	t.Time = time.UnixMilli(int64(math.Round(seconds * 1000)))
	return nil
}

func appendTime(out []byte, t time.Time) []byte {
	return strconv.AppendFloat(out, float64(t.UnixMilli())/1000, 'f', -1, 64)
}

// State is how the program is, as a whole. Its names in JSON stay as they are;
// fields may be added.
type State struct {
	Version string     `json:"version"`
	Host    string     `json:"host"`
	Now     Time       `json:"now"`
	Started Time       `json:"started"`
	Webhook string     `json:"webhook"` // the path of one, empty if there is none
	Taking  Taking     `json:"taking"`
	Broker  Broker     `json:"broker"`
	Waiting Waiting    `json:"waiting"`
	Rate    Rate       `json:"rate"`
	Parts   []Part     `json:"parts"`
	Config  Config     `json:"config"`
	Rules   []UsedRule `json:"rules"`
	Devices []Device   `json:"devices"`
	Replay  *Replay    `json:"replay"` // one that is under way
}

// Taking says whether events are accepted.
type Taking struct {
	OK     bool   `json:"ok"`
	Reason string `json:"reason,omitempty"`
}

// Broker is the one that events go to.
type Broker struct {
	Kind    string  `json:"kind"` // bundled or external
	Address string  `json:"address"`
	State   string  `json:"state"` // up, waiting or failed
	Since   Time    `json:"since"`
	Clients int     `json:"clients"` // of the bundled one
	Error   *Failed `json:"error,omitempty"`
}

// Failed is what went wrong.
type Failed struct {
	At   Time   `json:"at"`
	Text string `json:"text"`
	Key  string `json:"key"` // the option that it is about
}

// Waiting are the events that are not delivered yet.
type Waiting struct {
	Count  uint64 `json:"count"`
	Oldest *Time  `json:"oldest,omitempty"`
}

// Rate is how many events are accepted.
type Rate struct {
	Minute  int   `json:"minute"`  // in the last 60 seconds
	Minutes []int `json:"minutes"` // in each of the last 60 minutes, the newest last
}

// Part is one part of the program.
type Part struct {
	Name      string  `json:"name"`
	Kind      string  `json:"kind"` // source, sink, broker, journal or http
	Type      string  `json:"type"`
	State     string  `json:"state"` // up, waiting or failed
	Detail    string  `json:"detail"`
	Since     Time    `json:"since"`
	LastEvent *Time   `json:"last_event,omitempty"`
	LastError *Failed `json:"last_error,omitempty"`
	Restarts  int     `json:"restarts"`
	Seconds   []int   `json:"seconds,omitempty"` // events in each of the last 60 seconds, the newest last

	// Delivered counts the events of a sink.
	Delivered uint64 `json:"-"`
}

// Config is the configuration that is in use.
type Config struct {
	File    string         `json:"file,omitempty"`
	Loaded  Time           `json:"loaded"`
	By      string         `json:"by"` // start, file change, signal or API
	Changed []string       `json:"changed"`
	Refused *RefusedConfig `json:"refused,omitempty"` // a newer one
}

// RefusedConfig is a configuration that is not used.
type RefusedConfig struct {
	At       Time            `json:"at"`
	By       string          `json:"by"`
	Problems []ConfigProblem `json:"problems"`
}

// ConfigProblem is one thing that is wrong with a configuration.
type ConfigProblem struct {
	File   string `json:"file"`
	Line   int    `json:"line"` // 0 if it is in no file
	Column int    `json:"column"`
	Key    string `json:"key"`
	Text   string `json:"text"`
}

// Rule is a rule of the configuration.
type Rule struct {
	N    int    `json:"n"` // from 1
	Name string `json:"name,omitempty"`
	Line int    `json:"line"` // 0 if it is in no file
	Kind string `json:"kind"` // drop, dedupe, min_interval, keep or edit
}

// UsedRule is a rule, and how often it was for an event.
type UsedRule struct {
	Rule
	What string `json:"what"`
	Hits uint64 `json:"hits"`
}

// Device is a thing that a source watches.
type Device struct {
	ID       string    `json:"id"`
	Name     string    `json:"name"`
	Source   string    `json:"source"`
	State    string    `json:"state"` // in words, such as printing
	Level    string    `json:"level"` // good, wait or bad
	Since    Time      `json:"since"`
	Seen     Time      `json:"seen"`
	Progress *Progress `json:"progress,omitempty"`
	Readings []Reading `json:"readings"`
	Picture  *Picture  `json:"picture,omitempty"`
	Commands []Command `json:"commands"`
}

// Progress is how far a thing is with what it does.
type Progress struct {
	Percent float64  `json:"percent"`
	Left    *float64 `json:"left,omitempty"`    // seconds
	Elapsed *float64 `json:"elapsed,omitempty"` // seconds
	File    string   `json:"file,omitempty"`
	Layer   *float64 `json:"layer,omitempty"`
	Layers  *float64 `json:"layers,omitempty"`
}

// Reading is a value that a thing measures.
type Reading struct {
	Name    string    `json:"name"`
	Value   float64   `json:"value"`
	Target  *float64  `json:"target,omitempty"`
	Unit    string    `json:"unit"`
	History []float64 `json:"history,omitempty"` // one every 5 s since somebody looks, at most 60
}

// Picture is where the newest picture of a thing is.
type Picture struct {
	URL  string `json:"url"` // relative to the page
	Time Time   `json:"time"`
}

// Command is something that a thing can be told.
type Command struct {
	Name    string `json:"name"`
	Label   string `json:"label"`
	Confirm string `json:"confirm"` // a question
	Danger  bool   `json:"danger,omitempty"`
	// Number is set if the command takes a number, as its payload.
	Number *CommandNumber `json:"number,omitempty"`
}

// CommandNumber is the number that a command takes.
type CommandNumber struct {
	Min  float64  `json:"min"`
	Max  float64  `json:"max"`
	Step float64  `json:"step"`
	Unit string   `json:"unit,omitempty"`
	Now  *float64 `json:"now"` // as it is set; nil if that is not known
}

// latest bounds the newest events that State comes with, in number and bytes.
const (
	latest      = 300
	latestBytes = 512 << 10
)

// getState answers how everything is, and the newest events.
func (a *API) getState(w http.ResponseWriter, c call) error {
	s := a.state()
	events, err := a.newest(latest, latestBytes)
	if err != nil {
		return err
	}
	return answer(w, http.StatusOK, struct {
		*State
		Latest []json.RawMessage `json:"latest"`
	}{s, events})
}

// state is the program's, and what is known here.
func (a *API) state() *State {
	s := a.o.Program.State()
	s.Now = Time{time.Now()}
	s.Host = host()
	s.Replay = a.replays.now()
	a.hub.fill(&s)
	return &s
}

func host() string {
	name, _ := os.Hostname()
	name, _, _ = strings.Cut(name, ".")
	return name
}

// parts returns each top-level key of a state with its value.
func (s *State) parts() map[string][]byte {
	v := reflect.ValueOf(s).Elem()
	all := make(map[string][]byte, v.NumField())
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		text, err := json.Marshal(v.Field(i).Interface())
		if err == nil { // none can fail
			all[name] = text
		}
	}
	return all
}

// newest returns the newest stored events, oldest first.
func (a *API) newest(most, mostBytes int) ([]json.RawMessage, error) {
	last := a.o.Journal.Stats().Last
	first := last - min(last, uint64(most)) + 1
	out, size := []json.RawMessage{}, 0
	fates := a.fates()
	err := a.read(a.ending, first, last, func(e *journal.Entry) bool {
		text := fates.append(nil, e)
		out, size = append(out, text), size+len(text)
		return true
	})
	for size > mostBytes && len(out) > 1 {
		size -= len(out[0])
		out = out[1:]
	}
	return out, err
}
