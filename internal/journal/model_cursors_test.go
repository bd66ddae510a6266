package journal_test

import (
	"bytes"
	"context"
	"errors"

	"pgregory.net/rapid"

	"event2mqtt/internal/journal"
)

// side is what the model knows of a second cursor, which comes and goes.
type side struct {
	c     *journal.Cursor // nil while it is closed
	known bool
	acked uint64
	// base is what it had acknowledged when it was opened, and reads what came
	// since. What is before base may come again after a power cut.
	base  uint64
	reads []journal.Entry
	// mayLose tells that it was allowed to lose its oldest since it was made.
	mayLose bool
}

func (m *model) openSide() {
	if m.side.c != nil {
		return
	}
	c, err := m.j.Cursor("side")
	if err != nil {
		m.t.Fatalf("open the second cursor: %v", err)
	}
	if !m.side.known {
		m.side = side{known: true, acked: m.j.Stats().Last}
	}
	m.side.c, m.side.base, m.side.reads = c, m.side.acked, nil
}

func (m *model) closeSide() {
	if m.side.c != nil {
		m.side.c.Close()
		m.side.c = nil
	}
}

// cancelSide opens it by mistake. Of a cursor that is not known nothing is left.
func (m *model) cancelSide() {
	if m.side.c != nil {
		return
	}
	before, known := mark(m.j, "side")
	c, err := m.j.CursorWith("side", journal.DropOldest)
	if err != nil {
		m.t.Fatalf("open the second cursor: %v", err)
	}
	c.Cancel()
	if !known && !c.Fresh() { // all marks were lost, and so must not be this one
		m.side = side{known: true, acked: m.j.Stats().Last}
		return
	}
	if after, still := mark(m.j, "side"); still != known || after != before {
		m.t.Fatalf("it was known: %v, %+v, and after it was cancelled: %v, %+v", known, before, still, after)
	}
}

// readSide reads all there is, and acknowledges some of it.
func (m *model) readSide(upTo int) {
	m.openSide()
	m.side.reads = append(m.side.reads, m.readAll(m.side.c.Next)...)
	read := m.plausible(m.side.reads)
	for _, o := range m.log {
		if o.fate == kept && o.seq > m.side.base && !read[o.seq] && !m.side.mayLose {
			m.t.Fatalf("the second cursor never got event %s (%d), which it had not acknowledged (%d)", o.name, o.seq, m.side.base)
		}
	}
	if n := len(m.side.reads); n > 0 {
		seq := m.side.reads[min(upTo, n-1)].Seq
		m.side.c.Ack(seq)
		m.side.acked = max(m.side.acked, seq)
	}
}

// readAll reads with Next until there is no more.
func (m *model) readAll(next func(context.Context, []journal.Entry) ([]journal.Entry, error)) (out []journal.Entry) {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	for buf := make([]journal.Entry, 0, 7); ; {
		got, err := next(ended, buf)
		if errors.Is(err, context.Canceled) {
			return out
		}
		if err != nil {
			m.t.Fatalf("next: %v", err)
		}
		out = append(out, got...)
	}
}

// plausible checks that events came in order, as they were offered, and none
// that was refused. It returns their numbers.
func (m *model) plausible(entries []journal.Entry) map[uint64]bool {
	log := map[string]offered{}
	for _, o := range m.log {
		log[o.name] = o
	}
	read, last := map[uint64]bool{}, uint64(0)
	for _, e := range entries {
		o, there := log[e.Name]
		switch {
		case !there || o.fate == refused:
			m.t.Fatalf("event %s was refused, or never offered, and appears", e.Name)
		case e.Seq <= last:
			m.t.Fatalf("event %s (%d) came after %d", e.Name, e.Seq, last)
		case !bytes.Equal(e.Payload, payload(o.name, o.size)):
			m.t.Fatalf("event %s came back changed", e.Name)
		}
		last = e.Seq
		read[e.Seq] = true
	}
	return read
}

// checkMarks holds what the journal knows of its cursors against the model.
func (m *model) checkMarks() {
	got, known := mark(m.j, "side")
	if known != m.side.known {
		m.t.Fatalf("the second cursor is known: %v, and should be: %v", known, m.side.known)
	}
	if known && got.Open != (m.side.c != nil) {
		m.t.Fatalf("it is said to be open: %v", got.Open)
	}
	if got.Lost > 0 && !m.side.mayLose {
		m.t.Fatalf("it lost %d events, and holds them", got.Lost)
	}
	if main, _ := mark(m.j, "sink"); main.Lost > 0 {
		m.t.Fatalf("the first cursor lost %d events by the other", main.Lost)
	}
}

// held tells whether the second cursor may keep the journal full.
func (m *model) held() bool {
	got, known := mark(m.j, "side")
	return known && got.Lag > 0 && got.WhenFull == journal.Refuse
}

// reader reads from a number on: all that the first cursor has yet to get is
// there, and whatever else is missing is counted.
func (m *model) reader(t *rapid.T) {
	last := m.j.Stats().Last
	if n := len(m.log); n > 0 { // numbers may have been skipped: begin near an event
		if o := m.log[rapid.IntRange(0, n-1).Draw(t, "near")]; o.fate == kept {
			last = o.seq
		}
	}
	from := rapid.Uint64Range(last-min(last, 20), last+1).Draw(t, "from")
	r := m.j.Reader(from)
	entries := m.readAll(r.Next)
	read := m.plausible(entries)
	absent := uint64(0)
	for _, o := range m.log {
		if o.fate != kept || o.seq < from || read[o.seq] {
			continue
		}
		absent++
		if o.seq > m.acked {
			t.Fatalf("a reader from %d did not get event %s (%d), which is not delivered", from, o.name, o.seq)
		}
	}
	if len(entries) > 0 && entries[0].Seq < from {
		t.Fatalf("a reader from %d got %d", from, entries[0].Seq)
	}
	if absent > r.Missed() {
		t.Fatalf("a reader from %d did not get %d events, and counts %d", from, absent, r.Missed())
	}
}

// cursors are the actions of a second cursor, and of readers.
func (m *model) cursors() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"a second cursor reads": func(t *rapid.T) { m.readSide(rapid.IntRange(0, 50).Draw(t, "upto")) },
		"it is closed":          func(*rapid.T) { m.closeSide(); m.checkMarks() },
		"it is cancelled":       func(*rapid.T) { m.cancelSide(); m.checkMarks() },
		"it is dropped": func(t *rapid.T) {
			m.closeSide()
			if err := m.j.DropCursor("side"); err != nil {
				t.Fatal(err)
			}
			m.side = side{}
			m.checkMarks()
		},
		"it may lose its oldest, or not": func(t *rapid.T) {
			policy := rapid.SampledFrom([]journal.FullPolicy{journal.Refuse, journal.DropOldest}).Draw(t, "policy")
			m.side.mayLose = m.side.mayLose || policy == journal.DropOldest && m.side.known
			m.j.SetWhenFull("side", policy)
			if got, known := mark(m.j, "side"); known && got.WhenFull != policy {
				t.Fatalf("%s was set, and it is %s", policy, got.WhenFull)
			}
		},
		"a reader": m.reader,
	}
}
