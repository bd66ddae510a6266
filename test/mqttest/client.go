// Package mqttest is a bare MQTT client for tests and benchmarks. It hides
// nothing: every packet is sent and seen as it is, in versions 3.1.1 and 5.
// It is not for use in the program.
package mqttest

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net"
	"time"

	"event2mqtt/internal/wire"
)

// Client is a connection to a broker.
type Client struct {
	net.Conn
	Reader  *wire.Reader
	Version byte
	Connack []byte // its body
	nextID  uint16
}

// Options say how to connect. The zero value is a clean 3.1.1 client with a
// random id.
type Options struct {
	Version    byte // default 3.1.1
	ID         string
	Keep       bool // do not ask for a clean start
	KeepAlive  uint16
	Will       *wire.Publish
	Properties []byte // CONNECT properties, encoded, version 5
	NoID       bool   // send an empty client id
	User       string // sent if it is not empty, with Password
	Password   string
	// Dial makes the connection; net.Dial for TCP by default.
	Dial func(addr string) (net.Conn, error)
}

// Dial connects to addr and checks that the broker accepts.
func Dial(addr string, o Options) (*Client, error) {
	c, _, code, err := Connect(addr, o)
	if err == nil && code != 0 {
		c.Close()
		err = fmt.Errorf("connection refused with code 0x%02x", byte(code))
	}
	return c, err
}

// Connect connects to addr and returns what CONNACK says.
func Connect(addr string, o Options) (c *Client, present bool, code wire.Code, err error) {
	if o.Dial == nil {
		o.Dial = func(addr string) (net.Conn, error) { return net.Dial("tcp", addr) }
	}
	nc, err := o.Dial(addr)
	if err != nil {
		return nil, false, 0, err
	}
	if o.Version == 0 {
		o.Version = wire.V311
	}
	if o.ID == "" && !o.NoID {
		o.ID = "test-" + rand.Text()[:12]
	}
	c = &Client{Conn: nc, Reader: wire.NewReader(nc, 256<<20), Version: o.Version}
	if _, err = nc.Write(AppendConnect(nil, o)); err != nil {
		return c, false, 0, err
	}
	header, body, err := c.Reader.Next()
	if err != nil {
		nc.Close()
		return c, false, 0, fmt.Errorf("waiting for CONNACK: %w", err)
	}
	if wire.Type(header>>4) != wire.CONNACK || len(body) < 2 {
		nc.Close()
		return c, false, 0, fmt.Errorf("got %s % x, not CONNACK", wire.Type(header>>4), body)
	}
	c.Connack = append([]byte(nil), body...)
	return c, body[0] == 1, wire.Code(body[1]), nil
}

// AppendConnect appends a CONNECT packet.
func AppendConnect(b []byte, o Options) []byte {
	flags := byte(0)
	if !o.Keep {
		flags |= 2
	}
	name := "MQTT"
	if o.Version == wire.V31 {
		name = "MQIsdp"
	}
	body := str(nil, name)
	var tail []byte
	if w := o.Will; w != nil {
		flags |= 4 | w.QoS<<3
		if w.Retain {
			flags |= 0x20
		}
		if o.Version == wire.V5 {
			tail = append(tail, byte(len(w.Properties)))
			tail = append(tail, w.Properties...)
		}
		tail = str(tail, w.Topic)
		tail = str(tail, string(w.Payload))
	}
	flagsAt := len(body) + 1
	body = append(body, o.Version, 0)
	body = binary.BigEndian.AppendUint16(body, o.KeepAlive)
	if o.Version == wire.V5 {
		body = append(body, byte(len(o.Properties)))
		body = append(body, o.Properties...)
	}
	body = str(body, o.ID)
	if o.User != "" {
		flags |= 0xC0
		tail = str(str(tail, o.User), o.Password)
	}
	body[flagsAt] = flags
	return Packet(b, wire.CONNECT, 0, append(body, tail...))
}

func str(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(s)))
	return append(b, s...)
}

// Packet appends a packet.
func Packet(b []byte, t wire.Type, flags byte, body []byte) []byte {
	b = append(b, byte(t)<<4|flags)
	n := len(body)
	for n >= 128 {
		b = append(b, byte(n)|128)
		n >>= 7
	}
	return append(append(b, byte(n)), body...)
}

// AppendSubscribe appends a SUBSCRIBE packet for one filter. Options are the
// filter's, QoS included; props are encoded.
func AppendSubscribe(b []byte, version byte, id uint16, filter string, options byte, props []byte) []byte {
	body := binary.BigEndian.AppendUint16(nil, id)
	if version == wire.V5 {
		body = append(append(body, byte(len(props))), props...)
	}
	body = append(str(body, filter), options)
	return Packet(b, wire.SUBSCRIBE, 2, body)
}

