package tail

import (
	"bytes"
	"context"
	"errors"
	"slices"

	"event2mqtt/internal/event"
	"event2mqtt/internal/sources"
)

// This file stores events and positions.

const (
	// maxBatch and maxBatchBytes bound the events that are stored together, but
	// for those of one entry.
	maxBatch      = 512
	maxBatchBytes = 1 << 20
	// maxMarks bounds the positions that are stored together.
	maxMarks = 1000
)

// batch are events that are stored together. The last event of each entry
// carries the position behind it.
type batch struct {
	events    []event.Event
	ends      []int // behind the events of each entry
	bytes     int
	kept      int    // of events whose payloads are the batch's own
	positions []byte // memory of the positions
}

func (b *batch) full() bool { return len(b.events) >= maxBatch || b.bytes >= maxBatchBytes }

// add puts the events of an entry, which may be none, into the batch.
func (b *batch) add(f *file, events []event.Event) {
	if len(events) == 0 {
		return
	}
	from := len(b.positions)
	b.positions = f.position.append(b.positions)
	events[len(events)-1].Position = event.Position{Key: f.key, Value: b.positions[from:len(b.positions):len(b.positions)]}
	for i := range events {
		b.bytes += len(events[i].Payload)
	}
	b.events = append(b.events, events...)
	b.ends = append(b.ends, len(b.events))
}

// keep makes the payloads the batch's own: what they were read into is used
// again.
func (b *batch) keep() {
	for i := b.kept; i < len(b.events); i++ {
		b.events[i].Payload = bytes.Clone(b.events[i].Payload)
	}
	b.kept = len(b.events)
}

// reset empties the batch; who was given positions keeps them.
func (b *batch) reset() {
	clear(b.events)
	*b = batch{events: b.events[:0], ends: b.ends[:0]}
}

// flushFull stores the batch if it is full. Else it is stored with what other
// files have, at the end of the round.
func (s *Source) flushFull(ctx context.Context) error {
	if s.batch.full() {
		return s.flush(ctx)
	}
	s.batch.keep()
	return nil
}

// flush stores the batch; it waits for as long as that is not possible. The
// events of an entry are stored together or not at all.
func (s *Source) flush(ctx context.Context) error {
	if len(s.batch.events) == 0 {
		return nil
	}
	defer s.batch.reset()
	err := s.emit(ctx, s.batch.events)
	if _, refused := errors.AsType[*event.Refused](err); !refused {
		return err
	}
	from := 0
	for _, end := range s.batch.ends { // find the one; the others go on
		if err := s.emitEntry(ctx, s.batch.events[from:end]); err != nil {
			return err
		}
		from = end
	}
	return nil
}

// emitEntry stores the events of an entry, without those that are refused.
func (s *Source) emitEntry(ctx context.Context, events []event.Event) error {
	err := s.emit(ctx, events)
	r, refused := errors.AsType[*event.Refused](err)
	switch {
	case !refused:
		return err
	case len(events) > 1: // one of them; which is found by storing them one by one
		for i := range events {
			if err := s.emitEntry(ctx, events[i:i+1]); err != nil {
				return err
			}
		}
		return nil
	}
	s.skip("event", events[0].Name, r.Reason)
	if events[0].Position.Key == "" {
		return nil
	}
	return s.storeMarks(ctx, []event.Position{events[0].Position})
}

func (s *Source) emit(ctx context.Context, events []event.Event) error {
	return s.deliver(ctx, func() error {
		_, err := s.out.Emit(ctx, events...)
		return err
	})
}

// mark stores positions, after those of the batch.
func (s *Source) mark(ctx context.Context, marks []event.Position) error {
	if len(marks) == 0 {
		return nil
	}
	if err := s.flush(ctx); err != nil {
		return err
	}
	return s.storeMarks(ctx, marks)
}

func (s *Source) storeMarks(ctx context.Context, marks []event.Position) error {
	for part := range slices.Chunk(marks, maxMarks) {
		if err := s.deliver(ctx, func() error { return s.out.Mark(ctx, part...) }); err != nil {
			return err
		}
	}
	return nil
}

// deliver calls store until it works, ctx ends, or what is stored is refused
// for good.
func (s *Source) deliver(ctx context.Context, store func() error) error {
	return sources.Store(ctx, store, func(err error) {
		if err == nil {
			s.log.Info().Msg("tail: reading again")
			return
		}
		s.log.Warn().Err(err).Msg("tail: events cannot be stored; reading pauses until they can")
	})
}
