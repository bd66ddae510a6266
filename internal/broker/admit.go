package broker

import (
	"net"
	"net/http"
	"net/netip"
	"time"

	"event2mqtt/internal/broker/accounts"
)

// This file is who may connect at all: how many connections there are, how
// many of one address, and who has to go when there are too many. What has not
// said CONNECT counts the same over TCP and over WebSocket, where it speaks
// HTTP first.

// waiter is a connection that has not finished its CONNECT.
type waiter struct {
	nc      net.Conn
	network netip.Prefix
	born    time.Time
	conn    *conn // nil while it speaks HTTP
}

// admit counts a connection in, b.wg included, or returns nil if there are too
// many from its address. The caller closes it then.
func (b *Broker) admit(nc net.Conn) *conn {
	c := newConn(b, nc)
	c.network = accounts.Network(c.addr)
	b.mu.Lock()
	gone, ok := b.waitLocked(&waiter{nc: nc, network: c.network, born: c.born, conn: c})
	if ok {
		b.conns[c] = struct{}{}
		b.wg.Add(1) // before Close can wait
	}
	b.mu.Unlock()
	closeAll(gone)
	if !ok {
		return nil
	}
	return c
}

// waitLocked adds w to those who wait. If its address has as many connections
// as allowed, one of them that waits has to go for it; if too many wait in
// all, one of the address that has most of them. Those that go are returned,
// to be closed without the lock. ok is false if none can go. b.mu is held.
func (b *Broker) waitLocked(w *waiter) (gone []net.Conn, ok bool) {
	if b.closed {
		return nil, false
	}
	limit := b.limit()
	if w.network.IsValid() && b.perAddr[w.network] >= limit.PerAddress {
		b.warn("address "+w.network.String()).Stringer("from", w.network).Int("max_per_address", limit.PerAddress).
			Msg("broker: as many connections as allowed come from this address (broker.max_per_address); ending those that have not said CONNECT, or refusing more")
		b.counters.refused.Add(1)
		oldest := b.oldestWaiting(w.network)
		if oldest == nil {
			return nil, false
		}
		gone = append(gone, b.dropLocked(oldest))
	}
	if len(b.waiting) >= limit.Pending {
		if oldest := b.oldestWaiting(b.mostWaiting()); oldest != nil {
			b.counters.refused.Add(1)
			b.warn("pending").Stringer("from", oldest.network).Int("max_pending", limit.Pending).
				Msg("broker: too many connections have not said CONNECT (broker.max_pending); ending the oldest of the address that has most of them")
			gone = append(gone, b.dropLocked(oldest))
		}
	}
	b.waiting[w] = struct{}{}
	if w.network.IsValid() {
		b.perAddr[w.network]++
	}
	if w.conn != nil {
		w.conn.waiter, w.conn.counted = w, true
		b.pending++
	} else {
		b.http[w.nc] = w
	}
	return gone, true
}

// oldestWaiting returns who of an address waits longest, or nil. b.mu is held.
func (b *Broker) oldestWaiting(network netip.Prefix) (oldest *waiter) {
	for w := range b.waiting {
		if w.network == network && (oldest == nil || w.born.Before(oldest.born)) {
			oldest = w
		}
	}
	return oldest
}

// mostWaiting returns the address that has most of those who wait. b.mu is
// held.
func (b *Broker) mostWaiting() (most netip.Prefix) {
	count := map[netip.Prefix]int{}
	for w := range b.waiting {
		if count[w.network]++; count[w.network] > count[most] {
			most = w.network
		}
	}
	return most
}

// dropLocked gives up one that waits, at once, and returns what is to be
// closed. b.mu is held.
func (b *Broker) dropLocked(w *waiter) net.Conn {
	if w.conn == nil {
		b.httpLeftLocked(w)
	} else {
		w.conn.admittedLocked()
		b.leaveAddressLocked(w.conn)
		delete(b.conns, w.conn) // it counts no more as a client, though it takes a moment to end
	}
	return w.nc
}

// admittedLocked takes a connection off those that wait. b.mu is held.
func (c *conn) admittedLocked() {
	if c.waiter != nil {
		delete(c.b.waiting, c.waiter)
		c.waiter = nil
		c.b.pending--
	}
}

// leaveAddressLocked takes a connection off those of its address. b.mu is held.
func (b *Broker) leaveAddressLocked(c *conn) {
	if !c.counted {
		return
	}
	c.counted = false
	b.fewerLocked(c.network)
}

func (b *Broker) fewerLocked(network netip.Prefix) {
	if !network.IsValid() {
		return
	}
	if b.perAddr[network]--; b.perAddr[network] <= 0 {
		delete(b.perAddr, network)
	}
}

// left takes a connection off the books.
func (b *Broker) left(c *conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c.admittedLocked()
	b.leaveAddressLocked(c)
	delete(b.conns, c)
}

func (b *Broker) httpLeftLocked(w *waiter) {
	if _, there := b.waiting[w]; there {
		delete(b.waiting, w)
		delete(b.http, w.nc)
		b.fewerLocked(w.network)
	}
}

// countHTTP is an http.Server's ConnState: it counts the connections that are
// no WebSocket yet.
func (b *Broker) countHTTP(nc net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		w := &waiter{nc: nc, network: accounts.Network(addressOf(nc)), born: time.Now()}
		b.mu.Lock()
		gone, ok := b.waitLocked(w)
		b.mu.Unlock()
		closeAll(gone)
		if !ok {
			_ = nc.Close()
		}
	case http.StateHijacked, http.StateClosed:
		b.mu.Lock()
		defer b.mu.Unlock()
		if w := b.http[nc]; w != nil {
			b.httpLeftLocked(w)
		}
	}
}

// closeAll may take a moment: TLS says goodbye.
func closeAll(conns []net.Conn) {
	for _, nc := range conns {
		_ = nc.Close()
	}
}
