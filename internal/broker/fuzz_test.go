package broker_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"event2mqtt/internal/broker"
	"event2mqtt/internal/journal"
	"event2mqtt/internal/testkit"
	"event2mqtt/internal/wire"
	"event2mqtt/test/mqttest"
)

// pipes is a listener whose connections are in memory.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), done: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.done) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{} }

func (p *pipes) dial(string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case p.conns <- theirs:
		return &buffered{Conn: ours}, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

// buffered is a connection whose other side can always write, as with TCP.
type buffered struct {
	net.Conn
	once sync.Once
	mu   sync.Mutex
	cond *sync.Cond
	data []byte
	err  error
}

func (b *buffered) start() {
	b.cond = sync.NewCond(&b.mu)
	go func() { // ends with the connection
		part := make([]byte, 4<<10)
		for {
			n, err := b.Conn.Read(part)
			b.mu.Lock()
			b.data = append(b.data, part[:n]...)
			b.err = err
			b.cond.Broadcast()
			b.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
}

func (b *buffered) Read(p []byte) (int, error) {
	b.once.Do(b.start)
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.data) == 0 && b.err == nil {
		b.cond.Wait()
	}
	if len(b.data) == 0 {
		return 0, b.err
	}
	n := copy(p, b.data)
	b.data = b.data[n:]
	return n, nil
}

func (b *buffered) Write(p []byte) (int, error) {
	b.once.Do(b.start)
	return b.Conn.Write(p)
}

// FuzzConnection sends arbitrary bytes, at once and in pieces, as they are or
// behind a CONNECT. Nothing may crash or hang, or stay behind.
func FuzzConnection(f *testing.F) {
	c5 := mqttest.AppendConnect(nil, mqttest.Options{Version: wire.V5, ID: "c", Keep: true, Properties: []byte{0x11, 0, 0, 0, 9, 0x22, 0, 5}})
	f.Add([]byte("\x82\x09\x00\x01\x00\x00\x03a/#\x02\x34\x08\x00\x03a/b\x00\x05x\x62\x02\x00\x05"), byte(5), byte(0))
	f.Add([]byte("\x30\x0b\x00\x03a/b\x03\x23\x00\x01xyz\x30\x08\x00\x00\x03\x23\x00\x01xy"), byte(5), byte(3))
	f.Add([]byte("\x33\x08\x00\x01t\x00\x01xyz\xa2\x06\x00\x01\x00\x02t\x2f\xe0\x00"), byte(4), byte(1))
	f.Add(append(c5, 0xc0, 0, 0xe0, 0), byte(0), byte(2))
	f.Add([]byte("\x82\x0e\x00\x01\x00\x00\x08$share/x\x00\x50\x02\x00\x01\x70\x02\x00\x01"), byte(5), byte(7))
	f.Fuzz(func(t *testing.T, data []byte, version, piece byte) {
		b, err := broker.New(broker.Options{Limits: broker.Limits{Inflight: 8, QueuedMessages: 16, PacketSize: 4 << 10, Subscriptions: 8}})
		testkit.OK(t, err)
		l := newPipes()
		served := make(chan struct{})
		go func() { defer close(served); _ = b.Serve(l) }()
		nc, err := l.dial("")
		testkit.OK(t, err)
		if version = version%3 + 3; piece&0x80 == 0 {
			data = append(mqttest.AppendConnect(nil, mqttest.Options{Version: version, ID: "c", Keep: piece&0x40 != 0}), data...)
		}
		for part := range slices.Chunk(data, 1+int(piece&0x3f)*7) {
			if _, err := nc.Write(part); err != nil {
				break
			}
		}
		_ = nc.Close()
		testkit.Eventually(t, "the connection is over", func() bool { return b.Stats().Clients == 0 })
		// Another one is served as if nothing had happened.
		c, err := mqttest.Dial("", mqttest.Options{ID: "other", Dial: l.dial})
		testkit.OK(t, err)
		testkit.OK(t, c.Ping())
		c.Close()
		ctx, cancel := context.WithTimeout(context.Background(), mqttest.Patience)
		defer cancel()
		b.Close(ctx)
		<-served
		testkit.OK(t, ctx.Err())
	})
}

// FuzzSequences has two clients do what the bytes say, valid things and
// invalid ones, while the broker is restarted now and then, and compares what
// they receive with a small model of retained messages, sessions and QoS.
func FuzzSequences(f *testing.F) {
	f.Add([]byte("\x00\x10\x01\x08\x02\x11\x03\x25\x04\x33\x00\x00"))
	f.Add([]byte("\x01\x81\x02\x1f\x12\x2a\x03\x99\x13\x51\x04\x07\x05\x00\x02\x44"))
	f.Add([]byte("\x80\x00\x20\x01\x21\x32\x61\x53\x02\x74\x13\x95\x07\x06\x00\x07\x01\x06\x42\x11"))
	for seed := range byte(12) { // longer ones, of everything
		var script []byte
		for i := range byte(60) {
			script = append(script, seed*37+i*13, seed+i*29)
		}
		f.Add(script)
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) > 200 {
			script = script[:200]
		}
		m := newModel(t, len(script) > 0 && script[0]&0x80 != 0)
		defer m.stop()
		for i := 0; i+1 < len(script); i += 2 {
			m.step(script[i], script[i+1])
			m.compare()
			if t.Failed() {
				t.Fatalf("after %d steps:\n%s", i/2+1, strings.Join(m.log, "\n"))
			}
		}
	})
}

