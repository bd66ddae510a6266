package broker

import (
	"slices"
	"sync"
	"time"

	"event2mqtt/internal/broker/wire"
)

// session is what the broker keeps for a client id: its subscriptions and
// what is on the way to it. It may outlive the connection.
type session struct {
	id string

	// mu guards what follows, and those fields of conn that say so. It is
	// held for short; never while waiting or across network calls.
	mu         sync.Mutex
	conn       *conn // nil while offline
	gone       bool  // ended: nothing is queued for it any more
	queue      fifo[outgoing]
	queueBytes int
	inflight   map[uint16]inflight // sent with QoS 1 or 2, not yet complete
	// inflightBytes is the size of those that may have to be sent again.
	inflightBytes int
	lastID        uint16
	sent          uint64
	// room is there while somebody waits for room; it is closed when there
	// may be some. fullSince is when the waiting began.
	room      chan struct{}
	fullSince time.Time
	// overrun is set when the client was cut off for not taking its messages:
	// until it has taken a good part, more are dropped instead of waited with.
	overrun bool
	filters map[string]subscription
	// received are the QoS 2 messages from the client that were not yet
	// released; true once they were passed on.
	received map[uint16]bool

	// b.mu guards these.
	expiry uint32 // seconds
	timer  *time.Timer
	will   *delayedWill
}

// outgoing is a message on its way to a session.
type outgoing struct {
	message *Message
	ids     []uint32
	qos     byte
	retain  bool
}

func (o *outgoing) size() int {
	return len(o.message.Topic) + len(o.message.Payload) + len(o.message.properties) + 4*len(o.ids) + 64
}

type inflight struct {
	outgoing
	order    uint64
	released bool  // PUBREC came; a PUBREL is due
	by       *conn // that sent it last
}

type verdict int

const (
	taken   verdict = iota // queued, or not wanted
	dropped                // lost, and counted
	full                   // ask again when there is room
)

// offer queues a message for the session.
func (s *session) offer(o outgoing, limit *Limits) verdict {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone || s.conn == nil && o.qos == 0 {
		return taken
	}
	maxCount, maxBytes := limit.QueuedMessages, limit.QueuedBytes
	if o.qos == 0 {
		maxCount, maxBytes = maxCount/2, maxBytes/2 // leave room for what must not be lost
	}
	if n := s.queue.len(); n > 0 && (n >= maxCount || s.queueBytes+o.size() > maxBytes) {
		if o.qos == 0 || s.conn == nil || s.overrun {
			return dropped
		}
		if s.room == nil {
			s.room = make(chan struct{})
		}
		if s.fullSince.IsZero() {
			s.fullSince = time.Now()
		}
		return full
	}
	s.push(o)
	return taken
}

// push queues without regard to limits. s.mu is held.
func (s *session) push(o outgoing) {
	s.queue.push(o)
	s.queueBytes += o.size()
	if s.conn != nil {
		s.conn.wakeWriter()
	}
}

// waiting returns a channel that is closed when there may be room for what was
// offered, since when the queue is full, and the connection to blame; nil if
// there may be room by now.
func (s *session) waiting() (room <-chan struct{}, since time.Time, c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.room == nil || s.conn == nil {
		return nil, time.Time{}, nil
	}
	return s.room, s.fullSince, s.conn
}

// tellRoom wakes publishers that wait. With all, the queue has room for more
// than one message. s.mu is held.
func (s *session) tellRoom(all bool) {
	if s.room != nil {
		close(s.room)
		s.room = nil
	}
	if all {
		s.fullSince, s.overrun = time.Time{}, false
	}
}

// packet is one thing to write: a message with its id, or a PUBREL.
type packet struct {
	outgoing
	id      uint16
	dup     bool
	release bool
}

// pop appends what may be sent now to batch, up to its capacity. s.mu is held.
func (s *session) pop(c *conn, batch []packet, limit *Limits) []packet {
	for len(batch) < cap(batch) && len(c.resend) > 0 && c.unanswered < c.window {
		id := c.resend[0]
		c.resend = c.resend[1:]
		if f, ok := s.inflight[id]; ok {
			f.by = c
			c.unanswered++
			s.inflight[id] = f
			batch = append(batch, packet{f.outgoing, id, true, f.released})
		}
	}
	popped := false
	for len(batch) < cap(batch) && s.queueReady(c, limit) {
		o := s.queue.pop()
		popped = true
		s.queueBytes -= o.size()
		p := packet{outgoing: o}
		if o.qos > 0 {
			p.id = s.nextID()
			if s.inflight == nil {
				s.inflight = map[uint16]inflight{}
			}
			s.sent++
			c.unanswered++
			s.inflightBytes += o.size()
			s.inflight[p.id] = inflight{outgoing: o, order: s.sent, by: c}
		}
		batch = append(batch, p)
	}
	if popped {
		// Publishers are woken when a good part is free, not for each message,
		// but that one message may be larger than that part.
		all := s.queue.len() <= limit.QueuedMessages*3/4 && s.queueBytes <= limit.QueuedBytes*3/4
		if all || s.queue.len() == 0 {
			s.tellRoom(all)
		}
	}
	return batch
}

