//go:build unix

package accounts

import (
	"os"
	"path/filepath"
	"syscall"
)

// lock waits for a file to be ours alone.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		_ = f.Close()
		return nil, err
	}
	return func() { _ = f.Close() }, nil
}

// giveToOwnerOfFolder makes a file and its lock the property of whoever has
// the folder, if we are root.
func giveToOwnerOfFolder(path string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	info, err := os.Stat(filepath.Dir(path))
	if err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok || owner.Uid == 0 {
		return nil
	}
	_ = os.Chown(path+".lock", int(owner.Uid), int(owner.Gid))
	return os.Chown(path, int(owner.Uid), int(owner.Gid))
}
