// Package journal is the durable, ordered log that every event passes
// through. Append returns when the events are on disk; a Cursor reads them in
// order and remembers how far its sink's destination has acknowledged. After
// a crash of any kind the log goes on with what it holds: a damaged stretch
// is set aside and reported, never a reason to stop.
//
// It stores events and knows nothing of what they mean, where they come from
// or where they go. It is not a queue: reading takes nothing away, a segment
// goes when every cursor is past it and its time is over.
package journal

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"event2mqtt/internal/event"
)

// ErrFull is returned while nothing more fits: the configured size is used up
// by events that not every sink has delivered, or the disk is full.
var ErrFull = errors.New("journal is full")

// ErrTooLarge is returned for events that would not fit into an empty journal.
var ErrTooLarge = errors.New("larger than the journal can take")

// ErrDropped is what Delivered returns for events that DropOldest threw away.
var ErrDropped = errors.New("dropped undelivered")

// ErrClosed is returned after Close.
var ErrClosed = errors.New("journal is closed")

// SyncMode says when written events are forced to disk.
type SyncMode string

// The sync modes. Only SyncAlways keeps every accepted event across a power
// cut; all keep them across a crash of the program.
const (
	SyncAlways   SyncMode = "always"   // before Append returns
	SyncInterval SyncMode = "interval" // within Options.SyncEvery
	SyncNever    SyncMode = "never"    // when the system sees fit
)

// FullPolicy says what to do when nothing more fits within MaxSize. On a full
// disk events are always refused.
type FullPolicy string

// The policies.
const (
	Refuse     FullPolicy = "refuse"      // Append fails with ErrFull
	DropOldest FullPolicy = "drop_oldest" // undelivered events go, counted and logged
)

// Options configure a Journal. Zero values mean the defaults.
type Options struct {
	FS FS // required
	// MaxSize bounds the log on disk, in bytes. Default 256 MiB.
	MaxSize int64
	// MaxAge is how long delivered events are kept as history. Default 7 days.
	MaxAge    time.Duration
	Sync      SyncMode
	SyncEvery time.Duration // for SyncInterval; default 1 s
	WhenFull  FullPolicy
	// SegmentSize is the size of one file, in bytes. Default 2 MiB, or an
	// eighth of MaxSize if that is less.
	SegmentSize int64
	// Memory bounds the newest events kept in memory, in bytes, from which
	// sinks that keep up are served. Default 2 MiB.
	Memory int
	Log    zerolog.Logger
}

