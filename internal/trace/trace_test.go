package trace_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"event2mqtt/internal/event"
	"event2mqtt/internal/trace"
)

var stored = trace.Record{Verdict: trace.Stored, Event: "PrintDone", Source: "printer", Seq: 1}

// drain takes all that a watch has to return, as names, with how many it lost.
func drain(w *trace.Watch) (names []string, lost uint64) {
	for {
		records, n := w.Take(100)
		lost += n
		for _, r := range records {
			names = append(names, r.Event)
		}
		if len(records) == 0 {
			return names, lost
		}
	}
}

// TestNothingIsDoneWhileNobodyLooks: nothing is allocated, and nothing of that
// time is seen later. That nothing is locked, BenchmarkUnwatched shows.
func TestNothingIsDoneWhileNobodyLooks(t *testing.T) {
	for name, ring := range map[string]*trace.Ring{"ring": {}, "nil": nil} {
		if n := testing.AllocsPerRun(100, func() { unwatched(ring) }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
	ring := &trace.Ring{}
	unwatched(ring)
	w := ring.Watch(trace.Filter{})
	defer w.Close()
	if names, lost := drain(w); len(names) > 0 || lost > 0 {
		t.Errorf("got %v, %d lost", names, lost)
	}
}

// unwatched does what is done for one event on its way.
func unwatched(ring *trace.Ring) {
	if ring.Watched() || ring.Newest(1, trace.Filter{}) != nil {
		panic("nobody looks")
	}
	ring.Add(stored)
}

// TestRecordingBeginsWithTheFirstWatchAndEndsWithTheLast, and numbers go on.
func TestRecordingBeginsWithTheFirstWatchAndEndsWithTheLast(t *testing.T) {
	var ring trace.Ring
	add := func(name string) { ring.Add(trace.Record{Verdict: trace.Stored, Event: name}) }
	add("before")
	one := ring.Watch(trace.Filter{})
	add("A")
	two := ring.Watch(trace.Filter{}) // sees what is recent
	add("B")
	for i, w := range []*trace.Watch{one, two} {
		<-w.Changed()
		if names, lost := drain(w); fmt.Sprint(names) != "[A B]" || lost != 0 {
			t.Errorf("watch %d got %v, %d lost", i, names, lost)
		}
	}
	one.Close()
	one.Close() // counts once
	if !ring.Watched() {
		t.Fatal("one watch is open still")
	}
	two.Close()
	if ring.Watched() {
		t.Fatal("no watch is open")
	}
	add("nobody sees this")
	three := ring.Watch(trace.Filter{})
	defer three.Close()
	<-three.Changed() // so that nobody waits for what is there
	add("C")
	<-three.Changed()
	records, lost := three.Take(10)
	if len(records) != 1 || records[0].Event != "C" || records[0].Number != 3 || records[0].Time.IsZero() || lost != 0 {
		t.Errorf("got %+v, %d lost", records, lost)
	}
}

// TestASlowWatchLosesTheOldestAndIsToldHowMany, and who is fast does not.
func TestASlowWatchLosesTheOldestAndIsToldHowMany(t *testing.T) {
	var ring trace.Ring
	slow, fast := ring.Watch(trace.Filter{}), ring.Watch(trace.Filter{})
	defer slow.Close()
	defer fast.Close()
	const n = 10_000
	seen := 0
	for i := range n {
		ring.Add(trace.Record{Event: fmt.Sprint(i)})
		if i%1000 == 999 {
			names, lost := drain(fast)
			if seen += len(names); lost > 0 {
				t.Fatalf("the fast one lost %d", lost)
			}
		}
	}
	if seen != n {
		t.Errorf("the fast one got %d", seen)
	}
	names, lost := drain(slow)
	if len(names) == 0 || uint64(len(names))+lost != n || names[0] != fmt.Sprint(lost) || names[len(names)-1] != fmt.Sprint(n-1) {
		t.Errorf("the slow one got %d, %d lost", len(names), lost)
	}
}

// TestRecordsAreBounded: each text, and all of them together.
func TestRecordsAreBounded(t *testing.T) {
	var ring trace.Ring
	w := ring.Watch(trace.Filter{})
	defer w.Close()
	long := strings.Repeat("ü", 30<<10) // 60 KiB
	rule := &trace.Rule{Name: "r", File: "/" + long}
	for range 2000 {
		ring.Add(trace.Record{Event: long, Source: long, Offered: "x" + long, Sink: long, Topic: long, Reason: "\xff" + long, Rule: rule})
	}
	sum, n := 0, 0
	for {
		records, _ := w.Take(1000)
		if len(records) == 0 {
			break
		}
		for _, r := range records {
			n++
			for _, text := range []string{r.Event, r.Source, r.Offered, r.Sink, r.Topic, r.Reason, r.Rule.File} {
				if sum += len(text); len(text) > trace.MaxText || !utf8.ValidString(text) || !strings.HasSuffix(text, "ü…") {
					t.Fatalf("got %d bytes: %q", len(text), text)
				}
			}
		}
	}
	if n == 0 || sum > 2<<20 {
		t.Errorf("%d records with %d bytes", n, sum)
	}
	if rule.File != "/"+long {
		t.Error("the rule of the caller was changed")
	}
	exact := strings.Repeat("x", event.MaxName)
	ring.Add(trace.Record{Event: exact})
	if records, _ := w.Take(1); len(records) != 1 || records[0].Event != exact {
		t.Error("the longest name that there may be is cut")
	}
}

// TestTheNamesInJSONStay: programs read them.
func TestTheNamesInJSONStay(t *testing.T) {
	var ring trace.Ring
	w := ring.Watch(trace.Filter{})
	defer w.Close()
	at := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	ring.Add(
		trace.Record{Time: at, Verdict: trace.Refused, Source: "s", Event: "\xff", Reason: "why", Retry: true},
		trace.Record{Time: at, Verdict: trace.Stored, Source: "s", Event: "B", Offered: "A", Seq: 7, Rule: &trace.Rule{Index: 2, Name: "n", File: "f.yaml", Line: 9}},
	)
	ring.Add(
		trace.Record{Time: at, Verdict: trace.Delivered, Source: "s", Event: "B", Seq: 7, Sink: "mqtt", Topic: "t/B", TookMS: 12.345},
		trace.Record{Time: at, Verdict: trace.Skipped, Source: "s", Event: "C", Seq: 8, Sink: "mqtt", Reason: "too large"},
	)
	records, _ := w.Take(10)
	got, err := json.MarshalIndent(records, "", "")
	if err != nil {
		t.Fatal(err)
	}
	const want = `[{"number":1,"time":"2026-11-25T12:00:00Z","verdict":"refused","source":"s","event":"?","reason":"why","retry":true},` +
		`{"number":2,"time":"2026-11-25T12:00:00Z","verdict":"stored","source":"s","event":"B","offered":"A","seq":7,"rule":{"index":2,"name":"n","file":"f.yaml","line":9}},` +
		`{"number":3,"time":"2026-11-25T12:00:00Z","verdict":"delivered","source":"s","event":"B","seq":7,"sink":"mqtt","topic":"t/B","took_ms":12.345},` +
		`{"number":4,"time":"2026-11-25T12:00:00Z","verdict":"skipped","source":"s","event":"C","seq":8,"sink":"mqtt","reason":"too large"}]`
	if text := strings.NewReplacer("\n", "", `": `, `":`).Replace(string(got)); text != want {
		t.Errorf("got  %s\nwant %s", text, want)
	}
	var back []trace.Record
	if err := json.Unmarshal(got, &back); err != nil || *back[1].Rule != *records[1].Rule || back[2].TookMS != records[2].TookMS {
		t.Errorf("read back: %+v, %v", back, err)
	}
}

// TestWatchesComeAndGoWhileEventsPass: each sees its records in order, without
// a gap that it is not told of.
func TestWatchesComeAndGoWhileEventsPass(t *testing.T) {
	var ring trace.Ring
	stop := make(chan struct{})
	var adding, watching sync.WaitGroup
	for range 2 {
		adding.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					ring.Add(stored)
				}
			}
		})
	}
	for range 4 {
		watching.Go(func() {
			for range 50 {
				w := ring.Watch(trace.Filter{})
				var last uint64
				for range 3 {
					<-w.Changed()
					records, lost := w.Take(1000)
					for _, r := range records {
						if last > 0 && r.Number != last+1+lost {
							t.Errorf("%d after %d, %d lost", r.Number, last, lost)
						}
						last, lost = r.Number, 0
					}
				}
				w.Close()
			}
		})
	}
	watching.Wait()
	close(stop)
	adding.Wait()
	if ring.Watched() {
		t.Error("nobody looks any more")
	}
}

