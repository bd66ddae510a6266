package journal

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"
)

// Reader reads the journal in order. It leaves no mark and holds nothing: what
// retention removes before it was read is skipped, and counted by Missed. It
// keeps readWindow bytes of a segment in memory, or one segment where that is
// damaged, and need not be closed. Next has one caller at a time; it ends with its
// ctx or, once all is read, with the journal.
type Reader struct {
	j    *Journal
	wake chan struct{} // cap 1: a cursor is told by it that there may be more

	// j.mu guards these.
	next    uint64 // to read
	rewound bool   // next was set back: what disk holds must be looked up anew
	missed  uint64

	// These are of Next's caller.
	disk   diskReader
	seen   uint64    // newest event that is known to be read, or missing
	since  time.Time // earlier events are left out until one is not; zero from then on
	cursor *Cursor   // that this reads for, or nil
}

// Reader returns a reader that begins with the event of a number, or with the
// oldest if that one is not there any more. From Stats().Last+1 on it returns
// what is stored from now on.
func (j *Journal) Reader(from uint64) *Reader {
	from = max(from, 1)
	return &Reader{j: j, next: from, seen: from - 1}
}

// coarsest is how far apart the times are that a file system can tell: FAT's.
const coarsest = 2 * time.Second

// ReaderSince returns a reader that begins with the first event that happened
// at t or later, as its Time says, and goes on with all that were stored after
// it, whatever their times. Segments that were last written before t are not
// looked at: an event that claims a Time after it was stored is found only if
// its segment was written at t or later. The scan to the first event reads no
// more than the segments since then.
func (j *Journal) ReaderSince(t time.Time) *Reader {
	j.mu.Lock()
	defer j.mu.Unlock()
	from := j.last + 1
	for _, s := range j.segments {
		if !s.modified.Before(t.Add(-coarsest)) {
			from = s.first
			break
		}
	}
	return &Reader{j: j, next: from, seen: from - 1, since: t}
}

// SegmentInfo is where a segment of the journal lies.
type SegmentInfo struct {
	First, Last uint64    // the numbers of the events that it may hold; it holds none if Last is less
	Modified    time.Time // when it was last written
}

// Segments returns what there is, the oldest first.
func (j *Journal) Segments() []SegmentInfo {
	j.mu.Lock()
	defer j.mu.Unlock()
	all := make([]SegmentInfo, len(j.segments))
	for i, s := range j.segments {
		all[i] = SegmentInfo{s.first, j.lastOf(i), s.modified}
	}
	return all
}

// Missed is how many events were gone before they could be read, by their
// numbers: numbers that were never used count where all around them is gone.
func (r *Reader) Missed() uint64 {
	r.j.mu.Lock()
	defer r.j.mu.Unlock()
	return r.missed
}

// Next returns the next entries in order, at most cap(buf) of them, in buf's
// memory. It waits for at least one, or for ctx to end. The error may be ctx's,
// one of the disk, or ErrNewer, and it may be called again; or ErrClosed, when
// the journal is closed and all is read.
func (r *Reader) Next(ctx context.Context, buf []Entry) ([]Entry, error) {
	for {
		out, news, err := r.read(buf[:0])
		if out = r.wanted(out); len(out) > 0 || err != nil {
			return out, err
		}
		if news == nil {
			continue
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-news:
		}
	}
}

// wanted leaves out what happened before a reader by time begins.
func (r *Reader) wanted(entries []Entry) []Entry {
	if r.since.IsZero() || len(entries) == 0 {
		return entries
	}
	i := slices.IndexFunc(entries, func(e Entry) bool { return !e.Time.Before(r.since) })
	if i < 0 {
		return nil
	}
	r.since = time.Time{}
	return entries[i:]
}

// read appends the next entries to buf, from memory or from disk. It may
// return none and must then be called again, when news, if not nil, says so.
func (r *Reader) read(buf []Entry) (out []Entry, news <-chan struct{}, err error) {
	j := r.j
	j.mu.Lock()
	next := r.next
	if r.rewound {
		r.rewound = false
		r.disk = diskReader{}
	}
	if next > j.last {
		news = r.news()
		if j.closed && r.cursor == nil {
			err = ErrClosed
		}
		j.mu.Unlock()
		r.disk.release()
		return buf, news, err
	}
	buf, ok := j.recent.from(next, buf)
	if len(buf) > 0 {
		r.next = buf[len(buf)-1].Seq + 1
	}
	j.mu.Unlock()
	if ok && len(buf) > 0 {
		r.disk = diskReader{}
		r.seen = max(r.seen, buf[len(buf)-1].Seq)
		return buf, nil, nil
	}
	buf, err = r.readDisk(next, buf)
	return buf, nil, err
}

