package api

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"event2mqtt/internal/event"
	"event2mqtt/internal/journal"
	"event2mqtt/internal/trace"
)

// This file is what all streams share: what happens is read once, made JSON
// once, and kept in one bounded ring. A stream has no queue, but a place in it.

// Bounds of the ring.
const (
	maxItems      = 4096
	minItems      = 64
	maxItemsBytes = 4 << 20
	// maxTold is how many events are looked at in a second. Of more, the rest of
	// the second is left out, and that is told: who looks on must not slow down
	// what comes in.
	maxTold = 8000
)

// Rhythms of the hub.
const (
	gather     = 5 * time.Millisecond // what happens within is told together
	stateEvery = time.Second
	pointEvery = 5 * time.Second // of curves
	points     = 60
	maxCurves  = 500
	maxHeldIDs = 4096
	maxLate    = 500 * time.Millisecond
)

// kind is what an item tells.
type kind byte

const (
	eventItem kind = iota
	fateItem
	stateItem // changed parts of the state
)

// item is something that is told.
type item struct {
	kind kind
	text []byte // JSON on one line
	seq  uint64 // of a stored event
	facts
}

// facts are what filters go by.
type facts struct{ source, event, topic, state string }

// hub reads what happens while there are streams. Nothing of it exists while
// there are none.
type hub struct {
	a *API

	// turn is held while the hub's goroutine is started or ended.
	turn sync.Mutex
	stop context.CancelFunc
	done chan struct{}

	mu      sync.Mutex // guards what follows
	clients map[*client]struct{}
	items   []item // an item is at its number modulo their length
	first   uint64 // number of the oldest item
	next    uint64 // number of the next
	bytes   int
	stored  uint64 // number of the newest stored event that was told
	curves  map[string][]float64
	seconds map[string][]int // events of sinks, by name

	// These are of the hub's goroutine.
	reader  *journal.Reader
	ahead   []journal.Entry // were read, and not told yet
	buffer  []journal.Entry
	cameIn  map[uint64][]byte
	known   uint64              // number of the newest event that was recorded as stored
	late    []trace.Record      // what came of events whose being stored is not recorded yet
	heldIDs map[string][]heldID // what rules hold back, as it was told, by Detail.Hold
	told    map[string][]byte   // the state
	counted map[string]uint64   // events of sinks
	pointed time.Time           // when curves got their last point
}

// heldID is an event that was told of as held.
type heldID struct {
	id    string
	facts facts
}

// client is a stream's place in the ring. It has one user.
type client struct {
	hub     *hub
	filter  query
	changed chan struct{} // cap 1

	// hub.mu guards these.
	next uint64
	lost int // items that the filter lets through, and that were not taken in time
}

// attach begins a stream at what happens from now on. Stored events up to
// the number that is returned were told before.
func (h *hub) attach(filter query) (*client, uint64) {
	h.turn.Lock()
	defer h.turn.Unlock()
	if h.done == nil {
		h.start()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	c := &client{hub: h, filter: filter, changed: make(chan struct{}, 1), next: h.next}
	h.clients[c] = struct{}{}
	return c, h.stored
}

// start starts the goroutine. turn is held.
func (h *hub) start() {
	watch := h.a.o.Trace.Watch(trace.Filter{})
	h.mu.Lock()
	h.stored = h.a.o.Journal.Stats().Last
	h.clients = map[*client]struct{}{}
	h.items = make([]item, minItems)
	h.first, h.next, h.bytes = 0, 0, 0
	h.curves, h.seconds = map[string][]float64{}, map[string][]int{}
	h.reader = h.a.o.Journal.Reader(h.stored + 1)
	h.mu.Unlock()
	h.cameIn, h.heldIDs, h.counted = map[uint64][]byte{}, map[string][]heldID{}, map[string]uint64{}
	h.buffer = make([]journal.Entry, 64)
	h.pointed = time.Time{}
	h.told, h.known, h.late = nil, h.stored, nil
	h.tellState() // before the stream writes its first state, so that it gets every later change
	ctx, cancel := context.WithCancel(context.Background())
	h.stop, h.done = cancel, make(chan struct{})
	go h.run(ctx, watch, h.done)
}

// leave ends a stream. The last one ends the hub's goroutine.
func (c *client) leave() {
	h := c.hub
	h.turn.Lock()
	defer h.turn.Unlock()
	h.mu.Lock()
	delete(h.clients, c)
	last := len(h.clients) == 0
	h.mu.Unlock()
	if !last {
		return
	}
	h.stop()
	<-h.done
	h.done = nil
	h.mu.Lock()
	defer h.mu.Unlock()
	h.items, h.curves, h.seconds, h.reader, h.ahead, h.buffer = nil, nil, nil, nil, nil, nil
	h.cameIn, h.heldIDs, h.told, h.counted, h.late = nil, nil, nil, nil, nil
}

// run tells what happens until ctx ends.
func (h *hub) run(ctx context.Context, watch *trace.Watch, done chan<- struct{}) {
	defer close(done)
	defer func() { watch.Close() }()
	tick := time.NewTicker(stateEvery)
	defer tick.Stop()
	seen, resting := 0, false
	var buf []trace.Record
	pause := time.NewTimer(0)
	defer pause.Stop()
	changed := watch.Changed()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if seen = 0; resting {
				resting = false
				watch = h.a.o.Trace.Watch(trace.Filter{})
				changed = watch.Changed()
				h.skip()
			}
			h.tellState()
		case <-pause.C:
			if seen > maxTold {
				resting = true
				watch.Close() // nothing is recorded meanwhile
				continue
			}
			changed = watch.Changed()
			if len(h.late) > 0 {
				h.tell(ctx, nil, 0)
				pause.Reset(gather)
			}
		case <-changed:
			records, lost := watch.TakeInto(buf[:0], maxItems)
			h.tell(ctx, records, lost)
			seen += len(records) / 2 // an event has two, as a rule
			clear(records)
			buf = records
			changed = nil // more may come within a moment
			pause.Reset(gather)
		}
	}
}

