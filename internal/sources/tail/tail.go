// Package tail is the source that reads lines from files as they are written,
// through renames, truncation and restarts, each whole line once. How far it
// has read is stored with the events themselves, so after a crash it goes on
// at the exact byte. It reads; it never writes to a file, locks one or
// removes one. What the lines mean is known to its package lines.
package tail

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/rs/zerolog"

	"event2mqtt/internal/event"
	"event2mqtt/internal/sources"
	"event2mqtt/internal/sources/tail/lines"
)

const (
	// readSize is the first size of the read buffer, which grows to the
	// longest line allowed.
	readSize = 64 << 10
	// quietAfter is how long a file is held open that nothing is written to.
	quietAfter = 2 * time.Minute
	// A look at all files that took a time t is followed by another, which a
	// change asks for, after lookBusy times t, and by one without reason after
	// lookIdle times t, so that idling takes much less than a hundredth of the
	// processor. maxLook and maxIdle bound these.
	lookBusy = 10
	lookIdle = 400
	maxLook  = 30 * time.Second
	maxIdle  = 2 * time.Minute
	// confirm is how long a file must stay as it is to be taken for one that
	// was written anew with the same text: a writer that appends may be seen
	// after its time was set and before its length was.
	confirm = 20 * time.Millisecond
)

// Type is this kind of source.
var Type = sources.Type{Name: "tail", Options: func() sources.Options { return &Config{} }}

// Exclusive implements sources.Options: two would deliver each line twice.
func (c *Config) Exclusive() bool { return true }

// Hints are for options that other sources have.
func (c *Config) Hints() map[string]string {
	return map[string]string{"preset": "is for webhooks; what a log looks like is its format: write format: docker, journald, nginx, syslog and so on"}
}

// Build implements sources.Options.
func (c *Config) Build(d sources.Deps) (sources.Source, error) { return New(*c, d.Log) }

// Source is a tail source.
type Source struct {
	config   Config
	lines    *lines.Reader
	log      zerolog.Logger
	troubles troubles
	skips    skips
	measures measures

	// Of Run, which alone uses them.
	out       sources.Output
	maxOpen   int
	files     []*file // in the order they were found
	lastOrder int
	byID      map[fileID]*file
	byPath    map[string]*file
	homes     map[string]int // how many files were found there first
	held      []*file        // that are open
	pinned    *file          // stays open
	changed   map[*file]bool // to be read in this round
	restless  map[*file]bool // to be looked at in each round
	missing   map[string]position
	waiting   map[string]*waiting // could not be opened at the start; by key
	closed    map[string]bool     // paths that could not be looked at on the very first run
	later     []event.Position    // of these two, to be kept
	first     atomic.Bool         // while the very first run skips to the ends
	wanted    bool                // a look at all files
	soonest   time.Time           // when it may be
	latest    time.Time           // when it is, wanted or not
	looks     int                 // that were taken
	sorted    bool                // since this run began
	left      int                 // files that were too many
	buf       []byte
	batch     batch
	cut       int // lines that were too long
	lastCut   time.Time
	ran       bool // before this start
}

// startedKey is the key of a position that says that the source has run: what
// it finds from then on is new.
const startedKey = "started"

// New makes a source; the error is that of Check.
func New(c Config, log zerolog.Logger) (*Source, error) {
	c.Prepare()
	if err := c.Check(); err != nil {
		return nil, err
	}
	reader, err := lines.New(c.Config, log)
	if err != nil {
		return nil, err
	}
	return &Source{config: c, lines: reader, log: log}, nil
}

// Run implements sources.Source. Files that cannot be read are no error: they
// are tried again.
func (s *Source) Run(ctx context.Context, out sources.Output) error {
	s.reset(out)
	defer func() {
		for len(s.held) > 0 {
			s.close(s.held[0])
		}
	}()
	watcher := newWatcher(s.log)
	defer watcher.close()
	if err := s.begin(ctx, watcher); err != nil {
		return err
	}
	out.Ready()
	timer := time.NewTimer(0)
	defer timer.Stop()
	poll := time.Now()
	for {
		now := time.Now()
		if s.wanted && !now.Before(s.soonest) || !now.Before(s.latest) {
			if err := s.discover(ctx, watcher); err != nil {
				return nil // ctx has ended
			}
		}
		if !now.Before(poll) {
			poll = now.Add(s.config.Poll)
			s.closeQuiet()
			for _, f := range s.held {
				s.changed[f] = true
			}
		}
		if err := s.readChanged(ctx); err != nil {
			return err
		}
		timer.Reset(time.Until(s.nextRound(poll)))
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case change := <-watcher.events():
			s.note(change)
			for range len(watcher.events()) { // one round serves them all
				s.note(<-watcher.events())
			}
		case err := <-watcher.errors():
			s.log.Debug().Err(err).Msg("tail: missed file changes; looking at all files")
			s.wanted = true
		}
	}
}

