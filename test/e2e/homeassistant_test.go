package e2e

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"event2mqtt/internal/testkit"
	"event2mqtt/test/mqttest"
)

// What Home Assistant makes of this program, in one run after the other, since
// it takes long to start. Not one line of warning may be left in its log.

// house is a Home Assistant, a program that is announced to it, and what it
// watches.
type house struct {
	t       *testing.T
	ha      *homeAssistant
	bridge  *program
	printer *player
	yaml    string // all of the configuration but sources
	broker  string // its address
	births  *births
	slow    float64 // how much slower the machine is than one that is not busy
}

// births counts how often Home Assistant has said that it has started, over a
// connection that may break.
type births struct {
	n atomic.Int64
}

func watchBirths(t *testing.T, broker, user, password string) *births {
	b := &births{}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for ; ctx.Err() == nil; time.Sleep(50 * time.Millisecond) {
			c, err := mqttest.Dial(broker, mqttest.Options{User: user, Password: password})
			if err != nil {
				continue
			}
			stop := context.AfterFunc(ctx, func() { _ = c.Close() })
			_, err = c.Subscribe("homeassistant/status", 1)
			for err == nil {
				m, broken := c.Next()
				if err = broken; err == nil && string(m.Payload) == "online" {
					b.n.Add(1)
				}
			}
			stop()
			_ = c.Close()
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return b
}

func (b *births) count() int64 { return b.n.Load() }

// await waits until Home Assistant has said it once more.
func (b *births) await(t *testing.T, before int64) {
	t.Helper()
	testkit.Eventually(t, "Home Assistant says that it has started", func() bool { return b.n.Load() > before })
}

// moveIn starts everything. yaml is the configuration without sources, and user
// that of Home Assistant at the broker, if it needs one.
func moveIn(t *testing.T, program, yaml, broker string, user bool) *house {
	t.Helper()
	h := &house{t: t, ha: prepareHomeAssistant(t, program), printer: play(t), yaml: yaml, broker: broker}
	h.bridge = configure(t, yaml+h.printerSource("mk4")+washer)
	h.bridge.start()
	name, password := "", ""
	if user {
		name, password = "homeassistant", "a good password"
		h.bridge.mustBridge(password+"\n", "user", "add", name)
	}
	h.printer.until(at("Operational"))
	began := time.Now()
	h.ha.start()
	took := time.Since(began)
	t.Logf("Home Assistant has started after %.0f s", took.Seconds())
	h.slow = max(1, took.Seconds()/20)
	h.births = watchBirths(t, broker, name, password)
	h.ha.addBroker(broker, name, password)
	h.births.await(t, 0)
	return h
}

func (h *house) printerSource(name string) string { return printerSource(name, h.printer) }

// printerSource is a source that reports each change, however small.
func printerSource(name string, of *player) string {
	return fmt.Sprintf("  - {name: %s, type: octoprint, url: %q, api_key: k, commands: [pause, resume, cancel], progress_interval: 0s, progress_step: 0, temperature_threshold: 0, time_step: 1s}\n", name, of.http.URL)
}

const washer = `  - name: washer
    type: webhook
    event: {names: {done: Finished}}
    entities:
      - {name: Power, kind: number, from: payload.power, unit: W, class: power}
      - {name: Program, from: payload.program}
      - {name: Started, kind: timestamp, from: payload.at}
      - {name: Door, kind: binary, from: payload.door.open, class: door}
`

// back is how long everything may take to be right again after a restart, on a
// machine that is not busy.
func (h *house) back() time.Duration { return time.Duration(15 * h.slow * float64(time.Second)) }

// expectAll waits until the printer's entities and the washing machine's are as
// they should be.
func (h *house) expectAll(what string, more map[string]string) {
	h.t.Helper()
	want := h.printer.wanted("mk4")
	maps.Copy(want, more)
	h.ha.expect(h.bridge, what, h.back(), want)
}

// reconfigure gives the program other sources.
func (h *house) reconfigure(sources string) {
	h.t.Helper()
	testkit.OK(h.t, os.WriteFile(h.bridge.config, []byte("http: {listen: \""+h.bridge.http+"\"}\n"+h.yaml+sources), 0o600))
	if ok, text := h.bridge.reload(h.t); !ok {
		h.t.Fatal(text)
	}
}

// hook calls a source's webhook.
func (p *program) hook(source, body string) {
	p.t.Helper()
	r, err := http.Post("http://"+p.http+"/hooks/"+source, "application/json", strings.NewReader(body))
	testkit.OK(p.t, err)
	defer r.Body.Close()
	if r.StatusCode/100 != 2 {
		p.t.Fatalf("the webhook answers %s", r.Status)
	}
}

// TestHomeAssistantWithTheBundledBroker is a print from its beginning to its
// end, and all that may happen meanwhile.
func TestHomeAssistantWithTheBundledBroker(t *testing.T) {
	t.Parallel() // it waits most of the time
	withHomeAssistant(t, func(t *testing.T, program string) {
		addr := testkit.FreeAddress(t)
		h := moveIn(t, program, fmt.Sprintf("broker: {listen: %q}\npublish: {source_field: _source, id_field: _id}\nsources:\n", addr), addr, true)
		h.expectAll("the first time", map[string]string{"/version": "*", "/waiting": "~0", "/connected": "on", "/problem": "off", "/reload": "-", "washer/power": "unknown", "washer/door": "unknown"})
		h.automateAll()
		told := h.print()
		h.restarts(told)
		h.finish(told)
		h.plug()
		h.ha.expectNoComplaint()
	})
}

// automateAll makes the automations that people make: one by clicking on a
// device's trigger, one as in docs/home-assistant.md.
func (h *house) automateAll() {
	h.t.Helper()
	devices := h.ha.devices(h.bridge)
	var subtypes []string
	for _, t := range h.ha.triggers(devices["mk4"].ID) {
		subtypes = append(subtypes, fmt.Sprint(t["subtype"]))
	}
	slices.Sort(subtypes)
	if want := []string{"Error", "PausedForUser", "PrintDone", "PrintFailed", "PrintPaused", "PrintStarted"}; !slices.Equal(subtypes, want) {
		h.t.Errorf("the printer has the triggers %q, not %q", subtypes, want)
	}
	for _, subtype := range []string{"PrintStarted", "PrintPaused", "PrintDone", "PrintFailed"} {
		h.ha.automate(strings.ToLower(subtype), map[string]any{"trigger": "device", "domain": "mqtt", "device_id": devices["mk4"].ID, "type": "event", "subtype": subtype},
			"{{ true }}", "{{ trigger.payload_json.name }}")
	}
	for _, source := range []string{"mk4", "washer"} {
		h.tellEvents(source)
	}
}

// tellEvents makes an automation of the event entity, as docs/home-assistant.md
// has it.
func (h *house) tellEvents(source string) {
	h.t.Helper()
	h.ha.automate("told_"+source, map[string]any{"trigger": "state", "entity_id": h.ha.all(h.bridge)[source+"/event"].ID, "not_from": "unavailable", "not_to": []string{"unavailable", "unknown"}},
		"{{ trigger.to_state is not none }}", "{{ trigger.to_state.attributes.event_type }}")
}

// notable are the events that the printer's event entity has.
var notable = []string{
	"PrintStarted", "PrintDone", "PrintFailed", "PrintCancelling", "PrintCancelled", "PrintPaused", "PrintResumed", "PausedForUser", "FilamentChange", "Alert",
	"Connected", "Disconnected", "Error", "MovieDone",
}

// shown are those of some events that the event entity shows.
func shown(events []string) []string {
	return slices.DeleteFunc(events, func(event string) bool { return !slices.Contains(notable, event) })
}

// print is a print until it is paused by the button, with right values at each
// step.
func (h *house) print() (told []string) {
	h.t.Helper()
	told = shown(h.printer.until(at("Printing")))
	h.expectAll("a print has begun", map[string]string{"washer/power": "unknown"})
	h.ha.expectRan("printstarted", "small print.gcode")
	told = append(told, shown(h.printer.until(func(is *shot) bool { return is.Progress.Completion != nil && *is.Progress.Completion > 30 }))...)
	h.expectAll("it goes on", nil)
	h.ha.call("button.press", h.ha.all(h.bridge)["mk4/command_pause"].ID, nil)
	testkit.Eventually(h.t, "the button pauses the print", func() bool { return len(h.printer.wasAsked()) > 0 })
	if asked := h.printer.wasAsked(); len(asked) > 1 || !strings.Contains(asked[0], `"pause"`) {
		h.t.Errorf("the button asks OctoPrint for %q", asked)
	}
	h.expectAll("it does not show what is not so yet", nil)
	told = append(told, shown(h.printer.until(at("Paused")))...)
	h.expectAll("it is paused", nil)
	h.ha.expectRan("printpaused", "small print.gcode")
	h.ha.expectRan("told_mk4", told...)
	h.bridge.hook("washer", `{"event":"done","power":7.5,"program":"`+strings.Repeat("Cotton ", 60)+`","at":1795616450,"door":{"open":"no"}}`)
	h.ha.expect(h.bridge, "a webhook's values", h.back(), map[string]string{
		"washer/power": "~7.5", "washer/door": "off", "washer/started": "2026-11-25T14:20:50+00:00", "washer/last_event": "Finished", "washer/program": strings.Repeat("Cotton ", 37)[:255],
	})
	return told
}

// restarts restarts everything in the middle of the print. Nothing may be told
// a second time.
func (h *house) restarts(told []string) {
	h.t.Helper()
	washed := map[string]string{"washer/power": "~7.5", "washer/door": "off", "washer/last_event": "Finished", "/connected": "on"}
	born := h.births.count()
	h.ha.restart()
	h.expectAll("after a restart of Home Assistant", washed)
	h.births.await(h.t, born) // what it does at that moment must not fail
	h.bridge.kill()
	h.ha.expect(h.bridge, "the program was killed", h.back(), map[string]string{"mk4/status": "unavailable", "mk4/connected": "unavailable", "washer/power": "unavailable", "/version": "unavailable"})
	born = h.births.count()
	h.bridge.start()
	h.expectAll("after a kill of the program", washed)
	h.births.await(h.t, born)
	if status := h.bridge.stop(); status != 0 {
		h.t.Errorf("the program ended with status %d", status)
	}
	h.ha.expect(h.bridge, "the program was stopped", h.back(), map[string]string{"mk4/status": "unavailable", "washer/power": "unavailable"})
	h.ha.restart() // Home Assistant first
	h.bridge.start()
	h.expectAll("after a restart of both", washed)
	h.ha.expectRan("told_mk4", told...)
}

// finish lets the print end, and another one be cancelled.
func (h *house) finish(told []string) {
	h.t.Helper()
	testkit.Eventually(h.t, "the source is connected", h.printer.connected)
	told = append(told, shown(h.printer.until(func(is *shot) bool { return is.State.Text == "Operational" && len(is.Temps) > 0 }))...)
	h.expectAll("the print is done", nil)
	h.ha.expectRan("printdone", "small print.gcode")
	told = append(told, shown(h.printer.until(func(is *shot) bool { return is.State.Text == "Printing" && len(is.Temps) > 0 }))...)
	h.expectAll("the next print", nil)
	told = append(told, shown(h.printer.until(func(is *shot) bool { return is.State.Text == "Operational" && len(is.Temps) > 0 }))...)
	h.expectAll("it was cancelled", nil)
	h.ha.expectRan("printfailed", "cancel.gcode")
	told = append(told, shown(h.printer.until(func(is *shot) bool { return is.State.Text == "Offline after error" }))...)
	h.ha.expect(h.bridge, "the printer is gone", h.back(), map[string]string{"mk4/status": "Offline after error", "mk4/temperature_tool0": "unknown", "mk4/target_bed": "unknown", "mk4/connected": "on"})
	h.ha.expectRan("told_mk4", told...)
	h.ha.expectRan("told_washer", "Finished")
	h.ha.expectRan("printstarted", "small print.gcode", "cancel.gcode")
	h.ha.expectRan("printpaused", "small print.gcode")
	h.ha.expectRan("printdone", "small print.gcode")
	h.printer.http.CloseClientConnections()
}
