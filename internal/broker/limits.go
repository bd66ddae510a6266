package broker

import "time"

// Limits bound what clients can use up. Zero values mean the defaults.
type Limits struct {
	// Clients is how many may be connected. Default 1024.
	Clients int
	// PerAddress is how many connections one address may have. Default 256.
	PerAddress int
	// Pending is how many connections may not have said CONNECT yet; of more,
	// the oldest have to go. Default 512.
	Pending int
	// PacketSize is the most a client may send in one packet, in bytes.
	// Default 1 MiB.
	PacketSize int
	// ConnectTimeout is how long a client may take to say CONNECT. Default 10 s.
	ConnectTimeout time.Duration
	// KeepAlive is the longest a client may be silent, or 0 for as long as it
	// chooses. Version 5 clients are told; it holds for others all the same.
	KeepAlive time.Duration
	// Inflight is how many QoS 1 and 2 messages may be unanswered in each
	// direction. Default 1024; a client may ask for less.
	Inflight int
	// QueuedMessages and QueuedBytes bound what waits for one client.
	// Defaults 16,384 and 8 MiB.
	QueuedMessages int
	QueuedBytes    int
	// QueuedTotal bounds what waits for all clients, in bytes. Default 128 MiB.
	QueuedTotal int
	// Subscriptions is how many filters a client may have, deep and long ones
	// counting more; all together may have eight times as many. Default 8192.
	Subscriptions int
	// Sessions is how many are kept, connected or not. Default 4 * Clients.
	Sessions int
	// Retained and RetainedBytes bound all retained messages. Defaults 100,000
	// and 64 MiB.
	Retained      int
	RetainedBytes int
	// TopicLength and TopicLevels bound topics and filters. Deeper ones are an
	// attack (CVE-2019-11779), not a use. Defaults 1024 bytes and 201 levels,
	// which is 200 slashes, as Mosquitto allows.
	TopicLength int
	TopicLevels int
	// PublishRate is how many messages a second a client may publish, with a
	// burst of twice that; faster ones are cut off. 0 is any.
	PublishRate int
	// SessionExpiry is how long an offline session is kept at most. Default 24 h.
	SessionExpiry time.Duration
	// StallTimeout is how long a client whose queue is full may take nothing
	// before it is cut off, and a twelfth of how long its queue may stay full
	// at all. Default 5 s.
	StallTimeout time.Duration
	// Moment is how long publishers of QoS 0 messages wait for a client whose
	// queue is full and who takes nothing, and a quarter of how long for one
	// that takes too little. Then its messages are dropped until it has taken a
	// good part of what waits. Default 1 s.
	Moment time.Duration
}

// Bounds that nobody needs to change.
const (
	// sharedSubscriptions is how many clients' worth of subscriptions there
	// may be in all.
	sharedSubscriptions = 8
	// freeLevels of a topic cost nothing: as many as things in use have.
	freeLevels = 8
	// freeBytes of a filter cost nothing.
	freeBytes = 128
	// unreleased bounds the QoS 2 messages that clients have not released, of
	// all clients that have more than Inflight of them. Before version 5 there
	// is no receive maximum, and an id costs memory also while its client is
	// away.
	unreleased = 256 << 10
	// levelBytes is what each further level takes of memory, about.
	levelBytes = 280
	// maxConnect bounds the first packet, which comes before anything is known
	// about the peer. Larger ones, up to largeConnect bytes, are taken from
	// largeConnects clients at a time and largeOfAddress of one address: a will
	// may have 64 KiB, and so may a password.
	maxConnect     = 32 << 10
	largeConnect   = 160 << 10
	largeConnects  = 48
	largeOfAddress = 16
	// aliases is how many topic aliases a client may use, and how many are
	// used towards it if it allows as many.
	aliases = 32
	// flushAt is how many bytes are gathered before they are written even if
	// more wait.
	flushAt = 32 << 10
	// farewell is how long a client may take to read why it is cut off.
	farewell = 500 * time.Millisecond
	// maxBacklog and maxBacklogBytes bound the messages of one publisher that
	// wait for slow subscribers; beyond them nothing more is read from it.
	maxBacklog      = 1024
	maxBacklogBytes = 1 << 20
	// maxControl bounds the answers that a client does not read, in bytes.
	maxControl = 1 << 20
	// maxDue bounds the subscriptions whose retained messages are yet to come.
	maxDue = 8192
	// patience is how many stall time-outs a queue may stay full though its
	// client takes a message now and then.
	patience = 12
	// moments is how many of Limits.Moment publishers of QoS 0 messages wait for
	// a client that takes a message now and then.
	moments = 4
)

func (l *Limits) setDefaults() {
	for _, d := range []struct {
		field *int
		value int
	}{
		{&l.Clients, 1024}, {&l.PerAddress, 256}, {&l.Pending, 512}, {&l.PacketSize, 1 << 20}, {&l.Inflight, 1024},
		{&l.QueuedMessages, 16384}, {&l.QueuedBytes, 8 << 20}, {&l.QueuedTotal, 128 << 20}, {&l.Subscriptions, 8192},
		{&l.Retained, 100_000}, {&l.RetainedBytes, 64 << 20}, {&l.TopicLength, 1024}, {&l.TopicLevels, 201},
	} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	if l.Sessions == 0 {
		l.Sessions = 4 * l.Clients
	}
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{{&l.ConnectTimeout, 10 * time.Second}, {&l.SessionExpiry, 24 * time.Hour}, {&l.StallTimeout, 5 * time.Second}, {&l.Moment, time.Second}} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
}
