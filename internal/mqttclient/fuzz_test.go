package mqttclient_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"event2mqtt/internal/mqttclient"
	"event2mqtt/internal/testkit"
	"event2mqtt/internal/wire"
)

// FuzzClient feeds what a hostile broker may send to a client that publishes and
// subscribes: it must not panic, nor leave a goroutine, and everything has an
// answer in the end.
func FuzzClient(f *testing.F) {
	for _, s := range []string{
		"\x20\x03\x00\x00\x00\x40\x02\x00\x01\x50\x02\x00\x02\x70\x02\x00\x02\xd0\x00", "\x20\x02\x00\x01", "\x20\x02\x00\x00\x40\x02\x00\x01",
		"\x20\x0b\x00\x00\x08\x21\x00\x01\x24\x01\x25\x00\x2a\x00\x30\x04\x00\x01t\x00", "\x20\x03\x00\x00\x00\xe0\x01\x8b",
		"\x20\x03\x00\x00\x00\x90\x04\x00\x81\x00\x00\x32\x07\x00\x01t\x00\x01\x00x\x34\x07\x00\x01t\x00\x01\x00x\x62\x02\x00\x01",
		"\x20\x03\x00\x00\x00\x30\xff\xff\x7f\x00\x01t", "\x20\x03\x00\x00\x00\x50\x03\x00\x02\x87",
	} {
		f.Add([]byte(s), true)
		f.Add([]byte(s), false)
	}
	f.Fuzz(func(t *testing.T, data []byte, v5 bool) {
		near, far := net.Pipe()
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = io.Copy(io.Discard, far) })
		wg.Go(func() { _, _ = far.Write(data); far.Close() })
		defer wg.Wait()
		defer near.Close()
		o := mqttclient.Options{Version: wire.V311, MaxIncoming: 200, Window: 4, Message: func(*wire.Publish) {}, Skipped: func(string, int) {}}
		if v5 {
			o.Version = wire.V5
		}
		c, err := mqttclient.Connect(context.Background(), near, o)
		if err != nil {
			return
		}
		defer c.Close(0, 0)
		wg.Go(func() { _ = c.Subscribe(context.Background(), "t", 2) })
		for i := range 6 {
			p := wire.Publish{Topic: "t", QoS: byte(i % 3)}
			ticket, err := c.Publish(context.Background(), &p)
			if err == nil {
				defer func() { <-ticket.Done() }()
			}
		}
		<-c.Done()
	})
}

// BenchmarkPublish is the whole way of a message with QoS 1 and its
// acknowledgement, to a peer that does nothing else.
func BenchmarkPublish(b *testing.B) {
	for _, version := range []byte{wire.V311, wire.V5} {
		b.Run(fmt.Sprint("version ", version), func(b *testing.B) {
			near, p := pair(b)
			_ = p.SetDeadline(time.Time{})
			var wg sync.WaitGroup
			defer wg.Wait()
			wg.Go(func() {
				_, _, _ = p.Next()
				_, _ = p.Write(wire.AppendConnack(nil, version, wire.Connack{}))
				var out []byte
				for {
					header, body, err := p.Next()
					if err != nil {
						return
					}
					if wire.Type(header>>4) == wire.PUBLISH {
						n := 2 + int(body[0])<<8 + int(body[1])
						out = wire.AppendAck(out, version, wire.PUBACK, wire.Ack{PacketID: uint16(body[n])<<8 | uint16(body[n+1])})
					}
					if p.Buffered() < 10 {
						_, _ = p.Write(out)
						out = out[:0]
					}
				}
			})
			c, err := mqttclient.Connect(context.Background(), near, mqttclient.Options{Version: version})
			testkit.OK(b, err)
			tickets := make(chan *mqttclient.Ticket, 128)
			wg.Go(func() {
				for ticket := range tickets {
					<-ticket.Done()
				}
			})
			payload := make([]byte, 200)
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				ticket, err := c.Publish(context.Background(), &wire.Publish{Topic: "event2mqtt/event/Bench", Payload: payload, QoS: 1})
				if err != nil {
					b.Fatal(err)
				}
				tickets <- ticket
			}
			close(tickets)
			b.StopTimer()
			c.Close(0, time.Second)
			p.Close()
		})
	}
}
