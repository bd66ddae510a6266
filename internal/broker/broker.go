// Package broker is an MQTT broker for versions 3.1, 3.1.1 and 5 that lives
// inside the program. Any peer may be hostile: nothing is allocated on a
// claim, every queue is bounded, and a client that does not read its messages
// slows nobody but the publishers whose QoS 1 and 2 messages it must not lose,
// and those only until it is cut off. It does not store anything on disk and
// knows nothing of events.
package broker

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"event2mqtt/internal/broker/wire"
)

// maxLevels bounds topics and filters. Deeper ones are an attack
// (CVE-2019-11779), not a use.
const maxLevels = 200

// ErrClosed is returned by Serve after Close, and by a Publish that Close ends.
var ErrClosed = errors.New("broker is closed")

// Limits bound what clients can use up. Zero values mean the defaults.
type Limits struct {
	// Clients is how many may be connected. Default 1024.
	Clients int
	// PacketSize is the most a client may send in one packet, in bytes.
	// Default 1 MiB.
	PacketSize int
	// ConnectTimeout is how long a client may take to say CONNECT. Default 10 s.
	ConnectTimeout time.Duration
	// Inflight is how many QoS 1 and 2 messages may be unanswered in each
	// direction. Default 1024; a client may ask for less.
	Inflight int
	// QueuedMessages and QueuedBytes bound what waits for one client.
	// Defaults 16,384 and 8 MiB.
	QueuedMessages int
	QueuedBytes    int
	// Subscriptions is how many filters a client may have. Default 8192.
	Subscriptions int
	// Sessions is how many are kept, connected or not. Default 4 * Clients.
	Sessions int
	// RetainedBytes bounds all retained messages. Default 64 MiB.
	RetainedBytes int
	// SessionExpiry is how long an offline session is kept at most. Default 24 h.
	SessionExpiry time.Duration
	// StallTimeout is how long a client whose queue is full may take nothing
	// before it is cut off, and a twelfth of how long its queue may stay full
	// at all. Default 5 s.
	StallTimeout time.Duration
}

func (l *Limits) setDefaults() {
	for _, d := range []struct {
		field *int
		value int
	}{
		{&l.Clients, 1024}, {&l.PacketSize, 1 << 20}, {&l.Inflight, 1024},
		{&l.QueuedMessages, 16384}, {&l.QueuedBytes, 8 << 20}, {&l.Subscriptions, 8192}, {&l.RetainedBytes, 64 << 20},
	} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	if l.Sessions == 0 {
		l.Sessions = 4 * l.Clients
	}
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{{&l.ConnectTimeout, 10 * time.Second}, {&l.SessionExpiry, 24 * time.Hour}, {&l.StallTimeout, 5 * time.Second}} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
}

// maxConnect bounds the first packet, which comes before anything is known
// about the peer.
const maxConnect = 64 << 10

// Message is an application message.
type Message struct {
	Topic   string
	Payload []byte
	QoS     byte
	Retain  bool
	// properties are those of MQTT 5 that are passed on, encoded.
	properties []byte
	expires    time.Time // zero is never
}

func (m *Message) expired(now time.Time) bool { return !m.expires.IsZero() && !now.Before(m.expires) }

// Broker is a running broker. New makes one; Close ends it.
type Broker struct {
	limits   Limits
	log      zerolog.Logger
	subs     trie
	retained retained
	counters counters

	mu        sync.Mutex
	sessions  map[string]*session
	conns     map[*conn]struct{}
	listeners map[net.Listener]struct{}
	closed    bool

	stop chan struct{} // closed by Close
	wg   sync.WaitGroup
}

type counters struct {
	received, sent, dropped, refused atomic.Uint64
}

// Stats are counters since the start, and what is there now.
type Stats struct {
	Clients, Sessions, Retained int
	Received                    uint64 // messages from clients and Publish
	Sent                        uint64 // messages to clients
	Dropped                     uint64 // messages to clients that could not take them
	Refused                     uint64 // connections
}

// New returns a broker without listeners.
func New(limits Limits, log zerolog.Logger) *Broker {
	limits.setDefaults()
	return &Broker{
		limits: limits, log: log,
		sessions: map[string]*session{}, conns: map[*conn]struct{}{}, listeners: map[net.Listener]struct{}{},
		stop: make(chan struct{}),
	}
}

