package file

import "syscall"

// room is how much can be written to the disk of a folder, in bytes, by whoever
// is not root.
func room(dir string) (free uint64, known bool) {
	var s syscall.Statfs_t
	if syscall.Statfs(dir, &s) != nil || s.Bsize <= 0 {
		return 0, false
	}
	return s.Bavail * uint64(s.Bsize), true
}