// tell tells of what has happened.
func (h *hub) tell(ctx context.Context, records []trace.Record, lost uint64) {
	var out []item
	for i := range records {
		r := &records[i]
		if r.Verdict == trace.Stored {
			h.known = max(h.known, r.Seq)
		}
		if r.Verdict == trace.Stored && r.Detail != nil && r.Detail.CameIn != nil {
			h.cameIn[r.Seq] = r.Detail.CameIn
		}
	}
	// A sink may be done with an event before its source has recorded that it
	// is stored, and what it was before: it waits for that, but not for ever.
	late := h.late
	h.late = nil
	for i := range late {
		if r := &late[i]; r.Seq > h.known && time.Since(r.Time) < maxLate {
			h.late = append(h.late, *r)
		} else {
			out = h.record(ctx, out, r)
		}
	}
	for i := range records {
		if r := &records[i]; r.Seq > h.known && r.Verdict != trace.Stored {
			h.late = append(h.late, *r)
			continue
		}
		out = h.record(ctx, out, &records[i])
		if len(out) >= 256 {
			h.put(out...)
			clear(out)
			out = out[:0]
		}
	}
	if lost > 0 { // some of them may have told of stored events
		out = h.upTo(ctx, out, h.a.o.Journal.Stats().Last)
	}
	h.put(out...)
	clear(h.cameIn)
}

// skip goes on at the newest stored event, and counts those that were left out.
func (h *hub) skip() {
	last := h.a.o.Journal.Stats().Last
	h.mu.Lock()
	defer h.mu.Unlock()
	for c := range h.clients {
		c.lost += int(last - min(last, h.stored))
		c.wake()
	}
	h.stored, h.known = max(h.stored, last), max(h.known, last)
	h.reader, h.ahead, h.late = h.a.o.Journal.Reader(h.stored+1), nil, nil
}

// record appends what a record tells.
func (h *hub) record(ctx context.Context, out []item, r *trace.Record) []item {
	main := r.Sink == "" || r.Sink == h.a.o.Program.MainSink()
	switch r.Verdict {
	case trace.Stored:
		out = h.upTo(ctx, out, r.Seq)
		return h.resolve(out, r, Fate{State: held, Why: "sent as event " + strconv.FormatUint(r.Seq, 10), Rule: ruleOf(r)})
	case trace.Delivered, trace.Skipped:
		if !main {
			return out
		}
		out = h.upTo(ctx, out, r.Seq)
		f := Fate{State: delivered}
		if r.Verdict == trace.Skipped {
			f = Fate{State: refusedBy, Why: r.Reason}
		} else if r.TookMS > 0 {
			f.MS = &r.TookMS
		}
		text := appendFate(nil, h.a.o.Journal.ID(r.Seq), r.Seq, &f)
		return append(out, item{fateItem, text, r.Seq, facts{r.Source, r.Event, r.Topic, f.State}})
	case trace.Replaced:
		return h.resolve(out, r, Fate{State: dropped, Why: "a newer event took its place", Rule: ruleOf(r)})
	}
	f := Fate{State: dropped, Rule: ruleOf(r)}
	switch r.Verdict {
	case trace.Refused:
		f = Fate{State: refusedBy, Why: r.Reason}
	case trace.Dropped:
		f.Why = "the rule drops it"
	case trace.Repeated:
		f.Why = "it says the same as the one before"
	case trace.Held:
		f.State, f.Why = held, "it is sent when the interval is over"
		if r.Reason != "" {
			f.Why = r.Reason
		}
	}
	return append(out, h.unstored(r, f))
}

