package mqtt

import (
	"context"
	"sync"
	"time"
)

// turns has events go first on a connection, and what is retained, the birth
// and states, beside them. Some brokers, clusters above all, take seconds for
// each retained message and read nothing meanwhile: every event behind it waits.
// So the first window of events goes out before anything that is retained, and
// while events move there are few retained messages on their way.
type turns struct {
	changed chan struct{} // cap 1: waiting may be over

	mu     sync.Mutex // guards all below
	open   bool       // the first window of events is out, or there are no more
	events int        // on their way
	acked  uint64     // events that were acknowledged
	still  time.Time  // since when there are none
	states int        // on their way
	rest   time.Time  // no state goes out before, while events move
}

const (
	// besideEvents is how many retained messages may wait for their
	// acknowledgement while events move.
	besideEvents = 2
	// moving is how long after the last event more of them are expected.
	moving = time.Second
	// slowState is how long the acknowledgement of a retained message may take;
	// after one that takes longer, the connection is left to events for as long,
	// at most for longestTurn.
	slowState   = time.Second
	longestTurn = 10 * time.Second
)

func newTurns() *turns { return &turns{changed: make(chan struct{}, 1)} }

// signal wakes the one that waits.
func (t *turns) signal() {
	select {
	case t.changed <- struct{}{}:
	default:
	}
}

// letIn notes that the first window of events is out.
func (t *turns) letIn() {
	t.mu.Lock()
	t.open = true
	t.mu.Unlock()
	t.signal()
}

// eventOut notes that an event goes out.
func (t *turns) eventOut() {
	t.mu.Lock()
	t.events++
	t.mu.Unlock()
}

// eventsDone notes that n were acknowledged.
func (t *turns) eventsDone(n int) {
	t.mu.Lock()
	t.events -= n
	t.acked += uint64(n)
	idle := t.events == 0
	if idle {
		t.still = time.Now()
	}
	t.mu.Unlock()
	if idle {
		t.signal()
	}
}

// stateOut notes that a retained message goes out. overtaken reports whether an
// event that went out later was acknowledged.
func (t *turns) stateOut() (overtaken func() bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.states++
	before := t.acked + uint64(t.events)
	return func() bool {
		t.mu.Lock()
		defer t.mu.Unlock()
		return t.acked > before
	}
}

// stateDone notes that one was acknowledged, after so long.
func (t *turns) stateDone(took time.Duration) {
	t.mu.Lock()
	t.states--
	if took > slowState {
		t.rest = time.Now().Add(min(took, longestTurn))
	}
	t.mu.Unlock()
	t.signal()
}

// wait returns nil when a retained message may go out, or when hurry is closed;
// the error is that of ctx. One goroutine waits.
func (t *turns) wait(ctx context.Context, hurry <-chan struct{}) error {
	for {
		late, may := t.look(time.Now())
		if may {
			return nil
		}
		timer := time.NewTimer(late)
		select {
		case <-t.changed:
		case <-timer.C:
		case <-hurry:
			timer.Stop()
			return nil
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
		timer.Stop()
	}
}

// look reports whether a retained message may go out now, or else when to look
// again unless something changes.
func (t *turns) look(now time.Time) (late time.Duration, may bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	moves := t.events > 0 || now.Sub(t.still) < moving
	switch {
	case !t.open:
		return time.Hour, false
	case !moves:
		return 0, true
	case t.states >= besideEvents:
		late = time.Hour
	case now.Before(t.rest):
		late = t.rest.Sub(now)
	default:
		return 0, true
	}
	if t.events == 0 {
		late = min(late, t.still.Add(moving).Sub(now))
	}
	return late, false
}
