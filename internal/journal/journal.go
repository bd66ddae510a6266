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
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"event2mqtt/internal/event"
	"event2mqtt/internal/metrics"
)

// ErrFull is returned while nothing more fits: the configured size is used up
// by events that not every sink has delivered, or the disk is full.
var ErrFull = errors.New("journal is full")

// ErrTooLarge is returned for events that would not fit into an empty journal.
var ErrTooLarge = errors.New("larger than the journal can take")

// ErrDropped is what Delivered returns for events that DropOldest threw away.
var ErrDropped = errors.New("dropped undelivered")

// ErrMissing is returned while the journal's folder is not where it was: what
// is written then would be found by nobody.
var ErrMissing = errors.New("the journal's folder was removed, moved or replaced")

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

// FullPolicy says what to do when nothing more fits within MaxSize.
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
	// WhenFull is what becomes of events that cursors have not acknowledged of
	// which SetWhenFull says nothing. On a full disk those are never dropped.
	// Default Refuse.
	WhenFull FullPolicy
	// SegmentSize is the size of one file, in bytes. Default 2 MiB, or an
	// eighth of MaxSize if that is less.
	SegmentSize int64
	// Memory bounds the newest events kept in memory, in bytes, from which
	// sinks that keep up are served. Default 2 MiB.
	Memory int
	// Knows tells whether the reader of the log can do with an event of a name.
	// One that it cannot was written by a newer version: Open returns ErrNewer.
	// Nil means that all names are known.
	Knows func(name string) bool
	Log   zerolog.Logger
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
	// maxBatch bounds the bytes of one write, but that an Append is written
	// at once. The buffer for it is kept.
	maxBatch = 256 << 10
	// maxAppendSize and maxAppendCount bound an Append, which is encoded and
	// written at once. The largest of its events does not count in the size:
	// alone it would be taken too.
	maxAppendSize  = 8 << 20
	maxAppendCount = 32 << 10
	// maxKeys bounds the positions of a source: all of them stand in the head
	// of each segment.
	maxKeys = 100_000
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
	// housekeeping is how often the journal looks after itself.
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
	opt    Options
	bounds atomic.Pointer[bounds] // in place of those in opt

	// mu guards what follows. It is never held across file operations.
	mu        sync.Mutex
	id        string
	pending   []*appender
	segments  []*segment // oldest first; the last may be active
	recent    recent
	last      uint64 // newest visible seq
	positions map[string]map[string][]byte
	marks     map[string]*mark // of all cursors, open or not
	dirty     bool             // marks differ from both of their files
	grown     bool             // or the end of the log does, which can wait
	stale     bool             // and from the one that is replaced as a whole
	dropped   bool             // the last mark, if there is none now
	unmarked  bool             // nothing but what was there at the start is stored, and it had no mark of any cursor
	news      chan struct{}    // closed, and nil again, when there are events; nil while nobody waits
	closing   bool
	closed    bool   // nothing is stored any more
	failure   error  // of the last write, nil once one worked
	failing   bool   // failure was logged
	removed   uint64 // no event up to it is on disk, and rightly so
	lostTo    uint64 // events up to it that are missing were reported
	stats     Stats
	ages      ages
	gaps      gaps
	setAside  map[string]bool // damaged stretches already reported
	reserved  bool            // the reserve file is there

	syncs metrics.Distribution // how long they took; safe without mu

	markMoved chan struct{} // cap 1: dirty was set
	endMoved  chan struct{} // cap 1: grown was set
	noted     chan struct{} // cap 1: there is a note to sync

	// saving is held while the marks are written, and guards what follows.
	// Whoever holds it may take mu.
	saving sync.Mutex
	note   File   // of notes; nil until one is written
	save   string // names the newest file of marks; empty before there is one
	turn   uint64 // of the newest note

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
	noDisk     bool      // it was the disk that had no room for what was stored last
	lacking    int64     // bytes of the most that was refused, while there is no room for that
	fullSaid   time.Time // when the log was told last that the journal is full
	fullUnsaid uint64    // events that were refused since
	fullTold   bool      // it was told so, and not that there is room again
	litter     string    // a segment whose beginning failed, to be removed first
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
	Lost      uint64 // events, about, that damage took
	// LostBy is how many events each cursor has lost, ever, because the journal
	// was full, by its name. It holds only those that have lost some.
	LostBy map[string]uint64
}

type appender struct {
	events []event.Event
	last   uint64
	err    error // with last, set before done is closed
	done   chan struct{}
}

// size is an upper bound of the bytes that the events take.
func (a *appender) size() (n int64) {
	for i := range a.events {
		n += int64(recordSize(&a.events[i]))
	}
	return n
}

