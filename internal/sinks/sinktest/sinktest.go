// Package sinktest is the contract that every sink keeps, as tests. A sink's
// own tests call Run with a destination that is as real as can be; what only
// that kind of sink promises, they test themselves.
package sinktest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"event2mqtt/internal/event"
	"event2mqtt/internal/health"
	"event2mqtt/internal/journal"
	"event2mqtt/internal/refused"
	"event2mqtt/internal/sinks"
)

// Destination is where a sink delivers to, as its test sees it.
type Destination interface {
	// Options returns new options of a sink for this destination.
	Options() sinks.Options
	// Deps adds what the sink needs beside what the contract gives.
	Deps(*sinks.Deps)
	// Got returns the payloads that a crash of everything could not take from
	// the destination any more, in the order in which they came.
	Got() [][]byte
	// Break has the destination fail, so that nothing more gets there, until
	// Mend.
	Break()
	Mend()
	// Never returns an event that the destination will never take; ok is false
	// if there is none.
	Never() (e event.Event, ok bool)
}

// Factory makes a destination that nothing has been delivered to. What it
// starts ends with the test.
type Factory func(t *testing.T) Destination

// Run tests the contract.
func Run(t *testing.T, factory Factory) {
	for _, c := range []struct {
		name string
		test func(*rig)
	}{
		{"DeliversInOrderAndAcknowledgesOnlyWhatIsDurable", deliversInOrder},
		{"WaitsForADestinationThatIsAwayAndGoesOn", waits},
		{"EndsWithItsContextAndLeavesNoGoroutine", ends},
		{"GoesOnWhereItWas", goesOn},
		{"GetsOnlyWhatMatches", matches},
		{"SkipsWhatIsNeverTakenOnceThatIsKept", skips},
		{"OptionsTellWhatIsTheSame", options},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(newRig(t, factory)) })
	}
}

// patience is how long anything may take on a slow machine.
const patience = time.Minute

// rig is a journal, a destination, and a sink between them.
type rig struct {
	*testing.T
	Destination
	journal *journal.Journal
	cursor  *journal.Cursor
	states  *event.States
	keeper  keeper
	sink    sinks.Sink
	health  health.Record
	stop    func() // nil while no sink runs
	sent    []string
}

// keeper keeps events that are refused, unless it fails.
type keeper struct {
	fails atomic.Bool
	tried atomic.Int64
	mu    sync.Mutex
	kept  []refused.Event
}

func (k *keeper) Keep(e refused.Event) error {
	k.tried.Add(1)
	if k.fails.Load() {
		return errors.New("no room")
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.kept = append(k.kept, e)
	return nil
}

func (r *rig) ok(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

func (r *rig) eventually(what string, holds func() bool) {
	r.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if holds() {
			return
		}
	}
	r.Fatalf("does not come true: %s; the sink tells %+v, and has %d events to acknowledge", what, r.health.Report(), r.cursor.Lag())
}

func newRig(t *testing.T, factory Factory) *rig {
	r := &rig{T: t, Destination: factory(t), states: event.NewStates()}
	var err error
	r.journal, err = journal.Open(journal.Options{FS: journal.DirFS(t.TempDir()), Sync: journal.SyncNever, Log: zerolog.Nop()})
	r.ok(err)
	r.cursor, err = r.journal.Cursor("sink")
	r.ok(err)
	t.Cleanup(func() {
		r.end()
		r.ok(r.journal.Close())
	})
	return r
}

// run builds a sink and runs it until end.
func (r *rig) run() {
	r.Helper()
	r.build()
	r.start()
}

// runBroken runs a sink whose destination fails once it was built: what Check
// finds wrong is refused, and need not be waited for.
func (r *rig) runBroken() {
	r.Helper()
	r.build()
	r.Break()
	r.start()
}

func (r *rig) build() {
	r.Helper()
	o := r.Options()
	r.ok(o.Check())
	d := sinks.Deps{ID: r.journal.ID, ClientID: "contract", Refused: &r.keeper, Log: zerolog.Nop()}
	r.Deps(&d)
	var err error
	r.sink, err = o.Build(d)
	r.ok(err)
}

func (r *rig) start() {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.sink.Run(ctx, r.cursor, r.states, r.health.Tell) }()
	r.stop = func() {
		select {
		case err := <-ended:
			r.Errorf("Run ended by itself: %v", err)
			cancel()
			return
		default:
		}
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				r.Errorf("Run returned %v at the end of its context", err)
			}
		case <-time.After(patience):
			r.Error("Run does not end with its context")
		}
	}
}

