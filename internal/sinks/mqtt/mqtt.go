// Package mqtt is the sink that publishes to an MQTT broker: events in order,
// each acknowledged by the broker before the cursor moves, and states as
// retained messages, all of them again after each connect. It waits for a
// broker that is away, for as long as it takes.
package mqtt

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"event2mqtt/internal/event"
	"event2mqtt/internal/journal"
	"event2mqtt/internal/sinks"
	"event2mqtt/internal/topic"
)

// Broker is the bundled broker, as far as this sink needs it.
type Broker interface {
	// Publish returns when every subscriber's queue has the message.
	Publish(ctx context.Context, topic string, payload []byte, qos byte, retain bool) (Receipt, error)
}

// Receipt is the bundled broker's promise to keep a message.
type Receipt interface {
	// Wait returns when a crash cannot take the message any more.
	Wait() error
}

// Options are what a Sink needs beside its configuration.
type Options struct {
	Config  Config
	Publish PublishConfig
	// Bundled is published to when no URL is configured.
	Bundled Broker
	// ID returns the id of an event that stays the same when it is sent again.
	ID  func(seq uint64) string
	Log zerolog.Logger
}

// Sink publishes to one broker, or to the first of several that answers.
type Sink struct {
	opt Options
	settings
	publish atomic.Pointer[publishing]
	dial    func(ctx context.Context) (link, error)

	mu     sync.Mutex
	health sinks.Health
	// Skipped counts events that cannot be published, such as those whose
	// topic would be too long. mu guards it.
	skipped uint64

	// Of Run.
	next     int    // broker to try next
	reported string // failure that was logged last
	failed   int    // attempts since the last success
}

// link is a connection to a broker. It is used once.
type link interface {
	// publish hands a message over. The ticket is done when the broker has
	// acknowledged it as its QoS asks.
	// It may wait for the broker to take the message, until ctx ends.
	publish(ctx context.Context, topic string, qos byte, retain bool, payload []byte) ticket
	// down is closed when the link is of no more use.
	down() <-chan struct{}
	// err says why it went down.
	err() error
	// close ends the link with a DISCONNECT, if it is still up.
	close()
}

// ticket is the promise of an acknowledgement; paho's tokens are tickets.
type ticket interface {
	Done() <-chan struct{}
	Error() error
}

// Check tells what is wrong with a configuration that its tags do not, as
// config.KeyErrors.
func Check(c Config, p PublishConfig) error {
	_, err := check(c, p)
	return err
}

// New makes a sink. The error is that of Check.
func New(opt Options) (*Sink, error) {
	s, err := check(opt.Config, opt.Publish)
	if err != nil {
		return nil, err
	}
	sink := &Sink{opt: opt, settings: s, health: sinks.Health{Detail: "connecting"}}
	sink.publish.Store(&publishing{opt.Publish, s.template})
	sink.dial = sink.dialNetwork
	if len(s.brokers) == 0 {
		sink.dial = sink.dialBundled
	}
	return sink, nil
}

// publishing is what events look like, which may change while the sink runs.
type publishing struct {
	PublishConfig
	template topic.Template
}

// SetPublish changes what messages look like, from the next on. BaseTopic, which
// is also in the will, stays as it is.
func (s *Sink) SetPublish(p PublishConfig) error {
	p.BaseTopic = s.opt.Publish.BaseTopic
	fresh, err := check(s.opt.Config, p)
	if err == nil {
		s.publish.Store(&publishing{p, fresh.template})
	}
	return err
}

// Health says whether the sink is connected.
func (s *Sink) Health() sinks.Health {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.health
}

// Skipped returns how many events could not be published at all.
func (s *Sink) Skipped() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.skipped
}

func (s *Sink) setHealth(ok bool, format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.health = sinks.Health{OK: ok, Detail: fmt.Sprintf(format, args...)}
}

// Run implements sinks.Sink.
func (s *Sink) Run(ctx context.Context, in *journal.Cursor, states *event.States) error {
	watch := states.Watch()
	defer watch.Close()
	for {
		started := time.Now()
		err := s.session(ctx, in, watch)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(started) > steady {
			s.failed, s.reported = 0, ""
		}
		s.report(err)
		if !sleep(ctx, s.pause()) {
			return nil
		}
	}
}

// steady is how long a connection must have lasted for the failures before it
// to be forgotten. Two bridges with one client id, which end each other's
// connections, so slow down instead of racing.
const steady = 10 * time.Second

