package broker

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"event2mqtt/internal/broker/wire"
)

const (
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
)

// conn is one network connection. Two goroutines own it: run reads, write
// writes; a third, passOn, exists while messages from it wait for room.
type conn struct {
	b       *Broker
	nc      net.Conn
	reader  *wire.Reader
	version byte
	session *session
	window  int // QoS 1 and 2 messages on the way to the client
	maxSend int // bytes of a packet to the client; 0 is unlimited
	done    chan struct{}
	timeout time.Duration // between two reads; 0 is none

	// Of the reading goroutine.
	acks    []byte // answers not yet handed to the writer
	topic   string // the last topic published to, and who gets it
	targets []target
	matched uint64 // of the trie, for targets

	// session.mu guards these.
	control []byte // encoded packets to write before messages
	resend  []uint16
	// due are subscriptions whose retained messages are queued one after the
	// other, each when the queue is empty.
	due        []retainedDue
	unanswered int  // QoS 1 and 2 messages that this connection has sent
	idle       bool // the writer waits for wake
	draining   bool
	closing    bool
	bye        []byte
	letGo      bool // of the writer: all was delivered and acknowledged

	wake     chan struct{} // cap 1
	progress atomic.Int64  // when the client last took a message, since born
	born     time.Time

	backlogMu   sync.Mutex
	backlog     fifo[parked]
	parkedBytes int
	parking     bool // passOn runs
	unparked    *sync.Cond
	stopped     chan struct{} // closed when the connection ends
	stopOnce    sync.Once
	wg          sync.WaitGroup // write and passOn
}

// parked is a message whose remaining targets have no room.
type parked struct {
	message  *Message
	targets  []target
	packetID uint16
}

func newConn(b *Broker, nc net.Conn) *conn {
	c := &conn{b: b, nc: nc, born: time.Now(), done: make(chan struct{}), wake: make(chan struct{}, 1), stopped: make(chan struct{})}
	c.unparked = sync.NewCond(&c.backlogMu)
	c.reader = wire.NewReader(timedReader{c}, min(maxConnect, b.limits.PacketSize))
	return c
}

// retainedDue is a subscription that has yet to be given what is retained.
type retainedDue struct {
	filter wire.Filter
	id     uint32
}

// timedReader hands out the answers to all that was read, and sets the
// deadline that the keep alive asks for, before it waits for more.
type timedReader struct{ c *conn }

func (r timedReader) Read(p []byte) (int, error) {
	if r.c.session != nil {
		r.c.flushAcks()
	}
	if r.c.timeout > 0 {
		if err := r.c.nc.SetReadDeadline(time.Now().Add(r.c.timeout)); err != nil {
			return 0, err
		}
		// The end of the connection may have set a deadline that must stay.
		if r.c.session != nil && r.c.isEnding() {
			_ = r.c.nc.SetReadDeadline(time.Now().Add(farewell))
		}
	}
	return r.c.nc.Read(p)
}

// run serves the connection from its first byte to its end.
func (c *conn) run() {
	defer func() {
		_ = c.nc.Close()
		c.b.mu.Lock()
		delete(c.b.conns, c)
		c.b.mu.Unlock()
		close(c.done)
	}()
	connect, err := c.handshake()
	if err != nil {
		c.b.log.Debug().Err(err).Stringer("from", c.nc.RemoteAddr()).Msg("broker: connection refused")
		return
	}
	log := c.b.log.With().Str("client", c.session.id).Logger()
	log.Debug().Stringer("from", c.nc.RemoteAddr()).Uint8("version", c.version).Msg("broker: client connected")
	c.wg.Go(c.write)

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
	c.wg.Wait()
	c.b.release(c, will)
	switch {
	case violated != nil:
		log.Info().Err(err).Msg("broker: client broke the protocol and was cut off")
	case err != nil:
		log.Debug().Err(err).Msg("broker: client lost")
	default:
		log.Debug().Msg("broker: client disconnected")
	}
}

