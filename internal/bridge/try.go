package bridge

import (
	"encoding/json"
	"errors"
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
	got, err := p.publishes(t)
	if err != nil {
		return nil, err
	}
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

// publishes tells what would be published, held back events at the end of
// their interval.
func (p *Plan) publishes(t *Trial) ([]message, error) {
	set, err := rules.New(p.Rules, rules.Options{Base: p.Publish.BaseTopic, Timestamp: p.Publish.TimestampField})
	if err != nil {
		return nil, err
	}
	template, err := topic.Parse(p.Publish.EventTopic, p.Publish.BaseTopic)
	if err != nil {
		return nil, err
	}
	shape := &shape{event.Normaliser{
		TimestampField: p.Publish.TimestampField, Millis: p.Publish.TimestampMillis, MaxPayload: int(p.MaxPayload),
	}, set}
	source := t.Source
	if source == "" {
		source = "test"
	}
	var out []message
	publish := func(e event.Event) error {
		if err := shape.again(&e); err != nil {
			return err
		}
		m := message{topic: e.Route.Topic, payload: e.Payload, qos: byte(p.Publish.QoS), retain: e.Route.Retain}
		if e.Route.QoS != nil {
			m.qos = *e.Route.QoS
		}
		if m.topic == "" {
			if m.topic, err = template.Render(topic.Values{Event: e.Name, Source: e.Source, Payload: e.Payload}); err != nil {
				return err
			}
		}
		out = append(out, m)
		return nil
	}
	begin := time.Unix(1_700_000_000, 0)
	sendDue := func(now time.Time) error {
		for {
			due, _ := set.Due(now)
			for _, h := range due {
				err := set.Send(h, h.Due, func(_ *rules.Passage, e *event.Event, v rules.Verdict) error {
					if v.Kind != rules.Pass {
						return nil
					}
					return publish(*e)
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
	for _, given := range t.Events {
		now := begin.Add(given.At)
		if err := sendDue(now); err != nil {
			return nil, err
		}
		payload, err := json.Marshal(given.Payload)
		if err != nil {
			return nil, fmt.Errorf("event %s: %w", given.Event, err)
		}
		e := event.Event{Name: given.Event, Source: source, Time: now, Payload: payload}
		if err := shape.Normalise(&e); err != nil {
			return nil, fmt.Errorf("event %s: %w", given.Event, err)
		}
		passage := set.Begin(now)
		verdict := passage.Apply(&e)
		passage.Commit()
		if verdict.Kind == rules.Pass {
			if err := publish(e); err != nil {
				return nil, fmt.Errorf("event %s: %w", given.Event, err)
			}
		}
	}
	return out, errors.Join(sendDue(begin.Add(1000 * time.Hour)))
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
