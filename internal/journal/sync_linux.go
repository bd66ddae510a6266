package journal

import (
	"os"
	"syscall"
)

// syncData leaves out what fsync would write beside the data and the size:
// half the time of an fsync where the file does not grow.
func syncData(f diskFile) error {
	for {
		if err := syscall.Fdatasync(int(f.fd)); err != syscall.EINTR {
			return os.NewSyscallError("fdatasync", err)
		}
	}
}