func (o *Options) setDefaults() {
	setDefault(&o.MaxSize, 256<<20)
	setDefault(&o.MaxAge, 7*24*time.Hour)
	setDefault(&o.Sync, SyncAlways)
	setDefault(&o.SyncEvery, time.Second)
	setDefault(&o.WhenFull, Refuse)
	setDefault(&o.SegmentSize, min(2<<20, max(o.MaxSize/8, 4<<10)))
	setDefault(&o.Memory, 2<<20)
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

const (
	// growBy is how much a segment's file grows at a time. Within that space
	// a sync writes the data and no file system metadata, which halves its
	// time and saves a flash card two thirds of the writes (see
	// BenchmarkAppend and docs/decisions/0002).
	growBy = 128 << 10
	// maxBatch bounds the bytes of one write.
	maxBatch = 1 << 20
	// skipAhead is added to the next number where numbers behind the end of
	// the log may have been given out.
	skipAhead = 1 << 20
	// damagedSuffix ends the names of what was set aside.
	damagedSuffix = ".damaged"
	// maxCopies bounds the damaged stretches set aside by one process.
	maxCopies = 32
	// reserveFile is given up when the disk is full, so that what was
	// delivered can be removed in order.
	reserveFile = "reserve"
	reserveSize = 64 << 10
	// housekeeping is how often cursor marks are saved, if they moved.
	housekeeping = time.Second
)

// Entry is a stored event.
type Entry struct {
	// Seq numbers the events of a journal in order, from 1, with gaps where a
	// write failed.
	Seq uint64
	event.Event
}

// Journal is an open log. It is safe for concurrent use.
type Journal struct {
	opt Options

	// mu guards what follows. It is never held across file operations.
	mu        sync.Mutex
	id        string
	pending   []*appender
	segments  []*segment // oldest first; the last may be active
	recent    recent
	last      uint64 // newest visible seq
	positions map[string]map[string][]byte
	cursors   map[string]*Cursor // in use
	marks     map[string]uint64  // of all cursors ever, in use or not
	dirty     bool               // marks differ from the file
	closing   bool
	failure   error // of the last write, nil once one worked
	stats     Stats
	setAside  map[string]bool // damaged stretches already reported
	reserved  bool            // the reserve file is there

	// writing is held, by a value in it, by whoever writes: it guards what
	// follows. Who holds it may take mu, not the other way round.
	writing  chan struct{}
	active   File     // nil if the next commit must begin a segment
	current  *segment // of active
	late     bool     // active holds bytes that were not synced
	alloc    int64    // length of active's file
	next     uint64   // seq for the next event; see skipAhead
	unsynced uint64   // first seq not known to be on disk
	broken   bool     // current holds bytes of a failed write that must go first
	// distrusted is set when the disk failed current in another way than being
	// full: after a failed sync nobody knows what the cache still holds.
	distrusted bool
	litter     string // a segment whose beginning failed, to be removed first
	buf        []byte

	stop     chan struct{} // closed by Close
	wg       sync.WaitGroup
	closeErr error
}

// Stats counts what a journal did since it was opened.
type Stats struct {
	Last      uint64 // newest seq
	Bytes     int64  // on disk
	Segments  int
	Appended  uint64 // events
	Refused   uint64 // events, by ErrFull
	Dropped   uint64 // undelivered events, by DropOldest
	Failed    uint64 // events, by errors of the disk
	Syncs     uint64
	DiskReads uint64 // segments read back for a cursor that fell behind
	Damaged   uint64 // stretches set aside
}

type appender struct {
	events []event.Event
	last   uint64
	err    error
	done   chan struct{} // cap 1
}

// size is an upper bound of the bytes that the events take.
func (a *appender) size() (n int64) {
	for i := range a.events {
		n += int64(recordSize(&a.events[i]))
	}
	return n
}

// count is how many of the events are more than a position.
func (a *appender) count() (n uint64) {
	for i := range a.events {
		if a.events[i].Name != "" {
			n++
		}
	}
	return n
}

// Open reads the log in opt.FS, repairs what a crash left, and begins to
// accept events. The error is one of the file system; damage is no error.
func Open(opt Options) (*Journal, error) {
	opt.setDefaults()
	j := &Journal{
		opt:       opt,
		positions: map[string]map[string][]byte{},
		cursors:   map[string]*Cursor{},
		setAside:  map[string]bool{},
		writing:   make(chan struct{}, 1),
		stop:      make(chan struct{}),
	}
	j.recent.limit = opt.Memory
	j.keepReserve() // before anything else takes the room
	if err := j.recover(); err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	j.keepReserve() // what recovery cut off may be the room that was missing
	j.wg.Go(j.keepHouse)
	return j, nil
}

// recover finds the end of the log, the positions and the marks.
func (j *Journal) recover() error {
	segments, err := listSegments(j.opt.FS)
	if err != nil {
		return err
	}
	j.segments = segments
	newest := true // nothing newer holds a record
	known := false // positions and marks are, from a checkpoint
	var fallback map[string]uint64
	for i := len(segments) - 1; i >= 0; i-- {
		seg := segments[i]
		data, err := readFile(j.opt.FS, seg.name, 0, seg.size)
		if err != nil {
			return fmt.Errorf("read %s: %w", seg.name, err)
		}
		r := recoverSegment(data, seg.salt, newest)
		j.reportDamage(seg, r.damage)
		if newest {
			j.next = max(j.next, seg.first)
			if r.end == 0 {
				// Nothing good in it: most likely a crash came between
				// creating the file and its first write.
				j.segments = j.segments[:i]
				if err := j.putAway(seg, len(r.damage) > 0); err != nil {
					return err
				}
				continue
			}
			if n := len(r.damage); n > 0 && r.damage[n-1].offset >= r.end || j.opt.Sync != SyncAlways {
				// What was cut off, or never reached the disk, may have been
				// sent: its numbers are not used again.
				j.next += skipAhead
			}
			newest = false
			j.next = max(j.next, r.last+1)
			if err := j.reopen(seg, r.end); err != nil {
				return err
			}
		}
		if !known {
			j.addPositions(r.positions)
			if c := r.checkpoint; c != nil {
				j.addPositions(c.Positions)
				j.id, fallback, known = c.ID, c.Cursors, true
			}
		}
		if j.last = r.last; known && j.last > 0 {
			break
		}
	}
	return j.loadMarks(fallback)
}

// putAway removes a segment without a good record, or keeps it for whoever
// wants to look if there are bytes in it.
func (j *Journal) putAway(seg *segment, keep bool) error {
	if keep {
		return j.opt.FS.Rename(seg.name, seg.name+damagedSuffix)
	}
	return j.opt.FS.Remove(seg.name)
}

// addPositions takes over those of which no newer one is known.
func (j *Journal) addPositions(older map[string]map[string][]byte) {
	for source, keys := range older {
		for key, value := range keys {
			if _, newer := j.positions[source][key]; !newer {
				setPosition(j.positions, source, key, value)
			}
		}
	}
}

// reopen makes seg, whose good records end at end, the one to append to.
func (j *Journal) reopen(seg *segment, end int64) error {
	f, err := j.opt.FS.Open(seg.name)
	if err != nil {
		return err
	}
	// What lies behind the end must not be found by a later recovery.
	err = f.Truncate(end)
	// Neither must what is found now be lost by a later power cut: a killed
	// process leaves records, and names, that were never synced.
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = j.opt.FS.SyncDir()
	}
	if err != nil {
		_ = f.Close()
		return fmt.Errorf("cut %s: %w", seg.name, err)
	}
	seg.size = end
	j.active, j.current, j.alloc = f, seg, end
	return nil
}