// unstored is the item of an event that is not stored.
func (h *hub) unstored(r *trace.Record, f Fate) item {
	var d trace.Detail
	if r.Detail != nil {
		d = *r.Detail
	}
	e := event.Event{Name: r.Event, Source: r.Source, Time: d.Happened, Payload: d.Payload, Route: d.Route}
	if e.Time.IsZero() {
		e.Time = r.Time
	}
	if len(e.Payload) == 0 {
		e.Payload = []byte("null")
	} else if !json.Valid(e.Payload) {
		e.Payload = event.TextOf(e.Payload, maxShown)
	}
	s := shown{id: h.a.o.Program.Run() + "-" + strconv.FormatUint(r.Number, 10), event: &e, route: h.a.o.Program.Route(&journal.Entry{Event: e}), size: d.Size, fate: f}
	if d.CameIn != nil {
		s.cameIn = h.a.cameIn(d.CameIn)
	}
	about := facts{r.Source, r.Event, s.route.Topic, f.State}
	if r.Verdict == trace.Held && d.Hold != "" && len(h.heldIDs) < maxHeldIDs && len(h.heldIDs[d.Hold]) < 16 {
		h.heldIDs[d.Hold] = append(h.heldIDs[d.Hold], heldID{s.id, about})
	}
	return item{eventItem, s.append(nil), 0, about}
}

// resolve appends what became of an event that was told of as held, if a record
// is about one.
func (h *hub) resolve(out []item, r *trace.Record, f Fate) []item {
	if r.Detail == nil || r.Detail.Hold == "" {
		return out
	}
	key := r.Detail.Hold
	all := h.heldIDs[key]
	if len(all) == 0 {
		return out
	}
	before := all[0] // one that took its place may be told of already
	if h.heldIDs[key] = all[1:]; len(all) == 1 {
		delete(h.heldIDs, key)
	}
	about := before.facts
	about.state = f.State
	return append(out, item{fateItem, appendFate(nil, before.id, 0, &f), 0, about})
}

// ruleOf is the rule that a record names.
func ruleOf(r *trace.Record) *Rule {
	if r.Rule == nil {
		return nil
	}
	kinds := map[trace.Verdict]string{trace.Dropped: "drop", trace.Repeated: "dedupe"}
	kind := kinds[r.Verdict]
	if kind == "" {
		kind = "min_interval"
	}
	return &Rule{N: r.Rule.Index + 1, Name: r.Rule.Name, Line: r.Rule.Line, Kind: kind}
}

// upTo appends the stored events that were not told yet, up to a number.
func (h *hub) upTo(ctx context.Context, out []item, seq uint64) []item {
	h.mu.Lock()
	stored := h.stored
	h.mu.Unlock()
	for stored < seq {
		if len(h.ahead) == 0 && !h.readAhead(ctx) {
			stored = seq // the rest is gone
			break
		}
		e := &h.ahead[0]
		if e.Seq > seq && stored >= seq {
			break
		}
		id := h.a.o.Journal.ID(e.Seq)
		s := shown{id: id, seq: e.Seq, event: &e.Event, route: h.a.o.Program.Route(e), size: len(e.Payload), fate: Fate{State: waiting}}
		if was := h.cameIn[e.Seq]; was != nil {
			s.cameIn = h.a.cameIn(was)
		}
		stored = e.Seq
		out = append(out, item{eventItem, s.append(nil), e.Seq, facts{e.Source, e.Name, s.route.Topic, waiting}})
		h.ahead[0] = journal.Entry{}
		h.ahead = h.ahead[1:]
	}
	h.mu.Lock()
	h.stored = stored
	h.mu.Unlock()
	return out
}

