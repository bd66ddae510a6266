package bridge

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"event2mqtt/internal/testkit"
	"event2mqtt/test/certtest"
	"event2mqtt/test/mqttest"
)

func TestAReloadTouchesOnlyWhatHasChanged(t *testing.T) {
	h := newRig(t, plain)
	client, err := mqttest.Dial(h.mqtt, mqttest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	steps := []struct {
		name    string
		edit    func(string) string
		touched string // the one component that may be new or gone
		report  string
	}{
		{"nothing", func(s string) string { return s + "# a comment\n" }, "", ""},
		{"a source more", func(s string) string { return s + "  - {name: more, type: webhook}\n" }, "source more", "source more: added"},
		{"a secret", func(s string) string {
			return strings.Replace(s, "more, type: webhook", "more, type: webhook, auth: {token: t}", 1)
		}, "source more", "source more: changed"},
		{"the tail", func(s string) string { return strings.Replace(s, "nowhere", "elsewhere", 1) }, "source log", "source log: changed"},
		{"a source less", func(s string) string {
			return strings.Replace(s, "  - {name: more, type: webhook, auth: {token: t}}\n", "", 1)
		}, "source more", "source more: removed"},
		{"topics", func(s string) string { return s + "publish: {event_topic: \"{base}/e/{event}\"}\n" }, "", "publish.event_topic: changed"},
		{"limits", func(s string) string { return s + "journal: {max_size: 300MiB}\n" }, "", "journal: limits changed"},
		{"the broker's limits and users", func(s string) string {
			return strings.Replace(s, "MQTT}", "MQTT, max_queued: 77, allow_anonymous: true, users: [{name: ann, password: secret}]}", 1)
		}, "", "bundled broker: accounts and limits changed"},
		{"connections", func(s string) string { return strings.Replace(s, "HTTP}", "HTTP, max_connections: 99}", 1) }, "", "http.max_connections: changed"},
		{"the client id", func(s string) string { return s + "mqtt: {client_id: other}\n" }, "sink mqtt", "sink mqtt: mqtt.client_id changed"},
		{"several options", func(s string) string {
			return strings.Replace(s, "{base}/e/{event}\"}", "{base}/x/{event}\", state_topic: \"{base}/s/{source}/{key}\"}", 1)
		}, "", "publish.event_topic, publish.state_topic: changed"},
		{"the base", func(s string) string {
			return strings.Replace(s, "publish: {", "publish: {base_topic: b, ", 1)
		}, "sink mqtt", "sink mqtt: publish.base_topic changed"},
	}
	yaml := plain
	for _, step := range steps {
		before := h.since()
		yaml = step.edit(yaml)
		o := h.reload(yaml)
		if !o.OK || strings.Join(o.Changed, "; ") != step.report {
			t.Fatalf("%s: %+v, want %q", step.name, o, step.report)
		}
		after := h.since()
		for name := range before {
			if same := before[name].Equal(after[name]); same == (name == step.touched) {
				t.Errorf("%s: %s was started at %s, now %s", step.name, name, before[name], after[name])
			}
		}
		if h.post("hooks") != http.StatusAccepted {
			t.Errorf("%s: no event is taken", step.name)
		}
		if err := client.Ping(); err != nil {
			t.Fatalf("%s: a client of the broker: %v", step.name, err)
		}
	}
	if c, err := mqttest.Dial(h.mqtt, mqttest.Options{User: "ann", Password: "secret"}); err != nil {
		t.Errorf("the new user: %v", err)
	} else {
		c.Close()
	}
}

// TestWhatFailsAtTheStartUndoesTheWholeReload, whichever component it is: each
// change here has other parts, which are good.
func TestWhatFailsAtTheStartUndoesTheWholeReload(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	cert, key := certtest.New(t).Issue("broker", nil)
	tls := fmt.Sprintf("tls: {listen: %q, cert: %s, key: %s}", testkit.FreeAddress(t), cert, key)
	good := strings.Replace(plain, "broker: {", "broker: {"+tls+", ", 1)
	failing := make(chan string, 1) // once
	h := newRig(t, good, func(component string) error {
		select {
		case name := <-failing:
			if name == component {
				return errors.New("injected")
			}
			failing <- name
		default:
		}
		return nil
	})
	for _, c := range []struct {
		name, fails string
		edit        func(string) string
		before      func() (undo func())
		problem     string
	}{
		{"http", "", func(s string) string { return strings.Replace(s, "HTTP", taken.Addr().String(), 1) }, nil, "http.listen"},
		{"broker", "", func(s string) string { return strings.Replace(s, "MQTT", taken.Addr().String(), 1) }, nil, "broker.listen"},
		{"broker's certificate", "", func(s string) string { return strings.Replace(s, "tls: {", "tls: {min_version: \"1.3\", ", 1) },
			func() func() {
				_ = os.Rename(key, key+".away")
				return func() { _ = os.Rename(key+".away", key) }
			}, "broker.tls"},
		{"sink", "", func(s string) string { return s + "mqtt: {url: \"mqtts://127.0.0.1:1\", tls: {ca: /nowhere.pem}}\n" }, nil, "mqtt.tls.ca"},
		{"webhook", "source more", func(s string) string { return s }, nil, "start source more: injected"},
		{"tail", "source log", func(s string) string { return strings.Replace(s, "nowhere", "elsewhere", 1) }, nil, "start source log: injected"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h.t = t
			restore := func() {}
			if c.before != nil {
				restore = c.before()
			}
			before := h.since()
			if c.fails != "" {
				failing <- c.fails
			}
			edited := c.edit(good) + "publish: {event_topic: \"{base}/e/{event}\"}\njournal: {max_size: 300MiB}\n"
			edited = strings.Replace(edited, "sources:", "sources:\n  - {name: more, type: webhook}", 1)
			edited = strings.Replace(edited, "name: hooks, type: webhook", "name: hooks, type: webhook, auth: {token: t}", 1)
			o := h.reload(edited)
			restore()
			if text := strings.Join(o.Problems, "\n"); o.OK || !strings.Contains(text, c.problem) {
				t.Fatalf("got %+v", o)
			}
			if h.post("hooks") != http.StatusAccepted || h.post("more") != http.StatusNotFound {
				t.Error("the sources are not as before")
			}
			after := h.since()
			for name := range before {
				// A tail cannot run beside its successor: it had to be started again.
				if !before[name].Equal(after[name]) && !(c.name == "tail" && name == "source log") {
					t.Errorf("%s was started again", name)
				}
			}
			if len(after) != len(before) {
				t.Errorf("there are now %v", after)
			}
			testkit.Eventually(t, "the state topic says so", func() bool { // it is published after the answer is given
				kept, err := mqttest.Retained(h.mqtt, "event2mqtt/bridge/config")
				return err == nil && strings.Contains(kept["event2mqtt/bridge/config"], c.problem)
			})
			if o := h.reload(good); !o.OK || len(o.Changed) > 0 {
				t.Errorf("afterwards: %+v", o)
			}
		})
	}
}