// queueReady reports whether the next message in the queue may be sent. With
// QoS 1 and 2 the answers to those before it may have to come first. s.mu is held.
func (s *session) queueReady(c *conn, limit *Limits) bool {
	if s.queue.len() == 0 || len(c.resend) > 0 {
		return false
	}
	return s.queue.peek().qos == 0 || c.unanswered < c.window && s.inflightBytes <= limit.QueuedBytes
}

// canSend reports whether pop would find something. s.mu is held.
func (s *session) canSend(c *conn, limit *Limits) bool {
	return len(c.resend) > 0 && c.unanswered < c.window || s.queueReady(c, limit)
}

func (s *session) nextID() uint16 {
	for {
		s.lastID++
		if _, used := s.inflight[s.lastID]; s.lastID != 0 && !used {
			return s.lastID
		}
	}
}

// acknowledged handles a PUBACK, PUBREC or PUBCOMP from the client. The
// answer is a PUBREL for a PUBREC and nil otherwise.
func (s *session) acknowledged(c *conn, t wire.Type, a wire.Ack) *wire.Ack {
	s.mu.Lock()
	defer s.mu.Unlock()
	f, ok := s.inflight[a.PacketID]
	switch {
	case t == wire.PUBREC && !ok:
		return &wire.Ack{PacketID: a.PacketID, Code: wire.PacketIDNotFound}
	case !ok || (f.qos == 2) == (t == wire.PUBACK):
		return nil // nothing with this id is on the way, or with another QoS
	case t == wire.PUBREC && a.Code < wire.Unspecified:
		if !f.released {
			f.released = true
			s.inflightBytes -= f.size()
			f.message = nil // the client has it
			s.inflight[a.PacketID] = f
			c.sign()
		}
		return &wire.Ack{PacketID: a.PacketID}
	}
	c.sign()
	s.forget(a.PacketID)
	c.wakeWriter()
	return nil
}

// forget takes a message off those on the way. s.mu is held.
func (s *session) forget(id uint16) {
	f, ok := s.inflight[id]
	if !ok {
		return
	}
	if !f.released {
		s.inflightBytes -= f.size()
	}
	if f.by == s.conn && s.conn != nil {
		s.conn.unanswered--
	}
	delete(s.inflight, id)
}

// attach makes c the session's connection and has it send again what is not
// complete, in the order it was sent first (4.4).
func (s *session) attach(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conn = c
	for id := range s.inflight {
		c.resend = append(c.resend, id)
	}
	slices.SortFunc(c.resend, func(a, b uint16) int { return int(s.inflight[a].order) - int(s.inflight[b].order) })
	for id, passedOn := range s.received {
		if !passedOn { // the client will send it again
			delete(s.received, id)
		}
	}
}

// detach takes the connection off. QoS 0 messages do not wait for the next.
func (s *session) detach() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conn = nil
	s.queue.filter(func(o *outgoing) bool {
		if o.qos == 0 {
			s.queueBytes -= o.size()
		}
		return o.qos > 0
	})
	s.tellRoom(false)
	s.fullSince = time.Time{}
}

// end frees what the session holds.
func (s *session) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone = true
	s.queue, s.inflight, s.received = fifo[outgoing]{}, nil, nil
	s.queueBytes, s.inflightBytes = 0, 0
	s.tellRoom(true)
}

// fifo is a queue that keeps its memory small when it is empty.
type fifo[T any] struct {
	items []T
	head  int
}

func (f *fifo[T]) len() int { return len(f.items) - f.head }

func (f *fifo[T]) push(v T) { f.items = append(f.items, v) }

func (f *fifo[T]) peek() *T { return &f.items[f.head] }

func (f *fifo[T]) pop() T {
	var zero T
	v := f.items[f.head]
	f.items[f.head] = zero
	f.head++
	switch {
	case f.head == len(f.items):
		if f.head = 0; cap(f.items) > 1024 {
			f.items = nil
		} else {
			f.items = f.items[:0]
		}
	case f.head >= 256 && f.head > len(f.items)/2:
		n := copy(f.items, f.items[f.head:])
		clear(f.items[n:])
		f.items, f.head = f.items[:n], 0
	}
	return v
}

func (f *fifo[T]) filter(keep func(*T) bool) {
	f.items = slices.DeleteFunc(f.items[f.head:], func(v T) bool { return !keep(&v) })
	f.head = 0
}
