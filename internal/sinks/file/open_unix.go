//go:build unix

package file

import (
	"io/fs"
	"os"
	"syscall"
)

// openFlags: a pipe or a link that was put in the file's place since it was
// looked at is neither waited for nor followed.
const openFlags = syscall.O_NONBLOCK | syscall.O_NOFOLLOW

// lock takes the file for this sink, until it is closed.
func lock(f *os.File) error { return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) }

// unlinked reports whether a file that is open has no name any more.
func unlinked(info fs.FileInfo) bool {
	s, ok := info.Sys().(*syscall.Stat_t)
	return ok && s.Nlink == 0
}