// handshake reads CONNECT, opens the session and answers.
func (c *conn) handshake() (*wire.Connect, error) {
	deadline := time.Now().Add(c.b.limits.ConnectTimeout)
	if err := c.nc.SetDeadline(deadline); err != nil {
		return nil, err
	}
	if c.b.isClosed() {
		return nil, ErrClosed // and the deadline that drain has set is gone
	}
	header, body, err := c.reader.Next()
	if err != nil {
		return nil, err
	}
	if wire.Type(header>>4) != wire.CONNECT {
		return nil, fmt.Errorf("first packet is %s", wire.Type(header>>4)) // MQTT-3.1.0-1
	}
	p, err := wire.DecodeConnect(body)
	if err == nil {
		c.version = p.Version
		err = c.check(p)
	} else if wire.CodeOf(err) == wire.UnsupportedVersion {
		c.version = wire.V311 // the answer that older clients understand
	} else {
		return nil, err
	}
	if err != nil {
		c.answer(wire.Connack{Code: wire.CodeOf(err), Reason: err.Error()})
		return nil, err
	}
	ack := wire.Connack{}
	if p.ClientID == "" {
		p.ClientID = assignedID()
		ack.AssignedID = p.ClientID
	}
	if bounded := c.b.boundExpiry(p.SessionExpiry); bounded != p.SessionExpiry {
		p.SessionExpiry = bounded
		ack.SessionExpiry = &bounded
	}
	c.window = min(int(p.ReceiveMaximum), c.b.limits.Inflight)
	c.maxSend = int(p.MaximumPacket)
	c.timeout = time.Duration(p.KeepAlive) * time.Second * 3 / 2 // 3.1.2.10
	c.reader.Version = p.Version
	c.reader.SetLimit(c.b.limits.PacketSize)
	if ack.SessionPresent, err = c.b.open(c, p); err != nil {
		c.answer(wire.Connack{Code: wire.CodeOf(err), Reason: err.Error()})
		return nil, err
	}
	ack.ReceiveMaximum = uint16(min(c.b.limits.Inflight, 65535))
	ack.MaximumPacket = uint32(c.b.limits.PacketSize)
	if err := c.answer(ack); err != nil {
		c.b.release(c, p.Will)
		return nil, err
	}
	c.sign()
	if err := c.nc.SetDeadline(time.Time{}); err != nil {
		c.b.release(c, p.Will)
		return nil, err
	}
	return p, nil
}

func (c *conn) answer(ack wire.Connack) error {
	_, err := c.nc.Write(wire.AppendConnack(nil, c.version, ack))
	return err
}

// check refuses what a CONNECT must not ask for.
func (c *conn) check(p *wire.Connect) error {
	switch {
	case p.AuthMethod != "":
		return &wire.Error{Code: wire.BadAuthMethod, Reason: "enhanced authentication is not supported"}
	case p.ClientID == "" && !p.CleanStart && p.Version < wire.V5, p.ClientID == "" && p.Version == wire.V31:
		return &wire.Error{Code: wire.BadClientID, Reason: "a client without an id must ask for a clean session"} // MQTT-3.1.3-8
	case p.Will != nil && !publishable(p.Will.Topic):
		return &wire.Error{Code: wire.BadTopic, Reason: "the will's topic is not allowed"}
	}
	return nil
}

func (b *Broker) boundExpiry(seconds uint32) uint32 {
	return min(seconds, uint32(b.limits.SessionExpiry/time.Second))
}

// publishable reports whether clients may publish to a topic.
func publishable(topic string) bool {
	return !strings.HasPrefix(topic, "$") && strings.Count(topic, "/") < maxLevels
}

