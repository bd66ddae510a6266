package broker

import "sync/atomic"

type counters struct {
	connections, packetsIn, packetsOut, bytesIn, bytesOut atomic.Uint64
	received, sent                                        atomic.Uint64
	publishedIn, publishedOut                             atomic.Uint64 // bytes of payloads
	dropped, tooLarge, denied, retainedRefused            atomic.Uint64
	refused, refusedLogins, cutOff, expired               atomic.Uint64
	maximum                                               atomic.Int64
	heap                                                  atomic.Uint64 // the largest that was seen
}

// Stats are counters since the start, and what is there now.
type Stats struct {
	Clients       int   // connected
	Sessions      int   // of connected clients and of absent ones
	Subscriptions int   //
	Shared        int   // of these, shared ones
	Retained      int   // messages
	RetainedBytes int   //
	QueuedBytes   int64 // of all queues

	Connections        uint64 // accepted
	PacketsIn          uint64 // of all types
	PacketsOut         uint64 //
	BytesIn            uint64 //
	BytesOut           uint64 //
	Received           uint64 // messages from clients and Publish
	Sent               uint64 // messages to clients
	PublishedIn        uint64 // bytes of the payloads of those received
	PublishedOut       uint64 // bytes of the payloads of those sent
	Dropped            uint64 // messages to clients that could not take them, or refused
	TooLarge           uint64 // messages to clients that do not take as large ones
	Denied             uint64 // messages and subscriptions by what a user may do
	RetainedRefused    uint64 // messages, because as many are retained as allowed
	RefusedConnections uint64 // by the limits
	RefusedLogins      uint64
	CutOff             uint64 // clients that broke the protocol or a limit
	ExpiredSessions    uint64
}

// Stats returns the counters.
func (b *Broker) Stats() Stats {
	c := &b.counters
	s := Stats{
		Subscriptions: int(b.subs.count.Load()), Shared: int(b.subs.sharers.Load()), PublishedIn: c.publishedIn.Load(), PublishedOut: c.publishedOut.Load(),
		QueuedBytes: b.queued.Load(),
		Connections: c.connections.Load(), PacketsIn: c.packetsIn.Load(), PacketsOut: c.packetsOut.Load(),
		BytesIn: c.bytesIn.Load(), BytesOut: c.bytesOut.Load(), Received: c.received.Load(), Sent: c.sent.Load(),
		Dropped: c.dropped.Load(), TooLarge: c.tooLarge.Load(), Denied: c.denied.Load(), RetainedRefused: c.retainedRefused.Load(),
		RefusedConnections: c.refused.Load(), RefusedLogins: c.refusedLogins.Load(), CutOff: c.cutOff.Load(), ExpiredSessions: c.expired.Load(),
	}
	b.retained.mu.RLock()
	s.Retained, s.RetainedBytes = b.retained.count, b.retained.bytes
	b.retained.mu.RUnlock()
	b.mu.Lock()
	s.Clients, s.Sessions = len(b.conns)-b.pending, len(b.sessions)
	b.mu.Unlock()
	return s
}
