package mqtt_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"event2mqtt/internal/broker"
	"event2mqtt/internal/event"
	"event2mqtt/internal/sinks"
	"event2mqtt/internal/sinks/mqtt"
	"event2mqtt/internal/testkit"
	"event2mqtt/internal/wire"
)

// TestWhatIsRetainedIsPublishedOnceMore: some brokers acknowledge retained
// messages that they do not keep. The birth, states and what was cleared come
// again, once, a while after the connect; what the sink knows to be there stays
// known.
func TestWhatIsRetainedIsPublishedOnceMore(t *testing.T) {
	t.Parallel()
	b := (&pickyBroker{publish: func(int, *wire.Publish) verdict { return take }}).start(t)
	dir := t.TempDir()
	with := func(after time.Duration) func(o *mqtt.Options, d *sinks.Deps) {
		return func(o *mqtt.Options, d *sinks.Deps) { o.Repeat, d.StateDir = after, dir }
	}
	r := newRigOf(t, event.NewStates(), nil, nil, with(time.Hour), b.url)
	report(t, r.states, "s", "old", "1")
	testkit.Eventually(t, "a state is there that will go", func() bool { return r.sink.Has("s") && b.took("event2mqtt/s/old") == 1 })
	r.stop()

	states := event.NewStates()
	report(t, states, "s", "k", "1")
	births := b.took("event2mqtt/mqtt")
	r = newRigOf(t, states, nil, nil, with(2*time.Second), b.url)
	testkit.Eventually(t, "all is there for the first time", func() bool { return r.sink.Has("s") })
	testkit.Eventually(t, "all comes once more", func() bool {
		known := r.sink.Has("s")
		return known && b.took("event2mqtt/mqtt") == births+2 && b.took("event2mqtt/s/k") == 2 && b.took("event2mqtt/s/old") == 1+2
	})
}

// counted is the bundled broker, which counts births.
type counted struct {
	bundled
	births *atomic.Int64
}

func (c counted) Publish(ctx context.Context, o sinks.Outgoing) (sinks.Receipt, error) {
	if strings.HasSuffix(o.Topic, "/mqtt") {
		c.births.Add(1)
	}
	return c.bundled.Publish(ctx, o)
}

// TestTheBundledBrokerIsToldOnce: what it acknowledges, it keeps.
func TestTheBundledBrokerIsToldOnce(t *testing.T) {
	t.Parallel()
	in, err := broker.New(broker.Options{})
	testkit.OK(t, err)
	defer in.Close(context.Background())
	var births atomic.Int64
	r := newRigWith(t, func(o *mqtt.Options, d *sinks.Deps) {
		o.Repeat, d.Broker = time.Millisecond, counted{bundled{in}, &births}
	})
	testkit.Eventually(t, "it is connected", r.up)
	time.Sleep(100 * time.Millisecond)
	if n := births.Load(); n != 1 {
		t.Errorf("%d births", n)
	}
}