func (s *Source) reset(out sources.Output) {
	s.out = out
	s.files, s.held, s.pinned, s.lastOrder, s.sorted = nil, nil, nil, 0, false
	s.byID, s.byPath, s.homes = map[fileID]*file{}, map[string]*file{}, map[string]int{}
	s.changed, s.restless, s.missing = map[*file]bool{}, map[*file]bool{}, map[string]position{}
	s.waiting, s.closed, s.later = map[string]*waiting{}, map[string]bool{}, nil
	s.wanted, s.soonest, s.latest, s.left = true, time.Time{}, time.Time{}, 0
	s.batch, s.buf = batch{}, make([]byte, readSize)
	s.measures.files.Store(0)
	s.measures.behind.Store(0)
	const least = 4
	s.maxOpen = max(least, min(s.config.MaxOpen, maxDescriptors()/4))
}

// nextRound is when there is something to do though nothing is told.
func (s *Source) nextRound(poll time.Time) time.Time {
	next := poll
	earlier := func(t time.Time) {
		if t.Before(next) {
			next = t
		}
	}
	if s.wanted {
		earlier(s.soonest)
	}
	earlier(s.latest)
	if len(s.restless) > 0 {
		earlier(time.Now().Add(time.Second))
	}
	for f := range s.restless {
		if !f.suspected.IsZero() {
			earlier(f.suspectedAt.Add(confirm))
		}
	}
	return next
}

// note takes down what the system tells.
func (s *Source) note(change fsnotify.Event) {
	f := s.byPath[change.Name]
	if f != nil {
		s.changed[f] = true
		f.wrote = f.wrote || change.Has(fsnotify.Write)
	}
	if change.Op&^fsnotify.Write != 0 && (f == nil || change.Op&^fsnotify.Chmod != 0) {
		s.wanted = true
	}
}

// readChanged reads the files that have changed, and looks at those that wait
// for something, in the order in which they were found.
func (s *Source) readChanged(ctx context.Context) error {
	round := make([]*file, 0, len(s.changed)+len(s.restless))
	for f := range s.changed {
		round = append(round, f)
	}
	for f := range s.restless {
		if !s.changed[f] {
			round = append(round, f)
		}
	}
	clear(s.changed)
	slices.SortFunc(round, func(a, b *file) int { return cmp.Compare(a.order, b.order) })
	gone := false
	var cut []*file // truncated, and not read from their beginnings before the next look
	for _, f := range round {
		if slices.ContainsFunc(cut, f.succeeds) {
			s.changed[f] = true
			continue
		}
		known := f.truncated
		err := s.readFile(ctx, f)
		s.measure(f)
		if ctx.Err() != nil {
			return nil // files are closed by Run
		}
		if errors.Is(err, sources.ErrClosed) {
			return err
		}
		if err != nil {
			s.failed(f, err)
		}
		if f.truncated {
			s.wanted = s.wanted || !known // for copies
			cut = append(cut, f)
		}
		if !f.rotated.IsZero() {
			if err := s.flush(ctx); err != nil { // before its position goes
				return s.ended(ctx, err)
			}
		}
		done, err := s.finished(ctx, f)
		if err != nil {
			return err
		}
		if done {
			gone = true
			continue
		}
		if s.waits(f) {
			s.restless[f] = true
		} else {
			delete(s.restless, f)
		}
	}
	if err := s.flush(ctx); err != nil {
		return s.ended(ctx, err)
	}
	if gone {
		s.files = slices.DeleteFunc(s.files, func(f *file) bool { return s.byID[f.id] != f })
	}
	return nil
}

// ended is nil if err is there because ctx has ended.
func (s *Source) ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// failed notes that f could not be read.
func (s *Source) failed(f *file, err error) {
	if isGone(err) {
		s.wanted = s.wanted || f.rotated.IsZero()
		return
	}
	s.cannot(f.path, err)
	s.changed[f] = true // it is tried again at the next poll
}

// waits reports whether f is to be looked at though nothing tells of it.
func (s *Source) waits(f *file) bool {
	rest := s.config.FlushAfter > 0 && f.packed == notPacked && f.offset < f.size && f.restTried != f.size
	return f.fresh || f.copyOf != nil || f.truncated || !f.rotated.IsZero() || !f.suspected.IsZero() || rest || f.unpacking
}

// finished reports whether a rotated file has been read to its end and its
// writer had time to let go of it; it is then followed no more. What is left
// without a line end is taken for a line: nobody will finish it.
func (s *Source) finished(ctx context.Context, f *file) (bool, error) {
	if f.rotated.IsZero() || time.Since(f.rotated) < s.config.RotateWait || time.Since(f.grew) < s.config.RotateWait {
		return false, nil
	}
	if f.copyOf == nil && !f.fresh && f.packed == notPacked && s.hold(f) == nil { // else its original has the lines
		n, err := readAt(f.File, s.buf[:min(len(s.buf), int(s.config.MaxLine))], f.offset)
		if n > 0 && err == nil {
			s.add(f, s.buf[:n], s.buf[:n], f.offset+int64(n), false)
			if err := s.flush(ctx); err != nil {
				return false, nil // ctx has ended, or it is tried again
			}
		}
	}
	s.out.Forget(f.key)
	const most = 1000
	if len(s.missing) < most && f.packed == notPacked && f.copyOf == nil {
		s.missing[f.key] = f.position // it may be found again, compressed
	}
	if err := s.releaseCopies(ctx, f); err != nil {
		return false, err
	}
	f.position = position{} // nothing is a copy of it any more
	s.unfollow(f)
	return true, nil
}
