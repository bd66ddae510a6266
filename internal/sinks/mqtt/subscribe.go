package mqtt

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/rs/zerolog"
)

// This file is the way back: what others publish for this program. It must not
// harm the way of the events: nothing waits for it, a message that is too large
// is skipped, and a broker that refuses to be subscribed to still gets events.

// Subscription is what a sink asks its broker for, again on each connection.
// Sessions are clean: what is published while there is no connection is lost
// rather than late.
type Subscription struct {
	// Filters must not overlap, or a message may come more than once.
	Filters []string
	// Use is given the messages, one at a time. It should return soon, since
	// the end of a connection waits for it and few messages are kept meanwhile;
	// more are skipped.
	Use func(Incoming)
}

// Incoming is a message that was published for this program.
type Incoming struct {
	Topic   string
	Payload []byte // must not be changed
	// Retained is whether it may be an old one: it was retained before this
	// connection subscribed to it (3.3.1.3). The bundled broker also says so of
	// one that was published with the retain flag later; MQTT 3.1.1 cannot.
	Retained bool
	// User and Client are the user name and the client id of who published it.
	// Only the bundled broker tells: User is empty for an anonymous client, and
	// both are empty for what event2mqtt itself has published.
	User, Client string
	// Received is when the broker had read it, if it is the bundled one, and
	// otherwise when it came here. It is zero for what was retained at the
	// bundled broker before the program started.
	Received time.Time
}

// size is the remaining length of a QoS 0 packet of it, in bytes.
func (in *Incoming) size() int { return 2 + len(in.Topic) + len(in.Payload) }

// incomingQueue is how many messages from a broker may wait for Use; each has
// at most maxIncoming bytes.
const incomingQueue = 64

// hearing is what a Sink knows of its subscription. Its fields are of Run, but
// for those that say otherwise.
type hearing struct {
	failed int    // connections that ended, or were silent, when asked, one after the other
	said   string // what was logged last

	missed      atomic.Uint64 // messages, for any reason
	large, fast rarely
}

// errNotGranted wraps why a broker does not let itself be subscribed to.
var errNotGranted = errors.New("the broker does not allow event2mqtt to subscribe")

// subscribe asks a new connection for what the sink is to be told. The error is
// one of the connection. A broker that refuses is asked again on the next
// connection. One that ends the connection instead, or does not answer, is left
// alone for the length of one connection when it has done so several times:
// without that, no event would ever be sent.
func (s *Sink) subscribe(ctx context.Context, l link) error {
	sub, h := s.opt.Subscription, &s.hearing
	if sub == nil {
		return nil
	}
	if h.failed >= certain {
		h.failed--
		return nil
	}
	err := l.subscribe(ctx, sub.Filters, sub.Use)
	switch {
	case err == nil:
		h.failed = 0
		if h.said != "" {
			h.said = ""
			s.opt.Log.Info().Msg("mqtt: the broker allows event2mqtt to subscribe again; commands are accepted")
		}
		return nil
	case errors.Is(err, errNotGranted):
		h.failed = 0
		s.sayDeaf(err.Error())
		return nil
	case ctx.Err() != nil:
		return err
	}
	if h.failed++; h.failed >= certain {
		s.sayDeaf(fmt.Sprintf("the broker ends the connection, or does not answer, when event2mqtt subscribes to %s; every other connection goes without", strings.Join(sub.Filters, ", ")))
	}
	return err
}

// sayDeaf says why no command can come, unless that was said last.
func (s *Sink) sayDeaf(why string) {
	if why != s.hearing.said {
		s.hearing.said = why
		s.opt.Log.Error().Msgf("mqtt: %s. Events are sent, but no command is accepted; allow this user to subscribe at the broker", why)
	}
}

// Missed returns how many messages for this program were skipped since the
// start, because they were too large or came too fast.
func (s *Sink) Missed() uint64 { return s.hearing.missed.Load() }

// tooLarge notes that a message was skipped for its size. Any goroutine may
// call it.
func (s *Sink) tooLarge(topic string, bytes int) {
	s.hearing.missed.Add(1)
	if e := s.hearing.large.line(&s.opt.Log); e != nil {
		e.Str("topic", shorten(topic)).Int("bytes", bytes).Int("most", maxIncoming).Msg("mqtt: a message for event2mqtt is too large and is skipped")
	}
}

