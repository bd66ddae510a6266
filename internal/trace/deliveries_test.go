package trace_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"event2mqtt/internal/event"
	"event2mqtt/internal/journal"
	"event2mqtt/internal/refused"
	"event2mqtt/internal/trace"
)

// sink is a sink of nothing: the test reads and acknowledges for it.
type sink struct {
	t      *testing.T
	j      *journal.Journal
	cursor *journal.Cursor
	told   *trace.Deliveries
	kept   error // of its keeper
}

func newSink(t *testing.T, ring *trace.Ring, wants func(string) bool) *sink {
	t.Helper()
	j, err := journal.Open(journal.Options{FS: journal.DirFS(t.TempDir()), MaxSize: 1 << 20, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	s := &sink{t: t, j: j}
	if s.cursor, err = j.Cursor("log"); err != nil {
		t.Fatal(err)
	}
	s.told = trace.NewDeliveries(ring, trace.DeliveriesOptions{Sink: "log", Keeper: s, ID: j.ID})
	if wants != nil {
		s.cursor.Filter(func(e *event.Event) bool { return wants(e.Name) })
	}
	s.told.Ask(s)
	s.cursor.Observe(s.told)
	return s
}

func (s *sink) Keep(refused.Event) error { return s.kept }

func (s *sink) Topic(e *journal.Entry) string { return "t/" + e.Name }

// store stores events with these names and has the sink read n events.
func (s *sink) store(n int, names ...string) {
	s.t.Helper()
	for _, name := range names {
		if _, err := s.j.Append(s.t.Context(), event.Event{Source: "s", Name: name, Payload: []byte("{}")}); err != nil {
			s.t.Fatal(err)
		}
	}
	s.read(n)
}

func (s *sink) read(n int) {
	s.t.Helper()
	for n > 0 {
		entries, err := s.cursor.Next(s.t.Context(), make([]journal.Entry, 0, n))
		if err != nil {
			s.t.Fatal(err)
		}
		n -= len(entries)
	}
}

// lines are the records that a watch has, in short.
func lines(w *trace.Watch) string {
	var out []string
	records, _ := w.Take(10_000)
	for _, r := range records {
		text := fmt.Sprintf("%d %s/%s %s by %s at %s", r.Seq, r.Source, r.Event, r.Verdict, r.Sink, r.Topic)
		if r.Reason != "" {
			text += ": " + r.Reason
		}
		out = append(out, text)
	}
	return strings.Join(out, "\n")
}

// TestWhatASinkAcknowledgesIsDelivered, each event once and in order, also
// after the sink had to read some again.
func TestWhatASinkAcknowledgesIsDelivered(t *testing.T) {
	var ring trace.Ring
	s := newSink(t, &ring, nil)
	w := ring.Watch(trace.Filter{})
	defer w.Close()
	s.store(4, "A", "B", "C", "D")
	if got := lines(w); got != "" {
		t.Errorf("before: %s", got)
	}
	s.cursor.Ack(2)
	s.cursor.Ack(1)
	s.cursor.Rewind()
	s.read(2)
	s.cursor.Ack(4)
	want := "1 s/A delivered by log at t/A\n2 s/B delivered by log at t/B\n3 s/C delivered by log at t/C\n4 s/D delivered by log at t/D"
	if got := lines(w); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestASinkIsNotToldToDeliverWhatItDoesNotWant.
func TestASinkIsNotToldToDeliverWhatItDoesNotWant(t *testing.T) {
	var ring trace.Ring
	s := newSink(t, &ring, func(name string) bool { return name == "B" })
	w := ring.Watch(trace.Filter{})
	defer w.Close()
	s.store(1, "A", "B", "C")
	s.cursor.Ack(2)
	if got, want := lines(w), "2 s/B delivered by log at t/B"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestWhatASinkSkipsIsNotDelivered: what it keeps as refused, with the reason,
// and what the journal gives up. What cannot be kept is not skipped.
func TestWhatASinkSkipsIsNotDelivered(t *testing.T) {
	var ring trace.Ring
	s := newSink(t, &ring, nil)
	w := ring.Watch(trace.Filter{})
	defer w.Close()
	s.store(3, "A", "B", "C")
	keep := func(seq uint64) error {
		return s.told.Keep(refused.Event{ID: s.j.ID(seq), Reason: "it is too large", Topic: "t/other"})
	}
	if err := keep(2); err != nil {
		t.Fatal(err)
	}
	if err := s.told.Keep(refused.Event{ID: "other-1", Reason: "another journal's"}); err != nil {
		t.Fatal(err)
	}
	s.kept = errors.New("disk full")
	if err := keep(3); !errors.Is(err, s.kept) {
		t.Errorf("got %v", err)
	}
	s.cursor.Ack(3)
	want := "1 s/A delivered by log at t/A\n2 s/B skipped by log at t/other: it is too large\n3 s/C delivered by log at t/C"
	if got := lines(w); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	s.store(1, "D", "E")
	s.told.Acked(5, journal.ErrDropped)
	want = "4 s/D skipped by log at t/D: " + journal.ErrDropped.Error() + "\n5 / skipped by log at : " + journal.ErrDropped.Error()
	if got := lines(w); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestWhatWasReadBeforeSomebodyLookedIsNotTold, since nobody remembers it; and
// what was read for an earlier watch is not told to a later one.
func TestWhatWasReadBeforeSomebodyLookedIsNotTold(t *testing.T) {
	var ring trace.Ring
	s := newSink(t, &ring, nil)
	s.store(1, "A")
	w := ring.Watch(trace.Filter{})
	s.store(1, "B")
	w.Close()
	w = ring.Watch(trace.Filter{})
	defer w.Close()
	s.cursor.Ack(2)
	s.store(1, "C")
	s.cursor.Ack(3)
	if got, want := lines(w), "3 s/C delivered by log at t/C"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestPendingDeliveriesAreBounded: a sink may read as much as it likes.
func TestPendingDeliveriesAreBounded(t *testing.T) {
	var ring trace.Ring
	d := trace.NewDeliveries(&ring, trace.DeliveriesOptions{Sink: "log"})
	w := ring.Watch(trace.Filter{})
	defer w.Close()
	for seq := range uint64(10_000) {
		d.Read([]journal.Entry{{Seq: seq + 1, Event: event.Event{Name: "A"}}})
	}
	d.Acked(10_000, nil)
	if records, _ := w.Take(1 << 20); len(records) == 0 || len(records) > 4096 || records[0].Seq != 1 {
		t.Errorf("got %d", len(records))
	}
}

// BenchmarkDeliveries is what the trace costs for one event at a sink.
func BenchmarkDeliveries(b *testing.B) {
	for name, watched := range map[string]bool{"unwatched": false, "watched": true} {
		b.Run(name, func(b *testing.B) {
			var ring trace.Ring
			if watched {
				defer ring.Watch(trace.Filter{}).Close()
			}
			d := trace.NewDeliveries(&ring, trace.DeliveriesOptions{Sink: "log"})
			entries := []journal.Entry{{Event: event.Event{Name: "PrintDone", Source: "printer"}}}
			b.ReportAllocs()
			for b.Loop() {
				entries[0].Seq++
				d.Read(entries)
				d.Acked(entries[0].Seq, nil)
			}
		})
	}
}
