package broker

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"event2mqtt/internal/broker/accounts"
	"event2mqtt/internal/wire"
)

// conn is one network connection. run reads in a goroutine of its own; others
// exist while there is something to write, and while messages from it wait
// for room.
type conn struct {
	b       *Broker
	nc      net.Conn
	addr    netip.Addr
	network netip.Prefix // of addr, as it is counted
	waiter  *waiter      // until a CONNECT is accepted; b.mu guards it
	counted bool         // among those of its address; b.mu guards it
	done    chan struct{}
	born    time.Time

	// For the log.
	told       bool   // that it connected
	takeovers  int    // of its client id, one soon after the other; b.mu guards it
	endReason  string // why the broker ended it, once written is closed
	loginError error  // what the accounts said, if that was no

	// Set by the handshake.
	version    byte
	session    *session
	grant      accounts.Grant
	noProblems bool          // no reason strings in answers
	window     int           // QoS 1 and 2 messages on the way to the client
	maxSend    int           // bytes of a packet to the client; 0 is unlimited
	aliasMax   int           // topic aliases towards the client
	timeout    time.Duration // between two reads; 0 is none
	will       string        // topic of the last will, empty if there is none

	// Of the reading goroutine.
	reader  *wire.Reader
	acks    []byte  // answers not yet handed to the writer
	news    changes // of a stored session, not yet handed to the store
	ticket  ticket  // what has to be on disk before acks are sent
	limiter *rate.Limiter
	aliases []string // topics by alias, from 1
	packets uint64   // since the counters were brought up to date
	topic   string   // the last topic published to, and who gets it
	targets matched
	allowed bool // to publish to topic

	// session.mu guards these.
	control    []byte // encoded packets to write before messages
	resend     []uint16
	unanswered int  // QoS 1 and 2 messages that this connection has sent
	ready      bool // CONNACK was sent
	writing    bool // a writer is at work
	finished   bool // the last one was
	draining   bool
	closing    bool
	bye        []byte
	letGo      bool // all was delivered and acknowledged

	sent     map[string]uint16 // aliases towards the client; of the writer
	written  chan struct{}     // closed by the last writer
	progress atomic.Int64      // when the client last took a message, since born

	backlogMu   sync.Mutex
	backlog     fifo[parked]
	parkedBytes int
	parking     bool // passOn runs
	unparked    sync.Cond
	stopped     chan struct{} // closed when the connection ends
	stopOnce    sync.Once
	wg          sync.WaitGroup // passOn
}

// changes are what a client's answers change in a stored session.
type changes struct {
	done     []uint64 // messages that it has
	received []uint64 // QoS 2 messages that it has not released
	released []uint16 // QoS 2 ids of its own
}

func (n *changes) empty() bool { return len(n.done)+len(n.received)+len(n.released) == 0 }

// parked is a message that waits for room in a subscriber's queue.
type parked struct {
	message  *Message
	targets  matched
	packetID uint16
}

func newConn(b *Broker, nc net.Conn) *conn {
	c := &conn{
		b: b, nc: nc, addr: addressOf(nc), born: time.Now(),
		done: make(chan struct{}), stopped: make(chan struct{}), written: make(chan struct{}),
	}
	c.unparked.L = &c.backlogMu
	c.reader = wire.NewReader(timedReader{c}, maxConnect)
	if r := b.limit().PublishRate; r > 0 {
		c.limiter = rate.NewLimiter(rate.Limit(r), 2*r)
	}
	return c
}

// timedReader hands over the answers to what was read so far before it waits
// for more, and ends a client that is silent for longer than its keep alive
// allows.
type timedReader struct{ c *conn }

func (r timedReader) Read(p []byte) (int, error) {
	c := r.c
	if c.session != nil {
		c.flushAcks()
	}
	if c.isStopped() {
		return 0, os.ErrDeadlineExceeded // nothing more is taken from it
	}
	if c.timeout > 0 {
		if err := c.nc.SetReadDeadline(time.Now().Add(c.timeout)); err != nil {
			return 0, err
		}
		// The end of the connection may have set a deadline that must stay.
		if c.session != nil && c.isEnding() {
			_ = c.nc.SetReadDeadline(time.Now().Add(farewell))
		}
	}
	n, err := c.nc.Read(p)
	c.b.counters.bytesIn.Add(uint64(n))
	return n, err
}

