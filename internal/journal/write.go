package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"runtime"
	"slices"
	"syscall"
	"time"
)

// This file is the way to the disk: what is here runs while writing is held.

// writePending stores all that waits, with one write and one sync for as many
// as fit, and answers everybody. writing is held.
func (j *Journal) writePending() {
	runtime.Gosched() // whoever is about to submit more does so first: a sync for all of them
	j.mu.Lock()
	rest := j.pending
	j.pending = nil
	j.mu.Unlock()
	for len(rest) > 0 {
		n, size := 1, rest[0].size()
		for n < len(rest) && size+rest[n].size() <= min(maxBatch, j.opt.SegmentSize) {
			size += rest[n].size()
			n++
		}
		j.commit(rest[:n], size)
		rest = rest[n:]
	}
}

// commit stores the events of all appenders, or of none, and answers them.
// size is an upper bound of the bytes. writing is held.
func (j *Journal) commit(batch []*appender, size int64) {
	if len(batch) > 1 && !j.makeRoom(size) {
		// Together they do not fit; some alone still may.
		for _, a := range batch {
			j.commit([]*appender{a}, a.size())
		}
		return
	}
	err := j.store(batch, size)
	for noSpace(err) && (j.dropDamaged(0) || j.dropOldest(Refuse)) {
		err = j.store(batch, size) // history had to go
	}
	if errors.Is(err, errGone) {
		err = j.store(batch, size) // into a segment that is there
	}
	if errors.Is(err, errGone) || errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: %w", ErrMissing, err)
	}
	full := noSpace(err)
	if full {
		err = fmt.Errorf("%w: %w", ErrFull, err)
	}
	j.report(err, full)
	if j.noDisk = full; errors.Is(err, ErrFull) {
		j.lacking = max(j.lacking, size)
	}

	var count uint64
	for _, a := range batch {
		count += a.count()
	}
	if err != nil || size >= j.lacking || !errors.Is(j.Failure(), ErrFull) {
		j.setFailure(err, count)
	} // else there is still no room for what was refused
	j.mu.Lock()
	switch {
	case err == nil:
		for _, a := range batch {
			j.show(a)
		}
		j.stats.Appended += count
		if count > 0 {
			j.grew()
			j.tellReaders()
		}
	case errors.Is(err, ErrFull):
		j.stats.Refused += count
	default:
		j.stats.Failed += count
	}
	j.mu.Unlock()
	for _, a := range batch {
		a.err = err
		close(a.done)
	}
}