// session is the life of one connection.
func (s *Sink) session(ctx context.Context, in *journal.Cursor, watch *event.StateWatch) error {
	l, err := s.dial(ctx)
	if err != nil {
		return err
	}
	defer l.close()
	err = s.online(ctx, l, in, watch)
	if ctx.Err() != nil {
		// Going for good: tell so, since a proper DISCONNECT keeps the broker
		// from sending the will.
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
		defer cancel()
		if err := s.announce(last, l, s.opt.Config.Will.Offline); err != nil {
			s.opt.Log.Debug().Err(err).Msg("mqtt: could not say goodbye")
		}
	}
	return err
}

func (s *Sink) online(ctx context.Context, l link, in *journal.Cursor, watch *event.StateWatch) error {
	// What was read and not acknowledged on the last connection comes first.
	in.Rewind()
	watch.Rewind()
	if err := s.announce(ctx, l, s.opt.Config.Will.Online); err != nil {
		return err
	}
	s.connected()
	return s.pump(ctx, l, in, watch)
}

// farewell bounds the goodbye to a broker that does not answer.
const farewell = 2 * time.Second

// announce publishes whether the bridge is there.
func (s *Sink) announce(ctx context.Context, l link, payload string) error {
	w := s.opt.Config.Will
	if !w.Enabled {
		return nil
	}
	return s.wait(ctx, l, l.publish(ctx, s.willTopic, byte(w.QoS), w.Retain, []byte(payload)))
}

// wait waits for an acknowledgement, at most for the configured timeout: a
// connection on which answers stay out is a dead one.
func (s *Sink) wait(ctx context.Context, l link, t ticket) error {
	select {
	case <-t.Done():
		return t.Error()
	default:
	}
	timer := time.NewTimer(s.opt.Config.Timeout)
	defer timer.Stop()
	select {
	case <-t.Done():
		return t.Error()
	case <-l.down():
		return unanswered(t, l.err())
	case <-ctx.Done():
		return unanswered(t, ctx.Err())
	case <-timer.C:
		return fmt.Errorf("the broker did not acknowledge a message within %s", s.opt.Config.Timeout)
	}
}

// unanswered is err, unless the answer has come at the last moment.
func unanswered(t ticket, err error) error {
	select {
	case <-t.Done():
		return t.Error()
	default:
		return err
	}
}

// sent is an event on its way.
type sent struct {
	seq uint64
	ticket
}

// pump moves events and states until parent ends or the link fails. All its
// goroutines end with it: this one reads and publishes, one awaits the
// acknowledgements in order, one looks after the states, one after the link.
// When parent ends, what is on the way may still be acknowledged, so that it
// need not be sent again.
func (s *Sink) pump(parent context.Context, l link, in *journal.Cursor, watch *event.StateWatch) error {
	ctx, fail := context.WithCancelCause(context.WithoutCancel(parent))
	reading, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(parent, stop)()
	var wg sync.WaitGroup
	window := make(chan sent, s.opt.Config.InFlight)
	slots := make(chan struct{}, s.opt.Config.InFlight) // one for each event that is not acknowledged
	wg.Go(func() {
		for {
			select {
			case m := <-window:
				if err := s.wait(ctx, l, m.ticket); err != nil {
					fail(err)
					return
				}
				in.Ack(m.seq)
				<-slots
			case <-ctx.Done():
				ackAnswered(in, window)
				return
			}
		}
	})
	wg.Go(func() { fail(s.keepStates(ctx, l, watch)) })
	wg.Go(func() {
		select {
		case <-l.down():
			fail(l.err())
		case <-ctx.Done():
		}
	})
	err := s.publishEvents(reading, l, in, window, slots)
	if parent.Err() != nil {
		last := time.NewTimer(farewell)
		defer last.Stop()
		for range cap(slots) {
			select {
			case slots <- struct{}{}:
				continue
			case <-ctx.Done():
			case <-last.C:
			}
			break
		}
	}
	fail(err)
	wg.Wait()
	return context.Cause(ctx)
}

// ackAnswered takes the answers that came before the link went down.
func ackAnswered(in *journal.Cursor, window <-chan sent) {
	for {
		select {
		case m := <-window:
			select {
			case <-m.ticket.Done():
				if m.ticket.Error() == nil {
					in.Ack(m.seq)
					continue
				}
			default:
			}
		default:
		}
		return
	}
}

func (s *Sink) publishEvents(ctx context.Context, l link, in *journal.Cursor, window chan<- sent, slots chan<- struct{}) error {
	buf := make([]journal.Entry, 0, 64)
	for {
		entries, err := in.Next(ctx, buf)
		if err != nil {
			return err
		}
		for i := range entries {
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return ctx.Err()
			}
			window <- sent{entries[i].Seq, s.publishEvent(ctx, l, &entries[i])}
		}
		clear(entries)
	}
}

