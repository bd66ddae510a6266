package mqttclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"time"

	"event2mqtt/internal/wire"
)

// handshake sends CONNECT and waits for CONNACK.
func (c *Client) handshake() (*wire.Connack, error) {
	o := &c.opt
	if err := c.conn.SetDeadline(time.Now().Add(o.Timeout)); err != nil {
		return nil, err
	}
	largest := maxPacket
	if !o.TellLarge {
		largest = min(o.MaxIncoming+5, maxPacket)
	}
	connect := wire.Connect{Version: o.Version, CleanStart: true, KeepAlive: uint16(min(o.KeepAlive/time.Second, 65535)), ClientID: o.ClientID,
		Username: o.Username, Password: o.Password, HasUser: o.HasUser, HasPass: o.HasPassword, Will: o.Will,
		ReceiveMaximum: ourReceiveMaximum, MaximumPacket: uint32(largest)}
	for b := wire.AppendConnect(nil, &connect); len(b) > 0; {
		n, err := c.conn.Write(b[:min(len(b), writeChunk)])
		if err != nil {
			return nil, err
		}
		b = b[n:]
	}
	header, length, err := c.head()
	if err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
			return nil, fmt.Errorf("%w: %w", ErrSilent, err)
		}
		return nil, err
	}
	kind := wire.Type(header >> 4)
	switch {
	case kind == wire.AUTH:
		return nil, errAuth
	case kind != wire.CONNACK:
		return nil, fmt.Errorf("the broker begins with a packet of type %s instead of CONNACK", kind)
	case length > c.longest(kind):
		return nil, tooLong(kind, length, c.longest(kind))
	}
	body, err := c.rest(length)
	if err != nil {
		return nil, err
	}
	connack, err := wire.DecodeConnack(o.Version, body)
	switch {
	case err != nil:
		return nil, fmt.Errorf("the broker's CONNACK is malformed: %w", err)
	case connack.Code >= wire.Unspecified:
		return nil, &Refused{wire.CONNECT, connack.Code, connack.Reason, connack.ServerReference}
	case connack.AuthMethod != "":
		return nil, errAuth
	case connack.Code != wire.Success:
		return nil, fmt.Errorf("the broker's CONNACK is malformed: code 0x%02x", byte(connack.Code))
	}
	return connack, c.conn.SetDeadline(time.Time{})
}

var errAuth = errors.New("the broker wants an authentication exchange (AUTH), which event2mqtt does not know")

// read takes what the broker sends until the connection ends.
func (c *Client) read() {
	for {
		if err := c.next(); err != nil {
			c.end(err)
			return
		}
	}
}

// next takes one packet.
func (c *Client) next() error {
	header, length, err := c.head()
	if err != nil {
		return err
	}
	kind := wire.Type(header >> 4)
	if most := c.longest(kind); length > most {
		if kind != wire.PUBLISH || !c.subscribed.Load() {
			return tooLong(kind, length, most)
		}
		return c.skip(header, length)
	}
	body, err := c.rest(length)
	if err != nil {
		return err
	}
	if kind == wire.PUBLISH {
		return c.message(header, body)
	}
	if err := checkFlags(kind, header&15); err != nil {
		return err
	}
	return c.take(kind, body)
}

// head reads a fixed header (2.1.1).
func (c *Client) head() (header byte, length int, err error) {
	if header, err = c.reader.ReadByte(); err != nil {
		return 0, 0, err
	}
	for shift := 0; ; shift += 7 {
		b, err := c.reader.ReadByte()
		if err != nil {
			return 0, 0, unexpected(err)
		}
		length |= int(b&0x7f) << shift
		if b < 0x80 {
			return header, length, nil
		}
		if shift == 21 {
			return 0, 0, errors.New("the broker sent a packet whose length is malformed")
		}
	}
}

// longest is how long a packet may be, behind its header.
func (c *Client) longest(kind wire.Type) int {
	switch {
	case kind == wire.PINGRESP:
		return 0
	case kind == wire.PUBLISH, c.opt.Version == wire.V5:
		return c.opt.MaxIncoming
	case kind == wire.SUBACK:
		return 3
	}
	return 2
}