// setFailure notes why events could not be stored, nil if they were. writing is
// held.
func (j *Journal) setFailure(err error, count uint64) {
	if err == nil {
		j.fits()
	} else if errors.Is(err, errHeld) {
		j.sayFull(err, count)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.failure = err
}

func noSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// show makes an appender's events, now stored, visible. j.mu is held.
func (j *Journal) show(a *appender) {
	seq := a.last - a.count()
	if a.count() > 0 {
		j.gaps.note(j.last, seq)
		j.ages.note(seq+1, j.current.modified)
	}
	for i := range a.events {
		e := &a.events[i]
		if e.Name != "" {
			seq++
			j.recent.push(Entry{seq, *e})
		}
		if e.Position.Key != "" {
			setPosition(j.positions, e.Source, e.Position.Key, e.Position.Value)
		}
	}
	if a.count() > 0 {
		j.last, j.unmarked = a.last, false
	}
}

// store writes and syncs the events of a batch. On error nothing of it will
// be found by a recovery, or the journal is broken until that is achieved.
func (j *Journal) store(batch []*appender, size int64) error {
	if !j.makeRoom(size) {
		return j.fullError()
	}
	if err := j.repair(); err != nil {
		return err
	}
	if j.active != nil && j.current.size-j.current.head >= max(j.opt.SegmentSize, j.current.head) {
		j.sealActive()
	}
	if j.active == nil {
		if err := j.begin(); err != nil {
			return fmt.Errorf("begin journal segment: %w", err)
		}
	}
	buf := slices.Grow(j.buf[:0], int(size))
	if j.opt.Sync == SyncAlways {
		j.unsynced = j.next
	}
	for _, a := range batch {
		for i := range a.events {
			buf = appendEvent(buf, j.current.salt, j.next, j.unsynced, &a.events[i])
			if a.events[i].Name != "" {
				j.next++ // also if this fails: a number is never used twice
			}
		}
		a.last = j.next - 1
	}
	err := j.put(buf)
	if err == nil && j.opt.Sync == SyncAlways {
		err = j.sync()
	}
	if cap(buf) <= 2*maxBatch {
		j.buf = buf
	}
	if err == nil {
		if err = j.inPlace(); err != nil {
			return fmt.Errorf("write journal: %w", err)
		}
	}
	if err != nil {
		j.broken, j.distrusted = true, j.distrusted || !noSpace(err)
		j.unsynced = j.next
		_ = j.repair() // or the next store tries again
		return fmt.Errorf("write journal: %w", err)
	}
	j.mu.Lock()
	j.current.size += int64(len(buf))
	j.current.modified = time.Now()
	j.mu.Unlock()
	return nil
}

// put writes records at the end of the active segment, and zeros behind them
// where the file must grow. On a disk that is nearly full it does without the
// zeros: events must not be refused for them, nor may they take the last room.
func (j *Journal) put(records []byte) error {
	end := j.current.size + int64(len(records))
	j.late = true
	if _, err := j.active.WriteAt(records, j.current.size); err != nil || end <= j.alloc {
		return err
	}
	j.alloc = (end + growBy - 1) / growBy * growBy
	if _, err := j.active.WriteAt(zeros[:j.alloc-end], end); err != nil {
		_ = j.active.Truncate(end) // zeros would do no harm
		j.alloc = end
	}
	return nil
}

var zeros [growBy]byte

func (j *Journal) sync() error {
	began := time.Now()
	if err := j.active.Sync(); err != nil {
		return err
	}
	j.syncs.Observe(time.Since(began))
	j.unsynced, j.late = j.next, false
	j.mu.Lock()
	j.stats.Syncs++
	j.mu.Unlock()
	return nil
}

// syncLate does what SyncInterval has put off.
func (j *Journal) syncLate() {
	if j.active == nil || !j.late {
		return
	}
	if err := j.sync(); err != nil {
		j.opt.Log.Error().Err(err).Msg("journal: events of the last moments may be lost if power fails now")
		j.closeActive() // what a failed sync leaves in the cache cannot be trusted again
	}
}

// begin makes the next segment, with its checkpoint, durable. From then on
// the segments before it are needed for their events only.
func (j *Journal) begin() error {
	if j.litter != "" {
		if err := j.opt.FS.Remove(j.litter); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		j.litter = ""
	}
	head, err := json.Marshal(j.checkpoint())
	if err != nil {
		return err
	}
	j.mu.Lock()
	if n := len(j.segments); n > 0 { // no two begin with the same number
		j.next = max(j.next, j.segments[n-1].first+1)
	}
	j.mu.Unlock()
	seg := newSegment(j.next)
	f, err := j.opt.FS.Create(seg.name)
	if err != nil {
		return err
	}
	j.active, j.current, j.alloc = f, seg, 0
	record := appendRecord(nil, seg.salt, kindCheckpoint, j.next, j.unsynced, func(b []byte) []byte { return append(b, head...) })
	if err = j.put(record); err == nil {
		err = j.sync()
	}
	if err == nil {
		err = j.opt.FS.SyncDir()
	}
	if err != nil {
		// Were it found later, its checkpoint would be out of date.
		j.litter = seg.name
		j.closeActive()
		if j.opt.FS.Remove(seg.name) == nil {
			j.litter = ""
		}
		return err
	}
	seg.head, seg.size, seg.modified = int64(len(record)), int64(len(record)), time.Now()
	j.mu.Lock()
	j.segments = append(j.segments, seg)
	j.mu.Unlock()
	return nil
}

// sealActive ends the active segment: nothing is written to it any more.
func (j *Journal) sealActive() {
	if j.active == nil {
		return
	}
	j.syncLate()
	if j.active != nil {
		_ = j.active.Truncate(j.current.size) // saves space; zeros would do no harm
		j.closeActive()
	}
}

func (j *Journal) closeActive() {
	_ = j.active.Close()
	j.active, j.current = nil, nil
}

// repair takes the bytes of a failed write off the current segment's end, and
// ends the segment if it is not to be trusted. Until that works nothing can be stored: those bytes could
// come back after a crash as events that were never accepted.
func (j *Journal) repair() error {
	if !j.broken {
		return nil
	}
	if err := j.active.Truncate(j.current.size); err != nil {
		return fmt.Errorf("repair journal: %w", err)
	}
	if err := j.active.Sync(); err != nil {
		return fmt.Errorf("repair journal: %w", err)
	}
	j.alloc = j.current.size
	if j.distrusted {
		j.closeActive()
	}
	j.broken, j.distrusted = false, false
	return nil
}

// checkpoint returns what the next segment's head must say.
func (j *Journal) checkpoint() checkpoint {
	j.mu.Lock()
	defer j.mu.Unlock()
	c := checkpoint{ID: j.id, Last: j.last, Cursors: j.acked(), Positions: map[string]map[string][]byte{}}
	for source, keys := range j.positions {
		c.Positions[source] = maps.Clone(keys)
	}
	return c
}