// reportDamage copies damaged stretches into files of their own and logs
// them, once each.
func (j *Journal) reportDamage(seg *segment, found []damage) {
	for _, d := range found {
		name := fmt.Sprintf("%s-%d"+damagedSuffix, strings.TrimSuffix(seg.name, segmentSuffix), d.offset)
		j.mu.Lock()
		known := j.setAside[name]
		j.setAside[name] = true
		if !known {
			j.stats.Damaged++
		}
		copies := len(j.setAside)
		j.mu.Unlock()
		if known {
			continue
		}
		log := j.opt.Log.Warn().Str("segment", seg.name).Int64("offset", d.offset).Int("bytes", len(d.bytes))
		if copies > maxCopies {
			log.Msg("journal: skipped a damaged or unfinished stretch; no copy is made of any more of them")
			continue
		}
		if err := replaceFile(j.opt.FS, name, d.bytes); err != nil {
			log.AnErr("copy", err).Msg("journal: skipped a damaged or unfinished stretch; no copy could be made")
			continue
		}
		log.Str("copy", name).Msg("journal: skipped a damaged or unfinished stretch; a copy is set aside, all else goes on")
	}
}

// Append stores events in their order and returns the seq of the last. When it
// returns without error they are durable, as far as the sync mode promises;
// on error none was kept and they may be offered again: ErrFull and errors of
// the disk may pass, ErrTooLarge may not. Once begun it does not give up when ctx ends, since the
// events may be on disk already. The payloads must not be changed afterwards.
// An event without a name stores its position and is seen by no cursor.
func (j *Journal) Append(ctx context.Context, events ...event.Event) (uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	a := &appender{events: events, done: make(chan struct{}, 1)}
	if size := a.size(); size > j.maxAppend() {
		return 0, fmt.Errorf("%w: %d bytes, of at most %d", ErrTooLarge, size, j.maxAppend())
	}
	j.mu.Lock()
	if j.closing {
		j.mu.Unlock()
		return 0, ErrClosed
	}
	j.pending = append(j.pending, a)
	j.mu.Unlock()
	// Whoever comes first writes for all who wait by then; the others wait
	// for that, or for their turn. No goroutine stands between a caller and
	// the disk.
	select {
	case <-a.done:
	case j.writing <- struct{}{}:
		j.writePending()
		<-j.writing
		<-a.done
	}
	return a.last, a.err
}

