package broker

import (
	"context"
	"errors"
	"runtime"
	"strings"

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

// deliver queues m for all who want it and waits where it must: a message
// comes into all queues at once if it has QoS 1 or 2, so that a publisher who
// has to send it again does not send it twice to some, or if it is retained, so
// that nobody gets it behind the next. from is the session that published it
// with packetID, if any.
func (b *Broker) deliver(stop <-chan struct{}, from *session, m *Message, to matched, packetID uint16) (ticket, error) {
	if m.isPlain() {
		b.insist(stop, from, m, to.version, b.spread(from, m, to))
		return ticket{}, nil
	}
	for {
		if to.version != b.subs.version.Load() { // subscribers, or their rights, have changed
			to = b.subs.match(m.Topic)
		}
		t, full, err := b.pass(from, m, to, packetID)
		if full.session == nil || err != nil {
			return t, err
		}
		if err := b.await(stop, full.session, full.qos); err != nil {
			return ticket{}, err
		}
	}
}

// isPlain reports whether a message has QoS 0 and is not retained: nothing of
// it is stored.
func (m *Message) isPlain() bool { return m.QoS == 0 && !m.Retain }

// spread queues a plain message for all who want it and returns those who have
// no room now, and are waited for.
func (b *Broker) spread(from *session, m *Message, to matched) (late []target) {
	targets := to.choose(m, b.limit())
	yield := false
	for i := range targets {
		t := &targets[i]
		if t.session == from && !t.local {
			continue
		}
		switch _, v := t.session.put(outgoing{message: m, ids: t.ids}, b.limit(), false, from); v {
		case later:
			late = append(late, *t)
		case dropped:
			b.drop(t, 0)
			yield = true
		}
	}
	if yield {
		// Who writes goes first: with hundreds of publishers that flood one
		// queue, it got its turn so rarely that most was dropped.
		runtime.Gosched()
	}
	return late
}

// insist waits until those who were late take a plain message, or until it is
// dropped for them: their time is up, or stop is closed. version is that of the
// subscribers when they were found.
func (b *Broker) insist(stop <-chan struct{}, from *session, m *Message, version uint64, late []target) {
	for i := range late {
		t := &late[i]
		for v := later; v == later; {
			switch err := b.await(stop, t.session, 0); {
			case err != nil:
				v = dropped
			case version != b.subs.version.Load() && !b.subs.match(m.Topic).has(t.session):
				v = accepted // it has unsubscribed, or may not read it any more
			default:
				_, v = t.session.put(outgoing{message: m, ids: t.ids}, b.limit(), false, from)
			}
			if v == dropped {
				b.drop(t, 0)
			}
		}
	}
}

// drop counts a message that a target does not get, and says so where it must.
func (b *Broker) drop(t *target, qos byte) {
	b.counters.dropped.Add(1)
	if t.session.inside != nil {
		t.session.inside.tellDropped()
	} else if qos > 0 {
		b.warn("queue "+t.session.key).Str("client", t.session.id).Msg("broker: the queue of an absent or slow client is full; its newest messages are dropped")
	}
}

// full is a session whose queue has no room for a message with a QoS.
type full struct {
	*session
	qos byte
}

// pass queues m, which is not plain, for all targets, or returns one whose queue
// has no room. The ticket is for what has to be on disk before m may be
// acknowledged.
func (b *Broker) pass(from *session, m *Message, to matched, packetID uint16) (t ticket, none full, err error) {
	targets := to.choose(m, b.limit())
	stored := b.store != nil && m.QoS == 2 && packetID != 0 && from.stored
	var wait full
	for i := range targets { // all of them, so that the time of all begins now
		s, qos := targets[i].session, min(targets[i].qos, m.QoS)
		if s == from && !targets[i].local {
			continue
		}
		stored = stored || qos > 0 && s.stored && b.store != nil
		o := outgoing{message: m, ids: targets[i].ids}
		if !s.hasRoom(o.size(), qos, b.limit()) && (wait.session == nil || wait.qos == 0) {
			wait = full{s, qos}
		}
	}
	if wait.session != nil {
		return ticket{}, wait, nil
	}
	if !m.Retain && !stored {
		b.queue(from, m, targets, nil)
		return ticket{}, none, nil
	}
	durable := m.Retain && m.QoS > 0 && !m.SaveLater
	if b.store != nil {
		if (stored || durable) && b.store.behind() {
			return ticket{}, none, errNotStored
		}
		b.store.mu.Lock()
		defer b.store.mu.Unlock()
	}
	var rec []byte
	if b.store != nil && m.QoS > 0 {
		rec = messageRecord(m, durable, from, packetID)
	}
	begun := len(rec)
	if m.Retain {
		if targets, err = b.retain(m, to, targets); err != nil {
			return ticket{}, none, err
		}
	}
	rec = b.queue(from, m, targets, rec)
	if from != nil && packetID != 0 && m.QoS == 2 {
		from.passedOn(packetID) // together with the record of it
	}
	switch {
	case b.store == nil:
		return ticket{}, none, nil
	case stored || durable || len(rec) > begun:
		t = b.store.submit(recordMessage, rec)
	}
	if durable {
		delete(b.store.unsaved, m.Topic) // rec has it
	} else if m.Retain {
		b.store.retain(m, false)
	}
	return t, none, nil
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

// queue queues m, for which there was room, for all targets, and returns rec
// with those that are stored, if it was begun.
func (b *Broker) queue(from *session, m *Message, targets []target, rec []byte) []byte {
	for i := range targets {
		t := &targets[i]
		if t.session == from && !t.local {
			continue
		}
		o := outgoing{message: m, ids: t.ids, qos: min(t.qos, m.QoS), retain: m.Retain && t.retain}
		order, v := t.session.put(o, b.limit(), true, from)
		if v == dropped {
			b.drop(t, o.qos)
		} else if rec != nil && order != 0 {
			rec = appendTarget(rec, t.session, order, &o)
		}
	}
	return rec
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
