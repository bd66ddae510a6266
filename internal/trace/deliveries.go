package trace

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"event2mqtt/internal/journal"
	"event2mqtt/internal/refused"
)

// Bounds of what is remembered for a sink between its reading an event and its
// acknowledging it. The deliveries of more events than that are not told.
const (
	maxPending      = 4096
	maxPendingBytes = 1 << 20 // of texts
)

// Deliveries tells a Ring what becomes of events at one sink. It looks at the
// sink's cursor, so the sink itself need not know of it: what the sink
// acknowledges is delivered, unless it was kept as refused. Make it with
// NewDeliveries. It is safe for concurrent use.
type Deliveries struct {
	ring *Ring
	o    DeliveriesOptions

	router Router
	used   bool // pending may hold something; of Read's caller

	mu      sync.Mutex // guards what follows; taken before the ring's
	tape    uint64     // the one that pending is for
	pending []pending  // in the order of their numbers
	bytes   int
}

// DeliveriesOptions are what Deliveries need to know of a sink.
type DeliveriesOptions struct {
	Sink string // its configured name
	// Keeper keeps what the sink skips. May be nil.
	Keeper Keeper
	// ID is the id by which the keeper knows the event of a number.
	ID func(seq uint64) string
}

// Keeper keeps events that are skipped.
type Keeper interface{ Keep(refused.Event) error }

// Router tells the topic at which an event is published, empty if there is none.
type Router interface{ Topic(*journal.Entry) string }

// pending is an event that a sink has read and not acknowledged.
type pending struct {
	Record
	bytes int
	read  time.Time
}

// NewDeliveries returns those of a sink.
func NewDeliveries(r *Ring, o DeliveriesOptions) *Deliveries { return &Deliveries{ring: r, o: o} }

// Ask has them ask the sink for topics, if it is a Router. It is called before
// Read, at most once.
func (d *Deliveries) Ask(sink any) { d.router, _ = sink.(Router) }

// Read implements journal.Observer. Events that are read again, after a link
// was lost, count from then.
func (d *Deliveries) Read(entries []journal.Entry) {
	tape := d.ring.recording()
	if tape == 0 {
		if d.used {
			d.used = false
			d.mu.Lock()
			d.cut(0)
			d.mu.Unlock()
		}
		return
	}
	d.used = true
	now := time.Now()
	fresh := make([]pending, 0, len(entries))
	for i := range entries {
		e := &entries[i]
		p := pending{Record: Record{Verdict: Delivered, Sink: d.o.Sink, Seq: e.Seq, Source: e.Source, Event: e.Name}, read: now}
		if d.router != nil {
			p.Topic = d.router.Topic(e)
		}
		p.bytes = p.bound()
		fresh = append(fresh, p)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.begin(tape)
	again, _ := d.find(entries[0].Seq)
	d.cut(again)
	for _, p := range fresh {
		if len(d.pending) < maxPending && d.bytes+p.bytes <= maxPendingBytes {
			d.pending = append(d.pending, p)
			d.bytes += p.bytes
		}
	}
}

// begin forgets what was pending for another tape: what became of it meanwhile
// is not known. mu is held.
func (d *Deliveries) begin(tape uint64) {
	if d.tape != tape {
		d.tape = tape
		d.cut(0)
	}
}

// find returns the index of a number in pending, or where it would be. mu is held.
func (d *Deliveries) find(seq uint64) (index int, found bool) {
	return slices.BinarySearchFunc(d.pending, seq, func(p pending, seq uint64) int { return cmp.Compare(p.Seq, seq) })
}

// cut forgets what is pending from index i on. mu is held.
func (d *Deliveries) cut(i int) {
	for _, p := range d.pending[i:] {
		d.bytes -= p.bytes
	}
	clear(d.pending[i:])
	if d.pending = d.pending[:i]; i == 0 {
		d.pending = nil
	}
}

// Acked implements journal.Observer.
func (d *Deliveries) Acked(seq uint64, err error) {
	tape := d.ring.recording()
	if tape == 0 {
		return
	}
	now := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.begin(tape)
	n := 0
	var records []Record
	for ; n < len(d.pending) && d.pending[n].Seq <= seq; n++ {
		p := &d.pending[n]
		r := p.Record
		switch {
		case r.Verdict == Skipped:
		case err != nil:
			r.Verdict, r.Reason = Skipped, err.Error()
		default:
			r.TookMS = float64(now.Sub(p.read).Microseconds()) / 1000
		}
		records = append(records, r)
		d.bytes -= p.bytes
	}
	clear(d.pending[:n])
	if d.pending = d.pending[n:]; len(d.pending) == 0 {
		d.pending = nil
	}
	if err != nil {
		records = append(records, Record{Verdict: Skipped, Sink: d.o.Sink, Seq: seq, Reason: err.Error()})
	}
	d.ring.Add(records...)
}

// Keep hands an event on to the keeper, and notes why it is skipped.
func (d *Deliveries) Keep(e refused.Event) error {
	if err := d.o.Keeper.Keep(e); err != nil || d.ring.recording() == 0 {
		return err
	}
	seq, err := strconv.ParseUint(e.ID[strings.LastIndexByte(e.ID, '-')+1:], 10, 64)
	if err != nil || d.o.ID(seq) != e.ID { // not with mu held: it asks the journal
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if i, found := d.find(seq); found {
		p := &d.pending[i]
		d.bytes -= p.bytes
		p.Verdict, p.Reason, p.Topic = Skipped, e.Reason, e.Topic
		p.bytes = p.bound()
		d.bytes += p.bytes
	}
	return nil
}
