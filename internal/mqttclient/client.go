// Package mqttclient is one connection of an MQTT client, in versions 3.1,
// 3.1.1 and 5, over any net.Conn. Messages go out in the order in which they
// are handed over, gathered into few writes, and each has a ticket for its
// acknowledgement. It neither dials nor reconnects, and it keeps nothing: a
// message without an acknowledgement is its user's to send again, on another
// connection. Whatever a broker sends, it takes bounded memory and does not
// panic. Section numbers refer to the MQTT 5.0 specification.
package mqttclient

import (
	"bufio"
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"event2mqtt/internal/wire"
)

// Bounds, in bytes.
const (
	// defaultIncoming bounds a packet from the broker.
	defaultIncoming = 16 << 10
	// writeChunk is how much has to go out within the time-out, however long the
	// whole takes.
	writeChunk = 16 << 10
	// gathered is how much may wait to be written before Publish waits. One
	// packet may be larger, alone.
	gathered = 64 << 10
	// answers is how much may wait before nothing more is read, so that a broker
	// that asks for answers and does not read them takes no more memory.
	answers = 512 << 10
)

const (
	// maxWindow is how many messages can be on their way: the other packet
	// identifiers are for subscriptions.
	maxWindow = 65000
	// lastWords is how long is read on after a write has failed: a broker that
	// closes the connection has often said why before.
	lastWords = time.Second
	// maxUnreleased bounds the messages with QoS 2 that a broker has begun to
	// deliver.
	maxUnreleased = 1000
	// ourReceiveMaximum is how many of them, and of QoS 1, may be on their way.
	ourReceiveMaximum = 16
)

// Options say how to connect.
type Options struct {
	Version  byte // wire.V5, V311 or V31; 0 is V5
	ClientID string
	Username string
	Password []byte
	// HasUser and HasPassword say whether there is one, which may be empty.
	HasUser, HasPassword bool
	Will                 *wire.Will
	// KeepAlive is how long nothing is sent or received before a ping, in whole
	// seconds; 0 is for ever. The broker may want another.
	KeepAlive time.Duration
	// Timeout is how long CONNACK, the answer to a request, and the writing of
	// each 16 KiB may take; 0 is 30 s.
	Timeout time.Duration
	// PingTimeout is how long nothing at all may come after a ping was sent; 0 is
	// Timeout.
	PingTimeout time.Duration
	// Window is how many messages with QoS 1 and 2 may be on their way, unless
	// the broker allows fewer; 0 is 128.
	Window int
	// MaxIncoming bounds a packet from the broker, in bytes behind its header;
	// 0 is 16 KiB.
	MaxIncoming int
	// TellLarge has a broker of version 5 send larger messages, too, so that
	// Skipped is told of them; else it keeps them back.
	TellLarge bool
	// Message is given what was subscribed to, on the goroutine that also takes
	// acknowledgements: it must not wait. It must not keep p, whose memory is
	// used again. nil drops messages.
	Message func(p *wire.Publish)
	// Skipped is told of each message that was larger than MaxIncoming, with the
	// first 200 bytes of its topic and its size in bytes. It must not wait.
	Skipped func(topic string, bytes int)
}

func (o *Options) defaults() {
	if o.Version == 0 {
		o.Version = wire.V5
	}
	if o.Timeout <= 0 {
		o.Timeout = 30 * time.Second
	}
	if o.PingTimeout <= 0 {
		o.PingTimeout = o.Timeout
	}
	if o.Window <= 0 {
		o.Window = 128
	}
	if o.MaxIncoming <= 0 {
		o.MaxIncoming = defaultIncoming
	}
}

// Limits are what the broker allows on this connection.
type Limits struct {
	Window        int    // messages on their way, ours or the broker's bound
	MaximumPacket uint32 // bytes, header included; 0 is any
	MaximumQoS    byte
	Retain        bool // whether it keeps retained messages
	Wildcards     bool // whether filters may hold wildcards
	KeepAlive     time.Duration
	ClientID      string // ours, or the one that the broker has assigned
}

