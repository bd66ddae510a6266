package broker

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"event2mqtt/internal/broker/accounts"
	"event2mqtt/internal/wire"
)

// session is what the broker keeps for a client id: its subscriptions and
// what is on the way to it. It may outlive the connection.
type session struct {
	id string
	// key is what the session is known by: one user's client id is not that of
	// another, who could keep that user out with it.
	key  string
	user string // who it belongs to; empty for anonymous clients
	// inside is set for a subscription of the program itself. Such a session
	// has no connection and no id, is not in Broker.sessions, and nothing is
	// waited for, counted or stored for it; only its place among the
	// subscribers is that of others.
	inside *inside
	// stored sessions outlive the connection, and the program if it has a store.
	stored bool
	// rules are what the user may do, as it is now; nil is everything.
	rules atomic.Pointer[accounts.Rules]
	total *atomic.Int64 // bytes in the queues of all sessions
	// unreleased counts what is in received of all sessions.
	unreleased *atomic.Int64

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
	order         uint64 // of the newest message queued, if stored
	// strict is where publishers of QoS 1 and 2 messages wait for room in the
	// queue, brief where those of QoS 0 do.
	strict, brief gate
	selfWaits     bool // the client itself is among those at brief
	filters       map[string]subscription
	weight        int // of all filters
	// due are subscriptions whose retained messages are queued one after the
	// other, each when the queue is empty.
	due []retainedDue
	// received are the QoS 2 messages from the client that were not yet
	// released; true once they were passed on.
	received map[uint16]bool
	counted  int // of received, in b.unreleased

	// b.mu guards these.
	expiry  uint32    // seconds
	expires time.Time // of an offline session that was restored
	timer   *time.Timer
	will    *delayedWill
}

// keyOf is session.key. Neither a user's name nor a client id holds U+0000.
func keyOf(user, id string) string {
	if user == "" {
		return id
	}
	return user + "\x00" + id
}

// retainedDue is a subscription whose retained messages are to be sent.
type retainedDue struct {
	filter string
	qos    byte
	id     uint32
	turn   uint64 // later ones come by themselves
}

// outgoing is a message on its way to a session.
type outgoing struct {
	message *Message
	ids     []uint32
	order   uint64 // within a stored session; 0 for what is not stored
	qos     byte
	retain  bool
	dup     bool // may have been sent before a crash
}

func (o *outgoing) size() int { return o.message.size() + 4*len(o.ids) }

// size is about what a queued message takes of memory.
func (m *Message) size() int {
	const overhead = 200
	return len(m.Topic) + len(m.Payload) + len(m.properties) + overhead
}

type inflight struct {
	outgoing
	sent     uint64 // the order in which they were sent first
	released bool   // PUBREC came; a PUBREL is due
	by       *conn  // that sent it last
}

func (s *session) mayRead(topic string) bool {
	rules := s.rules.Load()
	return rules == nil || rules.MayRead(topic)
}

func (s *session) mayWrite(topic string) bool {
	rules := s.rules.Load()
	return rules == nil || rules.MayWrite(topic)
}

// How fit a session is for a message of a shared subscription.
const (
	fit = 3 // connected, and has room
)

func (s *session) fitness(m *Message, limit *Limits) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.gone || s.conn == nil && m.QoS == 0:
		return 0
	case s.conn == nil:
		return 1
	case s.isFull(m.size(), m.QoS, limit):
		return 2
	}
	return fit
}

// verdict is what became of a message that was put into a queue.
type verdict byte

const (
	accepted verdict = iota // or not wanted
	dropped
	later // there is no room, and its publisher is to wait for some
)