// Serve accepts clients on l until l or the broker is closed. It closes l.
func (b *Broker) Serve(l net.Listener) error {
	defer l.Close()
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return ErrClosed
	}
	b.listeners[l] = struct{}{}
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		delete(b.listeners, l)
		b.mu.Unlock()
	}()
	var pause time.Duration
	for {
		nc, err := l.Accept()
		if err != nil {
			if b.isClosed() || errors.Is(err, net.ErrClosed) {
				return ErrClosed
			}
			// Out of descriptors, most likely: wait for some to come back.
			if pause == 0 {
				b.log.Error().Err(err).Msg("broker: cannot accept a client; trying again")
			}
			pause = min(max(2*pause, 10*time.Millisecond), time.Second)
			select {
			case <-b.stop:
				return ErrClosed
			case <-time.After(pause):
			}
			continue
		}
		pause = 0
		c := b.admit(nc)
		if c == nil {
			_ = nc.Close()
			continue
		}
		go func() {
			defer b.wg.Done()
			c.run()
		}()
	}
}

// admit counts a connection in, b.wg included, or returns nil if there are too
// many.
func (b *Broker) admit(nc net.Conn) *conn {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || len(b.conns) >= b.limits.Clients {
		if b.counters.refused.Add(1) == 1 {
			b.log.Warn().Int("clients", b.limits.Clients).Msg("broker: as many clients as allowed are connected; refusing more")
		}
		return nil
	}
	c := newConn(b, nc)
	b.conns[c] = struct{}{}
	b.wg.Add(1) // before Close can wait
	return c
}

func (b *Broker) isClosed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed
}

// Publish passes a message to every subscriber's queue as a client's PUBLISH
// would. It returns when all have it, after waiting for those whose queue is
// full, or with context.Canceled when ctx ends before. The message must not be
// changed afterwards.
func (b *Broker) Publish(ctx context.Context, m *Message) error {
	b.counters.received.Add(1)
	if m.Retain && !b.retained.set(m, b.limits.RetainedBytes) {
		return errRetainedFull
	}
	return b.deliver(ctx.Done(), nil, m, b.subs.match(m.Topic))
}

var errRetainedFull = errors.New("as many bytes are retained as allowed")

// deliver queues m for all targets and waits where it must. from is the
// session that published it, if any.
func (b *Broker) deliver(stop <-chan struct{}, from *session, m *Message, targets []target) error {
	for {
		if targets = b.try(from, m, targets); len(targets) == 0 {
			return nil
		}
		if err := b.await(stop, targets[0].session); err != nil {
			return err
		}
	}
}

// try queues m for those targets that have room and returns the others.
func (b *Broker) try(from *session, m *Message, targets []target) (rest []target) {
	for i := range targets {
		t := &targets[i]
		if t.session == from && !t.local {
			continue
		}
		o := outgoing{message: m, ids: t.ids, qos: min(t.qos, m.QoS), retain: m.Retain && t.retain}
		switch t.session.offer(o, &b.limits) {
		case full:
			rest = append(rest, *t)
		case dropped:
			b.counters.dropped.Add(1)
		}
	}
	return rest
}

// patience is how many stall time-outs a queue may stay full though its client
// takes a message now and then.
const patience = 12

