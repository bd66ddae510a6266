package sourcetest

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"event2mqtt/internal/device"
	"event2mqtt/internal/event"
	"event2mqtt/internal/health"
	"event2mqtt/internal/sources"
)

// patience is how long a slow machine may take for what takes no time.
const patience = 30 * time.Second

// Output is a sources.Output that keeps in memory what a source says, and notes
// what the contract forbids. It is safe for concurrent use.
type Output struct {
	mu        sync.Mutex
	events    []event.Event // as they are after normalising
	states    map[string]event.State
	positions map[string][]byte
	device    device.Device
	told      []health.Status
	ready     int // in this run
	failed    int // calls of Emit and Mark
	full      bool
	refused   map[string]bool
	running   bool
	breaches  []string
}

var _ sources.Output = (*Output)(nil)

// NewOutput returns an output that has room.
func NewOutput() *Output {
	return &Output{states: map[string]event.State{}, positions: map[string][]byte{}, refused: map[string]bool{}}
}

// Run runs a source with this output until the returned function is called,
// which ends it, waits for that, and returns Run's error.
func (o *Output) Run(t testing.TB, s sources.Source) (stop func() error) {
	t.Helper()
	o.begin()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, o) }()
	stop = sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-done:
			o.end()
			return err
		case <-time.After(patience):
			t.Error("Run does not return when its context ends")
			return nil
		}
	})
	t.Cleanup(func() { _ = stop() })
	return stop
}

func (o *Output) begin() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ready, o.told, o.running = 0, nil, true
}

func (o *Output) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.running = false
}

// Full has Emit and Mark fail with sources.ErrFull, or no longer.
func (o *Output) Full(is bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.full = is
}

// Refuse has Emit refuse events of a name for what they are.
func (o *Output) Refuse(name string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.refused[name] = true
}

// Await waits until something holds of the output, which it is asked for now
// and then. It ends the test if that takes too long.
func (o *Output) Await(t testing.TB, what string, holds func(*Output) bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !holds(o); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited too long until %s; events: %q; health: %+v", what, o.Names(), o.Health())
		}
	}
}

// Names are those of the events that were accepted, in order.
func (o *Output) Names() (names []string) {
	for _, e := range o.Events() {
		names = append(names, e.Name)
	}
	return names
}

// Events are those that were accepted, in order.
func (o *Output) Events() []event.Event {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.events)
}

// States are the newest, by key.
func (o *Output) States() map[string]event.State {
	o.mu.Lock()
	defer o.mu.Unlock()
	return maps.Clone(o.states)
}

// Device is what the source has described last.
func (o *Output) Device() device.Device {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.device
}

// Health is what the source has told last in this run; it is up if it has told
// nothing.
func (o *Output) Health() health.Status {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.told) == 0 {
		return health.Running("")
	}
	return o.told[len(o.told)-1]
}

// Readies is how often the source was ready in this run.
func (o *Output) Readies() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.ready
}

// Failed is how many calls of Emit and Mark have failed.
func (o *Output) Failed() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.failed
}

// Breaches are what the source did that the contract forbids.
func (o *Output) Breaches() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.breaches)
}

// breach notes what the contract forbids. mu is held.
func (o *Output) breach(format string, args ...any) {
	const most = 100
	if len(o.breaches) < most {
		o.breaches = append(o.breaches, fmt.Sprintf(format, args...))
	}
}

// inRun notes a call that comes when Run does not run. mu is held.
func (o *Output) inRun(call string) {
	if !o.running {
		o.breach("%s is called when Run does not run", call)
	}
}

// Ready implements sources.Output.
func (o *Output) Ready() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.inRun("Ready")
	if o.ready++; o.ready > 1 {
		o.breach("Ready is called %d times in one run", o.ready)
	}
}

