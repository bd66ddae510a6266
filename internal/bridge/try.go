package bridge

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

// This file tries out rules: what would be published of given events.

// Trials are a file of tests for "event2mqtt test".
type Trials struct {
	Tests []Trial `koanf:"tests"`
}

// Trial is one test: events, and all that is to be published of them, in order.
type Trial struct {
	Name   string       `koanf:"name"`
	Source string       `koanf:"source"`
	Events []TrialEvent `koanf:"events"`
	// File holds more events, a JSON object on each line, named by the usual
	// keys. A relative path begins at the folder of the tests.
	File   string     `koanf:"file"`
	Expect []Expected `koanf:"expect"`
}

// TrialEvent is an event of a test.
type TrialEvent struct {
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

// LoadTrials reads a file of tests.
func LoadTrials(file string, environ []string) (*Trials, error) {
	var t Trials
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
		trial, key := &t.Tests[i], fmt.Sprintf("tests[%d]", i)
		if trial.Name == "" {
			trial.Name = fmt.Sprintf("test %d", i+1)
		}
		if trial.File != "" {
			if err := trial.readFile(filepath.Dir(file)); err != nil {
				problems = append(problems, doc.Problem(key+".file", err.Error()))
			}
		}
		if len(trial.Events) == 0 {
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

func (t *Trial) readFile(dir string) error {
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
		t.Events = append(t.Events, TrialEvent{Event: name, Payload: payload})
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

// Try runs a test against the rules and topics of the plan, and returns what
// is wrong, a line each; nothing if it passes.
func (p *Plan) Try(t *Trial) ([]string, error) {
	run, err := p.try(t)
	if err != nil {
		return nil, err
	}
	got := run.published
	var wrong []string
	for i := range max(len(got), len(t.Expect)) {
		switch {
		case i >= len(got):
			wrong = append(wrong, "- missing:    "+t.Expect[i].describe())
		case i >= len(t.Expect):
			wrong = append(wrong, "+ unexpected: "+got[i].String())
		default:
			if why := t.Expect[i].compare(got[i]); why != "" {
				wrong = append(wrong, fmt.Sprintf("~ message %d: %s\n  got:      %s\n  expected: %s", i+1, why, got[i], t.Expect[i].describe()))
			}
		}
	}
	return wrong, nil
}

// Decisions tells what the rules make of each event of a test, and which of
// them decides, a line each.
func (p *Plan) Decisions(t *Trial) ([]string, error) {
	run, err := p.try(t)
	return run.decisions, err
}

// trialRun is one test on its way.
type trialRun struct {
	plan      *Plan
	set       *rules.Set
	shape     *shape
	template  topic.Template
	published []message
	decisions []string
}

// try lets the events of a test happen, held back ones at the end of their
// interval.
func (p *Plan) try(t *Trial) (r trialRun, err error) {
	r.plan = p
	r.set, err = rules.New(p.Rules, rules.Options{Base: p.Publish.BaseTopic, Timestamp: p.Publish.TimestampField, Place: p.placeOfRule})
	if err != nil {
		return r, err
	}
	if r.template, err = topic.Parse(p.Publish.EventTopic, p.Publish.BaseTopic); err != nil {
		return r, err
	}
	r.shape = &shape{event.Normaliser{
		TimestampField: p.Publish.TimestampField, Millis: p.Publish.TimestampMillis, MaxPayload: int(p.MaxPayload),
	}, r.set}
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
func (r *trialRun) happen(i int, given TrialEvent, source string, now time.Time) error {
	payload, err := json.Marshal(given.Payload)
	if err != nil {
		return err
	}
	e := event.Event{Name: given.Event, Source: source, Time: now, Payload: payload}
	if err := r.shape.Normalise(&e); err != nil {
		return err
	}
	passage := r.set.Begin(now)
	verdict := passage.Apply(&e)
	passage.Commit()
	text := decision(verdict)
	if len(passage.Replaced) > 0 {
		text += ", in place of the one that it held before"
	}
	r.decide("event %d %s: %s", i+1, given.Event, text)
	if verdict.Kind != rules.Pass {
		return nil
	}
	return r.publish(e)
}

// sendDue sends what was held back until now.
func (r *trialRun) sendDue(now time.Time) error {
	for {
		due, _ := r.set.Due(now)
		for _, h := range due {
			err := r.set.Send(h, h.Due, func(p *rules.Passage, e *event.Event, v rules.Verdict) error {
				r.decide("%s that %s held: %s", h.Event.Name, p.Sender, decision(v))
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

func (r *trialRun) publish(e event.Event) (err error) {
	if err := r.shape.again(&e); err != nil {
		return err
	}
	m := message{topic: e.Route.Topic, payload: e.Payload, qos: byte(r.plan.Publish.QoS), retain: e.Route.Retain}
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

func (r *trialRun) decide(format string, args ...any) {
	r.decisions = append(r.decisions, fmt.Sprintf(format, args...))
}

// decision says what a verdict is, and by which rule.
func decision(v rules.Verdict) string {
	text := map[rules.Kind]string{
		rules.Pass: "published", rules.Drop: "dropped", rules.Repeat: "dropped as it says the same as the one before", rules.Hold: "held",
	}[v.Kind]
	if v.By != nil {
		text += " by " + v.By.String()
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
