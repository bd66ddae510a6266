package bridge

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"event2mqtt/internal/health"
	"event2mqtt/internal/testkit"
	"event2mqtt/test/mqttest"
)

// retainedAt returns what the bundled broker retains for a topic.
func (h *rig) retainedAt(topic string) string {
	found := ""
	h.running().broker.Retained(topic, func(d brokerDelivery) bool {
		if d.Topic == topic {
			found = string(d.Payload)
		}
		return false
	})
	return found
}

// TestTheProgramPublishesHowItIs: a problem with its cause, as /readyz and the
// state of the API say, and what it does.
func TestTheProgramPublishesHowItIs(t *testing.T) {
	h := newRig(t, plain)
	testkit.Eventually(t, "all is well", func() bool {
		return strings.Contains(h.retainedAt("event2mqtt/bridge/state"), `"state":"ok"`) && h.retainedAt("event2mqtt/bridge/info") != ""
	})
	var info ownInfo
	if err := json.Unmarshal([]byte(h.retainedAt("event2mqtt/bridge/info")), &info); err != nil || len(info.Sources) != 2 || info.Sources[0].Name != "hooks" || info.Sources[0].Type != "webhook" || len(info.Sinks) != 1 {
		t.Errorf("%v: %+v", err, info)
	}
	part := h.running().part("source hooks")
	part.health.Tell(failure("the disk is away"))
	testkit.Eventually(t, "the problem is told", func() bool {
		return strings.Contains(h.retainedAt("event2mqtt/bridge/state"), `{"state":"problem","problem":"source hooks failed: the disk is away","since":"`)
	})
	part.health.Tell(health.Running("again"))
	over := func() bool {
		return strings.Contains(h.retainedAt("event2mqtt/bridge/state"), `{"state":"ok","problem":null,"since":"`)
	}
	testkit.Eventually(t, "it is over", over)
	h.reload(plain + "nonsense: 1\n")
	testkit.Eventually(t, "a rejected configuration is told", func() bool {
		return strings.Contains(h.retainedAt("event2mqtt/bridge/state"), `{"state":"problem","problem":"the new configuration is not used: `)
	})
	h.reload(plain)
	testkit.Eventually(t, "it is right again", over)
}

// TestWhatTheMainSinkPublishesSaysThatItIsUp: what the program does is said
// before that sink has begun, and read when it has.
func TestWhatTheMainSinkPublishesSaysThatItIsUp(t *testing.T) {
	h := newRig(t, plain)
	now := h.running()
	main := &now.parts[0].health
	testkit.Eventually(t, "the main sink is up", func() bool { return main.Report().Level == health.Up })
	main.Tell(health.Lacking("begins"))
	if in := h.info(now); len(in.Sinks) != 1 || in.Sinks[0].State != "up" {
		t.Errorf("%+v", in.Sinks)
	}
}

// TestWithoutAFileAReloadIsNoProblem: the answer says that there is nothing
// to reload, and the program is as well as before.
func TestWithoutAFileAReloadIsNoProblem(t *testing.T) {
	h := newRigWith(t, plain, t.TempDir(), BuiltIn(), func(b *Bridge) { b.opt.Load = nil })
	o, err := h.Reload(t.Context())
	if err != nil || o.OK || len(o.Problems) != 1 || !strings.Contains(o.Problems[0], "--config FILE") {
		t.Errorf("%v %+v", err, o)
	}
	if refused := (program{h.Bridge}).State().Config.Refused; refused != nil {
		t.Errorf("the state names a rejected configuration: %+v", refused)
	}
	if why := h.trouble(h.running()); why != "" {
		t.Error(why)
	}
}

// TestTheLogIsPublishedIfThatIsConfigured: warnings and errors, a few of many.
func TestTheLogIsPublishedIfThatIsConfigured(t *testing.T) {
	var tap atomic.Pointer[func([]byte)]
	h := newRigWith(t, plain, t.TempDir(), BuiltIn(), func(b *Bridge) {
		b.opt.TapLog = func(f func([]byte)) {
			if f == nil {
				tap.Store(nil)
			} else {
				tap.Store(&f)
			}
		}
	})
	if tap.Load() != nil {
		t.Fatal("lines are taken, though that is off")
	}
	listener, err := mqttest.Dial(h.mqtt, mqttest.Options{ID: "listener"})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	_ = listener.SetDeadline(time.Now().Add(mqttest.Patience))
	if _, err := listener.Subscribe("+/bridge/logging", 0); err != nil {
		t.Fatal(err)
	}
	if o := h.reload("log: {publish: warn}\n" + plain); !o.OK {
		t.Fatal(o)
	}
	line := func(level, text string) {
		(*tap.Load())([]byte(`{"level":"` + level + `","message":"` + text + `"}` + "\n"))
	}
	line("info", "nobody needs this")
	line("warn", "a printer is away")
	m, err := listener.Next()
	if err != nil || m.Topic != "event2mqtt/bridge/logging" || m.Retain || string(m.Payload) != `{"level":"warn","message":"a printer is away"}` {
		t.Fatalf("%v: %s %s", err, m.Topic, m.Payload)
	}
	for i := range 1000 {
		line("error", fmt.Sprint(i))
	}
	for n := 0; ; n++ {
		if m, err = listener.Next(); err != nil || n > 20 {
			t.Fatalf("%d lines: %v", n, err)
		}
		if line("error", "more"); strings.Contains(string(m.Payload), `"lines_left_out":`) {
			break
		}
	}
}

// TestStrangersSeeNoAddressesAndPaths at /readyz and /metrics.
func TestStrangersSeeNoAddressesAndPaths(t *testing.T) {
	h := newRig(t, strings.Replace(plain, "HTTP}", "HTTP, token: right}", 1))
	get := func(path string, headers ...string) string {
		r, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+h.http+path, nil)
		for i := 0; i < len(headers); i += 2 {
			r.Header.Set(headers[i], headers[i+1])
		}
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	secret := []string{"/nowhere", h.stateDir, h.mqtt, h.http, "127.0.0.1"}
	leaks := func(text string) (found []string) {
		for _, s := range secret {
			if strings.Contains(text, s) {
				found = append(found, s)
			}
		}
		return found
	}
	h.now.part("source log").health.Tell(health.Trouble(fmt.Errorf("/nowhere/x.log is not there, and neither is %s", h.mqtt)))
	if found := leaks(get("/readyz")); len(found) == 0 {
		t.Error("this machine is told nothing either")
	}
	if found := leaks(get("/readyz", "Authorization", "Bearer right", "X-Forwarded-For", "192.0.2.1")); len(found) == 0 {
		t.Error("who knows the token is told nothing either")
	}
	for _, headers := range [][]string{{"X-Forwarded-For", "192.0.2.1"}, {"X-Forwarded-For", "192.0.2.1", "Authorization", "Bearer wrong"}} {
		for _, path := range []string{"/readyz", "/metrics"} {
			text := get(path, headers...)
			if found := leaks(text); len(found) > 0 || len(text) < 100 {
				t.Errorf("%s tells a stranger %v: %s", path, found, text)
			}
		}
	}
}
