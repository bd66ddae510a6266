// Package ruletest runs sample events through rules and topics, and compares
// what would be published with what is expected. It is what "event2mqtt test"
// does. Nothing is stored or published.
package ruletest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"event2mqtt/internal/config"
	"event2mqtt/internal/config/file"
	"event2mqtt/internal/event"
	"event2mqtt/internal/rules"
	"event2mqtt/internal/sources"
	"event2mqtt/internal/topic"
)

// File is a file of tests.
type File struct {
	Tests []Case `koanf:"tests"`
}

// Case is one test: events, and all that is to be published of them, in order.
type Case struct {
	Name   string  `koanf:"name"`
	Source string  `koanf:"source"`
	Events []Event `koanf:"events"`
	// File holds more events, a JSON object on each line, named by the usual
	// keys. A relative path begins at the folder of the tests.
	File   string     `koanf:"file"`
	Expect []Expected `koanf:"expect"`
}

// Event is an event of a test.
type Event struct {
	Event   string         `koanf:"event"`
	Payload map[string]any `koanf:"payload"`
	// At is when it happens, after the test's begin.
	At time.Duration `koanf:"at"`
}

// Expected is a message that must be published. What is not given may be
// anything; of the payload, the given keys must be there and say the same.
type Expected struct {
	Topic   string         `koanf:"topic"`
	Payload map[string]any `koanf:"payload"`
	Absent  []string       `koanf:"absent"`
	QoS     *int           `koanf:"qos"`
	Retain  *bool          `koanf:"retain"`
}

// Load reads a file of tests. The error is config.Problems.
func Load(file string, environ []string) (*File, error) {
	var t File
	environ = slices.DeleteFunc(slices.Clone(environ), func(v string) bool { return strings.HasPrefix(v, config.EnvPrefix) })
	doc, err := config.Load(file, environ, &t)
	if err != nil {
		return nil, err
	}
	var problems config.Problems
	if err := doc.Decode(&t); err != nil {
		problems = doc.Explain("", err)
	}
	for i := range t.Tests {
		test, key := &t.Tests[i], fmt.Sprintf("tests[%d]", i)
		if test.Name == "" {
			test.Name = fmt.Sprintf("test %d", i+1)
		}
		if test.File != "" {
			if err := test.readFile(filepath.Dir(file)); err != nil {
				problems = append(problems, doc.Problem(key+".file", err.Error()))
			}
		}
		if len(test.Events) == 0 {
			problems = append(problems, doc.Problem(key, "has no events; give events: or file:"))
		}
	}
	if len(t.Tests) == 0 && problems == nil {
		problems = append(problems, doc.Problem("tests", "there are none; begin with \"tests:\" and a list"))
	}
	if problems != nil {
		problems.Sort()
		return nil, problems
	}
	return &t, nil
}

// Bounds of a test's file of events.
const (
	maxTestFile   = 16 << 20
	maxTestEvents = 10_000
)

func (t *Case) readFile(dir string) error {
	path := t.File
	if !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	text, err := file.Read(path, maxTestFile)
	if err != nil {
		return err
	}
	var naming sources.Naming
	config.SetDefaults(&naming)
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		if len(t.Events) == maxTestEvents {
			return fmt.Errorf("%s:%d: a test takes at most %d events", path, n, maxTestEvents)
		}
		var payload map[string]any
		if err := json.Unmarshal([]byte(line), &payload); err != nil {
			return fmt.Errorf("%s:%d: not a JSON object: %w", path, n, err)
		}
		name := naming.Name("", []byte(line))
		if name == "" {
			return fmt.Errorf("%s:%d: the event has no name; it is looked for in %s", path, n, strings.Join(naming.Keys, ", "))
		}
		t.Events = append(t.Events, Event{Event: name, Payload: payload})
	}
	return nil
}

// message is what would be published.
type message struct {
	topic   string
	payload []byte
	qos     byte
	retain  bool
}