// run serves the connection from its first byte to its end.
func (c *conn) run() {
	defer func() {
		_ = c.nc.Close()
		c.b.left(c)
		close(c.done)
	}()
	connect, err := c.handshake()
	if err != nil {
		c.tellRefused(connect, err)
		return
	}
	c.b.counters.connections.Add(1)
	c.tellConnected(connect)

	will := connect.Will
	goodbye, err := c.read()
	if goodbye != nil {
		if goodbye.Code == wire.Success {
			will = nil // MQTT-3.14.4-3
		}
		if goodbye.HasSessionExpiry {
			c.b.mu.Lock()
			c.session.expiry = c.b.boundExpiry(goodbye.SessionExpiry)
			c.b.mu.Unlock()
		}
	}
	var violated *wire.Error
	if errors.As(err, &violated) {
		c.shut(violated.Code, violated.Reason)
	} else {
		c.shut(wire.Success, "")
	}
	<-c.written
	c.wg.Wait()
	c.tell()
	c.b.release(c, will)
	if violated != nil {
		c.b.counters.cutOff.Add(1)
	}
	c.tellEnd(goodbye, err)
}

// read handles packets until the connection ends. It returns the client's
// DISCONNECT, if that was the end.
func (c *conn) read() (*wire.Disconnect, error) {
	for {
		header, body, err := c.reader.Next()
		if err != nil {
			return nil, c.readError(err)
		}
		c.packets++
		if t := wire.Type(header >> 4); t == wire.DISCONNECT {
			d, err := wire.DecodeDisconnect(c.version, body)
			if err == nil && d.HasSessionExpiry && d.SessionExpiry > 0 && c.ends() {
				err = &wire.Error{Code: wire.ProtocolError, Reason: "a session that was to end with its connection cannot be kept"} // 3.14.2.2.2
			}
			if err != nil {
				return nil, err
			}
			return &d, nil
		}
		if err := c.handle(header, body); err != nil {
			c.flushAcks()
			return nil, err
		}
		if len(c.acks) > flushAt {
			c.flushAcks()
		}
	}
}

// ends reports whether the session is to end with the connection.
func (c *conn) ends() bool {
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	return c.session.expiry == 0
}

func (c *conn) readError(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) && !c.isEnding() {
		return &wire.Error{Code: wire.KeepAliveTimeout, Reason: "nothing heard within 1.5 times the keep alive"}
	}
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF // no DISCONNECT came
	}
	return err
}

func (c *conn) handle(header byte, body []byte) error {
	switch t := wire.Type(header >> 4); t {
	case wire.PUBLISH:
		return c.publish(header, body)
	case wire.PUBACK, wire.PUBREC, wire.PUBCOMP:
		a, err := wire.DecodeAck(c.version, body)
		if err != nil {
			return err
		}
		if answer := c.session.acknowledged(c, t, a, &c.news); answer != nil {
			c.acks = wire.AppendAck(c.acks, c.version, wire.PUBREL, *answer)
		}
	case wire.PUBREL:
		a, err := wire.DecodeAck(c.version, body)
		if err != nil {
			return err
		}
		if !c.sound() {
			return &wire.Error{Code: wire.QuotaExceeded, Reason: errNotStored.Error()}
		}
		c.session.mu.Lock()
		_, known := c.session.received[a.PacketID]
		delete(c.session.received, a.PacketID)
		c.session.countReceived()
		c.session.mu.Unlock()
		answer := wire.Ack{PacketID: a.PacketID}
		if !known {
			answer.Code = wire.PacketIDNotFound
		} else if c.session.stored {
			c.news.released = append(c.news.released, a.PacketID)
		}
		c.acks = wire.AppendAck(c.acks, c.version, wire.PUBCOMP, answer)
	case wire.SUBSCRIBE:
		return c.subscribe(body)
	case wire.UNSUBSCRIBE:
		return c.unsubscribe(body)
	case wire.PINGREQ:
		if len(body) > 0 {
			return &wire.Error{Code: wire.Malformed, Reason: "PINGREQ with a body"}
		}
		c.acks = wire.AppendPingresp(c.acks)
	case wire.AUTH:
		if c.version == wire.V5 {
			return &wire.Error{Code: wire.ProtocolError, Reason: "AUTH without an authentication method"}
		}
		return &wire.Error{Code: wire.Malformed, Reason: "packet type 15"}
	default:
		return &wire.Error{Code: wire.ProtocolError, Reason: fmt.Sprintf("%s from a client", t)}
	}
	return nil
}

