package bridge

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"event2mqtt/internal/event"
	"event2mqtt/internal/refused"
	"event2mqtt/internal/sinks"
	"event2mqtt/internal/testkit"
)

// TestHistoryIsReadInPages, the newest first, without one twice or none, over
// several segments, with and without a search.
func TestHistoryIsReadInPages(t *testing.T) {
	h := newAPIRig(t, "journal: {sync: never, max_size: 8MiB}\n"+plain)
	const n = 6000
	events := make([]event.Event, 0, 100)
	for i := range n {
		name := "Even"
		if i%2 == 1 {
			name = "Odd"
		}
		events = append(events, event.Event{Name: name, Time: time.Now(), Payload: []byte(fmt.Sprintf(`{"n":%d,"text":"Caf\u00e9 %0512d"}`, i, 0))})
		if len(events) == cap(events) {
			if _, err := h.ofHooks().Emit(t.Context(), events...); err != nil {
				t.Fatal(err)
			}
			events = events[:0]
		}
	}
	if got := len(h.journal.Segments()); got < 3 {
		t.Fatalf("there are %d segments", got)
	}
	for query, want := range map[string]int{"": n, "&q=odd": n / 2, "&event=Even&from=1h": n / 2, "&q=source:hooks+event:ODD&topic=%2B/event/%23": n / 2, "&q=nothing+like+it": 0} {
		var seen []uint64
		next := ""
		for pages := 0; ; pages++ {
			var page struct {
				Events []toldItem
				Next   *uint64
				Found  int
				Whole  bool
			}
			h.get("/events?limit=500"+query+next, &page)
			if pages == 0 && page.Whole && page.Found != want && query != "" {
				t.Errorf("%s: %d found, want %d", query, page.Found, want)
			}
			for _, e := range page.Events {
				if len(seen) > 0 && *e.Seq >= seen[len(seen)-1] {
					t.Fatalf("%s: %d comes after %d", query, *e.Seq, seen[len(seen)-1])
				}
				seen = append(seen, *e.Seq)
			}
			if page.Next == nil {
				break
			}
			if next = fmt.Sprintf("&before=%d", *page.Next); pages > 100 {
				t.Fatalf("%s: there is no end", query)
			}
		}
		if extra := len(seen) - want; extra < 0 || extra > 10 || query != "" && extra != 0 { // the rig has sent one
			t.Errorf("%s: %d events, want %d", query, len(seen), want)
		}
	}
	var page struct {
		Events []toldItem
		Found  int
	}
	if h.get("/events?to=1h", &page); page.Found != 0 {
		t.Errorf("before it began there were %d", page.Found)
	}
	if h.get("/events?limit=1", &page); len(page.Events) != 1 || page.Found > n/2 {
		t.Errorf("the newest event is found, and %d are counted", page.Found)
	}
}

// TestTopicsAreReadLevelByLevel, also where there are more than fit one answer.
func TestTopicsAreReadLevelByLevel(t *testing.T) {
	h := newAPIRig(t, plain)
	for i := range 2500 {
		if _, err := h.now.broker.Publish(t.Context(), sinks.Outgoing{Topic: fmt.Sprintf("plant/%02d/%04d", i%25, i), Payload: []byte("1"), Retain: true}); err != nil {
			t.Fatal(err)
		}
	}
	h.want(200, "GET", "/topics?prefix=plant/", "", `"left_out":true`)
	h.want(200, "GET", "/topics?depth=1&q=plant", "", `"left_out":false,"levels":[{"level":"plant","below":2500}],"topics":[]`)
	h.want(200, "GET", "/topics?depth=1&prefix=plant/", "", `"left_out":false,"levels":[{"level":"plant/00","below":100},`, `{"level":"plant/24","below":100}],"topics":[]`)
	var page struct{ Topics, Levels []struct{} }
	if h.get("/topics?depth=1&prefix=plant/07/", &page); len(page.Topics) != 100 || len(page.Levels) != 0 {
		t.Errorf("%d topics, and %d levels", len(page.Topics), len(page.Levels))
	}
}

