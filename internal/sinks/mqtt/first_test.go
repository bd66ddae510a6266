package mqtt_test

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"event2mqtt/internal/sinks/mqtt"
	"event2mqtt/internal/testkit"
	"event2mqtt/internal/wire"
)

// TestTheFirstBrokerIsPreferred: when it is there again, and takes messages, the
// sink comes back to it. The other is told goodbye, no event is missing, and
// nothing is logged as a failure but the first one.
func TestTheFirstBrokerIsPreferred(t *testing.T) {
	t.Parallel()
	var state atomic.Int32 // of the first: 0 is away, 1 lets clients in, 2 takes messages
	first := (&pickyBroker{connect: func(int, *wire.Connect) verdict {
		if state.Load() == 0 {
			return hangUp
		}
		return take
	}, publish: func(int, *wire.Publish) verdict {
		if state.Load() < 2 {
			return hangUp
		}
		return take
	}}).start(t)
	second := (&pickyBroker{}).start(t)
	r := newRig(t, func(c *mqtt.Config, _ *mqtt.PublishConfig) { c.PreferFirst = 20 * time.Millisecond }, first.url, second.url)
	r.emit(50)
	r.delivered()
	tried := first.connections()
	testkit.Eventually(t, "it has looked", func() bool { return first.connections() > tried+2 })
	state.Store(1)
	tried = first.connections()
	testkit.Eventually(t, "it has looked again", func() bool { return first.connections() > tried+2 })
	r.emit(50)
	r.delivered()
	if n := len(second.events()); n == 0 || second.connections() != 1 {
		t.Errorf("the second broker has %d kinds of events, on %d connections", n, second.connections())
	}
	said := strings.Count(r.log.String(), `"level":"warn"`)
	state.Store(2)
	testkit.Eventually(t, "it is back", func() bool { return strings.Contains(r.log.String(), "going back to it") && r.up() })
	r.emit(50)
	r.delivered()
	testkit.Eventually(t, "the birth is there", func() bool { return first.took("event2mqtt/mqtt") == 1 })
	if n := first.took("event2mqtt/event/E"); n != 50 {
		t.Errorf("the first broker has %d events", n)
	}
	if n := second.took("event2mqtt/event/E"); n != 100 {
		t.Errorf("the second broker has %d events", n)
	}
	if n := second.took("event2mqtt/mqtt"); n != 2 {
		t.Errorf("the second broker was told %d times", n)
	}
	if n := strings.Count(r.log.String(), `"level":"warn"`); n != said {
		t.Error("going back was logged as a failure")
	}
}
