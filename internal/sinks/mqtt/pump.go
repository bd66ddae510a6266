package mqtt

import (
	"context"
	"errors"
	"sync"
	"time"

	"event2mqtt/internal/journal"
)

// This file moves events and states while a link is up.

// sent is an event on its way.
type sent struct {
	seq uint64
	messageKind
	ticket
	// event is kept while the broker may still refuse it by its answer; else nil.
	event *journal.Entry
}

// pump moves events and states until parent ends, the first broker of a list is
// there again, which is as if parent had ended, or the link fails; it calls up
// whenever the broker has acknowledged something. All its
// goroutines end with it: this one reads and publishes, one awaits the
// acknowledgements in order, one looks after the states, one after the
// subscriptions, one after the link.
// When parent ends, or an event cannot be kept, what is on the way may still be
// acknowledged, so that it need not be sent again. When parent ends, states are
// brought up to date before that.
//
// What was on the way when the link failed is noted in f.
func (s *Sink) pump(parent context.Context, l link, in *journal.Cursor, o *outbox, f *flight, up func()) error {
	parent, leave := context.WithCancelCause(parent)
	defer leave(nil)
	ctx, fail := context.WithCancelCause(context.WithoutCancel(parent))
	reading, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(parent, stop)()
	var wg sync.WaitGroup
	window := make(chan sent, s.opt.Config.InFlight)
	slots := newSlots(s.opt.Config.InFlight) // one for each event that is not acknowledged
	wg.Go(func() {
		if err := s.awaitEvents(ctx, l, in, o.turns, window, slots, f, up); err != nil {
			fail(err)
		}
	})
	flushed := make(chan struct{})
	wg.Go(func() {
		defer close(flushed)
		if err := s.sendStates(ctx, parent.Done(), l, o, f, up); err != nil {
			fail(err)
		}
	})
	wg.Go(func() { fail(s.keepSubscribed(ctx, l)) })
	wg.Go(func() {
		if s.awaitFirst(ctx) {
			leave(errBackToFirst)
		}
	})
	wg.Go(func() {
		select {
		case <-l.down():
			fail(l.err())
		case <-ctx.Done():
		}
	})
	publish := s.publishEvents
	if s.plot != nil {
		publish = s.publishPlot
	}
	err := publish(reading, l, in, o.turns, window, slots, f)
	if parent.Err() != nil || errors.Is(err, errNotKept) {
		last, cancel := context.WithTimeout(ctx, closeTimeout)
		_ = slots.wait(last, slots.most)
		if parent.Err() != nil {
			select {
			case <-flushed:
			case <-last.Done():
			}
		}
		cancel()
	}
	fail(err)
	wg.Wait()
	if f.event == 0 {
		f.event = s.ackAnswered(in, window)
	}
	if context.Cause(parent) == errBackToFirst {
		return errBackToFirst
	}
	return context.Cause(ctx)
}

// awaitEvents waits for the acknowledgements of events, in order, until ctx ends
// or one stays out, which is noted in f. Those that are there already are taken
// together: the cursor moves once, and the others are told once.
func (s *Sink) awaitEvents(ctx context.Context, l link, in *journal.Cursor, turn *turns, window <-chan sent, slots *slots, f *flight, up func()) error {
	w := newWatchdog()
	defer w.stop()
	last, n := uint64(0), 0 // the newest that was acknowledged since the cursor moved, and how many
	take := func() {
		if n == 0 {
			return
		}
		s.ack(in, last)
		up()
		turn.eventsDone(n)
		slots.release(n)
		n = 0
	}
	defer take()
	for {
		var m sent
		select {
		case m = <-window:
		default:
			take()
			select {
			case m = <-window:
			case <-ctx.Done():
				return nil
			}
		}
		if _, stores := m.ticket.(*owed); stores || n >= slots.enough || !answered(m.ticket) {
			take()
		}
		if err := s.settle(&m, s.waitUnless(ctx, l, m.ticket, thing{kind: anEvent, seq: m.seq}, w, nil)); err != nil {
			f.event = m.seq
			return err
		}
		if m.qos > 0 { // else nobody has acknowledged it
			s.took(m.messageKind)
		}
		last = m.seq
		n++
	}
}

