package listen

import (
	"context"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// listenBeside opens a socket though some of ours are in its way, which have the
// same port and an address that overlaps: they then allow each other, and
// others of this user, until alone is called.
func listenBeside(ours []net.Listener, address string) (l net.Listener, err error) {
	for _, other := range ours {
		if err := setReusePort(other, 1); err != nil {
			return nil, err
		}
	}
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		if outer := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) }); outer != nil {
			return outer
		}
		return err
	}}
	if l, err = config.Listen(context.Background(), "tcp", address); err != nil {
		for _, other := range ours {
			alone(other)
		}
	}
	return l, err
}

// alone lets nobody listen beside a socket any more.
func alone(l net.Listener) { _ = setReusePort(l, 0) }

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
