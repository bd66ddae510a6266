package mqtt

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"event2mqtt/internal/event"
	"event2mqtt/internal/loglimit"
	"event2mqtt/internal/sinks"
)

// This file is the way back: what others publish for this program. It must not
// harm the way of the events: nothing waits for it, a message that is too large
// is skipped, and a broker that refuses to be subscribed to still gets events.
// Sessions are clean: what is published while there is no connection is lost
// rather than late.

// incomingSize is the remaining length of a QoS 0 packet of it, in bytes.
func incomingSize(in *sinks.Incoming) int { return 2 + len(in.Topic) + len(in.Payload) }

// incomingQueue is how many messages from a broker may wait for whoever hears
// them; each has at most maxIncoming bytes.
const incomingQueue = 64

// hearing is what a Sink knows of its subscriptions.
type hearing struct {
	mu      sync.Mutex
	filters []string             // what is wanted; mu guards it and use
	use     func(sinks.Incoming) // nil is nobody
	changed chan struct{}        // cap 1: filters have changed
	// own are the filters that are wanted and end in a wildcard, without it.
	own atomic.Pointer[map[string]bool]

	// Of the connection's goroutine, and of the one in pump that looks after
	// subscriptions.
	asked   map[string]bool // filters that this connection was asked for
	failed  int             // connections that ended, or were silent, when asked, one after the other
	said    string          // what was logged last
	unasked string          // likewise, of what nobody has asked for

	missed      atomic.Uint64 // messages, for any reason
	large, fast loglimit.Limit
}

// Hear implements sinks.Talker.
func (s *Sink) Hear(filters []string, use func(sinks.Incoming)) {
	own := map[string]bool{}
	for _, filter := range filters {
		if below, all := strings.CutSuffix(filter, "+"); all {
			own[below] = true
		}
	}
	h := &s.hearing
	h.mu.Lock()
	h.filters, h.use = slices.Clone(filters), use
	h.mu.Unlock()
	h.own.Store(&own)
	select {
	case h.changed <- struct{}{}:
	default:
	}
}

// hear gives a message to whoever asked for it.
func (s *Sink) hear(in sinks.Incoming) {
	h := &s.hearing
	h.mu.Lock()
	use, wanted := h.use, matches(h.filters, in.Topic)
	h.mu.Unlock()
	if use != nil && wanted { // what was unsubscribed from may still come
		use(in)
	}
}

func matches(filters []string, topic string) bool {
	level := strings.LastIndexByte(topic, '/') + 1
	return slices.ContainsFunc(filters, func(filter string) bool { return filter == topic || strings.TrimSuffix(filter, "+") == topic[:level] })
}

// heard reports whether a message to a topic would come back as one for this
// program.
func (s *Sink) heard(topic string) bool {
	if b := s.opt.beside; b != nil && b.isCommand(topic) {
		return true
	}
	own := s.hearing.own.Load()
	return own != nil && len(*own) > 0 && (*own)[topic[:strings.LastIndexByte(topic, '/')+1]]
}

// deafLink is a link on which this program does not talk to itself: a command
// that it has published would be done, and the event of that could publish it
// again.
// Nor does what is beyond the limits of the destination go out on it.
type deafLink struct {
	link
	sink *Sink
}

func (l deafLink) publish(ctx context.Context, m message) ticket {
	if l.sink.heard(m.topic) {
		return done{errOwn}
	}
	if err := l.sink.opt.Config.fits(&m); err != nil {
		return done{err}
	}
	return l.link.publish(ctx, m)
}

// errOwn says that a message would come back as one for this program.
var errOwn = fmt.Errorf("%w: the topic is one for commands to event2mqtt, which gives itself none", sinks.ErrNeverTaken)

// Say implements sinks.Talker.
func (s *Sink) Say(ctx context.Context, topic string, payload []byte) error {
	at := s.talking.Load()
	if at == nil {
		return errNotConnected
	}
	l := *at
	m := message{topic: topic, qos: byte(s.publish.Load().QoS), payload: payload}
	s.opt.Config.cap(&m)
	if err := s.pace.wait(ctx, nil); err != nil {
		return err
	}
	t := l.publish(ctx, m)
	select {
	case <-t.Done():
		return t.Error()
	case <-l.down():
		return unanswered(t, errNotConnected)
	case <-ctx.Done():
		return unanswered(t, ctx.Err())
	}
}