// publishEvent hands one event over. One that cannot be published is logged
// and passed over; it must not hold up the others.
func (s *Sink) publishEvent(ctx context.Context, l link, e *journal.Entry) ticket {
	p := s.publish.Load()
	qos := byte(p.QoS)
	if e.Route.QoS != nil {
		qos = *e.Route.QoS
	}
	name, err := e.Route.Topic, error(nil)
	if name == "" {
		name, err = p.template.Render(topic.Values{Event: e.Name, Source: e.Source, Payload: e.Payload})
	}
	if err != nil {
		s.mu.Lock()
		s.skipped++
		s.mu.Unlock()
		s.opt.Log.Error().Err(err).Str("source", e.Source).Str("event", e.Name).Uint64("seq", e.Seq).Msg("mqtt: this event cannot be published and is passed over")
		return done{}
	}
	payload := e.Payload
	if field := p.IDField; field != "" {
		payload = event.AddField(payload, field, s.opt.ID(e.Seq))
	}
	return l.publish(ctx, name, qos, e.Route.Retain, payload)
}

// keepStates publishes every state that changes, until ctx ends.
func (s *Sink) keepStates(ctx context.Context, l link, watch *event.StateWatch) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-watch.Changed():
		}
		for _, st := range watch.Take() {
			name := s.opt.Publish.BaseTopic + "/" + topic.SafePath(st.Key)
			if err := topic.Check(name); err != nil {
				s.opt.Log.Error().Err(err).Str("state", st.Key).Msg("mqtt: this state cannot be published")
				continue
			}
			if err := s.wait(ctx, l, l.publish(ctx, name, byte(s.publish.Load().QoS), true, st.Payload)); err != nil {
				return err
			}
		}
	}
}

// connected notes a success and says so, once.
func (s *Sink) connected() {
	if len(s.brokers) == 0 {
		s.setHealth(true, "publishing to the bundled broker")
		return
	}
	at := s.brokers[s.next].Redacted()
	s.setHealth(true, "connected to %s", at)
	log := s.opt.Log.Info()
	if s.failed > 0 {
		log = log.Int("attempts", s.failed+1)
	}
	log.Msgf("mqtt: connected to %s", at)
}

// report logs a failure if it is not the same as the one before.
func (s *Sink) report(err error) {
	s.failed++
	text := "the bundled broker: " + fmt.Sprint(err)
	if len(s.brokers) > 0 {
		broker := s.brokers[s.next]
		text = broker.Redacted() + ": " + explain(err, broker.Scheme == "mqtts" || broker.Scheme == "wss")
		s.next = (s.next + 1) % len(s.brokers)
	}
	s.setHealth(false, "%s", text)
	if text != s.reported {
		s.reported = text
		s.opt.Log.Error().Msgf("mqtt: %s; events are kept and sent when it works again", text)
	}
}

// Bounds of the pause between two attempts to connect.
const (
	minPause = 250 * time.Millisecond
	maxPause = 30 * time.Second
)

// pause doubles with each failure; half of it is random, so that many bridges
// do not come back to a broker at the same moment. A list of brokers is gone
// through without a pause.
func (s *Sink) pause() time.Duration {
	if n := len(s.brokers); n > 1 && s.failed%n != 0 {
		return 0
	}
	d := min(minPause<<min(s.failed-1, 10), maxPause)
	return d/2 + rand.N(d/2)
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// done is a ticket for what needs no acknowledgement.
type done struct{ error }

var closedChannel = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

func (done) Done() <-chan struct{} { return closedChannel }
func (d done) Error() error        { return d.error }

// dialBundled "connects" to the broker in this process.
func (s *Sink) dialBundled(context.Context) (link, error) { return bundledLink{s.opt.Bundled}, nil }

type bundledLink struct{ Broker }

func (l bundledLink) publish(ctx context.Context, topic string, qos byte, retain bool, payload []byte) ticket {
	r, err := l.Publish(ctx, topic, payload, qos, retain)
	if err != nil {
		return done{err}
	}
	return &owed{receipt: r}
}

// owed is the ticket for a message that the bundled broker has yet to store.
// Whoever asks for it has it stored, together with all that came before.
type owed struct {
	receipt Receipt
	err     error
}

func (o *owed) Done() <-chan struct{} {
	if o.receipt != nil {
		o.err, o.receipt = o.receipt.Wait(), nil
	}
	return closedChannel
}

func (o *owed) Error() error { return o.err }

func (bundledLink) down() <-chan struct{} { return nil }
func (bundledLink) err() error            { return nil }
func (bundledLink) close()                {}
