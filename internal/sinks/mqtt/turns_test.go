package mqtt_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"event2mqtt/internal/broker"
	"event2mqtt/internal/event"
	"event2mqtt/internal/sinks"
	"event2mqtt/internal/sinks/mqtt"
	"event2mqtt/internal/testkit"
	"event2mqtt/internal/wire"
)

// TestEventsGoOutBeforeWhatIsRetained: on a connect, those that wait are out
// before a broker that is slow for retained messages gets the first of these.
func TestEventsGoOutBeforeWhatIsRetained(t *testing.T) {
	t.Parallel()
	stored := make(chan struct{})
	b := (&pickyBroker{connect: func(int, *wire.Connect) verdict {
		<-stored
		return take
	}, publish: func(_ int, p *wire.Publish) verdict {
		if p.Retain {
			time.Sleep(20 * time.Millisecond) // and it reads nothing meanwhile
		}
		return take
	}}).start(t)
	r := newRig(t, nil, b.url)
	const n = 100 // less than a window
	for i := range 20 {
		report(t, r.states, "s", fmt.Sprint("k", i), "1")
	}
	r.emit(n)
	close(stored)
	r.delivered()
	testkit.Eventually(t, "the birth and the states are out, too", func() bool {
		return b.took("event2mqtt/mqtt") == 1 && b.took("event2mqtt/s/k19") == 1
	})
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, topic := range b.got[:n] {
		if !strings.HasPrefix(topic, "event2mqtt/event/") {
			t.Fatalf("message %d is %s", i+1, topic)
		}
	}
}

// TestEventsDoNotWaitForWhatIsRetained: a broker keeps the acknowledgements of
// retained messages back until it has all events, and the sink tells all the
// same that it is connected.
func TestEventsDoNotWaitForWhatIsRetained(t *testing.T) {
	t.Parallel()
	b := &pickyBroker{release: make(chan struct{})}
	b.publish = func(_ int, p *wire.Publish) verdict {
		if p.Retain {
			return late
		}
		return take
	}
	b.start(t)
	release := sync.OnceFunc(func() { close(b.release) })
	t.Cleanup(release) // before that of start
	r := newRig(t, func(c *mqtt.Config, _ *mqtt.PublishConfig) { c.InFlight, c.Timeout = 8, mqttPatience }, b.url)
	for i := range 50 {
		report(t, r.states, "s", fmt.Sprint("k", i), "1")
	}
	r.emit(500)
	r.delivered()
	testkit.Eventually(t, "it is connected", r.up)
	release()
	testkit.Eventually(t, "all states are out", func() bool { return b.took("event2mqtt/s/k49") == 1 })
	if b.took("event2mqtt/mqtt") != 1 {
		t.Error("no birth")
	}
}

// mqttPatience is a time-out that no test reaches.
const mqttPatience = time.Minute

// birthless is a broker that does not take the birth, and says so.
type birthless struct{ bundled }

func (b birthless) Publish(ctx context.Context, o sinks.Outgoing) (sinks.Receipt, error) {
	if o.Topic == "event2mqtt/mqtt" {
		return nil, fmt.Errorf("%w: not authorized", sinks.ErrNeverTaken)
	}
	return b.bundled.Publish(ctx, o)
}

// TestABirthThatIsRefusedStopsNothing: it is said once.
func TestABirthThatIsRefusedStopsNothing(t *testing.T) {
	t.Parallel()
	in, err := broker.New(broker.Options{})
	testkit.OK(t, err)
	defer in.Close(context.Background())
	r := newRigWith(t, func(_ *mqtt.Options, d *sinks.Deps) { d.Broker = birthless{bundled{in}} })
	r.post("E", "{}", event.Route{})
	r.delivered()
	testkit.Eventually(t, "it is connected", r.up)
	r.stop()
	if n := strings.Count(r.log.String(), "does not take the message that the bridge is there"); n != 1 {
		t.Errorf("said %d times", n)
	}
}

// TestABirthThatIsNeverAcknowledgedHoldsUpNoState, also while events come all the
// time: what was overtaken is not waited for any longer than anything else.
func TestABirthThatIsNeverAcknowledgedHoldsUpNoState(t *testing.T) {
	t.Parallel()
	b := (&pickyBroker{publish: func(_ int, p *wire.Publish) verdict {
		if p.Topic == "event2mqtt/mqtt" {
			return ignore
		}
		return take
	}}).start(t)
	r := newRig(t, func(c *mqtt.Config, _ *mqtt.PublishConfig) { c.Timeout = 300 * time.Millisecond }, b.url)
	report(t, r.states, "s", "a", "1", "b", "1", "c", "1", "d", "1")
	testkit.Eventually(t, "the states are there", func() bool {
		r.emit(1)
		return b.took("event2mqtt/s/a") > 0 && b.took("event2mqtt/s/b") > 0 && b.took("event2mqtt/s/c") > 0 && b.took("event2mqtt/s/d") > 0
	})
	r.delivered()
}
