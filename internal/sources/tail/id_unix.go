//go:build unix

package tail

import (
	"os"
	"syscall"
)

func idOf(info os.FileInfo) (fileID, bool) {
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fileID{}, false
	}
	return fileID{uint64(s.Dev), uint64(s.Ino)}, true //nolint:unconvert // their types differ between systems
}

// ownerOf returns the numbers of a file's user and group.
func ownerOf(info os.FileInfo) (uid, gid uint32, ok bool) {
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, 0, false
	}
	return s.Uid, s.Gid, true
}

// maxDescriptors is how many descriptors the system allows this program.
func maxDescriptors() int {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) != nil {
		return 256
	}
	return int(min(uint64(limit.Cur), 1<<20)) //nolint:unconvert // its type differs between systems
}

// seekData is lseek's SEEK_DATA: on to what is not a hole.
const seekData = 3
