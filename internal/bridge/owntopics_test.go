package bridge

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"event2mqtt/internal/control"
	"event2mqtt/internal/testkit"
	"event2mqtt/test/mqttest"
)

// TestASenderCannotChooseTheProgramsOwnTopics, where a rule lets it choose: such
// an event is skipped, kept, and skipped again should it be sent again. A rule's
// topic without a placeholder is the operator's decision.
func TestASenderCannotChooseTheProgramsOwnTopics(t *testing.T) {
	h := newRig(t, plain+`rules:
  - {match: One, topic: "{base}/{payload.a|lower}", retain: true}
  - {match: Two, topic: "{base}/{payload.a}/{payload.b|snake}", retain: true}
  - {match: Three, topic: "{base}/{source}/{payload.a}/{event}"}
  - {match: Held, topic: "{base}/{payload.a}/{payload.b}", min_interval: 1ms}
  - {match: Fixed, topic: "{base}/other/available", qos: 1}
`)
	c, err := mqttest.Dial(h.mqtt, mqttest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Subscribe("#", 1); err != nil {
		t.Fatal(err)
	}
	post := func(name, values string) {
		t.Helper()
		r, err := http.Post("http://"+h.http+"/hooks/hooks/"+name, "application/json", strings.NewReader(values))
		if err != nil || r.StatusCode != http.StatusAccepted {
			t.Fatal(r, err)
		}
		_ = r.Body.Close()
	}
	forged := [][2]string{
		{"One", `{"a":"MQTT"}`}, {"Two", `{"a":"bridge","b":"config"}`}, {"Two", `{"a":"hooks","b":"Available"}`}, {"Two", `{"a":"nobody","b":"result"}`},
		{"Three", `{"a":"set"}`}, {"Held", `{"a":"log","b":"available"}`}, {"Held", `{"a":"bridge","b":"check"}`},
	}
	for _, e := range forged {
		post(e[0], e[1])
	}
	post("Fixed", `{}`)
	post("Two", `{"a":"event","b":"set"}`) // no source is called event
	post("Two", `{"a":"x","b":"last"}`)
	delivered := func() {
		t.Helper()
		testkit.Eventually(t, "all is delivered", func() bool {
			list, err := control.Refused(t.Context(), h.stateDir)
			return err == nil && len(list.Events) == len(forged) && h.now.part("sink mqtt").lag() == 0
		})
	}
	delivered()
	o, err := control.DoRefused(t.Context(), h.stateDir, control.RefusedRequest{Do: "send", All: true})
	if err != nil || len(o.Done) != len(forged) {
		t.Fatalf("sent again: %+v, %v", o, err)
	}
	delivered()
	post("Two", `{"a":"x","b":"end"}`)
	list, err := control.Refused(t.Context(), h.stateDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list.Events {
		if !strings.Contains(e.Reason, "the program's own, and no event may choose it") {
			t.Errorf("%s to %s is refused since %s", e.Name, e.Topic, e.Reason)
		}
	}
	_ = c.SetDeadline(time.Now().Add(mqttest.Patience))
	var got []string
	for {
		m, err := c.Next()
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(m.Payload), `"_event"`) && m.Topic != "event2mqtt/event/X" {
			got = append(got, m.Topic)
		}
		if m.Topic == "event2mqtt/x/end" {
			break
		}
	}
	if want := "[event2mqtt/other/available event2mqtt/event/set event2mqtt/x/last event2mqtt/x/end]"; fmt.Sprint(got) != want {
		t.Errorf("events went to %q, want %s", got, want)
	}
}
