package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
)

// marksFile holds the cursors' marks. Losing it, or its newest second, sends
// events twice and loses none.
const marksFile = "cursors.json"

type marksContent struct {
	Format  int               `json:"format"`
	ID      string            `json:"id"`
	Cursors map[string]uint64 `json:"cursors"`
	// Last is the newest event, Removed the newest that went by order, and
	// Lost the newest that was reported as missing.
	Last    uint64 `json:"last,omitempty"`
	Lost    uint64 `json:"lost,omitempty"`
	Removed uint64 `json:"removed,omitempty"`
}

// loadMarks reads the marks, or takes fallback where the file is damaged.
func (j *Journal) loadMarks(fallback map[string]uint64, known uint64) error {
	content, err := j.readMarks()
	if err == nil {
		err = content.check(known)
	}
	if err != nil {
		content = marksContent{}
	}
	switch {
	case err == nil:
		j.marks, j.removed = content.Cursors, content.Removed
		j.lostEnd(content, known)
		j.putBack(fallback, known)
		if j.id == "" {
			j.id = content.ID
		}
	case errors.Is(err, errNoMarks):
		j.marks = maps.Clone(fallback)
	default:
		j.opt.Log.Error().Err(err).Msg("journal: the saved cursors are damaged and set aside; events since the last segment began are sent again, or all that are stored if it does not tell the cursors either")
		j.marks = maps.Clone(fallback)
		j.stats.Damaged++
		if err := j.opt.FS.Rename(marksFile, marksFile+".damaged"); err != nil {
			return fmt.Errorf("set aside %s: %w", marksFile, err)
		}
	}
	if content.Last == 0 && len(j.segments) > 0 {
		j.removed = j.segments[0].first - 1 // nobody knows better
	}
	for name, mark := range j.marks {
		if mark > maxSeq { // of a checkpoint
			delete(j.marks, name)
		}
	}
	j.unmarked = len(j.marks) == 0 && known > 0
	if j.marks == nil {
		j.marks = map[string]uint64{}
	}
	if j.id == "" {
		j.id = newID()
	}
	for _, mark := range j.marks {
		// After a power cut without sync the log may end before a mark. Were
		// those numbers used again, the cursor would pass over new events.
		j.next = max(j.next, mark+1)
	}
	j.next = max(j.next, 1)
	j.unsynced = j.next
	return nil
}

// putBack puts marks that are ahead of all that is stored back to where the
// newest segment's head has them: either that segment was cut, or a mark is
// wrong, and then events that nobody got would be skipped.
func (j *Journal) putBack(fallback map[string]uint64, known uint64) {
	for name, mark := range j.marks {
		if mark <= known || known == 0 {
			continue
		}
		back := min(fallback[name], known)
		j.next = max(j.next, mark+1) // or the same id would be that of another event
		j.marks[name], j.dirty = back, true
		j.opt.Log.Error().Str("cursor", name).Uint64("mark", mark).Uint64("newest", known).Msg("journal: a saved cursor is ahead of all events that are stored; those since the last segment began are sent again")
	}
}

// check returns what no journal saves: marks of events that never were, and no
// mark at all where there are events. known is the newest event that the
// segments tell of; behind it there may have been more, which are lost.
func (c *marksContent) check(known uint64) error {
	last := max(known, c.Last)
	for name, seq := range c.Cursors {
		if seq > last {
			return fmt.Errorf("cursor %q is at event %d, and the newest is %d", name, seq, last)
		}
	}
	switch {
	case max(c.Last, c.Lost, c.Removed) > maxSeq/2: // which leaves room for more
		return fmt.Errorf("they tell of more than %d events", uint64(maxSeq/2))
	case len(c.Cursors) == 0 && known > 0:
		return errors.New("they hold no cursor")
	}
	return nil
}

var errNoMarks = errors.New("no marks")

func (j *Journal) readMarks() (marksContent, error) {
	files, err := j.opt.FS.List()
	if err != nil {
		return marksContent{}, err
	}
	for _, info := range files {
		if info.Name != marksFile {
			continue
		}
		data, err := readFile(j.opt.FS, marksFile, 0, min(info.Size, 1<<20))
		if err != nil {
			return marksContent{}, err
		}
		var sealed struct {
			Sum  uint32          `json:"crc32c"`
			Body json.RawMessage `json:"body"`
		}
		if err := json.Unmarshal(data, &sealed); err != nil {
			return marksContent{}, err
		}
		if checksum(0, sealed.Body) != sealed.Sum {
			return marksContent{}, errors.New("checksum does not match")
		}
		var content marksContent
		if err := json.Unmarshal(sealed.Body, &content); err != nil {
			return marksContent{}, err
		}
		return content, nil
	}
	return marksContent{}, errNoMarks
}