// BenchmarkUnwatched is what tracing costs for one event while nobody looks. It
// must not grow with the number of processors at work.
func BenchmarkUnwatched(b *testing.B) {
	ring := &trace.Ring{}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			unwatched(ring)
		}
	})
}

func BenchmarkWatched(b *testing.B) {
	ring := &trace.Ring{}
	w := ring.Watch(trace.Filter{})
	defer w.Close()
	b.ReportAllocs()
	for b.Loop() {
		ring.Add(stored)
	}
}

// TestAFilterLetsThroughWhatItNames, and only such records count as lost.
func TestAFilterLetsThroughWhatItNames(t *testing.T) {
	records := []trace.Record{
		{Verdict: trace.Dropped, Source: "shed", Event: "ClientOpened"},
		{Verdict: trace.Stored, Source: "printer-1", Event: "Done", Offered: "PrintDone"},
		{Verdict: trace.Delivered, Source: "printer-1", Event: "Done", Sink: "mqtt"},
		{Verdict: trace.Delivered, Source: "printer-1", Event: "Done", Sink: "log"},
		{Verdict: trace.Skipped, Sink: "log", Seq: 9},
	}
	for _, c := range []struct {
		filter trace.Filter
		want   string // indexes
	}{
		{trace.Filter{}, "[0 1 2 3 4]"},
		{trace.Filter{Sources: []string{"printer-*"}}, "[1 2 3]"},
		{trace.Filter{Sources: []string{"shed", "printer-1"}}, "[0 1 2 3]"},
		{trace.Filter{Events: []string{"Print*"}}, "[1]"},
		{trace.Filter{Events: []string{"Done"}}, "[1 2 3]"},
		{trace.Filter{Events: []string{"[", "Client?pened"}}, "[0]"},
		{trace.Filter{Sinks: []string{"log"}}, "[0 1 3 4]"},
		{trace.Filter{Verdicts: []trace.Verdict{trace.Dropped, trace.Skipped}}, "[0 4]"},
		{trace.Filter{Verdicts: []trace.Verdict{trace.Delivered}, Sinks: []string{"mqtt"}}, "[2]"},
	} {
		var ring trace.Ring
		w := ring.Watch(c.filter)
		ring.Add(records...)
		indexes := func(records []trace.Record) string {
			got := []uint64{}
			for _, r := range records {
				got = append(got, r.Number-1)
			}
			return fmt.Sprint(got)
		}
		newest := ring.Newest(10, c.filter)
		taken, lost := w.Take(10)
		if indexes(newest) != c.want || indexes(taken) != c.want || lost != 0 {
			t.Errorf("%+v: newest %s, taken %s, want %s", c.filter, indexes(newest), indexes(taken), c.want)
		}
		// Now so much comes that all of these are lost, and nothing else fits.
		ring.Add(records...)
		other := trace.Record{Verdict: trace.Refused, Source: "other", Event: "Other", Sink: "other"}
		for range 5000 {
			ring.Add(other)
		}
		matches := uint64(len(taken))
		if _, lost = w.Take(0); len(c.filter.Sources)+len(c.filter.Events)+len(c.filter.Verdicts)+len(c.filter.Sinks) > 0 && lost != matches {
			t.Errorf("%+v: %d lost, want %d", c.filter, lost, matches)
		}
		w.Close()
	}
}

