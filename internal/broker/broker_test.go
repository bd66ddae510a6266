package broker_test

import (
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"event2mqtt/internal/broker"
	"event2mqtt/internal/testkit"
	"event2mqtt/internal/wire"
	"event2mqtt/test/mqttest"
)

func TestMessagesReachSubscribersAtTheLowerQoS(t *testing.T) {
	_, addr := start(t, broker.Limits{})
	for name, version := range versions {
		for sub := range byte(3) {
			for pub := range byte(3) {
				t.Run(fmt.Sprintf("%s/publish %d subscribe %d", name, pub, sub), func(t *testing.T) {
					s := dial(t, addr, mqttest.Options{Version: version})
					subscribe(t, s, "a/b", sub)
					p := dial(t, addr, mqttest.Options{Version: version})
					testkit.OK(t, p.Publish(wire.Publish{Topic: "a/b", Payload: []byte("hello"), QoS: pub}))
					m := next(t, s)
					if string(m.Payload) != "hello" || m.QoS != min(pub, sub) || m.Retain || m.Dup {
						t.Errorf("got %+v", m)
					}
					testkit.OK(t, s.Quiet())
				})
			}
		}
	}
}

func TestFilters(t *testing.T) {
	_, addr := start(t, broker.Limits{})
	for _, c := range []struct {
		filter, topic string
		want          bool
	}{
		{"a/b", "a/b", true}, {"a/b", "a/c", false}, {"a/+", "a/b", true}, {"a/+", "a/b/c", false}, {"+/b", "a/b", true},
		{"+", "a", true}, {"+", "/a", false}, {"+/+", "/a", true}, {"a/#", "a", true}, {"a/#", "a/b/c", true}, {"#", "a/b", true},
		{"a/+/c", "a//c", true}, {"a/", "a", false}, {"a/+", "a/", true}, {"+/a/#", "x/a", true}, {"#", "/", true},
		{"A", "a", false}, {"a/b/#", "a", false},
	} {
		s := dial(t, addr, mqttest.Options{})
		subscribe(t, s, c.filter, 0)
		testkit.OK(t, s.Publish(wire.Publish{Topic: c.topic, Payload: []byte("live")}))
		if c.want {
			if m := next(t, s); m.Topic != c.topic {
				t.Errorf("%s: got %s", c.filter, m.Topic)
			}
		}
		if err := s.Quiet(); err != nil {
			t.Errorf("%s must match %s: %v; %v", c.filter, c.topic, c.want, err)
		}
		s.Close()

		// The same of retained messages.
		p := dial(t, addr, mqttest.Options{})
		testkit.OK(t, p.Publish(wire.Publish{Topic: c.topic, Payload: []byte("kept"), Retain: true, QoS: 1}))
		s = dial(t, addr, mqttest.Options{})
		subscribe(t, s, c.filter, 0)
		if c.want {
			if m := next(t, s); m.Topic != c.topic || !m.Retain {
				t.Errorf("%s: got %+v", c.filter, m)
			}
		}
		if err := s.Quiet(); err != nil {
			t.Errorf("%s must match retained %s: %v; %v", c.filter, c.topic, c.want, err)
		}
		testkit.OK(t, p.Publish(wire.Publish{Topic: c.topic, Retain: true, QoS: 1}))
		s.Close()
		p.Close()
	}
	s := dial(t, addr, mqttest.Options{Version: wire.V5})
	for _, bad := range []string{"", "a#", "#/a", "a+/b", "a/+b", "a/#/c", strings.Repeat("/", 201)} {
		if code, err := s.Subscribe(bad, 0); err != nil || code != wire.BadFilter {
			t.Errorf("%q: code 0x%02x, %v", bad, byte(code), err)
		}
	}
}

