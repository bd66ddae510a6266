// Package broker is an MQTT broker for versions 3.1, 3.1.1 and 5 that lives
// inside the program. Any peer may be hostile: nothing is allocated on a
// claim, every queue is bounded, and a client that does not read its messages
// slows nobody but the publishers whose QoS 1 and 2 messages it must not lose,
// and those only until it is cut off. Sessions, their queues and what is
// retained survive a crash: what was acknowledged is on disk. It knows nothing
// of events.
package broker

import (
	"context"
	"crypto/rand"
	"errors"
	"maps"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"event2mqtt/internal/broker/accounts"
	"event2mqtt/internal/journal"
	"event2mqtt/internal/retry"
	"event2mqtt/internal/wire"
)

// ErrClosed is returned by Serve after Close, and by a Publish that Close ends.
var ErrClosed = errors.New("broker is closed")

// Options configure a Broker. The zero value is a broker in memory that lets
// everybody do everything.
type Options struct {
	Limits Limits
	// Accounts decide who may connect, and what each may do.
	Accounts *accounts.Accounts
	// Folder is where sessions and retained messages are kept. Without one
	// they end with the program.
	Folder journal.FS
	// SaveInterval is how long a retained QoS 0 message may be in memory only,
	// or a later one that says SaveLater, so that values which change all the
	// time do not wear out a flash card.
	// Default 5 s.
	SaveInterval time.Duration
	// SysInterval is how often $SYS topics are brought up to date. 0 is never.
	SysInterval time.Duration
	// Version is shown at $SYS/broker/version.
	Version string
	Log     zerolog.Logger
}

// Message is an application message.
type Message struct {
	Topic   string
	Payload []byte
	QoS     byte
	Retain  bool
	// SaveLater says that a crash may take what the message retains, as when it
	// is published again after one: it is stored within the save interval,
	// rather than before the message is acknowledged.
	SaveLater bool
	// properties are those of MQTT 5 that are passed on, encoded.
	properties []byte
	expires    time.Time // zero is never
	// source is the user who published it, for what is retained, and client
	// the client id, which is not stored.
	source, client string
	kept           uint64        // when it was retained, as retained counts
	arrived        time.Duration // when it was read from a client, since the broker began; 0 is not known
}

func (m *Message) expired(now time.Time) bool { return !m.expires.IsZero() && !now.Before(m.expires) }

// newMessage makes a message of what s has published.
func (b *Broker) newMessage(p *wire.Publish, s *session) *Message {
	m := &Message{
		Topic: p.Topic, Payload: p.Payload, QoS: p.QoS, Retain: p.Retain, properties: p.Properties,
		source: s.user, client: s.id, arrived: b.sinceBegan(),
	}
	if p.HasExpiry {
		m.expires = time.Now().Add(time.Duration(p.Expiry) * time.Second)
	}
	return m
}

// Broker is a running broker. New makes one; Close ends it.
//
// Locks are taken in this order: Broker.mu, store.mu, retained.mu, session.mu.
type Broker struct {
	limits   atomic.Pointer[Limits]
	accounts *accounts.Accounts
	log      zerolog.Logger
	subs     trie
	retained retained
	store    *store // nil without a folder
	counters counters
	began    time.Time
	version  string

	mu        sync.Mutex
	sessions  map[string]*session
	conns     map[*conn]struct{}
	perAddr   map[netip.Prefix]int // conns, and those that wait as HTTP
	waiting   map[*waiter]struct{} // who has not finished the CONNECT
	http      map[net.Conn]*waiter // those of waiting that are no WebSocket yet
	pending   int                  // those of waiting that are conns
	large     map[netip.Prefix]int // CONNECTs above maxConnect that are under way
	listeners map[net.Listener]struct{}
	closed    bool

	warnMu sync.Mutex
	warned map[string]time.Time // when each key was last logged
	lines  budgets              // of the log, for who comes and goes

	queued     atomic.Int64 // bytes in all queues
	unreleased atomic.Int64 // QoS 2 messages in session.received
	writers    sync.Pool    // of *writer

	sysInterval chan time.Duration // to publishSys

	stop chan struct{} // closed by Close
	wg   sync.WaitGroup
}

// New returns a broker without listeners. The error is one of reading back
// what was stored.
func New(o Options) (*Broker, error) {
	o.Limits.setDefaults()
	if o.SaveInterval == 0 {
		o.SaveInterval = 5 * time.Second
	}
	b := &Broker{
		accounts: o.Accounts, log: o.Log, began: time.Now(), version: o.Version,
		sessions: map[string]*session{}, conns: map[*conn]struct{}{}, listeners: map[net.Listener]struct{}{},
		perAddr: map[netip.Prefix]int{}, waiting: map[*waiter]struct{}{}, http: map[net.Conn]*waiter{}, large: map[netip.Prefix]int{}, warned: map[string]time.Time{},
		stop: make(chan struct{}), sysInterval: make(chan time.Duration),
	}
	b.limits.Store(&o.Limits)
	b.writers.New = func() any { return new(writer) }
	if o.Folder != nil {
		if err := b.openStore(o.Folder, o.SaveInterval); err != nil {
			return nil, err
		}
		b.wg.Go(b.keepStore)
	}
	b.wg.Go(b.sweep)
	b.wg.Go(func() { b.publishSys(o.SysInterval) })
	return b, nil
}

