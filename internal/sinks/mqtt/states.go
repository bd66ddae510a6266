package mqtt

import (
	"context"
	"errors"
	"sync"
	"time"

	"event2mqtt/internal/sinks"
)

// This file publishes states.

// stateWindow is how many states may wait for their acknowledgement.
const stateWindow = 64

// sentMessage is a state on its way, or the birth.
type sentMessage struct {
	*stateMessage
	ticket
	birth bool
	at    time.Time // when it was handed over
	// overtaken reports whether something later was acknowledged.
	overtaken func() bool
}

func (m *sentMessage) thing() thing {
	if m.birth {
		return thing{kind: aBirth}
	}
	return thing{kind: aState, state: m.topic}
}

// lost notes that a message was on its way when the link failed.
func (f *flight) lost(m *sentMessage) {
	if m.birth {
		f.birth = true
	} else {
		f.states = append(f.states, m.topic)
	}
}

// sendStates publishes that the bridge is there, and states, until ctx ends or
// the link fails; it calls up whenever the broker has acknowledged one. Once last is
// closed, it sends what has changed by then, however short the interval, and
// returns nil when the broker has it. What was on its way when the link failed
// is noted in f.
func (s *Sink) sendStates(ctx context.Context, last <-chan struct{}, l link, o *outbox, f *flight, up func()) error {
	ctx, fail := context.WithCancelCause(ctx)
	window := make(chan sentMessage, stateWindow)
	slots := make(chan struct{}, stateWindow) // one for each state that is not acknowledged, or yet to be chosen
	var answers sync.WaitGroup
	answers.Go(func() {
		if err := s.awaitStates(ctx, l, o, window, slots, f, up); err != nil {
			fail(err)
		}
	})
	err := s.publishStates(ctx, last, l, o, window, slots)
	cause := context.Cause(ctx)
	fail(err)
	answers.Wait()
	o.tidy()
	for len(window) > 0 {
		m := <-window
		f.lost(&m)
	}
	if err != nil && cause != nil {
		return cause
	}
	return err
}

// publishStates hands states over, each with the value that is the newest when
// there is room for it.
func (s *Sink) publishStates(ctx context.Context, last <-chan struct{}, l link, o *outbox, window chan<- sentMessage, slots chan struct{}) error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := o.turns.wait(ctx, last); err != nil {
			return err
		}
		m, birth, err := s.nextState(ctx, last, o, timer)
		if err != nil {
			return err
		}
		if m == nil { // all that there was is handed over
			<-slots
			return fill(ctx, slots)
		}
		if !birth {
			if err := s.pace.wait(ctx, nil); err != nil {
				return err
			}
		}
		overtaken, at := o.turns.stateOut(), time.Now()
		window <- sentMessage{m, l.publish(ctx, m.message), birth, at, overtaken}
	}
}

// nextState waits for a state that is to be published, or the birth, which comes
// first; it returns none once last is closed and nothing is left.
func (s *Sink) nextState(ctx context.Context, last <-chan struct{}, o *outbox, timer *time.Timer) (m *stateMessage, birth bool, err error) {
	for {
		now := time.Now()
		again := o.look(now)
		if !o.born && s.announces() {
			o.born = true
			return &stateMessage{message: s.presence(o.birth()), owner: willOwner}, true, nil
		}
		m, wait := o.next(now, o.hurry)
		if m != nil && s.stateless.Load() {
			o.refuse(m, takesNoStates)
			continue
		}
		if m != nil || o.hurry {
			return m, false, nil
		}
		if again > 0 && (wait == 0 || again < wait) {
			wait = again
		}
		if wait == 0 {
			wait = time.Hour
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return nil, false, ctx.Err()
		case <-last:
			o.refresh() // the last time, or it would never end
			o.hurry = true
		case <-o.watch.Changed():
			o.changed = true
		case <-s.adjusted:
			o.changed = true
		case <-o.woken:
		case <-timer.C:
		}
	}
}

// fill returns when nothing is on its way any more.
func fill(ctx context.Context, slots chan<- struct{}) error {
	for range cap(slots) {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// longestRest bounds how late a change is seen.
const longestRest = 100 * time.Millisecond

// look refreshes if something has changed, and returns how long that has to
// wait, or 0. It spends a tenth of its time with that, however often states
// change, unless there are so many that it would be late.
func (o *outbox) look(now time.Time) (wait time.Duration) {
	if o.hurry {
		return 0
	}
	select {
	case <-o.watch.Changed():
		o.changed = true
	default:
	}
	o.mu.Lock()
	again := !o.again.IsZero() && !o.again.After(now)
	repeat := !o.repeat.IsZero() && !o.repeat.After(now)
	o.mu.Unlock()
	if repeat {
		o.repeatAll()
	}
	switch {
	case !o.changed && !again:
		return 0
	case now.Before(o.rest):
		return o.rest.Sub(now)
	}
	o.changed = false
	took := o.refresh()
	o.rest = time.Now().Add(min(9*took, longestRest))
	return 0
}

// awaitStates takes the acknowledgements, in order.
func (s *Sink) awaitStates(ctx context.Context, l link, o *outbox, window <-chan sentMessage, slots <-chan struct{}, f *flight, up func()) error {
	w := newWatchdog()
	defer w.stop()
	for {
		select {
		case m := <-window:
			err := s.waitUnless(ctx, l, m.ticket, m.thing(), w, m.overtaken)
			if err == nil && m.qos == 0 && len(m.payload) == 0 && !m.birth {
				err = l.ping(ctx) // else nobody has said that it is cleared
			}
			if err = s.answered(&m, err, o, f); err != nil {
				f.lost(&m)
				return err
			}
			up()
			o.turns.stateDone(time.Since(m.at))
			<-slots
			if len(window) == 0 {
				o.tidy()
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// answered takes the broker's answer to a message, an error or nil, and returns
// one that ends the connection.
func (s *Sink) answered(m *sentMessage, err error, o *outbox, f *flight) error {
	never := errors.Is(err, sinks.ErrNeverTaken)
	switch {
	case m.birth && never:
		s.refuseBirth(err.Error())
	case m.birth && err == nil:
		f.birth = m.qos == 0 // nobody has acknowledged it
	case m.birth:
		return err
	case never:
		o.refuse(m.stateMessage, err.Error())
	case errors.Is(err, errNotCleared):
		o.notCleared(m.stateMessage)
	case err != nil:
		return err
	default:
		o.taken(m.stateMessage, m.qos > 0 || len(m.payload) == 0)
	}
	f.unanswered = ""
	if m.qos == 0 && !m.birth { // nobody has acknowledged it
		f.unanswered = m.topic
	}
	return nil
}

// sendStatesAlone sends what is due of states, one at a time, while nothing
// else is on its way.
func (s *Sink) sendStatesAlone(ctx context.Context, l link, o *outbox, f *flight) error {
	for {
		m, _ := o.next(time.Now(), true)
		if m == nil {
			return nil
		}
		if s.stateless.Load() {
			o.refuse(m, takesNoStates)
			continue
		}
		if err := s.pace.wait(ctx, nil); err != nil {
			return err
		}
		refused, err := s.alone(ctx, l, thing{kind: aState, state: m.topic}, m.message, f)
		switch {
		case errors.Is(err, sinks.ErrNeverTaken):
			o.refuse(m, err.Error())
			continue
		case refused:
			o.refuse(m, s.reason(&m.message))
			s.learn(&m.message)
			s.doubt.blamed.thing = thing{}
		case err == nil:
			s.took(kindOf(&m.message))
			o.taken(m, true)
		}
		if err != nil {
			return err
		}
	}
}
