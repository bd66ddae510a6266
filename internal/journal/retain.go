package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"
)

// This file decides what goes: to make room, or because its time is over.

// makeRoom frees delivered segments, oldest first, until size more bytes fit
// within MaxSize, and undelivered ones too where that is configured.
func (j *Journal) makeRoom(size int64) bool {
	for {
		j.mu.Lock()
		fits := j.bytes()+size <= j.bounds.Load().maxSize
		j.mu.Unlock()
		if fits {
			return true
		}
		if !j.dropOldest(j.bounds.Load().whenFull) {
			return false
		}
	}
}

// couldMakeRoom reports whether makeRoom would free as much now, and frees
// nothing. writing is held.
func (j *Journal) couldMakeRoom(size int64) bool {
	b := j.bounds.Load()
	j.mu.Lock()
	defer j.mu.Unlock()
	free := b.maxSize - j.bytes()
	for i, s := range j.segments {
		if free >= size || len(j.holders(i, b.whenFull)) > 0 {
			break
		}
		free += s.size
		if i == len(j.segments)-1 { // one takes its place
			free -= s.head
		}
	}
	return free >= size
}

// holders are the cursors, sorted, for which a segment is kept though the
// journal is full, where Options.WhenFull is policy. j.mu is held.
func (j *Journal) holders(segment int, policy FullPolicy) (names []string) {
	end := j.lastOf(segment)
	for name, m := range j.marks {
		if m.acked < end && m.holds(policy) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// bytes is the log's size on disk. j.mu is held.
func (j *Journal) bytes() int64 {
	var sum int64
	for _, s := range j.segments {
		sum += s.size
	}
	return sum
}

// dropOldest removes the oldest segment if every cursor is past it, but for
// those that yield to a full journal, where Options.WhenFull is policy, and
// reports whether it did. writing is held: it may have to end the active segment.
func (j *Journal) dropOldest(policy FullPolicy) bool {
	j.mu.Lock()
	if len(j.segments) == 0 {
		j.mu.Unlock()
		return false
	}
	oldest, end := j.segments[0], j.lastOf(0)
	held := len(j.holders(0, policy)) > 0
	only := len(j.segments) == 1
	empty := oldest.size == oldest.head
	if held || only && empty || oldest == j.current && j.broken {
		j.mu.Unlock()
		return false
	}
	lost := uint64(0)
	for _, m := range j.marks {
		lost = max(lost, j.skipTo(m, end))
	}
	j.stats.Dropped += lost
	j.mu.Unlock()
	j.sayLost(time.Minute)
	if only {
		return j.renew(oldest)
	}
	return j.removeSegment(oldest)
}

// skipTo has a cursor give up what lies up to seq and returns how many numbers
// that are. mu is held.
func (j *Journal) skipTo(m *mark, seq uint64) uint64 {
	if m.acked >= seq {
		return 0
	}
	lost := seq - m.acked
	m.lost += lost
	m.unsaid += lost
	m.acked = seq
	j.moved()
	if c := m.cursor; c != nil {
		c.dropped += c.j.gaps.events(seq-lost, seq)
		c.answer(ErrDropped)
		if c.reader.next <= seq {
			c.reader.next, c.reader.rewound = seq+1, true
		}
	}
	return lost
}

// sayLost logs what cursors lost to a full journal, of each as often as every
// says.
func (j *Journal) sayLost(every time.Duration) {
	type line struct {
		name, text string
		lost       uint64
	}
	var said []line
	j.mu.Lock()
	for name, m := range j.marks {
		if m.unsaid == 0 || time.Since(m.said) < every {
			continue
		}
		text := "journal: full; this sink lost its oldest events, so that new ones are accepted, as its when_full says"
		switch {
		case m.cursor == nil:
			text = "journal: full; the place that is kept of this sink, which is not configured any more, lost its oldest events, so that new ones are accepted"
		case m.whenFull == "":
			text = "journal: full; this sink lost its oldest events, so that new ones are accepted, as journal.when_full says"
		}
		said = append(said, line{name, text, m.unsaid})
		m.unsaid, m.said = 0, time.Now()
	}
	j.mu.Unlock()
	for _, l := range said {
		j.opt.Log.Warn().Str("sink", l.name).Uint64("events", l.lost).Msg(l.text)
	}
}

// renew begins a segment and removes the one before it, which is no longer
// needed, though it was the only one: that held the positions. Where the disk
// is full, the reserve makes room for the checkpoint.
func (j *Journal) renew(old *segment) bool {
	j.sealActive()
	err := j.begin()
	if noSpace(err) && j.opt.FS.Remove(reserveFile) == nil {
		j.mu.Lock()
		j.reserved = false
		j.mu.Unlock()
		err = j.begin()
	}
	if err != nil || !j.removeSegment(old) {
		return false
	}
	j.keepReserve() // before events take the room that was made
	return true
}

// keepReserve makes the file that renew gives up, if it is not there. writing
// is held, or nothing runs yet.
func (j *Journal) keepReserve() {
	j.mu.Lock()
	reserved := j.reserved
	j.mu.Unlock()
	if reserved {
		return
	}
	files, err := j.opt.FS.List()
	if err != nil {
		return
	}
	there := slices.ContainsFunc(files, func(f FileInfo) bool { return f.Name == reserveFile && f.Size == reserveSize })
	if there || replaceFile(j.opt.FS, reserveFile, make([]byte, reserveSize)) == nil {
		j.mu.Lock()
		j.reserved = true
		j.mu.Unlock()
	}
}

func (j *Journal) removeSegment(seg *segment) bool {
	j.mu.Lock()
	if i := slices.Index(j.segments, seg); i >= 0 {
		j.removed = max(j.removed, j.lastOf(i))
		j.moved()
	}
	j.mu.Unlock()
	// After a crash nobody must take it for lost. On a full disk that may fail;
	// it must go all the same.
	_ = j.saveMarks()
	if err := j.opt.FS.Remove(seg.name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		j.opt.Log.Error().Err(err).Str("segment", seg.name).Msg("journal: could not remove a segment that is no longer needed")
		return false
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.segments = slices.DeleteFunc(j.segments, func(s *segment) bool { return s == seg })
	return true
}

// lastOf is the seq that no event of segment i is above. j.mu is held.
func (j *Journal) lastOf(i int) uint64 {
	if i+1 < len(j.segments) {
		return min(j.segments[i+1].first-1, j.last)
	}
	return j.last
}

// deliveredTo is the seq up to which every cursor has acknowledged, open or
// not. j.mu is held.
func (j *Journal) deliveredTo() uint64 {
	low := j.last
	for _, m := range j.marks {
		low = min(low, m.acked)
	}
	return low
}

// Retire removes delivered segments, but the newest, whose time is over, and
// what was set aside as damaged. It also happens by itself every minute.
func (j *Journal) Retire() {
	for {
		j.mu.Lock()
		var due *segment
		if len(j.segments) > 1 {
			oldest := j.segments[0]
			if j.deliveredTo() >= j.lastOf(0) && time.Since(oldest.modified) > j.bounds.Load().maxAge {
				due = oldest
			}
		}
		j.mu.Unlock()
		if due == nil || !j.removeSegment(due) {
			break
		}
	}
	j.dropDamaged(j.bounds.Load().maxAge)
}

// dropDamaged removes what was set aside longer than age ago, and reports
// whether there was something.
func (j *Journal) dropDamaged(age time.Duration) (dropped bool) {
	files, err := j.opt.FS.List()
	if err != nil {
		return false
	}
	for _, f := range files {
		if strings.HasSuffix(f.Name, damagedSuffix) && time.Since(f.Modified) >= age && j.opt.FS.Remove(f.Name) == nil {
			dropped = true
		}
	}
	return dropped
}

// keepHouse stores what was submitted and nobody waits for, removes history that
// is over, and does the syncs that SyncInterval has put off.
func (j *Journal) keepHouse() {
	tick := time.NewTicker(housekeeping)
	defer tick.Stop()
	var syncs <-chan time.Time
	if j.opt.Sync == SyncInterval {
		t := time.NewTicker(j.opt.SyncEvery)
		defer t.Stop()
		syncs = t.C
	}
	for ticks := 1; ; {
		select {
		case <-j.stop:
			return
		case <-syncs:
			j.writing <- struct{}{}
			j.syncLate()
			<-j.writing
			continue
		case <-tick.C:
			ticks++
		}
		j.writing <- struct{}{}
		j.writePending()
		j.keepReserve()
		j.reconsider()
		<-j.writing
		if ticks%60 == 0 {
			j.sayLost(0)
			j.Retire()
		}
	}
}

// reconsider takes a failure back as soon as the next write may work: nobody
// may try if it is told that none does. writing is held.
func (j *Journal) reconsider() {
	err := j.present()
	if err == nil && j.Failure() == nil {
		return
	}
	switch before := j.Failure(); {
	case errors.Is(err, ErrMissing):
		j.report(err, false)
	case j.repair() != nil: // the disk fails still
		err = before
	default:
		if err = j.wouldStore(); err != nil && errors.Is(before, ErrFull) && !errors.Is(before, errHeld) {
			err = before // which says more
		}
	}
	if err == nil {
		j.fits()
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.failure = err
}

// wouldStore returns why what was refused last for want of room would be refused
// again, within the journal's bounds or on the disk. writing is held.
func (j *Journal) wouldStore() error {
	size := max(4<<10, min(j.lacking, j.maxAppend()))
	if !j.couldMakeRoom(size) {
		return j.fullError()
	}
	if !j.noDisk {
		return nil
	}
	if j.active == nil {
		if err := j.begin(); err != nil {
			return fmt.Errorf("%w: %w", ErrFull, err)
		}
	}
	end := j.current.size + min(size, growBy)
	if end <= j.alloc {
		return nil
	}
	// Zeros behind the end are room that the next events have for certain.
	if _, err := j.active.WriteAt(zeros[:end-j.alloc], j.alloc); err != nil {
		_ = j.active.Truncate(j.alloc) // zeros would do no harm
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	j.alloc = end
	return nil
}
