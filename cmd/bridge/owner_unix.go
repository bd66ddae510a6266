//go:build unix

package main

import (
	"io/fs"
	"os"
	"os/user"
	"strconv"
	"syscall"
)

// giveTo makes f that of the owner of what info describes, which root alone can.
func giveTo(f *os.File, info fs.FileInfo) error {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || os.Geteuid() != 0 || stat.Uid == 0 && stat.Gid == 0 {
		return nil
	}
	return f.Chown(int(stat.Uid), int(stat.Gid))
}

// foreign names the user beside root and the target's owner whose link, or folder
// with the link, it is. It is empty if there is none, or if this is not root,
// which alone may more than that user.
func foreign(target, link, folder fs.FileInfo) string {
	if os.Geteuid() != 0 {
		return ""
	}
	owner := func(info fs.FileInfo) uint32 {
		if stat, ok := info.Sys().(*syscall.Stat_t); ok {
			return stat.Uid
		}
		return 0
	}
	for _, uid := range []uint32{owner(link), owner(folder)} {
		if uid == 0 || uid == owner(target) {
			continue
		}
		id := strconv.FormatUint(uint64(uid), 10)
		if u, err := user.LookupId(id); err == nil {
			return u.Username
		}
		return id
	}
	return ""
}
