package trace

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of what is kept while somebody looks, for all watches together.
const (
	maxRecords = 4096
	minRecords = 64
	maxBytes   = 1 << 20 // of texts and payloads
)

// Ring takes records and hands them to those who watch. The zero value is ready
// for use, and nil is a ring that nobody ever watches. It is safe for
// concurrent use.
type Ring struct {
	// live is what is recorded to, nil while nobody looks.
	live atomic.Pointer[tape]

	mu      sync.Mutex // guards what follows; taken before tape.mu
	last    uint64     // number of the newest record of the tapes before
	tapes   uint64     // how many there were
	watches int
}

// tape holds the newest records, as long as there are watches.
type tape struct {
	number  uint64     // from 1, of those of the ring
	mu      sync.Mutex // guards all that follows
	records []slot     // a record is at its number modulo their length, which grows up to maxRecords
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
func (r *Ring) Watched() bool { return r.recording() != 0 }

// Add takes records, in their order.
func (r *Ring) Add(records ...Record) {
	if r == nil {
		return
	}
	if t := r.live.Load(); t != nil {
		t.add(records)
	}
}

// recording returns the number of the tape that is recorded to, 0 while nobody
// looks.
func (r *Ring) recording() uint64 {
	if r == nil {
		return 0
	}
	if t := r.live.Load(); t != nil {
		return t.number
	}
	return 0
}

// Newest returns the newest records that a filter lets through, at most most of
// them, oldest first: none while nobody watches.
func (r *Ring) Newest(most int, f Filter) (records []Record) {
	if !r.Watched() {
		return nil
	}
	t := r.live.Load()
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for n := t.next; n > t.first && len(records) < most; n-- {
		if record := &t.at(n - 1).Record; f.lets(record) {
			records = append(records, *record)
		}
	}
	slices.Reverse(records)
	return records
}

// Watch begins to look at the records that a filter lets through. It first sees
// what is there because of other watches. Close it.
func (r *Ring) Watch(f Filter) *Watch {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.live.Load()
	if t == nil {
		r.tapes++
		t = &tape{number: r.tapes, records: make([]slot, minRecords), first: r.last + 1, next: r.last + 1, watches: map[*Watch]struct{}{}}
	}
	w := &Watch{ring: r, tape: t, filter: f.clone(), changed: make(chan struct{}, 1)}
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
			t.forgetOldest()
		}
		if t.next-t.first == uint64(len(t.records)) {
			t.grow()
		}
		if r.Number = t.next; r.Time.IsZero() {
			r.Time = now
		}
		*t.at(t.next) = slot{r, bytes}
		t.bytes += bytes
		t.next++
	}
	for w := range t.watches {
		w.wake()
	}
}

// at is where the record of a number is. mu is held.
func (t *tape) at(number uint64) *slot { return &t.records[number%uint64(len(t.records))] }

// grow makes room for as many records more. mu is held.
func (t *tape) grow() {
	more := make([]slot, min(2*len(t.records), maxRecords))
	for n := t.first; n < t.next; n++ {
		more[n%uint64(len(more))] = *t.at(n)
	}
	t.records = more
}

// forgetOldest makes room, and counts it for each watch that has not seen it.
// mu is held.
func (t *tape) forgetOldest() {
	old := t.at(t.first)
	for w := range t.watches {
		if w.next > t.first {
			continue
		}
		if w.next++; w.filter.lets(&old.Record) {
			w.lost++
		}
	}
	t.bytes -= old.bytes
	*old = slot{}
	t.first++
}

// Watch reads a Ring's records. It has one user at a time, holds no records of
// its own, and slows nobody down: who reads too slowly loses the oldest.
type Watch struct {
	ring    *Ring
	tape    *tape
	filter  Filter
	changed chan struct{} // cap 1

	// tape.mu guards these.
	next uint64 // number of the record to read, at least tape.first
	lost uint64 // since Take told
}

// Changed receives when Take may have something to return.
func (w *Watch) Changed() <-chan struct{} { return w.changed }

// Take returns the oldest records that the filter lets through and that it has
// not returned yet, at most most of them, and how many such were lost before
// these because they were not taken in time. If there may be more, Changed
// receives again.
func (w *Watch) Take(most int) (records []Record, lost uint64) { return w.TakeInto(nil, most) }

// TakeInto is Take, with the records appended to buf.
func (w *Watch) TakeInto(buf []Record, most int) (records []Record, lost uint64) {
	records, most = buf, most+len(buf)
	t := w.tape
	t.mu.Lock()
	defer t.mu.Unlock()
	lost, w.lost = w.lost, 0
	for ; w.next < t.next && len(records) < most; w.next++ {
		if record := &t.at(w.next).Record; w.filter.lets(record) {
			records = append(records, *record)
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