// await waits for room in a session's queue. A client that takes nothing for
// the stall time, or too little for a multiple of it, is cut off: publishers
// are not to wait for it.
func (b *Broker) await(stop <-chan struct{}, s *session) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		room, since, c := s.waiting()
		if room == nil {
			return nil
		}
		limit := b.limits.StallTimeout
		progress := max(0, min(time.Since(since), time.Since(c.lastProgress())))
		left := min(limit-progress, patience*limit-time.Since(since))
		if left <= 0 && c.overrun() {
			b.log.Warn().Str("client", s.id).Dur("full_for", time.Since(since)).Msg("broker: cut off a client that does not take its messages")
			c.shut(wire.QuotaExceeded, "messages were not taken")
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

// open finds or makes the session for a CONNECT and ties c to it. It ends a
// connection that the client id has already.
func (b *Broker) open(c *conn, p *wire.Connect) (present bool, err error) {
	var due *wire.Will
	for {
		b.mu.Lock()
		if b.closed {
			b.mu.Unlock()
			return false, &wire.Error{Code: wire.ShuttingDown, Reason: "shutting down"}
		}
		s := b.sessions[p.ClientID]
		if s != nil {
			s.mu.Lock()
			old := s.conn
			s.mu.Unlock()
			if old != nil {
				b.mu.Unlock()
				old.shut(wire.TakenOver, "another client connected with this id")
				select {
				case <-old.done:
				case <-b.stop:
				}
				continue
			}
			if s.timer != nil {
				s.timer.Stop()
			}
			if w := s.will; w != nil && w.timer.Stop() && p.CleanStart {
				due = w.Will // its session ends here (3.1.2.5)
			}
			s.will = nil
			if p.CleanStart {
				b.endLocked(s)
				s = nil
			}
		}
		present = s != nil
		if s == nil && len(b.sessions) >= b.limits.Sessions {
			b.mu.Unlock()
			return false, &wire.Error{Code: wire.QuotaExceeded, Reason: "as many sessions as allowed are kept"}
		}
		if s == nil {
			s = &session{id: p.ClientID}
			b.sessions[s.id] = s
		}
		s.expiry = p.SessionExpiry
		c.session = s
		s.attach(c)
		b.mu.Unlock()
		if due != nil {
			b.publishWill(due)
		}
		return present, nil
	}
}

// delayedWill is a will that is published unless its session is taken up.
type delayedWill struct {
	*wire.Will
	timer *time.Timer
}

// release unties a connection that ended from its session, which ends too or
// waits to be taken up again. It publishes the will, now or when it is due.
func (b *Broker) release(c *conn, will *wire.Will) {
	s := c.session
	b.mu.Lock()
	s.detach()
	expiry := time.Duration(s.expiry) * time.Second
	delay := time.Duration(0)
	if will != nil {
		delay = min(time.Duration(will.Delay)*time.Second, expiry)
	}
	if b.closed {
		will = nil // nobody is left to hear it
	}
	if will != nil && delay > 0 {
		s.will = &delayedWill{will, time.AfterFunc(delay, func() { b.publishWill(will) })}
	}
	if expiry == 0 {
		b.endLocked(s)
	} else {
		s.timer = time.AfterFunc(expiry, func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			if s.conn == nil && b.sessions[s.id] == s {
				b.endLocked(s)
			}
		})
	}
	b.mu.Unlock()
	if will != nil && delay == 0 {
		b.publishWill(will)
	}
}

func (b *Broker) publishWill(w *wire.Will) {
	m := newMessage(&w.Publish)
	if m.Retain {
		b.retained.set(m, b.limits.RetainedBytes)
	}
	_ = b.deliver(b.stop, nil, m, b.subs.match(m.Topic)) // ends only with the broker
}

// endLocked ends a session. b.mu is held.
func (b *Broker) endLocked(s *session) {
	delete(b.sessions, s.id)
	for filter := range s.filters {
		b.subs.remove(filter, s)
	}
	s.end()
}

// Stats returns the counters.
func (b *Broker) Stats() Stats {
	b.retained.mu.RLock()
	kept := b.retained.count
	b.retained.mu.RUnlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	return Stats{
		Clients: len(b.conns), Sessions: len(b.sessions), Retained: kept,
		Received: b.counters.received.Load(), Sent: b.counters.sent.Load(),
		Dropped: b.counters.dropped.Load(), Refused: b.counters.refused.Load(),
	}
}

// Close stops listening, lets every client have what is queued for it until
// ctx ends, says goodbye and waits for all of the broker's goroutines.
func (b *Broker) Close(ctx context.Context) {
	b.mu.Lock()
	already := b.closed
	b.closed = true
	for l := range b.listeners {
		_ = l.Close()
	}
	var conns []*conn
	for c := range b.conns {
		conns = append(conns, c)
	}
	for _, s := range b.sessions {
		if s.timer != nil {
			s.timer.Stop()
		}
		if s.will != nil {
			s.will.timer.Stop()
		}
	}
	b.mu.Unlock()
	if !already {
		close(b.stop)
	}
	for _, c := range conns {
		c.drain()
	}
	done := make(chan struct{})
	go func() { b.wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
		for _, c := range conns {
			c.shut(wire.ShuttingDown, "")
		}
		<-done
	}
}

// assignedID makes a client id for a client that leaves it to us.
func assignedID() string { return "auto-" + strings.ToLower(rand.Text()[:16]) }