// ackAnswered takes the answers that came before the link went down, and
// returns the oldest event without one, or 0.
func (s *Sink) ackAnswered(in *journal.Cursor, window <-chan sent) uint64 {
	for {
		select {
		case m := <-window:
			if answered(m.ticket) && m.ticket.Error() == nil {
				s.ack(in, m.seq)
				continue
			}
			return m.seq
		default:
			return 0
		}
	}
}

// publishEvents publishes what there is, until ctx ends or the link takes
// nothing more. As many as are read at once are written at once.
func (s *Sink) publishEvents(ctx context.Context, l link, in *journal.Cursor, turn *turns, window chan<- sent, slots *slots, f *flight) error {
	buf := make([]journal.Entry, 0, 64)
	letIn := sync.OnceFunc(turn.letIn)
	rest := func() { // before it waits
		l.release()
		letIn()
	}
	defer l.release()
	for {
		entries, err := in.Next(ended, buf) // what is at hand
		if errors.Is(err, context.Canceled) {
			rest()
			entries, err = in.Next(ctx, buf)
		}
		if err != nil {
			return err
		}
		for i := range entries {
			if !slots.take() {
				rest()
				if err := slots.waitForSome(ctx); err != nil {
					return err
				}
				slots.take()
			}
			if err := s.pace.wait(ctx, rest); err != nil {
				slots.release(1)
				return err
			}
			if len(entries) > 1 {
				l.hold()
			}
			turn.eventOut()
			m, err := s.publishEvent(ctx, l, &entries[i])
			if err != nil {
				turn.eventsDone(1) // nothing of it is on the way
				slots.release(1)
				return err
			}
			f.sentTo = m.seq
			window <- m
		}
		l.release()
		clear(entries)
	}
}

// together is how long those who found no slot free wait for enough of them, once
// there is one.
const together = 5 * time.Millisecond

// slots bounds the events that are on their way. One goroutine takes and waits.
type slots struct {
	most   int
	enough int           // how many have to be free until those who found none go on, so that they are many
	freed  chan struct{} // cap 1: as many are free as are waited for

	mu     sync.Mutex
	taken  int
	wanted int // free, by who waits; 0 if nobody does
}

func newSlots(most int) *slots {
	return &slots{most: most, enough: max(1, most/4), freed: make(chan struct{}, 1)}
}

// take takes one, and reports whether there was one.
func (s *slots) take() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken == s.most {
		return false
	}
	s.taken++
	return true
}

func (s *slots) release(n int) {
	s.mu.Lock()
	s.taken -= n
	enough := s.wanted > 0 && s.most-s.taken >= s.wanted
	if enough {
		s.wanted = 0
	}
	s.mu.Unlock()
	if enough {
		select {
		case s.freed <- struct{}{}:
		default:
		}
	}
}

// waitForSome waits until enough are free; for longer than together only until one
// is: a broker may be slow, or hold its answers back until it hears of us. The
// error is that of ctx.
func (s *slots) waitForSome(ctx context.Context) error {
	brief, cancel := context.WithTimeout(ctx, together)
	defer cancel()
	if s.wait(brief, s.enough) == nil {
		return nil
	}
	return s.wait(ctx, 1)
}

// wait waits until n are free, or ctx ends, whose error it returns.
func (s *slots) wait(ctx context.Context, n int) error {
	for {
		s.mu.Lock()
		free := s.most-s.taken >= n
		if !free {
			s.wanted = n
		}
		s.mu.Unlock()
		if free {
			return nil
		}
		select {
		case <-s.freed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// ended is a context that has ended: who waits with it does not wait.
var ended = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()
