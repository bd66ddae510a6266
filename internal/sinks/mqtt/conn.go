package mqtt

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"time"
)

const (
	// maxIncoming bounds the remaining length of a packet from the broker, in
	// bytes. All that a publisher is ever sent, CONNACK, acknowledgements and
	// PINGRESP, has a few; only messages that were subscribed to are longer, and
	// commands are small. The protocol allows 256 MiB, for which paho would
	// make room before they come.
	maxIncoming = 16 << 10
	// maxSuback is the remaining length of a SUBACK: filters are asked for one
	// at a time, and paho does not survive more answers than it has asked for.
	maxSuback = 3
)

// conn is a connection to a broker. It looks at the head of every packet that
// comes, before paho does, gathers what is written, and sees to it that a write
// takes as long as it needs while bytes go out.
type conn struct {
	net.Conn
	*gatherer
	pongs chan struct{} // cap 1: a PINGRESP has come

	published atomic.Int64  // PUBLISH packets that were taken, or could not be
	wrote     chan struct{} // cap 1: published has grown

	// Of the goroutine that reads.
	reader *bufio.Reader
	head   [5]byte   // of the packet
	ahead  []byte    // what of head is yet to be handed over
	body   int       // bytes of the packet behind ahead
	excess int       // bytes of a message that is skipped, yet to come
	signed time.Time // when paho got its last PINGRESP because of it

	// subscribed is set once a message may come. Before that, one that is too
	// large ends the connection.
	subscribed atomic.Bool
	// skip is told of each message that is too large to be taken.
	skip    func(topic string, bytes int)
	skipped atomic.Int64 // when bytes of such a one came last, as moved
}

func newConn(c net.Conn, timeout time.Duration, skip func(topic string, bytes int)) *conn {
	return &conn{Conn: c, gatherer: newGatherer(c, timeout), reader: bufio.NewReader(c), skip: skip, pongs: make(chan struct{}, 1), wrote: make(chan struct{}, 1)}
}

// Read reads what was buffered first: paho would read the four bytes of an
// acknowledgement with three system calls. If a write has failed, the error is
// that of the write.
func (c *conn) Read(p []byte) (n int, err error) {
	if n, err = c.read(p); err != nil {
		if failed := c.gatherer.err(); failed != nil {
			err = failed
		}
	}
	return n, err
}

func (c *conn) read(p []byte) (n int, err error) {
	for len(c.ahead) == 0 && c.body == 0 {
		if c.excess > 0 {
			err = c.skipSome()
		} else {
			err = c.next()
		}
		if err != nil {
			return 0, err
		}
	}
	if len(c.ahead) > 0 {
		n = copy(p, c.ahead)
		c.ahead = c.ahead[n:]
		return n, nil
	}
	n, err = c.reader.Read(p[:min(len(p), c.body)])
	c.body -= n
	return n, err
}

// next reads the fixed header of the next packet (section 2.2 of MQTT 3.1.1).
// A message that is too large must not end the connection: whoever may publish
// what was subscribed to, or retain it there once, could keep it down.
func (c *conn) next() error {
	head := c.head[:0]
	length := 0
	for shift := 0; len(head) < 2 || head[len(head)-1] >= 0x80; {
		b, err := c.reader.ReadByte()
		if err != nil {
			return err
		}
		if head = append(head, b); len(head) > 1 {
			length |= int(b&0x7f) << shift
			shift += 7
		}
		if len(head) == cap(head) && b >= 0x80 {
			return errors.New("the broker sent a packet whose length is malformed")
		}
	}
	most := maxIncoming
	if head[0]>>4 == suback {
		most = maxSuback
	}
	switch kind := head[0] >> 4; {
	case length > most && kind == publish && c.subscribed.Load():
		c.excess = length
		return c.tellSkipped()
	case length > most:
		return fmt.Errorf("the broker announced a packet of type %d with %d bytes, which is longer than the %d bytes that a publisher can expect", kind, length, most)
	case kind == pingresp:
		select {
		case c.pongs <- struct{}{}:
		default:
		}
	}
	c.ahead, c.body = head, length
	return nil
}

// tellSkipped tells skip of the message that comes.
func (c *conn) tellSkipped() error {
	const most = 200 // of a topic
	text, err := c.reader.Peek(2)
	if err == nil {
		text, err = c.reader.Peek(2 + min(int(text[0])<<8|int(text[1]), most))
	}
	if err != nil {
		return err
	}
	c.skip(strings.ToValidUTF8(string(text[2:]), "?"), c.excess)
	c.signed = time.Now()
	return nil
}

// skipSome drops a part of a message that is too large. The answer to a ping
// is behind it, and so is every acknowledgement; as a sign that the broker is
// there paho gets a PINGRESP now and then.
func (c *conn) skipSome() error {
	n, err := c.reader.Discard(min(c.excess, max(1, c.reader.Buffered()))) // as much as comes at once
	c.excess -= n
	now := time.Now()
	c.skipped.Store(now.UnixNano())
	if now.Sub(c.signed) >= c.timeout/4 {
		c.signed, c.ahead = now, append(c.head[:0], pingresp<<4, 0)
	}
	return err
}

// Write takes one packet, and returns before it was written unless it is one
// whose time counts: CONNECT, PINGREQ or DISCONNECT. An error ends the
// connection, and comes back from the next Write and from Read.
func (c *conn) Write(p []byte) (n int, err error) {
	kind := byte(0)
	if len(p) > 0 {
		kind = p[0] >> 4
	}
	n, err = c.write(p, kind == publish, kind == connecting || kind == pingreq || kind == disconnect)
	if kind == publish {
		c.published.Add(1)
		select {
		case c.wrote <- struct{}{}:
		default:
		}
	}
	return n, err
}

// Close closes the connection at once. paho has written its DISCONNECT by then.
func (c *conn) Close() error { return c.close() }

// SetWriteDeadline does nothing: paho's deadline is one for a whole packet.
func (c *conn) SetWriteDeadline(time.Time) error { return nil }

// ping asks the broker for a sign of life and waits for it, at most for the
// time-out. Since a broker reads in order, it has then read all that was sent
// before.
func (c *conn) ping(ctx context.Context, down <-chan struct{}) error {
	select {
	case <-c.pongs: // of paho's own
	default:
	}
	if _, err := c.Write([]byte{pingreq << 4, 0}); err != nil {
		return err
	}
	timer := time.NewTimer(c.timeout)
	defer timer.Stop()
	for {
		select {
		case <-c.pongs:
			return nil
		case <-down:
			return errDown
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
			if left := c.timeout - time.Since(time.Unix(0, c.skipped.Load())); left > 0 {
				timer.Reset(left) // the answer is behind a message that is skipped
				continue
			}
			return errNoPong
		}
	}
}

var (
	errNoPong = errors.New("the broker does not answer a ping (time-out)")
	errDown   = errors.New("the connection ended")
)

// Types of packets, section 2.2.1 of MQTT 3.1.1.
const (
	connecting = 1
	publish    = 3
	suback     = 9
	pingreq    = 12
	pingresp   = 13
	disconnect = 14
)