// news is readable, or closed, when there may be more to read. j.mu is held.
func (r *Reader) news() <-chan struct{} {
	if r.wake != nil {
		return r.wake
	}
	if r.j.news == nil {
		r.j.news = make(chan struct{})
	}
	return r.j.news
}

// tellReaders wakes all who wait for events. mu is held.
func (j *Journal) tellReaders() {
	for _, m := range j.marks {
		if m.cursor != nil {
			signal(m.cursor.reader.wake)
		}
	}
	if j.news != nil {
		close(j.news)
		j.news = nil
	}
}

// readDisk appends stored entries from seq on to buf, up to its capacity. It
// may return none and must then be asked again.
func (r *Reader) readDisk(seq uint64, buf []Entry) ([]Entry, error) {
	d := &r.disk
	if d.seg == nil || d.pos() >= d.size {
		if !r.findSegment(seq) {
			return buf, nil
		}
	}
	for begin := d.pos(); len(buf) < cap(buf) && d.pos()-begin < maxRead; {
		at := d.pos()
		rec, bad, ok, err := d.next(r.j.opt.FS)
		switch {
		case err != nil && len(buf) > 0: // it comes again
			return r.advance(buf), nil
		case errors.Is(err, fs.ErrNotExist):
			r.vanished(seq)
			return buf, nil
		case err != nil:
			return buf, fmt.Errorf("read journal: %w", err)
		}
		if len(bad) > 0 {
			r.j.reportDamage(d.seg, []damage{{at, bad}})
		}
		if !ok {
			break
		}
		r.sees(&rec, len(bad) > 0)
		if rec.kind == kindEvent && rec.seq >= seq {
			buf = append(buf, Entry{rec.seq, rec.event})
		}
	}
	if d.pos() >= d.size { // its bytes need not wait for the next segment
		d.release()
	}
	return r.advance(buf), nil
}

// advance moves on behind what was read from disk.
func (r *Reader) advance(buf []Entry) []Entry {
	r.j.mu.Lock()
	defer r.j.mu.Unlock()
	switch {
	case r.rewound:
		return buf[:0] // next was moved meanwhile
	case len(buf) > 0:
		r.next = buf[len(buf)-1].Seq + 1
	case r.disk.pos() >= r.disk.size:
		r.next = max(r.next, r.disk.upTo+1) // the rest is damaged, or was never used
	}
	return buf
}

// findSegment looks up the segment in which seq is to be found, the oldest if
// that is gone, or the part of it that has been added since. It reports whether
// there is one.
func (r *Reader) findSegment(seq uint64) bool {
	j := r.j
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.segments) == 0 {
		r.miss(max(r.seen, seq-1), j.last)
		r.seen = max(r.seen, j.last)
		r.next = j.last + 1
		return false
	}
	i := 0 // its head tells what the segments before it held
	for i+1 < len(j.segments) && j.segments[i+1].first <= seq {
		i++
	}
	seg := j.segments[i]
	if r.disk.seg != seg {
		r.disk = diskReader{seg: seg, scan: scanner{salt: seg.salt}}
	}
	r.disk.size, r.disk.upTo = max(seg.size, r.disk.pos()), j.lastOf(i)
	j.stats.DiskReads++
	return true
}

// vanished deals with a segment whose file is not there: retention has taken
// it, or somebody else. seq is what was to be read next.
func (r *Reader) vanished(seq uint64) {
	j, seg, upTo := r.j, r.disk.seg, r.disk.upTo
	r.disk = diskReader{}
	j.mu.Lock()
	defer j.mu.Unlock()
	if !slices.Contains(j.segments, seg) || r.rewound {
		return
	}
	r.next = max(r.next, upTo+1)
	from := max(r.seen, seq-1)
	r.seen = max(r.seen, upTo)
	if r.cursor == nil {
		r.miss(from, upTo)
		return
	}
	j.stats.Lost += upTo - min(seq-1, upTo)
	j.opt.Log.Error().Str("segment", seg.name).Uint64("from", seq).Uint64("to", upTo).Msg("journal: events with these numbers are gone: their segment was removed")
}

