package sourcetest

import (
	"net"
	"sync"
	"testing"
	"time"
)

// Peer is a TCP server that comes and goes, for sources that connect to one. It
// is away at first. The newest connection is the one that is used.
type Peer struct {
	Address string // stays the same

	mu       sync.Mutex
	listener net.Listener // nil while the peer is away
	conn     net.Conn     // the newest, nil if there is none
	wg       sync.WaitGroup
}

// NewPeer returns a peer, which ends with the test.
func NewPeer(t testing.TB) *Peer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") // an address that nobody else has
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	p := &Peer{Address: l.Addr().String()}
	t.Cleanup(func() { p.Go(t) })
	return p
}

// Come has the peer listen.
func (p *Peer) Come(t testing.TB) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener != nil {
		return
	}
	l, err := net.Listen("tcp", p.Address)
	if err != nil {
		t.Fatal(err)
	}
	p.listener = l
	p.wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			p.mu.Lock()
			old := p.conn
			if p.listener == l {
				p.conn = conn
			} else { // it went meanwhile
				old = conn
			}
			p.mu.Unlock()
			if old != nil {
				_ = old.Close()
			}
		}
	})
}

// Go ends the peer and its connection.
func (p *Peer) Go(testing.TB) {
	p.mu.Lock()
	if p.listener != nil {
		_ = p.listener.Close()
	}
	if p.conn != nil {
		_ = p.conn.Close()
	}
	p.listener, p.conn = nil, nil
	p.mu.Unlock()
	p.wg.Wait()
}

// Do uses the connection, for which it waits.
func (p *Peer) Do(t testing.TB, do func(net.Conn) error) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		p.mu.Lock()
		conn := p.conn
		p.mu.Unlock()
		if conn != nil {
			if err := do(conn); err != nil {
				t.Errorf("use the connection: %v", err)
			}
			return
		}
		if time.Now().After(deadline) {
			t.Error("waited too long for a connection")
			return
		}
	}
}