func TestWildcardsDoNotMatchSystemTopics(t *testing.T) {
	b, addr := start(t, broker.Limits{})
	s := dial(t, addr, mqttest.Options{})
	subscribe(t, s, "#", 0)
	subscribe(t, s, "+/x", 0)
	testkit.OK(t, publish(b, &broker.Message{Topic: "$SYS/x", Payload: []byte("1"), Retain: true}))
	testkit.OK(t, s.Quiet())
	subscribe(t, s, "$SYS/#", 0)
	if m := next(t, s); m.Topic != "$SYS/x" {
		t.Errorf("got %+v", m)
	}
	// Clients cannot publish there.
	testkit.OK(t, s.Publish(wire.Publish{Topic: "$SYS/x", Payload: []byte("forged"), QoS: 1}))
	testkit.OK(t, s.Quiet())
}

func TestOverlappingFiltersDeliverOnceWithEveryIdentifier(t *testing.T) {
	b, addr := start(t, broker.Limits{})
	testkit.OK(t, publish(b, &broker.Message{Topic: "a/b", Payload: []byte("kept"), Retain: true}))
	s := dial(t, addr, mqttest.Options{Version: wire.V5})
	subscribe(t, s, "a/+", 1, 0x0B, 7)
	if m := next(t, s); len(m.SubscriptionIDs) != 1 || m.SubscriptionIDs[0] != 7 || !m.Retain {
		t.Errorf("retained: got %+v", m)
	}
	subscribe(t, s, "a/#", 0, 0x0B, 9)
	next(t, s)
	testkit.OK(t, publish(b, &broker.Message{Topic: "a/b", Payload: []byte("x"), QoS: 2}))
	m := next(t, s)
	ids := map[uint32]bool{}
	for _, id := range m.SubscriptionIDs {
		ids[id] = true
	}
	if m.QoS != 1 || len(ids) != 2 || !ids[7] || !ids[9] {
		t.Errorf("got %+v", m)
	}
	testkit.OK(t, s.Quiet())
}

func TestRetainedNewestWinsAndEmptyClears(t *testing.T) {
	b, addr := start(t, broker.Limits{})
	p := dial(t, addr, mqttest.Options{})
	for _, v := range []string{"1", "2", "3"} {
		testkit.OK(t, p.Publish(wire.Publish{Topic: "t/x", Payload: []byte(v), Retain: true, QoS: 1}))
	}
	s := dial(t, addr, mqttest.Options{})
	subscribe(t, s, "t/+", 1)
	if m := next(t, s); string(m.Payload) != "3" || !m.Retain || m.QoS != 1 {
		t.Errorf("got %+v", m)
	}
	subscribe(t, s, "t/+", 1) // again: sent again
	next(t, s)
	testkit.OK(t, p.Publish(wire.Publish{Topic: "t/x", Payload: []byte("4"), Retain: true, QoS: 1}))
	if m := next(t, s); m.Retain {
		t.Error("a live message carries the retain flag")
	}
	testkit.OK(t, p.Publish(wire.Publish{Topic: "t/x", Retain: true, QoS: 1}))
	next(t, s)
	if n := b.Stats().Retained; n != 0 {
		t.Errorf("%d messages retained", n)
	}
}

func TestVersion5SubscriptionOptions(t *testing.T) {
	_, addr := start(t, broker.Limits{})
	c := dial(t, addr, mqttest.Options{Version: wire.V5})
	testkit.OK(t, c.Publish(wire.Publish{Topic: "kept", Payload: []byte("x"), Retain: true, QoS: 1}))
	subscribe(t, c, "own", 0|4) // no local
	testkit.OK(t, c.Publish(wire.Publish{Topic: "own", Payload: []byte("x"), QoS: 1}))
	testkit.OK(t, c.Quiet())
	subscribe(t, c, "kept", 0|2<<4) // retained: never
	testkit.OK(t, c.Quiet())
	subscribe(t, c, "kept", 0|1<<4) // retained: if new
	testkit.OK(t, c.Quiet())
	testkit.OK(t, c.Unsubscribe("kept"))
	subscribe(t, c, "kept", 0|1<<4|8) // new now; retain as published
	if m := next(t, c); !m.Retain {
		t.Errorf("got %+v", m)
	}
	// The message comes to the publisher too, ahead of its PUBACK or behind.
	testkit.OK(t, c.Send(wire.Publish{Topic: "kept", Payload: []byte("y"), Retain: true}))
	if m := next(t, c); !m.Retain || string(m.Payload) != "y" {
		t.Errorf("got %+v", m)
	}
}