// Subscribe subscribes and returns the code of the SUBACK. Messages that come
// before it are an error.
func (c *Client) Subscribe(filter string, options byte, props ...byte) (wire.Code, error) {
	c.nextID++
	if _, err := c.Write(AppendSubscribe(nil, c.Version, c.nextID, filter, options, props)); err != nil {
		return 0, err
	}
	body, err := c.Expect(wire.SUBACK)
	if err != nil {
		return 0, err
	}
	return wire.Code(body[len(body)-1]), nil
}

// Unsubscribe takes a filter back.
func (c *Client) Unsubscribe(filter string) error {
	c.nextID++
	body := binary.BigEndian.AppendUint16(nil, c.nextID)
	if c.Version == wire.V5 {
		body = append(body, 0)
	}
	if _, err := c.Write(Packet(nil, wire.UNSUBSCRIBE, 2, str(body, filter))); err != nil {
		return err
	}
	_, err := c.Expect(wire.UNSUBACK)
	return err
}

// Expect reads the next packet, which must be of the type.
func (c *Client) Expect(t wire.Type) ([]byte, error) {
	header, body, err := c.Reader.Next()
	if err != nil {
		return nil, fmt.Errorf("waiting for %s: %w", t, err)
	}
	if got := wire.Type(header >> 4); got != t {
		return nil, fmt.Errorf("got %s %.40x instead of %s", got, body, t)
	}
	return append([]byte(nil), body...), nil
}

// Send writes a PUBLISH.
func (c *Client) Send(p wire.Publish) error {
	_, err := c.Write(wire.AppendPublish(nil, c.Version, &p))
	return err
}

// Publish publishes and completes the exchange that the QoS asks for.
func (c *Client) Publish(p wire.Publish) error {
	if p.QoS > 0 && p.PacketID == 0 {
		c.nextID++
		p.PacketID = c.nextID
	}
	if err := c.Send(p); err != nil {
		return err
	}
	switch p.QoS {
	case 1:
		_, err := c.Expect(wire.PUBACK)
		return err
	case 2:
		if _, err := c.Expect(wire.PUBREC); err != nil {
			return err
		}
		if err := c.Ack(wire.PUBREL, p.PacketID); err != nil {
			return err
		}
		_, err := c.Expect(wire.PUBCOMP)
		return err
	}
	return nil
}

// Ack writes a PUBACK, PUBREC, PUBREL or PUBCOMP.
func (c *Client) Ack(t wire.Type, id uint16) error {
	_, err := c.Write(wire.AppendAck(nil, c.Version, t, wire.Ack{PacketID: id}))
	return err
}

// Next reads the next message and answers it as its QoS asks. With QoS 2 it
// completes the exchange before it returns.
func (c *Client) Next() (wire.Publish, error) {
	p, err := c.NextUnanswered()
	if err != nil {
		return p, err
	}
	switch p.QoS {
	case 1:
		err = c.Ack(wire.PUBACK, p.PacketID)
	case 2:
		if err = c.Ack(wire.PUBREC, p.PacketID); err != nil {
			return p, err
		}
		if _, err = c.Expect(wire.PUBREL); err != nil {
			return p, err
		}
		err = c.Ack(wire.PUBCOMP, p.PacketID)
	}
	return p, err
}

// NextUnanswered reads the next message and does not answer it.
func (c *Client) NextUnanswered() (p wire.Publish, err error) {
	header, body, err := c.Reader.Next()
	if err != nil {
		return p, fmt.Errorf("waiting for a message: %w", err)
	}
	if t := wire.Type(header >> 4); t != wire.PUBLISH {
		return p, fmt.Errorf("got %s %.40x instead of a message", t, body)
	}
	err = wire.DecodePublish(&p, c.Version, header, append([]byte(nil), body...), "")
	return p, err
}

// Ping waits for the broker's answer: all that was sent before is handled.
func (c *Client) Ping() error {
	if _, err := c.Write([]byte{byte(wire.PINGREQ) << 4, 0}); err != nil {
		return err
	}
	_, err := c.Expect(wire.PINGRESP)
	return err
}

// Quiet reports whether nothing comes before the answers to two pings: one may
// overtake messages.
func (c *Client) Quiet() error {
	if err := c.Ping(); err != nil {
		return err
	}
	return c.Ping()
}

// Disconnect says goodbye and closes.
func (c *Client) Disconnect() error {
	_, _ = c.Write([]byte{byte(wire.DISCONNECT) << 4, 0})
	return c.Close()
}

// Patience is how long tests wait for what must come.
const Patience = 30 * time.Second
