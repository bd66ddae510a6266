package mqtt

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"event2mqtt/internal/event"
	"event2mqtt/internal/health"
	"event2mqtt/internal/journal"
	"event2mqtt/internal/sinks"
)

// This file is how the sink finds out what a broker will never take. MQTT 3
// has no way to say so but to close the connection (or, which some do, never
// to acknowledge), and a broker that restarts or is full does that too.
//
// When connections end on which the same thing was on its way, the next are
// careful: they have to last for a while with nothing on the way, then the
// broker has to acknowledge something harmless, and from then on there is one
// thing on the way at a time. Only what has ended such a connection, alone,
// as often as certain says is blamed and skipped; less often if something like
// it was (lessons.go).

const (
	// certain is how many careful connections a thing must have ended.
	certain = 3
	// suspicious is how many connections must have ended with the same thing
	// on its way for the next to be careful.
	suspicious = 2
	// longestCalm bounds how long a connection is left alone before a thing
	// that takes long is blamed for its end.
	longestCalm = time.Minute
	// longestPatience bounds the time-out for a thing that takes long.
	longestPatience = time.Hour
)

// thing is one of what can be on its way to the broker.
type thing struct {
	kind  kind
	seq   uint64 // of an event
	state string // the topic of a state
}

type kind byte

const (
	nothing kind = iota
	aBirth       // what tells that the bridge is there
	anEvent
	aState
)

// flight is what was on its way on one connection.
type flight struct {
	birth  bool
	event  uint64   // the oldest that was not acknowledged, or 0
	sentTo uint64   // the newest event that was handed over
	states []string // the topics of those that were not acknowledged
	// unanswered is the topic of the last state that nobody acknowledges, or "".
	unanswered string
}

func (f *flight) things() (out []thing) {
	if f.event != 0 {
		out = append(out, thing{kind: anEvent, seq: f.event})
	}
	for _, name := range f.states {
		out = append(out, thing{kind: aState, state: name})
	}
	if f.unanswered != "" {
		out = append(out, thing{kind: aState, state: f.unanswered})
	}
	if f.birth {
		out = append(out, thing{kind: aBirth})
	}
	return out
}

// doubt is what is known of things that end connections. It changes between
// connections, and on careful ones, where nothing else looks at it.
type doubt struct {
	last   []thing // on their way when the last connection ended
	ends   int     // connections that ended so, one after the other
	until  uint64  // events up to here may be to blame
	blamed struct {
		thing
		times  int
		took   time.Duration // at most, until the connection ended
		silent bool          // it was not acknowledged, rather than the connection closed
	}
	slow struct {
		thing
		times int
	}
}

func (d *doubt) careful() bool { return d.ends >= suspicious }

// ended notes how a connection ended: closed by the broker, or left because
// it did not answer.
func (d *doubt) ended(f *flight, closed bool) {
	d.until = max(d.until, f.sentTo)
	things := f.things()
	same := slices.ContainsFunc(things, func(t thing) bool { return slices.Contains(d.last, t) })
	switch {
	case d.careful(): // stays so until all was sent
	case len(things) == 0:
		d.ends = 0
	case same:
		d.ends++
	default:
		d.ends = 1
	}
	if len(things) == 0 {
		return
	}
	d.last = things
	if closed {
		return
	}
	if !slices.Contains(things, d.slow.thing) {
		d.slow.thing, d.slow.times = things[0], 0
	}
	d.slow.times++
}

// patience is the time-out for a thing: each time that it was not enough it
// doubles, so that a large event comes through a slow network.
func (d *doubt) patience(what thing, timeout time.Duration) time.Duration {
	if what != d.slow.thing {
		return timeout
	}
	return d.longest(timeout)
}

func (d *doubt) longest(timeout time.Duration) time.Duration {
	return max(timeout, min(timeout<<min(d.slow.times, 12), longestPatience))
}

// blame notes that a thing, alone, has ended a connection, and reports whether
// it is certain now, which it is when it has ended enough of them.
func (d *doubt) blame(what thing, took time.Duration, silent bool, enough int) bool {
	b := &d.blamed
	if b.thing != what || b.silent != silent {
		b.thing, b.times, b.took, b.silent = what, 0, 0, silent
	}
	b.times++
	if !silent {
		b.took = max(b.took, took)
	}
	return b.times >= enough
}