// TestAPageOf50000EventsIsFast: the first page of a large history, and the state
// with its newest events.
func TestAPageOf50000EventsIsFast(t *testing.T) {
	h := newAPIRig(t, "journal: {sync: never}\n"+plain)
	events := make([]event.Event, 500)
	for i := range events {
		events[i] = event.Event{Name: "E", Payload: []byte(`{"n":1,"text":"bracket_v7_0.2mm_PETG_MK4.gcode","origin":"local","size":8123311}`)}
	}
	for range 100 {
		if _, err := h.ofHooks().Emit(t.Context(), events...); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{"/state", "/events?limit=100", "/events?limit=100&q=petg"} {
		best := time.Hour
		for range 3 {
			began := time.Now()
			h.want(200, "GET", path, "")
			best = min(best, time.Since(began))
		}
		t.Logf("%s: %s", path, best)
		if best > time.Second {
			t.Errorf("%s takes %s", path, best)
		}
	}
}

// TestAReplayIsCountedMarkedAndBounded.
func TestAReplayIsCountedMarkedAndBounded(t *testing.T) {
	h := newAPIRig(t, "rules: [{match: A, drop: true, when: \"'again' in payload\"}]\n"+plain)
	f := h.stream("/stream")
	h.sync(f)
	for range 3 {
		h.send("A")
	}
	first := f.until(func(one toldItem) bool { return one.Event == "A" })
	h.want(200, "POST", "/replay", `{"event":"A","dry_run":true,"rate":1000}`, `"count":3`, `"rate":1000`, `"seconds":1`)
	h.want(202, "POST", "/replay", fmt.Sprintf(`{"seqs":[%d,%d,999999],"rate":1000}`, *first.Seq, *first.Seq), `"count":1`)
	again := f.until(func(one toldItem) bool {
		var payload struct {
			From string `json:"_replayed_from"`
		}
		return one.Type == "event" && json.Unmarshal(one.Payload, &payload) == nil && payload.From == first.ID
	})
	if again.Event != "A" || again.Source != first.Source || again.Topic != first.Topic || *again.Seq <= *first.Seq {
		t.Errorf("%+v", again)
	}
	testkit.Eventually(t, "it is over", func() bool {
		_, text := h.call("GET", "/replay", "")
		return string(text) == "{\"replay\":null}\n"
	})
	h.want(422, "POST", "/replay", `{"event":"nothing"}`, "no stored event fits")
	events := make([]event.Event, 1000)
	for i := range events {
		events[i] = event.Event{Name: "Many"}
	}
	for range 11 {
		if _, err := h.ofHooks().Emit(t.Context(), events...); err != nil {
			t.Fatal(err)
		}
	}
	h.want(422, "POST", "/replay", `{"event":"Many"}`, "at most 10000")
	// Each second one, and some that are far away or do not exist. The journal is
	// read about once for them, not once for each.
	var seqs []uint64
	last := h.journal.Stats().Last
	for seq := last%2 + 2; seq <= last; seq += 2 {
		seqs = append(seqs, seq)
	}
	stored := len(seqs)
	seqs = append(seqs, 0, last+1, 1<<60, math.MaxUint64)
	slices.Reverse(seqs)
	quickest := func(body, says string) time.Duration {
		best := time.Hour
		for range 3 {
			began := time.Now()
			h.want(200, "POST", "/replay", body, says)
			best = min(best, time.Since(began))
		}
		return best
	}
	once := quickest(`{"event":"A","dry_run":true}`, `"count":`)
	chosen := quickest(`{"dry_run":true,"seqs":`+strings.ReplaceAll(fmt.Sprint(seqs), " ", ",")+`}`, fmt.Sprintf(`"count":%d,`, stored))
	if t.Logf("all are read in %s, %d are chosen in %s", once, stored, chosen); chosen > 20*once {
		t.Errorf("to choose %d events took %s; to read all takes %s", stored, chosen, once)
	}
	h.want(202, "POST", "/replay", `{"event":"A","rate":1}`, `"seconds":4`)
	if h.api.Close(); h.api.Streams() > 1 {
		t.Error("streams are left")
	}
}

// TestHistoryTellsWhyAnEventWasRejected, by the main sink's broker alone.
func TestHistoryTellsWhyAnEventWasRejected(t *testing.T) {
	h := newAPIRig(t, plain)
	h.send("One")
	h.send("Two")
	for seq, sink := range map[uint64]string{1: mainSink, 2: "other"} {
		testkit.OK(t, h.refused.Keep(refused.Event{ID: h.journal.ID(seq), Sink: sink, Reason: "it is larger than " + sink + " takes", Name: "X", Source: "hooks", Time: time.Now(), Payload: []byte(`{}`)}))
	}
	testkit.Eventually(t, "both are delivered", func() bool { return (program{Bridge: h.Bridge}).Acked() >= 2 })
	_, text := h.call("GET", "/events?limit=10", "")
	for _, want := range []string{`"fate":{"state":"refused","why":"it is larger than mqtt takes"}`, `"fate":{"state":"delivered"}`} {
		if !strings.Contains(string(text), want) {
			t.Errorf("%s is not in %s", want, text)
		}
	}
}
