package bridge

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"event2mqtt/internal/homeassistant"
	"event2mqtt/internal/homeassistant/schema"
	"event2mqtt/internal/homeassistant/store"
	"event2mqtt/internal/testkit"
	"event2mqtt/internal/wire"
	"event2mqtt/test/mqttest"
)

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
	more, gone := 0, ""
	without := func(key, entity string) {
		t.Helper()
		gone = entity
		h.reload(strings.Replace(yaml, entity, "", 1))
		testkit.Eventually(t, key+" is taken back", func() bool {
			d := announced(t, h, "homeassistant")["washer"]
			return known() && d != nil && d.Components[key] == nil
		})
	}
	door, power := "      - {name: Door, kind: binary, from: payload.door.open, class: door}\n", "      - {name: Power, kind: number, from: payload.power, unit: W, class: power}\n"
	// What is certain is forgotten between two steps, so that two are taken.
	stays := func(what string) {
		t.Helper()
		for range 2 {
			more++
			yaml += fmt.Sprintf("      - {name: More %d, from: payload.more}\n", more)
			h.reload(strings.Replace(yaml, gone, "", 1))
			testkit.Eventually(t, "the next step is taken", func() bool {
				d := announced(t, h, "homeassistant")["washer"]
				return d != nil && d.Components[fmt.Sprintf("more_%d", more)] != nil
			})
		}
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

// TestAStepThatWasKeptAndNotPublishedComesFirst after a start: the program was
// killed between the two. What it takes away is announced once more only after it,
// or Home Assistant would have two of it.
func TestAStepThatWasKeptAndNotPublishedComesFirst(t *testing.T) {
	house, state := homeRig(t, plain, t.TempDir()), t.TempDir()
	yaml := elsewhere(house.mqtt)
	t.Run("until it is killed", func(t *testing.T) {
		h := homeRig(t, yaml, state)
		h.mqtt = house.mqtt
		awaitAnnounced(t, h, "homeassistant", "", "washer")
	})
	m, err := store.Load(state)
	testkit.OK(t, err)
	wanted := map[string]homeassistant.Message{}
	for id, s := range m.Shown {
		wanted[id] = homeassistant.Message{Source: s.Source, Thing: s.Thing, Device: s.Device, Topics: s.Topics, Topic: s.Topic, Head: s.Head, Components: maps.Clone(s.Components)}
	}
	delete(wanted["washer"].Components, "door")
	m.Round(wanted)
	testkit.OK(t, store.Save(state, m))

	c, err := mqttest.Dial(house.mqtt, mqttest.Options{ID: "ha"})
	testkit.OK(t, err)
	defer c.Close()
	testkit.OK(t, c.SetDeadline(time.Now().Add(mqttest.Patience)))
	_, err = c.Subscribe("homeassistant/device/+/config", 0)
	testkit.OK(t, err)
	homeRig(t, strings.Replace(yaml, "      - {name: Door, kind: binary, from: payload.door.open, class: door}\n", "", 1), state)
	var steps []string
	for len(steps) == 0 || steps[len(steps)-1] != "whole once more" {
		p, err := c.Next()
		if err != nil {
			t.Fatalf("%v; until then %q", err, steps)
		}
		if p.Retain || !strings.HasSuffix(p.Topic, "_washer/config") {
			continue
		}
		d, err := schema.Parse(p.Payload)
		testkit.OK(t, err)
		switch {
		case len(d.Components["removed_binary_sensor_door"]) > 1:
			steps = append(steps, "whole once more")
		case len(d.Components["door"]) == 1:
			steps = append(steps, "the step that was kept")
		default:
			steps = append(steps, "something else")
		}
	}
	if steps[0] != "the step that was kept" {
		t.Errorf("Home Assistant was told %q", steps)
	}
}
