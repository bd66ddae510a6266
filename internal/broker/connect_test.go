package broker_test

import (
	"bytes"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"event2mqtt/internal/broker"
	"event2mqtt/internal/testkit"
	"event2mqtt/internal/wire"
	"event2mqtt/test/mqttest"
)

// This file tests CONNECTs and answers by their size.

func TestAWillOf60KBIsPublished(t *testing.T) {
	for name, version := range versions {
		t.Run(name, func(t *testing.T) {
			_, addr := start(t, broker.Limits{})
			watcher := dial(t, addr, mqttest.Options{})
			subscribe(t, watcher, "w", 0)
			c := dial(t, addr, mqttest.Options{Version: version, Will: &wire.Publish{Topic: "w", Payload: bytes.Repeat([]byte("x"), 60_000)}})
			testkit.OK(t, c.Quiet())
			c.Close()
			if m := next(t, watcher); len(m.Payload) != 60_000 {
				t.Errorf("%d bytes", len(m.Payload))
			}
		})
	}
}

// TestAConnectThatIsTooLargeIsTold: with a reason, to the client and in the log.
func TestAConnectThatIsTooLargeIsTold(t *testing.T) {
	for name, version := range versions {
		t.Run(name, func(t *testing.T) {
			var l logLines
			_, addr := startWith(t, broker.Options{Log: l.logger()})
			packet := mqttest.AppendConnect(nil, mqttest.Options{ID: "c", Version: version})
			// The length says 400,000 and so many bytes follow.
			body := append(packet[2:], make([]byte, 400_000)...)
			nc, err := net.Dial("tcp", addr)
			testkit.OK(t, err)
			defer nc.Close()
			_ = nc.SetDeadline(time.Now().Add(mqttest.Patience))
			go func() { _, _ = nc.Write(mqttest.Packet(nil, wire.CONNECT, 0, body)) }()
			header, answer, err := wire.NewReader(nc, 1000).Next()
			testkit.OK(t, err)
			want := wire.Code(3)
			if version == wire.V5 {
				want = wire.PacketTooLarge
			}
			if wire.Type(header>>4) != wire.CONNACK || wire.Code(answer[1]) != want {
				t.Errorf("got % x", answer)
			}
			l.one(t, "client was refused", map[string]any{"level": "warn", "from": "127.0.0.1:", "why": "a CONNECT of 4000"})
		})
	}
}

// TestLargeConnectsAreFew: before anything is known of the peers.
func TestLargeConnectsAreFew(t *testing.T) {
	_, addr := start(t, broker.Limits{ConnectTimeout: time.Minute})
	o := mqttest.Options{Will: &wire.Publish{Topic: "w", Payload: make([]byte, 60_000)}}
	packet := mqttest.AppendConnect(nil, mqttest.Options{ID: "c", Will: o.Will})
	var open []net.Conn
	stall := func() { // all but the last byte
		nc, err := net.Dial("tcp", addr)
		testkit.OK(t, err)
		t.Cleanup(func() { nc.Close() })
		_, err = nc.Write(packet[:len(packet)-1])
		testkit.OK(t, err)
		open = append(open, nc)
	}
	for range 16 {
		stall()
	}
	code := func() wire.Code {
		c, _, code, err := mqttest.Connect(addr, o)
		if err == nil {
			c.Close()
		}
		return code
	}
	testkit.Eventually(t, "one more is refused for now", func() bool {
		if code() == 3 {
			return true
		}
		stall() // the one that was accepted may have had the place of another, which was refused
		return false
	})
	testkit.OK(t, dial(t, addr, mqttest.Options{}).Quiet()) // the others are not disturbed
	for _, nc := range open {
		nc.Close()
	}
	testkit.Eventually(t, "there is room again", func() bool { return code() == wire.Success })
}

// TestAnswersObeyTheMaximumPacketSize: CONNACK, SUBACK and UNSUBACK, too
// (MQTT-3.1.2-24).
func TestAnswersObeyTheMaximumPacketSize(t *testing.T) {
	b, addr := start(t, broker.Limits{})
	most := func(n byte) []byte { return []byte{0x27, 0, 0, 0, n} }
	for n := byte(1); n < 40; n++ {
		c, _, code, err := mqttest.Connect(addr, mqttest.Options{Version: wire.V5, Properties: most(n), NoID: true})
		size := 2 + len(c.Connack)
		switch {
		case n < 5 && err == nil:
			t.Errorf("takes %d bytes and got % x", n, c.Connack)
		case n >= 5 && (err != nil || size > int(n) || code != wire.Success && code != wire.PacketTooLarge):
			t.Errorf("takes %d bytes and got % x, %v", n, c.Connack, err)
		}
		c.Close()
	}
	testkit.Eventually(t, "all have left", func() bool { return b.Stats().Clients == 0 })
	for _, request := range []wire.Type{wire.SUBSCRIBE, wire.UNSUBSCRIBE} {
		c := dial(t, addr, mqttest.Options{Version: wire.V5, Properties: most(60)})
		for _, filters := range []int{55, 56} { // 5 bytes and one for each
			body := []byte{0, 1, 0}
			for i := range filters {
				f := fmt.Sprintf("%02d", i)
				body = append(append(body, 0, 2), f...)
				if request == wire.SUBSCRIBE {
					body = append(body, 0)
				}
			}
			_, err := c.Write(mqttest.Packet(nil, request, 2, body))
			testkit.OK(t, err)
			answer := map[wire.Type]wire.Type{wire.SUBSCRIBE: wire.SUBACK, wire.UNSUBSCRIBE: wire.UNSUBACK}[request]
			if filters == 56 {
				answer = wire.DISCONNECT
			}
			got, err := c.Expect(answer)
			testkit.OK(t, err)
			if answer == wire.DISCONNECT && wire.Code(got[0]) != wire.PacketTooLarge {
				t.Errorf("%s: got % x", request, got)
			}
		}
	}
}