// saveMarks writes the marks if they moved.
func (j *Journal) saveMarks() error {
	j.saving.Lock()
	defer j.saving.Unlock()
	j.mu.Lock()
	if !j.dirty {
		j.mu.Unlock()
		return nil
	}
	j.dirty = false
	content := marksContent{Format: 1, ID: j.id, Cursors: maps.Clone(j.marks), Last: max(j.last, j.lostTo), Removed: j.removed, Lost: j.lostTo}
	j.mu.Unlock()
	body, err := json.Marshal(content)
	if err == nil {
		sealed := fmt.Appendf(nil, `{"crc32c":%d,"body":%s}`, checksum(0, body), body)
		err = replaceFile(j.opt.FS, marksFile, sealed)
	}
	if err != nil {
		j.mu.Lock()
		j.dirty = true
		j.mu.Unlock()
	}
	return err
}

// Cursor reads the journal in order for one sink and remembers how far its
// destination has acknowledged. Next has one caller at a time; the other
// methods are safe for concurrent use.
type Cursor struct {
	j    *Journal
	name string
	wake chan struct{} // cap 1: there may be more to read

	// j.mu guards these.
	acked   uint64
	next    uint64 // to read
	rewound bool   // next was set back: what disk holds must be looked up anew
	waiting []*delivery
	// Counts since the journal was opened.
	delivered, dropped uint64

	disk diskReader // of Next's caller
	seen uint64     // newest event that Next's caller knows to be read, or lost
}

type delivery struct {
	seq  uint64
	done chan struct{}
	err  error // set before done is closed
}

// Cursor opens the cursor of a name. One that was never opened before begins
// at the end of the journal, or with the oldest event if the journal has lost
// all marks; any other goes on behind its mark. While it is
// open, no event behind its mark is removed, but as DropOldest says.
func (j *Journal) Cursor(name string) (*Cursor, error) {
	c, fresh, err := j.openCursor(name)
	if err == nil && fresh {
		// Were its mark lost in a crash it would begin at a later end. In an
		// empty journal it cannot.
		if err = j.saveMarks(); err != nil && j.Stats().Last > 0 {
			c.Close()
			return nil, fmt.Errorf("save cursor %q: %w", name, err)
		}
		err = nil
	}
	return c, err
}

func (j *Journal) openCursor(name string) (c *Cursor, fresh bool, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.cursors[name] != nil {
		return nil, false, fmt.Errorf("cursor %q is already open", name)
	}
	mark, known := j.marks[name]
	if !known {
		mark = j.last
		if j.unmarked && len(j.segments) > 0 {
			mark = min(mark, j.segments[0].first-1)
			j.opt.Log.Error().Str("cursor", name).Uint64("events", j.last-mark).Msg("journal: nothing tells any more which events were sent; all that are stored are sent again")
		}
		j.marks[name] = mark
		j.dirty = true
	}
	c = &Cursor{j: j, name: name, wake: make(chan struct{}, 1), acked: mark, next: mark + 1, seen: mark}
	if len(j.segments) > 0 && mark+1 < j.segments[0].first {
		// Closed for so long that its events were removed as history.
		c.acked = j.segments[0].first - 1
		c.next = c.acked + 1
	}
	j.cursors[name] = c
	return c, !known, nil
}

// Close gives the cursor's name free again; its mark is kept.
func (c *Cursor) Close() {
	c.j.mu.Lock()
	defer c.j.mu.Unlock()
	if c.j.cursors[c.name] == c {
		delete(c.j.cursors, c.name)
	}
}

// Next returns the next entries in order, at most cap(buf) of them, in buf's
// memory. It waits for at least one, or for ctx to end.
func (c *Cursor) Next(ctx context.Context, buf []Entry) ([]Entry, error) {
	buf = buf[:0]
	for {
		c.j.mu.Lock()
		next, last := c.next, c.j.last
		if c.rewound {
			c.rewound = false
			c.disk = diskReader{}
		}
		ok := true
		if next <= last {
			buf, ok = c.j.recent.from(next, buf)
			if len(buf) > 0 {
				c.next = buf[len(buf)-1].Seq + 1
			}
		}
		c.j.mu.Unlock()
		switch {
		case len(buf) > 0:
			c.disk = diskReader{}
			c.seen = max(c.seen, buf[len(buf)-1].Seq)
			return buf, nil
		case !ok:
			var err error
			if buf, err = c.readDisk(next, buf); len(buf) > 0 || err != nil {
				return buf, err
			}
			continue
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-c.wake:
		}
	}
}

// Ack says that the destination has everything up to and including seq.
func (c *Cursor) Ack(seq uint64) {
	c.j.mu.Lock()
	defer c.j.mu.Unlock()
	if seq <= c.acked {
		return
	}
	c.delivered += c.j.gaps.events(c.acked, seq)
	c.setAcked(seq, nil)
}