// maxAppend is the most that may be stored at once, in bytes: what leaves room
// for a checkpoint in an empty journal, and for a record that can be read back.
func (j *Journal) maxAppend() int64 { return min(j.opt.MaxSize*3/4, maxBody/2) }

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// writePending stores all that waits, with one write and one sync for as many
// as fit, and answers everybody. writing is held.
func (j *Journal) writePending() {
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
	for noSpace(err) && (j.dropDamaged(0) || j.dropOldest(false)) {
		err = j.store(batch, size) // history had to go
	}
	if noSpace(err) {
		err = fmt.Errorf("%w: %w", ErrFull, err)
	}

	var count uint64
	for _, a := range batch {
		count += a.count()
	}
	j.mu.Lock()
	j.failure = err
	switch {
	case err == nil:
		for _, a := range batch {
			j.show(a)
		}
		j.stats.Appended += count
		for _, c := range j.cursors {
			signal(c.wake)
		}
	case errors.Is(err, ErrFull):
		j.stats.Refused += count
	default:
		j.stats.Failed += count
	}
	j.mu.Unlock()
	for _, a := range batch {
		a.err = err
		a.done <- struct{}{}
	}
}

func noSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// show makes an appender's events, now stored, visible. j.mu is held.
func (j *Journal) show(a *appender) {
	seq := a.last - a.count()
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
		j.last = a.last
	}
}

// store writes and syncs the events of a batch. On error nothing of it will
// be found by a recovery, or the journal is broken until that is achieved.
func (j *Journal) store(batch []*appender, size int64) error {
	if !j.makeRoom(size) {
		return fmt.Errorf("%w: its %d bytes (journal.max_size) hold events that are not yet delivered", ErrFull, j.opt.MaxSize)
	}
	if err := j.repair(); err != nil {
		return err
	}
	if j.active != nil && j.current.size >= j.opt.SegmentSize {
		j.sealActive()
	}
	if j.active == nil {
		if err := j.begin(); err != nil {
			return fmt.Errorf("begin journal segment: %w", err)
		}
	}
	buf := j.buf[:0]
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
	if cap(buf) <= maxBatch {
		j.buf = buf
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
	start := j.current.size
	end := start + int64(len(records))
	j.late = true
	if end <= j.alloc {
		_, err := j.active.WriteAt(records, start)
		return err
	}
	grown := (end + growBy - 1) / growBy * growBy
	if _, err := j.active.WriteAt(append(records, make([]byte, grown-end)...), start); err == nil {
		j.alloc = grown
		return nil
	}
	err := j.active.Truncate(start)
	if err == nil {
		_, err = j.active.WriteAt(records, start)
	}
	j.alloc = end
	return err
}

func (j *Journal) sync() error {
	if err := j.active.Sync(); err != nil {
		return err
	}
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
	c := checkpoint{ID: j.id, Cursors: maps.Clone(j.marks), Positions: map[string]map[string][]byte{}}
	for source, keys := range j.positions {
		c.Positions[source] = maps.Clone(keys)
	}
	return c
}

// makeRoom frees delivered segments, oldest first, until size more bytes fit
// within MaxSize, and undelivered ones too where that is configured.
func (j *Journal) makeRoom(size int64) bool {
	for {
		j.mu.Lock()
		fits := j.bytes()+size <= j.opt.MaxSize
		j.mu.Unlock()
		if fits {
			return true
		}
		if j.dropOldest(j.opt.WhenFull == DropOldest) {
			continue
		}
		return false
	}
}

// bytes is the log's size on disk. j.mu is held.
func (j *Journal) bytes() int64 {
	var sum int64
	for _, s := range j.segments {
		sum += s.size
	}
	return sum
}

// dropOldest removes the oldest segment if every cursor is past it, or in any
// case with force, and reports whether it did. writing is held: it may have to
// end the active segment.
func (j *Journal) dropOldest(force bool) bool {
	j.mu.Lock()
	if len(j.segments) == 0 {
		j.mu.Unlock()
		return false
	}
	oldest, end := j.segments[0], j.lastOf(0)
	delivered := j.deliveredTo() >= end
	only := len(j.segments) == 1
	empty := oldest.size == oldest.head
	if !delivered && !force || only && empty || oldest == j.current && j.broken {
		j.mu.Unlock()
		return false
	}
	if !delivered {
		lost := uint64(0)
		for _, c := range j.cursors {
			lost = max(lost, c.skipTo(end))
		}
		j.stats.Dropped += lost
		defer func() {
			j.opt.Log.Warn().Uint64("events", lost).Msg("journal: full; dropped the oldest undelivered events, as journal.when_full says")
		}()
	}
	j.mu.Unlock()
	if only {
		return j.renew(oldest)
	}
	return j.removeSegment(oldest)
}

func (j *Journal) removeSegment(seg *segment) bool {
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

// deliveredTo is the seq up to which every cursor in use has acknowledged.
// j.mu is held.
func (j *Journal) deliveredTo() uint64 {
	low := j.last
	for _, c := range j.cursors {
		low = min(low, c.acked)
	}
	return low
}

// retire removes delivered segments, but the newest, whose time is over, and
// what was set aside as damaged.
func (j *Journal) retire() {
	for {
		j.mu.Lock()
		var due *segment
		if len(j.segments) > 1 {
			oldest := j.segments[0]
			if j.deliveredTo() >= j.lastOf(0) && time.Since(oldest.modified) > j.opt.MaxAge {
				due = oldest
			}
		}
		j.mu.Unlock()
		if due == nil || !j.removeSegment(due) {
			break
		}
	}
	j.dropDamaged(j.opt.MaxAge)
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

// keepHouse saves the marks that moved, removes history that is over, and does
// the syncs that SyncInterval has put off.
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
		j.keepReserve()
		j.reconsider()
		<-j.writing
		if err := j.saveMarks(); err != nil && ticks%60 == 1 {
			j.opt.Log.Error().Err(err).Msg("journal: cursors could not be saved; after a crash some events would be sent twice")
		}
		if ticks%60 == 0 {
			j.retire()
		}
	}
}

// Positions returns the newest position of each key of a source.
func (j *Journal) Positions(source string) map[string][]byte {
	j.mu.Lock()
	defer j.mu.Unlock()
	return maps.Clone(j.positions[source])
}

// Forget drops a source's position under a key that will not come back, such
// as a file that is gone. It takes effect on disk with the next segment.
func (j *Journal) Forget(source, key string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.positions[source], key)
}

