package bridge

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"event2mqtt/internal/device"
	"event2mqtt/internal/event"
	"event2mqtt/internal/homeassistant"
	"event2mqtt/internal/homeassistant/schema"
	"event2mqtt/internal/learned"
	"event2mqtt/internal/testkit"
	"event2mqtt/internal/wire"
	"event2mqtt/test/mqttest"
)

// hurry is an announcer's pace for tests.
var hurry = announcerPace{
	quiet: 10 * time.Millisecond, latest: 50 * time.Millisecond, gap: 10 * time.Millisecond, birth: 10 * time.Millisecond, step: 10 * time.Millisecond, note: 200 * time.Millisecond, certain: time.Millisecond,
}

// homeRig is a bridge that announces devices without patience.
func homeRig(t *testing.T, yaml, state string) *rig {
	t.Helper()
	return newRigWith(t, yaml, state, BuiltIn(), func(b *Bridge) {
		b.announcer.pace = hurry
		b.telling = tellerPace{look: 50 * time.Millisecond, waiting: 50 * time.Millisecond, info: time.Minute}
	})
}

// washer is a configuration of a webhook that is shown as a device.
const washer = `
http: {listen: HTTP}
broker: {listen: MQTT}
publish: {source_field: _source, state_interval: 0s}
sources:
  - {name: hooks, type: webhook}
  - name: washer
    type: webhook
    event: {names: {done: Finished}}
    entities:
      - {name: Door, kind: binary, from: payload.door.open, class: door}
      - {name: Power, kind: number, from: payload.power, unit: W, class: power}
`

// announced are the devices of h that a broker keeps, by the last part of their id.
func announced(t *testing.T, h *rig, prefix string) map[string]*schema.Payload {
	t.Helper()
	kept, err := mqttest.Retained(h.mqtt, prefix+"/#")
	if err != nil {
		return nil
	}
	all := map[string]*schema.Payload{}
	for topic, payload := range kept {
		if !strings.HasSuffix(topic, "/config") {
			continue // a note, or a birth message
		}
		if said := schema.Check(prefix, topic, []byte(payload)); len(said) > 0 {
			t.Errorf("%s: %s", topic, strings.Join(said, "\n"))
		}
		p, err := schema.Parse([]byte(payload))
		if err != nil {
			t.Fatal(err)
		}
		if _, id, own := strings.Cut(strings.TrimSuffix(topic, "/config"), h.announcer.id); own {
			all[strings.TrimPrefix(id, "_")] = p
		}
	}
	return all
}

// awaitAnnounced waits until exactly these devices are announced, and returns
// them.
func awaitAnnounced(t *testing.T, h *rig, prefix string, want ...string) (all map[string]*schema.Payload) {
	t.Helper()
	slices.Sort(want)
	testkit.Eventually(t, "announced are "+strings.Join(want, ", "), func() bool {
		all = announced(t, h, prefix)
		return slices.Equal(slices.Sorted(maps.Keys(all)), want)
	})
	return all
}

// types are the names in the event entity of a device.
func types(p *schema.Payload) (names []string) {
	all, _ := p.Components["event"]["event_types"].([]any)
	for _, name := range all {
		names = append(names, name.(string))
	}
	return names
}

// TestAWebhookIsADevice: its names are learned, its values are states, and both
// outlive the program; without the device nothing stays.
func TestAWebhookIsADevice(t *testing.T) {
	state := t.TempDir()
	h := homeRig(t, washer, state)
	out := output{b: h.Bridge, source: "washer"}
	for _, name := range []string{"Started", "Rinsing", "Spinning"} {
		if _, err := out.Emit(t.Context(), event.Event{Name: name, Payload: []byte(`{"door":{"open":"no"},"power":"230.5","_source":"made up"}`)}); err != nil {
			t.Fatal(err)
		}
	}
	testkit.Eventually(t, "the third new name is in its types", func() bool {
		d := announced(t, h, "homeassistant")["washer"]
		return d != nil && slices.Equal(types(d), []string{"Finished", "Rinsing", "Spinning", "Started"})
	})
	d := awaitAnnounced(t, h, "homeassistant", "", "washer")["washer"]
	for _, key := range []string{"connected", "event", "last_event", "door", "power", "trigger_Finished"} {
		if d.Components[key] == nil {
			t.Errorf("it has no %s", key)
		}
	}
	values := func() map[string]string {
		kept, _ := mqttest.Retained(h.mqtt, "event2mqtt/washer/+")
		delete(kept, "event2mqtt/washer/last_event")
		return kept
	}
	want := map[string]string{"event2mqtt/washer/available": "online", "event2mqtt/washer/door": "false", "event2mqtt/washer/power": "230.5"}
	testkit.Eventually(t, "its values are states", func() bool { return maps.Equal(values(), want) })
	h.reload(washer + "log: {level: warn}\n")
	h.states.Settle("washer") // which it does a minute after the start
	testkit.Eventually(t, "they stay", func() bool { return maps.Equal(values(), want) })
	h.reload(strings.Replace(washer, "home_assistant", "", 1) + "home_assistant: {discovery: false}\n")
	awaitAnnounced(t, h, "homeassistant")
	h.reload(washer)
	awaitAnnounced(t, h, "homeassistant", "", "washer")
	h.reload(strings.Replace(washer, "- name: washer", "- name: dryer", 1) + "home_assistant: {prefix: ha, node: cellar}\n")
	awaitAnnounced(t, h, "homeassistant")
	awaitAnnounced(t, h, "ha", "", "dryer")
}

