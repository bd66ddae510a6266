package bridge

import (
	"errors"

	"event2mqtt/internal/event"
	"event2mqtt/internal/rules"
	"event2mqtt/internal/sinks"
	"event2mqtt/internal/trace"
)

// This file tells the trace what happens to events on their way into the
// journal.

// story gathers what happens to events that are stored together, or not at all.
// While nobody looks at the trace it is nil, and gathers nothing.
type story struct {
	ring    *trace.Ring
	records []trace.Record
}

// newStory begins a story, nil if nobody looks.
func (b *Bridge) newStory() *story {
	if !b.trace.Watched() {
		return nil
	}
	return &story{ring: b.trace}
}

// passed tells of events that are to be stored, as they are then.
func (s *story) passed(events ...event.Event) {
	if s == nil {
		return
	}
	for i := range events {
		s.records = append(s.records, trace.Record{Verdict: trace.Stored, Source: events[i].Source, Event: events[i].Name})
	}
}

// ruled tells what rules made of an event, which had a name before.
func (s *story) ruled(before string, e *event.Event, v rules.Verdict) {
	if s == nil {
		return
	}
	r := trace.Record{Verdict: verdicts[v.Kind], Source: e.Source, Event: e.Name}
	if before != e.Name {
		r.Offered = before
	}
	if v.Kind != rules.Pass {
		r.Rule = traced(v.By)
	}
	s.records = append(s.records, r)
}

// replaced tells of events that newer ones took the place of.
func (s *story) replaced(p *rules.Passage) {
	if s == nil {
		return
	}
	for _, r := range p.Replaced {
		s.records = append(s.records, trace.Record{Verdict: trace.Replaced, Source: r.Event.Source, Event: r.Event.Name, Rule: traced(r.By)})
	}
}

// sent tells what rules made of an event that they held back until now.
func (s *story) sent(h *rules.Held, p *rules.Passage, e *event.Event, v rules.Verdict) {
	if s == nil {
		return
	}
	s.ruled(h.Event.Name, e, v)
	if r := &s.records[len(s.records)-1]; v.Kind == rules.Pass {
		r.Rule = traced(p.Sender)
	}
	s.replaced(p)
}

// refused ends the story of a source's events, since one of them can never be
// accepted; with it the others are not.
func (s *story) refused(source string, events []event.Event, bad int, why error) {
	if s == nil {
		return
	}
	for i := range events {
		r := trace.Record{Verdict: trace.Refused, Source: source, Event: events[i].Name, Reason: why.Error()}
		if i != bad {
			r.Reason, r.Retry = "it came together with an event that was refused", true
		}
		s.records = append(s.records, r)
	}
	s.ring.Add(s.records...)
}

// end ends the story: the events are stored, the last of them as number last of
// the journal, or nothing happened to any because of err.
func (s *story) end(last uint64, err error) {
	if s == nil {
		return
	}
	seq := last
	for i := len(s.records) - 1; i >= 0; i-- {
		r := &s.records[i]
		if err != nil {
			_, never := errors.AsType[*event.Refused](err)
			*r = trace.Record{Verdict: trace.Refused, Source: r.Source, Event: r.Event, Offered: r.Offered, Reason: err.Error(), Retry: !never}
		} else if r.Verdict == trace.Stored {
			r.Seq = seq
			seq--
		}
	}
	s.ring.Add(s.records...)
}

// stays ends the story of an event that is held back and cannot be stored now.
func (s *story) stays(h *rules.Held, why error) {
	if s == nil {
		return
	}
	r := trace.Record{Verdict: trace.Held, Source: h.Event.Source, Event: h.Event.Name, Reason: why.Error()}
	for _, told := range s.records {
		r.Rule = told.Rule
	}
	s.ring.Add(r)
}

// watchSink returns what tells the trace of a sink's deliveries, and has the
// sink tell it what it skips.
func (b *Bridge) watchSink(base sinks.Common, deps sinks.Deps) (*trace.Deliveries, sinks.Deps) {
	o := trace.DeliveriesOptions{Sink: base.Name, Keeper: deps.Refused, ID: deps.ID}
	if len(base.Match) > 0 {
		o.Wants = func(event string) bool { return rules.MatchesName(base.Match, event) }
	}
	told := trace.NewDeliveries(b.trace, o)
	deps.Refused = told
	return told, deps
}

// verdicts are those of rules as the trace has them.
var verdicts = map[rules.Kind]trace.Verdict{rules.Pass: trace.Stored, rules.Drop: trace.Dropped, rules.Repeat: trace.Repeated, rules.Hold: trace.Held}

// traced is a rule as the trace has it, nil if there is none.
func traced(r *rules.Rule) *trace.Rule { return (*trace.Rule)(r) }
