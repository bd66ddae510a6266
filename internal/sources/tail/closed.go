package tail

import (
	"fmt"
	"path/filepath"
	"strings"

	"event2mqtt/internal/event"
)

// This file is about what cannot be opened when the source starts, and can be
// later: it must not be read from its beginning then.

const (
	// maxWaiting bounds the files that are remembered though they cannot be
	// opened.
	maxWaiting = 10_000
	// maxClosed bounds the paths that are remembered since nothing can be
	// looked at in them.
	maxClosed = 100
	// maxUnseen is how many looks a file that was never opened may be missing
	// before it is forgotten: its inode may be used for another file. In one
	// look a file that is being renamed may be missed.
	maxUnseen = 3
	// closedKey begins the key of a position that says that a path, which
	// follows, could not be looked at on the very first run.
	closedKey = "closed:"
)

// waiting is a file that could not be opened at the start.
type waiting struct {
	position     // how far it is not to be read
	unseen   int // looks in a row that did not find it
}

// await remembers how far a file that cannot be opened is not to be read.
func (s *Source) await(key string, p position) bool {
	if s.waiting[key] != nil || len(s.waiting) >= maxWaiting {
		return false
	}
	s.waiting[key] = &waiting{position: p}
	return true
}

// skipLater notes a file that was found and is not read now. If it was there on
// the very first run, what it held when it was first seen is skipped later.
func (s *Source) skipLater(m found) {
	key := m.id.key()
	if w := s.waiting[key]; w != nil {
		w.unseen = 0
		return
	}
	if m.size == 0 || !s.first.Load() && !s.wasClosed(m.path) {
		return
	}
	if p := (position{offset: m.size, packed: neverOpened}); s.await(key, p) {
		s.later = append(s.later, event.Position{Key: key, Value: p.append(nil)})
	}
}

// closedAtFirst notes a path that cannot be looked at. On the very first run it
// is remembered: what is found there at the first look that can is taken to
// have been there.
func (s *Source) closedAtFirst(path string) {
	if !s.first.Load() && !s.wasClosed(path) || s.closed[path] || len(s.closed) >= maxClosed {
		return
	}
	s.closed[path] = true
	s.later = append(s.later, event.Position{Key: closedKey + path})
}

// wasClosed reports whether path is, or is in, one that could not be looked at
// until now.
func (s *Source) wasClosed(path string) bool {
	for closed := range s.closed {
		if path == closed || strings.HasPrefix(path, strings.TrimSuffix(closed, "/")+string(filepath.Separator)) {
			return true
		}
	}
	return false
}

// takeUp decides about a file that can be opened now. done means that it is
// followed from the right place on, or tried again; marks are to be kept.
func (s *Source) takeUp(f *file) (done bool, marks []event.Position) {
	w := s.waiting[f.key]
	var err error
	switch size, written, statErr := f.stat(); {
	case statErr != nil:
		err = statErr
	case w != nil && w.packed != neverOpened:
		delete(s.waiting, f.key)
		if !w.matches(f.File) {
			return false, nil // not the file it was
		}
		f.position = w.position
		err = s.beginFile(f, size)
	case w != nil && size < w.offset: // it was truncated, so all of it is new
		delete(s.waiting, f.key)
		return false, nil
	case w != nil:
		err = s.skipTo(f, w.offset, written)
	case s.wasClosed(f.path):
		err = s.skipTo(f, size, written)
	default:
		return false, nil
	}
	if err != nil {
		s.cannot(f.path, fmt.Errorf("find the place to go on: %w", err))
		s.close(f)
		return true, nil
	}
	delete(s.waiting, f.key)
	delete(s.missing, f.key)
	s.follow(f)
	s.changed[f] = true
	s.log.Info().Str("path", f.path).Int64("offset", f.offset).Msg("tail: reading on in a file that could not be read before")
	return true, []event.Position{positionOf(f)}
}

// forgetWaiting forgets the files that were never opened and are gone, and the
// paths that could be looked at in this look.
func (s *Source) forgetWaiting() {
	for key, w := range s.waiting {
		if w.unseen++; w.packed == neverOpened && w.unseen > maxUnseen {
			delete(s.waiting, key)
			s.out.Forget(key)
		}
	}
	for path := range s.closed {
		if !s.troubles.has(path) {
			delete(s.closed, path)
			s.out.Forget(closedKey + path)
		}
	}
}

// cannotOpen notes a file that cannot be opened, unless it is gone.
func (s *Source) cannotOpen(m found, err error) {
	if isGone(err) {
		return
	}
	s.cannot(m.path, err)
	s.skipLater(m)
}
