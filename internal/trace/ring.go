package trace

import (
	"sync"
	"sync/atomic"
	"time"

	"event2mqtt/internal/event"
)

// Bounds of what is kept while somebody looks, for all watches together.
const (
	maxRecords = 4096
	maxBytes   = 1 << 20 // of texts
)

// Ring takes records and hands them to those who watch. The zero value is ready
// for use, and nil is a ring that nobody ever watches. It is safe for
// concurrent use.
type Ring struct {
	// live is what is recorded to, nil while nobody looks.
	live atomic.Pointer[tape]

	mu      sync.Mutex // guards what follows; taken before tape.mu
	last    uint64     // number of the newest record of the tapes before
	watches int
}

// tape holds the newest records, as long as there are watches.
type tape struct {
	mu      sync.Mutex // guards all
	records []slot     // of maxRecords; a record is at its number modulo that
	first   uint64     // number of the oldest record
	next    uint64     // number of the next
	bytes   int
	watches map[*Watch]struct{}
}

type slot struct {
	Record
	bytes int
}

// Watched reports whether somebody looks. Who has to do something to make a
// record, such as to read the clock, asks first.
func (r *Ring) Watched() bool { return r != nil && r.live.Load() != nil }

// Add takes records, in their order.
func (r *Ring) Add(records ...Record) {
	if r == nil {
		return
	}
	if t := r.live.Load(); t != nil {
		t.add(records)
	}
}

// Published is for a sink: its destination has acknowledged an event, whose
// number in the journal is seq, at a topic. took is how long that was after the
// event was sent, 0 if the sink does not know; it needs to know only while the
// ring is Watched. A sink calls it once for each event that it acknowledges to
// its cursor.
func (r *Ring) Published(sink string, seq uint64, e *event.Event, topic string, took time.Duration) {
	if r.Watched() {
		r.Add(Record{
			Verdict: Published, Sink: sink, Seq: seq, Source: e.Source, Event: e.Name, Topic: topic,
			TookMS: float64(took.Microseconds()) / 1000,
		})
	}
}

// Skipped is for a sink: it acknowledges an event to its cursor though the
// destination did not take it. topic may be empty, where none could be made.
// reason is for people.
func (r *Ring) Skipped(sink string, seq uint64, e *event.Event, topic, reason string) {
	if r.Watched() {
		r.Add(Record{Verdict: Skipped, Sink: sink, Seq: seq, Source: e.Source, Event: e.Name, Topic: topic, Reason: reason})
	}
}

// Watch begins to look. It first sees what is there because of other watches.
// Close it.
func (r *Ring) Watch() *Watch {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.live.Load()
	if t == nil {
		t = &tape{records: make([]slot, maxRecords), first: r.last + 1, next: r.last + 1, watches: map[*Watch]struct{}{}}
	}
	w := &Watch{ring: r, tape: t, changed: make(chan struct{}, 1)}
	t.mu.Lock()
	w.next = t.first
	w.wake()
	t.watches[w] = struct{}{}
	t.mu.Unlock()
	r.watches++
	r.live.Store(t) // from here on there are records
	return w
}

func (t *tape) add(records []Record) {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range records {
		bytes := r.bound()
		for t.next-t.first == maxRecords || t.bytes+bytes > maxBytes {
			old := &t.records[t.first%maxRecords]
			t.bytes -= old.bytes
			*old = slot{}
			t.first++
		}
		if r.Number = t.next; r.Time.IsZero() {
			r.Time = now
		}
		t.records[t.next%maxRecords] = slot{r, bytes}
		t.bytes += bytes
		t.next++
	}
	for w := range t.watches {
		w.wake()
	}
}

// Watch reads a Ring's records. It has one user at a time, holds no records of
// its own, and slows nobody down: who reads too slowly loses the oldest.
type Watch struct {
	ring    *Ring
	tape    *tape
	changed chan struct{} // cap 1
	next    uint64        // number of the record to read
}

// Changed receives when Take may have something to return.
func (w *Watch) Changed() <-chan struct{} { return w.changed }

// Take returns the oldest records that it has not returned yet, at most most
// of them, and how many were lost before these because they were not taken in
// time. If there are more, Changed receives again.
func (w *Watch) Take(most int) (records []Record, lost uint64) {
	t := w.tape
	t.mu.Lock()
	defer t.mu.Unlock()
	if w.next < t.first {
		lost = t.first - w.next
		w.next = t.first
	}
	if n := min(uint64(max(most, 0)), t.next-w.next); n > 0 {
		records = make([]Record, 0, n)
		for ; n > 0; n-- {
			records = append(records, t.records[w.next%maxRecords].Record)
			w.next++
		}
	}
	if w.next < t.next {
		w.wake()
	}
	return records, lost
}

func (w *Watch) wake() {
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// Close ends the watch. The last one to be closed ends the recording.
func (w *Watch) Close() {
	r, t := w.ring, w.tape
	r.mu.Lock()
	defer r.mu.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, open := t.watches[w]; !open {
		return
	}
	delete(t.watches, w)
	if r.watches--; r.watches == 0 {
		r.last = t.next - 1
		r.live.Store(nil)
	}
}
