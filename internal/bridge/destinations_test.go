package bridge

import (
	"context"
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"event2mqtt/internal/broker"
	"event2mqtt/internal/event"
	"event2mqtt/internal/testkit"
	"event2mqtt/internal/wire"
	"event2mqtt/test/mqttest"
)

// anotherBroker runs a broker and returns its address.
func anotherBroker(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	testkit.OK(t, err)
	b, err := broker.New(broker.Options{})
	testkit.OK(t, err)
	done := make(chan error, 1)
	go func() { done <- b.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		b.Close(ctx)
		<-done
	})
	return l.Addr().String()
}

// keptAt waits until a broker keeps these topics and no others.
func keptAt(t *testing.T, at string, want ...string) {
	t.Helper()
	var got []string
	defer func() {
		if t.Failed() {
			t.Logf("it keeps %q", got)
		}
	}()
	testkit.Eventually(t, fmt.Sprintf("%q are kept", want), func() bool {
		kept, err := mqttest.Retained(at, "#")
		got = slices.Sorted(maps.Keys(kept))
		return err == nil && slices.Equal(got, want)
	})
}

// TestCopiesAtAnotherBroker: two sinks at one broker, beside the main one, each
// with topics of its own and what it matches. States go there only if that is
// wanted, and the program's own never. A reload that changes one leaves the
// others alone.
func TestCopiesAtAnotherBroker(t *testing.T) {
	at := anotherBroker(t)
	with := func(cloud string) string {
		return plain + fmt.Sprintf(`
publish: {source_field: _source}
sinks:
  - {name: cloud, type: mqtt, url: "mqtt://%s", publish: {base_topic: copy}, match: ["Print*"]%s}
  - {name: second, type: mqtt, url: "mqtt://%s", publish: {base_topic: second, source_field: ""}, will: {enabled: false}}
`, at, cloud, at)
	}
	h := newRig(t, with(""))
	s, err := mqttest.Dial(at, mqttest.Options{})
	testkit.OK(t, err)
	defer s.Close()
	_, err = s.Subscribe("+/event/#", 1)
	testkit.OK(t, err)
	_ = s.SetDeadline(time.Now().Add(mqttest.Patience))
	keptAt(t, at, "copy/mqtt")
	for _, name := range []string{"Other", "Printed"} {
		_, err := output{b: h.Bridge, source: "hooks"}.Emit(t.Context(), event.Event{Name: name, Payload: []byte(`{"a":1}`)})
		testkit.OK(t, err)
	}
	got := map[string]string{}
	for got["second/event/Printed"] == "" || got["copy/event/Printed"] == "" {
		m, err := s.Next()
		testkit.OK(t, err)
		got[m.Topic] = string(m.Payload)
	}
	if got["copy/event/Other"] != "" || got["second/event/Other"] == "" {
		t.Errorf("it got %q", got)
	}
	if !strings.Contains(got["copy/event/Printed"], `"_source":"hooks"`) || strings.Contains(got["second/event/Printed"], "_source") {
		t.Errorf("what is left out of publish is not as in the main section, or what is not is: %q", got)
	}

	testkit.OK(t, h.states.Report("hooks", event.State{Key: "k", Payload: []byte("1")}))
	before := h.since()
	if o := h.reload(with(", states: true")); !o.OK || !strings.Contains(fmt.Sprint(o.Changed), "sinks[0].states") {
		t.Fatalf("%+v", o)
	}
	keptAt(t, at, "copy/hooks/available", "copy/hooks/k", "copy/log/available", "copy/mqtt")
	if o := h.reload(with("")); !o.OK {
		t.Fatalf("%+v", o)
	}
	keptAt(t, at, "copy/mqtt")
	after := h.since()
	if !before["sink mqtt"].Equal(after["sink mqtt"]) || !before["sink second"].Equal(after["sink second"]) {
		t.Error("other sinks were started again")
	}
	// Written in another order, they are the same, and messages name them by their new places.
	lines := strings.Split(strings.TrimSpace(with("")), "\n")
	n := len(lines)
	lines[n-1], lines[n-2] = lines[n-2], lines[n-1]
	if o := h.reload(strings.Join(lines, "\n") + "\n"); !o.OK || len(o.Changed) > 0 {
		t.Errorf("in another order: %+v", o)
	}
	if now := h.since(); !now["sink cloud"].Equal(after["sink cloud"]) || !now["sink second"].Equal(after["sink second"]) {
		t.Error("sinks were started again since they are written in another order")
	}
	found := false
	testkit.OK(t, h.now.plan.Probe(t.Context(), t.TempDir(), func(p Probed) {
		found = found || p.What == "sink cloud" && p.Err == nil && p.Detail == "connected; a message came back"
	}))
	if !found {
		t.Error("the sink cannot be tried out")
	}
	if o := h.reload(plain); !o.OK {
		t.Fatalf("%+v", o)
	}
	testkit.Eventually(t, "the copy says goodbye", func() bool {
		kept, err := mqttest.Retained(at, "#")
		return err == nil && kept["copy/mqtt"] == "disconnected"
	})
}

