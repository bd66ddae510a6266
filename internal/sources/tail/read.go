package tail

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"time"

	"event2mqtt/internal/event"
)

// This file reads what was added to a file.

func isGone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, errMoved) }

// readFile reads the whole entries that f holds now and stores them.
func (s *Source) readFile(ctx context.Context, f *file) error {
	if f.truncated && f.noticed == s.looks {
		return nil // copies are looked for first
	}
	known := f.truncated
	f.truncated = false
	if f.fresh || f.copyOf != nil {
		if err := s.mark(ctx, s.settle(f)); err != nil {
			return err
		}
	}
	if f.fresh || f.copyOf != nil {
		return nil
	}
	size, written, err := f.stat()
	if err != nil {
		return err
	}
	f.length = size
	s.measure(f) // it may take a while to get rid of it
	if f.packed == packedDone && size == f.size || f.offset == size && f.offset > 0 && f.asSeen(size, written) && !f.wrote {
		return nil
	}
	s.pinned = f
	if err := s.hold(f); err != nil {
		return err
	}
	if err := s.beginFile(f, size); err != nil {
		return err
	}
	if f.packed != notPacked || f.magic() != "" {
		return s.readPacked(ctx, f, size, written)
	}
	same, anew := size >= f.offset && f.matches(f.File), false
	switch {
	case same:
		f.checked = time.Now()
		if anew = f.writtenAnew(size, written); !f.suspected.IsZero() {
			return nil
		}
		anew = anew || known && f.shrank
	case !known:
		f.truncated, f.shrank, f.noticed = true, size < f.offset, s.looks
		return nil
	}
	if !same || anew {
		if err := s.fromTheBeginning(ctx, f, same); err != nil {
			return err
		}
		if err := s.beginFile(f, size); err != nil {
			return err
		}
		if f.magic() != "" {
			return s.readPacked(ctx, f, size, written)
		}
	}
	if size == f.offset {
		f.touched = written
		if f.seen.IsZero() {
			f.seen, f.size = written, size
		}
		return nil
	}
	if err := s.readTo(ctx, f, size); err != nil {
		return err
	}
	if size != f.size || !written.Equal(f.seen) {
		f.grew, f.restTried = time.Now(), -1
	}
	f.size, f.seen, f.wrote = size, written, false
	return s.takeRest(ctx, f, size)
}

// writtenAnew reports whether f, which holds what was read of it and no more,
// was written anew with the same text: the system has told of a writing, and
// the time says so. It is sure of it only when nothing else comes for a moment;
// until then f is suspected.
func (f *file) writtenAnew(size int64, written time.Time) bool {
	if size != f.offset || !f.wrote || written.Equal(f.seen) || f.seen.IsZero() || f.offset == 0 {
		f.suspected = time.Time{}
		if size == f.offset {
			f.wrote = false
		}
		return false
	}
	if !f.suspected.Equal(written) {
		f.suspected, f.suspectedAt = written, time.Now()
		return false
	}
	if time.Since(f.suspectedAt) < confirm {
		return false
	}
	f.suspected, f.wrote = time.Time{}, false
	return true
}

// fromTheBeginning reads f from its beginning: it is not what it was.
func (s *Source) fromTheBeginning(ctx context.Context, f *file, anew bool) error {
	what := "tail: the file was truncated; reading it from its beginning"
	if anew {
		what = "tail: the file was written anew with the same text; reading it from its beginning"
	}
	s.log.Info().Str("path", f.path).Msg(what)
	if err := s.releaseCopies(ctx, f); err != nil {
		return err
	}
	f.position, f.longTo, f.header, f.restTried = position{}, 0, nil, -1
	f.suspected, f.seen, f.first, f.firstLen = time.Time{}, time.Time{}, [firstSize]byte{}, 0
	return nil
}

