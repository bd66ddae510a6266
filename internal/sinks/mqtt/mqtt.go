// Package mqtt is the sink that publishes to an MQTT broker: events in order,
// each acknowledged by the broker before the cursor moves, and states as
// retained messages, all of them again after each connect. It waits for a
// broker that is away, for as long as it takes; what a broker that is there
// will never take it skips, once that is certain (careful.go).
package mqtt

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"event2mqtt/internal/event"
	"event2mqtt/internal/health"
	"event2mqtt/internal/journal"
	"event2mqtt/internal/retry"
	"event2mqtt/internal/sinks"
	"event2mqtt/internal/template"
	"event2mqtt/internal/topic"
)

// Sink publishes to one broker, or to the first of several that answers.
type Sink struct {
	opt struct {
		Options
		sinks.Deps
	}
	settings
	publish atomic.Pointer[publishing]
	pace    *pace
	dial    func(ctx context.Context) (link, error)
	talking atomic.Pointer[link]   // on which Say may publish: a connection in no doubt
	outbox  atomic.Pointer[outbox] // of the connection; nil without one

	tell func(health.Status) // of Run

	connections atomic.Uint64 // that were made

	mu     sync.Mutex
	health health.Status
	// Skipped counts events that cannot be published, such as those whose
	// topic would be too long. mu guards it.
	skipped uint64
	// unkept says why the event unkeptSeq, which is to be skipped, cannot be
	// kept; "" if there is none. mu guards both.
	unkept    string
	unkeptSeq uint64

	// Of Run.
	next      int // broker to try next
	back      comeback
	plotted   atomic.Int64 // when a plot was published last, or the connection was made, in Unix nanoseconds
	doubt     doubt
	will      will
	states    refusedStates
	lessons   lessons
	stateless atomic.Bool // the broker takes no states; set with what lessons say
	terms     terms
	refusals  refusals
	hearing   hearing
	ledger    *ledger
	listing   retry.Loop        // of the ledger's file
	unfitTold map[string]string // states that were told of, with why
	adjusted  chan struct{}     // cap 1: Adjust has changed something
}

// link is a connection to a broker. It is used once.
type link interface {
	// publish hands a message over. The ticket is done when the broker has
	// acknowledged it as its QoS asks.
	// It may wait for the broker to take the message, until ctx ends.
	publish(ctx context.Context, m message) ticket
	// hold has what is published wait for more, so that much is written at once,
	// until release is called; not for long, and not what cannot wait. Who holds
	// releases before it waits for anything but publish. Both have one user.
	hold()
	release()
	// subscribe has the sink hear what matches a filter, one message at a time,
	// until the link ends or unsubscribe is called. The error wraps
	// errNotGranted if the broker refuses. Both have one user at a time.
	subscribe(ctx context.Context, filter string) error
	unsubscribe(ctx context.Context, filter string) error
	// down is closed when the link is of no more use.
	down() <-chan struct{}
	// err says why it went down.
	err() error
	// moved says when bytes of a message went out last, or came of one that is
	// skipped.
	moved() time.Time
	// ping returns nil when the broker has read all that was published.
	ping(ctx context.Context) error
	// close ends the link with a DISCONNECT, if it is still up.
	close()
}

// ticket is the promise of an acknowledgement; paho's tokens are tickets.
type ticket interface {
	Done() <-chan struct{}
	Error() error
}

// New makes a sink. The error is that of Check.
func New(o Options, d sinks.Deps) (*Sink, error) {
	settings, err := o.check()
	if err != nil {
		return nil, err
	}
	if o.Calm == 0 {
		o.Calm = 2 * time.Second
	}
	if o.Repeat == 0 {
		o.Repeat = time.Minute
	}
	if o.Config.ClientID == "" && o.Config.CredentialsFile == "" {
		o.Config.ClientID = d.ClientID
	}
	o.Config.limit()
	s := &Sink{
		pace:     newPace(&o.Config.Connection),
		settings: settings, states: refusedStates{}, unfitTold: map[string]string{}, adjusted: make(chan struct{}, 1),
		back: newComeback(len(settings.brokers), o.Pause), health: health.Lacking("connecting"),
	}
	s.opt.Options, s.opt.Deps = o, d
	s.hearing.changed = make(chan struct{}, 1)
	s.publish.Store(newPublishing(o, settings))
	s.dial = s.dialNetwork
	if len(settings.brokers) == 0 {
		s.dial = s.dialBundled
	}
	return s, nil
}

// publishing is what messages look like, which may change while the sink runs.
type publishing struct {
	PublishConfig
	template, stateTemplate topic.Template
	payload                 template.Template
	plot                    *plot
	keys                    keys
	// apart is set if no event's topic can be one of the program's own.
	apart bool
}

// keys are those of the options, as they are now.
func (s *Sink) keys() keys { return s.publish.Load().keys }

func newPublishing(o Options, s settings) *publishing {
	p := o.Publish
	return &publishing{p, s.template, s.stateTemplate, s.payload, s.plot, o.keys(), strings.HasPrefix(s.template.Prefix(), p.BaseTopic+"/event/") && !strings.HasPrefix(s.willTopic, s.template.Prefix())}
}

// Adjust implements sinks.Adjuster: what messages look like, from the next on.
func (s *Sink) Adjust(o sinks.Options) error {
	next := o.(interface{ all() Options }).all()
	next.Config = s.opt.Config
	fresh, err := next.check()
	if err == nil {
		s.publish.Store(newPublishing(next, fresh))
		select {
		case s.adjusted <- struct{}{}:
		default:
		}
	}
	return err
}

// Skipped returns how many events could not be published at all.
func (s *Sink) Skipped() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.skipped
}

