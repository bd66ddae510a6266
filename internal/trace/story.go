package trace

import (
	"bytes"
	"errors"

	"event2mqtt/internal/event"
	"event2mqtt/internal/rules"
)

// maxRefused is how much of the payload of an event that is refused is copied:
// more than is kept, so that it can be cut as JSON.
const maxRefused = 4 * MaxPayload

// Story gathers what happens, on their way into the journal, to events that are
// stored together, or not at all. While nobody looks it is nil, and gathers
// nothing. It has one user.
type Story struct {
	ring    *Ring
	records []Record
}

// Story begins a story, nil if nobody looks.
func (r *Ring) Story() *Story {
	if !r.Watched() {
		return nil
	}
	return &Story{ring: r}
}

// Passed tells of events that are to be stored, as they are then.
func (s *Story) Passed(events ...event.Event) {
	if s == nil {
		return
	}
	for i := range events {
		r := Record{Verdict: Stored, Source: events[i].Source, Event: events[i].Name, Detail: detail(&events[i])} // should they be refused
		s.records = append(s.records, r)
	}
}

// Ruled tells what rules made of an event, and what it was before.
func (s *Story) Ruled(before, e *event.Event, v rules.Verdict) {
	if s == nil {
		return
	}
	r := Record{Verdict: verdicts[v.Kind], Source: e.Source, Event: e.Name, Detail: detail(e)}
	r.Detail.Hold = v.Key
	if before.Name != e.Name {
		r.Offered = before.Name
	}
	if !bytes.Equal(before.Payload, e.Payload) {
		r.Detail.CameIn = before.Payload
	}
	if v.Kind != rules.Pass {
		r.Rule = traced(v.By)
	}
	s.records = append(s.records, r)
}

// detail is that of an event.
func detail(e *event.Event) *Detail {
	return &Detail{Payload: e.Payload, Size: len(e.Payload), Happened: e.Time, Route: e.Route}
}

// Replaced tells of events that newer ones took the place of.
func (s *Story) Replaced(p *rules.Batch) {
	if s == nil {
		return
	}
	for _, r := range p.Replaced {
		s.records = append(s.records, Record{Verdict: Replaced, Source: r.Event.Source, Event: r.Event.Name, Rule: traced(r.By), Detail: &Detail{Hold: r.Key}})
	}
}

// Sent tells what rules made of an event that they held back until now.
func (s *Story) Sent(h *rules.Held, p *rules.Batch, e *event.Event, v rules.Verdict) {
	if s == nil {
		return
	}
	s.Ruled(&h.Event, e, v)
	r := &s.records[len(s.records)-1]
	if v.Kind == rules.Pass {
		r.Rule = traced(p.Sender)
	}
	if r.Detail.Hold == "" { // no rule behind holds it
		r.Detail.Hold = h.Key
	}
	s.Replaced(p)
}

// Refused ends the story of a source's events, since one of them can never be
// accepted; with it the others are not.
func (s *Story) Refused(source string, events []event.Event, bad int, why error) {
	if s == nil {
		return
	}
	for i := range events {
		r := Record{Verdict: Refused, Source: source, Event: events[i].Name, Reason: why.Error(), Detail: detail(&events[i])}
		r.Detail.Payload = bytes.Clone(r.Detail.Payload[:min(len(r.Detail.Payload), maxRefused)]) // the source's own
		if i != bad {
			r.Reason, r.Retry = "it came together with an event that was refused", true
		}
		s.records = append(s.records, r)
	}
	s.ring.Add(s.records...)
}

// End ends the story: the events are stored, the last of them as number last of
// the journal, or nothing happened to any because of err.
func (s *Story) End(last uint64, err error) {
	if s == nil {
		return
	}
	seq := last
	for i := len(s.records) - 1; i >= 0; i-- {
		r := &s.records[i]
		if err != nil {
			_, never := errors.AsType[*event.Refused](err)
			*r = Record{Verdict: Refused, Source: r.Source, Event: r.Event, Offered: r.Offered, Reason: err.Error(), Retry: !never, Detail: r.Detail}
			r.Detail.Hold = ""
		} else if r.Verdict == Stored {
			r.Seq, r.Detail.Payload = seq, nil // the journal has it
			seq--
		}
	}
	s.ring.Add(s.records...)
}

// Stays ends the story of an event that is held back and cannot be stored now.
func (s *Story) Stays(h *rules.Held, why error) {
	if s == nil {
		return
	}
	r := Record{Verdict: Held, Source: h.Event.Source, Event: h.Event.Name, Reason: why.Error(), Detail: detail(&h.Event)}
	r.Detail.Hold = h.Key
	for _, told := range s.records {
		r.Rule = told.Rule
	}
	s.ring.Add(r)
}

// verdicts are those of rules as the trace has them.
var verdicts = map[rules.Kind]Verdict{rules.Pass: Stored, rules.Drop: Dropped, rules.Repeat: Repeated, rules.Hold: Held}

// traced is a rule as the trace has it, nil if there is none.
func traced(r *rules.Rule) *Rule { return (*Rule)(r) }
