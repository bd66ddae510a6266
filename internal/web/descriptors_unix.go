//go:build unix

package web

import "golang.org/x/sys/unix"

// descriptors is how many files and connections this process may have open; 0
// if that is not known.
func descriptors() int {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return 0
	}
	return int(min(uint64(limit.Cur), 1<<20))
}