// TestTopicsMayHave200Slashes, as with Mosquitto.
func TestTopicsMayHave200Slashes(t *testing.T) {
	_, addr := start(t, broker.Limits{})
	c := dial(t, addr, mqttest.Options{Version: wire.V5})
	deep := "a" + strings.Repeat("/a", 200)
	subscribe(t, c, deep, 0)
	testkit.OK(t, c.Send(wire.Publish{Topic: deep}))
	if m := next(t, c); m.Topic != deep {
		t.Errorf("got %.20q", m.Topic)
	}
	if code, err := c.Subscribe(deep+"/a", 0); err != nil || code != wire.BadFilter {
		t.Errorf("201 slashes: 0x%02x, %v", byte(code), err)
	}
}

// TestDeviations: docs/conformance.md lists them.
func TestDeviations(t *testing.T) {
	for name, version := range versions {
		t.Run(name, func(t *testing.T) {
			r := &rig{T: t, v: version}
			r.b, r.addr = start(t, broker.Limits{})
			c := r.client()
			// An empty filter among others.
			r.send(c, r.packet(wire.SUBSCRIBE, 2, uint16(1), P(""), S(""), 0, S("t"), 1))
			codes := r.expect(c, wire.SUBACK)
			codes = codes[len(codes)-2:]
			r.want("the empty filter alone is refused", codes[0] >= 0x80 && codes[1] == 1)
			r.send(c, r.packet(wire.UNSUBSCRIBE, 2, uint16(1), P(""), S("")))
			r.expect(c, wire.UNSUBACK)
			r.quiet(c)
			// A code that PUBACK must not have.
			r.pub(r.client(), wire.Publish{Topic: "t", QoS: 1})
			if m, err := c.Expect(wire.PUBLISH); err != nil {
				t.Fatal(err)
			} else if r.five() {
				id := m[3:5] // behind the topic
				r.send(c, r.packet(wire.PUBACK, 0, []byte(id), byte(wire.BadFilter)))
			} else {
				r.send(c, r.packet(wire.PUBACK, 0, []byte(m[3:5])))
			}
			r.quiet(c)
			// Reserved bits.
			name := S("MQTT")
			if version == wire.V31 {
				name = "MQIsdp"
			}
			r.refused(r.packet(wire.CONNECT, 0, name, version, 3, uint16(0), P(""), S("c")), 0, 0)
			r.cut(r.packet(wire.SUBSCRIBE, 4, uint16(1), P(""), S("t"), 0))
		})
	}
}

// TestLongFiltersCountMore towards max_subscriptions.
func TestLongFiltersCountMore(t *testing.T) {
	_, addr := start(t, broker.Limits{Subscriptions: 80})
	c := dial(t, addr, mqttest.Options{Version: wire.V5})
	granted := 0
	for i := range 80 {
		code, err := c.Subscribe(fmt.Sprintf("%04d%s", i, strings.Repeat("x", 1000)), 0)
		testkit.OK(t, err)
		if code == wire.Success {
			granted++
		}
	}
	if granted != 10 { // each as much as eight
		t.Errorf("%d granted", granted)
	}
}

// TestUnreleasedMessagesOfAllClientsAreBounded: each of 65,535 ids of each
// session costs memory, also while its client is away.
func TestUnreleasedMessagesOfAllClientsAreBounded(t *testing.T) {
	const ids, bound = 65_000, 256 << 10
	_, addr := start(t, broker.Limits{})
	total := 0
	for i := range 6 {
		c := dial(t, addr, mqttest.Options{ID: fmt.Sprint(i), Keep: true})
		go func() {
			var b []byte
			for id := 1; id <= ids; id++ {
				b = append(b, 0x34, 5, 0, 1, 't', byte(id>>8), byte(id))
			}
			_, _ = c.Write(b)
		}()
		for range ids {
			if _, err := c.Expect(wire.PUBREC); err != nil {
				break // cut off
			}
			total++
		}
		c.Close()
	}
	if total < bound/2 || total > bound+6*2048 {
		t.Errorf("%d messages were taken", total)
	}
	c := dial(t, addr, mqttest.Options{}) // who releases them is not disturbed
	for range 10 {
		testkit.OK(t, c.Publish(wire.Publish{Topic: "t", QoS: 2}))
	}
}
