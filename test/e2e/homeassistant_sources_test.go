package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"event2mqtt/internal/testkit"
	"event2mqtt/internal/wire"
	"event2mqtt/test/mqttest"
)

// TestHomeAssistantWithMosquitto has the broker restarted, which forgets what
// is retained, and sources come and go.
func TestHomeAssistantWithMosquitto(t *testing.T) {
	t.Parallel() // it waits most of the time
	withHomeAssistant(t, func(t *testing.T, program string) {
		m := mosquitto(t, "")
		m.start()
		h := moveIn(t, program, fmt.Sprintf("mqtt: {url: \"mqtt://%s\"}\npublish: {event_topic: \"{base}/{source}/event/{event}\"}\nsources:\n", m.addr), m.addr, false)
		h.expectAll("the first time", map[string]string{"/version": "*", "/problem": "off", "washer/power": "unknown", "washer/connected": "on"})
		h.tellEvents("washer")
		h.tellEvents("mk4")
		h.lose(m)
		h.learn()
		h.cross()
		h.move()
		h.crowd()
		h.ha.expectNoComplaint()
	})
}

// lose has the broker go, and then the program.
func (h *house) lose(m *mosquittoBroker) {
	h.t.Helper()
	h.bridge.hook("washer", `{"event":"done","power":7.5,"door":{"open":true}}`)
	washed := map[string]string{"washer/power": "~7.5", "washer/door": "on", "washer/last_event": "Finished", "/connected": "on"}
	h.expectAll("a webhook's values", washed)
	m.stop()
	h.ha.expect(h.bridge, "the broker is gone", h.back(), map[string]string{"mk4/status": "unavailable", "washer/power": "unavailable"})
	born := h.births.count()
	m.start()
	h.expectAll("after a restart of the broker", washed)
	h.births.await(h.t, born)
	h.bridge.kill()
	h.ha.expect(h.bridge, "the program was killed", h.back(), map[string]string{"mk4/status": "unavailable", "washer/power": "unavailable", "/connected": "off"})
	h.bridge.start()
	h.expectAll("after a kill of the program", washed)
}

// learn: the third new name is a type of the entity. Its first event may come
// too early to be seen, the next one is.
func (h *house) learn() {
	h.t.Helper()
	for _, name := range []string{"Rinsing", "Spinning", "Unbalanced"} {
		h.bridge.hook("washer", fmt.Sprintf(`{"event":%q}`, name))
	}
	h.ha.within(h.back(), "the names are types of the event entity", func() bool {
		types := fmt.Sprint(h.ha.all(h.bridge)["washer/event"].Attributes["event_types"])
		return types == "[Finished Rinsing Spinning Unbalanced]"
	})
	before := h.ha.ran("told_washer")
	h.bridge.hook("washer", `{"event":"Unbalanced"}`)
	h.ha.expectRan("told_washer", append(before, "Unbalanced")...)
	h.ha.expect(h.bridge, "the last event", h.back(), map[string]string{"washer/last_event": "Unbalanced", "washer/power": "~7.5"})
}

// cross: of two printers and a webhook, which send events of the same names,
// each has its own.
func (h *house) cross() {
	h.t.Helper()
	second := play(h.t)
	second.until(at("Operational"))
	h.reconfigure(h.printerSource("mk4") + printerSource("mk3", second) + washer)
	want := second.wanted("mk3")
	maps.Copy(want, h.printer.wanted("mk4"))
	h.ha.expect(h.bridge, "a second printer", h.back(), want)
	h.tellEvents("mk3")
	for name, on := range map[string][2]string{"started_mk4": {"mk4", "PrintStarted"}, "started_mk3": {"mk3", "PrintStarted"}, "paused_mk4": {"mk4", "PrintPaused"}} {
		h.ha.automate(name, map[string]any{"trigger": "device", "domain": "mqtt", "device_id": h.ha.devices(h.bridge)[on[0]].ID, "type": "event", "subtype": on[1]}, "{{ true }}", "{{ trigger.payload_json.name }}")
	}
	h.awaitTrigger("event2mqtt/mk4/event/PrintStarted", "started_mk4")
	h.awaitTrigger("event2mqtt/mk3/event/PrintStarted", "started_mk3")
	h.awaitTrigger("event2mqtt/mk4/event/PrintPaused", "paused_mk4")
	washerTold := h.ha.ran("told_washer")
	told := shown(second.until(at("Paused")))
	h.bridge.hook("washer", `{"event":"PrintStarted","name":"laundry"}`)
	h.bridge.hook("washer", `{"event":"done"}`)
	want = second.wanted("mk3")
	maps.Copy(want, h.printer.wanted("mk4"))
	h.ha.expect(h.bridge, "one of them prints", h.back(), want)
	h.ha.expectRan("told_mk3", told...)
	h.ha.expectRan("started_mk3", "small print.gcode")
	h.ha.expectRan("told_washer", append(washerTold, "Finished")...)
	first := shown(h.printer.until(heated)) // by now OctoPrint itself has the print in its list
	want = second.wanted("mk3")
	maps.Copy(want, h.printer.wanted("mk4"))
	h.ha.expect(h.bridge, "the other prints", h.back(), want)
	h.ha.expectRan("told_mk4", first...)
	h.ha.expectRan("started_mk4", "small print.gcode")
	h.ha.expectRan("started_mk3", "small print.gcode")
	h.ha.expectRan("told_mk3", told...)
	h.ha.forget("started_mk3", "told_mk3")
	h.reconfigure(h.printerSource("mk4") + washer)
	h.ha.expect(h.bridge, "one was removed", h.back(), map[string]string{"mk3/status": "-", "mk3/event": "-", "mk4/connected": "on"})
	if d := h.ha.devices(h.bridge); len(d) != 3 {
		h.t.Errorf("there are the devices %v", d)
	}
}

