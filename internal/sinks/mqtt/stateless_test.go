package mqtt_test

import (
	"fmt"
	"strings"
	"testing"

	"event2mqtt/internal/event"
	"event2mqtt/internal/sinks/mqtt"
	"event2mqtt/internal/testkit"
	"event2mqtt/internal/wire"
)

// TestStatesStopAtABrokerThatRetainsNothing: once it has refused two, the others
// cost no connection any more, nor do those that change; events arrive.
func TestStatesStopAtABrokerThatRetainsNothing(t *testing.T) {
	t.Parallel()
	b := (&pickyBroker{publish: func(_ int, p *wire.Publish) verdict {
		if p.Retain {
			return hangUp
		}
		return take
	}}).start(t)
	r := newRig(t, func(c *mqtt.Config, _ *mqtt.PublishConfig) { c.Will.Enabled = false }, b.url)
	const n = 8
	report := func(value int) {
		for i := range n {
			testkit.OK(t, r.states.Report("s", event.State{Key: fmt.Sprint("k", i), Payload: []byte(fmt.Sprint(value))}))
		}
	}
	report(1)
	r.post("before", "{}", event.Route{})
	testkit.Eventually(t, "all states are skipped", func() bool {
		return strings.Count(r.log.String(), "this state cannot be published and is skipped") == n
	})
	r.delivered()
	conns := func() int {
		b.mu.Lock()
		defer b.mu.Unlock()
		return b.conns
	}
	before := conns()
	for value := range 5 {
		report(10 + value)
		r.post("after", "{}", event.Route{})
		r.delivered()
	}
	if after := conns(); after != before || before > 12 {
		t.Errorf("%d connections, and %d after states have changed", before, after)
	}
}