func tooLong(kind wire.Type, length, most int) error {
	return fmt.Errorf("the broker announced a packet of type %s with %d bytes, which is longer than the %d bytes that a publisher can expect", kind, length, most)
}

// rest reads a packet behind its header, which is not longer than longest. It
// is valid until the next call.
func (c *Client) rest(length int) ([]byte, error) {
	if length > cap(c.body) {
		c.body = make([]byte, max(length, 256))
	}
	body := c.body[:length]
	_, err := io.ReadFull(c.reader, body)
	return body, unexpected(err)
}

// unexpected is err, as that of a packet that has begun.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

func checkFlags(kind wire.Type, flags byte) error {
	want := byte(0)
	if kind == wire.PUBREL {
		want = 2
	}
	if flags != want {
		return fmt.Errorf("the broker sent a packet of type %s with flags 0x%x", kind, flags)
	}
	return nil
}

// take takes a packet that is no message.
func (c *Client) take(kind wire.Type, body []byte) error {
	switch kind {
	case wire.PUBACK, wire.PUBREC, wire.PUBCOMP, wire.PUBREL:
		a, err := wire.DecodeAck(c.opt.Version, body)
		if err != nil {
			return fmt.Errorf("the broker sent a malformed %s: %w", kind, err)
		}
		if kind == wire.PUBREL {
			delete(c.unreleased, a.PacketID)
			return c.reply(wire.PUBCOMP, wire.Ack{PacketID: a.PacketID})
		}
		return c.acknowledged(kind, a)
	case wire.SUBACK, wire.UNSUBACK:
		a, err := wire.DecodeSuback(c.opt.Version, kind, body, 1)
		if err != nil {
			return fmt.Errorf("the broker sent a malformed %s: %w", kind, err)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.answer != nil && a.PacketID == c.asking { // else it was waited for in vain
			c.answer(a)
			c.answer = nil
		}
		return nil
	case wire.PINGRESP:
		c.mu.Lock()
		defer c.mu.Unlock()
		if len(c.pings) > 0 {
			if back := c.pings[0].back; back != nil {
				close(back)
			}
			c.pings = c.pings[1:]
		}
		return nil
	case wire.DISCONNECT:
		if c.opt.Version == wire.V5 {
			d, err := wire.DecodeDisconnect(wire.V5, body)
			if err != nil {
				return fmt.Errorf("the broker sent a malformed DISCONNECT: %w", err)
			}
			return &Disconnected{d.Code, d.Reason, d.ServerReference}
		}
	case wire.AUTH:
		return errAuth
	}
	return fmt.Errorf("the broker sent a packet of type %s, which only a client may send", kind)
}

// acknowledged takes an answer to a message of ours.
func (c *Client) acknowledged(kind wire.Type, a wire.Ack) error {
	c.mu.Lock()
	var t *Ticket
	if i := int(a.PacketID) - 1; i < len(c.waiting) {
		t = c.waiting[i]
	}
	switch {
	case t == nil && kind == wire.PUBREC: // of none that is on its way (4.3.3)
		c.mu.Unlock()
		return c.reply(wire.PUBREL, wire.Ack{PacketID: a.PacketID, Code: wire.PacketIDNotFound})
	case t == nil:
		c.mu.Unlock()
		return nil
	case (kind == wire.PUBACK) != (t.qos == 1), kind == wire.PUBCOMP && !t.received:
		c.mu.Unlock()
		return fmt.Errorf("the broker sent a %s that does not belong to a message with QoS %d", kind, t.qos)
	case kind == wire.PUBREC && a.Code < wire.Unspecified:
		t.received, t.code = true, a.Code
		c.mu.Unlock()
		return c.reply(wire.PUBREL, wire.Ack{PacketID: a.PacketID})
	}
	c.waiting[a.PacketID-1] = nil
	if kind == wire.PUBCOMP {
		a.Code = t.code // that of PUBREC says what became of it
	}
	c.mu.Unlock()
	if a.Code >= wire.Unspecified {
		t.finish(a.Code, &Refused{Packet: wire.PUBLISH, Code: a.Code, Reason: a.Reason})
	} else {
		if a.Code == wire.NoMatchingSubscribers {
			c.unheard.Add(1)
		}
		t.finish(a.Code, nil)
	}
	c.ids <- a.PacketID
	return nil
}

// reply sends an answer of the reader's. While a broker does not read them,
// nothing more is read from it.
func (c *Client) reply(kind wire.Type, a wire.Ack) error {
	if err := c.lockWithRoom(context.Background(), 8, answers); err != nil {
		if errors.Is(err, ErrClosed) {
			return nil // no more is said, but acknowledgements may still come
		}
		return err
	}
	c.out = wire.AppendAck(c.out, c.opt.Version, kind, a)
	c.unlockAndWake()
	return nil
}

// message takes a message.
func (c *Client) message(header byte, body []byte) error {
	var p wire.Publish
	if err := wire.DecodePublish(&p, c.opt.Version, header, body, c.topic); err != nil {
		return fmt.Errorf("the broker sent a malformed PUBLISH: %w", err)
	}
	if p.Alias != 0 {
		return errors.New("the broker sent a topic alias, which it was not allowed")
	}
	c.topic = p.Topic
	fresh, err := c.begin(p.QoS, p.PacketID)
	if err != nil {
		return err
	}
	if fresh && c.opt.Message != nil {
		c.opt.Message(&p)
	}
	return c.received(p.QoS, p.PacketID)
}

// begin reports whether a message has not been delivered yet.
func (c *Client) begin(qos byte, id uint16) (fresh bool, err error) {
	if qos < 2 {
		return true, nil
	}
	if _, known := c.unreleased[id]; known {
		return false, nil
	}
	if len(c.unreleased) >= maxUnreleased {
		return false, fmt.Errorf("the broker sent more than %d messages with QoS 2 and releases none", maxUnreleased)
	}
	if c.unreleased == nil {
		c.unreleased = map[uint16]struct{}{}
	}
	c.unreleased[id] = struct{}{}
	return true, nil
}

// received answers a message.
func (c *Client) received(qos byte, id uint16) error {
	switch qos {
	case 1:
		return c.reply(wire.PUBACK, wire.Ack{PacketID: id})
	case 2:
		return c.reply(wire.PUBREC, wire.Ack{PacketID: id})
	}
	return nil
}

// skip drops a message that is too large, which must not end the connection:
// whoever may publish what was subscribed to, or retain it there once, could
// keep it down.
func (c *Client) skip(header byte, length int) error {
	const most = 200 // of a topic
	left := length
	drop := func(n int) error {
		for n > 0 && left >= n {
			m, err := c.reader.Discard(min(n, max(1, c.reader.Buffered()))) // as much as comes at once
			n, left = n-m, left-m
			c.skipped.Store(time.Now().UnixNano())
			if err != nil {
				return unexpected(err)
			}
		}
		return nil
	}
	head, err := c.reader.Peek(2)
	if err != nil {
		return unexpected(err)
	}
	topic := int(head[0])<<8 | int(head[1])
	text, err := c.reader.Peek(2 + min(topic, most))
	if err != nil {
		return unexpected(err)
	}
	name := strings.ToValidUTF8(string(text[2:]), "?")
	if topic+4 > length {
		return errors.New("the broker sent a malformed PUBLISH")
	}
	if err := drop(2 + topic); err != nil {
		return err
	}
	qos, id := header>>1&3, uint16(0)
	if qos > 0 {
		head, err := c.reader.Peek(2)
		if err != nil {
			return unexpected(err)
		}
		id = uint16(head[0])<<8 | uint16(head[1])
		if id == 0 || qos == 3 {
			return errors.New("the broker sent a malformed PUBLISH")
		}
	}
	fresh, err := c.begin(qos, id)
	if err != nil {
		return err
	}
	if fresh && c.opt.Skipped != nil {
		c.opt.Skipped(name, length)
	}
	if err := drop(left); err != nil {
		return err
	}
	return c.received(qos, id)
}
