package tail

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/bmatcuk/doublestar/v4"

	"event2mqtt/internal/event"
)

// This file finds the files to read, under whatever name they go now.

// found is a regular file as it was seen.
type found struct {
	path    string
	id      fileID
	size    int64
	written time.Time
}

// glance looks at a path; ok is false where there is no regular file.
func glance(path string) (m found, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return m, err
	}
	if !info.Mode().IsRegular() {
		return m, kindError{info.Mode()}
	}
	id, ok := idOf(info)
	if !ok {
		return m, errors.New("the file system does not tell files apart")
	}
	return found{path, id, info.Size(), info.ModTime()}, nil
}

// match returns the files that the configuration names now, those written to
// longest ago first: rotated files come before their successors.
func (s *Source) match() []found {
	var matches []found
	seen := map[string]bool{}
	for _, pattern := range s.config.Paths {
		for _, path := range s.glob(pattern) {
			if seen[path] || s.config.excludes(path) {
				continue
			}
			seen[path] = true
			m, err := glance(path)
			var kind kindError
			switch {
			case err == nil:
				matches = append(matches, m)
			case errors.Is(err, fs.ErrNotExist):
			case errors.As(err, &kind) && !named(pattern, path): // a glob may well match a folder
			default:
				s.cannot(path, err)
				s.closedAtFirst(path)
			}
		}
	}
	slices.SortFunc(matches, func(a, b found) int { return older(a.written, a.path, b.written, b.path) })
	return matches
}

// named reports whether a pattern is a path written out.
func named(pattern, path string) bool {
	return escape(path) == pattern || filepath.Clean(pattern) == path
}

// glob returns the paths that match a pattern, and notes the folders that may
// not be looked into.
func (s *Source) glob(pattern string) (paths []string) {
	literal, rest := asWritten(filepath.ToSlash(filepath.Clean(pattern)))
	if rest == "" {
		return []string{filepath.FromSlash(literal)}
	}
	for _, pattern := range slices.Compact([]string{pattern, escape(literal) + "/" + rest}) {
		base, below := doublestar.SplitPattern(filepath.ToSlash(filepath.Clean(pattern)))
		matches, err := doublestar.Glob(folders{os.DirFS(base), base, s}, below)
		if err != nil {
			s.cannot(pattern, err)
		}
		for _, m := range matches {
			paths = append(paths, filepath.FromSlash(path.Join(base, m)))
		}
	}
	return paths
}

