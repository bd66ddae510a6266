// Package listen opens listening sockets that can be handed on: one part of the
// program takes over an address from another, or widens it, and no connection
// is refused in between. It knows nothing of what is served.
package listen

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Address is what can be listened on, as configured.
type Address struct {
	Network string // tcp or unix
	Text    string // host and port, or a path
}

// Overlaps reports whether only one of two addresses can be listened on.
func (a Address) Overlaps(other Address) bool {
	if a.Network != "tcp" || other.Network != "tcp" {
		return a == other
	}
	host, port, _ := net.SplitHostPort(a.Text)
	otherHost, otherPort, _ := net.SplitHostPort(other.Text)
	all := func(host string) bool { ip := net.ParseIP(host); return host == "" || ip != nil && ip.IsUnspecified() }
	same := func(a string) bool { return slices.Contains(hostsOf(otherHost), a) }
	return port == otherPort && port != "0" && (all(host) || all(otherHost) || slices.ContainsFunc(hostsOf(host), same))
}

// Option is an address with the option that it is from.
type Option struct {
	Key  string // of the option
	Kind string // what is spoken there, if that needs to be said
	At   Address
}

// IsLoopback reports whether a host can be reached from this machine alone.
func IsLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == Localhost || ip != nil && ip.IsLoopback()
}

// Sockets are the listening sockets, by address. Whoever listens gets a
// listener of its own on a socket that may be another's, too: it stays open
// from the first listener to the last, so that no connection is refused while
// one part takes the place of another. It is safe for concurrent use.
type Sockets struct {
	mu   sync.Mutex
	open map[Address]*socket
}

// New returns a set without any socket.
func New() *Sockets { return &Sockets{open: map[Address]*socket{}} }

// socket is an open one. Each connection goes to whichever listener asks first.
type socket struct {
	net.Listener
	at       Address
	accepted chan accepted
	stop     chan struct{} // closed when the last listener is
	ended    chan struct{} // closed when the socket is
	// Sockets.mu guards these.
	refs        int
	overlapping []*socket // of ours, on addresses that overlap
	successor   *socket   // one of them, which takes over the connections that nobody has accepted
}

type accepted struct {
	conn net.Conn
	err  error
}

// Listen returns a listener. key names the option that the address is from. The
// host localhost is both loopbacks of this machine. Errors say what to do.
func (s *Sockets) Listen(key string, at Address) (net.Listener, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if host, port, err := net.SplitHostPort(at.Text); err == nil && at.Network == "tcp" && strings.EqualFold(host, Localhost) {
		return s.listenLocal(key, port)
	}
	return s.listenOne(key, at)
}

// listenOne returns a listener on one address. s.mu is held.
func (s *Sockets) listenOne(key string, at Address) (*listener, error) {
	open := s.open[at]
	if open == nil {
		open = &socket{at: at, accepted: make(chan accepted), stop: make(chan struct{}), ended: make(chan struct{})}
		if err := s.openSocket(key, open); err != nil {
			return nil, err
		}
		s.open[at] = open
		go open.accept() // ends with the socket
	}
	open.refs++
	l := &listener{socket: open, of: s, closed: make(chan struct{})}
	l.closeLocked = sync.OnceFunc(func() {
		close(l.closed)
		if open.refs--; open.refs == 0 {
			delete(s.open, at)
			open.end()
		}
	})
	return l, nil
}

// Addresses are what is listened on for an address as configured, after Listen.
func (s *Sockets) Addresses(at Address) (all []net.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	host, port, err := net.SplitHostPort(at.Text)
	if err != nil || at.Network != "tcp" || !strings.EqualFold(host, Localhost) {
		if open := s.open[at]; open != nil {
			all = append(all, open.Addr())
		}
		return all
	}
	for _, host := range loopbacks {
		if open := s.open[Address{"tcp", net.JoinHostPort(host, port)}]; open != nil {
			all = append(all, open.Addr())
			port = portOf(open) // of the other, too
		}
	}
	return all
}