// setAcked moves the mark and answers who waits for it. j.mu is held.
func (c *Cursor) setAcked(seq uint64, err error) {
	c.acked = seq
	c.j.marks[c.name] = seq
	c.j.dirty = true
	n := 0
	for n < len(c.waiting) && c.waiting[n].seq <= seq {
		c.waiting[n].err = err
		close(c.waiting[n].done)
		n++
	}
	c.waiting = c.waiting[n:]
}

// skipTo gives up what lies up to seq and returns how many numbers that are.
// j.mu is held.
func (c *Cursor) skipTo(seq uint64) uint64 {
	if c.acked >= seq {
		return 0
	}
	lost := seq - c.acked
	c.dropped += c.j.gaps.events(c.acked, seq)
	c.setAcked(seq, ErrDropped)
	if c.next <= seq {
		c.next, c.rewound = seq+1, true
	}
	return lost
}

// Rewind makes Next go on behind the mark: what was read but not acknowledged
// is read again.
func (c *Cursor) Rewind() {
	c.j.mu.Lock()
	defer c.j.mu.Unlock()
	c.next, c.rewound = c.acked+1, true
	signal(c.wake)
}

// Lag returns how many events wait to be acknowledged.
func (c *Cursor) Lag() uint64 {
	c.j.mu.Lock()
	defer c.j.mu.Unlock()
	return c.j.last - min(c.acked, c.j.last)
}

// Delivered waits until seq is acknowledged; the error is ctx's, or ErrDropped.
func (c *Cursor) Delivered(ctx context.Context, seq uint64) error {
	c.j.mu.Lock()
	if c.acked >= seq {
		c.j.mu.Unlock()
		return nil
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

// diskReader holds one segment's bytes for a cursor that fell behind what is
// in memory.
type diskReader struct {
	seg  *segment
	base int64  // file offset of scan.data
	upTo uint64 // no later seq can be in scan.data
	scan scanner
}

// readDisk appends stored entries from seq on to buf, up to its capacity. It
// may return none and must then be asked again.
func (c *Cursor) readDisk(seq uint64, buf []Entry) ([]Entry, error) {
	d := &c.disk
	if d.seg == nil || d.scan.off >= len(d.scan.data) {
		if found, err := c.loadSegment(seq); !found || err != nil {
			return buf, err
		}
	}
	for len(buf) < cap(buf) {
		start := d.scan.off
		rec, bad, ok := d.scan.next()
		if len(bad) > 0 {
			c.j.reportDamage(d.seg, []damage{{d.base + int64(start), bad}})
		}
		if !ok {
			break
		}
		c.sees(&rec, len(bad) > 0)
		if rec.kind == kindEvent && rec.seq >= seq {
			buf = append(buf, Entry{rec.seq, rec.event})
		}
	}
	c.j.mu.Lock()
	defer c.j.mu.Unlock()
	if c.rewound {
		return buf[:0], nil // next was moved meanwhile
	}
	if len(buf) > 0 {
		c.next = buf[len(buf)-1].Seq + 1
	} else if d.scan.off >= len(d.scan.data) {
		c.next = max(c.next, d.upTo+1) // the rest is damaged, or was never used
	}
	return buf, nil
}

// loadSegment reads the segment in which seq is to be found, or the part of
// it that has been added since. found is false if next was moved instead, or
// the segment was removed meanwhile: the caller looks again.
func (c *Cursor) loadSegment(seq uint64) (found bool, err error) {
	c.j.mu.Lock()
	i := -1
	for i+1 < len(c.j.segments) && c.j.segments[i+1].first <= seq {
		i++
	}
	if i < 0 { // what seq names is gone; go on with the oldest there is
		c.next = c.j.last + 1
		if len(c.j.segments) > 0 {
			c.next = min(c.next, c.j.segments[0].first)
		}
		c.j.mu.Unlock()
		return false, nil
	}
	seg, upTo := c.j.segments[i], c.j.lastOf(i)
	size := seg.size
	c.j.stats.DiskReads++
	c.j.mu.Unlock()

	base := int64(0)
	if c.disk.seg == seg {
		base = c.disk.base + int64(c.disk.scan.off)
	}
	data, err := readFile(c.j.opt.FS, seg.name, base, max(size, base))
	if errors.Is(err, fs.ErrNotExist) {
		c.j.mu.Lock()
		defer c.j.mu.Unlock()
		if slices.Contains(c.j.segments, seg) && !c.rewound { // somebody removed it
			c.j.stats.Lost += upTo - min(seq-1, upTo)
			c.seen = max(c.seen, upTo)
			c.j.opt.Log.Error().Str("segment", seg.name).Uint64("from", seq).Uint64("to", upTo).Msg("journal: events with these numbers are gone: their segment was removed")
			c.next = max(c.next, upTo+1)
		}
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read journal: %w", err)
	}
	c.disk = diskReader{seg: seg, base: base, upTo: upTo, scan: scanner{data: data, salt: seg.salt}}
	return true, nil
}
