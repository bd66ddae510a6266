package mqtt_test

import (
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"event2mqtt/internal/refused"
	"event2mqtt/internal/sinks"
	"event2mqtt/internal/sinks/mqtt"
	"event2mqtt/internal/testkit"
	"event2mqtt/internal/wire"
)

// fiveBroker is a broker that speaks MQTT 5 by a script.
type fiveBroker struct {
	url string
	// connack is the answer to a CONNECT; raw, if it is not nil, is sent instead.
	connack func(n int, c *wire.Connect) wire.Connack
	raw     []byte
	// publish returns the answer to a message, or what is to be sent instead.
	publish func(n int, p *wire.Publish) (code wire.Code, instead []byte)

	mu    sync.Mutex
	conns int
	got   []wire.Publish // what was accepted, in order
}

func (b *fiveBroker) start(t testing.TB) *fiveBroker {
	l := listen(t, "127.0.0.1:0")
	b.url = "mqtt://" + l.Addr().String()
	var wg sync.WaitGroup
	open := map[net.Conn]struct{}{}
	wg.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			b.mu.Lock()
			b.conns++
			n := b.conns
			open[nc] = struct{}{}
			b.mu.Unlock()
			wg.Go(func() { defer nc.Close(); b.serve(n, nc) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		b.mu.Lock()
		for nc := range open {
			nc.Close()
		}
		b.mu.Unlock()
		wg.Wait()
	})
	return b
}

func (b *fiveBroker) serve(n int, nc net.Conn) {
	reader := wire.NewReader(nc, 64<<20)
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
			if b.raw != nil {
				_, _ = nc.Write(b.raw)
				return
			}
			var a wire.Connack
			if b.connack != nil {
				a = b.connack(n, c)
			}
			_, _ = nc.Write(wire.AppendConnack(nil, wire.V5, a))
			if a.Code != wire.Success {
				return
			}
		case wire.PUBLISH:
			var p wire.Publish
			if wire.DecodePublish(&p, wire.V5, header, slices.Clone(body), "") != nil {
				return
			}
			code := wire.Success
			if b.publish != nil {
				var instead []byte
				if code, instead = b.publish(n, &p); instead != nil {
					_, _ = nc.Write(instead)
					return
				}
			}
			if code < wire.Unspecified {
				b.mu.Lock()
				b.got = append(b.got, p)
				b.mu.Unlock()
			}
			if p.QoS > 0 {
				kind := wire.PUBACK
				if p.QoS == 2 {
					kind = wire.PUBREC
				}
				_, _ = nc.Write(wire.AppendAck(nil, wire.V5, kind, wire.Ack{PacketID: p.PacketID, Code: code}))
			}
		case wire.PUBREL:
			_, _ = nc.Write(append([]byte{0x70, 2}, body[:2]...))
		case wire.SUBSCRIBE:
			_, _ = nc.Write([]byte{0x90, 4, body[0], body[1], 0, 0})
		case wire.PINGREQ:
			_, _ = nc.Write([]byte{0xD0, 0})
		}
	}
}

func (b *fiveBroker) connections() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.conns
}

// events are the names of the events that were taken, in order, each as often as
// it came.
func (b *fiveBroker) events() (out []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range b.got {
		if _, name, ok := strings.Cut(p.Topic, "/event/"); ok {
			out = append(out, name)
		}
	}
	return out
}

// newest is the last message that was taken with a topic.
func (b *fiveBroker) newest(t testing.TB, topic string) (found wire.Publish) {
	t.Helper()
	testkit.Eventually(t, "something comes to "+topic, func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, p := range slices.Backward(b.got) {
			if p.Topic == topic {
				found = p
				return true
			}
		}
		return false
	})
	return found
}

func five(c *mqtt.Config, _ *mqtt.PublishConfig) { c.Protocol = "5" }

// bad has a broker refuse the event "bad" with a code, for so many times.
func bad(code wire.Code, times int) func(int, *wire.Publish) (wire.Code, []byte) {
	var mu sync.Mutex
	return func(_ int, p *wire.Publish) (wire.Code, []byte) {
		mu.Lock()
		defer mu.Unlock()
		if strings.HasSuffix(p.Topic, "/bad") && times > 0 {
			times--
			return code, nil
		}
		return wire.Success, nil
	}
}

const always = 1 << 30

// unwilling is a folder that may have no room.
type unwilling struct {
	sinks.Keeper
	mu    sync.Mutex
	full  bool
	tried int
}

func (u *unwilling) Keep(e refused.Event) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.tried++
	if u.full {
		return errors.New("no room")
	}
	return u.Keeper.Keep(e)
}

func (u *unwilling) set(full bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.full = full
}

func (u *unwilling) tries() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.tried
}
