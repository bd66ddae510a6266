package bridge

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"event2mqtt/internal/api"
	"event2mqtt/internal/testkit"
	"event2mqtt/test/mqttest"
)

// TestEveryPathAnswersAsItIsDescribed: each method of each path of the OpenAPI
// document is called, and each answer is what the document says.
func TestEveryPathAnswersAsItIsDescribed(t *testing.T) {
	h := newAPIRig(t, strings.Replace(withAPI, "HTTP}", "HTTP, token: right}", 1))
	client, err := mqttest.Dial(h.mqtt, mqttest.Options{ID: "a/client"})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Subscribe("a/#", 0); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "the device is there", func() bool {
		_, text := h.call("GET", "/devices", "")
		return strings.Contains(string(text), `"tool0"`)
	})

	// Events and messages.
	h.want(202, "POST", "/events", `{"source":"hooks","event":"Hello","payload":{"a":1}}`, `"state":"waiting"`, `"seq":`)
	h.want(200, "POST", "/events?wait=30s", `{"event":"Hello"}`, `"state":"delivered"`)
	h.want(202, "POST", "/events", `{"event":"ClientOpened"}`, `"seq":null`, `"state":"dropped"`, `"name":"web clients"`)
	h.want(202, "POST", "/events", `{"event":"Z"}`, `"state":"waiting"`)
	h.want(202, "POST", "/events", `{"event":"Z"}`, `"state":"held"`)
	h.want(200, "POST", "/events?dry_run=1", `{"event":"Edit","payload":{"b":2}}`, `"does":"changes the event"`, `"room":"cellar"`, `"topic":"event2mqtt/event/Edit"`)
	h.want(200, "POST", "/events?dry_run=1", `{"event":"ClientOpened"}`, `"does":"drops the event"`, `"publish":null`)
	h.want(422, "POST", "/events", `{"source":"nobody","event":"A"}`, "there is no source")
	h.want(422, "POST", "/events", `{"payload":1}`, "event is missing")
	h.want(422, "POST", "/events", `{"event":"A","extra":1}`, "extra")
	h.want(413, "POST", "/events", `{"event":"A","payload":"`+strings.Repeat("x", 1<<20)+`"}`)
	h.want(202, "POST", "/publish", `{"topic":"a/b","payload":{"c":1},"retain":true}`)
	h.want(200, "POST", "/publish?wait=30s", `{"topic":"a/b","payload":"ON","retain":true}`, `"state":"delivered"`)
	h.want(200, "POST", "/publish", `[{"topic":"a/c","payload":"//79","encoding":"base64"},{"topic":"a/+","payload":""}]`, `"status":202`, `"status":422`)
	h.want(202, "POST", "/publish/a/d?qos=0", "21.5")
	h.want(200, "POST", "/publish/a/d?wait=30s", "22")
	for _, bad := range []string{`{"topic":"$SYS/x","payload":1}`, `{"topic":"a/#","payload":1}`, `{"topic":"","payload":1}`, `{"topic":"a","payload":1,"qos":3}`, `{"topic":"a","payload":"%%","encoding":"base64"}`, `{"topic":"a"`} {
		h.want(422, "POST", "/publish", bad)
	}

	// What there is.
	var s api.State
	h.get("/state", &s)
	if !s.Taking.OK || len(s.Parts) < 6 || len(s.Rate.Minutes) != 60 || s.Broker.Kind != "bundled" {
		t.Errorf("%+v", s)
	}
	page := h.want(200, "GET", "/events?limit=2", "", `"next":`)
	var p struct{ Events []toldItem }
	_ = json.Unmarshal(page, &p)
	h.want(200, "GET", fmt.Sprintf("/events/%d", *p.Events[0].Seq), "", `"type":"event"`)
	h.want(404, "GET", "/events/123456", "")
	h.want(404, "GET", "/events/x", "")
	h.want(422, "GET", "/events?topic=a%23b", "")
	h.want(200, "GET", "/devices/mk4/picture", "", "GIF89a")
	h.want(404, "GET", "/devices/none/picture", "")
	h.want(200, "POST", "/devices/mk4/pause", "", `"paused":true`)
	h.want(502, "POST", "/devices/mk4/cancel", "", "nothing is printed")
	h.want(403, "POST", "/devices/mk4/format", "", "not allowed")
	h.want(200, "POST", "/devices/mk4/temperature_tool0", "210.5", `"reply":{"tool0":210.5}`)
	h.want(422, "POST", "/devices/mk4/temperature_tool0", "301", "a number from 0 to 300")
	h.want(422, "POST", "/devices/mk4/temperature_tool0", "null", "a number from 0 to 300")
	h.want(200, "GET", "/topics?prefix=a/", "", `"topic":"a/b"`, `"value":"ON"`, `"retained":true`)
	h.want(200, "GET", "/topics?prefix=a/&q=on", "", `"topic":"a/b"`)
	h.want(200, "GET", "/topics?prefix=a/&q=off", "", `"levels":[]`, `"topics":[]`)
	h.want(422, "GET", "/topics?depth=0", "", "from 1 to 64")
	h.want(200, "GET", "/retained/a%2Fb", "", `"payload":"ON"`)
	h.want(200, "DELETE", "/retained/a%2Fb", "")
	h.want(404, "DELETE", "/retained/a/b", "")
	h.want(404, "GET", "/retained/a/b", "")
	h.want(200, "GET", "/clients", "", `"id":"a/client"`, `"subscriptions":["a/#"]`, `"protocol":"3.1.1"`)
	h.want(200, "DELETE", "/clients/a%2Fclient", "")
	testkit.Eventually(t, "the client is gone", func() bool {
		got, _ := h.call("DELETE", "/clients/a%2Fclient", "")
		return got == 404
	})
	h.want(200, "GET", "/config", "", `"key":"http.token","value":"***"`)
	h.want(200, "GET", "/schema", "", `"$schema"`)
	h.want(200, "GET", "/openapi.json", "", `"openapi"`)

	// What can be asked for.
	h.want(200, "GET", "/replay", "", `"replay":null`)
	h.want(404, "DELETE", "/replay", "")
	h.want(200, "POST", "/replay", `{"q":"hello","dry_run":true}`, `"count":2`, `"rate":50`)
	h.want(202, "POST", "/replay", `{"q":"hello","rate":1}`, `"count":2`)
	h.want(409, "POST", "/replay", `{"q":"hello"}`, "a replay is under way")
	h.want(200, "DELETE", "/replay", "")
	h.want(422, "POST", "/replay", `{}`, "say which events")
	h.want(200, "POST", "/reload", "", `"ok":true`)
	h.write(strings.Replace(withAPI, "name: octo", "nam: octo", 1))
	h.want(422, "POST", "/reload", "", `"ok":false`)
	h.want(200, "GET", "/state", "", `"refused":`, `"column":`, `"by":"API"`)
	h.want(200, "GET", "/refused", "")
	h.want(422, "POST", "/refused", `{"do":"drop","ids":["none"]}`)
	h.want(200, "POST", "/refused", `{"do":"drop","all":true}`)
	h.want(400, "POST", "/refused", `{"do":"eat"}`)
	h.want(200, "POST", "/octoprint-homeassistant", `{"prefixes":["homeassistant"],"look_only":true}`, `"broker":""`)
	h.want(422, "POST", "/octoprint-homeassistant", `{"prefixes":["+"]}`, `"problem":`)
	h.want(400, "POST", "/octoprint-homeassistant", `x`, "send JSON")
	h.want(200, "POST", "/session", `{"token":"right"}`)
	h.want(200, "DELETE", "/session", "")
	if got, _ := h.call("POST", "/session", "token=right", "Content-Type", "application/x-www-form-urlencoded"); got != http.StatusSeeOther {
		t.Errorf("a form: %d", got)
	}
	h.want(405, "GET", "/session", "")

	// Streams.
	h.stream("/stream?poll=1&since=all").line()
	h.stream("/stream?poll=1", "Accept", "text/event-stream").line()
	h.stream("/subscribe?topic=a/%23").line()
	h.stream("/subscribe?topic=a/%23&format=sse").line()
	h.want(422, "GET", "/subscribe?topic=", "")
	h.want(422, "GET", "/stream?since=never", "")
	h.want(422, "GET", "/stream?count=0", "")

	d := described()
	for path, operations := range d.Paths {
		for method, o := range operations {
			for status := range o.Responses {
				missing := status != "default" && !d.seen[method+" "+path+" "+status]
				known := slices.Contains([]string{"get /refused 422"}, method+" "+path+" "+status) // takes a broken disk
				if missing && !known {
					t.Errorf("no test has seen %s %s answer %s", method, path, status)
				}
			}
		}
	}
}

