package bridge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"event2mqtt/internal/device"
	"event2mqtt/internal/event"
	"event2mqtt/internal/health"
	"event2mqtt/internal/journal"
	"event2mqtt/internal/retry"
	"event2mqtt/internal/rules"
	"event2mqtt/internal/ruletest"
	"event2mqtt/internal/sources"
)

// This file is the way of events from their source into the journal.

// pipeline is what events go through on that way.
type pipeline struct {
	event.Normaliser
	rules   *rules.Set
	mirrors map[string]sources.Mirror // by source
}

func (b *Bridge) newPipeline(p *Plan) *pipeline {
	const most = 1 << 20 // what is held stands in the head of each of the journal's segments
	s := &pipeline{Normaliser: p.normaliser(), mirrors: p.mirrors()}
	var before *rules.Set
	if old := b.pipeline.Load(); old != nil {
		before = old.rules
	}
	var err error
	s.rules, err = rules.New(p.Rules, rules.Options{
		Base: p.Publish.BaseTopic, Timestamp: p.Publish.TimestampField, MaxHeld: min(int(p.Journal.MaxSize/16), most), Before: before,
		Place: p.placeOfRule, Log: b.logs.part("rules"),
	})
	if err != nil {
		s.rules = before // was checked
	}
	return s
}

func (p *Plan) normaliser() event.Normaliser {
	return event.Normaliser{TimestampField: p.Publish.TimestampField, Millis: p.Publish.TimestampMillis, MaxPayload: int(p.MaxPayload)}
}

// RuleTest is what tests of the plan's rules go through.
func (p *Plan) RuleTest() ruletest.Setup {
	return ruletest.Setup{
		Rules: p.Rules, Place: p.placeOfRule, Normaliser: p.normaliser(),
		Base: p.Publish.BaseTopic, EventTopic: p.Publish.EventTopic, QoS: p.Publish.QoS,
	}
}

// placeOfRule tells where a rule is written.
func (p *Plan) placeOfRule(i int) (file string, line int) {
	return p.doc.Place(fmt.Sprintf("rules[%d]", i))
}

// output is what one source delivers to.
type output struct {
	b      *Bridge
	source string
	ready  func()
	tell   func(health.Status)
	// judged, if set, is told what rules say of an event.
	judged func(rules.Verdict)
}

var _ sources.Output = output{}

func (o output) Ready() { o.ready() }

func (o output) Emit(ctx context.Context, events ...event.Event) (sources.Receipt, error) {
	pipeline := o.b.pipeline.Load()
	events = slices.Clone(events) // the caller may offer them again as they were
	story := o.b.trace.Story()
	for i := range events {
		events[i].Source = o.source
		if events[i].Time.IsZero() {
			events[i].Time = time.Now()
		}
		if err := pipeline.Normalise(&events[i]); err != nil {
			story.Refused(o.source, events, i, err)
			return nil, err
		}
	}
	if pipeline.rules.Empty() {
		story.Passed(events...)
		r, err := o.store(ctx, events)
		story.End(r.seq, err)
		return r, err
	}
	batch := pipeline.rules.Begin(time.Now())
	defer batch.Abort() // if it was not committed
	stored, holds := events[:0], false
	for _, e := range events {
		before := e
		verdict := batch.Apply(&e)
		story.Ruled(&before, &e, verdict)
		if o.judged != nil {
			o.judged(verdict)
		}
		if verdict.Kind == rules.Pass && (e.Name != before.Name || !slices.Equal(e.Payload, before.Payload)) {
			if err := pipeline.Again(&e); err != nil {
				story.End(0, err)
				return nil, err
			}
		}
		holds = holds || verdict.Kind == rules.Hold
		switch {
		case verdict.Kind == rules.Pass:
			stored = append(stored, e)
		case e.Position.Key != "":
			stored = append(stored, event.Event{Source: o.source, Position: e.Position})
		}
	}
	held, err := holdRecords(batch)
	if err != nil {
		story.End(0, err)
		return nil, err
	}
	stored = append(stored, held...)
	story.Replaced(batch)
	if len(stored) == 0 {
		batch.Commit()
		story.End(0, nil)
		return receipt{}, nil
	}
	r, err := o.store(ctx, stored)
	story.End(r.seq, err)
	if err != nil {
		return nil, err
	}
	r.held = holds
	for key, h := range batch.Held {
		if h == nil { // its record says so; the next segments need not
			o.b.journal.Forget(heldSource, key)
		}
	}
	batch.Commit()
	if len(batch.Held) > 0 {
		o.b.wakeHeld()
	}
	return r, nil
}

