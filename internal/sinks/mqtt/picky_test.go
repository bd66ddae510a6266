package mqtt_test

import (
	"bytes"
	"net"
	"sync"
	"testing"

	"event2mqtt/internal/wire"
)

// verdict is what a pickyBroker does with a packet.
type verdict int

const (
	take   verdict = iota
	hangUp         // close the connection
	ignore         // read it, and never acknowledge it
	late           // acknowledge it when release is closed
)

// pickyBroker is a broker that does not take everything.
type pickyBroker struct {
	url string
	// connect and publish decide; nil takes everything. Both are called with
	// the number of the connection, from 1.
	connect func(n int, c *wire.Connect) verdict
	publish func(n int, p *wire.Publish) verdict
	// subscribe decides on a subscription to one filter.
	subscribe func(n int) verdict
	slow      func(nc net.Conn) net.Conn // how it reads; may be nil
	release   chan struct{}              // lets go what is late

	mu    sync.Mutex
	conns int
	got   []string // topics of what was taken, in order
	open  map[net.Conn]struct{}
}

func (b *pickyBroker) start(t testing.TB) *pickyBroker {
	l := listen(t, "127.0.0.1:0")
	b.url, b.open = "mqtt://"+l.Addr().String(), map[net.Conn]struct{}{}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			b.mu.Lock()
			b.conns++
			n := b.conns
			b.open[nc] = struct{}{}
			b.mu.Unlock()
			wg.Go(func() { defer nc.Close(); b.serve(n, nc) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		b.mu.Lock()
		for nc := range b.open {
			nc.Close()
		}
		b.mu.Unlock()
		wg.Wait()
	})
	return b
}

func (b *pickyBroker) serve(n int, nc net.Conn) {
	var held sync.WaitGroup // until release is closed
	defer held.Wait()
	in := nc
	if b.slow != nil {
		in = b.slow(nc)
	}
	reader := wire.NewReader(in, 64<<20)
	for {
		header, body, err := reader.Next()
		if err != nil {
			return
		}
		switch wire.Type(header >> 4) {
		case wire.CONNECT:
			c, err := wire.DecodeConnect(body)
			if err != nil {
				return
			}
			v := take
			if b.connect != nil {
				v = b.connect(n, c)
			}
			if v == hangUp {
				return
			}
			_, _ = nc.Write([]byte{0x20, 2, 0, 0})
			if v == ignore { // it takes the CONNECT and then hangs up
				return
			}
		case wire.PUBLISH:
			var p wire.Publish
			if wire.DecodePublish(&p, wire.V311, header, body, "") != nil {
				return
			}
			v := take
			if b.publish != nil {
				v = b.publish(n, &p)
			}
			switch {
			case v == hangUp:
				return
			case v == ignore:
				continue
			}
			b.mu.Lock()
			b.got = append(b.got, p.Topic)
			b.mu.Unlock()
			if v == late {
				id := p.PacketID
				held.Go(func() {
					<-b.release
					_, _ = nc.Write(wire.AppendAck(nil, wire.V311, wire.PUBACK, wire.Ack{PacketID: id}))
				})
			} else if p.QoS == 1 {
				_, _ = nc.Write(wire.AppendAck(nil, wire.V311, wire.PUBACK, wire.Ack{PacketID: p.PacketID}))
			} else if p.QoS == 2 {
				_, _ = nc.Write(wire.AppendAck(nil, wire.V311, wire.PUBREC, wire.Ack{PacketID: p.PacketID}))
			}
		case wire.SUBSCRIBE:
			v := take
			if b.subscribe != nil {
				v = b.subscribe(n)
			}
			switch v {
			case hangUp:
				return
			case take:
				_, _ = nc.Write(append([]byte{0x90, 3}, body[0], body[1], 0))
			}
		case wire.PUBREL:
			_, _ = nc.Write(append([]byte{0x70, 2}, body[:2]...))
		case wire.PINGREQ:
			_, _ = nc.Write([]byte{0xD0, 0})
		}
	}
}

func (b *pickyBroker) connections() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.conns
}

// events are the names of those that were taken, each where it came first.
func (b *pickyBroker) events() (out []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	seen := map[string]bool{}
	for _, topic := range b.got {
		if _, name, ok := bytes.Cut([]byte(topic), []byte("/event/")); ok && !seen[string(name)] {
			seen[string(name)] = true
			out = append(out, string(name))
		}
	}
	return out
}

func (b *pickyBroker) took(topic string) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, t := range b.got {
		if t == topic {
			n++
		}
	}
	return n
}
