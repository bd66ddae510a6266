package broker

import (
	"net"
	"slices"
	"time"

	"event2mqtt/internal/broker/wire"
)

// This file is the way to a client: what waits is gathered and written.

// flushAcks hands the answers gathered by the reading goroutine to the writer.
func (c *conn) flushAcks() {
	if len(c.acks) > 0 {
		c.send(c.acks)
		c.acks = c.acks[:0]
	}
}

// send queues encoded packets to be written before messages. A client that
// does not read them is cut off.
func (c *conn) send(b []byte) {
	c.session.mu.Lock()
	c.control = append(c.control, b...)
	tooMany := len(c.control) > maxControl
	c.wakeWriter()
	c.session.mu.Unlock()
	if tooMany {
		c.shut(wire.QuotaExceeded, "answers were not read")
	}
}

// wakeWriter makes the writer look again. session.mu is held.
func (c *conn) wakeWriter() {
	if c.idle {
		c.idle = false
		c.wake <- struct{}{} // never blocks: idle is set once a turn
	}
}

// write is the writer goroutine. It gathers what waits and writes when the
// queue is empty or enough is there.
func (c *conn) write() {
	s := c.session
	defer func() {
		// A client that is let go in peace has its last answers read: closing
		// over them would reset the connection and take what it has not read.
		if tcp, ok := c.nc.(*net.TCPConn); ok && c.letGo {
			_ = c.nc.SetReadDeadline(time.Now().Add(farewell))
			_ = tcp.CloseWrite()
			return
		}
		_ = c.nc.Close() // ends the reader too
	}()
	var buf []byte
	var slots [64]packet
	var p wire.Publish
	messages := false // buf holds some
	for {
		s.mu.Lock()
		for len(c.control) == 0 && !c.closing && !s.canSend(c, &c.b.limits) {
			if len(c.due) > 0 && s.queue.len() == 0 {
				d := c.due[0]
				c.due = c.due[1:]
				s.mu.Unlock()
				c.queueRetained(d)
				s.mu.Lock()
				continue
			}
			if c.draining && len(s.inflight) == 0 {
				c.closing, c.letGo = true, true
				c.bye = wire.AppendDisconnect(nil, c.version, wire.ShuttingDown, "")
				break
			}
			c.idle = true
			s.mu.Unlock()
			<-c.wake
			s.mu.Lock()
		}
		buf = append(buf, c.control...)
		if c.control = c.control[:0]; cap(c.control) > flushAt {
			c.control = nil
		}
		closing, bye := c.closing, c.bye
		batch := slots[:0]
		if !closing {
			batch = s.pop(c, batch, &c.b.limits)
		}
		more := s.canSend(c, &c.b.limits)
		s.mu.Unlock()

		for i := range batch {
			buf = c.appendPacket(buf, &p, &batch[i])
			messages = true
			if len(buf) >= flushAt {
				if !c.flush(buf, messages) {
					return
				}
				buf, messages = buf[:0], false
			}
		}
		clear(batch)
		if closing {
			buf = append(buf, bye...)
		}
		if len(buf) > 0 && (!more || closing) {
			if !c.flush(buf, messages) {
				return
			}
			if buf, messages = buf[:0], false; cap(buf) > 2*flushAt {
				buf = nil
			}
		}
		if closing {
			return
		}
	}
}

// flush writes buf. messages tells whether it holds some: that they are taken
// is progress, also if it is a part of a large one at a time.
func (c *conn) flush(buf []byte, messages bool) bool {
	for part := range slices.Chunk(buf, flushAt) {
		if _, err := c.nc.Write(part); err != nil {
			return false
		}
		if messages {
			c.sign()
		}
	}
	return true
}

func (c *conn) appendPacket(buf []byte, p *wire.Publish, out *packet) []byte {
	if out.release {
		return wire.AppendAck(buf, c.version, wire.PUBREL, wire.Ack{PacketID: out.id})
	}
	m := out.message
	*p = wire.Publish{Topic: m.Topic, Payload: m.Payload, QoS: out.qos, Retain: out.retain, Dup: out.dup, PacketID: out.id, Properties: m.properties, SubscriptionIDs: out.ids}
	if !m.expires.IsZero() {
		left := time.Until(m.expires)
		if left <= 0 && !out.dup { // MQTT-3.3.2-5
			c.forget(out.id)
			return buf
		}
		p.HasExpiry, p.Expiry = true, uint32((max(0, left)+time.Second-1)/time.Second)
	}
	if c.maxSend > 0 && wire.PublishSize(c.version, p) > c.maxSend { // MQTT-3.1.2-25
		c.b.counters.dropped.Add(1)
		c.forget(out.id)
		return buf
	}
	c.b.counters.sent.Add(1)
	return wire.AppendPublish(buf, c.version, p)
}

// queueRetained queues what is retained for a subscription, whatever its size:
// it is held once already.
func (c *conn) queueRetained(d retainedDue) {
	var ids []uint32
	if d.id != 0 {
		ids = []uint32{d.id}
	}
	r := &c.b.retained
	r.mu.RLock()
	defer r.mu.RUnlock()
	s := c.session
	s.mu.Lock()
	defer s.mu.Unlock()
	r.each(d.filter.Filter, func(m *Message) {
		s.push(outgoing{message: m, ids: ids, qos: min(d.filter.QoS, m.QoS), retain: true})
	})
}

// forget takes back a message that was popped and is not sent.
func (c *conn) forget(id uint16) {
	if id != 0 {
		c.session.mu.Lock()
		c.session.forget(id)
		c.session.mu.Unlock()
	}
}

// sign notes that the client takes messages.
func (c *conn) sign() { c.progress.Store(int64(time.Since(c.born))) }

func (c *conn) lastProgress() time.Time { return c.born.Add(time.Duration(c.progress.Load())) }

// overrun marks the session as one that does not take its messages and
// reports whether it was not marked before.
func (c *conn) overrun() bool {
	c.session.mu.Lock()
	defer c.session.mu.Unlock()
	first := !c.session.overrun
	c.session.overrun = true
	return first
}