// TestTheSinkMovesBetweenBrokersWhileEventsCome: from the bundled broker to
// another and back, and every event reaches one of them.
func TestTheSinkMovesBetweenBrokersWhileEventsCome(t *testing.T) {
	other := newRig(t, plain) // its broker is the other
	h := newRig(t, plain)
	external := strings.Replace(plain, "broker: {listen: MQTT}", fmt.Sprintf("mqtt: {url: \"mqtt://%s\"}", other.mqtt), 1)
	external = strings.Replace(external, "sources:", "publish: {base_topic: moved}\nsources:", 1)
	at, err := mqttest.Dial(other.mqtt, mqttest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer at.Close()
	if _, err := at.Subscribe("moved/event/#", 1); err != nil {
		t.Fatal(err)
	}
	_ = at.SetDeadline(time.Now().Add(mqttest.Patience))
	for range 3 {
		if o := h.reload(external); !o.OK {
			t.Fatalf("to the other: %+v", o)
		}
		if h.post("hooks") != http.StatusAccepted {
			t.Fatal("no event is taken")
		}
		if _, err := at.Next(); err != nil {
			t.Fatal(err)
		}
		if _, err := mqttest.Dial(h.mqtt, mqttest.Options{}); err == nil {
			testkit.Eventually(t, "the bundled broker ends", func() bool {
				c, err := net.Dial("tcp", h.mqtt)
				if err == nil {
					_ = c.Close()
				}
				return err != nil
			})
		}
		if o := h.reload(plain); !o.OK {
			t.Fatalf("and back: %+v", o)
		}
		c, err := mqttest.Dial(h.mqtt, mqttest.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Subscribe("event2mqtt/event/#", 1); err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(mqttest.Patience))
		if h.post("hooks") != http.StatusAccepted {
			t.Fatal("no event is taken")
		}
		if _, err := c.Next(); err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
}

// TestTheBundledBrokerMayComeAndGoAtOnce: what ends it does not end the next.
func TestTheBundledBrokerMayComeAndGoAtOnce(t *testing.T) {
	h := newRig(t, plain)
	external := strings.Replace(plain, "broker: {listen: MQTT}", "mqtt: {url: \"mqtt://"+testkit.FreeAddress(t)+"\"}", 1)
	for range 5 {
		for _, yaml := range []string{external, plain} {
			if o := h.reload(yaml); !o.OK {
				t.Fatalf("%+v", o)
			}
		}
	}
	c := h.follow()
	h.send(`{"event":"Delivered"}`)
	for {
		m, err := c.Next()
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(m.Topic, "/Delivered") {
			return
		}
	}
}

// TestACertificateThatIsReplacedInItsFileCounts as a change, though the
// configuration says the same.
func TestACertificateThatIsReplacedInItsFileCounts(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ca.pem")
	replace := func() {
		text, err := os.ReadFile(certtest.New(t).CAFile)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	replace()
	yaml := strings.Replace(plain, "broker: {listen: MQTT}", "mqtt: {url: \"mqtts://"+testkit.FreeAddress(t)+"\", tls: {ca: "+file+"}}", 1)
	h := newRig(t, yaml)
	for _, again := range []bool{false, true} {
		before := h.since()
		if again {
			replace()
		}
		if o := h.reload(yaml); !o.OK {
			t.Fatalf("%+v", o)
		}
		after := h.since()
		for name := range before {
			if same := before[name].Equal(after[name]); same == (again && name == "sink mqtt") {
				t.Errorf("replaced: %v: %s was started at %s, now %s", again, name, before[name], after[name])
			}
		}
	}
}

func TestWhereThingsAreKeptCannotChangeWhileTheyAreUsed(t *testing.T) {
	h := newRig(t, plain)
	o := h.reload(plain + "journal: {path: /elsewhere, sync: never}\n")
	want := "config.yaml:7:11: journal.path: cannot change while the program runs; restart it for that"
	if o.OK || len(o.Problems) != 2 || !strings.HasSuffix(o.Problems[0], want) {
		t.Errorf("got %+v", o)
	}
}

// TestOfFiveHundredSourcesOnlyOneIsTouched; test/bench tells how long it takes.
func TestOfFiveHundredSourcesOnlyOneIsTouched(t *testing.T) {
	yaml := plain
	for i := range 500 {
		yaml += fmt.Sprintf("  - {name: s%d, type: webhook, auth: {token: t}}\n", i)
	}
	h := newRig(t, yaml)
	before := h.since()
	o := h.reload(strings.Replace(yaml, "s250, type: webhook, auth: {token: t}", "s250, type: webhook, auth: {token: u}", 1))
	if !o.OK || len(o.Changed) != 1 {
		t.Fatalf("got %+v", o)
	}
	t.Logf("%.1f ms", o.TookMS)
	for name, at := range h.since() {
		if !at.Equal(before[name]) != (name == "source s250") {
			t.Errorf("%s: started at %s and %s", name, before[name], at)
		}
	}
}

// TestReloadsLeaveNothingBehind, whether they work or not.
func TestReloadsLeaveNothingBehind(t *testing.T) {
	h := newRig(t, plain)
	variant := func(i int) string {
		s := strings.Replace(plain, "MQTT}", fmt.Sprintf("MQTT, max_queued: %d}", 1000+i), 1)
		s = strings.Replace(s, "nowhere", fmt.Sprint("nowhere", i%2), 1)
		return s + fmt.Sprintf("  - {name: w%d, type: webhook, auth: {token: t%d}}\npublish: {id_field: id%d}\n", i%3, i, i)
	}
	heap := func() int64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	run := func(from, to int) {
		for i := from; i < to; i++ {
			if o := h.reload(variant(i)); !o.OK {
				t.Fatalf("%+v", o)
			}
			h.reload("sources: nonsense\n")
		}
		h.log.Reset()
	}
	run(0, 50)
	before := heap()
	const rounds = 200
	run(50, 50+rounds)
	if grown := heap() - before; grown > 2<<20 {
		t.Errorf("%d reloads keep %d KiB, %d each", rounds, grown>>10, grown/rounds)
	}
}

// BenchmarkReadingFiveHundredSources is the larger part of such a reload.
func BenchmarkReadingFiveHundredSources(b *testing.B) {
	yaml := "sources:\n"
	for i := range 500 {
		yaml += fmt.Sprintf("  - {name: s%d, type: webhook, auth: {token: t}}\n", i)
	}
	file := filepath.Join(b.TempDir(), "config.yaml")
	if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
		b.Fatal(err)
	}
	state := b.TempDir()
	for b.Loop() {
		if _, err := Load(file, nil, state); err != nil {
			b.Fatal(err)
		}
	}
}
