//go:build unix

package accounts

import (
	"os"
	"path/filepath"
	"syscall"
)

// lock waits for a file to be ours alone.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if uid, gid, ok := ownerOfFolder(path); ok {
		_ = f.Chown(uid, gid) // root may make what a service of another user has to open
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		_ = f.Close()
		return nil, err
	}
	return func() { _ = f.Close() }, nil
}

// giveToOwnerOfFolder makes a file the property of whoever has the folder, if
// we are root.
func giveToOwnerOfFolder(path string) error {
	if uid, gid, ok := ownerOfFolder(path); ok {
		return os.Lchown(path, uid, gid)
	}
	return nil
}

// ownerOfFolder returns who has the folder of a file, if we are root and it is
// somebody else.
func ownerOfFolder(path string) (uid, gid int, ok bool) {
	info, err := os.Stat(filepath.Dir(path))
	if os.Geteuid() != 0 || err != nil {
		return 0, 0, false
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	return int(owner.Uid), int(owner.Gid), ok && owner.Uid != 0
}
