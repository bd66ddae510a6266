package tail

import (
	"cmp"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/bmatcuk/doublestar/v4"

	"event2mqtt/internal/event"
)

// This file finds the files to read, under whatever name they go now.

// match returns the paths that the configuration names now, those written to
// longest ago first: rotated files come before their successors.
func (s *Source) match() []string {
	var paths []string
	for _, pattern := range s.config.Paths {
		found, err := doublestar.FilepathGlob(pattern)
		if err != nil {
			s.log.Warn().Err(err).Str("pattern", pattern).Msg("tail: cannot look for files; trying again")
		}
		paths = append(paths, found...)
	}
	return byAge(paths)
}

// byAge sorts paths by when they were last written to. File systems tell that
// to some milliseconds only; where it is the same, the longer name goes first,
// since rotation adds to a name.
func byAge(paths []string) []string {
	slices.Sort(paths)
	paths = slices.Compact(paths)
	written := make(map[string]time.Time, len(paths))
	for _, path := range paths {
		if info, err := os.Stat(path); err == nil {
			written[path] = info.ModTime()
		}
	}
	slices.SortStableFunc(paths, func(a, b string) int {
		return older(written[a], a, written[b], b)
	})
	return paths
}

func older(aWritten time.Time, a string, bWritten time.Time, b string) int {
	return cmp.Or(aWritten.Compare(bWritten), len(b)-len(a))
}

// siblings returns the paths of all files in the folders of those that match:
// where a rotated file may have gone to.
func (s *Source) siblings() []string {
	dirs := map[string]bool{}
	for _, path := range s.match() {
		dirs[filepath.Dir(path)] = true
	}
	for _, pattern := range s.config.Paths {
		base, _ := doublestar.SplitPattern(filepath.ToSlash(pattern))
		dirs[filepath.FromSlash(base)] = true
	}
	var paths []string
	for dir := range dirs {
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, e := range entries {
			paths = append(paths, filepath.Join(dir, e.Name()))
		}
	}
	return byAge(paths)
}

// open opens a regular file.
func (s *Source) open(path string) (*file, bool) {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() {
		return nil, false // a pipe would block
	}
	f, err := os.Open(path)
	if err != nil {
		s.log.Debug().Err(err).Msg("tail: cannot open")
		return nil, false
	}
	if info, err = f.Stat(); err != nil {
		_ = f.Close()
		return nil, false
	}
	id, ok := idOf(info)
	if !ok {
		_ = f.Close()
		return nil, false
	}
	return &file{File: f, id: id, key: id.key(), path: path, home: path, opened: time.Now(), written: info.ModTime(), grew: time.Now()}, true
}

func (s *Source) holds(id fileID) bool {
	return slices.ContainsFunc(s.files, func(f *file) bool { return f.id == id })
}

// discover takes up files that came, and notes which have gone from their
// paths. That a file was seen is kept at once: should it be written to and
// rotated while the program is down, it is known again.
func (s *Source) discover(ctx context.Context, w *watcher) error {
	fresh, present := s.find(w)
	var marks []event.Position
	for _, f := range fresh {
		f.fresh = true
	}
	s.files = append(s.files, fresh...)
	for _, f := range s.files {
		if f.fresh {
			marks = append(marks, s.settle(f)...)
		}
	}
	if len(marks) > 0 {
		if err := s.deliver(ctx, func() error { return s.out.Mark(ctx, marks...) }); err != nil {
			return err
		}
	}
	for _, f := range s.files {
		if path, ok := present[f.id]; ok {
			f.path, f.rotated = path, time.Time{}
		} else if f.rotated.IsZero() {
			f.rotated = time.Now()
		}
	}
	return nil
}

// find returns the files that match and are not being read yet, opened, those
// written to longest ago first, and the paths of all that match.
func (s *Source) find(w *watcher) (fresh []*file, present map[fileID]string) {
	present = map[fileID]string{}
	// A file that is renamed while we look is seen under neither name or
	// under both. Look until nothing new is seen, so that a file is never
	// taken up before its predecessor.
	for again := true; again; {
		again = false
		for _, path := range s.match() {
			w.watch(filepath.Dir(path))
			info, err := os.Stat(path)
			if err != nil || !info.Mode().IsRegular() {
				continue
			}
			id, ok := idOf(info)
			if _, seen := present[id]; !ok || seen {
				continue
			}
			if s.holds(id) {
				present[id] = path
				continue
			}
			f, ok := s.open(path)
			if !ok {
				continue
			}
			if _, seen := present[f.id]; seen || s.holds(f.id) {
				_ = f.Close() // the path has come to mean another file
				continue
			}
			present[f.id] = path
			fresh = append(fresh, f)
			again = true
		}
	}
	slices.SortStableFunc(fresh, func(a, b *file) int { return older(a.written, a.path, b.written, b.path) })
	for _, pattern := range s.config.Paths {
		base, _ := doublestar.SplitPattern(filepath.ToSlash(pattern))
		w.watch(filepath.FromSlash(base))
	}
	return fresh, present
}

// settle decides whether a fresh file is to be read, or is a copy of another,
// as copytruncate makes. A copy waits until its original is truncated: it is
// then read from where that one was, and no line twice. While it is being made
// it cannot be told from a file that begins as another does: for the rotation
// wait it is looked at again. What goes on to grow after that is no copy, and
// neither is what is made where another file was, unless it holds at once what
// that one did. settle returns the positions to keep.
func (s *Source) settle(f *file) (marks []event.Position) {
	info, err := f.Stat()
	if err != nil {
		return nil
	}
	size, late := info.Size(), time.Since(f.opened) >= s.config.RotateWait
	if f.copyOf != nil && (size == f.copied || !late) {
		f.copied = size
		return nil
	}
	follows := slices.ContainsFunc(s.files, func(other *file) bool { return other != f && other.home == f.path })
	wait := size == 0
	for _, other := range s.files {
		if f.copyOf != nil || other == f || other.fresh || other.copyOf != nil || other.offset == 0 || other.headLen < lastSize {
			continue
		}
		if other.matches(f.File) {
			f.fresh, f.copyOf, f.copied, f.home = false, other, size, ""
			return nil
		}
		// Should the other have been truncated just now, the copy is whole at
		// the next look.
		wait = wait || size < other.offset && (sameUpTo(size, f.File, other.File) || !other.matches(other.File))
	}
	if f.fresh && wait && !follows && !late {
		return nil
	}
	f.fresh, f.copyOf, f.home = false, nil, f.path
	s.log.Info().Str("path", f.path).Msg("tail: reading a file that has appeared")
	return []event.Position{{Key: f.key, Value: f.position.append(nil)}}
}

// sameUpTo reports whether two files have the same beginning, as far as the
// first and last of so many bytes tell.
func sameUpTo(size int64, a, b *os.File) bool {
	var inA, inB [headSize]byte
	n := int(min(size, headSize))
	for _, at := range []int64{0, size - int64(n)} {
		if _, err := a.ReadAt(inA[:n], at); err != nil && !errors.Is(err, io.EOF) {
			return false
		}
		if got, _ := b.ReadAt(inB[:n], at); got < n || inA != inB {
			return false
		}
	}
	return true
}
