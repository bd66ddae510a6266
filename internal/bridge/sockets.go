package bridge

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
)

// sockets are the listening sockets, by address. Whoever listens gets a
// listener of its own on a socket that may be another's, too: it stays open
// from the first listener to the last, so that no connection is refused while
// one part takes the place of another.
type sockets struct {
	mu   sync.Mutex
	open map[string]*socket // by network and address as configured
}

func newSockets() *sockets { return &sockets{open: map[string]*socket{}} }

// socket is an open one. Each connection goes to whichever listener asks first.
type socket struct {
	net.Listener
	accepted chan accepted
	stop     chan struct{} // closed before the socket is
	users    int           // sockets.mu guards it
}

type accepted struct {
	conn net.Conn
	err  error
}

// listen returns a listener. key names the option that the address is from.
func (s *sockets) listen(key, network, address string) (net.Listener, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := network + " " + address
	open := s.open[name]
	if open == nil {
		l, err := listenOn(key, network, address)
		if err != nil {
			return nil, err
		}
		open = &socket{Listener: l, accepted: make(chan accepted), stop: make(chan struct{})}
		s.open[name] = open
		go open.accept() // ends with the socket
	}
	open.users++
	l := &listener{socket: open, closed: make(chan struct{})}
	l.close = sync.OnceValue(func() error {
		close(l.closed)
		s.mu.Lock()
		defer s.mu.Unlock()
		if open.users--; open.users > 0 {
			return nil
		}
		delete(s.open, name)
		close(open.stop)
		return open.Close()
	})
	return l, nil
}

func (s *socket) accept() {
	for {
		c, err := s.Accept()
		select {
		case s.accepted <- accepted{c, err}: // also errors: whoever serves knows how long to wait
		case <-s.stop:
			if err == nil {
				_ = c.Close()
			}
			return
		}
	}
}

// listener is one user's view of a socket.
type listener struct {
	*socket
	closed chan struct{}
	close  func() error
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case <-l.closed: // also if there is a connection
		return nil, net.ErrClosed
	default:
	}
	select {
	case a := <-l.accepted:
		return a.conn, a.err
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close ends this listener, and the socket if it is the last.
func (l *listener) Close() error { return l.close() }

// listenOn opens a socket.
func listenOn(key, network, address string) (net.Listener, error) {
	if network == "unix" {
		return listenUnix(key, address)
	}
	l, err := net.Listen(network, address)
	switch {
	case err == nil:
		return l, nil
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("cannot listen on %s: another program listens there already; stop it, or choose another address with %s", address, key)
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("cannot listen on %s: this user may not; choose a port above 1023 with %s", address, key)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("cannot listen on %s: this machine does not have that address; correct %s", address, key)
	}
	return nil, fmt.Errorf("cannot listen on %s (%s): %w", address, key, err)
}

// listenUnix opens a unix socket, in place of one that a crash left behind.
// The owner and its group may connect.
func listenUnix(key, path string) (net.Listener, error) {
	if info, err := os.Stat(path); err == nil && info.Mode()&os.ModeSocket != 0 {
		if c, err := net.Dial("unix", path); err == nil {
			_ = c.Close()
			return nil, fmt.Errorf("cannot listen on %s: another program listens there already; stop it, or choose another path with %s", path, key)
		}
		_ = os.Remove(path)
	}
	l, err := net.Listen("unix", path)
	if err == nil {
		err = os.Chmod(path, 0o660)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s (%s): %w", path, key, err)
	}
	return l, nil
}