// limit returns the limits as they are now.
func (b *Broker) limit() *Limits { return b.limits.Load() }

// SetLimits changes the limits. Those that a client was told hold for it until
// it comes again, and what is there already is not thrown out for them.
func (b *Broker) SetLimits(l Limits) {
	l.setDefaults()
	b.limits.Store(&l)
	if b.store != nil {
		b.store.resize(&l)
	}
}

// SetIntervals changes Options.SaveInterval and SysInterval.
func (b *Broker) SetIntervals(save, sys time.Duration) {
	if b.store != nil {
		b.store.save.Store(int64(save))
	}
	select {
	case b.sysInterval <- sys:
	case <-b.stop:
	}
}

// Serve accepts clients on l until l or the broker is closed. It closes l.
func (b *Broker) Serve(l net.Listener) error {
	defer l.Close()
	if !b.addListener(l) {
		return ErrClosed
	}
	defer b.removeListener(l)
	again := retry.Loop{Min: 10 * time.Millisecond, Max: time.Second}
	for {
		nc, err := l.Accept()
		if err != nil {
			if b.isClosed() || errors.Is(err, net.ErrClosed) {
				return ErrClosed
			}
			// Out of descriptors, most likely: wait for some to come back.
			b.warn("accept").Err(err).Msg("broker: cannot accept a client; trying again")
			pause, _ := again.Next(err, 0)
			select {
			case <-b.stop:
				return ErrClosed
			case <-time.After(pause):
			}
			continue
		}
		again.Reset()
		if c := b.admit(nc); c != nil {
			go func() {
				defer b.wg.Done()
				c.run()
			}()
		} else {
			_ = nc.Close()
		}
	}
}

func (b *Broker) addListener(l net.Listener) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed {
		b.listeners[l] = struct{}{}
	}
	return !b.closed
}

func (b *Broker) removeListener(l net.Listener) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.listeners, l)
}

// warn returns a log line that is written at most once a minute for each key.
// It may be called with any lock held.
func (b *Broker) warn(key string) *zerolog.Event {
	const quiet, maxKeys = time.Minute, 1024
	b.warnMu.Lock()
	defer b.warnMu.Unlock()
	now := time.Now()
	last, known := b.warned[key]
	if known && now.Sub(last) < quiet {
		return nil // zerolog takes it for a line that is not to be written
	}
	if len(b.warned) >= maxKeys {
		maps.DeleteFunc(b.warned, func(_ string, last time.Time) bool { return now.Sub(last) >= quiet })
		if len(b.warned) >= maxKeys {
			return nil
		}
	}
	b.warned[key] = now
	return b.log.Warn()
}

func (b *Broker) isClosed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed
}

// AccountsChanged makes connections and sessions follow the accounts as they
// are now: who would not be let in any more is cut off, and what may not be
// read any more is not sent.
func (b *Broker) AccountsChanged() {
	b.mu.Lock()
	cut := map[*conn]string{} // and why
	for _, s := range b.sessions {
		s.mu.Lock()
		c := s.conn
		var rules accounts.Rules
		allowed := true
		if c != nil {
			rules, allowed = b.accounts.Still(c.grant, s.id, c.addr)
		} else {
			rules, allowed = b.accounts.Rules(s.user, s.id)
		}
		s.rules.Store(&rules)
		s.purge()
		s.mu.Unlock()
		if !allowed && c != nil {
			cut[c] = b.accountChanged(c.grant)
		} else if !allowed {
			b.endLocked(s)
		}
	}
	b.subs.version.Add(1) // what publishers found for a topic may have changed
	b.mu.Unlock()
	for c, why := range cut {
		c.shut(wire.NotAuthorized, why)
	}
}

// accountChanged says why a client that was let in may not stay.
func (b *Broker) accountChanged(g accounts.Grant) string {
	switch {
	case g.User != "":
		return "the account was changed"
	case b.accounts.Count() > 0:
		return "accounts exist now; a user name is needed"
	}
	return "broker.allow_anonymous is false now; without accounts, only clients of this machine may connect"
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
	if !already && b.store != nil {
		b.store.close(b)
	}
}

// assignedID makes a client id for a client that leaves it to us.
func assignedID() string { return "auto-" + strings.ToLower(rand.Text()[:16]) }

// addressOf is the address of a peer, if it is one that can be told apart.
func addressOf(nc net.Conn) netip.Addr {
	if a, ok := nc.RemoteAddr().(*net.TCPAddr); ok {
		return a.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}
