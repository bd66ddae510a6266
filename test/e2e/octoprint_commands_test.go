package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"

	"event2mqtt/internal/testkit"
	"event2mqtt/internal/wire"
	"event2mqtt/test/mqttest"
)

// answered is what the program says of a command.
type answered struct {
	ID    string
	OK    bool
	Error string
	Reply struct{ Status int }
}

// commands gives commands as anybody on the broker does. OctoPrint does them, and
// nothing that is not allowed.
func (r *real) commands(t *testing.T) {
	o := r.octo
	text, err := os.ReadFile(r.bridge.config)
	testkit.OK(t, err)
	r.links(t, func() { // the source is built anew
		testkit.Write(t, r.bridge.config, string(text)+`    commands: [pause, resume, cancel, start, connect, disconnect, temperature, gcode]
    max_temperature: {tool0: 250}
    gcode: {home: [G28]}
`)
	})
	r.watcher.forget()
	given := 0
	give := func(command, argument string) (got answered) {
		t.Helper()
		given++
		id := fmt.Sprint("command ", given)
		payload := fmt.Sprintf("{%q:%q", "id", id)
		if argument != "" {
			payload += "," + argument
		}
		c, err := mqttest.Dial(r.broker, mqttest.Options{})
		testkit.OK(t, err)
		defer c.Close()
		testkit.OK(t, c.Publish(wire.Publish{Topic: "event2mqtt/octoprint/set/" + command, Payload: []byte(payload + "}"), QoS: 1}))
		testkit.Eventually(t, command+" is answered", func() bool {
			for _, m := range r.watcher.all() {
				var a answered // nothing of the answer before
				if m.topic == "event2mqtt/octoprint/result" && json.Unmarshal(m.payload, &a) == nil && a.ID == id {
					got = a
					return true
				}
			}
			return false
		})
		return got
	}
	does := func(command, argument, event string) {
		t.Helper()
		from := len(o.all())
		if a := give(command, argument); !a.OK || a.Reply.Status != http.StatusNoContent {
			t.Fatalf("%s: %+v", command, a)
		}
		if event != "" {
			o.await(event, from)
		}
	}
	refused := func(command, argument, says string) {
		t.Helper()
		if a := give(command, argument); a.OK || !strings.Contains(a.Error, says) {
			t.Errorf("%s %s: %+v, want %s", command, argument, a, says)
		}
	}
	target := func() float64 {
		var printer struct {
			Temperature struct{ Tool0 struct{ Target float64 } }
		}
		o.ask(http.MethodGet, "/api/printer", nil, &printer)
		return printer.Temperature.Tool0.Target
	}

	refused("snapshot", "", "does not allow it")
	does("disconnect", "", "Disconnected")
	refused("pause", "", "not operational")
	does("connect", "", "Connected")
	o.ready()
	does("temperature", `"targets":{"tool0":180}`, "")
	testkit.Eventually(t, "the target is set", func() bool { return target() == 180 })
	refused("temperature", `"targets":{"tool0":251}`, "250")
	refused("gcode", `"name":"M104 S0"`, "the option gcode has no")
	does("gcode", `"name":"home"`, "Home")
	if got := target(); got != 180 {
		t.Errorf("the target is %v after what was refused", got)
	}
	o.put("told.gcode", gcode(endless, 0))
	from := o.print("told.gcode")
	o.await("ZChange", from)
	does("pause", "", "PrintPaused")
	does("resume", "", "PrintResumed")
	does("cancel", "", "PrintCancelled")
	o.ready()
	does("start", "", "PrintStarted")
	does("cancel", "", "PrintCancelled")
	o.ready()
}