// TestDevicesAreDrawnFromTheirStates.
func TestDevicesAreDrawnFromTheirStates(t *testing.T) {
	h := newAPIRig(t, withAPI)
	var list struct{ Devices []api.Device }
	testkit.Eventually(t, "the device is there", func() bool {
		h.get("/devices", &list)
		return len(list.Devices) == 1 && len(list.Devices[0].Readings) > 1
	})
	d := list.Devices[0]
	if d.ID != "mk4" || d.State != "Printing" || d.Level != "good" || d.Progress == nil || d.Progress.Percent != 42.5 || *d.Progress.Left != 600 || d.Progress.File != "a.gcode" {
		t.Errorf("%+v, %+v", d, d.Progress)
	}
	if len(d.Readings) != 2 || d.Readings[1].Name != "temperature_bed" || *d.Readings[1].Target != 60 || d.Readings[0].Name != "tool0" || d.Readings[0].Value != 214.8 || *d.Readings[0].Target != 215 || d.Readings[0].Unit != "°C" {
		t.Errorf("%+v", d.Readings)
	}
	if d.Picture == nil || d.Picture.URL != "api/v1/devices/mk4/picture" || len(d.Commands) != 3 || d.Commands[0].Label != "Pause" || !d.Commands[1].Danger ||
		d.Commands[2].Number == nil || d.Commands[2].Number.Max != 300 || *d.Commands[2].Number.Now != 215 {
		t.Errorf("%+v, %+v", d.Picture, d.Commands)
	}
}

// TestStatusAndReadinessAgree, and name the cause.
func TestStatusAndReadinessAgree(t *testing.T) {
	h := newAPIRig(t, plain)
	var s api.State
	if h.get("/state", &s); !s.Taking.OK {
		t.Errorf("%+v", s.Taking)
	}
	part := h.running().part("source hooks")
	part.health.Tell(failure("the disk is away"))
	h.get("/state", &s)
	r, err := http.Get("http://" + h.http + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	_ = r.Body.Close()
	if s.Taking.OK || !strings.Contains(s.Taking.Reason, "source hooks failed: the disk is away") || r.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("%+v, readyz says %d", s.Taking, r.StatusCode)
	}
}