// Connections implements sinks.Connector.
func (s *Sink) Connections() uint64 { return s.connections.Load() }

// setHealth replaces what the sink tells of itself.
func (s *Sink) setHealth(h health.Status) {
	s.mu.Lock()
	s.health = h
	s.mu.Unlock()
	s.tellHealth()
}

// tellHealth tells what is to be told now. What cannot be kept comes first.
func (s *Sink) tellHealth() {
	s.mu.Lock()
	h := s.health
	if s.unkept != "" {
		h = health.Trouble(errors.New(s.unkept))
	}
	if s.skipped > 0 {
		h.Detail += fmt.Sprintf("; %d events were refused and skipped since the start", s.skipped)
	}
	if n := s.refusals.unheard.Load(); n > 0 {
		h.Detail += fmt.Sprintf("; nobody had subscribed to %d events since the start", n)
	}
	s.mu.Unlock()
	s.tell(h)
}

// Run implements sinks.Sink.
func (s *Sink) Run(ctx context.Context, in *journal.Cursor, states *event.States, tell func(health.Status)) error {
	s.tell = tell
	s.tellHealth()
	if s.ledger == nil {
		var err error
		if s.ledger, err = s.openLedger(); err != nil {
			return err
		}
	}
	watch := states.Watch()
	defer watch.Close()
	for {
		started := time.Now()
		err := s.session(ctx, in, watch)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, errBackToFirst) {
			s.next = 0
			s.opt.Log.Info().Msgf("mqtt: %s, %s; going back to it", s.brokers[0].Redacted(), err)
			continue
		}
		if !retry.Sleep(ctx, s.report(err, time.Since(started))) {
			return nil
		}
	}
}

// session is the life of one connection.
func (s *Sink) session(ctx context.Context, in *journal.Cursor, watch *event.StateWatch) error {
	l, err := s.dial(ctx)
	if err != nil {
		return err
	}
	defer l.close()
	s.plotted.Store(time.Now().UnixNano())
	defer s.outbox.Store(nil)
	l = deafLink{l, s}
	if !s.doubt.careful() { // before a command can come that wants an answer
		s.talking.Store(&l)
		defer s.talking.Store(nil)
	}
	if err := s.subscribe(ctx, l); err != nil {
		return err
	}
	var f flight
	if s.doubt.careful() {
		err = s.carefully(ctx, l, in, watch, &f)
	} else {
		err = s.online(ctx, l, in, watch, &f)
	}
	leaves := ctx.Err() != nil || errors.Is(err, errBackToFirst)
	if !leaves && len(s.brokers) > 0 && !s.blameless(err) {
		closed := !errors.Is(err, errNoAck) && lost(l)
		if closed && !errors.Is(err, errNothingTaken) && !errors.Is(err, errNotKept) {
			err = l.err() // what was on its way may have failed with another
		}
		s.doubt.ended(&f, closed)
	}
	if leaves {
		// Going for good: tell so, since a proper DISCONNECT keeps the broker
		// from sending the will.
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		if err := s.announce(last, l, s.opt.Config.Will.Offline); err != nil {
			s.opt.Log.Debug().Err(err).Msg("mqtt: could not say goodbye")
		}
	}
	return err
}

func (s *Sink) online(ctx context.Context, l link, in *journal.Cursor, watch *event.StateWatch, f *flight) error {
	// What was read and not acknowledged on the last connection comes first.
	in.Rewind()
	o := s.newOutbox(watch)
	up := sync.OnceFunc(s.connected)
	if !s.announces() {
		up()
	}
	return s.pump(ctx, l, in, o, f, up)
}

// closeTimeout bounds the end of a connection to a broker that does not answer.
const closeTimeout = 2 * time.Second

// announce publishes whether the bridge is there.
func (s *Sink) announce(ctx context.Context, l link, payload string) error {
	if !s.announces() {
		return nil
	}
	err := s.wait(ctx, l, l.publish(ctx, s.presence(payload)), thing{kind: aBirth})
	if errors.Is(err, sinks.ErrNeverTaken) {
		s.refuseBirth(err.Error())
		return nil
	}
	return err
}

// presence is the message that tells whether the bridge is there.
func (s *Sink) presence(payload string) message {
	w := s.opt.Config.Will
	return message{topic: s.willTopic, qos: byte(w.QoS), retain: w.Retain, payload: []byte(payload), again: true}
}

// announces reports whether the broker is told that the bridge is there.
func (s *Sink) announces() bool { return s.opt.Config.Will.Enabled && !s.will.birthRefused.Load() }

// publishEvent hands one event over. One that can never be published is
// skipped; the error says that it could not be kept, and so is not skipped.
func (s *Sink) publishEvent(ctx context.Context, l link, e *journal.Entry) (sent, error) {
	m, err := s.message(e)
	if err == nil {
		err = s.refusals.of(e.Seq)
	}
	if err == nil {
		t := l.publish(ctx, m)
		if d, known := t.(done); !known || !errors.Is(d.error, sinks.ErrNeverTaken) {
			return sent{e.Seq, kindOf(&m), t, s.mayRefuse(e)}, nil
		}
		err = t.Error()
	}
	return sent{e.Seq, messageKind{}, done{}, nil}, s.skip(e, m.topic, err.Error())
}

// shorten keeps a topic from filling the log.
func shorten(topic string) string {
	const most = 200
	if len(topic) > most {
		return strings.ToValidUTF8(topic[:most], "") + "..."
	}
	return topic
}

// done is a ticket for what needs no acknowledgement.
type done struct{ error }

var closedChannel = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

func (done) Done() <-chan struct{} { return closedChannel }
func (d done) Error() error        { return d.error }
