package sourcetest_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"event2mqtt/internal/device"
	"event2mqtt/internal/event"
	"event2mqtt/internal/health"
	"event2mqtt/internal/sources"
	"event2mqtt/internal/sources/sourcetest"
)

// does is a source that does one thing, and waits.
type does func(ctx context.Context, out sources.Output)

func (d does) Run(ctx context.Context, out sources.Output) error {
	d(ctx, out)
	<-ctx.Done()
	return ctx.Err()
}

// TestAnOutputNotesWhatTheContractForbids, and nothing else.
func TestAnOutputNotesWhatTheContractForbids(t *testing.T) {
	for _, c := range []struct {
		name  string
		does  does
		want  string // "" is allowed
		after func(sources.Output)
	}{
		{"all that is allowed", func(ctx context.Context, out sources.Output) {
			out.Tell(health.Lacking("connecting"))
			out.Describe(device.Device{Name: "x"})
			_, _ = out.Emit(ctx, event.Event{Name: "A", Position: event.Position{Key: "k", Value: []byte("1")}}, event.Event{Name: "B"})
			_ = out.Mark(ctx, event.Position{Key: "k"})
			out.Report(event.State{Key: "s", Payload: []byte("1")})
			out.Remove("s")
			out.Forget("k")
		}, "", nil},
		{"ready twice", func(_ context.Context, out sources.Output) { out.Ready() }, "Ready is called 2 times", nil},
		{"Failed", func(_ context.Context, out sources.Output) { out.Tell(health.Failure(errors.New("x"))) }, "it tells of Failed", nil},
		{"no detail", func(_ context.Context, out sources.Output) { out.Tell(health.Lacking("")) }, "a detail of 0 bytes", nil},
		{"up with an error", func(_ context.Context, out sources.Output) {
			out.Tell(health.Status{Detail: "running", Error: "x"})
		}, "is up, with the error", nil},
		{"a bad device", func(_ context.Context, out sources.Output) { out.Describe(device.Device{ID: "/"}) }, "describes its device wrongly", nil},
		{"a state without a key", func(_ context.Context, out sources.Output) { out.Report(event.State{}) }, "a state has no key", nil},
		{"a mark without a key", func(ctx context.Context, out sources.Output) { _ = out.Mark(ctx, event.Position{}) }, "Mark gets a position without a key", nil},
		{"a position without a key", func(ctx context.Context, out sources.Output) {
			_, _ = out.Emit(ctx, event.Event{Name: "A", Position: event.Position{Value: []byte("1")}})
		}, "event A has a position without a key", nil},
		{"forgetting what is not known", func(_ context.Context, out sources.Output) { out.Forget("k") }, `Forget gets the key "k"`, nil},
		{"after the end", func(context.Context, sources.Output) {}, "Tell is called when Run does not run", func(out sources.Output) { out.Tell(health.Running("x")) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := sourcetest.NewOutput()
			done := make(chan struct{})
			stop := o.Run(t, does(func(ctx context.Context, out sources.Output) {
				defer close(done)
				out.Ready()
				c.does(ctx, out)
			}))
			<-done
			if err := stop(); !errors.Is(err, context.Canceled) {
				t.Errorf("it ended with %v", err)
			}
			if c.after != nil {
				c.after(o)
			}
			text := strings.Join(o.Breaches(), "; ")
			if c.want == "" && text != "" || !strings.Contains(text, c.want) {
				t.Errorf("noted: %q, want %q", text, c.want)
			}
		})
	}
}

// TestAnOutputKeepsCopies: sources use the memory of events again.
func TestAnOutputKeepsCopies(t *testing.T) {
	o := sourcetest.NewOutput()
	payload, value := []byte(`{"a":1}`), []byte("12")
	if _, err := o.Emit(t.Context(), event.Event{Name: "A", Payload: payload, Position: event.Position{Key: "k", Value: value}}); err != nil {
		t.Fatal(err)
	}
	copy(payload, "xxxxxxx")
	copy(value, "xx")
	if e := o.Events()[0]; !strings.Contains(string(e.Payload), `"a":1`) || string(o.Positions()["k"]) != "12" {
		t.Errorf("it keeps %s at %s", e.Payload, o.Positions()["k"])
	}
	o.Full(true)
	if _, err := o.Emit(t.Context(), event.Event{Name: "B"}); !errors.Is(err, sources.ErrFull) || len(o.Events()) != 1 {
		t.Errorf("when it is full: %v, %q", err, o.Names())
	}
}