func TestVersion5PropertiesArePassedOnToVersion5(t *testing.T) {
	_, addr := start(t, broker.Limits{})
	s5 := dial(t, addr, mqttest.Options{Version: wire.V5})
	s3 := dial(t, addr, mqttest.Options{})
	subscribe(t, s5, "t", 1)
	subscribe(t, s3, "t", 1)
	p := dial(t, addr, mqttest.Options{Version: wire.V5})
	props := "\x26\x00\x01k\x00\x01v" + "\x03\x00\x04json" + "\x08\x00\x01r" + "\x09\x00\x02\x00\xff"
	testkit.OK(t, p.Publish(wire.Publish{Topic: "t", Payload: []byte("x"), QoS: 1, Properties: []byte(props), HasExpiry: true, Expiry: 100}))
	if m := next(t, s5); string(m.Properties) != props || m.Expiry < 90 || m.Expiry > 100 {
		t.Errorf("got %+v", m)
	}
	if m := next(t, s3); string(m.Payload) != "x" {
		t.Errorf("got %+v", m)
	}
}

// TestClaimsCostNothing: packets that claim to be large pin what was sent,
// not what was claimed (CVE-2024-50948).
func TestClaimsCostNothing(t *testing.T) {
	_, addr := start(t, broker.Limits{PacketSize: 200 << 20})
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for range 50 {
		nc, err := net.Dial("tcp", addr)
		testkit.OK(t, err)
		defer nc.Close()
		_, err = nc.Write([]byte{0x10, 0xff, 0xff, 0x01, 0, 4, 'M'}) // CONNECT of 32 KiB
		testkit.OK(t, err)
		c := dial(t, addr, mqttest.Options{})
		_, err = c.Write([]byte{0x30, 0xff, 0xff, 0xff, 0x20, 0, 1, 'x'}) // PUBLISH of 69 MB
		testkit.OK(t, err)
	}
	dial(t, addr, mqttest.Options{}) // the broker is alive
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 100*64<<10 {
		t.Errorf("100 connections pin %d bytes", grown)
	}
}

