package tail

import (
	"bytes"
	"context"
	"strings"
	"time"

	"event2mqtt/internal/event"
)

// This file decides where to begin.

// begin takes up what was read before: also files that were renamed while
// nobody looked are read to their end. On the very first run it decides where
// to begin in the files that are there.
func (s *Source) begin(ctx context.Context, w *watcher) error {
	stored := s.out.Positions()
	if _, s.ran = stored[startedKey]; !s.ran {
		return s.beginAnew(ctx, w)
	}
	delete(stored, startedKey)
	for key, value := range stored {
		path, closed := strings.CutPrefix(key, closedKey)
		p, ok := parsePosition(value)
		switch {
		case closed:
			s.closed[path] = true
		case ok && p.packed == neverOpened && s.await(key, p):
		default:
			continue
		}
		delete(stored, key)
	}
	// A file that is renamed while a folder is listed may be left out.
	for try := 0; len(stored) > 0 && try < 3; try++ {
		s.resume(stored)
	}
	// A file that is not there may come back, such as when a path was mistyped
	// for a while; what was read of it must not be read again. It may also have
	// been compressed.
	s.missing = map[string]position{}
	room := max(0, s.config.MaxFiles-len(s.files))
	for key, value := range stored {
		p, ok := parsePosition(value)
		if !ok || len(s.missing) >= room {
			s.out.Forget(key)
			continue
		}
		s.missing[key] = p
		// What is so short may say the same by chance, in a new file that has
		// the inode of one that is gone.
		if p.offset >= lastSize {
			s.await(key, p)
		}
		s.log.Debug().Str("file", key).Msg("tail: a file that was read before is not there")
	}
	return nil
}

// resume takes up the files of stored positions that it finds, and takes those
// off stored.
func (s *Source) resume(stored map[string][]byte) {
	for _, m := range s.siblings() {
		value, known := stored[m.id.key()]
		if !known || s.byID[m.id] != nil || len(s.files) >= s.config.MaxFiles {
			continue
		}
		p, ok := parsePosition(value)
		f := newFile(m)
		if !ok {
			continue
		}
		if err := s.hold(f); err != nil {
			if !isGone(err) {
				s.await(f.key, p)
			}
			continue
		}
		if !p.matches(f.File) {
			s.close(f) // not the file it was
			continue
		}
		delete(stored, f.key)
		f.position = p
		s.follow(f)
		s.changed[f] = true
		if s.beginFile(f, m.size) != nil {
			continue // it is tried again when it is read
		}
	}
}

// beginAnew decides where to begin, and keeps that: what is written from now
// on is new, also if the program ends before the first line.
func (s *Source) beginAnew(ctx context.Context, w *watcher) error {
	s.first.Store(s.config.Start == startEnd)
	fresh, _ := s.find(w)
	s.settleTroubles()
	var marks []event.Position
	for _, f := range fresh {
		if s.config.Start == startEnd {
			if err := s.skipToEnd(f); err != nil {
				s.close(f)
				if m, gone := glance(f.path); gone == nil && m.id == f.id {
					s.cannotOpen(m, err)
				}
				continue
			}
		}
		s.follow(f)
		s.changed[f] = true
		marks = append(marks, positionOf(f))
	}
	// That it has run is kept last: were only a part of the positions kept, the
	// next start would begin anew.
	marks = append(append(marks, s.later...), event.Position{Key: startedKey})
	s.first.Store(false)
	s.later = nil
	return s.mark(ctx, marks)
}

// skipToEnd moves behind the last whole line, or to the very end if nothing
// was added for so long that what is there without a line end is a line.
func (s *Source) skipToEnd(f *file) error {
	s.pinned = f
	if err := s.hold(f); err != nil {
		return err
	}
	size, written, err := f.stat()
	if err != nil {
		return err
	}
	return s.skipTo(f, size, written)
}

// skipTo moves behind the last whole line before a place, as skipToEnd does.
func (s *Source) skipTo(f *file, size int64, written time.Time) error {
	if err := s.beginFile(f, size); err != nil {
		return err
	}
	if f.magic() != "" {
		f.skipPacked(size)
		return nil
	}
	if s.config.FlushAfter > 0 && time.Since(written) > s.config.FlushAfter {
		n, err := readAt(f.File, s.buf[:min(lastSize, size)], max(0, size-lastSize))
		if err != nil {
			return err
		}
		f.read(size, s.buf[:n])
		f.extendHead(f.File)
		return nil
	}
	unit := int64(f.charset.Unit())
	for end := size - (size-int64(f.bom))%unit; end > int64(f.bom); {
		from := max(0, end-int64(len(s.buf)))
		n, err := readAt(f.File, s.buf[:end-from], from)
		if err != nil {
			return err
		}
		if i := lastLine(f, s.buf[:n], from); i > 0 {
			f.read(from+int64(i), s.buf[:i])
			break
		}
		end = from
	}
	f.extendHead(f.File)
	return nil
}

// lastLine returns the bytes to behind the last line feed in data, which stands
// at a place in the file; 0 if there is none.
func lastLine(f *file, data []byte, at int64) int {
	feed, unit := f.charset.LineFeed(), int64(f.charset.Unit())
	for end := len(data); ; {
		i := bytes.LastIndex(data[:end], feed)
		if i < 0 {
			return 0
		}
		if (at+int64(i)-int64(f.bom))%unit == 0 {
			return i + len(feed)
		}
		end = i + len(feed) - 1
	}
}
