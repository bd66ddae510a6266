// Package tail is the source that reads lines from files as they are written,
// through renames, truncation and restarts, each whole line once. How far it
// has read is stored with the events themselves, so after a crash it goes on
// at the exact byte. It reads; it never writes to a file, locks one or
// removes one.
package tail

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/fsnotify/fsnotify"
	"github.com/rs/zerolog"

	"event2mqtt/internal/event"
	"event2mqtt/internal/journal"
	"event2mqtt/internal/sources"
)

const (
	// maxBatch bounds the lines that are stored together.
	maxBatch = 512
	// readSize is the first size of the read buffer, which grows to the
	// longest line allowed.
	readSize = 64 << 10
)

// Source is a tail source.
type Source struct {
	config Config
	parser parser
	log    zerolog.Logger

	// Of Run.
	out       sources.Output
	files     []*file // in the order they were found
	buf       []byte
	batch     []event.Event
	positions []byte // memory of the batch's positions
	paused    bool
	thorough  bool // this round looks at everything
	skipped   int  // lines that made no event
	lastSkip  time.Time
	cut       int // lines that were too long
	lastCut   time.Time
}

// startedKey is the key of a position that says that the source has run: what
// it finds from then on is new.
const startedKey = "started"

// file is a file being read.
type file struct {
	*os.File
	id   fileID
	key  string // of its positions
	path string
	position
	// home is the path where it was found first, at opened; "" of a copy.
	home   string
	opened time.Time
	// fresh is as long as nothing is read, since the file may turn out to be a
	// copy that is being made.
	fresh bool
	// copyOf is the file that this one is a copy of. As long as that one is
	// not truncated, it is read and this is not, but that it grows by itself.
	copyOf *file
	copied int64 // the size that it had then
	// truncated is set when that was seen; copies are looked for before it
	// counts.
	truncated bool
	// longTo is how far a line that is too long was searched for its end.
	longTo int64
	// written is when it was written to last, as of opening it.
	written time.Time
	// seen is when it had been written to last when it was read last.
	seen time.Time
	// rotated is when no path led to the file any more; zero while one does.
	rotated time.Time
	grew    time.Time
}

// New makes a source; the error is that of Check.
func New(c Config, log zerolog.Logger) (*Source, error) {
	re, err := c.compile()
	if err != nil {
		return nil, err
	}
	s := &Source{config: c, log: log}
	s.parser = parser{&s.config, re}
	return s, nil
}

// Run implements sources.Source. Files that cannot be read are no error: they
// are tried again.
func (s *Source) Run(ctx context.Context, out sources.Output) error {
	s.out, s.files, s.batch = out, nil, nil
	s.buf = make([]byte, readSize)
	defer func() {
		for _, f := range s.files {
			_ = f.Close()
		}
	}()
	watcher := newWatcher(s.log)
	defer watcher.close()
	if err := s.begin(ctx, watcher); err != nil {
		return err
	}
	out.Ready()
	poll := time.NewTicker(s.config.Poll)
	defer poll.Stop()
	look := true // for files that came or went
	for {
		if look {
			if err := s.discover(ctx, watcher); err != nil {
				return nil // ctx has ended
			}
		}
		s.thorough = look
		if err := s.readAll(ctx); err != nil {
			return err
		}
		if look = slices.ContainsFunc(s.files, func(f *file) bool { return f.truncated }); look && ctx.Err() == nil {
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-poll.C:
			look = true
		case change := <-watcher.events():
			look = change.Op&^fsnotify.Write != 0
			for range len(watcher.events()) { // one round serves them all
				change := <-watcher.events()
				look = look || change.Op&^fsnotify.Write != 0
			}
		case err := <-watcher.errors():
			s.log.Debug().Err(err).Msg("tail: missed file changes; looking at all files")
			look = true
		}
	}
}