var errNotConnected = errors.New("there is no connection to the broker")

// errNotGranted wraps why a broker does not let itself be subscribed to.
var errNotGranted = errors.New("the broker does not allow event2mqtt to subscribe")

// subscribe asks a new connection for what the sink is to be told. The error is
// one of the connection. A broker that refuses is asked again on the next
// connection. One that ends the connection instead, or does not answer, is left
// alone for the length of one connection when it has done so several times:
// without that, no event would ever be sent.
func (s *Sink) subscribe(ctx context.Context, l link) error {
	h := &s.hearing
	h.asked = map[string]bool{}
	select {
	case <-h.changed:
	default:
	}
	h.mu.Lock()
	none := len(h.filters) == 0
	h.mu.Unlock()
	if none {
		return nil
	}
	if h.failed >= certain {
		h.failed--
		h.asked = nil
		return nil
	}
	return s.resubscribe(ctx, l)
}

// keepSubscribed follows what the sink is to be told, until ctx ends or the
// connection fails, with that error.
func (s *Sink) keepSubscribed(ctx context.Context, l link) error {
	for {
		select {
		case <-s.hearing.changed:
		case <-ctx.Done():
			return ctx.Err()
		}
		if s.hearing.asked == nil {
			continue // this connection goes without
		}
		if err := s.resubscribe(ctx, l); err != nil {
			return err
		}
	}
}

// resubscribe asks a connection for what is wanted now, and no more for the rest.
func (s *Sink) resubscribe(ctx context.Context, l link) error {
	h := &s.hearing
	h.mu.Lock()
	wanted := h.filters
	h.mu.Unlock()
	var asked []string
	refused, unasked := "", ""
	err := func() error {
		for filter := range h.asked {
			if !slices.Contains(wanted, filter) {
				delete(h.asked, filter)
				if err := l.unsubscribe(ctx, filter); err != nil {
					return err
				}
			}
		}
		for _, filter := range wanted {
			if h.asked[filter] {
				continue
			}
			h.asked[filter] = true
			asked = append(asked, filter)
			err := l.subscribe(ctx, filter)
			switch {
			case errors.Is(err, errNotGranted) && s.isUnasked(filter):
				unasked = cmp.Or(unasked, err.Error())
			case errors.Is(err, errNotGranted):
				refused = cmp.Or(refused, err.Error())
			case err != nil:
				return err
			}
		}
		return nil
	}()
	if err == nil && unasked != "" {
		s.sayUnasked(unasked)
	}
	switch {
	case err == nil && refused != "":
		h.failed = 0
		s.sayDeaf(refused)
	case err == nil:
		h.failed = 0
		if h.said != "" && len(asked) > 0 {
			h.said = ""
			s.opt.Log.Info().Msg("mqtt: the broker allows event2mqtt to subscribe again; commands are accepted")
		}
	case ctx.Err() != nil:
	default:
		if h.failed++; h.failed >= certain {
			s.sayDeaf(fmt.Sprintf("the broker ends the connection, or does not answer, when event2mqtt subscribes to %s; every other connection goes without", strings.Join(wanted, ", ")))
		}
	}
	return err
}

// isUnasked reports whether a filter is one that is wanted without anything being
// configured for it: the program's own commands, and what is no command.
func (s *Sink) isUnasked(filter string) bool {
	return !strings.HasSuffix(filter, "+") || filter == s.publish.Load().BaseTopic+"/"+event.OwnSource+"/set/+"
}

