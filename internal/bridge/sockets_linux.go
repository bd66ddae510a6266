package bridge

import (
	"context"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// listenBeside opens a socket though one of ours is in its way, which has the
// same port and an address that overlaps: both then allow each other, and
// nobody else. closed is to be called when the other is gone.
func listenBeside(ours net.Listener, address string) (l net.Listener, closed func(), err error) {
	if err := setReusePort(ours, 1); err != nil {
		return nil, nil, err
	}
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		if outer := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) }); outer != nil {
			return outer
		}
		return err
	}}
	l, err = config.Listen(context.Background(), "tcp", address)
	if err != nil {
		_ = setReusePort(ours, 0)
		return nil, nil, err
	}
	return l, func() { _ = setReusePort(l, 0) }, nil
}

func setReusePort(l net.Listener, value int) (err error) {
	raw, err := l.(syscall.Conn).SyscallConn()
	if err != nil {
		return err
	}
	if outer := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, value) }); outer != nil {
		return outer
	}
	return err
}
