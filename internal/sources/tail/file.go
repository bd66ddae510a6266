package tail

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"event2mqtt/internal/decode"
)

// This file is about files and their descriptors: of many files only some are
// held open.

// file is a file being read.
type file struct {
	*os.File // nil as long as it is not held open
	used     time.Time

	id    fileID
	key   string // of its positions
	order int    // files are read in the order in which they were found
	path  string
	position

	// What the file's beginning tells, once it was read.
	charset  decode.Charset
	bom      int    // bytes of its byte order mark
	header   []byte // the first line, where the format needs it
	first    [firstSize]byte
	firstLen int // bytes of first that are known

	// home is the path where it was found first, at opened; "" of a copy.
	home string
	// length is its size when it was looked at last, and behind what is
	// counted of it in measures.
	length, behind int64
	opened         time.Time
	// fresh is as long as nothing is read, since the file may turn out to be a
	// copy that is being made.
	fresh bool
	// copyOf is the file that this one is a copy of. As long as that one is
	// not truncated, it is read and this is not, but that it grows by itself.
	copyOf *file
	copied int64 // the size that it had then
	// byChance is set if the two are so short that they may say the same by
	// chance.
	byChance bool
	// truncated is set when that was seen; copies are looked for before it
	// counts, in a look after the one that noticed has the number.
	truncated bool
	shrank    bool // and not only changed
	noticed   int
	// longTo is how far a line that is too long was searched for its end.
	longTo int64
	// written is when it was written to last, as of finding it.
	written time.Time
	// size and seen are its size and when it had been written to when it was
	// read last; checked is when its content was last compared with position.
	size    int64
	seen    time.Time
	checked time.Time
	// touched is when it was said to be written to though nothing had changed.
	touched time.Time
	// wrote is set when the system said that it was written to. suspected is
	// the time that it then had, without being longer than what was read.
	wrote       bool
	suspected   time.Time
	suspectedAt time.Time
	// restTried is the size at which its last line, which has no end, was found
	// not to be whole.
	restTried int64
	// unpacking is set while a compressed file is not whole yet.
	unpacking bool
	// damage is why a compressed file could not be read as it is now.
	damage error
	// rotated is when no path led to the file any more; zero while one does.
	rotated time.Time
	grew    time.Time
}

func newFile(m found) *file {
	now := time.Now()
	return &file{id: m.id, key: m.id.key(), path: m.path, home: m.path, opened: now, written: m.written, grew: now, restTried: -1}
}

// firstSize is how much of each file's beginning is kept in memory, to tell
// without reading that a file is no copy of it.
const firstSize = 16

// fileID is a file's device and inode, where the system has them.
type fileID struct{ dev, ino uint64 }

func (id fileID) key() string { return fmt.Sprintf("%x:%x", id.dev, id.ino) }

// errMoved says that a path does not lead to the file any more.
var errMoved = errors.New("the path leads to another file")

