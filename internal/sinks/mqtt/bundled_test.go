package mqtt_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"event2mqtt/internal/broker"
	"event2mqtt/internal/event"
	"event2mqtt/internal/sinks"
	"event2mqtt/internal/sinks/mqtt"
	"event2mqtt/internal/testkit"
)

// household is the bundled broker, and all that it was given. While its disk is
// full it does not take what has to be stored at once.
type household struct {
	bundled
	full atomic.Bool

	mu   sync.Mutex
	sent []sinks.Outgoing
}

func newHousehold(t *testing.T) *household {
	b, err := broker.New(broker.Options{})
	testkit.OK(t, err)
	t.Cleanup(func() { b.Close(context.Background()) })
	return &household{bundled: bundled{b}}
}

func (w *household) Publish(ctx context.Context, o sinks.Outgoing) (sinks.Receipt, error) {
	if w.full.Load() && o.Retain && o.QoS > 0 && !o.SaveLater {
		return nil, errors.New("the disk is full")
	}
	w.mu.Lock()
	w.sent = append(w.sent, o)
	w.mu.Unlock()
	return w.bundled.Publish(ctx, o)
}

// last waits for a message to a topic that is empty, or is not, and returns the
// newest of them.
func (w *household) last(t *testing.T, topic string, empty bool) (o sinks.Outgoing) {
	t.Helper()
	testkit.Eventually(t, "something is published to "+topic, func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, o = range slices.Backward(w.sent) {
			if o.Topic == topic && empty == (len(o.Payload) == 0) {
				return true
			}
		}
		return false
	})
	return o
}

// TestTheBundledBrokerStoresAtOnceWhatIsNotPublishedAgain: what clears a topic,
// also at QoS 0, and an event that is retained. States come again after a crash.
func TestTheBundledBrokerStoresAtOnceWhatIsNotPublishedAgain(t *testing.T) {
	b := newHousehold(t)
	r := newRigWith(t, func(o *mqtt.Options, d *sinks.Deps) { o.Publish.QoS, d.Broker = 0, b })
	report(t, r.states, "a", "k", "1")
	qos := byte(1)
	r.post("E", `{}`, event.Route{QoS: &qos, Retain: true})
	if o := b.last(t, "event2mqtt/a/k", false); !o.Retain || !o.SaveLater || o.QoS != 0 {
		t.Errorf("a state is published as %+v", o)
	}
	if o := b.last(t, "event2mqtt/event/E", false); !o.Retain || o.SaveLater || o.QoS != 1 {
		t.Errorf("an event is published as %+v", o)
	}
	r.states.Remove("a", "k")
	if o := b.last(t, "event2mqtt/a/k", true); !o.Retain || o.SaveLater || o.QoS != 1 {
		t.Errorf("a topic is cleared with %+v", o)
	}
}

// TestATopicThatCannotBeClearedYetIsNotForgotten, and holds up nothing else.
func TestATopicThatCannotBeClearedYetIsNotForgotten(t *testing.T) {
	b, file := newHousehold(t), ""
	r := newRigWith(t, func(_ *mqtt.Options, d *sinks.Deps) {
		d.Broker, file = b, filepath.Join(d.StateDir, "mqtt.retained.json")
	})
	listed := func() bool {
		text, err := os.ReadFile(file)
		testkit.OK(t, err)
		return strings.Contains(string(text), "event2mqtt/a/k")
	}
	report(t, r.states, "a", "k", "1", "l", "1")
	b.last(t, "event2mqtt/a/l", false)
	b.full.Store(true)
	r.states.Remove("a", "k")
	report(t, r.states, "a", "l", "2")
	testkit.Eventually(t, "other states go on", func() bool { return string(b.last(t, "event2mqtt/a/l", false).Payload) == "2" })
	r.emit(10)
	r.delivered()
	if !listed() || r.sink.Connections() != 1 {
		t.Errorf("the topic is listed: %t; %d connections", listed(), r.sink.Connections())
	}
	b.full.Store(false)
	testkit.Eventually(t, "it is cleared, and forgotten", func() bool { return !listed() })
	b.last(t, "event2mqtt/a/k", true)
}