// Probe opens the files that there are, and returns how many; the error tells
// which cannot be read.
func (s *Source) Probe() (files int, err error) {
	for _, path := range s.match() {
		f, openErr := os.Open(path)
		if openErr != nil {
			err = errors.Join(err, openErr)
			continue
		}
		_ = f.Close()
		files++
	}
	return files, err
}

// begin takes up what was read before: also files that were renamed while
// nobody looked are read to their end. On the very first run it decides where
// to begin in the files that are there.
func (s *Source) begin(ctx context.Context, w *watcher) error {
	stored := s.out.Positions()
	if len(stored) == 0 {
		return s.beginAnew(ctx, w)
	}
	delete(stored, startedKey)
	// A file that is renamed while a folder is listed may be left out.
	for try := 0; len(stored) > 0 && try < 3; try++ {
		s.resume(stored)
	}
	// A file that is not there may come back, such as when a path was mistyped
	// for a while; what was read of it must not be read again.
	const most = 100
	for key := range stored {
		if len(stored) > most {
			s.out.Forget(key)
		}
		s.log.Debug().Str("file", key).Msg("tail: a file that was read before is not there")
	}
	return nil
}

// resume opens the files of stored positions that it finds, and takes those
// off stored.
func (s *Source) resume(stored map[string][]byte) {
	for _, path := range s.siblings() {
		f, ok := s.open(path)
		if !ok {
			continue
		}
		p, known := parsePosition(stored[f.key])
		if !known || !p.matches(f.File) {
			_ = f.Close() // not ours, or not the file it was
			continue
		}
		delete(stored, f.key)
		f.position = p
		s.files = append(s.files, f)
	}
}

// beginAnew decides where to begin, and keeps that: what is written from now
// on is new, also if the program ends before the first line.
func (s *Source) beginAnew(ctx context.Context, w *watcher) error {
	fresh, _ := s.find(w)
	marks := []event.Position{{Key: startedKey}}
	for _, f := range fresh {
		if s.config.Start == startEnd {
			if err := s.skipToEnd(f); err != nil {
				s.log.Warn().Err(err).Str("path", f.path).Msg("tail: cannot read; trying again")
				_ = f.Close()
				continue
			}
		}
		s.files = append(s.files, f)
		marks = append(marks, event.Position{Key: f.key, Value: f.position.append(nil)})
	}
	return s.deliver(ctx, func() error { return s.out.Mark(ctx, marks...) })
}

// skipToEnd moves behind the last whole line.
func (s *Source) skipToEnd(f *file) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	for end := info.Size(); end > 0; {
		from := max(0, end-int64(len(s.buf)))
		n, err := f.ReadAt(s.buf[:end-from], from)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if i := bytes.LastIndexByte(s.buf[:n], '\n'); i >= 0 {
			f.read(from+int64(i)+1, s.buf[:i+1])
			break
		}
		end = from
	}
	f.extendHead(f.File)
	return nil
}

// readAll reads every file to its present end.
func (s *Source) readAll(ctx context.Context) error {
	keep := s.files[:0]
	for _, f := range s.files {
		err := s.readFile(ctx, f)
		if ctx.Err() != nil {
			return nil // files are closed by Run
		}
		if err != nil {
			s.log.Warn().Err(err).Str("path", f.path).Msg("tail: cannot read; trying again")
		}
		if s.finished(ctx, f) {
			_ = f.Close()
			s.out.Forget(f.key)
			if err := s.releaseCopies(ctx, f); err != nil {
				return err
			}
			f.position = position{} // nothing is a copy of it any more
			continue
		}
		keep = append(keep, f)
	}
	clear(s.files[len(keep):])
	s.files = keep
	return nil
}