// Client is a connection. It is safe for concurrent use. Whoever has it must
// call Close, also when it has ended by itself.
type Client struct {
	conn    net.Conn
	opt     Options
	limits  Limits
	running sync.WaitGroup

	turn    chan struct{} // cap 1: held by who hands a message over
	ids     chan uint16   // packet identifiers that are free
	request chan struct{} // cap 1: held by who subscribes

	mu      sync.Mutex
	out     []byte        // to be written
	unsent  []*Ticket     // of QoS 0, in out
	asked   []*ping       // in out
	pings   []*ping       // without an answer, oldest first
	waiting []*Ticket     // by packet identifier, less 1
	room    chan struct{} // closed when out was taken; nil if nobody waits
	idle    bool          // the writer waits to be woken
	held    bool          // messages wait for more, up to writeChunk
	urgent  bool          // what is in out does not
	leaving bool          // nothing more is to be written than out
	broken  error         // why nothing can be written any more
	ended   bool
	answer  func(*wire.Suback) // to the request with the identifier asking
	asking  uint16

	wake       chan struct{} // cap 1: out is no longer empty
	done       chan struct{}
	cause      error         // set before done is closed
	moved      atomic.Int64  // when bytes went out last, ns since 1970
	heard      atomic.Int64  // when bytes came last
	skipped    atomic.Int64  // when bytes of a skipped message came last
	unheard    atomic.Uint64 // messages that nobody had subscribed to
	subscribed atomic.Bool

	// Of the goroutine that reads.
	reader     *bufio.Reader
	body       []byte
	topic      string              // of the last message
	unreleased map[uint16]struct{} // QoS 2 messages that were delivered
}

// ping is one that has no answer yet.
type ping struct {
	back    chan struct{} // closed by the answer; nil if nobody waits
	written time.Time     // zero until then
}

// Connect makes a client of a connection, which it closes if it fails. The
// error is a *Refused, ErrSilent or what is wrong with the answer or the
// connection; that of ctx if it has ended.
func Connect(ctx context.Context, conn net.Conn, o Options) (*Client, error) {
	o.defaults()
	stay := context.AfterFunc(ctx, func() { _ = conn.Close() })
	c := &Client{conn: conn, opt: o, turn: make(chan struct{}, 1), request: make(chan struct{}, 1),
		wake: make(chan struct{}, 1), done: make(chan struct{})}
	c.reader = bufio.NewReader(heard{c})
	connack, err := c.handshake()
	if !stay() && ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	c.accept(connack)
	c.running.Go(c.read)
	c.running.Go(c.write)
	return c, nil
}

// heard notes when bytes come.
type heard struct{ c *Client }

func (h heard) Read(p []byte) (int, error) {
	n, err := h.c.conn.Read(p)
	if n > 0 {
		h.c.heard.Store(time.Now().UnixNano())
	}
	return n, err
}

// accept takes what the broker allows from its CONNACK.
func (c *Client) accept(a *wire.Connack) {
	l := Limits{Window: min(c.opt.Window, maxWindow), MaximumPacket: a.MaximumPacket, MaximumQoS: 2, Retain: !a.NoRetain,
		Wildcards: !a.NoWildcards, KeepAlive: c.opt.KeepAlive, ClientID: c.opt.ClientID}
	if a.ReceiveMaximum > 0 {
		l.Window = min(l.Window, int(a.ReceiveMaximum))
	}
	if a.MaximumQoS != nil {
		l.MaximumQoS = *a.MaximumQoS
	}
	if a.ServerKeep != nil {
		l.KeepAlive = time.Duration(*a.ServerKeep) * time.Second
	}
	if a.AssignedID != "" {
		l.ClientID = a.AssignedID
	}
	c.limits = l
	c.waiting = make([]*Ticket, l.Window)
	c.ids = make(chan uint16, l.Window)
	for id := range l.Window {
		c.ids <- uint16(id + 1)
	}
	c.asking = uint16(l.Window)
}

// Limits returns what the broker allows.
func (c *Client) Limits() Limits { return c.limits }

// Done is closed when the connection has ended.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err says why the connection has ended, once Done is closed: with a
// *Disconnected if the broker has said so, with ErrClosed after Close.
func (c *Client) Err() error { return c.cause }

// Moved returns when bytes were written last, or came of a message that is
// skipped.
func (c *Client) Moved() time.Time {
	return time.Unix(0, max(c.moved.Load(), c.skipped.Load()))
}

// Unheard returns how many messages were acknowledged with the remark that
// nobody has subscribed to them, which brokers of version 5 may tell.
func (c *Client) Unheard() uint64 { return c.unheard.Load() }