// asWritten splits a pattern into what exists exactly as it is written, though
// [ ] or { } in it would mean something in a glob, and the rest of the pattern;
// that is empty if the pattern is a path.
func asWritten(pattern string) (literal, rest string) {
	steps := strings.Split(strings.TrimPrefix(pattern, "/"), "/")
	for i, step := range steps {
		next := literal + "/" + step
		if strings.ContainsAny(step, `*?`) {
			return literal, strings.Join(steps[i:], "/")
		}
		if strings.ContainsAny(step, `[]{}\`) {
			if _, err := os.Lstat(filepath.FromSlash(next)); err != nil {
				return literal, strings.Join(steps[i:], "/")
			}
		}
		literal = next
	}
	return literal, ""
}

// escape makes a pattern of a path that matches it alone.
func escape(path string) string {
	return strings.NewReplacer(`\`, `\\`, `[`, `\[`, `]`, `\]`, `{`, `\{`, `}`, `\}`, `*`, `\*`, `?`, `\?`).Replace(path)
}

// folders is a file system that notes which of its folders cannot be listed.
type folders struct {
	fs.FS
	base string
	s    *Source
}

func (f folders) ReadDir(name string) ([]fs.DirEntry, error) {
	entries, err := fs.ReadDir(f.FS, name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
		path := filepath.Join(f.base, filepath.FromSlash(name))
		f.s.cannot(path, err)
		f.s.closedAtFirst(path)
	}
	return entries, err
}

func (f folders) Stat(name string) (fs.FileInfo, error) { return fs.Stat(f.FS, name) }

// older sorts by when files were last written to. File systems tell that to
// some milliseconds only; where it is the same, the longer name goes first,
// since rotation adds to a name.
func older(aWritten time.Time, a string, bWritten time.Time, b string) int {
	return cmp.Or(aWritten.Compare(bWritten), len(b)-len(a), strings.Compare(a, b))
}

// siblings returns all files in the folders of those that match: where a
// rotated file may have gone to.
func (s *Source) siblings() []found {
	all := s.match()
	dirs, seen := map[string]bool{}, map[string]bool{}
	for _, m := range all {
		dirs[filepath.Dir(m.path)], seen[m.path] = true, true
	}
	for _, pattern := range s.config.Paths {
		base, _ := doublestar.SplitPattern(filepath.ToSlash(pattern))
		dirs[filepath.FromSlash(base)] = true
	}
	for dir := range dirs {
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			if seen[path] {
				continue
			}
			if m, err := glance(path); err == nil {
				all = append(all, m)
			}
		}
	}
	slices.SortFunc(all, func(a, b found) int { return older(a.written, a.path, b.written, b.path) })
	return all
}

// discover takes up files that came, and notes which have gone from their
// paths. That a file was seen is kept at once: should it be written to and
// rotated while the program is down, it is known again.
func (s *Source) discover(ctx context.Context, w *watcher) error {
	began := time.Now()
	s.looks++
	fresh, present := s.find(w)
	s.settleTroubles()
	var marks []event.Position
	for _, f := range fresh {
		if done, mark := s.takeUp(f); done {
			marks = append(marks, mark...)
			continue
		}
		f.fresh = true
		s.follow(f)
		s.restless[f] = true
	}
	if !s.sorted {
		s.sortAll()
	}
	s.countHomes()
	for _, f := range s.files {
		if f.fresh {
			marks = append(marks, s.settle(f)...)
		}
	}
	marks = append(marks, s.later...)
	if err := s.mark(ctx, marks); err != nil {
		return err
	}
	s.later = nil
	s.forgetWaiting()
	var astray []*file
	for _, f := range s.files {
		if path, ok := present[f.id]; ok {
			s.moveTo(f, path)
			f.rotated = time.Time{}
			continue
		}
		if f.rotated.IsZero() {
			f.rotated = time.Now()
		}
		s.restless[f] = true
		if f.File == nil {
			astray = append(astray, f)
		}
	}
	s.chase(astray)
	took := time.Since(began)
	s.wanted, s.soonest = false, time.Now().Add(min(lookBusy*took, maxLook))
	s.latest = time.Now().Add(max(s.config.Poll, min(lookIdle*took, maxIdle)))
	return nil
}

// sortAll has all files read in the order in which they were written to last. That
// is for the first look of a run: a file that was truncated shortly before the
// program ended, or while it was down, is not known again, and comes before a
// younger one that is.
func (s *Source) sortAll() {
	s.sorted = true
	slices.SortStableFunc(s.files, func(a, b *file) int { return a.written.Compare(b.written) }) // else those that are known are first
	for i, f := range s.files {
		f.order = i + 1
	}
	s.lastOrder = len(s.files)
}

// chase finds the paths of files that match no more and are not held open.
func (s *Source) chase(astray []*file) {
	byDir := map[string]map[fileID]*file{}
	for _, f := range astray {
		dir := filepath.Dir(f.path)
		if byDir[dir] == nil {
			byDir[dir] = map[fileID]*file{}
		}
		byDir[dir][f.id] = f
	}
	for dir, files := range byDir {
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, e := range entries {
			if m, err := glance(filepath.Join(dir, e.Name())); err == nil && files[m.id] != nil {
				s.moveTo(files[m.id], m.path)
			}
		}
	}
}

// find returns the files that match and are not being read yet, opened, those
// written to longest ago first, and the paths of all that match.
func (s *Source) find(w *watcher) (fresh []*file, present map[fileID]string) {
	present = map[fileID]string{}
	// A file that is renamed while we look is seen under neither name or
	// under both. Look until nothing new is seen, so that a file is never
	// taken up before its predecessor.
	left := 0
	for again := true; again; {
		again = false
		matches := s.match()
		left = 0
		var unknown []found
		for _, m := range matches {
			w.watch(filepath.Dir(m.path))
			f := s.byID[m.id]
			if f != nil && !f.asSeen(m.size, m.written) {
				s.changed[f] = true // also if it has grown since it was seen the first time here
			}
			if _, seen := present[m.id]; seen {
				continue
			}
			if f == nil {
				unknown = append(unknown, m)
				continue
			}
			present[m.id] = m.path
		}
		if room := max(0, s.config.MaxFiles-len(s.files)-len(fresh)); len(unknown) > room {
			left = len(unknown) - room
			for _, m := range unknown[:left] {
				s.skipLater(m)
			}
			unknown = unknown[left:]
		}
		for _, m := range unknown {
			if _, seen := present[m.id]; seen {
				continue
			}
			f := newFile(m)
			if err := s.hold(f); err != nil {
				s.cannotOpen(m, err)
				continue
			}
			present[f.id] = m.path
			fresh = append(fresh, f)
			again = true
		}
	}
	s.sayLeft(left)
	slices.SortStableFunc(fresh, func(a, b *file) int { return older(a.written, a.path, b.written, b.path) })
	for _, pattern := range s.config.Paths {
		literal, rest := asWritten(filepath.ToSlash(filepath.Clean(pattern)))
		if rest == "" {
			literal = path.Dir(literal)
		}
		w.watch(filepath.FromSlash(cmp.Or(literal, "/")))
	}
	return fresh, present
}

// sayLeft says once how many files are too many.
func (s *Source) sayLeft(left int) {
	if left == 0 {
		s.left = 0
		return
	}
	what := "more files match than max_files allows; those written to longest ago are not read: raise max_files, or narrow paths with exclude"
	s.troubles.add("max_files", what)
	if s.left == 0 {
		s.log.Warn().Int("not_read", left).Int("max_files", s.config.MaxFiles).Msg("tail: " + what)
	}
	s.left = left
}