// publish handles a PUBLISH from the client: its answer is given when every
// subscriber's queue has the message, on disk where it must be.
func (c *conn) publish(header byte, body []byte) error {
	var p wire.Publish
	if err := wire.DecodePublish(&p, c.version, header, body, c.topic); err != nil {
		return err
	}
	if p.Alias != 0 {
		if err := c.alias(&p); err != nil {
			return err
		}
	}
	if len(p.SubscriptionIDs) > 0 {
		return &wire.Error{Code: wire.ProtocolError, Reason: "subscription identifier from a client"} // MQTT-3.3.4-6
	}
	if c.limiter != nil && !c.limiter.Allow() {
		return &wire.Error{Code: wire.MessageRateTooHigh, Reason: fmt.Sprintf("more than %d messages a second", c.b.limit().PublishRate)}
	}
	if p.QoS == 2 {
		if done, err := c.receive(p.PacketID); done || err != nil {
			return err
		}
	}
	c.look(p.Topic)
	switch {
	case !c.b.publishable(p.Topic):
		c.b.warn("topic "+c.session.key).Str("client", c.session.id).Str("topic", fmt.Sprintf("%.80s", p.Topic)).Int("length", len(p.Topic)).Msg("broker: a message was refused: its topic begins with $, is too long or too deep (broker.max_topic_length, max_topic_levels)")
		return c.refuse(&p, wire.BadTopic, "this topic is not for clients, too long or too deep")
	case !c.allowed:
		c.b.counters.denied.Add(1)
		c.b.warn("write "+c.session.key+" "+p.Topic).Str("client", c.session.id).Str("user", c.session.user).Str("topic", p.Topic).Msg("broker: a message was refused: its user may not write to the topic")
		return c.refuse(&p, wire.NotAuthorized, "the user may not publish to this topic")
	}
	c.b.counters.received.Add(1)
	c.b.counters.publishedIn.Add(uint64(len(p.Payload)))
	p.Payload = append([]byte(nil), p.Payload...)
	p.Properties = append([]byte(nil), p.Properties...)
	m := c.b.newMessage(&p, c.session)
	if m.QoS > 0 {
		return c.park(m, c.targets, p.PacketID)
	}
	c.passPlain(m)
	return nil
}

// passPlain delivers a QoS 0 message. The client is not read from until every
// subscriber has room for it, or has let it wait for long enough.
func (c *conn) passPlain(m *Message) {
	var err error
	if m.isPlain() {
		if late := c.b.spread(c.session, m, c.targets); len(late) > 0 {
			c.flushAcks()
			c.b.insist(c.stopped, c.session, m, c.targets.version, late)
		}
	} else {
		var full full
		if _, full, err = c.b.pass(c.session, m, c.targets, 0); full.session != nil {
			c.flushAcks()
			_, err = c.b.deliver(c.stopped, c.session, m, c.targets, 0)
		}
	}
	if err != nil {
		c.b.counters.dropped.Add(1)
	}
}

// alias puts in the topic that a topic alias stands for (3.3.2.3.4).
func (c *conn) alias(p *wire.Publish) error {
	i := int(p.Alias) - 1
	switch {
	case i >= aliases:
		return &wire.Error{Code: wire.BadTopicAlias, Reason: fmt.Sprintf("topic alias %d; at most %d were offered", p.Alias, aliases)}
	case p.Topic != "" && len(p.Topic) > c.b.limit().TopicLength:
		if c.aliases != nil { // the message is refused, and nobody remembers its topic
			c.aliases[i] = ""
		}
	case p.Topic != "":
		if c.aliases == nil {
			c.aliases = make([]string, aliases)
		}
		c.aliases[i] = p.Topic
	case c.aliases == nil || c.aliases[i] == "":
		return &wire.Error{Code: wire.ProtocolError, Reason: fmt.Sprintf("topic alias %d stands for nothing", p.Alias)}
	default:
		p.Topic = c.aliases[i]
	}
	return nil
}