// Publish hands a message over, and sets its packet identifier. It waits while
// as many are on their way as the broker allows, and while the connection
// takes no more bytes, until ctx ends. p and its payload are the caller's again
// when it returns. The error is a *TooLarge if the broker does not take so
// large a packet, ctx's, or that of the connection: nothing was sent then.
func (c *Client) Publish(ctx context.Context, p *wire.Publish) (*Ticket, error) {
	size := wire.PublishSize(c.opt.Version, p)
	if most := c.limits.MaximumPacket; most > 0 && uint64(size) > uint64(most) {
		return nil, &TooLarge{size, most}
	}
	if len(p.Topic) > wire.MaxStringLen || size > maxPacket {
		return nil, &TooLarge{size, maxPacket}
	}
	select {
	case c.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-c.done:
		return nil, c.cause
	}
	defer func() { <-c.turn }()
	t := &Ticket{qos: p.QoS}
	if p.PacketID = 0; p.QoS > 0 {
		select {
		case p.PacketID = <-c.ids:
		default:
			if err := c.awaitID(ctx, p); err != nil {
				return nil, err
			}
		}
	}
	if err := c.lockWithRoom(ctx, size, gathered); err != nil {
		if p.QoS > 0 {
			c.ids <- p.PacketID
		}
		return nil, err
	}
	c.out = wire.AppendPublish(c.out, c.opt.Version, p)
	if p.QoS > 0 {
		c.waiting[p.PacketID-1] = t
	} else {
		c.unsent = append(c.unsent, t)
	}
	if c.held && len(c.out) < writeChunk {
		c.mu.Unlock()
	} else {
		c.unlockAndWake()
	}
	return t, nil
}

// awaitID waits for a packet identifier: what is held is written first, or no
// acknowledgement would come.
func (c *Client) awaitID(ctx context.Context, p *wire.Publish) error {
	c.mu.Lock()
	c.unlockAndWake()
	select {
	case p.PacketID = <-c.ids:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-c.done:
		return c.cause
	}
}

// Hold has messages that are published from now on wait for more, so that many
// are written at once, until Release is called, much waits, or Publish has to
// wait. It is for who publishes on at once: an acknowledgement may be late by as
// much.
func (c *Client) Hold() {
	c.mu.Lock()
	c.held = true
	c.mu.Unlock()
}

// Release has what was held written. Without Hold it does nothing.
func (c *Client) Release() {
	c.mu.Lock()
	if !c.held {
		c.mu.Unlock()
		return
	}
	c.held = false
	c.unlockAndWake()
}

// maxPacket is the largest packet that can be written (1.5.5), header included.
const maxPacket = 5 + 268_435_455

// lockWithRoom returns with mu held once size more bytes may be appended to
// out, or with an error.
func (c *Client) lockWithRoom(ctx context.Context, size, most int) error {
	for {
		c.mu.Lock()
		switch {
		case c.ended:
			c.mu.Unlock()
			return c.cause
		case c.broken != nil, c.leaving:
			err := c.broken
			if err == nil {
				err = ErrClosed
			}
			c.mu.Unlock()
			return err
		case len(c.out) == 0 || len(c.out)+size <= most:
			return nil
		}
		if c.room == nil {
			c.room = make(chan struct{})
		}
		room := c.room
		c.unlockAndWake() // also what is held
		select {
		case <-room:
		case <-ctx.Done():
			return ctx.Err()
		case <-c.done:
			return c.cause
		}
	}
}

// unlockAndWake has the writer write what was appended.
func (c *Client) unlockAndWake() {
	wake := c.idle
	c.idle, c.urgent = false, true
	c.mu.Unlock()
	if wake {
		select {
		case c.wake <- struct{}{}:
		default:
		}
	}
}

// Subscribe asks for what matches a filter, and returns when the broker has
// agreed. The error is a *Refused if it does not; ErrNoAnswer, that of ctx or
// that of the connection.
func (c *Client) Subscribe(ctx context.Context, filter string, qos byte) error {
	c.subscribed.Store(true)
	s := wire.Subscribe{Filters: []wire.Filter{{Filter: filter, QoS: qos}}}
	return c.ask(ctx, wire.SUBSCRIBE, len(filter), func(b []byte, id uint16) []byte {
		s.PacketID = id
		return wire.AppendSubscribe(b, c.opt.Version, &s)
	})
}