// finished reports whether a rotated file has been read to its end and its
// writer had time to let go of it. What is then left without a line end is
// taken for a line: nobody will finish it.
func (s *Source) finished(ctx context.Context, f *file) bool {
	if f.rotated.IsZero() || time.Since(f.rotated) < s.config.RotateWait || time.Since(f.grew) < s.config.RotateWait {
		return false
	}
	if f.copyOf != nil {
		return true // its original has the lines
	}
	n, err := f.ReadAt(s.buf[:min(len(s.buf), int(s.config.MaxLine))], f.offset)
	if n > 0 && (err == nil || errors.Is(err, io.EOF)) {
		s.add(f, s.buf[:n], f.offset+int64(n), false)
		return s.flush(ctx) == nil
	}
	return true
}

// readFile reads the whole lines that f holds now and stores them.
func (s *Source) readFile(ctx context.Context, f *file) error {
	known := f.truncated
	f.truncated = false
	if f.fresh || f.copyOf != nil {
		if marks := s.settle(f); len(marks) > 0 {
			if err := s.deliver(ctx, func() error { return s.out.Mark(ctx, marks...) }); err != nil {
				return err
			}
		}
	}
	if f.fresh || f.copyOf != nil {
		return nil
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	// A file that was truncated and has grown to the very same size is told by
	// its time, or, where that is too coarse, at the next look at all files.
	if info.Size() == f.offset && f.offset > 0 && info.ModTime().Equal(f.seen) && !s.thorough {
		return nil
	}
	f.seen = info.ModTime()
	if info.Size() < f.offset || !f.matches(f.File) {
		if !known {
			f.truncated = true
			return nil
		}
		s.log.Info().Str("path", f.path).Msg("tail: the file was truncated; reading it from its beginning")
		if err := s.releaseCopies(ctx, f); err != nil {
			return err
		}
		f.position, f.longTo = position{}, 0
	}
	for {
		n, err := f.ReadAt(s.buf, f.offset)
		if err != nil && !errors.Is(err, io.EOF) {
			return errors.Join(err, s.flush(ctx))
		}
		used := s.takeLines(f, s.buf[:n])
		if used > 0 {
			f.grew = time.Now()
			f.extendHead(f.File)
		}
		if err := s.flush(ctx); err != nil {
			return err
		}
		switch {
		case n < len(s.buf) && used == 0, n == 0:
			return nil // at the end, or within a line that is not finished
		case used > 0:
		case len(s.buf) < int(s.config.MaxLine):
			s.buf = make([]byte, min(2*len(s.buf), int(s.config.MaxLine)))
		default:
			if done, err := s.cutLine(ctx, f); done || err != nil {
				return err
			}
		}
	}
}

// releaseCopies lets the copies of f be read on from where f was read to, or
// from their ends if f has been read further: these were not made to truncate f.
func (s *Source) releaseCopies(ctx context.Context, f *file) error {
	for _, c := range s.files {
		if c == nil || c.copyOf != f {
			continue
		}
		c.copyOf = nil
		if f.matches(c.File) {
			c.position = f.position
		} else if err := s.skipToEnd(c); err != nil {
			return err
		}
		s.log.Info().Str("path", c.path).Str("of", f.path).Msg("tail: going on in a copy where its original was read to")
		mark := event.Position{Key: c.key, Value: c.position.append(nil)}
		if err := s.deliver(ctx, func() error { return s.out.Mark(ctx, mark) }); err != nil {
			return err
		}
	}
	return nil
}

// takeLines adds the whole lines in data, which begins at f's offset, and
// returns how many bytes they have.
func (s *Source) takeLines(f *file, data []byte) (used int) {
	start := f.offset
	for used < len(data) && len(s.batch) < maxBatch {
		i := bytes.IndexByte(data[used:], '\n')
		if i < 0 {
			break
		}
		line := data[used : used+i+1]
		used += len(line)
		if len(line)-1 > int(s.config.MaxLine) {
			s.addCut(f, line[:s.config.MaxLine], line, start+int64(used))
			continue
		}
		s.add(f, line, start+int64(used), false)
	}
	return used
}

// cutLine looks for the end of a line that is too long. done means that its
// end is not there yet.
func (s *Source) cutLine(ctx context.Context, f *file) (done bool, err error) {
	head := bytes.Clone(s.buf[:s.config.MaxLine])
	at := max(f.longTo, f.offset+int64(len(s.buf)))
	for {
		n, err := f.ReadAt(s.buf, at)
		if err != nil && !errors.Is(err, io.EOF) {
			return true, err
		}
		if i := bytes.IndexByte(s.buf[:n], '\n'); i >= 0 {
			f.longTo = 0
			s.addCut(f, head, s.buf[:i+1], at+int64(i)+1)
			return false, s.flush(ctx)
		}
		at += int64(n)
		if n == 0 {
			f.longTo = at
			return true, nil
		}
	}
}

func (s *Source) addCut(f *file, head, last []byte, to int64) {
	if s.cut++; time.Since(s.lastCut) > time.Minute { // without filling the log
		s.lastCut = time.Now()
		s.log.Warn().Str("path", f.path).Int64("offset", f.offset).Int("cut", s.cut).Msgf("tail: a line is longer than max_line (%s) and was cut", s.config.MaxLine)
	}
	s.addLine(f, head, last, to, true)
}

func (s *Source) add(f *file, line []byte, to int64, cut bool) { s.addLine(f, line, line, to, cut) }

// addLine makes an event of a line and puts it into the batch. last is the end
// of what was read, to behind the line.
func (s *Source) addLine(f *file, line, last []byte, to int64, cut bool) {
	f.read(to, last)
	if len(bytes.TrimSpace(line)) == 0 {
		return
	}
	e, why, ok := s.parser.parse(bytes.TrimRight(line, "\r\n"), cut)
	if !ok {
		s.skip(f, why)
		return
	}
	from := len(s.positions)
	s.positions = f.position.append(s.positions)
	e.Position = event.Position{Key: f.key, Value: s.positions[from:len(s.positions):len(s.positions)]}
	s.batch = append(s.batch, e)
}

// skip notes a line that made no event, without filling the log.
func (s *Source) skip(f *file, why string) {
	s.skipped++
	if time.Since(s.lastSkip) < time.Minute {
		return
	}
	s.lastSkip = time.Now()
	s.log.Warn().Str("path", f.path).Int("skipped", s.skipped).Msg("tail: a line is passed over: " + why)
}

// flush stores the batch; it waits for as long as that is not possible.
func (s *Source) flush(ctx context.Context) error {
	if len(s.batch) == 0 {
		return nil
	}
	defer func() {
		clear(s.batch)
		s.batch = s.batch[:0]
		s.positions = nil // the journal keeps the values
	}()
	err := s.deliver(ctx, func() error {
		_, err := s.out.Emit(ctx, s.batch...)
		return err
	})
	if _, refused := errors.AsType[*event.Refused](err); !refused {
		return err
	}
	for i := range s.batch { // find the one; the others go on
		err := s.deliver(ctx, func() error {
			_, err := s.out.Emit(ctx, s.batch[i])
			return err
		})
		if r, refused := errors.AsType[*event.Refused](err); refused {
			s.skipped++
			s.log.Warn().Str("event", s.batch[i].Name).Msg("tail: a line is passed over: " + r.Reason)
			err = s.deliver(ctx, func() error { return s.out.Mark(ctx, s.batch[i].Position) })
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// deliver calls store until it works, ctx ends, or what is stored is refused
// for good.
func (s *Source) deliver(ctx context.Context, store func() error) error {
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = 50*time.Millisecond, 5*time.Second
	for {
		err := store()
		if _, refused := errors.AsType[*event.Refused](err); err == nil || refused || ctx.Err() != nil {
			if err == nil && s.paused {
				s.paused = false
				s.log.Info().Msg("tail: reading again")
			}
			return err
		}
		if errors.Is(err, journal.ErrClosed) {
			return err
		}
		if !s.paused {
			s.paused = true
			s.log.Warn().Err(err).Msg("tail: events cannot be stored; reading pauses until they can")
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause.NextBackOff()):
		}
	}
}
