package bridge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"event2mqtt/internal/device"
	"event2mqtt/internal/event"
	"event2mqtt/internal/health"
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
	const most = 1 << 20 // what is held stands in the head of each of the journal's segments
	s := &shape{Normaliser: event.Normaliser{
		TimestampField: p.Publish.TimestampField, Millis: p.Publish.TimestampMillis, MaxPayload: int(p.MaxPayload),
	}}
	var before *rules.Set
	if old := b.shape.Load(); old != nil {
		before = old.rules
	}
	var err error
	s.rules, err = rules.New(p.Rules, rules.Options{
		Base: p.Publish.BaseTopic, Timestamp: p.Publish.TimestampField, MaxHeld: min(int(p.Journal.MaxSize/16), most), Before: before, Log: b.logs.part("rules"),
	})
	if err != nil {
		s.rules = before // was checked
	}
	return s
}

// again normalises what rules have changed: its size was looked at before.
func (s *shape) again(e *event.Event) error {
	n := s.Normaliser
	n.MaxPayload = math.MaxInt
	e.Checked = true
	return n.Normalise(e)
}

// output is what one source delivers to.
type output struct {
	b      *Bridge
	source string
	ready  func()
	tell   func(health.Status)
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
	defer passage.Abort() // if it was not committed
	stored, holds := events[:0], false
	for _, e := range events {
		before := e
		verdict := passage.Apply(&e)
		if verdict == rules.Pass && (e.Name != before.Name || !slices.Equal(e.Payload, before.Payload)) {
			if err := shape.again(&e); err != nil {
				return nil, err
			}
		}
		holds = holds || verdict == rules.Hold
		switch {
		case verdict == rules.Pass:
			stored = append(stored, e)
		case e.Position.Key != "":
			stored = append(stored, event.Event{Source: o.source, Position: e.Position})
		}
	}
	held, err := holdRecords(passage)
	if err != nil {
		return nil, err
	}
	stored = append(stored, held...)
	if len(stored) == 0 {
		passage.Commit()
		return receipt{}, nil
	}
	r, err := o.store(ctx, stored)
	if err != nil {
		return nil, err
	}
	r.held = holds
	for key, h := range passage.Held {
		if h == nil { // its record says so; the next segments need not
			o.b.journal.Forget(heldSource, key)
		}
	}
	passage.Commit()
	if len(passage.Held) > 0 {
		o.b.wakeHeld()
	}
	return r, nil
}

func (o output) store(ctx context.Context, events []event.Event) (receipt, error) {
	seq, err := o.b.journal.Append(ctx, events...)
	if errors.Is(err, journal.ErrTooLarge) {
		err = &event.Refused{TooLarge: true, Reason: err.Error()}
	}
	return receipt{*o.b.required.Load(), seq, false}, err
}

func (o output) Tell(s health.Status) { o.tell(s) }

func (o output) Describe(d device.Device) { o.b.devices.set(o.source, d) }

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
	required []*journal.Cursor
	seq      uint64 // of the last event, 0 if rules have dropped all
	held     bool
}

func (r receipt) Delivered(ctx context.Context) error {
	if r.held {
		return sources.ErrHeld
	}
	if r.seq == 0 {
		return nil
	}
	for _, cursor := range r.required {
		if err := cursor.Delivered(ctx, r.seq); err != nil {
			return err
		}
	}
	return nil
}

// heldSource is under whose name the journal keeps what rules hold back: as
// positions, of which it keeps the newest of each key. No source has this name.
const heldSource = "\x00rules"

// heldContent is what is stored of an event that is held back.
type heldContent struct {
	Name    string      `json:"name"`
	Source  string      `json:"source"`
	Time    int64       `json:"time"` // nanoseconds since 1970
	Payload []byte      `json:"payload"`
	Route   event.Route `json:"route"`
	Due     time.Time   `json:"due"`
}

// holdRecords are what has to be stored of what a passage holds, and holds no
// more.
func holdRecords(p *rules.Passage) (out []event.Event, err error) {
	for key, h := range p.Held {
		var text []byte
		if h != nil {
			e := &h.Event
			if text, err = json.Marshal(heldContent{e.Name, e.Source, e.Time.UnixNano(), e.Payload, e.Route, h.Due}); err != nil {
				return nil, fmt.Errorf("hold an event back: %w", err)
			}
		}
		out = append(out, event.Event{Source: heldSource, Position: event.Position{Key: key, Value: text}})
	}
	return out, nil
}

// restoreHeld takes back what was held when the program ended.
func (b *Bridge) restoreHeld() {
	shape := b.shape.Load()
	for key, text := range b.journal.Positions(heldSource) {
		if len(text) == 0 {
			b.journal.Forget(heldSource, key) // was sent
			continue
		}
		var c heldContent
		if err := json.Unmarshal(text, &c); err != nil {
			b.log.Error().Err(err).Msg("an event that a rule held back cannot be read")
			b.journal.Forget(heldSource, key)
			continue
		}
		e := event.Event{Name: c.Name, Source: c.Source, Time: time.Unix(0, c.Time), Payload: c.Payload, Route: c.Route}
		shape.rules.Restore(&rules.Held{Key: key, Due: c.Due, Event: e}, time.Now())
	}
}

// storeHeld stores what becomes of an event that was held. On error it stays
// held, and so on disk.
func (b *Bridge) storeHeld(ctx context.Context, shape *shape, h *rules.Held) error {
	return shape.rules.Send(h, time.Now(), func(p *rules.Passage, e *event.Event, v rules.Verdict) error {
		records, err := holdRecords(p) // of a rule behind
		if err != nil {
			return err
		}
		if v == rules.Pass {
			if err := shape.again(e); err != nil {
				return err
			}
			records = append(records, *e)
		}
		records = append(records, event.Event{Source: heldSource, Position: event.Position{Key: h.Key}})
		if _, err := b.journal.Append(ctx, records...); err != nil {
			return err
		}
		b.journal.Forget(heldSource, h.Key)
		return nil
	})
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
			if err := b.storeHeld(ctx, shape, h); err != nil && ctx.Err() == nil {
				b.log.Error().Err(err).Str("event", h.Event.Name).Msg("an event that a rule has held back cannot be stored; trying again")
				next = time.Now().Add(time.Second)
			}
		}
		if !next.IsZero() {
			timer.Reset(time.Until(next))
		}
	}
}