// put queues a message, though the queue be full if publishers wait for the
// session and, with waited, have done so. It returns the message's order if it
// is to be stored. from is the session that published it, if any.
func (s *session) put(o outgoing, limit *Limits, waited bool, from *session) (order uint64, v verdict) {
	if s.inside != nil {
		if !s.inside.put(o.message) {
			return 0, dropped
		}
		return 0, accepted
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gone || s.conn == nil && o.qos == 0 {
		return 0, accepted
	}
	if waits := s.waits(o.qos); (!waited || !waits) && s.isFull(o.size(), o.qos, limit) {
		if !waits || s == from && !s.queueReady(s.conn, limit) { // what makes room may be behind this message
			return 0, dropped
		}
		s.gate(o.qos).wait()
		s.selfWaits = s.selfWaits || s == from
		return 0, later
	}
	if s.stored && o.qos > 0 {
		s.order++
		o.order = s.order
	}
	s.push(o)
	return o.order, accepted
}

// push queues without regard to limits. s.mu is held.
func (s *session) push(o outgoing) {
	s.queue.push(o)
	s.account(o.size())
	if s.conn != nil {
		s.conn.wakeWriter()
	}
}

// account notes bytes that came into the queue, or went. s.mu is held.
func (s *session) account(bytes int) {
	s.queueBytes += bytes
	s.total.Add(int64(bytes))
}

// packet is one thing to write: a message with its id, or a PUBREL.
type packet struct {
	outgoing
	id      uint16
	again   bool // it was sent before, on an earlier connection
	release bool
}

// pop appends what may be sent now to batch, up to its capacity. s.mu is held.
func (s *session) pop(c *conn, batch []packet, limit *Limits) []packet {
	for len(batch) < cap(batch) && len(c.resend) > 0 && c.unanswered < c.window {
		id := c.resend[0]
		c.resend = c.resend[1:]
		if f, ok := s.inflight[id]; ok {
			f.by, f.dup = c, true
			c.unanswered++
			s.inflight[id] = f
			batch = append(batch, packet{f.outgoing, id, true, f.released})
		}
	}
	popped, over := 0, 0 // bytes, and those that need not be kept
	for len(batch) < cap(batch) && s.queueReady(c, limit) {
		o := s.queue.pop()
		popped += o.size()
		p := packet{outgoing: o}
		if o.qos > 0 {
			p.id = s.nextID()
			c.unanswered++
			s.fly(p.id, inflight{outgoing: o, by: c})
		} else {
			over += o.size()
		}
		batch = append(batch, p)
	}
	if popped > 0 {
		s.queueBytes -= popped
		s.total.Add(-int64(over))
		s.tellPopped(limit)
	}
	return batch
}

// fly notes a message that is on its way. s.mu is held.
func (s *session) fly(id uint16, f inflight) {
	if s.inflight == nil {
		s.inflight = map[uint16]inflight{}
	}
	s.sent++
	f.sent = s.sent
	if f.message != nil {
		s.inflightBytes += f.size()
	}
	s.inflight[id] = f
}

// landed frees the bytes of a message on its way. s.mu is held.
func (s *session) landed(f *inflight) {
	s.inflightBytes -= f.size()
	s.total.Add(-int64(f.size()))
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
// answer is a PUBREL for a PUBREC and nil otherwise. What changed for a stored
// session goes into news.
func (s *session) acknowledged(c *conn, t wire.Type, a wire.Ack, news *changes) *wire.Ack {
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
			s.landed(&f)
			f.message = nil // the client has it
			s.inflight[a.PacketID] = f
			c.sign()
			if f.order != 0 {
				news.received = append(news.received, f.order)
			}
		}
		return &wire.Ack{PacketID: a.PacketID}
	}
	c.sign()
	if f.order != 0 {
		news.done = append(news.done, f.order)
	}
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
		s.landed(&f)
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
	s.rules.Store(c.rules())
	s.purge()
	s.conn = c
	for id := range s.inflight {
		c.resend = append(c.resend, id)
	}
	slices.SortFunc(c.resend, func(a, b uint16) int { return cmp.Compare(s.inflight[a].sent, s.inflight[b].sent) })
	for id, passedOn := range s.received {
		if !passedOn { // the client will send it again
			delete(s.received, id)
		}
	}
	s.countReceived()
}

// countReceived brings the count of all sessions up to date. s.mu is held.
func (s *session) countReceived() {
	s.unreleased.Add(int64(len(s.received) - s.counted))
	s.counted = len(s.received)
}

// passedOn notes that a QoS 2 message of the client was passed on.
func (s *session) passedOn(id uint16) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.received != nil {
		s.received[id] = true
		s.countReceived()
	}
}

// purge drops what is on the way and may not be read any more. s.mu is held.
func (s *session) purge() {
	if s.rules.Load() == nil {
		return
	}
	before := s.queue.len()
	s.filterQueue(func(o *outgoing) bool { return s.mayRead(o.message.Topic) })
	if s.queue.len() < before {
		s.tellRoom(true)
	}
	for id, f := range s.inflight {
		if s.conn == nil && !f.released && !s.mayRead(f.message.Topic) {
			s.forget(id)
		}
	}
}

func (s *session) filterQueue(keep func(*outgoing) bool) {
	gone := 0
	s.queue.filter(func(o *outgoing) bool {
		if keep(o) {
			return true
		}
		gone += o.size()
		return false
	})
	s.account(-gone)
}

// detach takes the connection off. QoS 0 messages do not wait for the next.
func (s *session) detach() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conn = nil
	for id, f := range s.inflight {
		f.by = nil // lets the connection's memory go
		s.inflight[id] = f
	}
	s.filterQueue(func(o *outgoing) bool { return o.qos > 0 })
	s.tellRoom(false)
	s.strict.since, s.brief.since = time.Time{}, time.Time{}
}

// end frees what the session holds.
func (s *session) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone = true
	s.total.Add(-int64(s.inflightBytes))
	s.account(-s.queueBytes)
	s.queue, s.inflight, s.received, s.due = fifo[outgoing]{}, nil, nil, nil
	s.countReceived()
	s.inflightBytes = 0
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

// at returns the i-th item from the front.
func (f *fifo[T]) at(i int) *T { return &f.items[f.head+i] }