// TestSinksThatWouldFightAreRefused, and each message names the option.
func TestSinksThatWouldFightAreRefused(t *testing.T) {
	const one = "{name: a, type: mqtt, url: 'mqtt://H', client_id: x, publish: {base_topic: a}}"
	for text, want := range map[string]string{
		"sinks: [{name: a, type: mqtt}]":                                                                                                    "sinks[0].url: is needed: it tells which broker",
		"sinks: [{name: a, type: mqtt, url: h}]":                                                                                            `sinks[0].url: "h" does not begin with one of mqtt://`,
		"sinks: [{name: a, type: mqtt, url: 'mqtt://u:p@h'}]":                                                                               "sinks[0].url: \"mqtt://u:xxxxx@h\" holds a user; set username and password instead",
		"sinks: [{name: a, type: mqtt, url: 'mqtt://h', password: p}]":                                                                      "sinks[0].username: a password without",
		"sinks: [{name: a, type: mqtt, url: 'mqtt://h', rate: '5'}]":                                                                        `sinks[0].rate: "5" is not a rate`,
		"sinks: [{name: a, type: mqtt, url: 'mqtt://h', publish: {event_topic: x}}]":                                                        "sinks[0].publish.event_topic:",
		"sinks: [{name: a, type: mqtt, url: 'mqtts://h', tls: {pin: sha256:00}}]":                                                           "sinks[0].tls.pin:",
		"sinks: [{name: a, type: mqtt, url: 'mqtt://h', username: u, password_file: /x, password: p}]":                                      "there is a password already",
		"mqtt: {url: 'mqtt://h'}\nsinks: [{name: a, type: mqtt, url: 'mqtt://h:1883'}]":                                                     "sinks[0].will.topic: event2mqtt/mqtt is where the section mqtt tells whether it is connected already, at the same broker (mqtt://h:1883)",
		"mqtt: {url: ['mqtt://g', 'mqtts://H:1']}\nsinks: [{name: a, type: mqtt, url: 'mqtt://h:1', will: {enabled: false}, states: true}]": "sinks[0].states: the section mqtt publishes states to the same topics already",
		"sinks: [" + one + ", {name: b, type: mqtt, url: 'mqtt://h', client_id: x, publish: {base_topic: b}}]":                              `sinks[1].client_id: "x" is the client id of sinks[0] already`,
	} {
		_, err := Load(testkit.Write(t, filepath.Join(t.TempDir(), "c.yaml"), text), nil, t.TempDir())
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	for _, text := range []string{
		"mqtt: {url: 'mqtt://h'}\nsinks: [{name: a, type: mqtt, url: 'mqtt://h', will: {enabled: false}}]",
		"mqtt: {url: 'mqtt://h'}\nsinks: [{name: a, type: mqtt, url: 'mqtt://h', publish: {base_topic: copy}, states: true}]",
		"mqtt: {url: 'mqtt://h', client_id: x}\nsinks: [{name: a, type: mqtt, url: 'mqtt://g', client_id: x, states: true}]",
	} {
		if _, err := Load(testkit.Write(t, filepath.Join(t.TempDir(), "c.yaml"), text), nil, t.TempDir()); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// standIn is a broker that keeps the numbers of the events that it gets.
type standIn struct {
	l       net.Listener
	answers <-chan struct{} // it acknowledges nothing before this is closed

	mu  sync.Mutex
	got []int
}

func newStandIn(t *testing.T, address string, answers <-chan struct{}) *standIn {
	t.Helper()
	l, err := net.Listen("tcp", address)
	testkit.OK(t, err)
	s := &standIn{l: l, answers: answers}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer context.AfterFunc(ctx, func() { _ = c.Close() })()
				s.serve(ctx, c)
				_ = c.Close()
			})
		}
	})
	t.Cleanup(func() { cancel(); _ = l.Close(); wg.Wait() })
	return s
}