func (o output) store(ctx context.Context, events []event.Event) (receipt, error) {
	seq, err := o.b.journal.Append(ctx, events...)
	if errors.Is(err, journal.ErrTooLarge) {
		err = &event.Refused{TooLarge: true, Reason: err.Error()}
	}
	if err == nil {
		o.b.learn(ctx, events)
		o.b.mirror(events, seq)
	}
	return receipt{*o.b.required.Load(), seq, false}, err
}

func (o output) Tell(s health.Status) { o.tell(s) }

func (o output) Describe(d device.Device) {
	if err := d.Check(); err != nil {
		if o.b.devices.isNews(o.source, err) {
			o.b.log.Warn().Str("source", o.source).Msgf("what the source says of its device cannot be used, and is ignored: %v", err)
		}
		return
	}
	o.b.devices.set(o.source, d)
}

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
		err := cursor.Delivered(ctx, r.seq)
		if errors.Is(err, journal.ErrCursorClosed) {
			continue // a sink that was removed meanwhile is not waited for
		}
		if err != nil && ctx.Err() != nil {
			return &sources.Undelivered{Sinks: r.missing(), Cause: err}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// missing are the sinks that have not acknowledged the events; all that are
// waited for, if they have by now.
func (r receipt) missing() []string {
	var names, all []string
	for _, cursor := range r.required {
		all = append(all, cursor.Name())
		if cursor.Acked() < r.seq {
			names = append(names, cursor.Name())
		}
	}
	if names == nil {
		return all
	}
	return names
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

// holdRecords are what has to be stored of what a batch holds, and holds no
// more.
func holdRecords(p *rules.Batch) (out []event.Event, err error) {
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
	pipeline := b.pipeline.Load()
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
		pipeline.rules.Restore(&rules.Held{Key: key, Due: c.Due, Event: e}, time.Now())
	}
}

// storeHeld stores what becomes of an event that was held. On error it stays
// held, and so on disk.
func (b *Bridge) storeHeld(ctx context.Context, pipeline *pipeline, h *rules.Held) error {
	story, last := b.trace.Story(), uint64(0)
	err := pipeline.rules.Send(h, time.Now(), func(p *rules.Batch, e *event.Event, v rules.Verdict) error {
		story.Sent(h, p, e, v)
		records, err := holdRecords(p) // of a rule behind
		if err != nil {
			return err
		}
		if v.Kind == rules.Pass {
			if err := pipeline.Again(e); err != nil {
				return err
			}
			records = append(records, *e)
		}
		records = append(records, event.Event{Source: heldSource, Position: event.Position{Key: h.Key}})
		if last, err = b.journal.Append(ctx, records...); err != nil {
			return err
		}
		b.journal.Forget(heldSource, h.Key)
		b.learn(ctx, records)
		b.mirror(records, last)
		return nil
	})
	if err != nil {
		story.Stays(h, err)
		return err
	}
	story.End(last, nil)
	return nil
}

func (b *Bridge) wakeHeld() {
	select {
	case b.heldChanged <- struct{}{}:
	default:
	}
}

// sendHeld stores what is held when its interval is over, until ctx ends.
func (b *Bridge) sendHeld(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	again := retry.Loop{Max: 5 * time.Second}
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-b.heldChanged:
		}
		pipeline := b.pipeline.Load()
		due, next := pipeline.rules.Due(time.Now())
		var failed error // of the last that failed; the others are not stopped by one
		var name string
		for _, h := range due {
			if err := b.storeHeld(ctx, pipeline, h); err != nil && ctx.Err() == nil {
				failed, name = err, h.Event.Name
			}
		}
		if failed == nil && len(due) > 0 {
			again.Reset()
		}
		if failed != nil {
			pause, fresh := again.Next(failed, 0)
			next = time.Now().Add(pause)
			if fresh {
				b.log.Error().Err(failed).Str("event", name).Msg("an event that a rule has held back cannot be stored; it is tried again for as long as it takes")
			}
		}
		if !next.IsZero() {
			timer.Reset(time.Until(next))
		}
	}
}