var (
	modelTopics  = []string{"a", "a/b", "a/b/c", "b", "/", "a/", "b/b", "x"}
	modelFilters = []string{"a", "a/#", "+", "+/b", "#", "a/+/c", "/", "b"}
	modelInvalid = []string{"\x00\x00", "\x82\x00", "\x36\x06\x00\x01x\x00\x01\x00", "\x30\x03\x00\x01#", "\x90\x00", "\x10\x00"}
)

// model is what the broker ought to know, and the clients to receive.
type model struct {
	t        *testing.T
	b        *broker.Broker
	l        *pipes
	served   chan struct{}
	dir      string // empty: in memory
	retained map[string]modelMessage
	clients  [2]*modelClient
	count    int
	log      []string
}

type modelMessage struct {
	payload string
	qos     byte
}

type modelClient struct {
	id      string
	version byte
	conn    *mqttest.Client // nil while away
	session bool            // there is one
	keep    bool            // it outlives the connection
	subs    map[string]modelSub
	expect  []expected
	will    *wire.Publish
}

type modelSub struct {
	qos          byte
	noLocal, rap bool
	id           byte
}

func newModel(t *testing.T, stored bool) *model {
	m := &model{t: t, retained: map[string]modelMessage{}}
	if stored {
		m.dir = t.TempDir()
	}
	for i := range m.clients {
		m.clients[i] = &modelClient{id: fmt.Sprint("client", i)}
	}
	m.start()
	return m
}

func (m *model) start() {
	o := broker.Options{SaveInterval: time.Hour}
	if m.dir != "" {
		o.Folder = journal.DirFS(m.dir)
	}
	var err error
	m.b, err = broker.New(o)
	testkit.OK(m.t, err)
	m.l, m.served = newPipes(), make(chan struct{})
	go func() { defer close(m.served); _ = m.b.Serve(m.l) }()
}

func (m *model) stop() {
	for _, c := range m.clients {
		if c.conn != nil {
			c.conn.Close()
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), mqttest.Patience)
	defer cancel()
	m.b.Close(ctx)
	<-m.served
	testkit.OK(m.t, ctx.Err())
}

func (m *model) say(format string, args ...any) { m.log = append(m.log, fmt.Sprintf(format, args...)) }