func TestWhatBreaksTheProtocolIsCutOff(t *testing.T) {
	b, addr := start(t, broker.Limits{PacketSize: 1000, ConnectTimeout: 100 * time.Millisecond})
	v5 := func() []byte { return mqttest.AppendConnect(nil, mqttest.Options{Version: wire.V5, ID: "x"}) }
	for _, c := range []struct {
		name  string
		first bool // sent instead of a CONNECT
		bytes string
		code  wire.Code // of the DISCONNECT; 0 is none
	}{
		{"nothing at all", true, "", 0},
		{"half a header", true, "\x10", 0},
		{"endless length", true, "\x10\x80\x80\x80\x80\x01", 0},
		{"not MQTT", true, "GET / HTTP/1.1\r\n\r\n", 0},
		{"PUBLISH first", true, "\x30\x03\x00\x01x", 0},
		{"CONNECT too large", true, "\x10\xff\xff\x7f", 0},
		{"second CONNECT", false, string(v5()), wire.ProtocolError},
		{"packet type 0", false, "\x00\x00", wire.Malformed},
		{"wrong flags", false, "\x80\x05\x00\x01\x00\x00\x00", wire.Malformed},
		{"SUBSCRIBE without its option byte", false, "\x82\x06\x00\x01\x00\x00\x01a", wire.Malformed},
		{"SUBSCRIBE without a filter", false, "\x82\x03\x00\x01\x00", wire.ProtocolError},
		{"SUBSCRIBE with packet id 0", false, "\x82\x07\x00\x00\x00\x00\x01a\x00", wire.ProtocolError},
		{"QoS 3", false, "\x36\x06\x00\x01x\x00\x01\x00", wire.Malformed},
		{"wildcard in topic", false, "\x30\x04\x00\x01#\x00", wire.BadTopic},
		{"NUL in topic", false, "\x30\x04\x00\x01\x00\x00", wire.Malformed},
		{"not UTF-8", false, "\x30\x04\x00\x01\xff\x00", wire.Malformed},
		{"empty topic", false, "\x30\x03\x00\x00\x00", wire.ProtocolError},
		{"topic longer than the packet", false, "\x30\x04\xff\xffx\x00", wire.Malformed},
		{"unknown property", false, "\x30\x06\x00\x01x\x02\x7f\x00", wire.Malformed},
		{"property of another packet", false, "\x30\x09\x00\x01x\x05\x11\x00\x00\x00\x01", wire.ProtocolError},
		{"property twice", false, "\x30\x08\x00\x01x\x04\x01\x00\x01\x00", wire.ProtocolError},
		{"topic alias not offered", false, "\x30\x07\x00\x01x\x03\x23\xff\xff", wire.BadTopicAlias},
		{"topic alias that stands for nothing", false, "\x30\x06\x00\x00\x03\x23\x00\x01", wire.ProtocolError},
		{"subscription id from a client", false, "\x30\x06\x00\x01x\x02\x0b\x01", wire.ProtocolError},
		{"too large", false, "\x30\xff\x7f", wire.PacketTooLarge},
		{"SUBACK from a client", false, "\x90\x04\x00\x01\x00\x00", wire.ProtocolError},
		{"AUTH", false, "\xf0\x00", wire.ProtocolError},
		{"length not minimal", false, "\xc0\x80\x00", wire.Malformed},
	} {
		t.Run(c.name, func(t *testing.T) {
			nc, err := net.Dial("tcp", addr)
			testkit.OK(t, err)
			defer nc.Close()
			_ = nc.SetDeadline(time.Now().Add(mqttest.Patience))
			r := wire.NewReader(nc, 1<<20)
			if !c.first {
				_, err = nc.Write(v5())
				testkit.OK(t, err)
				_, _, err = r.Next()
				testkit.OK(t, err)
			}
			_, err = nc.Write([]byte(c.bytes))
			testkit.OK(t, err)
			var code wire.Code
			for {
				header, body, err := r.Next()
				if err != nil {
					break // cut off
				}
				if wire.Type(header>>4) == wire.DISCONNECT {
					code = wire.Code(body[0])
				}
			}
			if code != c.code {
				t.Errorf("DISCONNECT with 0x%02x, want 0x%02x", byte(code), byte(c.code))
			}
		})
	}
	testkit.Eventually(t, "nothing is left behind", func() bool { return b.Stats().Clients == 0 && b.Stats().Sessions == 0 })
}

func TestVersionsThatDoNotExistAreRefusedPolitely(t *testing.T) {
	_, addr := start(t, broker.Limits{})
	nc, err := net.Dial("tcp", addr)
	testkit.OK(t, err)
	defer nc.Close()
	_, err = nc.Write([]byte("\x10\x0c\x00\x04MQTT\x09\x02\x00\x00\x00\x00"))
	testkit.OK(t, err)
	answer, _ := io.ReadAll(nc)
	if string(answer) != "\x20\x02\x00\x01" {
		t.Errorf("got % x", answer)
	}
}

func TestTooManyClientsAreRefused(t *testing.T) {
	b, addr := start(t, broker.Limits{Clients: 3})
	for range 3 {
		dial(t, addr, mqttest.Options{})
	}
	if _, err := mqttest.Dial(addr, mqttest.Options{}); err == nil {
		t.Error("the fourth was let in")
	}
	if n := b.Stats().RefusedConnections; n != 1 {
		t.Errorf("%d refused", n)
	}
}