// TestNewestAreTheNewest, in their order, and none while nobody looks.
func TestNewestAreTheNewest(t *testing.T) {
	var ring trace.Ring
	w := ring.Watch(trace.Filter{Events: []string{"none"}})
	for i := range 5000 {
		ring.Add(trace.Record{Event: fmt.Sprint(i)})
	}
	if got := ring.Newest(2, trace.Filter{}); len(got) != 2 || got[0].Event != "4998" || got[1].Event != "4999" {
		t.Errorf("got %+v", got)
	}
	if got := ring.Newest(1<<30, trace.Filter{}); len(got) != 4096 {
		t.Errorf("got %d", len(got))
	}
	w.Close()
	if got := ring.Newest(2, trace.Filter{}); got != nil {
		t.Errorf("got %+v", got)
	}
}

// TestFiltersFromOutsideAreChecked, since each record is held against them.
func TestFiltersFromOutsideAreChecked(t *testing.T) {
	for want, f := range map[string]trace.Filter{
		"": {Sources: []string{"printer-*"}, Events: []string{"Print[DS]*", "?"}, Sinks: []string{"["}, Verdicts: []trace.Verdict{trace.Held, trace.Skipped}},
		"33 sinks are named; at most 32 are allowed":                           {Sinks: make([]string, 33)},
		"one of the sources has 513 bytes; at most 512 are allowed":            {Sources: []string{strings.Repeat("x", 513)}},
		`"Print[" is not a pattern of events; write for example Print*`:        {Events: []string{"A", "Print["}},
		`"eaten" is no verdict; there are [refused dropped repeated held repl`: {Verdicts: []trace.Verdict{trace.Held, "eaten"}},
	} {
		if err := f.Check(); (err == nil) != (want == "") || err != nil && !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}
