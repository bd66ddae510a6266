package journal

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Cursor reads the journal in order for one sink and remembers how far its
// destination has acknowledged. Next has one caller at a time; the other
// methods are safe for concurrent use.
type Cursor struct {
	j      *Journal
	mark   *mark
	reader Reader

	observer Observer // set with j.mu held, while Next is not called

	// fresh is set if the cursor began at the end of the journal, as none of its
	// name was known; before is what the mark was, for Cancel.
	fresh  bool
	before mark

	// j.mu guards these.
	waiting []*delivery
	filter  filter
	// Counts since the journal was opened, or the cursor if that is later.
	delivered, dropped uint64
}

type delivery struct {
	seq  uint64
	done chan struct{}
	err  error // set before done is closed
}

// ErrCursorClosed is what Delivered returns once the cursor is closed: nobody
// acknowledges anything there any more.
var ErrCursorClosed = errors.New("the cursor was closed")

// Cursor opens the cursor of a name. One that was never opened before begins
// at the end of the journal, or with the oldest event if the journal has lost
// all marks and has stored nothing since it was opened; any other goes on behind
// its mark. Open or closed, no event behind its mark is removed as history, and a
// journal that is full of such events takes no more, unless SetWhenFull or
// Options.WhenFull says otherwise.
func (j *Journal) Cursor(name string) (*Cursor, error) {
	return j.keepFresh(j.openCursor(name, nil))
}

// CursorWith is Cursor and SetWhenFull at once: no event meets the cursor with
// another policy.
func (j *Journal) CursorWith(name string, whenFull FullPolicy) (*Cursor, error) {
	return j.keepFresh(j.openCursor(name, &whenFull))
}

// keepFresh saves the mark of a cursor that is new.
func (j *Journal) keepFresh(c *Cursor, known bool, err error) (*Cursor, error) {
	if err != nil || known {
		return c, err
	}
	// Were its mark lost in a crash it would begin at a later end. In an
	// empty journal it cannot.
	if err = j.saveMarks(); err != nil && j.Stats().Last > 0 {
		c.Cancel()
		return nil, fmt.Errorf("save cursor %q: %w", c.mark.name, err)
	}
	return c, nil
}

func (j *Journal) openCursor(name string, whenFull *FullPolicy) (c *Cursor, known bool, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	m, known := j.marks[name]
	if !known {
		m = &mark{name: name, acked: j.last}
		if j.unmarked && len(j.segments) > 0 {
			m.acked = min(m.acked, j.segments[0].first-1)
			j.opt.Log.Error().Str("cursor", name).Uint64("events", j.last-m.acked).Msg("journal: nothing tells any more which events were sent; all that are stored are sent again")
		}
		j.marks[name] = m
	} else if m.cursor != nil {
		return nil, false, fmt.Errorf("cursor %q is already open", name)
	}
	// Where all marks were lost it begins with the oldest event. Cancel must not
	// forget that: made anew, it would begin at the end.
	c = &Cursor{j: j, mark: m, fresh: !known && !j.unmarked, before: *m}
	if whenFull != nil {
		m.whenFull = *whenFull
	}
	c.reader = Reader{j: j, next: m.acked + 1, seen: m.acked, cursor: c, wake: make(chan struct{}, 1)}
	m.cursor = c
	j.moved()
	return c, known, nil
}

// Fresh reports whether the cursor began at the end of the journal when it was
// opened, since none of its name was known.
func (c *Cursor) Fresh() bool { return c.fresh }

// Close gives the cursor's name free again; its mark is kept, until
// DropCursor forgets it. What is acknowledged afterwards does not count, and
// who waits for that is told ErrCursorClosed.
func (c *Cursor) Close() {
	c.j.mu.Lock()
	defer c.j.mu.Unlock()
	if c.end() {
		c.mark.close(time.Now())
	}
}

