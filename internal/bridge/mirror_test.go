package bridge

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"event2mqtt/internal/broker/wire"
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

// TestWhatIsTakenBackIsKnownUntilHomeAssistantHasHeardIt: it must have started on
// this connection, and have stayed. A retained birth message may be from long ago.
func TestWhatIsTakenBackIsKnownUntilHomeAssistantHasHeardIt(t *testing.T) {
	house := homeRig(t, plain, t.TempDir())
	c, err := mqttest.Dial(house.mqtt, mqttest.Options{ID: "ha"})
	testkit.OK(t, err)
	defer c.Close()
	testkit.OK(t, c.SetDeadline(time.Now().Add(mqttest.Patience)))
	say := func(payload string, retain bool) {
		testkit.OK(t, c.Send(wire.Publish{Topic: "homeassistant/status", Payload: []byte(payload), Retain: retain}))
	}
	say("online", true)
	state := t.TempDir()
	yaml := elsewhere(house.mqtt)
	h := homeRig(t, yaml, state)
	h.mqtt = house.mqtt
	known := func() bool {
		text, err := os.ReadFile(filepath.Join(state, "homeassistant.json"))
		testkit.OK(t, err)
		return strings.Contains(string(text), `"unheard"`)
	}
	without := func(key, entity string) {
		t.Helper()
		h.reload(strings.Replace(yaml, entity, "", 1))
		testkit.Eventually(t, key+" is taken back", func() bool {
			d := announced(t, h, "homeassistant")["washer"]
			return known() && d != nil && d.Components[key] == nil
		})
	}
	door, power := "      - {name: Door, kind: binary, from: payload.door.open, class: door}\n", "      - {name: Power, kind: number, from: payload.power, unit: W, class: power}\n"
	stays := func(what string) {
		t.Helper()
		time.Sleep(6 * hurry.certain) // much longer would make it more certain, and the test no better
		if !known() {
			t.Errorf("it is forgotten though %s", what)
		}
	}
	_ = awaitAnnounced(t, h, "homeassistant", "", "washer")
	without("door", door)
	stays("nobody but a retained message says that Home Assistant is there")
	say("online", false)
	testkit.Eventually(t, "Home Assistant has heard it", func() bool { return !known() })
	h.reload(strings.Replace(yaml, "publish:", "home_assistant: {discovery: false}\npublish:", 1))
	testkit.Eventually(t, "nothing is announced", func() bool { return len(announced(t, h, "homeassistant")) == 0 })
	say("offline", false) // nobody may listen
	h.reload(yaml)
	_ = awaitAnnounced(t, h, "homeassistant", "", "washer")
	without("power", power)
	stays("Home Assistant may have gone while nobody listened")
}