// tooFast notes that a message was skipped because too many wait. Any goroutine
// may call it.
func (s *Sink) tooFast(topic string) {
	s.hearing.missed.Add(1)
	if e := s.hearing.fast.line(&s.opt.Log); e != nil {
		e.Str("topic", shorten(topic)).Msg("mqtt: messages for event2mqtt come faster than it takes them; the newest are skipped")
	}
}

// rarely lets one line through a minute: others must not be able to fill the log.
type rarely struct {
	mu      sync.Mutex
	last    time.Time
	leftOut int // since then
}

// line begins a line, or returns nil.
func (r *rarely) line(log *zerolog.Logger) *zerolog.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.last.IsZero() && time.Since(r.last) < time.Minute {
		r.leftOut++
		return nil
	}
	e := log.Warn()
	if r.leftOut > 0 {
		e = e.Int("lines_left_out", r.leftOut)
	}
	r.last, r.leftOut = time.Now(), 0
	return e
}

// subscribe implements link. The broker has a queue of its own.
func (l *bundledLink) subscribe(ctx context.Context, filters []string, use func(Incoming)) error {
	var one sync.Mutex // each filter has a goroutine
	take := func(in Incoming) {
		one.Lock()
		defer one.Unlock()
		switch {
		case ctx.Err() != nil:
		case in.size() > maxIncoming: // as over a network
			l.tooLarge(in.Topic, in.size())
		default:
			use(in)
		}
	}
	for _, filter := range filters {
		cancel, err := l.Subscribe(filter, take)
		if err != nil {
			return fmt.Errorf("%w: %w", errNotGranted, err)
		}
		l.cancels = append(l.cancels, cancel)
	}
	return nil
}

// mailbox is where messages from a broker in the network wait. paho calls
// arrived on the goroutine that also hands over acknowledgements, and one after
// the other; that must never wait, so what does not fit is skipped.
type mailbox struct {
	queue   chan Incoming
	tooFast func(topic string)
	reading sync.WaitGroup
}

func (m *mailbox) arrived(_ paho.Client, p paho.Message) {
	select {
	case m.queue <- Incoming{Topic: p.Topic(), Payload: p.Payload(), Retained: p.Retained(), Received: time.Now()}:
	default:
		m.tooFast(p.Topic())
	}
}

// read gives what arrives to use until ctx ends; when the connection ends, what
// has come until then is still given.
func (m *mailbox) read(ctx context.Context, ended <-chan struct{}, use func(Incoming)) {
	for {
		select {
		case in := <-m.queue:
			if ctx.Err() != nil { // select may prefer the queue
				return
			}
			use(in)
			continue
		case <-ctx.Done():
			return
		case <-ended:
		}
		for ctx.Err() == nil {
			select {
			case in := <-m.queue:
				use(in)
			default:
				return
			}
		}
		return
	}
}

// subscribe implements link, with QoS 0. Both ends of the connection being up,
// that loses nothing; with QoS 1 a broker would hold back what was not yet
// acknowledged, and deliver commands late, and every message would cause a
// write, which takes its turn with those of the events.
func (l *networkLink) subscribe(ctx context.Context, filters []string, use func(Incoming)) error {
	l.mail.reading.Go(func() { l.mail.read(ctx, l.ended, use) }) // close waits for it
	for _, filter := range filters {
		t := l.client.Subscribe(filter, 0, nil) // without a handler of its own it is for arrived
		if err := l.await(ctx, t); err != nil {
			return fmt.Errorf("subscribe to %s: %w", filter, err)
		}
		granted := false
		for _, code := range t.(*paho.SubscribeToken).Result() {
			granted = code < 0x80
		}
		if !granted {
			return fmt.Errorf("%w to %s", errNotGranted, filter)
		}
	}
	return nil
}

// await waits for the answer to a subscription, for the time-out. It may be
// behind a message that is skipped.
func (l *networkLink) await(ctx context.Context, t ticket) error {
	timer := time.NewTimer(l.conn.timeout)
	defer timer.Stop()
	for {
		select {
		case <-t.Done():
			if t.Error() != nil { // it fails a little before the connection, which knows why
				lost(l)
			}
			select {
			case <-l.ended:
				return l.cause
			default:
				return t.Error()
			}
		case <-l.ended:
			return l.cause
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
			left := l.conn.timeout - time.Since(l.moved())
			if left <= 0 {
				return errNoAnswer
			}
			timer.Reset(left)
		}
	}
}

var errNoAnswer = errors.New("the broker does not answer (time-out)")
