package bridge

import (
	"strings"
	"testing"

	"event2mqtt/internal/event"
	"event2mqtt/internal/testkit"
	"event2mqtt/test/mqttest"
)

// elsewhere is washer's configuration, with a broker that is another program.
func elsewhere(address string) string {
	return strings.Replace(washer, "broker: {listen: MQTT}\n", "mqtt: {url: \"mqtt://"+address+"\"}\n", 1)
}

// TestTheValueOfAnUndeliveredEventIsPublishedAfterARestart: the event was stored,
// and its values were known to nobody but the program that has ended.
func TestTheValueOfAnUndeliveredEventIsPublishedAfterARestart(t *testing.T) {
	state, address := t.TempDir(), testkit.FreeAddress(t)
	t.Run("the broker is away", func(t *testing.T) {
		h := homeRig(t, elsewhere(address), state)
		out := output{b: h.Bridge, source: "washer"}
		for _, payload := range []string{`{"door":{"open":true},"power":1}`, `{"door":{"open":false}}`} {
			_, err := out.Emit(t.Context(), event.Event{Name: "Moved", Payload: []byte(payload)})
			testkit.OK(t, err)
		}
	})
	homeRig(t, strings.Replace(plain, "MQTT", address, 1), t.TempDir())
	homeRig(t, elsewhere(address), state)
	testkit.Eventually(t, "the newest values are there", func() bool {
		kept, _ := mqttest.Retained(address, "event2mqtt/washer/+")
		return kept["event2mqtt/washer/door"] == "false" && kept["event2mqtt/washer/power"] == "1" && strings.Contains(kept["event2mqtt/washer/last_event"], `"Moved"`)
	})
}

// TestTheNewestEventHasTheLastWord, though an older one comes later: two were
// stored at once.
func TestTheNewestEventHasTheLastWord(t *testing.T) {
	h := homeRig(t, washer, t.TempDir())
	moved := func(payload string, seq uint64) {
		h.mirror([]event.Event{{Name: "Moved", Source: "washer", Payload: []byte(payload)}}, seq)
	}
	moved(`{"door":{"open":true}}`, 2)
	moved(`{"door":{"open":false},"power":1}`, 1)
	testkit.Eventually(t, "what the older one alone tells is there", func() bool {
		kept, _ := mqttest.Retained(h.mqtt, "event2mqtt/washer/+")
		return kept["event2mqtt/washer/power"] == "1"
	})
	if kept, err := mqttest.Retained(h.mqtt, "event2mqtt/washer/+"); err != nil || kept["event2mqtt/washer/door"] != "true" {
		t.Errorf("%v, %v", kept, err)
	}
}
