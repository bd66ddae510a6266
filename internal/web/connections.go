package web

import (
	"errors"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"event2mqtt/internal/web/peer"
)

// Bounds of connections.
const (
	leastShare = 8               // of one address
	grace      = time.Second     // how long a new connection may take to begin its first request
	stalled    = 2 * time.Second // how long an answer may be stuck before its connection gives way
)

// room is how many connections there may be at a time, of all listeners, and
// how many of them one network may have. Where there is none left, the one that
// has been idle longest gives way, then one whose answer nobody reads. It can
// change while connections are served.
type room struct {
	mu     sync.Mutex
	most   int
	exempt peer.Proxies // have no share: behind them are many
	open   map[*conn]struct{}
	shares map[netip.Prefix]int
	freed  chan struct{} // closed, and another made, when there may be room

	wanted atomic.Int64 // how many wait for room
}

func newRoom(most int) *room {
	return &room{most: most, open: map[*conn]struct{}{}, shares: map[netip.Prefix]int{}, freed: make(chan struct{})}
}

// set bounds connections from now on. Those that there are stay.
func (r *room) set(most int, exempt peer.Proxies) {
	if files := descriptors(); files > 0 {
		most = min(most, max(1, files/2)) // the rest of the program has some open, too
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.most, r.exempt = most, exempt
	r.wake()
}

// wake tells those who wait that there may be room. mu is held.
func (r *room) wake() {
	close(r.freed)
	r.freed = make(chan struct{})
}

// full is why a connection is not admitted.
type full struct {
	share bool // its network has as many as it may; otherwise all have
	most  int  // how many
}

// admit lets a connection in, in the place of another if need be. If it cannot,
// freed is closed when it is worth another try.
func (r *room) admit(c *conn) (ok bool, why full, freed <-chan struct{}) {
	var leaving []*conn
	defer func() {
		for _, other := range leaving {
			_ = other.Conn.Close()
		}
	}()
	r.mu.Lock()
	defer r.mu.Unlock()
	share := min(r.most, max(leastShare, r.most/4))
	if r.shares[c.network] >= share && !r.exempt.Listed(c.addr) {
		other := r.giveWay(func(other *conn) bool { return other.network == c.network })
		if other == nil {
			return false, full{true, share}, r.freed
		}
		leaving = append(leaving, other)
	}
	if len(r.open) >= r.most {
		other := r.giveWay(func(*conn) bool { return true })
		if other == nil {
			return false, full{false, r.most}, r.freed
		}
		leaving = append(leaving, other)
	}
	r.open[c] = struct{}{}
	r.shares[c.network]++
	c.room = r
	c.idle.Store(time.Now().Add(grace).UnixNano())
	return true, full{}, nil
}

// giveWay takes a connection out that does nothing, and returns it; nil if all
// are at work. mu is held.
func (r *room) giveWay(of func(*conn) bool) (longest *conn) {
	now := time.Now().UnixNano()
	oldest := func(since func(*conn) int64, before int64) {
		for c := range r.open {
			if t := since(c); t != 0 && t <= before && of(c) {
				longest, before = c, t
			}
		}
	}
	if oldest(func(c *conn) int64 { return c.idle.Load() }, now); longest == nil {
		oldest(func(c *conn) int64 { return c.writing.Load() }, now-int64(stalled))
	}
	if longest != nil {
		r.remove(longest)
	}
	return longest
}

// remove gives a connection's place back, once. mu is held.
func (r *room) remove(c *conn) {
	if _, here := r.open[c]; !here {
		return
	}
	delete(r.open, c)
	if r.shares[c.network]--; r.shares[c.network] == 0 {
		delete(r.shares, c.network)
	}
	r.wake()
}

// spare ends the connection that has been idle longest, if there is one: the
// system has no more descriptors.
func (r *room) spare() {
	r.mu.Lock()
	c := r.giveWay(func(*conn) bool { return true })
	r.mu.Unlock()
	if c != nil {
		_ = c.Conn.Close()
	}
}

// outOfFiles reports whether accepting failed for want of descriptors.
func outOfFiles(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

// conn is a connection in a room. Each write has a deadline of its own, so that
// a peer that reads nothing holds no place for ever, unless the handler has set
// another (http.ResponseController).
type conn struct {
	net.Conn
	addr    netip.Addr
	network netip.Prefix
	times   times
	room    *room  // nil outside
	head    []byte // was read already; of whoever reads

	idle    atomic.Int64 // since when it waits for a request, in ns; 0 if it does not
	writing atomic.Int64 // since when a write is under way, in ns; 0 if none is
	began   atomic.Int64 // when the answer's first write began, in ns; 0 before
	own     atomic.Bool  // the handler has set a deadline
	taken   atomic.Bool  // the handler has taken the connection over
}

func newConn(c net.Conn, t times) *conn {
	nc := &conn{Conn: c, times: t}
	if a, err := netip.ParseAddrPort(c.RemoteAddr().String()); err == nil {
		nc.addr = a.Addr().Unmap().WithZone("")
		nc.network = peer.Network(nc.addr)
	}
	return nc
}

func (c *conn) Read(p []byte) (int, error) {
	if len(c.head) > 0 {
		n := copy(p, c.head)
		c.head = c.head[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

func (c *conn) Write(p []byte) (int, error) {
	if c.own.Load() || c.taken.Load() {
		return c.Conn.Write(p)
	}
	now := time.Now()
	c.began.CompareAndSwap(0, now.UnixNano())
	end := now.Add(c.times.write)
	if last := time.Unix(0, c.began.Load()).Add(c.times.answer); last.Before(end) {
		end = last
	}
	if err := c.Conn.SetWriteDeadline(end); err != nil {
		return 0, err
	}
	c.writing.Store(now.UnixNano())
	defer c.writing.Store(0)
	return c.Conn.Write(p)
}

// SetWriteDeadline takes the place of the deadlines of Write until the answer
// has ended; the server then sets none.
func (c *conn) SetWriteDeadline(t time.Time) error {
	c.own.Store(!t.IsZero())
	return c.Conn.SetWriteDeadline(t)
}

// CloseWrite lets the server end a connection whose request it has not read to
// the end: what is unread when it is closed would take the answer with it.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

func (c *conn) Close() error {
	err := c.Conn.Close()
	if c.room != nil {
		c.room.mu.Lock()
		defer c.room.mu.Unlock()
		c.room.remove(c)
	}
	return err
}

// state follows what the server does with it.
func (c *conn) state(state http.ConnState) {
	switch state {
	case http.StateActive:
		c.idle.Store(0)
		c.began.Store(0)
	case http.StateIdle:
		c.idle.Store(time.Now().UnixNano())
		if c.room.wanted.Load() > 0 { // it can give way now
			c.room.mu.Lock()
			c.room.wake()
			c.room.mu.Unlock()
		}
	case http.StateHijacked:
		c.idle.Store(0)
		c.taken.Store(true)
	}
}

// door is a listener whose connections have found room. Others wait a moment at
// the door.
type door struct {
	net.Listener
	server  *Server
	out     chan accepted
	ended   chan struct{} // closed when nothing is accepted any more
	closing chan struct{} // closed when it is to end: nobody waits any more
	gone    chan struct{} // closed when nobody takes from out any more
	close   func() error
	wg      sync.WaitGroup
}

type accepted struct {
	conn *conn
	err  error
}

func newDoor(l net.Listener, s *Server) *door {
	d := &door{Listener: l, server: s, out: make(chan accepted), ended: make(chan struct{}), closing: make(chan struct{}), gone: make(chan struct{})}
	d.close = sync.OnceValue(func() error { close(d.closing); return l.Close() })
	d.wg.Go(d.accept)
	return d
}

// accept lets connections in until the listener is closed.
func (d *door) accept() {
	defer close(d.ended)
	for {
		c, err := d.Listener.Accept()
		if err != nil {
			if outOfFiles(err) {
				d.server.room.spare()
			}
			if !d.deliver(accepted{nil, err}) || errors.Is(err, net.ErrClosed) {
				return
			}
			continue // the server knows how long to wait, and asks again
		}
		nc := newConn(c, d.server.times)
		if ok, why, _ := d.server.room.admit(nc); ok {
			d.deliver(accepted{nc, nil})
		} else {
			d.server.waiting.enter(d, nc, why)
		}
	}
}

func (d *door) deliver(a accepted) bool {
	select {
	case d.out <- a:
		return true
	case <-d.gone:
		if a.conn != nil {
			_ = a.conn.Close()
		}
		return false
	}
}

// Accept returns what was let in, also before Close.
func (d *door) Accept() (net.Conn, error) {
	select {
	case a := <-d.out:
		if a.err != nil {
			return nil, a.err
		}
		return a.conn, nil
	case <-d.ended:
		return nil, net.ErrClosed
	}
}

func (d *door) Close() error { return d.close() }

// leave ends what is left once the server has ended: nobody calls Accept then.
func (d *door) leave() {
	_ = d.Close()
	close(d.gone)
	d.wg.Wait()
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
func (f *farewell) state(nc net.Conn, state http.ConnState) {
	if c, ok := nc.(*conn); ok {
		c.state(state)
	}
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

// waiting are connections that there is no room for. They wait a moment: most
// answers take but milliseconds. Whoever asks for the health check is answered
// all the same, and others are told to come again.
type waiting struct {
	mu   sync.Mutex
	here []*waiter // the first came first
}

type waiter struct {
	*conn
	hurry chan struct{} // closed when others have to wait, too
}

const maxWaiting = 32

// enter has a connection wait at a door. It does not block.
func (w *waiting) enter(d *door, c *conn, why full) {
	one := &waiter{conn: c, hurry: make(chan struct{})}
	w.mu.Lock()
	if len(w.here) >= maxWaiting {
		w.turnAway()
	}
	w.here = append(w.here, one)
	w.mu.Unlock()
	d.wg.Go(func() {
		d.attend(one, why)
		w.mu.Lock()
		defer w.mu.Unlock()
		w.here = slices.DeleteFunc(w.here, func(other *waiter) bool { return other == one })
	})
}

// turnAway has the first of the network that has most waiting wait no more. mu
// is held.
func (w *waiting) turnAway() {
	counts := map[netip.Prefix]int{}
	for _, one := range w.here {
		counts[one.network]++
	}
	first := 0
	for i, one := range w.here {
		if counts[one.network] > counts[w.here[first].network] {
			first = i
		}
	}
	one := w.here[first]
	w.here = slices.Delete(w.here, first, first+1)
	close(one.hurry)
	_ = one.SetReadDeadline(time.Unix(1, 0)) // wakes it
}