// will is what is known of how the broker takes the will, and the message that
// belongs to it.
type will struct {
	closed       int         // connections in a row that were closed before CONNACK
	refused      bool        // connect without it
	birthRefused atomic.Bool // publish nothing of it
	told         bool        // of the latter
}

// carefully is the life of one connection while something is in doubt: first
// with one thing at a time, and then, when all of it was taken, as usual.
func (s *Sink) carefully(ctx context.Context, l link, in *journal.Cursor, watch *event.StateWatch, f *flight) error {
	in.Rewind()
	o := s.newOutbox(watch)
	s.setHealth(health.Lacking("connections end again and again while the same is being sent; sending one thing at a time to find out what the broker does not take"))
	if err := s.calm(ctx, l); err != nil {
		s.doubt.blamed.times = 0 // it may have been the broker each time
		return err
	}
	if !s.stuck() {
		s.back.hurry()
	}
	if err := s.sendHarmless(ctx, l, f); err != nil {
		return err
	}
	if err := s.sendEventsAlone(ctx, l, in, f); err != nil {
		return err
	}
	if err := s.sendStatesAlone(ctx, l, o, f); err != nil {
		return err
	}
	s.doubt = doubt{}
	s.connected()
	o.born = true
	return s.pump(ctx, l, in, o, f, func() {})
}

// calm returns nil if a connection lasts with nothing on the way: longer than
// what is blamed took to end one, so that a thing that takes long is not
// blamed for what happens every few seconds, such as another client with the
// same id.
func (s *Sink) calm(ctx context.Context, l link) error {
	if err := l.ping(ctx); err != nil {
		return err
	}
	timer := time.NewTimer(max(s.opt.Calm, min(2*s.doubt.blamed.took, longestCalm)))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-l.down():
		return l.err()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// sendHarmless returns nil once the broker has acknowledged something. One
// that takes nothing, such as one that is full, refuses no event.
func (s *Sink) sendHarmless(ctx context.Context, l link, f *flight) error {
	w := s.opt.Config.Will
	if s.announces() {
		refused, err := s.alone(ctx, l, thing{kind: aBirth}, s.presence(w.Online), f)
		if errors.Is(err, sinks.ErrNeverTaken) {
			s.refuseBirth(err.Error())
			return nil // it has answered
		}
		s.will.birthRefused.Store(refused)
		if err != nil || w.QoS > 0 {
			return err
		}
	}
	name := s.opt.Publish.BaseTopic + "/bridge/check"
	harmless := message{topic: name, qos: 1}
	s.opt.Config.cap(&harmless)
	err := s.wait(ctx, l, l.publish(ctx, harmless), thing{})
	if err == nil && harmless.qos == 0 {
		err = l.ping(ctx) // nobody acknowledges
	}
	if err != nil && !errors.Is(err, sinks.ErrNeverTaken) {
		s.will.birthRefused.Store(s.will.birthRefused.Load() && s.will.told)
		s.doubt.blamed.times = 0
		return fmt.Errorf("%w, not even an empty message to %s: %w", errNothingTaken, name, err)
	}
	if s.will.birthRefused.Load() && !s.will.told {
		s.refuseBirth("it ends the connection")
	}
	return nil
}

// refuseBirth notes that the broker does not take the message that the bridge is
// there, and says so once.
func (s *Sink) refuseBirth(why string) {
	s.will.birthRefused.Store(true)
	if s.will.told {
		return
	}
	s.will.told = true
	w := s.opt.Config.Will
	s.opt.Log.Error().Msgf("mqtt: the broker does not take the message that the bridge is there (topic %s, QoS %d, retained: %t): %s; going on without; change %[5]swill.qos, %[5]swill.retain or %[5]swill.topic", s.willTopic, w.QoS, w.Retain, why, s.keys().config)
}

var errNothingTaken = errors.New("the broker ends the connection whatever is published")

// sendEventsAlone sends those events one at a time that may be to blame.
func (s *Sink) sendEventsAlone(ctx context.Context, l link, in *journal.Cursor, f *flight) error {
	ctx, cancel := context.WithCancelCause(ctx)
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		select {
		case <-l.down():
			cancel(l.err())
		case <-ctx.Done():
		}
	}()
	defer func() { cancel(nil); <-stopped }()
	buf := make([]journal.Entry, 0, 1)
	for in.Acked() < s.doubt.until { // it was sent, so it is one that this sink gets
		entries, err := in.Next(ctx, buf)
		if err != nil {
			return context.Cause(ctx)
		}
		last := entries[0].Seq
		if err := s.sendEventAlone(ctx, l, &entries[0], f); err != nil {
			if errors.Is(err, errSkipped) {
				s.ack(in, last)
			}
			return err
		}
		s.ack(in, last)
	}
	return nil
}