// TestARestartRemembersDevices that were described by what is not there yet, and
// forgets those that are not configured any more.
func TestARestartRemembersDevices(t *testing.T) {
	state := t.TempDir()
	octo := "http: {listen: HTTP}\nbroker: {listen: MQTT}\nsources:\n  - {name: hooks, type: webhook}\n  - {name: mk4, type: octoprint, url: \"http://127.0.0.1:9\", api_key: k}\n"
	var first map[string]*schema.Payload
	t.Run("first", func(t *testing.T) {
		h := homeRig(t, octo, state)
		d, _ := shown(h.now.plan.sources[1])
		d.Model = "MK4S"
		d.Entities = append(d.Entities, device.Entity{Key: "bed", Name: "Bed", State: "temperature/bed", Value: "actual", Kind: device.Number, Unit: "°C", Class: "temperature"})
		output{b: h.Bridge, source: "mk4"}.Describe(d)
		testkit.Eventually(t, "it is announced", func() bool {
			first = announced(t, h, "homeassistant")
			return first["mk4"] != nil && first["mk4"].Components["bed"] != nil
		})
	})
	t.Run("again, under another name", func(t *testing.T) {
		h := homeRig(t, strings.Replace(octo, "name: mk4", "name: prusa", 1), state)
		all := awaitAnnounced(t, h, "homeassistant", "", "mk4")
		testkit.Eventually(t, "its topics have followed", func() bool {
			all = announced(t, h, "homeassistant")
			return all["mk4"] != nil && all["mk4"].Components["connected"]["state_topic"] == "event2mqtt/prusa/available"
		})
		d := all["mk4"]
		if d.Components["bed"]["unique_id"] != first["mk4"].Components["bed"]["unique_id"] || d.Device["model"] != "MK4S" {
			t.Errorf("it is another: %v", d)
		}
	})
	t.Run("without it", func(t *testing.T) {
		h := homeRig(t, plain, state)
		awaitAnnounced(t, h, "homeassistant", "")
	})
}

// TestARenamedWebhookStaysTheDevice that its device_id names, though that is
// only written with the new name.
func TestARenamedWebhookStaysTheDevice(t *testing.T) {
	state := t.TempDir()
	var door any
	for i, name := range []string{"name: washer", "{name: laundry, device_id: washer", "{name: cellar, device_id: washer"} {
		yaml := washer
		if i > 0 {
			at := strings.Index(washer, "  - name: washer")
			yaml = washer[:at] + "  - " + name + ", type: webhook, entities: [{name: Door, kind: binary, from: payload.door.open, class: door}]}\n"
		}
		t.Run(name, func(t *testing.T) {
			h := homeRig(t, yaml, state)
			source, _, _ := strings.Cut(strings.TrimLeft(name, "{name: "), ",")
			testkit.Eventually(t, "it is announced with its topics", func() bool {
				all := announced(t, h, "homeassistant")
				if len(all) != 2 || all["washer"] == nil || all["washer"].Components["connected"]["state_topic"] != "event2mqtt/"+source+"/available" {
					return false
				}
				id := all["washer"].Components["door"]["unique_id"]
				if door == nil {
					door = id
				}
				return id != nil && id == door
			})
		})
	}
}

