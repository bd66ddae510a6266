package broker

import (
	"slices"
	"time"

	"event2mqtt/internal/broker/accounts"
	"event2mqtt/internal/wire"
)

// This file is the way to a client: what waits is gathered and written.

// flushAcks hands the answers gathered by the reading goroutine to the writer,
// as soon as what they promise is on disk.
func (c *conn) flushAcks() {
	if c.packets > 0 {
		c.b.counters.packetsIn.Add(c.packets)
		c.packets = 0
	}
	c.tell()
	if !c.b.store.wait(c.ticket) {
		c.shut(wire.QuotaExceeded, errNotStored.Error())
		c.acks = c.acks[:0] // the client must ask again
	}
	c.ticket = ticket{}
	if len(c.acks) > 0 {
		c.send(c.acks)
		c.acks = c.acks[:0]
	}
}

// tell hands what the client's answers changed to the store. What lets an id
// be used again has to be on disk before the answer goes out.
func (c *conn) tell() {
	if c.b.store == nil || c.news.empty() {
		return
	}
	rec := appendChanges(appendString(nil, c.session.key), &c.news)
	c.b.store.mu.Lock()
	t := c.b.store.submit(recordChanges, rec)
	c.b.store.mu.Unlock()
	if len(c.news.received)+len(c.news.released) > 0 {
		c.ticket = c.ticket.then(t)
	}
	n := &c.news
	*n = changes{done: n.done[:0], received: n.received[:0], released: n.released[:0]}
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

// start lets the connection write: its CONNACK was sent.
func (c *conn) start() {
	c.sign()
	c.session.mu.Lock()
	defer c.session.mu.Unlock()
	c.ready = true
	c.wakeWriter()
}

// wakeWriter has a writer look at what there is. session.mu is held.
func (c *conn) wakeWriter() {
	if c.ready && !c.writing && !c.finished {
		c.writing = true
		go c.write() // run waits for written
	}
}

// writer is what a writing goroutine works with; an idle client has none.
type writer struct {
	buf   []byte
	slots [64]packet
	p     wire.Publish
}

// write gathers what waits and writes when the queue is empty or enough is
// there. It ends when nothing is left, or with the connection.
func (c *conn) write() {
	w := c.b.writers.Get().(*writer)
	defer c.b.writers.Put(w)
	s := c.session
	buf := w.buf[:0]
	messages := false // buf holds some
	for {
		s.mu.Lock()
		for !c.closing {
			// Answers do not put this off: a client that goes on asking would
			// never get what is retained.
			if len(s.due) > 0 && s.queue.len() == 0 {
				d := s.due[0]
				s.due = s.due[1:]
				s.mu.Unlock()
				c.queueRetained(d)
				s.mu.Lock()
				continue
			}
			if len(c.control) > 0 || s.canSend(c, c.b.limit()) {
				break
			}
			if c.draining && len(s.inflight) == 0 {
				c.closing, c.letGo = true, true
				c.bye = wire.AppendDisconnect(nil, c.version, wire.ShuttingDown, "", 0)
				break
			}
			if len(buf) > 0 { // what was to come with it is gone
				s.mu.Unlock()
				if !c.flush(buf, messages) {
					c.finish()
					return
				}
				buf, messages = buf[:0], false
				s.mu.Lock()
				continue
			}
			c.writing = false
			s.mu.Unlock()
			if w.buf = buf; cap(buf) > 2*flushAt {
				w.buf = nil
			}
			return
		}
		buf = append(buf, c.control...)
		if c.control = c.control[:0]; cap(c.control) > 1<<10 {
			c.control = nil
		}
		closing, bye := c.closing, c.bye
		batch := w.slots[:0]
		if !closing {
			batch = s.pop(c, batch, c.b.limit())
		}
		more := s.canSend(c, c.b.limit())
		s.mu.Unlock()

		if !c.storeIDs(batch) {
			c.shut(wire.QuotaExceeded, errNotStored.Error())
			clear(batch)
			continue
		}
		ok := true
		for i := range batch {
			buf = c.appendPacket(buf, &w.p, &batch[i])
			messages = true
			if ok && len(buf) >= flushAt {
				ok = c.flush(buf, messages)
				buf, messages = buf[:0], false
			}
		}
		clear(batch)
		w.p = wire.Publish{}
		if closing {
			buf = append(buf, bye...)
		}
		if ok && len(buf) > 0 && (!more || closing) {
			ok = c.flush(buf, messages)
			buf, messages = buf[:0], false
		}
		if closing || !ok {
			c.finish()
			return
		}
	}
}

// finish is the last thing that is written: no writer starts after it.
func (c *conn) finish() {
	c.session.mu.Lock()
	c.finished = true
	c.session.mu.Unlock()
	defer close(c.written)
	// A client that is let go in peace has its last answers read: closing
	// over them would reset the connection and take what it has not read.
	if half, ok := c.nc.(interface{ CloseWrite() error }); ok && c.letGo {
		_ = half.CloseWrite()
		time.AfterFunc(farewell, func() { _ = c.nc.Close() }) // however much it goes on to send
		return
	}
	_ = c.nc.Close() // ends the reader too
}

// storeIDs has the packet ids of QoS 2 messages of a stored session on disk
// before the client sees them: sent under another id after a crash, it would
// take them for new ones.
func (c *conn) storeIDs(batch []packet) bool {
	if c.b.store == nil || !c.session.stored {
		return true
	}
	var rec []byte
	for i := range batch {
		if batch[i].qos == 2 && !c.sound() {
			return false
		}
		if p := &batch[i]; p.qos == 2 && !p.again && p.order != 0 {
			if rec == nil {
				rec = appendString(nil, c.session.key)
			}
			rec = appendID(rec, p.order, p.id)
		}
	}
	if rec == nil {
		return true
	}
	c.b.store.mu.Lock()
	t := c.b.store.submit(recordIDs, rec)
	c.b.store.mu.Unlock()
	return c.b.store.wait(t)
}

// flush writes buf. messages tells whether it holds some: that they are taken
// is progress, also if it is a part of a large one at a time.
func (c *conn) flush(buf []byte, messages bool) bool {
	for part := range slices.Chunk(buf, flushAt) {
		if _, err := c.nc.Write(part); err != nil {
			return false
		}
		c.b.counters.bytesOut.Add(uint64(len(part)))
		if messages {
			c.sign()
		}
	}
	return true
}

func (c *conn) appendPacket(buf []byte, p *wire.Publish, out *packet) []byte {
	c.b.counters.packetsOut.Add(1)
	if out.release {
		return wire.AppendAck(buf, c.version, wire.PUBREL, wire.Ack{PacketID: out.id})
	}
	m := out.message
	*p = wire.Publish{Topic: m.Topic, Payload: m.Payload, QoS: out.qos, Retain: out.retain, Dup: out.dup && out.qos > 0, PacketID: out.id, Properties: m.properties, SubscriptionIDs: out.ids}
	if !m.expires.IsZero() {
		left := time.Until(m.expires)
		if left <= 0 && !out.again { // MQTT-3.3.2-5
			c.forget(out)
			return buf
		}
		p.HasExpiry, p.Expiry = true, uint32((max(0, left)+time.Second-1)/time.Second)
	}
	fresh := c.useAlias(p)
	if c.maxSend > 0 && wire.PublishSize(c.version, p) > c.maxSend { // MQTT-3.1.2-25
		if fresh {
			delete(c.sent, m.Topic)
		}
		c.b.counters.tooLarge.Add(1)
		c.b.warn("size "+c.session.key).Str("client", c.session.id).Str("topic", m.Topic).Int("takes", c.maxSend).Msg("broker: a message is larger than its subscriber takes and is not sent to it")
		c.forget(out)
		return buf
	}
	c.b.counters.sent.Add(1)
	c.b.counters.publishedOut.Add(uint64(len(p.Payload)))
	return wire.AppendPublish(buf, c.version, p)
}

// useAlias replaces a topic that the client has seen by its alias, as long as
// there are some (3.3.2.3.4). fresh tells that the client sees it now.
func (c *conn) useAlias(p *wire.Publish) (fresh bool) {
	if c.aliasMax == 0 {
		return false
	}
	if id := c.sent[p.Topic]; id != 0 {
		p.Topic, p.Alias = "", id
		return false
	}
	if len(c.sent) == c.aliasMax {
		return false
	}
	if c.sent == nil {
		c.sent = map[string]uint16{}
	}
	p.Alias = uint16(len(c.sent) + 1)
	c.sent[p.Topic] = p.Alias
	return true
}

// queueRetained queues what is retained for a subscription, whatever its size:
// it is held once already.
func (c *conn) queueRetained(d retainedDue) {
	var ids []uint32
	if d.id != 0 {
		ids = []uint32{d.id}
	}
	s := c.session
	stored := c.b.store != nil && s.stored
	if stored {
		c.b.store.mu.Lock()
		defer c.b.store.mu.Unlock()
	}
	r := &c.b.retained
	r.mu.RLock()
	defer r.mu.RUnlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	sources := sources{b: c.b}
	r.each(d.filter, d.turn, func(m *Message) {
		if !s.mayRead(m.Topic) || !sources.may(m) {
			return
		}
		o := outgoing{message: m, ids: ids, qos: min(d.qos, m.QoS), retain: true}
		if stored && o.qos > 0 {
			s.order++
			o.order = s.order
			c.b.store.submit(recordMessage, appendTarget(messageRecord(m, false, nil, 0), s, o.order, &o))
		}
		s.push(o)
	})
	if stored {
		c.b.store.submit(recordCaughtUp, appendString(appendString(nil, s.key), d.filter))
	}
}

// sources tells whether whoever retained a message may still do that: what was
// retained must not outlive the right to do so (CVE-2018-12546). It is asked
// for many messages of few users.
type sources struct {
	b     *Broker
	rules map[string]accounts.Rules
}

func (s *sources) may(m *Message) bool {
	if s.b.accounts == nil || m.source == "" {
		return true
	}
	rules, known := s.rules[m.source]
	if !known {
		rules, _ = s.b.accounts.Writers(m.source) // nothing, if there is no such user
		if s.rules == nil {
			s.rules = map[string]accounts.Rules{}
		}
		s.rules[m.source] = rules
	}
	return rules.MayWrite(m.Topic)
}

// forget takes back a message that was popped and is not sent.
func (c *conn) forget(out *packet) {
	if out.id == 0 {
		return
	}
	c.session.mu.Lock()
	c.session.forget(out.id)
	c.session.mu.Unlock()
	if out.order != 0 && c.b.store != nil {
		rec := appendChanges(appendString(nil, c.session.key), &changes{done: []uint64{out.order}})
		c.b.store.mu.Lock()
		c.b.store.submit(recordChanges, rec)
		c.b.store.mu.Unlock()
	}
}

// sign notes that the client takes messages.
func (c *conn) sign() { c.progress.Store(int64(time.Since(c.born))) }

func (c *conn) lastProgress() time.Time { return c.born.Add(time.Duration(c.progress.Load())) }