// refuse answers a message that is not taken. 3.1.1 has no way to refuse one
// but to answer and drop it.
func (c *conn) refuse(p *wire.Publish, code wire.Code, why string) error {
	c.b.counters.dropped.Add(1)
	if p.QoS > 0 {
		c.acks = c.appendPassed(c.acks, p.QoS, p.PacketID, code, why)
	}
	return nil
}

// sound reports whether what is known of the client's QoS 2 exchanges is on
// disk, if it has to be: answers from memory could be taken back by a crash.
// With QoS 1 that does no harm, and clients can take what fills the disk.
func (c *conn) sound() bool {
	return c.b.store == nil || !c.session.stored || !c.b.store.behind()
}

// receive notes a QoS 2 message. done means that it came before and nothing
// more is to be done but to answer again, if it was passed on.
func (c *conn) receive(id uint16) (done bool, err error) {
	if !c.sound() {
		return true, &wire.Error{Code: wire.QuotaExceeded, Reason: errNotStored.Error()}
	}
	s := c.session
	s.mu.Lock()
	defer s.mu.Unlock()
	if passedOn, again := s.received[id]; again {
		if passedOn {
			c.acks = wire.AppendAck(c.acks, c.version, wire.PUBREC, wire.Ack{PacketID: id})
		}
		return true, nil
	}
	if c.version == wire.V5 && len(s.received) >= c.b.limit().Inflight {
		return true, &wire.Error{Code: wire.ReceiveMaxExceeded, Reason: "more unanswered messages than the receive maximum"} // MQTT-3.3.4-7
	}
	if len(s.received) >= c.b.limit().Inflight && s.unreleased.Load() >= unreleased {
		return true, &wire.Error{Code: wire.QuotaExceeded, Reason: "more QoS 2 messages than allowed were not released (PUBREL)"}
	}
	if s.received == nil {
		s.received = map[uint16]bool{}
	}
	s.received[id] = false
	s.countReceived()
	return false, nil
}

// look finds who gets a topic, and whether the client may publish to it;
// publishers tend to use the same one again.
func (c *conn) look(topic string) {
	if topic != c.topic || c.b.subs.version.Load() != c.targets.version {
		c.topic, c.targets = topic, c.b.subs.match(topic)
		c.allowed = c.session.mayWrite(topic) // after the version was read
	}
}

// park delivers a QoS 1 or 2 message. If a queue is full it, and all that
// come after it, wait for room in the order they came, while the connection
// goes on to be read: answers that make room may be behind.
func (c *conn) park(m *Message, targets matched, packetID uint16) error {
	if m.QoS == 2 {
		c.tell() // an id may be used again
	}
	c.backlogMu.Lock()
	defer c.backlogMu.Unlock()
	if !c.parking {
		t, full, err := c.b.pass(c.session, m, targets, packetID)
		if full.session == nil {
			return c.passed(m, packetID, t, err)
		}
	}
	if c.version == wire.V5 && c.backlog.len() >= c.b.limit().Inflight {
		return &wire.Error{Code: wire.ReceiveMaxExceeded, Reason: "more unanswered messages than the receive maximum"} // MQTT-3.3.4-9
	}
	if !c.parking || c.backlogFull() {
		// Answers go out in order (MQTT-4.6.0-2), and before this waits.
		c.backlogMu.Unlock()
		c.flushAcks()
		c.backlogMu.Lock()
	}
	for c.backlogFull() && !c.isStopped() {
		c.unparked.Wait()
	}
	c.backlog.push(parked{m, targets, packetID})
	c.parkedBytes += len(m.Payload) + len(m.properties)
	if !c.parking {
		c.parking = true
		c.wg.Go(c.passOn)
	}
	return nil
}

func (c *conn) backlogFull() bool {
	return c.backlog.len() >= maxBacklog || c.parkedBytes > maxBacklogBytes
}

