package bridge

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"event2mqtt/internal/api"
	"event2mqtt/internal/event"
	"event2mqtt/internal/sinks"
	"event2mqtt/internal/testkit"
	"event2mqtt/test/mqttest"
)

// ofHooks is what a webhook delivers to.
func (h *apiRig) ofHooks() output { return output{b: h.Bridge, source: "hooks"} }

// TestAStreamTellsAllInOrder: at 2,000 events a second a stream and a subscriber
// get the same, and none is left out.
func TestAStreamTellsAllInOrder(t *testing.T) {
	h := newAPIRig(t, plain)
	subscriber, err := mqttest.Dial(h.mqtt, mqttest.Options{ID: "subscriber"})
	if err != nil {
		t.Fatal(err)
	}
	defer subscriber.Close()
	_ = subscriber.SetDeadline(time.Now().Add(time.Minute))
	if _, err := subscriber.Subscribe("event2mqtt/event/#", 1); err != nil {
		t.Fatal(err)
	}
	f := h.stream("/stream?event=E*")
	defer f.close()
	const n, rate = 4000, 2000
	sent := make(chan error, 1)
	go func() {
		tick := time.NewTicker(time.Second / rate)
		defer tick.Stop()
		for i := range n {
			<-tick.C
			if _, err := h.ofHooks().Emit(t.Context(), event.Event{Name: fmt.Sprint("E", i), Payload: []byte(`{"n":1}`)}); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	fates := 0
	seen := 0
	for seen < n || fates < n {
		switch one := f.item(); one.Type {
		case "event":
			m, err := subscriber.Next()
			for err == nil && m.Topic == "event2mqtt/event/X" { // the rig has sent it
				m, err = subscriber.Next()
			}
			if err != nil {
				t.Fatal(err)
			}
			if want := fmt.Sprint("E", seen); one.Event != want || m.Topic != "event2mqtt/event/"+want || one.Topic != m.Topic {
				t.Fatalf("the stream tells %s, the subscriber got %s; want %s", one.Event, m.Topic, want)
			}
			seen++
		case "fate":
			if one.Fate.State == "delivered" && strings.HasPrefix(one.ID, h.journal.ID(1)[:3]) {
				fates++
			}
		default:
			t.Fatalf("%+v", one)
		}
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
}

// TestAStreamTellsWhyAnEventDoesNotComeOut: which rule, at which line, and what
// the event was.
func TestAStreamTellsWhyAnEventDoesNotComeOut(t *testing.T) {
	h := newAPIRig(t, withAPI)
	f := h.stream("/stream")
	h.sync(f)
	next := func(name string) toldItem {
		t.Helper()
		return f.until(func(one toldItem) bool { return one.Type == "event" && one.Event == name })
	}
	h.send("ClientOpened")
	if one := next("ClientOpened"); one.Fate.State != "dropped" || one.Fate.Rule == nil || one.Fate.Rule.N != 1 || one.Fate.Rule.Line != 9 || one.Fate.Rule.Name != "web clients" || one.Seq != nil || !strings.Contains(string(one.Payload), "ClientOpened") {
		t.Errorf("%+v", one)
	}
	h.send("Same")
	h.send("Same")
	next("Same")
	if one := next("Same"); one.Fate.State != "dropped" || one.Fate.Rule.Kind != "dedupe" {
		t.Errorf("%+v", one)
	}
	h.send("Edit")
	if one := next("Edit"); string(one.CameIn) != "{}" || !strings.Contains(string(one.Payload), "cellar") || one.Fate.State != "waiting" {
		t.Errorf("%+v: %s, %s", one, one.CameIn, one.Payload)
	}
	h.send("Z")
	next("Z")
	h.send("Z")
	held := next("Z")
	if held.Fate.State != "held" || held.Fate.Rule.Kind != "min_interval" {
		t.Errorf("%+v", held)
	}
	h.send("Z")
	newer := next("Z")
	if gone := f.until(func(one toldItem) bool { return one.Type == "fate" && one.ID == held.ID }); gone.Fate.State != "dropped" || !strings.Contains(gone.Fate.Why, "newer") {
		t.Errorf("%+v", gone)
	}
	if o := h.reload(strings.Replace(withAPI, "  - {match: Z, min_interval: 1h}\n", "", 1)); !o.OK {
		t.Fatal(o)
	}
	if sent := f.until(func(one toldItem) bool { return one.Type == "fate" && one.ID == newer.ID }); sent.Fate.State != "held" || !strings.Contains(sent.Fate.Why, "sent as event") {
		t.Errorf("%+v", sent)
	}
	if r, err := http.Post("http://"+h.http+"/hooks/hooks/bad", "application/json", strings.NewReader(`{"deep":`+strings.Repeat("[", 100)+strings.Repeat("]", 100)+`}`)); err != nil || r.StatusCode < 400 {
		t.Fatal(r, err)
	}
	if _, err := h.ofHooks().Emit(t.Context(), event.Event{Name: "Bad", Payload: []byte("{bad")}); err == nil {
		t.Fatal("it was accepted")
	}
	if one := next("Bad"); one.Fate.State != "refused" || string(one.Payload) != `"{bad"` || !strings.Contains(one.Fate.Why, "not JSON") {
		t.Errorf("%+v: %s", one, one.Payload)
	}
}

// TestAStreamGoesOnWhereItEnded: by since and by Last-Event-ID, without a double.
func TestAStreamGoesOnWhereItEnded(t *testing.T) {
	h := newAPIRig(t, plain)
	for i := range 5 {
		h.send(fmt.Sprint("E", i))
	}
	first := *h.stream("/stream?since=all").until(func(one toldItem) bool { return one.Event == "E1" }).Seq
	events := func(f *feed) (names []string) {
		for {
			line, ok := f.line()
			if !ok {
				return names
			}
			var one toldItem
			if json.Unmarshal([]byte(line), &one) == nil && one.Type == "event" && strings.HasPrefix(one.Event, "E") {
				names = append(names, one.Event)
			}
		}
	}
	const want = "[E2 E3 E4]"
	if got := events(h.stream(fmt.Sprintf("/stream?poll=1&since=%d", first))); fmt.Sprint(got) != want {
		t.Errorf("since: %v", got)
	}
	if got := events(h.stream("/stream?poll=1&since=1", "Last-Event-ID", fmt.Sprint(first))); fmt.Sprint(got) != want {
		t.Errorf("Last-Event-ID: %v", got)
	}
	if got := events(h.stream("/stream?poll=1&since=1h")); len(got) != 5 {
		t.Errorf("since 1h: %v", got)
	}
	if got := events(h.stream("/stream?since=all&event=E*&count=2")); fmt.Sprint(got) != "[E0 E1]" {
		t.Errorf("count: %v", got)
	}
	if got := events(h.stream("/stream?poll=1&since=all&topic=event2mqtt/event/E3")); fmt.Sprint(got) != "[E3]" {
		t.Errorf("topic: %v", got)
	}
	if got := events(h.stream("/stream?poll=1&since=all&q=source:HOOKS+e4")); fmt.Sprint(got) != "[E4]" {
		t.Errorf("q: %v", got)
	}
	var page struct{ Events []toldItem }
	h.get(fmt.Sprintf("/events?after=%d&limit=2", first), &page)
	if len(page.Events) != 2 || page.Events[0].Event != "E3" || page.Events[1].Event != "E2" {
		t.Errorf("polling: %+v", page)
	}
}

// TestServerSentEvents have the whole state first, an id to go on from, and
// changes of the state later.
func TestServerSentEvents(t *testing.T) {
	h := newAPIRig(t, plain)
	f := h.stream("/stream", "Accept", "text/event-stream")
	var kind string
	next := func() (string, string) {
		for {
			line, ok := f.line()
			if !ok {
				t.Fatal("the stream has ended")
			}
			if name, ok := strings.CutPrefix(line, "event: "); ok {
				kind = name
			}
			if data, ok := strings.CutPrefix(line, "data: "); ok {
				return kind, data
			}
		}
	}
	kind, data := next()
	if kind != "state" || !strings.Contains(data, `"version"`) || strings.Contains(data, `"latest"`) {
		t.Fatalf("%s %s", kind, data)
	}
	described().validate(t, "#/components/schemas/StateChange", []byte(data))
	h.send("A")
	changed := false
	for seen := false; !seen || !changed; {
		kind, data = next()
		switch kind {
		case "items":
			var items []toldItem
			if err := json.Unmarshal([]byte(data), &items); err != nil {
				t.Fatal(err, data)
			}
			seen = seen || slices.ContainsFunc(items, func(one toldItem) bool { return one.Event == "A" }) // one before it may be in the same frame
			if line, _ := f.line(); !strings.HasPrefix(line, "id: ") {
				t.Errorf("after the items: %q", line)
			}
		case "state":
			described().validate(t, "#/components/schemas/StateChange", []byte(data))
			changed = changed || strings.Contains(data, `"rate"`) && !strings.Contains(data, `"version"`)
		}
	}
}

// TestAnEventIsToldWithin200Milliseconds, which people take for at once.
func TestAnEventIsToldWithin200Milliseconds(t *testing.T) {
	h := newAPIRig(t, plain)
	f := h.stream("/stream")
	h.sync(f)
	best := time.Hour
	for range 10 { // of a busy machine, the best
		began := time.Now()
		h.send("A")
		f.until(func(one toldItem) bool { return one.Event == "A" })
		best = min(best, time.Since(began))
	}
	if best > 200*time.Millisecond {
		t.Errorf("it took %s", best)
	}
}

// TestStreamsEndAtOnceWhenTheProgramEnds.
func TestStreamsEndAtOnceWhenTheProgramEnds(t *testing.T) {
	h := newAPIRig(t, strings.Replace(plain, "sources:", "shutdown_timeout: 1h\nsources:", 1))
	streams := []*feed{h.stream("/stream"), h.stream("/stream", "Accept", "text/event-stream"), h.stream("/subscribe?topic=%23")}
	h.sync(streams[0])
	h.api.Close()
	for i, f := range streams {
		for ok := true; ok; {
			_, ok = f.line()
		}
		_ = i
	}
	if got, _ := h.call("GET", "/stream", ""); got != http.StatusServiceUnavailable {
		t.Errorf("afterwards: %d", got)
	}
}

// TestOpenStreamsDelayNoStop: the whole program ends while they are open.
func TestOpenStreamsDelayNoStop(t *testing.T) {
	var began time.Time
	t.Run("while it runs", func(t *testing.T) {
		h := newAPIRig(t, strings.Replace(plain, "sources:", "shutdown_timeout: 1h\nsources:", 1))
		f := h.stream("/stream")
		f2 := h.stream("/subscribe?topic=%23")
		h.sync(f)
		f2.item()
		began = time.Now()
	})
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("it took %s", took)
	}
}

// TestThereAreAtMost16Streams: more are told to come again, and other requests are
// answered.
func TestThereAreAtMost16Streams(t *testing.T) {
	h := newAPIRig(t, plain)
	var streams []*feed
	for range 15 {
		streams = append(streams, h.stream("/stream"))
	}
	streams = append(streams, h.stream("/subscribe?topic=x"))
	h.want(429, "GET", "/stream", "", "16 streams")
	h.want(200, "GET", "/state", "")
	streams[3].close()
	testkit.Eventually(t, "there is room", func() bool {
		got, _ := h.call("GET", "/stream?poll=1", "")
		return got == 200
	})
}

// TestPeersThatNeverReadCostLittle: ten of them, less than 1 MiB, and nobody else
// is slower or loses anything.
func TestPeersThatNeverReadCostLittle(t *testing.T) {
	h := newAPIRig(t, "journal: {sync: never}"+plain)
	f := h.stream("/stream?event=E*")
	next := 0
	emit := func(from, to int) {
		payload := []byte(`{"text":"` + strings.Repeat("x", 2000) + `"}`)
		for i := from; i < to; i++ {
			if _, err := h.ofHooks().Emit(t.Context(), event.Event{Name: fmt.Sprint("E", i), Payload: payload}); err != nil {
				t.Fatal(err)
			}
			if i%20 == 19 { // the reader is this goroutine
				f.until(func(one toldItem) bool {
					if one.LeftOut > 0 || one.Type == "event" && one.Event != fmt.Sprint("E", next) {
						t.Fatalf("the reader was told %+v, and waited for E%d", one, next)
					}
					if one.Type == "event" {
						next++
					}
					return next == i+1
				})
			}
		}
	}
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc + m.StackInuse
	}
	const n = 3000 // 6 MiB, so that the ring and the journal's memory are full
	emit(0, n)
	before := heap()
	for range 10 {
		c, err := net.Dial("tcp", h.http)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.(*net.TCPConn).SetReadBuffer(4096)
		if _, err := fmt.Fprintf(c, "GET /api/v1/stream HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
	}
	testkit.Eventually(t, "they are there", func() bool { return h.api.Streams() == 11 })
	emit(n, 2*n)
	after := heap()
	if cost := int64(after) - int64(before); cost > 1<<20 {
		t.Errorf("they cost %d KiB", cost>>10)
	} else {
		t.Logf("ten cost %d KiB", cost>>10)
	}
}

// TestASlowReaderIsToldOfTheGap, and goes on at the newest.
func TestASlowReaderIsToldOfTheGap(t *testing.T) {
	h := newAPIRig(t, "journal: {sync: never}"+plain)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+h.http+"/api/v1/stream", nil)
	answer, err := (&http.Client{Transport: &http.Transport{}}).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	payload := []byte(`{"text":"` + strings.Repeat("x", 8000) + `"}`)
	const n = 3000 // 24 MiB: more than sockets and the ring hold
	for i := range n {
		if _, err := h.ofHooks().Emit(t.Context(), event.Event{Name: fmt.Sprint("E", i), Payload: payload}); err != nil {
			t.Fatal(err)
		}
	}
	f := &feed{t: t, body: answer.Body, lines: readLines(answer.Body)}
	lost, last := 0, -1
	for {
		one := f.item()
		if lost += one.LeftOut; one.Type == "event" {
			_, _ = fmt.Sscanf(one.Event, "E%d", &last)
		}
		if last == n-1 {
			break
		}
	}
	if lost == 0 {
		t.Error("it was told of no gap")
	}
}

// TestSubscribeGivesWhatIsRetainedAndWhatComes, all of a lot that is retained.
func TestSubscribeGivesWhatIsRetainedAndWhatComes(t *testing.T) {
	h := newAPIRig(t, plain)
	const n = 3000
	for i := range n {
		if _, err := h.now.broker.Publish(t.Context(), sinks.Outgoing{Topic: fmt.Sprintf("r/%04d", i), Payload: fmt.Appendf(nil, `{"n":%d}`, i), Retain: true}); err != nil {
			t.Fatal(err)
		}
	}
	f := h.stream("/subscribe?topic=r/%2B")
	seen := map[string]bool{}
	for len(seen) < n {
		if one := f.item(); one.Type == "message" {
			seen[one.Topic] = true
		} else if one.Type != "open" {
			t.Fatalf("%+v", one)
		}
	}
	h.want(202, "POST", "/publish/r/new", "hello")
	if one := f.item(); one.Topic != "r/new" || string(one.Payload) != `"hello"` {
		t.Errorf("%+v", one)
	}
}

// TestSubscribeWorksWithAnotherBroker: over a connection for it alone, and the
// stream ends with that.
func TestSubscribeWorksWithAnotherBroker(t *testing.T) {
	other := newRig(t, plain) // its broker is the other one
	h := newAPIRig(t, "mqtt: {url: 'mqtt://"+other.mqtt+"'}\n"+strings.Replace(plain, "broker: {listen: MQTT}\n", "", 1))
	for _, m := range []struct{ topic, payload string }{{"r/a", "1"}, {"r/b", "two"}} {
		if _, err := other.now.broker.Publish(t.Context(), sinks.Outgoing{Topic: m.topic, Payload: []byte(m.payload), Retain: true}); err != nil {
			t.Fatal(err)
		}
	}
	f := h.stream("/subscribe?topic=r/%2B")
	seen := map[string]string{}
	for len(seen) < 2 {
		if one := f.item(); one.Type == "message" {
			seen[one.Topic] = string(one.Payload)
		}
	}
	if seen["r/a"] != "1" || seen["r/b"] != `"two"` {
		t.Errorf("%v", seen)
	}
	h.want(200, "POST", "/publish/r/c?wait=30s", "new")
	if one := f.item(); one.Topic != "r/c" || string(one.Payload) != `"new"` {
		t.Errorf("%+v", one)
	}
	h.want(404, "GET", "/clients", "", "only the bundled one")
	var s api.State
	if h.get("/state", &s); s.Broker.Kind != "external" || s.Broker.Address != other.mqtt || s.Broker.State != "up" {
		t.Errorf("%+v", s.Broker)
	}
	for _, c := range other.now.broker.Clients() {
		other.now.broker.Kick(c.ID, "")
	}
	for ok := true; ok; {
		_, ok = f.line()
	}
}
