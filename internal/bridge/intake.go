package bridge

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"event2mqtt/internal/event"
	"event2mqtt/internal/journal"
	"event2mqtt/internal/rules"
	"event2mqtt/internal/sources"
)

// This file is the way of events from their source into the journal.

// shape is how events are shaped on that way.
type shape struct {
	event.Normaliser
	rules *rules.Set
}

func (b *Bridge) newShape(p *Plan) *shape {
	s := &shape{Normaliser: event.Normaliser{
		TimestampField: p.Publish.TimestampField, Millis: p.Publish.TimestampMillis, MaxPayload: int(p.MaxPayload),
	}}
	var before *rules.Set
	if old := b.shape.Load(); old != nil {
		before = old.rules
	}
	var err error
	if s.rules, err = rules.New(p.Rules, p.Publish.BaseTopic, before, b.log); err != nil {
		s.rules = before // was checked
	}
	return s
}

// again normalises what rules have changed: what they added does not count.
func (s *shape) again(e *event.Event) error {
	n := s.Normaliser
	n.MaxPayload *= 2
	e.Checked = true
	return n.Normalise(e)
}

// output is what one source delivers to.
type output struct {
	b      *Bridge
	source string
	ready  func()
}

var _ sources.Output = output{}

func (o output) Ready() { o.ready() }

func (o output) Emit(ctx context.Context, events ...event.Event) (sources.Receipt, error) {
	shape := o.b.shape.Load()
	events = slices.Clone(events) // the caller may offer them again as they were
	for i := range events {
		events[i].Source = o.source
		if err := shape.Normalise(&events[i]); err != nil {
			return nil, err
		}
	}
	if shape.rules.Empty() {
		return o.store(ctx, events)
	}
	passage := shape.rules.Begin(time.Now())
	stored := events[:0]
	for _, e := range events {
		before := e
		verdict := passage.Apply(&e)
		if verdict == rules.Pass && (e.Name != before.Name || !slices.Equal(e.Payload, before.Payload)) {
			if err := shape.again(&e); err != nil {
				passage.Abort()
				return nil, err
			}
		}
		switch {
		case verdict == rules.Pass:
			stored = append(stored, e)
		case e.Position.Key != "":
			stored = append(stored, event.Event{Source: o.source, Position: e.Position})
		}
	}
	for _, h := range passage.Held {
		stored = append(stored, holdRecord(h))
	}
	if len(stored) == 0 {
		passage.Commit()
		return receipt{o.b.cursor, 0}, nil
	}
	r, err := o.store(ctx, stored)
	if err != nil {
		passage.Abort()
		return nil, err
	}
	passage.Commit()
	if len(passage.Held) > 0 {
		o.b.wakeHeld()
	}
	return r, nil
}

func (o output) store(ctx context.Context, events []event.Event) (sources.Receipt, error) {
	seq, err := o.b.journal.Append(ctx, events...)
	if errors.Is(err, journal.ErrTooLarge) {
		return nil, &event.Refused{TooLarge: true, Reason: err.Error()}
	}
	if err != nil {
		return nil, err
	}
	return receipt{o.b.cursor, seq}, nil
}

func (o output) Report(states ...event.State) { o.b.states.Report(states...) }

func (o output) Mark(ctx context.Context, positions ...event.Position) error {
	marks := make([]event.Event, len(positions))
	for i, p := range positions {
		marks[i] = event.Event{Source: o.source, Position: p}
	}
	_, err := o.b.journal.Append(ctx, marks...)
	return err
}

func (o output) Positions() map[string][]byte { return o.b.journal.Positions(o.source) }

func (o output) Forget(key string) { o.b.journal.Forget(o.source, key) }

type receipt struct {
	cursor *journal.Cursor
	seq    uint64
}

func (r receipt) Delivered(ctx context.Context) error { return r.cursor.Delivered(ctx, r.seq) }

// heldSource is under whose name the journal keeps what rules hold back: as
// positions, of which it keeps the newest of each key. No source has this name.
const heldSource = "\x00rules"

// heldContent is what is stored of an event that is held back.
type heldContent struct {
	Name    string          `json:"name"`
	Source  string          `json:"source"`
	Time    time.Time       `json:"time"`
	Payload json.RawMessage `json:"payload"`
	Route   event.Route     `json:"route"`
	Due     time.Time       `json:"due"`
}

func holdRecord(h *rules.Held) event.Event {
	e := &h.Event
	text, _ := json.Marshal(heldContent{e.Name, e.Source, e.Time, e.Payload, e.Route, h.Due}) // the payload is valid
	return event.Event{Source: heldSource, Position: event.Position{Key: h.Key, Value: text}}
}

// restoreHeld takes back what was held when the program ended. What belongs to
// no rule any more is sent now.
func (b *Bridge) restoreHeld() {
	shape := b.shape.Load()
	for key, text := range b.journal.Positions(heldSource) {
		var c heldContent
		if len(text) == 0 || json.Unmarshal(text, &c) != nil {
			b.journal.Forget(heldSource, key)
			continue
		}
		h := &rules.Held{Key: key, Due: c.Due, Event: event.Event{Name: c.Name, Source: c.Source, Time: c.Time, Payload: c.Payload, Route: c.Route}}
		if !shape.rules.Restore(h) {
			_ = b.storeHeld(context.Background(), shape, h) // or at the next start
		}
	}
}

// storeHeld stores an event that was held as one that is not. On error it
// stays as it is on disk.
func (b *Bridge) storeHeld(ctx context.Context, shape *shape, h *rules.Held) error {
	e := h.Event
	if err := shape.again(&e); err != nil {
		return err
	}
	_, err := b.journal.Append(ctx, e, event.Event{Source: heldSource, Position: event.Position{Key: h.Key}})
	if err == nil {
		b.journal.Forget(heldSource, h.Key)
	}
	return err
}

func (b *Bridge) wakeHeld() {
	select {
	case b.holding <- struct{}{}:
	default:
	}
}

// sendHeld stores what is held when its interval is over, until ctx ends.
func (b *Bridge) sendHeld(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-b.holding:
		}
		shape := b.shape.Load()
		due, next := shape.rules.Due(time.Now())
		for _, h := range due {
			err := shape.rules.Send(h, time.Now(), func() error { return b.storeHeld(ctx, shape, h) })
			if err != nil && ctx.Err() == nil {
				b.log.Error().Err(err).Str("event", h.Event.Name).Msg("an event that a rule has held back cannot be stored; trying again")
				next = time.Now().Add(time.Second)
				break
			}
		}
		if !next.IsZero() {
			timer.Reset(time.Until(next))
		}
	}
}