func (m message) String() string {
	return fmt.Sprintf("%s %s (QoS %d, retain %t)", m.topic, m.payload, m.qos, m.retain)
}

// Setup is what events go through.
type Setup struct {
	Rules      []rules.Config
	Place      func(i int) (file string, line int) // where a rule is written
	Normaliser event.Normaliser
	Base       string // topic
	EventTopic string // template
	QoS        int
}

// Result is what became of the events of a test.
type Result struct {
	Wrong     []string // in which way it is not what was expected, a line each; nothing if the test passes
	Decisions []string // what the rules make of each event, and which of them decides, a line each
}

// Run runs a test. The result is as far as it got also with an error.
func (s Setup) Run(t *Case) (Result, error) {
	run, err := s.try(t)
	r := Result{Decisions: run.decisions}
	if err != nil {
		return r, err
	}
	got := run.published
	for i := range max(len(got), len(t.Expect)) {
		switch {
		case i >= len(got):
			r.Wrong = append(r.Wrong, "- missing:    "+t.Expect[i].describe())
		case i >= len(t.Expect):
			r.Wrong = append(r.Wrong, "+ unexpected: "+got[i].String())
		default:
			if why := t.Expect[i].compare(got[i]); why != "" {
				r.Wrong = append(r.Wrong, fmt.Sprintf("~ message %d: %s\n  got:      %s\n  expected: %s", i+1, why, got[i], t.Expect[i].describe()))
			}
		}
	}
	return r, nil
}

// run is one test on its way.
type run struct {
	Setup
	set       *rules.Set
	template  topic.Template
	published []message
	decisions []string
	changed   []*rules.Rule // by which the event under way was changed
	failed    []string      // what else is to be told of it
}

// try lets the events of a test happen, held back ones at the end of their
// interval.
func (s Setup) try(t *Case) (*run, error) {
	r := &run{Setup: s}
	var err error
	if r.set, err = rules.New(s.Rules, rules.Options{Base: s.Base, Timestamp: s.Normaliser.TimestampField, Place: s.Place, Watch: r.watch}); err != nil {
		return r, err
	}
	if r.template, err = topic.Parse(s.EventTopic, s.Base); err != nil {
		return r, err
	}
	begin := time.Unix(1_700_000_000, 0)
	for i, given := range t.Events {
		now := begin.Add(given.At)
		if err := r.sendDue(now); err != nil {
			return r, err
		}
		if err := r.happen(i, given, cmp.Or(t.Source, "test"), now); err != nil {
			return r, fmt.Errorf("event %s: %w", given.Event, err)
		}
	}
	return r, r.sendDue(begin.Add(1000 * time.Hour))
}

// happen lets event i happen.
func (r *run) happen(i int, given Event, source string, now time.Time) error {
	payload, err := json.Marshal(given.Payload)
	if err != nil {
		return err
	}
	e := event.Event{Name: given.Event, Source: source, Time: now, Payload: payload}
	if err := r.Normaliser.Normalise(&e); err != nil {
		return err
	}
	batch := r.set.Begin(now)
	verdict := batch.Apply(&e)
	batch.Commit()
	text := r.decision(given.Event, &e, verdict)
	if len(batch.Replaced) > 0 {
		text += ", in place of the one that it held before"
	}
	r.decide(fmt.Sprintf("event %d %s", i+1, given.Event), text)
	if verdict.Kind != rules.Pass {
		return nil
	}
	return r.publish(e)
}

// sendDue sends what was held back until now.
func (r *run) sendDue(now time.Time) error {
	for {
		due, _ := r.set.Due(now)
		for _, h := range due {
			err := r.set.Send(h, h.Due, func(p *rules.Batch, e *event.Event, v rules.Verdict) error {
				r.decide(fmt.Sprintf("%s that %s held", h.Event.Name, p.Sender), r.decision(h.Event.Name, e, v))
				if v.Kind != rules.Pass {
					return nil
				}
				return r.publish(*e)
			})
			if err != nil {
				return err
			}
		}
		if len(due) == 0 {
			return nil
		}
	}
}

