package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"event2mqtt/internal/testkit"
)

// back is how long everything may take to be right again after a restart.
const back = 15 * time.Second

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

func TestHomeAssistantFirst(t *testing.T) {
	h := prepareHomeAssistant(t)
	addr := testkit.FreeAddress(t)
	p := configure(t, fmt.Sprintf(`
broker: {listen: %q}
publish: {source_field: _source}
sources:
  - name: washer
    type: webhook
    event: {names: {done: Finished}}
    entities:
      - {name: Power, kind: number, from: payload.power, unit: W, class: power}
      - {name: Program, from: payload.program}
      - {name: Started, from: payload.at, kind: timestamp}
      - {name: Door, kind: binary, from: payload.door.open, class: door}
`, addr))
	p.start()
	began := time.Now()
	h.start()
	t.Logf("Home Assistant has started after %s", time.Since(began))
	h.addBroker(addr, "", "")
	h.expect("washer", testkit.Patience, map[string]string{"sensor.washer_power": "unknown", "event.washer_event": "unknown"})
	t.Logf("%v", h.devices())
	t.Logf("%v", h.triggers(h.devices()["washer"].ID))
	t.Logf("%s", table(h.states()))
	h.automate("finished", map[string]any{"trigger": "device", "domain": "mqtt", "device_id": h.devices()["washer"].ID, "type": "event", "subtype": "Finished"}, "{{ true }}", "{{ trigger.payload_json }}")
	p.hook("washer", `{"event":"done","power":7}`)
	h.expectRan("finished", "x")
	h.expectNoComplaint(false)
}
