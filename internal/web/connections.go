package web

import (
	"net"
	"net/http"
	"sync"
	"sync/atomic"
)

// limit is how many connections each listener may have at a time. It can
// change while they are served.
type limit struct {
	mu      sync.Mutex
	changed sync.Cond // there may be room now
	most    int
}

func (l *limit) set(most int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.most = most
	l.changed.Broadcast()
}

// limitListener accepts as many connections as its limit allows; others wait
// in the socket.
type limitListener struct {
	net.Listener
	limit  *limit
	open   int // limit.mu guards both
	closed bool
}

func (l *limitListener) Accept() (net.Conn, error) {
	l.limit.mu.Lock()
	for l.open >= l.limit.most && !l.closed {
		l.limit.changed.Wait()
	}
	if l.closed {
		l.limit.mu.Unlock()
		return nil, net.ErrClosed
	}
	l.open++
	l.limit.mu.Unlock()
	c, err := l.Listener.Accept()
	if err != nil {
		l.release()
		return nil, err
	}
	return &limitConn{Conn: c, release: l.release}, nil
}

func (l *limitListener) release() {
	l.limit.mu.Lock()
	defer l.limit.mu.Unlock()
	l.open--
	l.limit.changed.Broadcast()
}

func (l *limitListener) Close() error {
	err := l.Listener.Close()
	l.limit.mu.Lock()
	defer l.limit.mu.Unlock()
	l.closed = true
	l.limit.changed.Broadcast()
	return err
}

type limitConn struct {
	net.Conn
	once    sync.Once
	release func()
}

func (c *limitConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(c.release)
	return err
}

// farewell lets clients go without a request of theirs being lost. What
// http.Server.Shutdown does is not enough: it closes connections that a client
// may be sending on this moment, and drops requests that were just read.
type farewell struct {
	begun atomic.Bool
	open  atomic.Int64
	none  chan struct{} // cap 1: open may be 0
}

// state is a server's ConnState.
func (f *farewell) state(_ net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		f.open.Add(1)
	case http.StateClosed, http.StateHijacked:
		if f.open.Add(-1) == 0 {
			select {
			case f.none <- struct{}{}:
			default:
			}
		}
	}
}

// handler tells clients with each answer that it is the last on its
// connection, once the farewell has begun.
func (f *farewell) handler(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f.begun.Load() {
			w.Header().Set("Connection", "close")
		}
		h.ServeHTTP(w, r)
	})
}

// wait waits until nobody is connected any more, or done is closed. Nobody may
// be accepted meanwhile.
func (f *farewell) wait(done <-chan struct{}) {
	for f.open.Load() > 0 {
		select {
		case <-f.none:
		case <-done:
			return
		}
	}
}
