package broker

import (
	"context"
	"fmt"
	"time"

	"event2mqtt/internal/wire"
)

// This file is about room in a session's queue, and how long publishers wait
// for it. For QoS 1 and 2 they wait as long as the client takes messages, and a
// client that does not is cut off. QoS 0 promises nothing, but a burst that a
// client would have taken a moment later is no reason to drop: publishers wait
// that moment, and for a client that has used it up no more, until it has taken
// a good part of what is there.

// grace is how often a publisher of QoS 0 messages looks again, 10 ms later,
// when a client's time is up.
const grace = 3

// gate is where publishers wait for room in a session's queue. session.mu
// guards it.
type gate struct {
	// room is there while somebody waits for room; it is closed when there
	// may be some. since is when the waiting began.
	room  chan struct{}
	since time.Time
	// overrun is set when the client has let publishers wait for too long:
	// until it has taken a good part, more is dropped instead of waited with.
	overrun bool
}

// wait marks the gate as one where somebody waits.
func (g *gate) wait() {
	if g.room == nil {
		g.room = make(chan struct{})
	}
	if g.since.IsZero() {
		g.since = time.Now()
	}
}

// tell wakes those who wait. With all, there is room for more than one message.
func (g *gate) tell(all bool) {
	if g.room != nil {
		close(g.room)
		g.room = nil
	}
	if all {
		g.since, g.overrun = time.Time{}, false
	}
}

func (s *session) gate(qos byte) *gate {
	if qos == 0 {
		return &s.brief
	}
	return &s.strict
}

// share is the part of each limit that messages of a QoS may fill: QoS 0 leaves
// room for what must not be lost.
func share(qos byte, limit *Limits) (count, bytes, total int) {
	if qos == 0 {
		return limit.QueuedMessages / 2, limit.QueuedBytes / 2, limit.QueuedTotal / 2
	}
	return limit.QueuedMessages, limit.QueuedBytes, limit.QueuedTotal
}

// isFull reports whether a message has no place in the queue. s.mu is held.
func (s *session) isFull(size int, qos byte, limit *Limits) bool {
	count, bytes, total := share(qos, limit)
	n := s.queue.len()
	if n == 0 && s.conn != nil {
		return false
	}
	return n >= count || s.queueBytes+size > bytes || s.total.Load()+int64(size) > int64(total)
}

// waits reports whether publishers wait for this session when its queue is
// full, rather than seeing their messages dropped. s.mu is held.
func (s *session) waits(qos byte) bool {
	return !s.gone && s.conn != nil && !s.gate(qos).overrun
}

// hasRoom reports whether a message of a size can be queued with a QoS, or need
// not be. If not, the session is marked as one that is waited for.
func (s *session) hasRoom(size int, qos byte, limit *Limits) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.waits(qos) || !s.isFull(size, qos, limit) {
		return true
	}
	s.gate(qos).wait()
	return false
}

// waiting returns a channel that is closed when there may be room for what was
// offered, since when publishers wait, and the connection to blame; nil if
// there may be room by now, or nobody waits any more.
func (s *session) waiting(qos byte) (room <-chan struct{}, since time.Time, c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g := s.gate(qos); g.room != nil && s.waits(qos) {
		return g.room, g.since, s.conn
	}
	return nil, time.Time{}, nil
}

// tellRoom wakes publishers that wait. With all, the queue has room for more
// than one message. s.mu is held.
func (s *session) tellRoom(all bool) {
	s.strict.tell(all)
	s.brief.tell(all)
}

// tellPopped is tellRoom after messages were taken from the queue: publishers
// are woken when a good part is free, not for each message, but that one
// message may be larger than that part. A client that waits for itself must not
// do so once its answers have to come first. s.mu is held.
func (s *session) tellPopped(limit *Limits) {
	if s.selfWaits && !s.queueReady(s.conn, limit) {
		s.selfWaits = false
		s.brief.tell(false)
	}
	for qos := range byte(2) {
		count, bytes, total := share(qos, limit)
		all := s.queue.len() <= count*3/4 && s.queueBytes <= bytes*3/4
		if qos == 0 { // those who take nothing may have filled what all share
			all = all && s.total.Load() <= int64(total)*3/4
		}
		if all || s.queue.len() == 0 {
			s.gate(qos).tell(all)
		}
	}
}

// tire notes that publishers have waited for long enough, wakes those that
// still do, and reports whether that is new.
func (s *session) tire(qos byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.gate(qos)
	first := !g.overrun
	g.overrun = true
	if qos == 0 {
		g.tell(false)
	}
	return first
}

// await waits for room for a QoS in a session's queue. It returns nil when there
// may be some, or the time is up. A client that takes nothing of QoS 1 and 2
// messages for the stall time, or too little for a multiple of it, is cut off.
func (b *Broker) await(stop <-chan struct{}, s *session, qos byte) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for late := 0; ; {
		room, since, c := s.waiting(qos)
		if room == nil {
			return nil
		}
		limit, most := b.limit().StallTimeout, patience*b.limit().StallTimeout
		if qos == 0 {
			limit, most = b.limit().Moment, moments*b.limit().Moment
		}
		progress := max(0, min(time.Since(since), time.Since(c.lastProgress())))
		left := min(limit-progress, most-time.Since(since))
		// Where this program itself did not get to run for so long, the client may
		// have taken nothing because of that: it is given a little more.
		if late++; left > 0 {
			late = 0
		}
		if left <= 0 && (qos > 0 || late > grace) && s.tire(qos) && qos > 0 {
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