func (s *standIn) serve(ctx context.Context, c net.Conn) {
	reader := wire.NewReader(c, 1<<20)
	for {
		header, body, err := reader.Next()
		if err != nil {
			return
		}
		switch wire.Type(header >> 4) {
		case wire.CONNECT:
			_, _ = c.Write([]byte{0x20, 2, 0, 0})
		case wire.PINGREQ:
			_, _ = c.Write([]byte{0xD0, 0})
		case wire.PUBLISH:
			var p wire.Publish
			if wire.DecodePublish(&p, wire.V311, header, body, "") != nil {
				return
			}
			select {
			case <-s.answers:
			case <-ctx.Done():
				return
			}
			var n int
			if _, number, found := strings.Cut(string(p.Payload), `"n":`); found {
				_, _ = fmt.Sscanf(number, "%d", &n)
				s.mu.Lock()
				s.got = append(s.got, n)
				s.mu.Unlock()
			}
			_, _ = c.Write(wire.AppendAck(nil, wire.V311, wire.PUBACK, wire.Ack{PacketID: p.PacketID}))
		}
	}
}

// inOrder returns how many numbers came, each counted where it came first, or
// -1 if one is missing.
func (s *standIn) inOrder() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := 0
	for _, n := range s.got {
		if n > last+1 {
			return -1
		}
		last = max(last, n)
	}
	return last
}

// TestOneSinkIsAwayAndOneIsSlow: the third is not held up, what waits takes disk
// and no memory, and each of the others gets all of it in the end, in order.
func TestOneSinkIsAwayAndOneIsSlow(t *testing.T) {
	const n = 5000
	released := make(chan struct{})
	release := sync.OnceFunc(func() { close(released) })
	defer release()
	slow, away := newStandIn(t, "127.0.0.1:0", released), testkit.FreeAddress(t)
	yaml := plain + fmt.Sprintf(`
sinks:
  - {name: slow, type: mqtt, url: "mqtt://%s", in_flight: 16, timeout: 1h}
  - {name: away, type: mqtt, url: "mqtt://%s"}
`, slow.l.Addr(), away)
	h := newRig(t, yaml)
	lag := func(name string) uint64 { return h.now.part("sink " + name).lag() }
	memory := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := memory()
	filler := strings.Repeat("x", 4000)
	for i := range n {
		_, err := output{b: h.Bridge, source: "hooks"}.Emit(t.Context(), event.Event{Name: "E", Payload: fmt.Appendf(nil, `{"n":%d,"x":%q}`, i+1, filler)})
		testkit.OK(t, err)
	}
	testkit.Eventually(t, "the main sink has all", func() bool { return lag("mqtt") == 0 })
	if lag("slow") < n || lag("away") < n {
		t.Errorf("slow lacks %d, away %d", lag("slow"), lag("away"))
	}
	if grown := memory() - before; grown > 16<<20 { // 20 MB wait, twice
		t.Errorf("the heap has grown by %d KiB", grown>>10)
	} else {
		t.Logf("the heap has grown by %d KiB", grown>>10)
	}
	release()
	back := newStandIn(t, away, released)
	for name, s := range map[string]*standIn{"slow": slow, "away": back} {
		testkit.Eventually(t, name+" gets all", func() bool { return s.inOrder() == n && lag(name) == 0 })
	}
}
