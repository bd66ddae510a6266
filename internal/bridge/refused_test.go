package bridge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"event2mqtt/internal/control"
	"event2mqtt/internal/testkit"
	"event2mqtt/internal/wire"
	"event2mqtt/test/mqttest"
)

const smallPackets = "http: {listen: HTTP}\nbroker: {listen: MQTT, max_packet: 1KiB}\n"

// TestRefusedEventsAreListedCountedAndSentAgain: an event is larger than the
// bundled broker's packets may be, until the option is changed.
func TestRefusedEventsAreListedCountedAndSentAgain(t *testing.T) {
	h := newRig(t, smallPackets)
	ctx := context.Background()
	ask := func(r control.RefusedRequest) control.RefusedOutcome {
		t.Helper()
		o, err := control.DoRefused(ctx, h.stateDir, r)
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	send := func(name string) {
		t.Helper()
		body := fmt.Sprintf(`{"event":%q,"p":%q}`, name, strings.Repeat("x", 2000))
		r, err := http.Post("http://"+h.http+"/hooks/default", "application/json", strings.NewReader(body))
		if err != nil || r.StatusCode != http.StatusAccepted {
			t.Fatal(r, err)
		}
		r.Body.Close()
	}
	send("First")
	send("Second")
	testkit.Eventually(t, "both are skipped", func() bool { return h.now.part("sink mqtt").lag() == 0 })
	list, err := control.Refused(ctx, h.stateDir)
	if err != nil || len(list.Events) != 2 || list.Events[0].Name != "First" || list.Events[0].Payload != nil || !strings.Contains(list.Events[0].Reason, "broker.max_packet allows 1024") {
		t.Fatalf("listed %+v, %v", list, err)
	}
	r, err := http.Get("http://" + h.http + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(r.Body)
	r.Body.Close()
	if !strings.Contains(string(text), `event2mqtt_sink_skipped_total{sink="mqtt"} 2`) {
		t.Errorf("metrics:\n%s", text)
	}
	if o := ask(control.RefusedRequest{Do: "drop", IDs: []string{"nobody", "../control", list.Events[1].ID}}); len(o.Done) != 1 || len(o.Problems) != 2 {
		t.Errorf("drop: %+v", o)
	}
	if o := h.reload(strings.Replace(smallPackets, "1KiB", "2MiB", 1)); !o.OK {
		t.Fatalf("reload: %+v", o)
	}
	c, err := mqttest.Dial(h.mqtt, mqttest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(mqttest.Patience))
	if _, err := c.Subscribe("event2mqtt/event/#", 1); err != nil {
		t.Fatal(err)
	}
	if o := ask(control.RefusedRequest{Do: "send", All: true}); len(o.Done) != 1 || o.Problems != nil {
		t.Errorf("send: %+v", o)
	}
	m, err := c.Next()
	if err != nil || m.Topic != "event2mqtt/event/First" || len(m.Payload) < 2000 {
		t.Fatalf("arrived %+v, %v", m, err)
	}
	if list, err := control.Refused(ctx, h.stateDir); err != nil || len(list.Events) != 0 {
		t.Errorf("left: %+v, %v", list, err)
	}
	if _, err := control.Refused(ctx, t.TempDir()); !errors.Is(err, control.ErrNotRunning) {
		t.Errorf("where nothing runs: %v", err)
	}
}

// TestWhatOneSinkRefusedIsSentToThatOneAlone, whatever it matches now; one that
// is not there any more is told of.
func TestWhatOneSinkRefusedIsSentToThatOneAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events")
	with := func(options string) string {
		return plain + fmt.Sprintf("sinks: [{name: log, type: file, path: %s, template: '{event} {payload.p}', %s}]\n", path, options)
	}
	h := newRig(t, with("max_size: 4KiB, match: [Large]"))
	c, err := mqttest.Dial(h.mqtt, mqttest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(mqttest.Patience))
	if _, err := c.Subscribe("event2mqtt/event/+", 1); err != nil {
		t.Fatal(err)
	}
	post := func(name string, size int) {
		t.Helper()
		r, err := http.Post("http://"+h.http+"/hooks/hooks/"+name, "application/json", strings.NewReader(fmt.Sprintf(`{"p":%q}`, strings.Repeat("x", size))))
		if err != nil || r.StatusCode != http.StatusAccepted {
			t.Fatal(r, err)
		}
		r.Body.Close()
		for m := (wire.Publish{}); m.Topic != "event2mqtt/event/"+name; {
			if strings.HasSuffix(m.Topic, "/Large") {
				t.Fatal("it was published again")
			}
			if m, err = c.Next(); err != nil {
				t.Fatal(err)
			}
		}
	}
	kept := func(n int) control.RefusedList {
		t.Helper()
		var list control.RefusedList
		testkit.Eventually(t, fmt.Sprintf("%d are kept", n), func() bool {
			list, err = control.Refused(t.Context(), h.stateDir)
			return err == nil && len(list.Events) == n
		})
		return list
	}
	send := func() control.RefusedOutcome {
		t.Helper()
		o, err := control.DoRefused(t.Context(), h.stateDir, control.RefusedRequest{Do: "send", All: true})
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	post("Large", 5000)
	if e := kept(1).Events[0]; e.Sink != "log" || e.Name != "Large" {
		t.Errorf("kept %+v", e)
	}
	if o := h.reload(plain); !o.OK {
		t.Fatalf("%+v", o)
	}
	if o := send(); len(o.Done) != 0 || len(o.Problems) != 1 || !strings.Contains(o.Problems[0], `the sink "log", which has refused it, is not configured any more`) {
		t.Errorf("without the sink: %+v", o)
	}
	if o := h.reload(with("match: [Small]")); !o.OK {
		t.Fatalf("%+v", o)
	}
	if o := send(); len(o.Done) != 1 || o.Problems != nil {
		t.Errorf("%+v", o)
	}
	kept(0)
	post("Small", 1)
	testkit.Eventually(t, "the file has both", func() bool {
		text, _ := os.ReadFile(path)
		return string(text) == "Large "+strings.Repeat("x", 5000)+"\nSmall x\n"
	})
}

// TestOnlyThisMachineMaySeeAndSendRefusedEvents, and no page in its browser.
func TestOnlyThisMachineMaySeeAndSendRefusedEvents(t *testing.T) {
	h := newRig(t, plain)
	for _, c := range []struct {
		method, body, header string
		status               int
	}{
		{"GET", "", "Origin", http.StatusForbidden}, {"POST", `{"do":"drop","all":true}`, "Origin", http.StatusForbidden}, {"GET", "", "", http.StatusOK},
		{"DELETE", "", "", http.StatusMethodNotAllowed}, {"POST", "{", "", http.StatusBadRequest}, {"POST", `{"do":"run"}`, "", http.StatusBadRequest},
	} {
		request, _ := http.NewRequest(c.method, "http://"+h.http+control.RefusedPath, strings.NewReader(c.body))
		if c.header != "" {
			request.Header.Set(c.header, "https://evil.example")
		}
		r, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
		if r.StatusCode != c.status {
			t.Errorf("%s %q: %d, want %d", c.method, c.body, r.StatusCode, c.status)
		}
	}
}

// TestAnyAcceptedEventFitsAPacketByDefault, and check warns where it need not.
func TestAnyAcceptedEventFitsAPacketByDefault(t *testing.T) {
	d := Defaults()
	if int(d.Broker.MaxPacket) < int(d.MaxPayload)+maxOverhead {
		t.Errorf("max_payload %s, broker.max_packet %s", d.MaxPayload, d.Broker.MaxPacket)
	}
	for setting, warns := range map[string]bool{"max_payload=1MiB": false, "max_payload=2MiB": true, "broker.max_packet=1MiB": true} {
		p, err := Load("", nil, t.TempDir(), setting)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(strings.Join(p.Warnings(), "\n"), "larger events are skipped"); got != warns {
			t.Errorf("%s: %q", setting, p.Warnings())
		}
		if p, err = Load("", nil, t.TempDir(), setting, "mqtt.url=mqtt://h"); err != nil || len(p.Warnings()) != 0 {
			t.Errorf("%s with another broker: %v %v", setting, p.Warnings(), err)
		}
	}
}