// readTo reads the whole entries of f up to size, and no further: what comes
// after was written at another time.
func (s *Source) readTo(ctx context.Context, f *file, size int64) error {
	for {
		n, err := readAt(f.File, s.buf[:max(0, min(int64(len(s.buf)), size-f.offset))], f.offset)
		if err != nil {
			return errors.Join(err, s.flush(ctx))
		}
		used, err := s.takeEntries(f, s.buf[:n], false)
		if err != nil {
			return err
		}
		if used > 0 {
			f.extendHead(f.File)
		}
		if err := s.flushFull(ctx); err != nil {
			return err
		}
		switch {
		case n < len(s.buf) && used == 0, n == 0:
			return nil // at the end, or within an entry that is not finished
		case used > 0:
		case s.overHole(f, size):
		case len(s.buf) < s.most():
			s.buf = make([]byte, min(2*len(s.buf), s.most()))
		default:
			if done, err := s.cutLine(ctx, f, size); done || err != nil {
				return err
			}
		}
	}
}

// most is the size of the buffer that holds any entry.
func (s *Source) most() int { return int(s.config.MaxLine) }

// overHole moves f over a buffer full of NUL bytes, as a file begins with whose
// writer does not append and was truncated under it. What is written behind
// them must be there.
func (s *Source) overHole(f *file, size int64) bool {
	if holes(s.buf) < len(s.buf) {
		return false
	}
	at := f.offset + int64(len(s.buf))
	if data, err := f.Seek(at, seekData); err == nil && data > at {
		at = min(data, size)
	}
	buf := make([]byte, readSize)
	for at < size {
		n, err := readAt(f.File, buf[:min(int64(len(buf)), size-at)], at)
		if err != nil || n == 0 {
			return false
		}
		if skip := holes(buf[:n]); skip < n {
			at += int64(skip)
			at -= (at - int64(f.bom)) % int64(f.charset.Unit())
			f.read(at, make([]byte, min(lastSize, at)))
			return true
		}
		at += int64(n)
	}
	return false // nothing is behind it yet
}

// holes returns with how many NUL bytes data begins.
func holes(data []byte) int { return len(data) - len(bytes.TrimLeft(data, "\x00")) }

// takeEntries adds the whole entries in data, which begins at f's offset, and
// returns how many bytes they have. With rest data is taken to its end.
func (s *Source) takeEntries(f *file, data []byte, rest bool) (used int, err error) {
	start := f.offset
	if start == 0 && len(data) >= f.bom {
		used = f.bom
	}
	for used < len(data) && !s.batch.full() {
		text := data[used:]
		skip := holes(text)
		if skip -= skip % f.charset.Unit(); skip == len(text) {
			break // what is behind the hole is not there yet
		}
		n := s.lines.Split(f.charset, text[skip:], rest)
		if n == 0 {
			break
		}
		if err := s.needHeader(f); err != nil {
			return 0, err
		}
		entry := text[skip : skip+n]
		used += skip + n
		if n-f.charset.Unit() > s.most() {
			s.addCut(f, entry[:s.most()], data[:used], start+int64(used))
			continue
		}
		s.add(f, entry, data[:used], start+int64(used), false)
	}
	if used == f.bom && start == 0 {
		used = 0 // the mark alone is nothing
	}
	return used, nil
}

// needHeader reads the first line of a file whose format needs it.
func (s *Source) needHeader(f *file) error {
	if s.config.Format != "csv" || f.header != nil || f.packed != notPacked {
		return nil
	}
	const most = 64 << 10
	head := make([]byte, min(most, s.most()))
	n, err := readAt(f.File, head, 0)
	if err != nil {
		return err
	}
	head = head[min(f.bom, n):n]
	f.header = bytes.Clone(head[:firstLine(f, head)])
	return nil
}

func firstLine(f *file, head []byte) int {
	feed := f.charset.LineFeed()
	for at := 0; ; at++ {
		i := bytes.Index(head[at:], feed)
		if i < 0 {
			return len(head)
		}
		if at += i; at%f.charset.Unit() == 0 {
			return at + len(feed)
		}
	}
}