// step does one thing. The low bit of op chooses the client.
func (m *model) step(op, arg byte) {
	c := m.clients[op&1]
	if c.conn == nil && op>>1&7 < 6 {
		m.connect(c, arg)
		return
	}
	switch op >> 1 & 7 {
	case 0:
		m.connect(c, arg) // takes its own connection over
	case 1:
		m.subscribe(c, arg)
	case 2:
		m.unsubscribe(c, arg)
	case 3, 4:
		m.publish(c, arg, op>>4&3)
	case 5:
		m.leave(c, arg)
	case 6:
		if m.dir != "" {
			m.restart()
		}
	case 7:
		m.publish(nil, arg, op>>4&3)
	}
}

func (m *model) connect(c *modelClient, arg byte) {
	if c.conn != nil {
		m.gone(c, true)
	}
	o := mqttest.Options{ID: c.id, Version: wire.V311, Keep: arg&1 != 0, Dial: m.l.dial}
	keep := o.Keep
	if arg&2 != 0 {
		o.Version = wire.V5
		keep = arg&4 != 0
		if keep {
			o.Properties = []byte{0x11, 0, 0, 0xff, 0xff}
		}
	}
	if arg&8 != 0 {
		m.count++
		o.Will = &wire.Publish{Topic: modelTopics[arg>>4&7], Payload: fmt.Append(nil, "will ", m.count), QoS: arg >> 4 % 3, Retain: arg&0x80 != 0}
	}
	m.say("%s connects: version %d, clean %v, keep %v, will %v", c.id, o.Version, !o.Keep, keep, o.Will)
	conn, present, code, err := mqttest.Connect("", o)
	testkit.OK(m.t, err)
	if want := c.session && o.Keep; code != 0 || present != want {
		m.t.Errorf("session present %v, want %v; code %d", present, want, code)
	}
	if !present {
		c.subs, c.expect = map[string]modelSub{}, nil
	}
	c.conn, c.version, c.session, c.keep, c.will = conn, o.Version, true, keep, o.Will
}

// gone is what the end of a connection means. The broker is to know it too.
func (m *model) gone(c *modelClient, sendWill bool) {
	c.conn.Close()
	c.conn = nil
	others := 0
	for _, c := range m.clients {
		if c.conn != nil {
			others++
		}
	}
	testkit.Eventually(m.t, "the client is gone", func() bool { return m.b.Stats().Clients == others })
	if c.session = c.keep; !c.keep {
		c.subs, c.expect = nil, nil
	}
	if w := c.will; w != nil && sendWill {
		m.deliver(nil, w)
	}
	c.will = nil
}

func (m *model) leave(c *modelClient, arg byte) {
	switch {
	case arg&3 == 0:
		m.say("%s says goodbye", c.id)
		testkit.OK(m.t, c.conn.Disconnect())
		m.gone(c, false)
	case arg&3 == 1:
		bad := modelInvalid[int(arg>>2)%len(modelInvalid)]
		m.say("%s sends % x", c.id, bad)
		_, _ = c.conn.Write([]byte(bad))
		for {
			if _, _, err := c.conn.Reader.Next(); err != nil {
				break // cut off, as it must be
			}
		}
		m.gone(c, true)
	default:
		m.say("%s vanishes", c.id)
		m.gone(c, true)
	}
}