// errSkipped wraps the end of the connection that a skipped event has caused.
var errSkipped = errors.New("skipped what the broker does not take")

func (s *Sink) sendEventAlone(ctx context.Context, l link, e *journal.Entry, f *flight) error {
	m, err := s.message(e)
	if err == nil {
		err = s.refusals.of(e.Seq)
	}
	if err != nil {
		return s.skip(e, m.topic, err.Error())
	}
	if err := s.pace.wait(ctx, nil); err != nil {
		return context.Cause(ctx)
	}
	refused, err := s.alone(ctx, l, thing{kind: anEvent, seq: e.Seq}, m, f)
	if errors.Is(err, sinks.ErrNeverTaken) { // it says so itself
		return s.skip(e, m.topic, err.Error())
	}
	if refused {
		if kept := s.skip(e, m.topic, s.reason(&m)); kept != nil {
			return kept
		}
		s.learn(&m)
		s.doubt.blamed.thing = thing{}
		return fmt.Errorf("%w: %w", errSkipped, err)
	}
	if err == nil {
		s.took(kindOf(&m))
	}
	return err
}

// alone sends one thing while nothing else is on its way. refused is set once
// it is certain that it is this which the broker does not take. An error that
// wraps sinks.ErrNeverTaken says so at once, and the connection goes on.
func (s *Sink) alone(ctx context.Context, l link, what thing, m message, f *flight) (refused bool, err error) {
	began := time.Now()
	err = s.wait(ctx, l, l.publish(ctx, m), what)
	if err == nil && m.qos == 0 {
		err = l.ping(ctx) // nobody acknowledges
	}
	if err == nil {
		if s.doubt.blamed.thing == what {
			s.doubt.blamed.thing = thing{}
		}
		return false, nil
	}
	if errors.Is(err, sinks.ErrNeverTaken) {
		return false, err
	}
	if ctx.Err() != nil {
		select {
		case <-l.down():
		default:
			return false, err
		}
	}
	if isAnswer(err) {
		return false, err
	}
	noAck := errors.Is(err, errNoAck)
	if noAck && l.ping(ctx) == nil { // it has read all of it
		return s.doubt.blame(what, 0, true, s.enough(what, &m, true)), err
	}
	switch what.kind {
	case anEvent:
		f.event, f.sentTo = what.seq, what.seq
	case aState:
		f.states = []string{what.state}
	case aBirth:
		f.birth = true
	}
	if !noAck && lost(l) {
		return s.doubt.blame(what, time.Since(began), false, s.enough(what, &m, false)), l.err()
	}
	return false, err
}

// lost reports whether a link was closed by the broker.
func lost(l link) bool {
	late := time.NewTimer(time.Second) // what was on its way fails a little earlier
	defer late.Stop()
	select {
	case <-l.down():
		return closed(l.err())
	case <-late.C:
		return false
	}
}

// reason says what the broker did with a message, and what it may not like.
func (s *Sink) reason(m *message) string {
	size := len(m.payload)
	did := "closes the connection when it gets"
	if s.doubt.blamed.silent {
		did = "never acknowledges"
	}
	var likely []string
	if s.mayBeTooLarge(size) {
		likely = append(likely, fmt.Sprintf("the broker's largest packet is smaller than these %d bytes (max_packet_size or message_size_limit of Mosquitto, 128 KiB at AWS, broker.max_packet of event2mqtt)", size))
	}
	if m.retain {
		likely = append(likely, "it takes no retained messages")
	}
	if m.qos > 1 {
		likely = append(likely, fmt.Sprintf("it does not take QoS %d", m.qos))
	}
	likely = append(likely, "the user may not publish to "+shorten(m.topic))
	times := fmt.Sprintf("%d times", s.doubt.blamed.times)
	if s.doubt.blamed.times < certain {
		times = "as it did with one like it"
	}
	return fmt.Sprintf("the broker %s it, also alone, %s; likely: %s", did, times, strings.Join(likely, ", or "))
}
