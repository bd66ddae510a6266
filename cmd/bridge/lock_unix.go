//go:build unix

package main

import (
	"errors"
	"os"
	"syscall"
	"time"
)

// folderPatience is how long lockFolder waits for another command.
const folderPatience = 10 * time.Second

// lockFolder keeps other commands from the files in a folder. The lock leaves no
// file behind, and ends with the process. Where the system gives none, as on
// some mounts, there is none: the files are compared before they are replaced.
func lockFolder(dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return func() {}, nil //nolint:nilerr // a folder that may be written to, but not read
	}
	for until := time.Now().Add(folderPatience); ; time.Sleep(10 * time.Millisecond) {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EWOULDBLOCK) || time.Now().After(until) {
			break
		}
	}
	if errors.Is(err, syscall.EWOULDBLOCK) {
		_ = f.Close()
		return nil, errors.New("another command has been changing it for 10 seconds; try again when that is done")
	}
	return func() { _ = f.Close() }, nil
}