// hold opens f unless it is open. Where too many are, the one that was not
// used for the longest time is closed.
func (s *Source) hold(f *file) error {
	f.used = time.Now()
	if f.File != nil {
		return nil
	}
	info, err := os.Stat(f.path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() { // to open a pipe would block
		return errMoved
	}
	for len(s.held) >= s.maxOpen && s.letGo() {
	}
	opened, err := os.Open(f.path)
	if err != nil {
		return err
	}
	if info, err = opened.Stat(); err == nil {
		if id, ok := idOf(info); !ok || id != f.id {
			err = errMoved
		}
	}
	if err != nil {
		_ = opened.Close()
		return err
	}
	f.File = opened
	s.held = append(s.held, f)
	return nil
}

// letGo closes the file that was not used for the longest time, and reports
// whether there was one. Files that no path leads to stay open: they could not
// be opened again.
func (s *Source) letGo() bool {
	var oldest *file
	for _, f := range s.held {
		if f.rotated.IsZero() && f != s.pinned && (oldest == nil || f.used.Before(oldest.used)) {
			oldest = f
		}
	}
	if oldest == nil {
		return false
	}
	s.close(oldest)
	return true
}

// close closes f's descriptor; the file is still followed.
func (s *Source) close(f *file) {
	if f.File == nil {
		return
	}
	_ = f.Close() // it was read only
	f.File = nil
	s.held = slices.DeleteFunc(s.held, func(h *file) bool { return h == f })
}

// closeQuiet closes files that nothing was written to for a while.
func (s *Source) closeQuiet() {
	for _, f := range slices.Clone(s.held) {
		if f.rotated.IsZero() && time.Since(f.used) > quietAfter && time.Since(f.grew) > quietAfter {
			s.close(f)
		}
	}
}

// stat returns f's size and when it was written to last.
func (f *file) stat() (size int64, written time.Time, err error) {
	var info os.FileInfo
	if f.File != nil {
		info, err = f.Stat()
	} else if info, err = os.Stat(f.path); err == nil {
		if id, ok := idOf(info); !ok || id != f.id {
			err = errMoved
		}
	}
	if err != nil {
		return 0, time.Time{}, err
	}
	return info.Size(), info.ModTime(), nil
}

// asSeen reports whether a file of that size, written to then, needs no look:
// nothing has changed since it was read. What was changed in the same moment in
// which it was read may look the same; until the file system's clock must have
// moved on it is compared once more. That clock is the kernel's tick, or, where
// no fraction is kept, as coarse as FAT's.
func (f *file) asSeen(size int64, written time.Time) bool {
	coarse := 40 * time.Millisecond
	if written.Nanosecond() == 0 {
		coarse = 2 * time.Second
	}
	return size == f.size && (written.Equal(f.seen) || written.Equal(f.touched)) && f.checked.Sub(written) > coarse
}

// beginFile reads what the file's beginning tells, once there is one. What was
// known of it when something was read stays: should the file be truncated and
// written anew, that still tells its copies.
func (s *Source) beginFile(f *file, size int64) error {
	if f.firstLen == firstSize || f.firstLen > 0 && f.offset > 0 || size == 0 {
		return nil
	}
	var head [headSize]byte
	n, err := readAt(f.File, head[:min(headSize, size)], 0)
	if err != nil || n == 0 {
		return err
	}
	f.charset, f.bom = s.lines.Charset(head[:n])
	f.firstLen = copy(f.first[:], head[:n])
	return nil
}

// follow takes f into the files that are read.
func (s *Source) follow(f *file) {
	s.lastOrder++
	f.order = s.lastOrder
	s.files = append(s.files, f)
	s.byID[f.id], s.byPath[f.path] = f, f
	s.measures.files.Store(int64(len(s.byID)))
}

// unfollow ends that; the caller takes f off s.files.
func (s *Source) unfollow(f *file) {
	s.close(f)
	f.length = 0
	s.measure(f)
	delete(s.byID, f.id)
	s.measures.files.Store(int64(len(s.byID)))
	delete(s.restless, f)
	delete(s.changed, f)
	if s.byPath[f.path] == f {
		delete(s.byPath, f.path)
	}
}

// moveTo notes the path that leads to f now.
func (s *Source) moveTo(f *file, path string) {
	if f.path != path && s.byPath[f.path] == f {
		delete(s.byPath, f.path)
	}
	f.path, s.byPath[path] = path, f
}

// succeeds reports whether f, of which nothing was read yet, may have taken the
// place of another that was rotated.
func (f *file) succeeds(other *file) bool {
	return f.offset == 0 && filepath.Dir(f.path) == filepath.Dir(other.path) && (related(other.path, f.path) || related(f.path, other.path))
}

// related reports whether a file's name is made of another's, as rotation makes
// it: app.log.1 and app-2023.log are of app.log.
func related(name, of string) bool {
	base := filepath.Base(of)
	stem := base[:len(base)-len(filepath.Ext(base))]
	return stem != "" && len(filepath.Base(name)) > len(stem) && filepath.Base(name)[:len(stem)] == stem
}
