package journal

import (
	"context"

	"event2mqtt/internal/event"
)

// This file is how a cursor skips what its sink does not want, without anybody
// having to acknowledge it.

// filter is a cursor's own. j.mu guards it.
type filter struct {
	wants func(*event.Event) bool // nil: all
	// handed is the newest event that Next has returned since the cursor was
	// last set back. No event behind it up to passed is wanted: once handed is
	// acknowledged, so are they.
	handed, passed uint64
	// unanswered are the events that Next has returned, and that are not
	// acknowledged. There are as many as the sink reads ahead.
	unanswered []uint64
}

// Filter has Next return only the events that wants reports true of; nil is
// all. What is skipped counts as acknowledged as soon as all before it is. It
// is called before Next, by Next's caller.
func (c *Cursor) Filter(wants func(*event.Event) bool) {
	c.j.mu.Lock()
	defer c.j.mu.Unlock()
	c.filter = filter{wants: wants, handed: c.reader.next - 1}
}

// Next returns the next entries in order that the cursor's filter wants, at
// most cap(buf) of them, in buf's memory. It waits for at least one, or for ctx
// to end.
func (c *Cursor) Next(ctx context.Context, buf []Entry) ([]Entry, error) {
	for {
		c.j.mu.Lock()
		if c.reader.rewound {
			c.filter.handed, c.filter.unanswered = c.mark.acked, nil
		}
		wants := c.filter.wants
		c.j.mu.Unlock()
		entries, err := c.reader.Next(ctx, buf)
		if err == nil && wants != nil {
			entries = c.sift(entries, wants)
		}
		if len(entries) > 0 && c.observer != nil {
			c.observer.Read(entries)
		}
		if err != nil || len(entries) > 0 {
			return entries, err
		}
		if err := ctx.Err(); err != nil { // of many that are skipped, reading waits for none
			return nil, err
		}
	}
}

// sift keeps the entries that are wanted, and notes those that are not.
func (c *Cursor) sift(entries []Entry, wants func(*event.Event) bool) []Entry {
	newest := entries[len(entries)-1].Seq
	kept := entries[:0]
	before := newest // of those that are not wanted, the newest before all that are
	for i := range entries {
		if !wants(&entries[i].Event) {
			continue
		}
		if len(kept) == 0 {
			before = entries[i].Seq - 1
		}
		kept = append(kept, entries[i])
	}
	clear(entries[len(kept):])

	c.j.mu.Lock()
	defer c.j.mu.Unlock()
	f := &c.filter
	if f.handed <= c.mark.acked && before > c.mark.acked && c.mark.cursor == c {
		c.setAcked(before)
	}
	for i := range kept {
		f.handed = kept[i].Seq
		f.unanswered = append(f.unanswered, f.handed)
	}
	f.passed = newest
	return kept
}

// covers returns up to where an acknowledgement of seq goes. j.mu is held.
func (f *filter) covers(seq uint64) uint64 {
	if f.wants != nil && seq >= f.handed {
		return max(seq, f.passed)
	}
	return seq
}

// acknowledged returns how many events an acknowledgement of seq is about: those
// that the sink did not get do not count. j.mu is held.
func (c *Cursor) acknowledged(seq uint64) uint64 {
	f := &c.filter
	if f.wants == nil {
		return c.j.gaps.events(c.mark.acked, seq)
	}
	n := 0
	for n < len(f.unanswered) && f.unanswered[n] <= seq {
		n++
	}
	f.unanswered = f.unanswered[n:]
	return uint64(n)
}