func (h *hub) readAhead(ctx context.Context) bool {
	limited, cancel := context.WithTimeout(ctx, readPatience)
	defer cancel()
	entries, err := h.reader.Next(limited, h.buffer)
	h.ahead = entries
	return err == nil && len(entries) > 0
}

// put adds items to the ring, and wakes the streams.
func (h *hub) put(items ...item) {
	if len(items) == 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, it := range items {
		for h.next-h.first == maxItems || h.next > h.first && h.bytes+len(it.text) > maxItemsBytes {
			h.forgetOldest()
		}
		if h.next-h.first == uint64(len(h.items)) {
			more := make([]item, min(2*len(h.items), maxItems))
			for n := h.first; n < h.next; n++ {
				more[n%uint64(len(more))] = *h.at(n)
			}
			h.items = more
		}
		*h.at(h.next) = it
		h.bytes += len(it.text)
		h.next++
	}
	for c := range h.clients {
		c.wake()
	}
}

// at is where an item is. mu is held.
func (h *hub) at(number uint64) *item { return &h.items[number%uint64(len(h.items))] }

// forgetOldest makes room, and counts it for each stream that has not seen it.
// mu is held.
func (h *hub) forgetOldest() {
	old := h.at(h.first)
	for c := range h.clients {
		if c.next > h.first {
			continue
		}
		if c.next++; old.kind == stateItem || c.filter.fits(old) {
			c.lost++
		}
	}
	h.bytes -= len(old.text)
	*old = item{}
	h.first++
}

func (c *client) wake() { signal(c.changed) }

// take returns the next items that the filter lets through, appended to buf, of
// about most bytes; how many were lost before them; and whether there are more.
func (c *client) take(buf []item, most int) (items []item, lost int, more bool) {
	h := c.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	lost, c.lost = c.lost, 0
	size := 0
	for ; c.next < h.next && size < most && len(buf) < cap(buf); c.next++ {
		if it := h.at(c.next); it.kind == stateItem || c.filter.fits(it) {
			buf = append(buf, *it)
			size += len(it.text)
		}
	}
	return buf, lost, c.next < h.next
}

// skip goes on at the newest, if something was lost, and returns the number of
// the newest stored event that was told before.
func (c *client) skip() (stored uint64, skipped bool) {
	h := c.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if c.lost == 0 {
		return h.stored, false
	}
	c.next, c.lost = h.next, 0
	return h.stored, true
}

// tellState tells what has changed of the state.
func (h *hub) tellState() {
	h.sample()
	parts := h.a.state().parts()
	if h.told != nil {
		text := []byte{'{'}
		for _, key := range slices.Sorted(maps.Keys(parts)) {
			if key != "now" && bytes.Equal(parts[key], h.told[key]) {
				continue
			}
			if len(text) > 1 {
				text = append(text, ',')
			}
			text = append(append(append(append(text, '"'), key...), `":`...), parts[key]...)
		}
		h.put(item{kind: stateItem, text: append(text, '}')})
	}
	h.told = parts
}

// sample adds a point to each curve.
func (h *hub) sample() {
	s := h.a.o.Program.State()
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range s.Parts {
		p := &s.Parts[i]
		if p.Kind != "sink" {
			continue
		}
		line := h.seconds[p.Name]
		if line == nil {
			line = make([]int, points)
		}
		if before, known := h.counted[p.Name]; known && p.Delivered >= before {
			line = append(line[1:], int(p.Delivered-before))
		}
		h.seconds[p.Name], h.counted[p.Name] = line, p.Delivered
	}
	if time.Since(h.pointed) < pointEvery-stateEvery/2 {
		return
	}
	h.pointed = time.Now()
	for _, d := range s.Devices {
		for _, r := range d.Readings {
			key := d.ID + "\x00" + r.Name
			line := h.curves[key]
			if line == nil && len(h.curves) >= maxCurves {
				continue
			}
			if line = append(line, r.Value); len(line) > points {
				line = line[1:]
			}
			h.curves[key] = line
		}
	}
}

// fill adds to a state what is known while there are streams.
func (h *hub) fill(s *State) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range s.Parts {
		if line := h.seconds[s.Parts[i].Name]; line != nil && s.Parts[i].Kind == "sink" {
			s.Parts[i].Seconds = slices.Clone(line)
		}
	}
	for i := range s.Devices {
		d := &s.Devices[i]
		for j := range d.Readings {
			if line := h.curves[d.ID+"\x00"+d.Readings[j].Name]; len(line) > 1 {
				d.Readings[j].History = slices.Clone(line)
			}
		}
	}
}
