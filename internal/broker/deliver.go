package broker

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"time"

	"event2mqtt/internal/wire"
)

// This file is the way of a message from its publisher to the queues.

// ErrRetainedFull is why a message was neither retained nor passed on.
var ErrRetainedFull = errors.New("as many messages are retained as allowed")

// errNotStored is why messages for stored sessions are refused.
var errNotStored = errors.New("messages cannot be stored at the moment")

// Receipt is the promise that a message is on disk where it must be.
type Receipt struct {
	b *Broker
	ticket
}

// Wait waits until the message cannot be lost any more. The error says that
// it could be; it should be published again.
func (r Receipt) Wait() error {
	if !r.b.store.wait(r.ticket) {
		return errNotStored
	}
	return nil
}

// Publish passes a message to every subscriber's queue as a client's PUBLISH
// would. It returns when all have it, after waiting for those whose queue is
// full, or with context.Canceled when ctx ends before. The message must not be
// changed afterwards.
func (b *Broker) Publish(ctx context.Context, m *Message) (Receipt, error) {
	b.counters.received.Add(1)
	b.counters.publishedIn.Add(uint64(len(m.Payload)))
	t, err := b.deliver(ctx.Done(), nil, m, b.subs.match(m.Topic), 0)
	return Receipt{b, t}, err
}

// deliver queues m for all who want it and waits where it must: a QoS 1 or 2
// message comes into all queues at once, so that a publisher who has to send
// it again does not send it twice to some. from is the session that published
// it with packetID, if any.
func (b *Broker) deliver(stop <-chan struct{}, from *session, m *Message, to matched, packetID uint16) (ticket, error) {
	for {
		if to.version != b.subs.version.Load() { // subscribers, or their rights, have changed
			to = b.subs.match(m.Topic)
		}
		t, full, err := b.pass(from, m, to, packetID)
		if full == nil || err != nil {
			return t, err
		}
		if err := b.await(stop, full); err != nil {
			return ticket{}, err
		}
	}
}

// pass queues m for all targets, or returns one whose queue has no room. The
// ticket is for what has to be on disk before m may be acknowledged.
func (b *Broker) pass(from *session, m *Message, to matched, packetID uint16) (t ticket, full *session, err error) {
	targets := to.choose(m, b.limit())
	stored := b.store != nil && m.QoS == 2 && packetID != 0 && from.stored
	if m.QoS > 0 {
		for i := range targets {
			s := targets[i].session
			if s == from && !targets[i].local || min(targets[i].qos, m.QoS) == 0 {
				continue
			}
			stored = stored || s.stored && b.store != nil
			if !s.hasRoom(m, b.limit()) {
				return ticket{}, s, nil
			}
		}
	}
	if !m.Retain && !stored {
		if _, dropped := b.queue(from, m, targets, nil); dropped {
			// Who writes goes first: with hundreds of publishers that flood one
			// queue, it got its turn so rarely that most was dropped.
			runtime.Gosched()
		}
		return ticket{}, nil, nil
	}
	durable := m.Retain && m.QoS > 0 && !m.SaveLater
	if b.store != nil {
		if (stored || durable) && b.store.behind() {
			return ticket{}, nil, errNotStored
		}
		b.store.mu.Lock()
		defer b.store.mu.Unlock()
	}
	var rec []byte
	if b.store != nil && m.QoS > 0 {
		rec = messageRecord(m, durable, from, packetID)
	}
	none := len(rec)
	if m.Retain {
		if targets, err = b.retain(m, to, targets); err != nil {
			return ticket{}, nil, err
		}
	}
	rec, _ = b.queue(from, m, targets, rec)
	if from != nil && packetID != 0 && m.QoS == 2 {
		from.passedOn(packetID) // together with the record of it
	}
	switch {
	case b.store == nil:
		return ticket{}, nil, nil
	case stored || durable || len(rec) > none:
		t = b.store.submit(recordMessage, rec)
	}
	if durable {
		delete(b.store.unsaved, m.Topic) // rec has it
	} else if m.Retain {
		b.store.retain(m, false)
	}
	return t, nil, nil
}

// retain makes m the retained message of its topic and returns the targets as
// they are at that moment: whoever subscribes later is given it as retained.
func (b *Broker) retain(m *Message, to matched, targets []target) ([]target, error) {
	r := &b.retained
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.set(m, b.limit()) {
		b.counters.retainedRefused.Add(1)
		b.warn("retained").Str("topic", m.Topic).Msg("broker: as many messages are retained as allowed (broker.max_retained, max_retained_bytes); refusing more")
		return nil, ErrRetainedFull
	}
	if b.subs.version.Load() != to.version {
		return b.subs.match(m.Topic).choose(m, b.limit()), nil
	}
	return targets, nil
}

// queue queues m for all targets and returns rec with those that are stored,
// if it was begun, and whether m was dropped for some.
func (b *Broker) queue(from *session, m *Message, targets []target, rec []byte) (_ []byte, dropped bool) {
	for i := range targets {
		t := &targets[i]
		if t.session == from && !t.local {
			continue
		}
		o := outgoing{message: m, ids: t.ids, qos: min(t.qos, m.QoS), retain: m.Retain && t.retain}
		order, ok := t.session.put(o, b.limit())
		if !ok {
			b.counters.dropped.Add(1)
			dropped = true
			if t.session.inside != nil {
				t.session.inside.tellDropped()
			} else if o.qos > 0 {
				b.warn("queue "+t.session.key).Str("client", t.session.id).Msg("broker: the queue of an absent or slow client is full; its newest messages are dropped")
			}
			continue
		}
		if rec != nil && order != 0 {
			rec = appendTarget(rec, t.session, order, &o)
		}
	}
	return rec, dropped
}

// await waits for room in a session's queue. A client that takes nothing for
// the stall time, or too little for a multiple of it, is cut off: publishers
// are not to wait for it.
func (b *Broker) await(stop <-chan struct{}, s *session) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		room, since, c := s.waiting(b.limit())
		if room == nil {
			return nil
		}
		limit := b.limit().StallTimeout
		progress := max(0, min(time.Since(since), time.Since(c.lastProgress())))
		left := min(limit-progress, patience*limit-time.Since(since))
		if left <= 0 && c.overrun() {
			c.shut(wire.QuotaExceeded, fmt.Sprintf("messages were not taken for %s", time.Since(since).Round(time.Millisecond)))
		}
		timer.Reset(max(left, 10*time.Millisecond))
		select {
		case <-room:
			return nil
		case <-stop:
			return context.Canceled
		case <-b.stop:
			return ErrClosed
		case <-timer.C:
		}
	}
}

// publishable reports whether clients may publish to a topic at all.
func (b *Broker) publishable(topic string) bool {
	return !strings.HasPrefix(topic, "$") && len(topic) <= b.limit().TopicLength && strings.Count(topic, "/") < b.limit().TopicLevels
}

// publishWill publishes a will, if its client may still do that.
func (b *Broker) publishWill(s *session, w *wire.Will) {
	if !s.mayWrite(w.Topic) {
		b.counters.denied.Add(1)
		b.log.Info().Str("client", s.id).Str("topic", w.Topic).Msg("broker: a will was not published: its user may not write to the topic")
		return
	}
	m := b.newMessage(&w.Publish, s)
	m.SaveLater = true // nobody waits for it
	if _, err := b.deliver(b.stop, nil, m, b.subs.match(m.Topic), 0); err != nil && !errors.Is(err, ErrClosed) {
		b.counters.dropped.Add(1)
		b.warn("will "+s.key).Err(err).Str("client", s.id).Str("topic", w.Topic).Msg("broker: a will was not published")
	}
}