// openSocket opens a socket, also where one of ours that is to be closed has an
// address that overlaps: 0.0.0.0:1883 after 127.0.0.1:1883. s.mu is held.
func (s *Sockets) openSocket(key string, fresh *socket) (err error) {
	for _, other := range s.open {
		if other.at.Network == "tcp" && fresh.at.Overlaps(other.at) {
			fresh.overlapping = append(fresh.overlapping, other)
		}
	}
	if fresh.overlapping == nil {
		fresh.Listener, err = listenOn(key, fresh.at)
		return err
	}
	var ours []net.Listener
	for _, other := range fresh.overlapping {
		ours = append(ours, other.Listener)
	}
	if fresh.Listener, err = listenBeside(ours, fresh.at.Text); err != nil {
		return fmt.Errorf("cannot listen on %s beside %s (%s): %w; restart the program for that", fresh.at.Text, fresh.overlapping[0].at.Text, key, err)
	}
	for _, other := range fresh.overlapping {
		other.overlapping = append(other.overlapping, fresh)
		other.successor = fresh
	}
	return nil
}

// accept accepts connections until the socket ends.
func (s *socket) accept() {
	defer close(s.ended)
	defer s.Close()
	for {
		c, err := s.Accept()
		select {
		case s.accepted <- accepted{c, err}: // also errors: whoever serves knows how long to wait
		case <-s.stop:
			if err == nil {
				s.passOn(c)
			}
			s.drain()
			return
		}
	}
}

// drain accepts what waits in the socket, if there is a successor for it: closing
// would reset it. As long as the socket is open more may come, so it takes but
// a moment.
func (s *socket) drain() {
	const whole, pause = 50 * time.Millisecond, time.Millisecond
	for last := time.Now().Add(whole); s.successor != nil && time.Now().Before(last) && s.SetDeadline(time.Now().Add(pause)) == nil; {
		c, err := s.Accept()
		if err != nil {
			return
		}
		s.passOn(c)
	}
}

// passOn gives a connection to the successor.
func (s *socket) passOn(c net.Conn) {
	if s.successor != nil {
		select {
		case s.successor.accepted <- accepted{c, nil}:
			return
		case <-s.successor.stop:
		case <-time.After(100 * time.Millisecond):
		}
	}
	_ = c.Close()
}

// end closes the socket, whose last listener is closed. Sockets.mu is held.
func (s *socket) end() {
	close(s.stop)
	if s.SetDeadline(time.Now()) != nil { // wakes accept
		_ = s.Close()
	}
	<-s.ended
	for _, other := range s.overlapping { // whichever ends first, the other is alone again
		other.successor = nil
		other.overlapping = slices.DeleteFunc(other.overlapping, func(b *socket) bool { return b == s })
		if len(other.overlapping) == 0 {
			alone(other.Listener)
		}
	}
}

// SetDeadline is that for accepting.
func (s *socket) SetDeadline(t time.Time) error {
	if l, ok := s.Listener.(interface{ SetDeadline(time.Time) error }); ok {
		return l.SetDeadline(t)
	}
	return errors.ErrUnsupported
}

// listener is one user's view of a socket.
type listener struct {
	*socket
	of          *Sockets
	closed      chan struct{}
	closeLocked func() // of.mu is held
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
func (l *listener) Close() error {
	l.of.mu.Lock()
	defer l.of.mu.Unlock()
	l.closeLocked()
	return nil
}

// listenOn opens a socket.
func listenOn(key string, at Address) (net.Listener, error) {
	if at.Network == "unix" {
		return listenUnix(key, at.Text)
	}
	l, err := net.Listen(at.Network, at.Text)
	failed := func(format string, args ...any) (net.Listener, error) {
		return nil, &listenError{fmt.Sprintf("cannot listen on %s: ", at.Text) + fmt.Sprintf(format, args...), err}
	}
	switch {
	case err == nil:
		return l, nil
	case errors.Is(err, syscall.EADDRINUSE):
		return failed("another program listens there already; stop it, or choose another address with %s", key)
	case errors.Is(err, syscall.EACCES):
		return failed("this user may not; choose a port above 1023 with %s", key)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return failed("this machine does not have that address; correct %s", key)
	}
	return nil, fmt.Errorf("cannot listen on %s (%s): %w", at.Text, key, err)
}

// listenError says in words why a socket could not be opened.
type listenError struct {
	text  string
	cause error
}

func (e *listenError) Error() string { return e.text }
func (e *listenError) Unwrap() error { return e.cause }

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
