// Package sourcetest is the contract that every source keeps, as a test, and an
// Output for tests that notes what is said to it. It is not for use in the
// program.
package sourcetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"event2mqtt/internal/health"
	"event2mqtt/internal/sources"
)

// Subject is a source with what it watches.
type Subject struct {
	// Source is as its options have built it.
	Source sources.Source
	// Send has the watched thing do what becomes an event of this name, while
	// the source runs and the thing is there; where it takes a connection, it
	// waits for one. It returns at once, or, where somebody waits for an answer,
	// when that says that the event is stored, or will never be. It sends again
	// what the answer says to send again.
	Send func(t testing.TB, name string)
	// Come and Go, if set, have the thing appear and go away, which it is at
	// first. They are not set where nothing is connected to. What is so already
	// stays so.
	Come, Go func(t testing.TB)
	// Remembers is set if what is sent while the source does not run is
	// delivered when it runs again.
	Remembers bool
}

// Run tests a source. factory makes a Subject of its own for each test, and has
// t's cleanup end what it starts.
func Run(t *testing.T, factory func(t testing.TB) Subject) {
	for _, c := range []struct {
		name string
		test func(*testing.T, Subject)
	}{
		{"it is ready once in each run, and runs again", readyOnce},
		{"it delivers each event once and in order", delivers},
		{"it waits for a peer that is away", waits},
		{"it offers again after a full journal", full},
		{"it skips what is refused", refused},
		{"it ends with its context", ends},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := factory(t)
			before := goleak.IgnoreCurrent()
			c.test(t, s)
			noneLeft(t, before)
		})
	}
}

// noneLeft waits until no goroutine is left but those of before.
func noneLeft(t *testing.T, before goleak.Option) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if err = goleak.Find(before); err == nil { // looks for half a second
			return
		}
	}
	t.Errorf("when Run has returned: %v", err)
}

// begin runs the source until stop, with the thing there, and waits until it is
// ready. The thing is away when stop has returned, if it can be.
func begin(t *testing.T, o *Output, s Subject) (stop func()) {
	t.Helper()
	if s.Come != nil {
		s.Come(t)
	}
	return beginAway(t, o, s)
}

// beginAway is begin with the thing as it is.
func beginAway(t *testing.T, o *Output, s Subject) (stop func()) {
	t.Helper()
	end := o.Run(t, s.Source)
	o.Await(t, "it is ready", func(o *Output) bool { return o.Readies() > 0 })
	return func() {
		t.Helper()
		if err := end(); err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("when its context has ended, Run returns: %v", err)
		}
		for _, what := range o.Breaches() {
			t.Errorf("against the contract: %s", what)
		}
		if s.Go != nil {
			s.Go(t)
		}
	}
}

// expect waits for events of these names, and wants no others.
func expect(t *testing.T, o *Output, names ...string) {
	t.Helper()
	o.Await(t, fmt.Sprintf("it has delivered %q", names), func(o *Output) bool { return len(o.Events()) >= len(names) })
	if got := o.Names(); !slices.Equal(got, names) {
		t.Errorf("got the events %q, want %q", got, names)
	}
}

func numbered(n int) (names []string) {
	for i := range n {
		names = append(names, fmt.Sprint("Event", i))
	}
	return names
}

func readyOnce(t *testing.T, s Subject) {
	o := NewOutput()
	for i := range 3 {
		stop := begin(t, o, s)
		s.Send(t, fmt.Sprint("Event", i))
		expect(t, o, numbered(i+1)...)
		stop()
		if n := o.Readies(); n != 1 {
			t.Errorf("run %d: it was ready %d times", i, n)
		}
	}
}

func delivers(t *testing.T, s Subject) {
	o, names := NewOutput(), numbered(50)
	stop := begin(t, o, s)
	for _, name := range names {
		s.Send(t, name)
	}
	expect(t, o, names...)
	stop()
	if s.Remembers {
		for _, name := range []string{"Between0", "Between1"} {
			s.Send(t, name)
		}
		names = append(names, "Between0", "Between1")
	}
	stop = begin(t, o, s)
	s.Send(t, "Last")
	expect(t, o, append(names, "Last")...)
	stop()
}

// waits: a source is ready though its peer is away, waits, and goes on by itself
// whenever the peer is there.
func waits(t *testing.T, s Subject) {
	if s.Come == nil {
		return // it connects to nothing
	}
	o := NewOutput()
	stop := beginAway(t, o, s)
	for i := range 2 {
		o.Await(t, "it waits for its peer", func(o *Output) bool { h := o.Health(); return h.Level == health.Waiting && h.Error != "" })
		s.Come(t)
		o.Await(t, "it is up", func(o *Output) bool { return o.Health().Level == health.Up })
		s.Send(t, fmt.Sprint("Event", i))
		expect(t, o, numbered(i+1)...)
		s.Go(t)
	}
	o.Await(t, "it waits again", func(o *Output) bool { return o.Health().Level == health.Waiting })
	stop()
	if n := o.Readies(); n != 1 {
		t.Errorf("it was ready %d times", n)
	}
}

// full: while the journal is full nothing is lost, and nothing is out of order
// when there is room again.
func full(t *testing.T, s Subject) {
	o, names := NewOutput(), numbered(10)
	stop := begin(t, o, s)
	s.Send(t, names[0])
	expect(t, o, names[0])
	o.Full(true)
	before := o.Failed()
	var sending sync.WaitGroup
	sending.Go(func() { // it may wait for an answer
		for _, name := range names[1:] {
			s.Send(t, name)
		}
	})
	o.Await(t, "an event was offered twice", func(o *Output) bool { return o.Failed() > before+1 })
	o.Full(false)
	expect(t, o, names...)
	sending.Wait()
	o.Await(t, "it is up", func(o *Output) bool { return o.Health().Level == health.Up })
	stop()
}

// refused: an event that will never be accepted stops none of those behind it.
func refused(t *testing.T, s Subject) {
	o := NewOutput()
	o.Refuse("Refused")
	stop := begin(t, o, s)
	for _, name := range []string{"Event0", "Refused", "Event1"} {
		s.Send(t, name)
	}
	expect(t, o, "Event0", "Event1")
	stop()
}

// ends: with a context that has ended before, while the source waits for its
// peer, and while it waits for room.
func ends(t *testing.T, s Subject) {
	o := NewOutput()
	o.begin()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Source.Run(ctx, o); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended, Run returns: %v", err)
	}
	o.end()
	beginAway(t, o, s)()
	stop := begin(t, o, s)
	if s.Remembers { // else somebody may wait for an answer
		o.Full(true)
		s.Send(t, "Event0")
		o.Await(t, "there is no room", func(o *Output) bool { return o.Failed() > 0 })
	}
	stop()
}
