package bridge

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"event2mqtt/internal/event"
	"event2mqtt/internal/testkit"
	"event2mqtt/test/mqttest"
)

// follow subscribes to all events of the bundled broker.
func (h *rig) follow() *mqttest.Client {
	h.t.Helper()
	c, err := mqttest.Dial(h.mqtt, mqttest.Options{})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { c.Close() })
	if _, err := c.Subscribe("event2mqtt/event/#", 1); err != nil {
		h.t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(mqttest.Patience))
	return c
}

func (h *rig) send(body string) {
	h.t.Helper()
	r, err := http.Post("http://"+h.http+"/hooks/hooks", "application/json", strings.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	_ = r.Body.Close()
	if r.StatusCode != http.StatusAccepted {
		h.t.Fatalf("%s: status %d", body, r.StatusCode)
	}
}

// TestWhatIsHeldIsNotCalledDelivered: the first of an interval is, the second
// waits for its end, and what is dropped has nothing left to be delivered.
func TestWhatIsHeldIsNotCalledDelivered(t *testing.T) {
	h := newRig(t, strings.Replace(plain, "hooks, type: webhook", "hooks, type: webhook, respond: delivered", 1)+`
rules:
  - {match: X, drop: true}
  - {match: Often, min_interval: 1h}
`)
	for _, c := range []struct {
		event string
		want  int
	}{{"Often", http.StatusOK}, {"Often", http.StatusAccepted}, {"X", http.StatusOK}, {"Other", http.StatusOK}} {
		r, err := http.Post("http://"+h.http+"/hooks/hooks/"+c.event, "application/json", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		_ = r.Body.Close()
		if r.StatusCode != c.want {
			t.Errorf("%s: %s, want %d", c.event, r.Status, c.want)
		}
	}
}

func TestRulesShapeWhatIsPublished(t *testing.T) {
	h := newRig(t, plain+`
rules:
  - {match: "X", drop: true}
  - {match: "Client*", drop: true}
  - {match: Tool, topic: "{base}/event/tool/{payload.tool}", qos: 0}
  - {match: Kept, retain: true}
  - {match: Old, rename: New, pick: [a], add: {room: cellar}}
  - {match: New, when: payload.none > 1, drop: true}
`)
	c := h.follow()
	for _, body := range []string{`{"event":"ClientOpened"}`, `{"event":"Tool","tool":3}`, `{"event":"Kept"}`, `{"event":"Old","a":1,"b":2}`} {
		h.send(body)
	}
	for _, want := range []struct {
		topic, payload string
		qos            byte
	}{
		{"event2mqtt/event/tool/3", `"tool":3}`, 0}, {"event2mqtt/event/Kept", `"event":"Kept"}`, 1}, {"event2mqtt/event/New", `"a":1,"room":"cellar"}`, 1},
	} {
		m, err := c.Next()
		if err != nil {
			t.Fatal(err)
		}
		if m.Topic != want.topic || !strings.HasSuffix(string(m.Payload), want.payload) || m.QoS != want.qos {
			t.Errorf("got %s %s QoS %d, want %+v", m.Topic, m.Payload, m.QoS, want)
		}
		if name := m.Topic[strings.LastIndexByte(m.Topic, '/')+1:]; name == "New" && !strings.HasPrefix(string(m.Payload), `{"_event":"New","_timestamp":`) {
			t.Errorf("got %s", m.Payload)
		}
	}
	r, err := http.Get("http://" + h.http + metricsPath)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	metrics, _ := io.ReadAll(r.Body)
	for _, want := range []string{`event2mqtt_rule_dropped_total{rule="1"} 1`, `event2mqtt_rule_failures_total{rule="5"} 1`} {
		if !strings.Contains(string(metrics), want) {
			t.Errorf("want %s in\n%s", want, metrics)
		}
	}
	if m, err := h.follow().Next(); err != nil || m.Topic != "event2mqtt/event/Kept" || !m.Retain {
		t.Errorf("retained: %+v, %v", m, err)
	}
}

// TestWhatARuleHoldsBackIsSentInAnyCase: at the end of its interval, after a
// restart, and when its rule goes away.
func TestWhatARuleHoldsBackIsSentInAnyCase(t *testing.T) {
	const rule = "rules:\n  - {match: \"X\", drop: true}\n  - {match: Z, min_interval: %s}\n"
	short, long := fmt.Sprintf(plain+rule, "300ms"), fmt.Sprintf(plain+rule, "24h")
	expect := func(c *mqttest.Client, n int) {
		t.Helper()
		m, err := c.Next()
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(string(m.Payload), fmt.Sprintf(`"n":%d}`, n)) {
			t.Fatalf("got %s, want %d", m.Payload, n)
		}
	}
	h := newRig(t, short)
	c := h.follow()
	for n := range 4 {
		h.send(fmt.Sprintf(`{"event":"Z","n":%d}`, n))
	}
	expect(c, 0)
	expect(c, 3)
	if o := h.reload(long); !o.OK {
		t.Fatal(o)
	}
	for n := 10; n < 14; n++ {
		h.send(fmt.Sprintf(`{"event":"Z","n":%d}`, n))
	}
	expect(c, 10)
	if o := h.reload(plain); !o.OK { // the rule goes away
		t.Fatal(o)
	}
	expect(c, 13)
	if o := h.reload(long); !o.OK {
		t.Fatal(o)
	}
	for n := 20; n < 24; n++ {
		h.send(fmt.Sprintf(`{"event":"Z","n":%d}`, n))
	}
	expect(c, 20)

	// A crash: another bridge takes up what is on disk at this moment.
	state := t.TempDir()
	if err := os.CopyFS(filepath.Join(state, "journal"), os.DirFS(filepath.Join(h.stateDir, "journal"))); err != nil {
		t.Fatal(err)
	}
	external := fmt.Sprintf("mqtt: {url: \"mqtt://%s\"}", h.mqtt)
	newRigIn(t, strings.Replace(short, "broker: {listen: MQTT}", external, 1), state)
	for { // its rule is another now
		m, err := c.Next()
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(string(m.Payload), `"n":23}`) {
			return // those before it may come again
		}
	}
}

// TestWhatRulesDropIsReadAllTheSame: a tail does not come back to such lines.
func TestWhatRulesDropIsReadAllTheSame(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(dir, "x.log")
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	write := func(name string) { fmt.Fprintf(f, "{\"event\":%q}\n", name) }
	yaml := strings.Replace(plain, "/nowhere/*.log]", log+"], start: beginning", 1)
	h := newRig(t, yaml+"rules: [{match: [Drop, X], drop: true}]\n")
	c := h.follow()
	for _, name := range []string{"Drop", "Drop", "Keep", "Drop"} {
		write(name)
	}
	if m, err := c.Next(); err != nil || m.Topic != "event2mqtt/event/Keep" {
		t.Fatalf("got %s, %v", m.Topic, err)
	}
	before := fmt.Sprint(h.journal.Positions("log"))
	write("Drop")
	testkit.Eventually(t, "the line is read", func() bool { return fmt.Sprint(h.journal.Positions("log")) != before })
	// Now they would not be dropped any more.
	if o := h.reload(yaml); !o.OK {
		t.Fatal(o)
	}
	if o := h.reload(strings.Replace(yaml, "start: beginning", "start: beginning, poll: 2s", 1)); !o.OK { // starts it again
		t.Fatal(o)
	}
	write("Last")
	if m, err := c.Next(); err != nil || m.Topic != "event2mqtt/event/Last" {
		t.Errorf("got %s, %v", m.Topic, err)
	}
}

// TestAMistypedPathIsForgiven: while it is wrong nothing is read, and when it
// is right again nothing is read twice.
func TestAMistypedPathIsForgiven(t *testing.T) {
	dir := t.TempDir()
	f, err := os.OpenFile(filepath.Join(dir, "x.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	right := strings.Replace(plain, "/nowhere/*.log]", filepath.Join(dir, "x.log")+"], start: beginning", 1) + "rules: [{match: X, drop: true}]\n"
	h := newRig(t, right)
	c := h.follow()
	expect := func(name string) {
		t.Helper()
		fmt.Fprintf(f, "{\"event\":%q}\n", name)
		if m, err := c.Next(); err != nil || m.Topic != "event2mqtt/event/"+name {
			t.Fatalf("got %s, %v, want %s", m.Topic, err, name)
		}
	}
	expect("One")
	for _, yaml := range []string{strings.Replace(right, "x.log", "y.log", 1), strings.Replace(right, dir, "/nowhere", 1), right} {
		if o := h.reload(yaml); !o.OK {
			t.Fatal(o)
		}
	}
	expect("Two")
}

// TestAFullStoreOfRetainedMessagesHoldsUpNobody: rules may want more retained
// than there may be.
func TestAFullStoreOfRetainedMessagesHoldsUpNobody(t *testing.T) {
	h := newRig(t, strings.Replace(plain, "MQTT}", "MQTT, max_retained: 3}", 1)+"rules: [{match: N*, retain: true}, {match: X, drop: true}]\n")
	c := h.follow()
	for i := range 10 {
		h.send(fmt.Sprintf(`{"event":"N%d"}`, i))
	}
	h.send(`{"event":"Last"}`)
	for i := range 11 {
		m, err := c.Next()
		if err != nil {
			t.Fatalf("after %d: %v", i, err)
		}
		if want := "event2mqtt/event/" + map[bool]string{true: "Last", false: fmt.Sprint("N", i)}[i == 10]; m.Topic != want {
			t.Errorf("got %s, want %s", m.Topic, want)
		}
	}
}

// TestAnEventWithoutATimeHappensNow: its source need not know when that is.
func TestAnEventWithoutATimeHappensNow(t *testing.T) {
	h := newRig(t, plain)
	c, err := mqttest.Dial(h.mqtt, mqttest.Options{})
	testkit.OK(t, err)
	defer c.Close()
	_, err = c.Subscribe("event2mqtt/event/A", 1)
	testkit.OK(t, err)
	before := time.Now().Unix()
	_, err = output{b: h.Bridge, source: "hooks"}.Emit(t.Context(), event.Event{Name: "A"})
	testkit.OK(t, err)
	m, err := c.Next()
	testkit.OK(t, err)
	var got struct {
		At int64 `json:"_timestamp"`
	}
	testkit.OK(t, json.Unmarshal(m.Payload, &got))
	if now := time.Now().Unix(); got.At < before || got.At > now {
		t.Errorf("it happened at %d, between %d and %d", got.At, before, now)
	}
}