func (r *rig) end() {
	if r.stop != nil {
		r.stop()
	}
	r.stop = nil
}

// post stores n more events of a name.
func (r *rig) post(name string, n int) {
	r.Helper()
	for range n {
		id := fmt.Sprintf("%s%d", name, len(r.sent))
		r.store(event.Event{Name: name, Source: "contract", Payload: fmt.Appendf(nil, `{"contract":"%s."}`, id)})
		r.sent = append(r.sent, id)
	}
}

func (r *rig) store(e event.Event) {
	r.Helper()
	e.Time = time.Now()
	r.ok(event.Normaliser{MaxPayload: 64 << 20}.Normalise(&e))
	_, err := r.journal.Append(r.Context(), e)
	r.ok(err)
}

// acked is how many of the sent events are acknowledged, if there are no others.
func (r *rig) acked() int { return len(r.sent) - int(r.cursor.Lag()) }

func (r *rig) delivered() {
	r.Helper()
	r.eventually("all is acknowledged", func() bool { return r.cursor.Lag() == 0 })
}

// arrived are the ids of what the destination got, in their order.
func (r *rig) arrived() (ids []string) {
	for _, payload := range r.Got() {
		_, rest, found := strings.Cut(string(payload), `"contract":"`)
		id, _, closed := strings.Cut(rest, ".")
		if !found || !closed {
			r.Errorf("this arrived, and was not sent: %.100s", payload)
		}
		ids = append(ids, id)
	}
	return ids
}

// expect checks that what was sent has arrived, each for the first time in
// order; once is set where nothing may come twice.
func (r *rig) expect(want []string, once bool) {
	r.Helper()
	got := r.arrived()
	seen, first := map[string]bool{}, []string{}
	for _, id := range got {
		if !seen[id] {
			first = append(first, id)
		}
		seen[id] = true
	}
	if !slices.Equal(first, want) {
		r.Errorf("got %d of %d events, or not in order: %.300q", len(first), len(want), first)
	}
	if once && len(got) > len(first) {
		r.Errorf("%d of %d events came again without a reason", len(got)-len(first), len(first))
	}
}

func (r *rig) level() health.Level { return r.health.Report().Level }

func deliversInOrder(r *rig) {
	r.run()
	for range 20 {
		r.post("E", 25)
		acked := r.acked()
		if got := len(r.Got()); got < acked {
			r.Fatalf("%d events are acknowledged, and %d are durable", acked, got)
		}
	}
	r.delivered()
	r.expect(r.sent, true)
	if r.level() != health.Up {
		r.Errorf("it delivers, and tells %+v", r.health.Report())
	}
}

func waits(r *rig) {
	r.runBroken()
	r.post("E", 30)
	r.eventually("it tells that it waits", func() bool { return r.level() == health.Waiting && r.health.Report().LastError != "" })
	if n := r.acked(); n > 0 {
		r.Errorf("%d events are acknowledged, and the destination takes none", n)
	}
	r.Mend()
	r.post("E", 30)
	r.delivered()
	r.eventually("it tells that it works", func() bool { return r.level() == health.Up })
	r.Break() // also in the middle
	r.post("E", 30)
	r.eventually("it tells that it waits again", func() bool { return r.level() == health.Waiting })
	if n := r.acked(); n > 60 {
		r.Errorf("%d events are acknowledged, and the destination took 60", n)
	}
	r.Mend()
	r.delivered()
	r.expect(r.sent, false)
}