// read handles packets until the connection ends. It returns the client's
// DISCONNECT, if that was the end.
func (c *conn) read() (*wire.Disconnect, error) {
	for {
		header, body, err := c.reader.Next()
		if err != nil {
			return nil, c.readError(err)
		}
		if t := wire.Type(header >> 4); t == wire.DISCONNECT {
			d, err := wire.DecodeDisconnect(c.version, body)
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
		if answer := c.session.acknowledged(c, t, a); answer != nil {
			c.acks = wire.AppendAck(c.acks, c.version, wire.PUBREL, *answer)
		}
	case wire.PUBREL:
		a, err := wire.DecodeAck(c.version, body)
		if err != nil {
			return err
		}
		c.session.mu.Lock()
		_, known := c.session.received[a.PacketID]
		delete(c.session.received, a.PacketID)
		c.session.mu.Unlock()
		answer := wire.Ack{PacketID: a.PacketID}
		if !known {
			answer.Code = wire.PacketIDNotFound
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
// subscriber's queue has the message.
func (c *conn) publish(header byte, body []byte) error {
	var p wire.Publish
	if err := wire.DecodePublish(&p, c.version, header, body, c.topic); err != nil {
		return err
	}
	if p.Alias != 0 {
		return &wire.Error{Code: wire.BadTopicAlias, Reason: "topic aliases were not offered"}
	}
	if len(p.SubscriptionIDs) > 0 {
		return &wire.Error{Code: wire.ProtocolError, Reason: "subscription identifier from a client"} // MQTT-3.3.4-6
	}
	if p.QoS == 2 {
		if done, err := c.receive(p.PacketID); done || err != nil {
			return err
		}
	}
	if !publishable(p.Topic) {
		// 3.1.1 has no way to refuse a message but to take it and drop it.
		c.b.counters.dropped.Add(1)
		if p.QoS > 0 {
			c.acks = c.appendPassed(c.acks, p.QoS, p.PacketID, wire.BadTopic)
		}
		return nil
	}
	c.b.counters.received.Add(1)
	p.Payload = append([]byte(nil), p.Payload...)
	p.Properties = append([]byte(nil), p.Properties...)
	m := newMessage(&p)
	if m.Retain && !c.b.retained.set(m, c.b.limits.RetainedBytes) {
		c.b.counters.dropped.Add(1)
		if m.QoS > 0 {
			c.acks = c.appendPassed(c.acks, m.QoS, p.PacketID, wire.QuotaExceeded)
		}
		return nil
	}
	targets := c.match(m.Topic)
	if m.QoS == 0 {
		c.b.try(c.session, m, targets)
		return nil
	}
	return c.park(m, targets, p.PacketID)
}

// receive notes a QoS 2 message. done means that it came before and nothing
// more is to be done but to answer again, if it was passed on.
func (c *conn) receive(id uint16) (done bool, err error) {
	s := c.session
	s.mu.Lock()
	defer s.mu.Unlock()
	if passedOn, again := s.received[id]; again {
		if passedOn {
			c.acks = wire.AppendAck(c.acks, c.version, wire.PUBREC, wire.Ack{PacketID: id})
		}
		return true, nil
	}
	if c.version == wire.V5 && len(s.received) >= c.b.limits.Inflight {
		return true, &wire.Error{Code: wire.ReceiveMaxExceeded, Reason: "more unanswered messages than the receive maximum"} // MQTT-3.3.4-7
	}
	if s.received == nil {
		s.received = map[uint16]bool{}
	}
	s.received[id] = false
	return false, nil
}

// match finds who gets a topic; publishers tend to use the same one again.
func (c *conn) match(topic string) []target {
	version := c.b.subs.version.Load()
	if topic != c.topic || version != c.matched || c.targets == nil {
		c.topic, c.matched, c.targets = topic, version, c.b.subs.match(topic)
	}
	return c.targets
}

// park delivers a QoS 1 or 2 message. If a queue is full it, and all that
// come after it, wait for room in the order they came, while the connection
// goes on to be read: answers that make room may be behind.
func (c *conn) park(m *Message, targets []target, packetID uint16) error {
	c.backlogMu.Lock()
	defer c.backlogMu.Unlock()
	if !c.parking {
		if targets = c.b.try(c.session, m, targets); len(targets) == 0 {
			c.acks = c.appendPassed(c.acks, m.QoS, packetID, wire.Success)
			return nil
		}
	}
	if c.version == wire.V5 && c.backlog.len() >= c.b.limits.Inflight {
		return &wire.Error{Code: wire.ReceiveMaxExceeded, Reason: "more unanswered messages than the receive maximum"} // MQTT-3.3.4-9
	}
	for (c.backlog.len() >= maxBacklog || c.parkedBytes > maxBacklogBytes) && !c.isStopped() {
		c.flushAcks()
		c.unparked.Wait()
	}
	c.backlog.push(parked{m, targets, packetID})
	c.parkedBytes += len(m.Payload) + len(m.properties)
	if !c.parking {
		c.parking = true
		c.flushAcks() // answers go out in order (MQTT-4.6.0-2)
		c.wg.Go(c.passOn)
	}
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
		err := c.b.deliver(c.stopped, c.session, p.message, p.targets)
		c.backlogMu.Lock() // before the answer lets the client send one more
		c.backlog.pop()
		c.parkedBytes -= len(p.message.Payload) + len(p.message.properties)
		c.unparked.Signal()
		c.backlogMu.Unlock()
		if err == nil {
			c.send(c.appendPassed(nil, p.message.QoS, p.packetID, wire.Success))
		}
	}
}

// appendPassed appends the answer to a QoS 1 or 2 message.
func (c *conn) appendPassed(b []byte, qos byte, packetID uint16, code wire.Code) []byte {
	if qos == 1 {
		return wire.AppendAck(b, c.version, wire.PUBACK, wire.Ack{PacketID: packetID, Code: code})
	}
	c.session.mu.Lock()
	if code < wire.Unspecified || c.version < wire.V5 {
		c.session.received[packetID] = true
	} else {
		delete(c.session.received, packetID)
	}
	c.session.mu.Unlock()
	return wire.AppendAck(b, c.version, wire.PUBREC, wire.Ack{PacketID: packetID, Code: code})
}

func newMessage(p *wire.Publish) *Message {
	m := &Message{Topic: p.Topic, Payload: p.Payload, QoS: p.QoS, Retain: p.Retain, properties: p.Properties}
	if p.HasExpiry {
		m.expires = time.Now().Add(time.Duration(p.Expiry) * time.Second)
	}
	return m
}

func (c *conn) subscribe(body []byte) error {
	p, err := wire.DecodeSubscribe(c.version, body, c.b.limits.Subscriptions)
	if err != nil {
		return err
	}
	codes := make([]wire.Code, len(p.Filters))
	fresh := make([]bool, len(p.Filters))
	s := c.session
	for i, f := range p.Filters {
		s.mu.Lock()
		_, known := s.filters[f.Filter]
		count := len(s.filters)
		s.mu.Unlock()
		switch {
		case strings.HasPrefix(f.Filter, "$share/"):
			codes[i] = wire.SharedNotSupported
		case !validFilter(f.Filter):
			codes[i] = wire.BadFilter
		case !known && count >= c.b.limits.Subscriptions:
			codes[i] = wire.QuotaExceeded
		default:
			codes[i] = wire.Code(f.QoS)
			sub := subscription{f.QoS, f.NoLocal, f.RetainAsPublished, p.SubscriptionID}
			fresh[i] = c.b.subs.set(f.Filter, s, sub)
			s.mu.Lock()
			if s.filters == nil {
				s.filters = map[string]subscription{}
			}
			s.filters[f.Filter] = sub
			s.mu.Unlock()
		}
	}
	// The SUBACK is queued before the retained messages.
	c.acks = wire.AppendSuback(c.acks, c.version, wire.SUBACK, p.PacketID, codes)
	c.flushAcks()
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, f := range p.Filters {
		if codes[i] >= wire.Unspecified || f.RetainHandling == 2 || f.RetainHandling == 1 && !fresh[i] {
			continue
		}
		if len(c.due) == maxDue {
			return &wire.Error{Code: wire.QuotaExceeded, Reason: "more subscriptions than retained messages are taken for"}
		}
		c.due = append(c.due, retainedDue{f, p.SubscriptionID})
	}
	c.wakeWriter()
	return nil
}

func (c *conn) unsubscribe(body []byte) error {
	p, err := wire.DecodeUnsubscribe(c.version, body, c.b.limits.Subscriptions)
	if err != nil {
		return err
	}
	codes := make([]wire.Code, len(p.Filters))
	for i, f := range p.Filters {
		if !c.b.subs.remove(f, c.session) {
			codes[i] = wire.NoSubscriptionExisted
		}
		c.session.mu.Lock()
		delete(c.session.filters, f)
		c.session.mu.Unlock()
	}
	c.acks = wire.AppendSuback(c.acks, c.version, wire.UNSUBACK, p.PacketID, codes)
	return nil
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
			c.bye = wire.AppendDisconnect(nil, c.version, code, reason)
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
