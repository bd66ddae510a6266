package mqtt

import (
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// gatherMost is how many bytes wait to be written at most. As many may be
	// on their way to the network.
	gatherMost = 32 << 10
	// writeChunk is how many bytes have to go out within the time-out, however
	// long the whole packet takes.
	writeChunk = 16 << 10
)

// gatherer writes to a connection what comes while the write before it is under
// way at once: with one system call, TLS record or WebSocket frame for many
// packets. Nothing waits for more to come, but while it is held. An error ends the
// connection.
type gatherer struct {
	conn    net.Conn
	timeout time.Duration // for each chunk
	moved   atomic.Int64  // when bytes went out last, nanoseconds since 1970
	turn    sync.Mutex    // held while one packet is taken; before mu

	mu      sync.Mutex
	changed sync.Cond // pending has shrunk, or writing has ended
	pending []byte    // at most gatherMost
	spare   []byte    // what pending was before
	writing bool      // the goroutine that runs flush is there; close waits for it
	held    bool      // what is pending waits for more, up to writeChunk
	urgent  bool      // it does not
	failed  error     // why nothing is written any more
}

func newGatherer(c net.Conn, timeout time.Duration) *gatherer {
	g := &gatherer{conn: c, timeout: timeout}
	g.changed.L = &g.mu
	return g
}

// write takes a packet, once there is room for it, and with out returns when it
// was written. It is held only if it may wait. The error may be that of an earlier
// packet; n tells how much was taken.
func (g *gatherer) write(p []byte, mayWait, out bool) (n int, err error) {
	g.turn.Lock()
	defer g.turn.Unlock()
	g.mu.Lock()
	defer g.mu.Unlock()
	for n < len(p) {
		for len(g.pending) >= gatherMost && g.failed == nil {
			g.changed.Wait()
		}
		if g.failed != nil {
			return n, g.failed
		}
		k := min(len(p)-n, gatherMost-len(g.pending))
		g.pending = append(g.pending, p[n:n+k]...)
		n += k
		g.urgent = g.urgent || !mayWait
		g.begin()
	}
	for out && g.writing && g.failed == nil {
		g.changed.Wait()
	}
	return n, g.failed
}

// hold has packets wait until they are many, or release is called.
func (g *gatherer) hold() {
	g.mu.Lock()
	g.held = true
	g.mu.Unlock()
}

func (g *gatherer) release() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held, g.urgent = false, g.urgent || len(g.pending) > 0 // it may be held again before that is written
	g.begin()
}

// due reports whether something is to be written now. mu is held.
func (g *gatherer) due() bool {
	return len(g.pending) > 0 && g.failed == nil && (!g.held || g.urgent || len(g.pending) >= writeChunk)
}

// begin has what is due written. mu is held.
func (g *gatherer) begin() {
	if g.due() && !g.writing {
		g.writing = true
		go g.flush()
	}
}

// flush writes until nothing is due.
func (g *gatherer) flush() {
	runtime.Gosched() // whoever is about to write more does so first
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.due() {
		batch := g.pending
		g.pending, g.urgent = g.spare[:0], false
		g.changed.Broadcast()
		g.mu.Unlock()
		err := g.send(batch)
		g.mu.Lock()
		g.spare = batch
		if err != nil {
			g.failed = err
			_ = g.conn.Close() // ends the reader, which tells why
		}
	}
	g.writing = false
	g.changed.Broadcast()
}

// send writes to the connection. It fails when no chunk has gone out within the
// time-out.
func (g *gatherer) send(p []byte) error {
	for len(p) > 0 {
		if err := g.conn.SetWriteDeadline(time.Now().Add(g.timeout)); err != nil {
			return err
		}
		n, err := g.conn.Write(p[:min(writeChunk, len(p))])
		g.moved.Store(time.Now().UnixNano())
		if err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// err says why nothing is written any more, or returns nil.
func (g *gatherer) err() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.failed
}

// close closes the connection. What is pending is lost.
func (g *gatherer) close() error {
	err := g.conn.Close()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.failed == nil {
		g.failed = net.ErrClosed
	}
	for g.writing {
		g.changed.Wait()
	}
	return err
}
