package listen

import (
	"errors"
	"net"
	"strconv"
	"strings"
	"syscall"
)

// This file is how "localhost" is listened on: programs take it for 127.0.0.1
// or for ::1, whichever they try first.

// Localhost is the host that stands for this machine alone.
const Localhost = "localhost"

// loopbacks are the addresses that localhost stands for.
var loopbacks = []string{"127.0.0.1", "::1"}

// hostsOf are the addresses that a host stands for, as far as is known.
func hostsOf(host string) []string {
	if strings.EqualFold(host, Localhost) {
		return loopbacks
	}
	return []string{host}
}

// listenLocal returns a listener on both loopbacks, or on the one that this
// machine has. With port 0 both have the same. s.mu is held.
func (s *Sockets) listenLocal(key, port string) (net.Listener, error) {
	const attempts = 20 // to find a port that is free on both
	for attempt := 1; ; attempt++ {
		var both []*listener
		var missing, failure error
		given := port
		for _, host := range loopbacks {
			l, err := s.listenOne(key, Address{"tcp", net.JoinHostPort(host, given)})
			if err == nil {
				both = append(both, l)
				given = portOf(l.socket)
			} else if missing = err; !notHere(err) {
				failure = err
				break
			}
		}
		if len(both) == 0 && failure == nil {
			failure = missing
		}
		switch {
		case failure == nil && len(both) == 1:
			return both[0], nil
		case failure == nil:
			return &pair{both[0], both[1]}, nil
		}
		for _, l := range both {
			l.closeLocked()
		}
		if port != "0" || attempt == attempts || !errors.Is(failure, syscall.EADDRINUSE) {
			return nil, failure
		}
	}
}

// notHere reports whether this machine does not have an address: IPv6 may be
// turned off.
func notHere(err error) bool {
	for _, why := range []error{syscall.EADDRNOTAVAIL, syscall.EAFNOSUPPORT, syscall.EPROTONOSUPPORT} {
		if errors.Is(err, why) {
			return true
		}
	}
	return false
}

func portOf(s *socket) string {
	if a, ok := s.Addr().(*net.TCPAddr); ok {
		return strconv.Itoa(a.Port)
	}
	return ""
}

// pair is a listener on two sockets.
type pair struct{ first, second *listener }

func (p *pair) Accept() (net.Conn, error) {
	select {
	case <-p.first.closed: // also if there is a connection
		return nil, net.ErrClosed
	default:
	}
	select {
	case a := <-p.first.accepted:
		return a.conn, a.err
	case a := <-p.second.accepted:
		return a.conn, a.err
	case <-p.first.closed:
		return nil, net.ErrClosed
	}
}

// Close ends this listener, and the sockets of which it is the last.
func (p *pair) Close() error { return errors.Join(p.second.Close(), p.first.Close()) }

// Addr is localhost's, since it is the address of both.
func (p *pair) Addr() net.Addr { return localAddr(portOf(p.first.socket)) }

// localAddr is a port of localhost.
type localAddr string

func (a localAddr) Network() string { return "tcp" }
func (a localAddr) String() string  { return net.JoinHostPort(Localhost, string(a)) }