// miss counts the events after one, up to another, as gone. j.mu is held.
func (r *Reader) miss(after, last uint64) {
	if last > after && r.cursor == nil {
		r.missed += last - after
	}
}

// lose reports for a cursor, or counts for another reader, that the events
// after one, up to another, are gone.
func (r *Reader) lose(after, last uint64, why string) {
	if r.cursor != nil {
		r.j.lose(after, last, why)
		return
	}
	r.j.mu.Lock()
	defer r.j.mu.Unlock()
	r.miss(after, last)
}

// sees keeps account of what was read from disk: a segment's head tells what
// the segments before it held.
func (r *Reader) sees(rec *record, damaged bool) {
	from := r.seen
	if r.cursor != nil {
		r.j.mu.Lock()
		from = max(from, r.j.removed)
		r.j.mu.Unlock()
	}
	switch {
	case rec.kind == kindCheckpoint:
		var head checkpoint
		if json.Unmarshal(rec.body, &head) != nil {
			return
		}
		if r.cursor != nil {
			// A crash may have put the mark back behind what was delivered,
			// and removed.
			from = max(from, head.Cursors[r.cursor.mark.name])
		}
		if head.Last > from {
			r.seen = head.Last
			r.lose(from, head.Last, "segments are missing, emptied or cut")
		}
	case rec.kind == kindEvent:
		if from = max(from, r.disk.seg.first-1); damaged && rec.seq > from {
			r.lose(from, rec.seq-1, "a stretch of a segment is damaged")
		}
		r.seen = max(r.seen, rec.seq)
	}
}

const (
	// readWindow is how much of a segment is read at a time.
	readWindow = 256 << 10
	// maxRead is how much of a segment one call of Next may return, in bytes,
	// but for the last event.
	maxRead = 1 << 20
)

// diskReader reads one segment, a window at a time.
type diskReader struct {
	seg  *segment
	base int64  // file offset of scan.data
	size int64  // up to where there are records
	upTo uint64 // no later seq can be before that
	scan scanner
}

// pos is the file offset of the next record.
func (d *diskReader) pos() int64 { return d.base + int64(d.scan.off) }

// release lets go of what was read, and keeps the place.
func (d *diskReader) release() {
	d.base = d.pos()
	d.scan = scanner{salt: d.scan.salt}
}

// next is scanner.next over the whole segment.
func (d *diskReader) next(fsys FS) (rec record, bad []byte, ok bool, err error) {
	for {
		if d.base+int64(len(d.scan.data)) >= d.size {
			rec, bad, ok = d.scan.next()
			return rec, bad, ok, d.scan.err
		}
		rest := d.scan.data[d.scan.off:]
		rec, size, err := decode(rest, d.scan.salt)
		if err == nil {
			d.scan.off += size
			return rec, nil, true, nil
		}
		if errors.Is(err, ErrNewer) {
			return rec, nil, false, err
		}
		// Whether it is damaged, or cut off by the window, more bytes will
		// show: those that it claims to have, or all where it has them.
		need := d.size - d.pos()
		if claimed := claims(rest); claimed > int64(len(rest)) {
			need = min(need, max(claimed, readWindow))
		}
		data, err := readFile(fsys, d.seg.name, d.pos(), d.pos()+need)
		if err != nil {
			return rec, nil, false, err
		}
		d.base, d.scan.data, d.scan.off, d.scan.sums = d.pos(), data, 0, nil
		if int64(len(data)) < need { // the file was cut
			d.size = d.base + int64(len(data))
		}
	}
}

// claims is how long the record at the beginning of data says to be, longer
// than data if that is too short to tell, and 0 if there is no record.
func claims(data []byte) int64 {
	if len(data) < headerSize {
		return int64(headerSize)
	}
	if string(data[:len(marker)]) != marker {
		return 0
	}
	return int64(headerSize) + int64(binary.LittleEndian.Uint32(data[4:]))
}