// passed answers a message that was passed on, as soon as t is on disk, or
// refused with err.
func (c *conn) passed(m *Message, packetID uint16, t ticket, err error) error {
	if err != nil {
		if c.version < wire.V5 && errors.Is(err, errNotStored) {
			return &wire.Error{Code: wire.QuotaExceeded, Reason: err.Error()} // it will send it again
		}
		c.b.counters.dropped.Add(1)
		c.acks = c.appendPassed(c.acks, m.QoS, packetID, wire.QuotaExceeded, err.Error())
		return nil
	}
	c.ticket = c.ticket.then(t)
	c.acks = c.appendPassed(c.acks, m.QoS, packetID, wire.Success, "")
	return nil
}

// passOn delivers what was parked and ends when nothing is left.
func (c *conn) passOn() {
	for {
		c.backlogMu.Lock()
		if c.backlog.len() == 0 || c.isStopped() {
			c.parking = false
			c.unparked.Broadcast()
			c.backlogMu.Unlock()
			return
		}
		p := *c.backlog.peek()
		c.backlogMu.Unlock()
		t, err := c.b.deliver(c.stopped, c.session, p.message, p.targets, p.packetID)
		stored := err == nil && c.b.store.wait(t)
		c.backlogMu.Lock() // before the answer lets the client send one more
		c.backlog.pop()
		c.parkedBytes -= len(p.message.Payload) + len(p.message.properties)
		c.unparked.Signal()
		c.backlogMu.Unlock()
		switch {
		case stored:
			c.send(c.appendPassed(nil, p.message.QoS, p.packetID, wire.Success, ""))
		case err == nil || errors.Is(err, errNotStored):
			c.shut(wire.QuotaExceeded, errNotStored.Error())
		case errors.Is(err, ErrRetainedFull):
			c.send(c.appendPassed(nil, p.message.QoS, p.packetID, wire.QuotaExceeded, err.Error()))
		}
	}
}

// appendPassed appends the answer to a QoS 1 or 2 message.
func (c *conn) appendPassed(b []byte, qos byte, packetID uint16, code wire.Code, why string) []byte {
	if c.noProblems || c.maxSend > 0 && len(why)+16 > c.maxSend {
		why = "" // MQTT-3.1.2-29, MQTT-3.4.2-2
	}
	answer := wire.Ack{PacketID: packetID, Code: code, Reason: why}
	if qos == 1 {
		return wire.AppendAck(b, c.version, wire.PUBACK, answer)
	}
	c.session.mu.Lock()
	if code < wire.Unspecified || c.version < wire.V5 {
		c.session.received[packetID] = true
	} else {
		delete(c.session.received, packetID)
	}
	c.session.countReceived()
	c.session.mu.Unlock()
	return wire.AppendAck(b, c.version, wire.PUBREC, answer)
}

// drain ends the connection as soon as all that is queued was written.
func (c *conn) drain() {
	if c.session == nil {
		_ = c.nc.SetDeadline(time.Now())
		return
	}
	c.session.mu.Lock()
	c.draining = true
	c.wakeWriter()
	c.session.mu.Unlock()
}

// shut ends the connection and tells the client why, if it reads that soon.
func (c *conn) shut(code wire.Code, reason string) {
	c.stopOnce.Do(func() {
		c.endReason = reason
		close(c.stopped)
		c.backlogMu.Lock()
		c.unparked.Broadcast()
		c.backlogMu.Unlock()
		_ = c.nc.SetReadDeadline(time.Now())
		_ = c.nc.SetWriteDeadline(time.Now().Add(farewell))
		if c.session == nil {
			return
		}
		c.session.mu.Lock()
		defer c.session.mu.Unlock()
		c.closing = true
		if code >= wire.Unspecified {
			c.bye = wire.AppendDisconnect(nil, c.version, code, reason, c.maxSend)
		}
		c.wakeWriter()
	})
}

// isEnding reports whether the broker has ended the connection.
func (c *conn) isEnding() bool {
	if c.isStopped() {
		return true
	}
	c.session.mu.Lock()
	defer c.session.mu.Unlock()
	return c.closing
}

func (c *conn) isStopped() bool {
	select {
	case <-c.stopped:
		return true
	default:
		return false
	}
}