func ends(r *rig) {
	there := goleak.IgnoreCurrent()
	gone := func(when string) {
		r.end()
		var err error
		for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
			if err = goleak.Find(there); err == nil {
				return
			}
		}
		r.Errorf("%s: %v", when, err)
	}
	r.run()
	r.post("E", 3)
	r.delivered()
	gone("at rest")
	r.runBroken()
	r.post("E", 3)
	r.eventually("it waits", func() bool { return r.level() == health.Waiting })
	gone("while it waits for its destination")
	r.Mend()
	r.run()
	r.delivered()
	r.expect(r.sent, false)
	gone("after all")
}

func goesOn(r *rig) {
	r.run()
	r.post("E", 20)
	r.delivered()
	r.end()
	r.post("E", 20)
	r.cursor.Close()
	var err error
	r.cursor, err = r.journal.Cursor("sink")
	r.ok(err)
	r.run()
	r.post("E", 20)
	r.delivered()
	r.expect(r.sent, true)
}

func matches(r *rig) {
	o := r.Options()
	o.Base().Match = []string{"Wanted*", "["}
	if err := o.Check(); err == nil || !strings.Contains(err.Error(), `match[1]: "[" is not a pattern`) {
		r.Errorf("a pattern that is none: %v", err)
	}
	o.Base().Match = o.Base().Match[:1]
	r.cursor.Filter(o.Base().Wants())
	r.run()
	var want []string
	for range 10 {
		r.post("Other", 30)
		r.post("WantedThing", 1)
		want = append(want, r.sent[len(r.sent)-1])
	}
	r.post("Other", 300)
	r.delivered()
	r.expect(want, true)
}

func skips(r *rig) {
	never, ok := r.Never()
	if !ok {
		r.Skip("it takes everything")
	}
	r.post("E", 5)
	r.store(never)
	r.post("E", 5)
	r.keeper.fails.Store(true)
	r.run()
	r.eventually("it tries to keep the event", func() bool { return r.keeper.tried.Load() > 0 })
	r.eventually("it tells that it cannot", func() bool {
		return r.level() == health.Waiting && strings.Contains(r.health.Report().Detail, "no room")
	})
	if lag := r.cursor.Lag(); lag < 6 {
		r.Errorf("the event is not kept, and %d events are left to acknowledge", lag)
	}
	r.keeper.fails.Store(false)
	r.delivered()
	r.expect(r.sent, false)
	r.eventually("it tells that it works", func() bool { return r.level() == health.Up })
	k := r.keeper.kept
	if len(k) != 1 || k[0].Name != never.Name || k[0].Sink != r.Options().Base().Name || k[0].Reason == "" || k[0].ID != r.journal.ID(6) {
		r.Errorf("kept %.300v", k)
	}
	if c, counts := r.sink.(sinks.Counter); !counts || c.Skipped() != 1 {
		r.Error("it does not count what it has skipped")
	}
	if !strings.Contains(r.health.Report().Detail, "skipped") {
		r.Errorf("it does not tell what it has skipped: %+v", r.health.Report())
	}
}

func options(r *rig) {
	a, b := r.Options(), r.Options()
	if !reflect.DeepEqual(a.Fingerprint(), b.Fingerprint()) {
		r.Errorf("the same options have two fingerprints: %+v, %+v", a.Fingerprint(), b.Fingerprint())
	}
	if a.Base().Name == "" {
		r.Error("it has no name")
	}
	b.Base().Match = []string{"X"}
	if !reflect.DeepEqual(a.Fingerprint(), b.Fingerprint()) {
		r.Error("the fingerprint holds what all sinks have, which is compared elsewhere")
	}
}