// ID returns the id that stays with an event however often it is sent.
func (j *Journal) ID(seq uint64) string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return fmt.Sprintf("%s-%d", j.id, seq)
}

// Alive reports whether the disk lets writers go on within d.
func (j *Journal) Alive(d time.Duration) bool {
	select {
	case j.writing <- struct{}{}:
		<-j.writing
		return true
	case <-time.After(d):
		return false
	}
}

// reconsider takes a failure back as soon as the next write may work: nobody
// may try if it is told that none does. writing is held.
func (j *Journal) reconsider() {
	if j.Failure() == nil {
		return
	}
	err := ErrFull
	if j.makeRoom(4 << 10) {
		err = j.repair()
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.failure = err
}

// Failure returns why the newest events could not be stored, nil if they were
// or if the next may be.
func (j *Journal) Failure() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.failure
}

// Stats returns the counters.
func (j *Journal) Stats() Stats {
	j.mu.Lock()
	defer j.mu.Unlock()
	s := j.stats
	s.Last, s.Bytes, s.Segments = j.last, j.bytes(), len(j.segments)
	return s
}

// Close stores what was appended before it, saves the cursors and ends the
// journal's goroutines.
func (j *Journal) Close() error {
	j.mu.Lock()
	already := j.closing
	j.closing = true
	j.mu.Unlock()
	if already {
		return j.closeErr
	}
	close(j.stop)
	j.wg.Wait()
	j.writing <- struct{}{}
	j.writePending()
	j.sealActive()
	<-j.writing
	if err := j.saveMarks(); err != nil {
		j.closeErr = fmt.Errorf("close journal: save cursors: %w", err)
	}
	return j.closeErr
}

// newID makes the first half of the event ids of a new journal.
func newID() string { return strings.ToLower(rand.Text()[:8]) }
