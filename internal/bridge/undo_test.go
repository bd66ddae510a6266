package bridge

import (
	"context"
	"errors"
	"slices"
	"testing"

	"event2mqtt/internal/device"
	"event2mqtt/internal/event"
	"event2mqtt/internal/sources"
)

// tellerOptions are those of a source that says all it can as soon as it runs.
type tellerOptions struct {
	sources.Common `koanf:",squash"`
	told           chan struct{} // closed when it has
}

func (*tellerOptions) Check() error                                 { return nil }
func (*tellerOptions) Exclusive() bool                              { return false }
func (o *tellerOptions) Build(sources.Deps) (sources.Source, error) { return o, nil }

func (o *tellerOptions) Run(ctx context.Context, out sources.Output) error {
	out.Ready()
	out.Describe(device.Device{Name: "Teller"})
	out.Report(event.State{Key: "said", Payload: []byte("1")})
	if _, err := out.Emit(ctx, event.Event{Name: "Told", Payload: []byte("{}")}); err != nil {
		return err
	}
	close(o.told)
	<-ctx.Done()
	return nil
}

// TestASourceOfARefusedReloadLeavesNothingBehind: no device, no state, no learned
// name, no counter.
func TestASourceOfARefusedReloadLeavesNothingBehind(t *testing.T) {
	told := make(chan struct{})
	types := BuiltIn()
	types.Sources = append(types.Sources, sources.Type{Name: "teller", Options: func() sources.Options { return &tellerOptions{told: told} }})
	h := newRigOf(t, types, plain, t.TempDir(), func(component string) error {
		if component != "source late" {
			return nil
		}
		<-told
		return errors.New("not today")
	})
	if o := h.reload(withLate(plain) + "  - {name: teller, type: teller}\n"); o.OK {
		t.Fatalf("%+v", o)
	}
	if d, known := h.devices.all()["teller"]; known {
		t.Errorf("a device: %+v", d)
	}
	if n, known := h.states.Counts()["teller"]; known && n > 0 {
		t.Errorf("%d states", n)
	}
	if slices.Contains(h.devices.learned.Sources(), "teller") {
		t.Error("names of events")
	}
	h.counts.mu.Lock()
	defer h.counts.mu.Unlock()
	if h.counts.intakes["teller"] != nil {
		t.Error("counters")
	}
}