// awaitTrigger waits until Home Assistant has subscribed for a trigger, which is a
// moment after it has said that the automation is there.
func (h *house) awaitTrigger(topic, automation string) {
	h.t.Helper()
	c, err := mqttest.Dial(h.broker, mqttest.Options{})
	testkit.OK(h.t, err)
	defer c.Close()
	before := strings.Count(h.ha.out.String(), "<"+automation+" "+probe+">")
	h.ha.within(h.back(), "Home Assistant has subscribed to "+topic, func() bool {
		testkit.OK(h.t, c.Publish(wire.Publish{Topic: topic, Payload: []byte(`{"name":"` + probe + `"}`)}))
		return strings.Count(h.ha.out.String(), "<"+automation+" "+probe+">") > before
	})
}

// move renames sources, removes them and puts them back.
func (h *house) move() {
	h.t.Helper()
	was := h.ha.all(h.bridge)
	// People call entities as they like, and that stays.
	h.rename(was["mk4/progress"].ID, "sensor.my_progress")
	changed := h.ha.all(h.bridge)
	h.reconfigure(h.printerSource("prusa") + strings.Replace(washer, "name: washer", "name: dryer", 1))
	h.ha.expect(h.bridge, "both are renamed", h.back(), map[string]string{"dryer/power": "unknown", "dryer/event": "unknown", "washer/power": "-", "washer/event": "-", "prusa/status": "-"})
	h.expectAll("the printer stays what it was", nil)
	h.expectSame(changed, "mk4/")
	h.rename("sensor.my_progress", was["mk4/progress"].ID) // Home Assistant forgets it when the entity goes

	h.ha.stop(syscall.SIGTERM)
	h.reconfigure(strings.Replace(washer, "      - {name: Door, kind: binary, from: payload.door.open, class: door}\n", "", 1))
	time.Sleep(time.Second) // that is announced while Home Assistant is not there
	h.ha.start()
	h.ha.expect(h.bridge, "removed while Home Assistant was away", 2*h.back(), map[string]string{"washer/power": "unknown", "washer/door": "-", "dryer/power": "-", "dryer/event": "-", "mk4/status": "-", "mk4/event": "-"})
	if d := slices.Sorted(maps.Keys(h.ha.devices(h.bridge))); !slices.Equal(d, []string{"", "washer"}) {
		h.t.Errorf("there are the devices %q", d)
	}

	h.reconfigure(h.printerSource("mk4") + washer)
	h.expectAll("put back", map[string]string{"washer/power": "unknown", "washer/door": "unknown", "dryer/power": "-"})
	h.expectSame(was, "")
	h.ha.restart()
	h.expectAll("and after a restart", map[string]string{"washer/power": "unknown", "dryer/power": "-"})
	h.expectSame(was, "")

	testkit.Write(h.t, h.bridge.config, "http: {listen: \""+h.bridge.http+"\"}\nhome_assistant: {discovery: false}\n"+h.yaml+h.printerSource("mk4")+washer)
	if ok, text := h.bridge.reload(h.t); !ok {
		h.t.Fatal(text)
	}
	h.ha.expect(h.bridge, "without discovery", h.back(), map[string]string{"washer/power": "-", "mk4/status": "-", "/version": "-"})
	if d := h.ha.devices(h.bridge); len(d) > 0 {
		h.t.Errorf("without discovery there are the devices %v", d)
	}
	h.reconfigure(h.printerSource("mk4") + washer)
	h.expectAll("with discovery again", map[string]string{"washer/power": "unknown", "/version": "*"})
	h.expectSame(was, "")
	h.awaitTrigger("event2mqtt/mk4/event/PrintPaused", "paused_mk4")
	told := h.ha.ran("told_mk4")
	h.ha.expectRan("told_mk4", append(told, shown(h.printer.until(at("Paused")))...)...)
	h.ha.expectRan("paused_mk4", "small print.gcode") // of which nothing is left in Home Assistant but its id
}

// rename gives an entity of Home Assistant's another id.
func (h *house) rename(old, id string) {
	h.t.Helper()
	var changed json.RawMessage
	h.ha.socket(map[string]any{"type": "config/entity_registry/update", "entity_id": old, "new_entity_id": id}, &changed)
}

// expectSame: the entities whose keys begin with prefix are those that there
// were, under the ids that they had.
func (h *house) expectSame(was map[string]entity, prefix string) {
	h.t.Helper()
	ids := func(of map[string]entity) (all []string) {
		for key, e := range of {
			if strings.HasPrefix(key, prefix) {
				all = append(all, key+" "+e.ID)
			}
		}
		slices.Sort(all)
		return all
	}
	if had, has := ids(was), ids(h.ha.all(h.bridge)); !slices.Equal(had, has) {
		h.t.Errorf("the entities are\n%s\nand were\n%s", strings.Join(has, "\n"), strings.Join(had, "\n"))
	}
}