// largest is size for the largest event alone.
func (a *appender) largest() (n int64) {
	for i := range a.events {
		n = max(n, int64(recordSize(&a.events[i])))
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
// accept events. The error is one of the file system, or ErrNewer, and then
// nothing was changed; damage is no error.
func Open(opt Options) (*Journal, error) {
	opt.setDefaults()
	j := &Journal{
		opt:       opt,
		positions: map[string]map[string][]byte{},
		marks:     map[string]*mark{},
		markMoved: make(chan struct{}, 1),
		endMoved:  make(chan struct{}, 1),
		noted:     make(chan struct{}, 1),
		setAside:  map[string]bool{},
		writing:   make(chan struct{}, 1),
		stop:      make(chan struct{}),
	}
	j.SetBounds(opt.MaxSize, opt.MaxAge, opt.WhenFull)
	j.recent.limit = opt.Memory
	if err := Check(opt.FS, opt.Knows); err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	j.keepReserve() // before anything else takes the room
	if err := j.recover(); err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	for _, s := range j.segments {
		j.ages.note(s.first, s.modified)
	}
	j.keepReserve() // what recovery cut off may be the room that was missing
	j.wg.Go(j.keepHouse)
	j.wg.Go(j.keepMarks)
	if j.opt.Sync != SyncNever {
		j.wg.Go(j.syncNotes)
	}
	return j, nil
}

// bounds are the options that may change.
type bounds struct {
	maxSize  int64
	maxAge   time.Duration
	whenFull FullPolicy
}

// SetBounds changes Options.MaxSize, MaxAge and WhenFull, zero values meaning
// the defaults. What is too much for them goes when the next event comes.
func (j *Journal) SetBounds(maxSize int64, maxAge time.Duration, whenFull FullPolicy) {
	o := Options{MaxSize: maxSize, MaxAge: maxAge, WhenFull: whenFull}
	o.setDefaults()
	j.bounds.Store(&bounds{o.MaxSize, o.MaxAge, o.WhenFull})
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
	p, err := j.Submit(events...)
	if err != nil {
		return 0, err
	}
	return p.Wait()
}

// Pending are events that were submitted.
type Pending struct {
	j *Journal
	a *appender
}

// Submit queues events to be stored in the order of the calls and returns at
// once. They are stored when somebody waits for them, for later ones, or
// appends, and in any case within about a second. The error is ErrTooLarge or
// ErrClosed; all others come from Wait, and are counted in Failures.
func (j *Journal) Submit(events ...event.Event) (*Pending, error) {
	a := &appender{events: events, done: make(chan struct{})}
	if size := a.size(); size > j.maxAppend() {
		return nil, fmt.Errorf("%w: %d bytes, of at most %d", ErrTooLarge, size, j.maxAppend())
	} else if n := len(events); size-a.largest() > maxAppendSize || n > maxAppendCount {
		return nil, fmt.Errorf("%w: %d events of %d bytes at once, of at most %d and %d bytes; send fewer at a time", ErrTooLarge, n, size, maxAppendCount, maxAppendSize)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.checkKeys(events); err != nil {
		return nil, err
	}
	if j.closing {
		return nil, ErrClosed
	}
	j.pending = append(j.pending, a)
	return &Pending{j, a}, nil
}

// Wait has the events stored, as Append does, with all that was submitted
// before them, and returns the seq of the last. It may be called by many.
func (p *Pending) Wait() (uint64, error) {
	// Whoever comes first writes for all who wait by then; the others wait
	// for that, or for their turn. No goroutine stands between a caller and
	// the disk.
	select {
	case <-p.a.done:
	case p.j.writing <- struct{}{}:
		p.j.writePending()
		<-p.j.writing
		<-p.a.done
	}
	return p.a.last, p.a.err
}

// Failures is how many events could not be stored since the journal was
// opened. While it stays the same, all that was submitted before something
// that was waited for is stored too.
func (j *Journal) Failures() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.stats.Refused + j.stats.Failed
}

// maxAppend is the most that may be stored at once, in bytes: what leaves room
// for a checkpoint in an empty journal, and for a record that can be read back.
func (j *Journal) maxAppend() int64 { return min(j.bounds.Load().maxSize*3/4, maxBody/2) }

// checkKeys refuses a position under a new key of a source that has too many.
// j.mu is held.
func (j *Journal) checkKeys(events []event.Event) error {
	for i := range events {
		p := &events[i].Position
		keys := j.positions[events[i].Source]
		if len(keys) < maxKeys || p.Key == "" {
			continue
		}
		if _, known := keys[p.Key]; !known {
			return fmt.Errorf("%w: source %q has positions under %d keys already, the most there may be", ErrTooLarge, events[i].Source, len(keys))
		}
	}
	return nil
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
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
	return j.id + "-" + strconv.FormatUint(seq, 10)
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

// Failure returns why the newest events could not be stored, nil if they were
// or if the next may be. While there is no room for what was refused, it says so
// also when smaller ones still find some.
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
	for name, m := range j.marks {
		if m.lost > 0 {
			set(&s.LostBy, name, m.lost)
		}
	}
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
	j.closeNote()
	j.writing <- struct{}{}
	j.writePending()
	j.sealActive()
	<-j.writing
	j.mu.Lock()
	j.closed = true
	j.tellReaders()
	j.mu.Unlock()
	if err := j.saveMarks(); err != nil {
		j.closeErr = fmt.Errorf("close journal: save cursors: %w", err)
	}
	return j.closeErr
}

// newID makes the first half of the event ids of a new journal.
func newID() string { return strings.ToLower(rand.Text()[:8]) }