// sayUnasked says what goes without a subscription that nobody has asked for,
// unless that was said last.
func (s *Sink) sayUnasked(why string) {
	if why != s.hearing.unasked {
		s.hearing.unasked = why
		s.opt.Log.Info().Msgf("mqtt: %s; events are sent, but it is not noticed when Home Assistant starts, and its button does not reload the configuration. Allow this user to subscribe, or write home_assistant: {discovery: false}", why)
	}
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
	if e := s.hearing.large.Line(s.opt.Log.Warn); e != nil {
		e.Str("topic", shorten(topic)).Int("bytes", bytes).Int("most", maxIncoming).Msg("mqtt: a message for event2mqtt is too large and is skipped")
	}
}

// tooFast notes that a message was skipped because too many wait. Any goroutine
// may call it.
func (s *Sink) tooFast(topic string) {
	s.hearing.missed.Add(1)
	if e := s.hearing.fast.Line(s.opt.Log.Warn); e != nil {
		e.Str("topic", shorten(topic)).Msg("mqtt: messages for event2mqtt come faster than it takes them; the newest are skipped")
	}
}

// subscribe implements link. The broker has a queue of its own.
func (l *bundledLink) subscribe(_ context.Context, filter string) error {
	cancel, err := l.Subscribe(filter, func(in sinks.Incoming) {
		l.taking.Lock()
		defer l.taking.Unlock()
		switch {
		case l.ctx.Err() != nil:
		case incomingSize(&in) > maxIncoming: // as over a network
			l.sink.tooLarge(in.Topic, incomingSize(&in))
		default:
			l.sink.hear(in)
		}
	})
	if err != nil {
		return fmt.Errorf("%w: %w", errNotGranted, err)
	}
	l.cancels[filter] = cancel
	return nil
}

// unsubscribe implements link.
func (l *bundledLink) unsubscribe(_ context.Context, filter string) error {
	if cancel := l.cancels[filter]; cancel != nil {
		delete(l.cancels, filter)
		cancel()
	}
	return nil
}

// mailbox is where messages from a broker in the network wait. paho calls
// arrived on the goroutine that also hands over acknowledgements, and one after
// the other; that must never wait, so what does not fit is skipped.
type mailbox struct {
	queue   chan sinks.Incoming
	tooFast func(topic string)
	reading sync.WaitGroup
}

func (m *mailbox) arrived(_ paho.Client, p paho.Message) {
	select {
	case m.queue <- sinks.Incoming{Topic: p.Topic(), Payload: p.Payload(), Retained: p.Retained(), Received: time.Now()}:
	default:
		m.tooFast(p.Topic())
	}
}

// read gives what arrives to use until ctx ends; when the connection ends, what
// has come until then is still given.
func (m *mailbox) read(ctx context.Context, ended <-chan struct{}, use func(sinks.Incoming)) {
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
// write, which takes its turn with those of the events and may make paho give
// one of them up.
func (l *networkLink) subscribe(ctx context.Context, filter string) error {
	var granted bool
	l.conn.subscribed.Store(true)
	err := l.request(ctx, func() paho.Token { // without a handler of its own it is for arrived
		return l.client.Subscribe(filter, 0, nil)
	}, func(t paho.Token) {
		for _, code := range t.(*paho.SubscribeToken).Result() {
			granted = code < 0x80
		}
	})
	switch {
	case err != nil:
		return fmt.Errorf("subscribe to %s: %w", filter, err)
	case !granted:
		return fmt.Errorf("%w to %s", errNotGranted, filter)
	}
	return nil
}

// unsubscribe implements link.
func (l *networkLink) unsubscribe(ctx context.Context, filter string) error {
	err := l.request(ctx, func() paho.Token { return l.client.Unsubscribe(filter) }, func(paho.Token) {})
	if err != nil {
		return fmt.Errorf("unsubscribe from %s: %w", filter, err)
	}
	return nil
}

// request sends what is no message, and waits for the answer. Events wait
// meanwhile: paho would give up those that it cannot take over soon.
func (l *networkLink) request(ctx context.Context, send func() paho.Token, answered func(paho.Token)) error {
	l.handing.Lock()
	defer l.handing.Unlock()
	if err := l.room(ctx, 0); err != nil {
		return err
	}
	t := send()
	if err := l.await(ctx, t); err != nil {
		return err
	}
	answered(t)
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