func (r *run) publish(e event.Event) (err error) {
	if err := r.Normaliser.Again(&e); err != nil {
		return err
	}
	m := message{topic: e.Route.Topic, payload: e.Payload, qos: byte(r.QoS), retain: e.Route.Retain}
	if e.Route.QoS != nil {
		m.qos = *e.Route.QoS
	}
	if m.topic == "" {
		if m.topic, err = r.template.Render(topic.Values{Event: e.Name, Source: e.Source, Payload: e.Payload}); err != nil {
			return err
		}
	}
	r.published = append(r.published, m)
	return nil
}

// watch notes what a rule did to the event under way without deciding.
func (r *run) watch(by *rules.Rule, _ *event.Event, failed error) {
	if failed != nil {
		r.failed = append(r.failed, fmt.Sprintf("%s does not apply, since its expression failed: %s", by, failed))
		return
	}
	r.changed = append(r.changed, by)
}

// decide notes what became of the event under way, and why.
func (r *run) decide(what, text string) {
	r.decisions = append(r.decisions, what+": "+text)
	for _, text := range r.failed {
		r.decisions = append(r.decisions, what+": "+text)
	}
	r.changed, r.failed = nil, nil
}

// decision says what a verdict is, and by which rule; of an event that had a
// name before, also which rules have changed it.
func (r *run) decision(before string, e *event.Event, v rules.Verdict) string {
	text := map[rules.Kind]string{
		rules.Pass: "published", rules.Drop: "dropped", rules.Repeat: "dropped as it says the same as the one before", rules.Hold: "held",
	}[v.Kind]
	if e.Name != before && v.Kind == rules.Pass {
		text += " as " + e.Name
	}
	if v.By != nil {
		text += " by " + v.By.String()
	}
	join := ", changed by "
	for _, rule := range r.changed {
		if rule != v.By { // one that also holds it is named already
			text += join + rule.String()
			join = " and "
		}
	}
	return text
}

// describe writes what is expected as it is written for messages.
func (x Expected) describe() string {
	out := x.Topic
	if out == "" {
		out = "(any topic)"
	}
	if x.Payload != nil {
		text, _ := json.Marshal(x.Payload)
		out += " with " + string(text)
	}
	if len(x.Absent) > 0 {
		out += " without " + strings.Join(x.Absent, ", ")
	}
	if x.QoS != nil {
		out += fmt.Sprintf(" QoS %d", *x.QoS)
	}
	if x.Retain != nil {
		out += fmt.Sprintf(" retain %t", *x.Retain)
	}
	return out
}

// compare tells in which way a message is not what is expected.
func (x Expected) compare(m message) string {
	var payload map[string]any
	if err := json.Unmarshal(m.payload, &payload); err != nil {
		return err.Error()
	}
	var expected map[string]any // as JSON has it: all numbers are alike
	text, _ := json.Marshal(x.Payload)
	_ = json.Unmarshal(text, &expected)
	switch {
	case x.Topic != "" && x.Topic != m.topic:
		return "the topic differs"
	case x.QoS != nil && *x.QoS != int(m.qos):
		return "the QoS differs"
	case x.Retain != nil && *x.Retain != m.retain:
		return "the retain flag differs"
	}
	for _, key := range slices.Sorted(maps.Keys(expected)) {
		if value, there := payload[key]; !there {
			return fmt.Sprintf("the payload has no %s", key)
		} else if !reflect.DeepEqual(value, expected[key]) {
			return fmt.Sprintf("%s is %v, not %v", key, value, expected[key])
		}
	}
	for _, key := range x.Absent {
		if _, there := payload[key]; there {
			return fmt.Sprintf("the payload has %s", key)
		}
	}
	return ""
}