func (m *model) subscribe(c *modelClient, arg byte) {
	filter := modelFilters[arg&7]
	sub := modelSub{qos: arg >> 3 % 3}
	options := sub.qos
	var props []byte
	handling := byte(0)
	if c.version == wire.V5 {
		sub.noLocal, sub.rap = arg&0x40 != 0, arg&0x80 != 0
		handling = arg >> 5 % 3
		sub.id = arg>>4&7 + 1
		props = []byte{0x0b, sub.id}
		if sub.noLocal {
			options |= 4
		}
		if sub.rap {
			options |= 8
		}
		options |= handling << 4
	}
	m.say("%s subscribes to %s: %+v, handling %d", c.id, filter, sub, handling)
	_, known := c.subs[filter]
	c.subs[filter] = sub
	code, err := c.conn.Subscribe(filter, options, props...)
	if err != nil || code != wire.Code(sub.qos) {
		m.t.Errorf("subscribe: code 0x%02x, %v", byte(code), err)
		return
	}
	if handling == 0 || handling == 1 && !known {
		for topic, kept := range m.retained {
			if modelMatch(filter, topic) {
				c.expect = append(c.expect, expected{topic, kept.payload, min(kept.qos, sub.qos), true, []byte{sub.id}})
			}
		}
	}
}

// expected is a message that a client is to receive.
type expected struct {
	topic, payload string
	qos            byte
	retain         bool
	ids            []byte // seen by version 5 alone
}

func (e expected) same(other expected, version byte) bool {
	if version != wire.V5 {
		e.ids, other.ids = nil, nil
	}
	ids := func(ids []byte) []byte {
		ids = slices.DeleteFunc(slices.Clone(ids), func(id byte) bool { return id == 0 })
		slices.Sort(ids)
		return ids
	}
	return e.topic == other.topic && e.payload == other.payload && e.qos == other.qos && e.retain == other.retain && slices.Equal(ids(e.ids), ids(other.ids))
}

func (m *model) unsubscribe(c *modelClient, arg byte) {
	filter := modelFilters[arg&7]
	m.say("%s unsubscribes from %s", c.id, filter)
	delete(c.subs, filter)
	testkit.OK(m.t, c.conn.Unsubscribe(filter))
}

// publish has a client, or the program itself, publish one or more messages.
func (m *model) publish(c *modelClient, arg, more byte) {
	for i := range more + 1 {
		m.count++
		p := wire.Publish{Topic: modelTopics[(arg+i)&7], Payload: fmt.Append(nil, m.count), QoS: arg >> 3 % 3, Retain: arg&0x40 != 0, Dup: false}
		if arg&0x80 != 0 {
			p.Payload = nil
		}
		if c == nil {
			m.say("published inside: %+v", p)
			m.deliver(nil, &p)
			testkit.OK(m.t, publish(m.b, &broker.Message{Topic: p.Topic, Payload: p.Payload, QoS: p.QoS, Retain: p.Retain}))
			continue
		}
		m.say("%s publishes %s %q QoS %d retain %v", c.id, p.Topic, p.Payload, p.QoS, p.Retain)
		m.deliver(c, &p)
		if p.QoS > 0 {
			p.PacketID = 60000 + uint16(i)
		}
		testkit.OK(m.t, c.conn.Send(p))
		m.complete(c, p.QoS, p.PacketID)
	}
}

// complete reads on until the exchange of a message is over.
func (m *model) complete(c *modelClient, qos byte, id uint16) {
	last := map[byte]wire.Type{0: wire.PINGRESP, 1: wire.PUBACK, 2: wire.PUBCOMP}[qos]
	if qos == 0 {
		_, err := c.conn.Write([]byte{byte(wire.PINGREQ) << 4, 0})
		testkit.OK(m.t, err)
	}
	for {
		switch t := m.receive(c); {
		case t == wire.PUBREC:
			testkit.OK(m.t, c.conn.Ack(wire.PUBREL, id))
		case t == last || m.t.Failed():
			return
		}
	}
}