// Cancel is Close for a cursor that should not have been opened. One that is
// Fresh is forgotten, as if it had never been. Any other counts as closed since
// when it was before, with the policy that it had.
func (c *Cursor) Cancel() {
	j := c.j
	j.mu.Lock()
	ended := c.end()
	switch {
	case !ended:
	case c.fresh:
		delete(j.marks, c.mark.name)
		j.dropped = true
	case c.before.closed.IsZero(): // it was never closed before
		c.mark.close(time.Now())
	default:
		c.mark.closed, c.mark.closedAt, c.mark.whenFull = c.before.closed, c.before.closedAt, c.before.whenFull
	}
	j.mu.Unlock()
	if ended && c.fresh {
		_ = j.saveMarks() // if it fails it is tried again, and told of
		j.Retire()
	}
}

// end gives the name free and answers who waits; it reports false if that was
// done before. j.mu is held.
func (c *Cursor) end() bool {
	if c.mark.cursor != c {
		return false
	}
	c.mark.cursor = nil
	c.j.moved()
	for _, w := range c.waiting {
		w.err = ErrCursorClosed
		close(w.done)
	}
	c.waiting = nil
	return true
}

// SetWhenFull is Journal.SetWhenFull for this cursor.
func (c *Cursor) SetWhenFull(policy FullPolicy) { c.j.SetWhenFull(c.mark.name, policy) }

// Ack says that the destination has everything up to and including seq.
func (c *Cursor) Ack(seq uint64) {
	c.j.mu.Lock()
	defer c.j.mu.Unlock()
	if seq = c.filter.covers(seq); seq <= c.mark.acked || c.mark.cursor != c {
		return
	}
	c.delivered += c.acknowledged(seq)
	c.setAcked(seq)
}

// setAcked moves the mark, and answers who waits for that. j.mu is held.
func (c *Cursor) setAcked(seq uint64) {
	c.mark.acked = seq
	c.j.moved()
	c.answer(nil)
}

// answer tells the observer, and those who wait for what the mark has passed.
// j.mu is held.
func (c *Cursor) answer(err error) {
	if c.observer != nil {
		c.observer.Acked(c.mark.acked, err)
	}
	n := 0
	for n < len(c.waiting) && c.waiting[n].seq <= c.mark.acked {
		c.waiting[n].err = err
		close(c.waiting[n].done)
		n++
	}
	c.waiting = c.waiting[n:]
}

// Rewind makes Next go on behind the mark: what was read but not acknowledged
// is read again.
func (c *Cursor) Rewind() {
	c.j.mu.Lock()
	defer c.j.mu.Unlock()
	c.reader.next, c.reader.rewound = c.mark.acked+1, true
	signal(c.reader.wake)
}

// Name is the cursor's.
func (c *Cursor) Name() string { return c.mark.name }

// Acked returns up to where events are acknowledged.
func (c *Cursor) Acked() uint64 {
	c.j.mu.Lock()
	defer c.j.mu.Unlock()
	return c.mark.acked
}

// Lag returns how many events wait to be acknowledged.
func (c *Cursor) Lag() uint64 {
	c.j.mu.Lock()
	defer c.j.mu.Unlock()
	return c.j.last - min(c.mark.acked, c.j.last)
}

// Delivered waits until seq is acknowledged; the error is ctx's, ErrDropped, or
// ErrCursorClosed.
func (c *Cursor) Delivered(ctx context.Context, seq uint64) error {
	c.j.mu.Lock()
	switch {
	case c.mark.acked >= seq:
		c.j.mu.Unlock()
		return nil
	case c.mark.cursor != c:
		c.j.mu.Unlock()
		return ErrCursorClosed
	}
	d := &delivery{seq: seq, done: make(chan struct{})}
	i := len(c.waiting)
	for i > 0 && c.waiting[i-1].seq > seq {
		i--
	}
	c.waiting = append(c.waiting, nil)
	copy(c.waiting[i+1:], c.waiting[i:])
	c.waiting[i] = d
	c.j.mu.Unlock()
	select {
	case <-d.done:
		return d.err
	case <-ctx.Done():
		c.j.mu.Lock()
		defer c.j.mu.Unlock()
		c.waiting = slices.DeleteFunc(c.waiting, func(w *delivery) bool { return w == d })
		return ctx.Err()
	}
}