// Unsubscribe takes a filter back, as Subscribe.
func (c *Client) Unsubscribe(ctx context.Context, filter string) error {
	u := wire.Unsubscribe{Filters: []string{filter}}
	return c.ask(ctx, wire.UNSUBSCRIBE, len(filter), func(b []byte, id uint16) []byte {
		u.PacketID = id
		return wire.AppendUnsubscribe(b, c.opt.Version, &u)
	})
}

// ask sends a request and waits for its answer.
func (c *Client) ask(ctx context.Context, kind wire.Type, size int, appendTo func([]byte, uint16) []byte) error {
	select {
	case c.request <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-c.done:
		return c.cause
	}
	defer func() { <-c.request }()
	if err := c.lockWithRoom(ctx, size+20, gathered); err != nil {
		return err
	}
	if c.asking++; c.asking == 0 { // an answer to an earlier one may still come
		c.asking = uint16(c.limits.Window) + 1
	}
	answered := make(chan *wire.Suback, 1)
	c.answer = func(a *wire.Suback) { answered <- a }
	c.out = appendTo(c.out, c.asking)
	c.unlockAndWake()
	defer func() {
		c.mu.Lock()
		c.answer = nil
		c.mu.Unlock()
	}()
	a, err := await(ctx, c, answered, c.Moved)
	if err != nil {
		return err
	}
	if len(a.Codes) > 0 && a.Codes[0] >= wire.Unspecified {
		return &Refused{Packet: kind, Code: a.Codes[0], Reason: a.Reason}
	}
	return nil
}

// await waits for an answer, until the time-out has passed since a sign that it
// is yet to come.
func await[T any](ctx context.Context, c *Client, answered <-chan T, sign func() time.Time) (a T, err error) {
	timer := time.NewTimer(c.opt.Timeout)
	defer timer.Stop()
	for {
		select {
		case a = <-answered:
			return a, nil
		case <-c.done:
			return a, c.cause
		case <-ctx.Done():
			return a, ctx.Err()
		case <-timer.C:
			left := c.opt.Timeout - time.Since(sign())
			if left <= 0 {
				return a, ErrNoAnswer
			}
			timer.Reset(left)
		}
	}
}

// Ping returns nil when the broker has answered a ping: it has read all that
// was published before. The error is as that of Subscribe.
func (c *Client) Ping(ctx context.Context) error {
	p := &ping{back: make(chan struct{})}
	if err := c.lockWithRoom(ctx, 2, gathered); err != nil {
		return err
	}
	c.appendPing(p)
	c.unlockAndWake()
	_, err := await(ctx, c, p.back, func() time.Time {
		c.mu.Lock()
		defer c.mu.Unlock()
		if p.written.IsZero() { // it waits behind what is being written
			return c.Moved()
		}
		// Its answer may be behind a message that is skipped.
		return time.Unix(0, max(p.written.UnixNano(), c.skipped.Load()))
	})
	return err
}

// appendPing has a ping sent. mu is held.
func (c *Client) appendPing(p *ping) {
	c.out = wire.AppendPingreq(c.out)
	c.asked = append(c.asked, p)
	c.pings = append(c.pings, p)
}

// Close ends the connection with a DISCONNECT behind what was handed over, if
// that can be written within patience, and waits for its goroutines. It is
// called once.
func (c *Client) Close(code wire.Code, patience time.Duration) {
	c.mu.Lock()
	if !c.ended && c.broken == nil {
		c.leaving = true
		c.out = wire.AppendGoodbye(c.out, c.opt.Version, code)
	}
	c.unlockAndWake()
	late := time.AfterFunc(patience, func() { _ = c.conn.Close() })
	defer late.Stop()
	c.running.Wait()
}

// end notes why the connection has ended, and lets everybody know.
func (c *Client) end(err error) {
	var told *Disconnected
	c.mu.Lock()
	switch {
	case c.leaving:
		err = ErrClosed
	case c.broken != nil && !errors.As(err, &told):
		err = c.broken
	}
	c.ended, c.cause = true, err
	lost := c.unsent
	for i, t := range c.waiting {
		if t != nil {
			lost = append(lost, t)
			c.waiting[i] = nil
		}
	}
	c.unsent = nil
	c.mu.Unlock()
	_ = c.conn.Close()
	for _, t := range lost {
		t.finish(0, err)
	}
	close(c.done)
}