// receive handles one packet and takes a message off what is expected.
func (m *model) receive(c *modelClient) wire.Type {
	header, body, err := c.conn.Reader.Next()
	if err != nil {
		m.t.Fatalf("%s: %v\n%s", c.id, err, strings.Join(m.log, "\n"))
	}
	t := wire.Type(header >> 4)
	switch t {
	case wire.PUBREL:
		testkit.OK(m.t, c.conn.Ack(wire.PUBCOMP, binary.BigEndian.Uint16(body)))
	case wire.PUBLISH:
		var p wire.Publish
		testkit.OK(m.t, wire.DecodePublish(&p, c.version, header, bytes.Clone(body), ""))
		switch p.QoS {
		case 1:
			testkit.OK(m.t, c.conn.Ack(wire.PUBACK, p.PacketID))
		case 2:
			testkit.OK(m.t, c.conn.Ack(wire.PUBREC, p.PacketID))
		}
		var ids []byte
		for _, id := range p.SubscriptionIDs {
			ids = append(ids, byte(id))
		}
		got := expected{p.Topic, string(p.Payload), p.QoS, p.Retain, ids}
		i := slices.IndexFunc(c.expect, func(e expected) bool { return e.same(got, c.version) })
		if i < 0 {
			m.t.Errorf("%s received %+v; it was to receive %+v", c.id, got, c.expect)
			return t
		}
		c.expect = slices.Delete(c.expect, i, i+1)
	}
	return t
}

// deliver is what a message means to the model.
func (m *model) deliver(from *modelClient, p *wire.Publish) {
	if p.Retain {
		if len(p.Payload) == 0 {
			delete(m.retained, p.Topic)
		} else {
			m.retained[p.Topic] = modelMessage{string(p.Payload), p.QoS}
		}
	}
	for _, c := range m.clients {
		matched, local, rap, qos := false, false, false, byte(0)
		var ids []byte
		for filter, sub := range c.subs {
			if c.session && modelMatch(filter, p.Topic) {
				matched, local, rap = true, local || !sub.noLocal, rap || sub.rap
				qos = max(qos, sub.qos)
				ids = append(ids, sub.id)
			}
		}
		qos = min(qos, p.QoS)
		if matched && (c != from || local) && (c.conn != nil || qos > 0) {
			c.expect = append(c.expect, expected{p.Topic, string(p.Payload), qos, p.Retain && rap, ids})
		}
	}
}

// restart ends the broker and starts it on what it has stored.
func (m *model) restart() {
	m.say("restart")
	for _, c := range m.clients {
		if c.conn != nil {
			testkit.OK(m.t, c.conn.Disconnect())
			c.conn, c.will = nil, nil
			if c.session = c.keep; !c.keep {
				c.subs, c.expect = nil, nil
			}
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), mqttest.Patience)
	defer cancel()
	m.b.Close(ctx)
	<-m.served
	m.start()
}

// compare has every client receive all there is for it.
func (m *model) compare() {
	for _, c := range m.clients {
		if c.conn == nil {
			// What waits for a later connection may come with another version.
			continue
		}
		deadline := time.Now().Add(mqttest.Patience)
		for quiet := 0; quiet < 2 || len(c.expect) > 0; {
			_, err := c.conn.Write([]byte{byte(wire.PINGREQ) << 4, 0})
			testkit.OK(m.t, err)
			quiet++
			for {
				t := m.receive(c)
				if m.t.Failed() || t == wire.PINGRESP {
					break
				}
				quiet = 0
			}
			if m.t.Failed() {
				return
			}
			if time.Now().After(deadline) {
				m.t.Errorf("%s did not receive %+v", c.id, c.expect)
				return
			}
		}
	}
	if n := m.b.Stats().Retained; n != len(m.retained) {
		m.t.Errorf("%d messages are retained, want %v", n, m.retained)
	}
}

// modelMatch is the rule of section 4.7, written another way than the broker.
func modelMatch(filter, topic string) bool {
	f, t := strings.Split(filter, "/"), strings.Split(topic, "/")
	for i, level := range f {
		if level == "#" {
			return true
		}
		if i == len(t) || level != "+" && level != t[i] {
			return false
		}
		if i == len(t)-1 && i == len(f)-2 && f[i+1] == "#" {
			return true
		}
	}
	return len(f) == len(t)
}