// takeRest takes what is left of f without a line end, or as an entry that may
// go on, if nothing was added for a while. JSON that is not whole stays.
func (s *Source) takeRest(ctx context.Context, f *file, size int64) error {
	if s.config.FlushAfter == 0 || f.offset >= size || f.restTried == size || time.Since(f.grew) < s.config.FlushAfter {
		return nil
	}
	f.restTried = size
	n, err := readAt(f.File, s.buf[:min(int64(len(s.buf)), size-f.offset)], f.offset)
	if err != nil || int64(n) < size-f.offset {
		return err // a line that is too long is not cut before its end
	}
	data := s.buf[:n]
	skip := holes(data)
	if f.offset == 0 {
		skip = max(skip, f.bom)
	}
	if skip >= n {
		return nil
	}
	if s.holdsJSON() {
		if events, _ := s.lines.Events(f.charset, data[skip:], f.header, false); len(events) == 0 {
			return nil // a part of a text
		}
	}
	for f.offset < size {
		data := s.buf[n-int(size-f.offset) : n]
		used, err := s.takeEntries(f, data, true)
		if err != nil || used == 0 {
			return err
		}
		f.extendHead(f.File)
		if err := s.flush(ctx); err != nil {
			return err
		}
	}
	return nil
}

// holdsJSON reports whether entries tell by themselves that they are whole.
func (s *Source) holdsJSON() bool {
	switch s.config.Format {
	case "json", "docker", "journald":
		return true
	}
	return false
}

// cutLine looks for the end of a line that is too long. done means that its
// end is not there yet.
func (s *Source) cutLine(ctx context.Context, f *file, size int64) (done bool, err error) {
	head := bytes.Clone(s.buf[:s.most()])
	at := max(f.longTo, f.offset+int64(len(s.buf)))
	for {
		n, err := readAt(f.File, s.buf[:max(0, min(int64(len(s.buf)), size-at))], at)
		if err != nil {
			return true, err
		}
		if end := lineEnd(f, s.buf[:n], at); end > 0 {
			f.longTo = 0
			s.addCut(f, head, s.buf[:end], at+int64(end))
			return false, s.flush(ctx)
		}
		if n -= n % f.charset.Unit(); n == 0 {
			f.longTo = at
			return true, nil
		}
		at += int64(n)
	}
}

// lineEnd returns the bytes to behind the first line feed in data, which stands
// at a place in the file; 0 if there is none.
func lineEnd(f *file, data []byte, at int64) int {
	feed, unit := f.charset.LineFeed(), int64(f.charset.Unit())
	for from := 0; ; from++ {
		i := bytes.Index(data[from:], feed)
		if i < 0 {
			return 0
		}
		if from += i; (at+int64(from)-int64(f.bom))%unit == 0 {
			return from + len(feed)
		}
	}
}

func (s *Source) addCut(f *file, head, last []byte, to int64) {
	if s.cut++; time.Since(s.lastCut) > time.Minute { // without filling the log
		s.lastCut = time.Now()
		s.log.Warn().Str("path", f.path).Int64("offset", f.offset).Int("cut", s.cut).Msgf("tail: a line is longer than max_line (%s) and was cut", s.config.MaxLine)
	}
	s.add(f, head, last, to, true)
}

// add makes events of an entry and puts them into the batch. last is the end
// of what was read, to behind the entry.
func (s *Source) add(f *file, entry, last []byte, to int64, cut bool) {
	f.read(to, last)
	events, why := s.lines.Events(f.charset, entry, f.header, cut)
	if why != "" {
		s.skip("path", f.path, why)
	}
	s.batch.add(f, events)
}

// position of a file's last event.
func positionOf(f *file) event.Position {
	return event.Position{Key: f.key, Value: f.position.append(nil)}
}
