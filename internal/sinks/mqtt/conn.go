package mqtt

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxIncoming bounds the remaining length of a packet from the broker, in
	// bytes. All that a publisher is ever sent, CONNACK, acknowledgements and
	// PINGRESP, has a few; only the message of a probe is longer. The protocol
	// allows 256 MiB, for which paho would make room before they come.
	maxIncoming = 16 << 10
	// writeChunk is how many bytes have to go out within the time-out, however
	// long the whole packet takes.
	writeChunk = 16 << 10
)

// conn is a connection to a broker. It looks at the head of every packet that
// comes, before paho does, and sees to it that a write takes as long as it
// needs while bytes go out.
type conn struct {
	net.Conn
	reader  *bufio.Reader
	head    packetHead
	timeout time.Duration // for each chunk
	writing sync.Mutex    // held while one packet is written
	moved   atomic.Int64  // when bytes went out last, nanoseconds since 1970
	pongs   chan struct{} // cap 1: a PINGRESP has come

	published atomic.Int64  // PUBLISH packets that were written, or could not be
	wrote     chan struct{} // cap 1: published has grown
}

func newConn(c net.Conn, timeout time.Duration) *conn {
	return &conn{Conn: c, reader: bufio.NewReader(c), timeout: timeout, pongs: make(chan struct{}, 1), wrote: make(chan struct{}, 1)}
}

// Read reads what was buffered first: paho would read the four bytes of an
// acknowledgement with three system calls.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.reader.Read(p)
	for _, b := range p[:n] {
		kind, ok := c.head.next(b)
		if !ok {
			return 0, fmt.Errorf("the broker sent a packet of type %d that is longer than the %d bytes which a publisher can expect", kind, maxIncoming)
		}
		if kind == pingresp {
			select {
			case c.pongs <- struct{}{}:
			default:
			}
		}
	}
	return n, err
}

// Write writes one packet. It fails when no chunk of it has gone out within
// the time-out.
func (c *conn) Write(p []byte) (n int, err error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	if len(p) > 0 && p[0]>>4 == publish {
		defer func() {
			c.published.Add(1)
			select {
			case c.wrote <- struct{}{}:
			default:
			}
		}()
	}
	for n < len(p) {
		if err := c.Conn.SetWriteDeadline(time.Now().Add(c.timeout)); err != nil {
			return n, err
		}
		m, err := c.Conn.Write(p[n:min(n+writeChunk, len(p))])
		n += m
		c.moved.Store(time.Now().UnixNano())
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

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
	select {
	case <-c.pongs:
		return nil
	case <-down:
		return errDown
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return errNoPong
	}
}

var (
	errNoPong = errors.New("the broker does not answer a ping (time-out)")
	errDown   = errors.New("the connection ended")
)

// Types of packets, section 2.2.1 of MQTT 3.1.1.
const (
	publish  = 3
	pingreq  = 12
	pingresp = 13
)

// packetHead follows the stream of packets and reads the fixed header of each
// (section 2.2 of MQTT 3.1.1).
type packetHead struct {
	kind   byte
	length int
	digits int // of length that were read; 0 is before the first byte of a packet
	body   int // bytes of the packet that are yet to come
}

// next takes one byte. With the last byte of a header it returns the packet's
// type; ok is false if the packet is longer than may be.
func (h *packetHead) next(b byte) (kind byte, ok bool) {
	switch {
	case h.body > 0:
		h.body--
	case h.digits == 0:
		h.kind, h.length, h.digits = b>>4, 0, 1
	default:
		h.length |= int(b&0x7f) << (7 * (h.digits - 1))
		if h.length > maxIncoming || h.digits == 4 && b >= 0x80 {
			return h.kind, false
		}
		if h.digits++; b < 0x80 {
			h.digits, h.body = 0, h.length
			return h.kind, true
		}
	}
	return 0, true
}
