package bridge

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"event2mqtt/internal/api"
	"event2mqtt/internal/event"
	"event2mqtt/internal/health"
	"event2mqtt/internal/journal"
	"event2mqtt/internal/rules"
	"event2mqtt/internal/web/problem"
)

// This file is events that come over the API.

// apiSource is the source of what comes over the API, unless it names another.
const apiSource = "api"

// sourceFor checks the source that somebody gives for an event.
func (p program) sourceFor(name string) (string, error) {
	plan := p.running().plan
	if name == "" || name == apiSource {
		return apiSource, nil
	}
	if plan.knownSource(name) {
		return name, nil
	}
	var names []string
	for _, o := range plan.sources[:min(len(plan.sources), 20)] {
		names = append(names, o.Base().Name)
	}
	return "", problem.New(http.StatusUnprocessableEntity, fmt.Sprintf("there is no source %.100q; there are %s, or leave it out", name, strings.Join(names, ", ")))
}

// Emit implements api.Program.
func (p program) Emit(ctx context.Context, source, name string, payload []byte) (api.Emitted, error) {
	source, err := p.sourceFor(source)
	if err != nil {
		return api.Emitted{}, err
	}
	var verdict rules.Verdict
	out := countedOutput{output{
		b: p.Bridge, source: source, ready: func() {}, tell: func(health.Status) {}, judged: func(v rules.Verdict) { verdict = v },
	}, p.counts.intake(source)}
	r, err := out.Emit(ctx, event.Event{Name: name, Time: time.Now(), Payload: payload})
	if err != nil {
		return api.Emitted{}, err
	}
	e := api.Emitted{Fate: p.fateOf(verdict)}
	if got, ok := r.(receipt); ok && verdict.Kind == rules.Pass {
		e.Seq, e.ID, e.Delivered = got.seq, p.journal.ID(got.seq), got.Delivered
	}
	return e, nil
}

// fateOf is what becomes of an event that rules have a verdict on.
func (p program) fateOf(v rules.Verdict) api.Fate {
	f := api.Fate{State: "waiting"}
	if v.Kind == rules.Pass {
		return f
	}
	plan := p.running().plan
	if v.By.Index < len(plan.Rules) {
		r, _ := apiRule(v.By, &plan.Rules[v.By.Index])
		f.Rule = &r
	}
	switch v.Kind {
	case rules.Hold:
		f.State, f.Why = "held", "it is sent when the interval is over"
	case rules.Repeat:
		f.State, f.Why = "dropped", "it says the same as the one before"
	default:
		f.State, f.Why = "dropped", "the rule drops it"
	}
	return f
}

// Try implements api.Program. It goes by what the rules remember now, and
// changes nothing.
func (p program) Try(source, name string, payload []byte) (api.Tried, error) {
	source, err := p.sourceFor(source)
	if err != nil {
		return api.Tried{}, err
	}
	e := event.Event{Name: name, Source: source, Time: time.Now(), Payload: bytes.Clone(payload)}
	pipeline, plan := p.pipeline.Load(), p.running().plan
	if err := pipeline.Normalise(&e); err != nil {
		return api.Tried{}, err
	}
	t := api.Tried{Steps: []api.Step{}}
	batch := pipeline.rules.Begin(time.Now())
	defer batch.Abort()
	batch.Tell = func(r *rules.Rule) {
		if r.Index < len(plan.Rules) {
			c := &plan.Rules[r.Index]
			rule, _ := apiRule(r, c)
			t.Steps = append(t.Steps, api.Step{Rule: rule, Does: passes(c)})
		}
	}
	verdict := batch.Apply(&e)
	if verdict.By != nil && len(t.Steps) > 0 {
		t.Steps[len(t.Steps)-1].Does = map[rules.Kind]string{
			rules.Pass: "keeps the event, and the rules behind it are skipped", rules.Drop: "drops the event",
			rules.Repeat: "drops the event: it says the same as the one before",
			rules.Hold:   "holds the event back until the interval is over",
		}[verdict.Kind]
	}
	if verdict.Kind != rules.Pass {
		return t, nil
	}
	if err := pipeline.Again(&e); err != nil {
		return t, err
	}
	route := p.Route(&journal.Entry{Event: e})
	t.Publish = &api.Published{Topic: route.Topic, QoS: route.QoS, Retain: route.Retain, Payload: e.Payload}
	return t, nil
}

// passes says what a rule does to an event that it lets pass.
func passes(c *rules.Config) string {
	changes := len(c.Pick)+len(c.Remove)+len(c.Add) > 0 || c.Rename != "" || c.Topic != "" || c.QoS != nil || c.Retain
	switch {
	case changes && (c.Dedupe || c.MinInterval > 0):
		return "changes the event, and lets it pass"
	case c.Dedupe:
		return "lets it pass: the payload is new"
	case c.MinInterval > 0:
		return "lets it pass: none in the last " + c.MinInterval.String()
	}
	return "changes the event"
}

// Publish implements api.Program. The message goes through the journal, past the
// rules.
func (p program) Publish(ctx context.Context, m api.Message) (api.Emitted, error) {
	pipeline := p.pipeline.Load()
	if len(m.Payload) > pipeline.MaxPayload {
		return api.Emitted{}, &event.Refused{TooLarge: true, Reason: fmt.Sprintf("the payload has %d bytes; at most %d are allowed", len(m.Payload), pipeline.MaxPayload)}
	}
	e := event.Event{
		Name: event.RawName, Source: apiSource, Time: time.Now(), Payload: event.RawPayload(m.Payload, m.Encoding),
		Route: event.Route{Topic: m.Topic, QoS: &m.QoS, Retain: m.Retain, Raw: true},
	}
	if err := event.Check(e.Payload); err != nil {
		return api.Emitted{}, err
	}
	if err := pipeline.Again(&e); err != nil {
		return api.Emitted{}, err
	}
	r, err := p.append(ctx, e)
	if err != nil {
		return api.Emitted{}, err
	}
	p.counts.intake(apiSource).note(1, nil)
	return api.Emitted{ID: p.journal.ID(r.seq), Seq: r.seq, Fate: api.Fate{State: "waiting"}, Delivered: r.Delivered}, nil
}

// Again implements api.Program.
func (p program) Again(ctx context.Context, e *journal.Entry) error {
	_, err := p.append(ctx, e.Event)
	return err
}

// append stores an event, past the rules.
func (p program) append(ctx context.Context, e event.Event) (receipt, error) {
	story := p.trace.Story()
	story.Passed(e)
	seq, err := p.journal.Append(ctx, e)
	story.End(seq, err)
	return receipt{*p.required.Load(), seq, false}, err
}