// TestHomeAssistantsStartIsAnswered: everything is published again, what was
// taken away unheard is announced once more and taken away again.
func TestHomeAssistantsStartIsAnswered(t *testing.T) {
	h := homeRig(t, washer, t.TempDir())
	awaitAnnounced(t, h, "homeassistant", "", "washer")
	c, err := mqttest.Dial(h.mqtt, mqttest.Options{ID: "ha"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(mqttest.Patience))
	h.reload(strings.Replace(washer, "      - {name: Door, kind: binary, from: payload.door.open, class: door}\n", "", 1)) // nobody is there
	testkit.Eventually(t, "the door is gone", func() bool {
		d := announced(t, h, "homeassistant")["washer"]
		return d != nil && d.Components["door"] == nil
	})
	if _, err := c.Subscribe("#", 0); err != nil {
		t.Fatal(err)
	}
	for { // what is retained
		p, err := c.Next()
		if err != nil {
			t.Fatal(err)
		}
		if p.Topic == "event2mqtt/washer/available" {
			break
		}
	}
	if err := c.Send(wire.Publish{Topic: "homeassistant/status", Payload: []byte("online")}); err != nil {
		t.Fatal(err)
	}
	// The door whole, then taken away, then left out; and all else again.
	var order, doors []string
	for len(doors) == 0 || doors[len(doors)-1] != "out" {
		p, err := c.Next()
		if err != nil {
			t.Fatalf("%v; until then %q, doors %q", err, order, doors)
		}
		switch {
		case p.Retain:
		case strings.HasSuffix(p.Topic, "_washer/config"):
			m, err := schema.Parse(p.Payload)
			if err != nil {
				t.Fatal(err)
			}
			door := m.Components["removed_binary_sensor_door"]
			step := map[bool]string{true: "farewell", false: "whole"}[len(door) == 1]
			if door == nil {
				if step = "out"; len(doors) == 0 {
					step = "before"
				}
			}
			doors = append(doors, step)
			order = append(order, "config")
		case p.Topic == "event2mqtt/washer/available", p.Topic == "event2mqtt/bridge/config":
			order = append(order, p.Topic)
		}
	}
	doors = slices.Compact(doors)
	if doors[0] == "before" { // all else came first
		doors = doors[1:]
	}
	if !slices.Equal(doors, []string{"whole", "farewell", "out"}) {
		t.Errorf("the door was %q", doors)
	}
	if at := slices.Index(order, "event2mqtt/washer/available"); at < 0 || order[0] != "config" || slices.Index(order, "event2mqtt/bridge/config") < at {
		t.Errorf("the order was %q", order)
	}
}

// TestACopiedStateFolderIsNoticed by both programs. What the log says to do helps,
// takes nothing from the first, and ends its problem.
func TestACopiedStateFolderIsNoticed(t *testing.T) {
	house := homeRig(t, plain, t.TempDir())
	yaml := "http: {listen: HTTP}\nmqtt: {url: \"mqtt://" + house.mqtt + "\"}\npublish: {source_field: _source, base_topic: BASE}\nsources:\n  - {name: hooks, type: webhook}\n  - {name: washer, type: webhook, device: true}\n"
	state, copied := t.TempDir(), t.TempDir()
	first := homeRig(t, strings.ReplaceAll(yaml, "BASE", "first"), state)
	mine := func(installation string) (all []string) {
		kept, _ := mqttest.Retained(house.mqtt, "homeassistant/device/+/config")
		for topic := range kept {
			if strings.Contains(topic, installation) {
				all = append(all, topic)
			}
		}
		return all
	}
	testkit.Eventually(t, "the first is announced", func() bool { return len(mine(first.announcer.id)) == 2 })
	problem := func(is bool) func() bool {
		return func() bool {
			kept, _ := mqttest.Retained(house.mqtt, "first/bridge/state")
			var s ownState
			return json.Unmarshal([]byte(kept["first/bridge/state"]), &s) == nil && (s.State == stateProblem) == is && strings.Contains(value(s.Problem), "id of this installation") == is
		}
	}
	for _, pattern := range []string{"*_id", "*.json"} {
		files, err := filepath.Glob(filepath.Join(state, pattern))
		testkit.OK(t, err)
		for _, path := range files {
			text, err := os.ReadFile(path)
			testkit.OK(t, err)
			testkit.Write(t, filepath.Join(copied, filepath.Base(path)), string(text))
		}
	}
	var says string
	t.Run("a copy", func(t *testing.T) {
		twin := homeRig(t, strings.Replace(strings.ReplaceAll(yaml, "BASE", "first"), "mqtt: {", "mqtt: {client_id: twin, ", 1), copied)
		for name, r := range map[string]*rig{"the first": first, "the copy": twin} {
			testkit.Eventually(t, name+" says so", func() bool { return strings.Contains(r.log.String(), "state folder is a copy") })
		}
		testkit.Eventually(t, "the device has a problem", problem(true))
		says = first.log.String()
	})
	testkit.Eventually(t, "the problem ends with the copy", problem(false))
	_, says, _ = strings.Cut(says, "Stop the copy, remove ")
	says, _, _ = strings.Cut(says, " from its state folder")
	for _, pattern := range strings.Split(strings.ReplaceAll(says, " and ", ", "), ", ") {
		files, err := filepath.Glob(filepath.Join(copied, pattern))
		if testkit.OK(t, err); len(files) == 0 {
			t.Errorf("the copy has no %s", pattern)
		}
		for _, path := range files {
			testkit.OK(t, os.Remove(path))
		}
	}
	t.Run("mended", func(t *testing.T) {
		twin := homeRig(t, strings.ReplaceAll(yaml, "BASE", "second"), copied)
		testkit.Eventually(t, "the copy has its own devices", func() bool { return len(mine(twin.announcer.id)) == 2 })
		if left := mine(first.announcer.id); len(left) != 2 || twin.announcer.id == first.announcer.id {
			t.Errorf("of the first there is %q", left)
		}
	})
	if strings.Count(first.log.String(), "state folder is a copy") != 1 {
		t.Error("it is not said once")
	}
}

// TestTheReloadButtonReloads.
func TestTheReloadButtonReloads(t *testing.T) {
	h := homeRig(t, plain, t.TempDir())
	b := awaitAnnounced(t, h, "homeassistant", "")[""]
	topic, _ := b.Components["command_reload"]["command_topic"].(string)
	h.write(plain + "log: {level: warn}\n")
	c, err := mqttest.Dial(h.mqtt, mqttest.Options{ID: "ha"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(mqttest.Patience))
	if _, err := c.Subscribe("event2mqtt/bridge/result", 0); err != nil {
		t.Fatal(err)
	}
	if err := c.Send(wire.Publish{Topic: topic}); err != nil {
		t.Fatal(err)
	}
	p, err := c.Next()
	if err != nil || !strings.Contains(string(p.Payload), `"log: changed"`) {
		t.Errorf("%s, %v", p.Payload, err)
	}
}

// TestDevicesThatCannotBeToldApartAreRefused, with what to write.
func TestDevicesThatCannotBeToldApartAreRefused(t *testing.T) {
	two := "sources:\n  - {name: a, type: octoprint, url: \"http://127.0.0.1:9\", api_key: k}\n  - {name: b, type: octoprint, url: \"http://127.0.0.1:10\", api_key: k}\n  - {name: c, type: webhook}\n"
	hooks := "publish: {event_topic: \"{base}/{source}/event/{event}\"}\nsources:\n  - {name: a, type: webhook, device: true}\n  - {name: b, type: webhook, device: true}\n"
	named := "sources:\n  - {name: a, type: webhook, device: true, event: {names: {done: Finished}}}\n"
	for name, c := range map[string]struct {
		yaml, want, warning string
	}{
		"as it is by default":        {two, `write publish: {event_topic: "{base}/{source}/event/{event}"}`, ""},
		"a level for each":           {two + "publish: {event_topic: \"{base}/{source}/event/{event}\"}\n", "", ""},
		"a level with both":          {two + "publish: {event_topic: \"{base}/{source}-{event}\"}\n", "have the same topics", ""},
		"a field for each":           {two + "publish: {source_field: _source}\n", "", ""},
		"without discovery":          {two + "home_assistant: {discovery: false}\n", "", ""},
		"compat with one topic":      {strings.ReplaceAll(two, "api_key: k", "api_key: k, compat: octoprint-mqtt"), "write another plugin.base_topic", ""},
		"a device and other events":  {strings.Replace(two, "  - {name: b, type: octoprint, url: \"http://127.0.0.1:10\", api_key: k}\n", "", 1), "", "cannot tell events of c from those of a"},
		"devices of webhooks":        {"sources:\n  - {name: a, type: webhook, device: true}\n  - {name: b, type: webhook, device: true}\n", "events of a and of b", ""},
		"a rule's topic of another":  {hooks + "rules: [{source: a, topic: \"{base}/b/event/{event}\"}]\n", "rules: events of a may be given a topic of those of b", ""},
		"such a rule, and a field":   {strings.Replace(hooks, "{event_topic", "{source_field: _source, event_topic", 1) + "rules: [{source: a, topic: \"{base}/b/event/{event}\"}]\n", "", "rules[0]: the device that Home Assistant has of a does not get its events"},
		"a rule's topic for each":    {hooks + "rules: [{topic: \"all/{source}/{event}\"}]\n", "", "rules[0]: the device that Home Assistant has of a does not get its events"},
		"a trigger gets a name":      {named + "rules: [{match: Finished, rename: Ready}]\n", "", "rules[0]: the device that Home Assistant has of a does not get the events Finished"},
		"a trigger is kept as it is": {named + "rules: [{match: \"F*\", keep: true}, {match: Finished, rename: Ready}]\n", "", ""},
		"other events get a name":    {named + "rules: [{match: Started, rename: Ready}, {source: b, rename: Ready}]\n", "", ""},
		"it depends on the payload":  {named + "rules: [{match: Finished, when: payload.x > 1, rename: Ready}]\n", "", ""},
		"retained events":            {named + "rules: [{match: Finished, retain: true}]\n", "", "rules[0].retain: events of a are retained"},
		"retained events of others":  {named + "rules: [{source: x, retain: true}]\n", "", ""},
		"below the prefix":           {"publish: {base_topic: homeassistant/e2m}\n", "is below \"homeassistant\"", ""},
		"the prefix":                 {"publish: {base_topic: homeassistant}\n", "is publish.base_topic, too", ""},
		"no will":                    {named + "mqtt: {url: \"mqtt://127.0.0.1\", will: {enabled: false}}\n", "", "mqtt.will.enabled: without a retained will"},
		"nothing retained":           {named + "mqtt: {url: \"mqtt://127.0.0.1\", retain: never}\n", "", "mqtt.retain: Home Assistant forgets all devices"},
		"no retained will":           {named + "mqtt: {url: \"mqtt://127.0.0.1\", will: {retain: false}}\n", "", "mqtt.will.retain: without a retained will"},
	} {
		t.Run(name, func(t *testing.T) {
			path := testkit.Write(t, filepath.Join(t.TempDir(), "config.yaml"), c.yaml)
			plan, err := Load(path, nil, t.TempDir())
			switch {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("%v, want %s", err, c.want)
			case err == nil:
				var says []string
				for _, w := range plan.Warnings() {
					if strings.Contains(w, "Home Assistant") {
						says = append(says, w)
					}
				}
				if len(says) != min(1, len(c.warning)) || c.warning != "" && !strings.Contains(says[0], c.warning) {
					t.Errorf("warnings: %q, want %q", says, c.warning)
				}
			}
		})
	}
}

// TestADeviceThatNobodyKnewOfHasNoEventsOfOthers: a source may describe one
// though its options have not said so.
func TestADeviceThatNobodyKnewOfHasNoEventsOfOthers(t *testing.T) {
	for config, want := range map[string]bool{"": false, "publish: {source_field: _source}\n": true, "publish: {event_topic: \"{base}/{source}/{event}\"}\n": true} {
		path := testkit.Write(t, filepath.Join(t.TempDir(), "config.yaml"), strings.NewReplacer("HTTP", "localhost:1", "MQTT", "localhost:2").Replace(twoThings)+config)
		all := &things{}
		plan, err := all.types().Load(path, nil, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		d := device.Device{ID: "x", Name: "X", Events: []string{"Done"}, Triggers: []string{"Done"}}
		m := plan.things(plan.setup("event2mqtt_0a1b2c3d4e"), known{
			described: map[string]device.Device{"a": d, "b": d}, memory: homeassistant.NewMemory(), learned: func(string) []string { return nil },
		})
		for _, id := range []string{"a", "b"} {
			of := m[id]
			if said := schema.Check("homeassistant", of.Topic, of.Payload()); len(said) > 0 {
				t.Error(said)
			}
			_, event := of.Components["event"]
			_, trigger := of.Components["trigger_Done"]
			if event != want || trigger != want {
				t.Errorf("%q: %s has an event entity: %v, a trigger: %v", config, id, event, trigger)
			}
		}
	}
}

// TestNamesOfEventsAreBounded, which is said once, and the entity has those that
// came first.
func TestNamesOfEventsAreBounded(t *testing.T) {
	h := homeRig(t, washer, t.TempDir())
	events := make([]event.Event, 500)
	for i := range events {
		events[i] = event.Event{Name: fmt.Sprintf("Name %03d '{{", i), Payload: []byte("{}")}
	}
	for range 2 {
		if _, err := (output{b: h.Bridge, source: "washer"}).Emit(t.Context(), events...); err != nil {
			t.Fatal(err)
		}
	}
	testkit.Eventually(t, "the names are announced", func() bool {
		d := announced(t, h, "homeassistant")["washer"]
		return d != nil && len(types(d)) == learned.MaxNames+1 // and Finished, which is configured
	})
	testkit.Eventually(t, "it is said", func() bool { return strings.Contains(h.log.String(), "200 different names") })
	h.reload(washer + "log: {level: info}\n")
	if n := strings.Count(h.log.String(), "200 different names"); n != 1 {
		t.Errorf("it is said %d times", n)
	}
}