// Tell implements sources.Output.
func (o *Output) Tell(s health.Status) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.inRun("Tell")
	const most = 4096 // bytes
	switch {
	case s.Level == health.Failed:
		o.breach("it tells of Failed (%s); a source returns the error", s.Detail)
	case s.Detail == "" || len(s.Detail) > most:
		o.breach("it tells of %s with a detail of %d bytes", s.Level, len(s.Detail))
	case s.Level == health.Up && s.Error != "":
		o.breach("it tells that it is up, with the error %s", s.Error)
	}
	o.told = append(o.told, s)
}

// Describe implements sources.Output.
func (o *Output) Describe(d device.Device) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.inRun("Describe")
	if err := d.Check(); err != nil {
		o.breach("it describes its device wrongly: %v", err)
	}
	o.device = d.Clone()
}

// Emit implements sources.Output. It normalises events as the bridge does.
func (o *Output) Emit(ctx context.Context, events ...event.Event) (sources.Receipt, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	events = slices.Clone(events)
	for i := range events {
		e := &events[i]
		if e.Position.Key == "" && e.Position.Value != nil {
			o.breach("event %s has a position without a key", e.Name)
		}
		if o.refused[e.Name] {
			return nil, o.fail(&event.Refused{Reason: "the test refuses it"})
		}
		e.Position.Value = bytes.Clone(e.Position.Value)
		e.Payload = bytes.Clone(e.Payload)
		if err := (event.Normaliser{}).Normalise(e); err != nil {
			return nil, o.fail(err)
		}
	}
	if err := o.room(ctx); err != nil {
		return nil, err
	}
	for _, e := range events {
		if e.Position.Key != "" {
			o.positions[e.Position.Key] = e.Position.Value
		}
	}
	o.events = append(o.events, events...)
	return delivered{}, nil
}

// room is nil if events can be kept. mu is held.
func (o *Output) room(ctx context.Context) error {
	switch {
	case ctx.Err() != nil:
		return o.fail(ctx.Err())
	case o.full:
		return o.fail(sources.ErrFull)
	}
	return nil
}

// fail counts an error. mu is held.
func (o *Output) fail(err error) error {
	o.failed++
	return err
}

// Report implements sources.Output.
func (o *Output) Report(states ...event.State) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, s := range states {
		if s.Key == "" {
			o.breach("a state has no key")
		}
		s.Payload = bytes.Clone(s.Payload)
		o.states[s.Key] = s
	}
}

// Remove implements sources.Output.
func (o *Output) Remove(keys ...string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(keys) == 0 {
		clear(o.states)
	}
	for _, key := range keys {
		delete(o.states, key)
	}
}

// Mark implements sources.Output.
func (o *Output) Mark(ctx context.Context, positions ...event.Position) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.inRun("Mark")
	for _, p := range positions {
		if p.Key == "" {
			o.breach("Mark gets a position without a key")
		}
	}
	if err := o.room(ctx); err != nil {
		return err
	}
	for _, p := range positions {
		o.positions[p.Key] = bytes.Clone(p.Value)
	}
	return nil
}

// Positions implements sources.Output.
func (o *Output) Positions() map[string][]byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	return maps.Clone(o.positions)
}

// Forget implements sources.Output.
func (o *Output) Forget(key string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, known := o.positions[key]; !known {
		o.breach("Forget gets the key %q, which has no position", key)
	}
	delete(o.positions, key)
}

// delivered is the receipt of what has come to its end.
type delivered struct{}

func (delivered) Delivered(context.Context) error { return nil }

// Mux is a sources.Mux that serves what is mounted, at the root. It is safe for
// concurrent use.
type Mux struct {
	mu    sync.Mutex
	hooks map[string]http.Handler
}

// Mount implements sources.Mux.
func (m *Mux) Mount(name string, h http.Handler) (unmount func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.hooks == nil {
		m.hooks = map[string]http.Handler{}
	}
	m.hooks[name] = h
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.hooks, name)
	}
}

// Of returns a handler that serves as the bridge does for the source of a name:
// it answers 404 while nothing is mounted.
func (m *Mux) Of(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.mu.Lock()
		h := m.hooks[name]
		m.mu.Unlock()
		if h == nil {
			http.NotFound(w, r)
			return
		}
		h.ServeHTTP(w, r)
	})
}
