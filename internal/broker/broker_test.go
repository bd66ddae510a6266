package broker_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"event2mqtt/internal/broker"
	"event2mqtt/internal/broker/wire"
	"event2mqtt/test/mqttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start runs a broker on a free port until the test ends.
func start(t testing.TB, limits broker.Limits) (*broker.Broker, string) {
	t.Helper()
	return startWith(t, broker.Options{Limits: limits})
}

// startWith is start with more options.
func startWith(t testing.TB, o broker.Options) (*broker.Broker, string) {
	t.Helper()
	b, err := broker.New(o)
	ok(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { _ = b.Serve(l) })
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
		defer cancel()
		b.Close(ctx)
		wg.Wait()
	})
	return b, l.Addr().String()
}

func dial(t testing.TB, addr string, o mqttest.Options) *mqttest.Client {
	t.Helper()
	c, err := mqttest.Dial(addr, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(mqttest.Patience))
	return c
}

// eventually waits until something holds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(mqttest.Patience); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited too long until %s", what)
		}
	}
}

// publish publishes from inside the program.
func publish(b *broker.Broker, m *broker.Message) error {
	_, err := b.Publish(context.Background(), m)
	return err
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func subscribe(t testing.TB, c *mqttest.Client, filter string, options byte, props ...byte) {
	t.Helper()
	code, err := c.Subscribe(filter, options, props...)
	if err != nil || code >= wire.Unspecified {
		t.Fatalf("subscribe %s: code 0x%02x, %v", filter, byte(code), err)
	}
}

func next(t testing.TB, c *mqttest.Client) wire.Publish {
	t.Helper()
	p, err := c.Next()
	ok(t, err)
	return p
}

var versions = map[string]byte{"3.1": wire.V31, "3.1.1": wire.V311, "5": wire.V5}

func TestMessagesReachSubscribersAtTheLowerQoS(t *testing.T) {
	_, addr := start(t, broker.Limits{})
	for name, version := range versions {
		for sub := range byte(3) {
			for pub := range byte(3) {
				t.Run(fmt.Sprintf("%s/publish %d subscribe %d", name, pub, sub), func(t *testing.T) {
					s := dial(t, addr, mqttest.Options{Version: version})
					subscribe(t, s, "a/b", sub)
					p := dial(t, addr, mqttest.Options{Version: version})
					ok(t, p.Publish(wire.Publish{Topic: "a/b", Payload: []byte("hello"), QoS: pub}))
					m := next(t, s)
					if string(m.Payload) != "hello" || m.QoS != min(pub, sub) || m.Retain || m.Dup {
						t.Errorf("got %+v", m)
					}
					ok(t, s.Quiet())
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
		ok(t, s.Publish(wire.Publish{Topic: c.topic, Payload: []byte("live")}))
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
		ok(t, p.Publish(wire.Publish{Topic: c.topic, Payload: []byte("kept"), Retain: true, QoS: 1}))
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
		ok(t, p.Publish(wire.Publish{Topic: c.topic, Retain: true, QoS: 1}))
		s.Close()
		p.Close()
	}
	s := dial(t, addr, mqttest.Options{Version: wire.V5})
	for _, bad := range []string{"", "a#", "#/a", "a+/b", "a/+b", "a/#/c", strings.Repeat("/", 200)} {
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
	ok(t, publish(b, &broker.Message{Topic: "$SYS/x", Payload: []byte("1"), Retain: true}))
	ok(t, s.Quiet())
	subscribe(t, s, "$SYS/#", 0)
	if m := next(t, s); m.Topic != "$SYS/x" {
		t.Errorf("got %+v", m)
	}
	// Clients cannot publish there.
	ok(t, s.Publish(wire.Publish{Topic: "$SYS/x", Payload: []byte("forged"), QoS: 1}))
	ok(t, s.Quiet())
}

func TestOverlappingFiltersDeliverOnceWithEveryIdentifier(t *testing.T) {
	b, addr := start(t, broker.Limits{})
	ok(t, publish(b, &broker.Message{Topic: "a/b", Payload: []byte("kept"), Retain: true}))
	s := dial(t, addr, mqttest.Options{Version: wire.V5})
	subscribe(t, s, "a/+", 1, 0x0B, 7)
	if m := next(t, s); len(m.SubscriptionIDs) != 1 || m.SubscriptionIDs[0] != 7 || !m.Retain {
		t.Errorf("retained: got %+v", m)
	}
	subscribe(t, s, "a/#", 0, 0x0B, 9)
	next(t, s)
	ok(t, publish(b, &broker.Message{Topic: "a/b", Payload: []byte("x"), QoS: 2}))
	m := next(t, s)
	ids := map[uint32]bool{}
	for _, id := range m.SubscriptionIDs {
		ids[id] = true
	}
	if m.QoS != 1 || len(ids) != 2 || !ids[7] || !ids[9] {
		t.Errorf("got %+v", m)
	}
	ok(t, s.Quiet())
}

func TestRetainedNewestWinsAndEmptyClears(t *testing.T) {
	b, addr := start(t, broker.Limits{})
	p := dial(t, addr, mqttest.Options{})
	for _, v := range []string{"1", "2", "3"} {
		ok(t, p.Publish(wire.Publish{Topic: "t/x", Payload: []byte(v), Retain: true, QoS: 1}))
	}
	s := dial(t, addr, mqttest.Options{})
	subscribe(t, s, "t/+", 1)
	if m := next(t, s); string(m.Payload) != "3" || !m.Retain || m.QoS != 1 {
		t.Errorf("got %+v", m)
	}
	subscribe(t, s, "t/+", 1) // again: sent again
	next(t, s)
	ok(t, p.Publish(wire.Publish{Topic: "t/x", Payload: []byte("4"), Retain: true, QoS: 1}))
	if m := next(t, s); m.Retain {
		t.Error("a live message carries the retain flag")
	}
	ok(t, p.Publish(wire.Publish{Topic: "t/x", Retain: true, QoS: 1}))
	next(t, s)
	if n := b.Stats().Retained; n != 0 {
		t.Errorf("%d messages retained", n)
	}
}

func TestVersion5SubscriptionOptions(t *testing.T) {
	_, addr := start(t, broker.Limits{})
	c := dial(t, addr, mqttest.Options{Version: wire.V5})
	ok(t, c.Publish(wire.Publish{Topic: "kept", Payload: []byte("x"), Retain: true, QoS: 1}))
	subscribe(t, c, "own", 0|4) // no local
	ok(t, c.Publish(wire.Publish{Topic: "own", Payload: []byte("x"), QoS: 1}))
	ok(t, c.Quiet())
	subscribe(t, c, "kept", 0|2<<4) // retained: never
	ok(t, c.Quiet())
	subscribe(t, c, "kept", 0|1<<4) // retained: if new
	ok(t, c.Quiet())
	ok(t, c.Unsubscribe("kept"))
	subscribe(t, c, "kept", 0|1<<4|8) // new now; retain as published
	if m := next(t, c); !m.Retain {
		t.Errorf("got %+v", m)
	}
	// The message comes to the publisher too, ahead of its PUBACK or behind.
	ok(t, c.Send(wire.Publish{Topic: "kept", Payload: []byte("y"), Retain: true}))
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
	ok(t, p.Publish(wire.Publish{Topic: "t", Payload: []byte("x"), QoS: 1, Properties: []byte(props), HasExpiry: true, Expiry: 100}))
	if m := next(t, s5); string(m.Properties) != props || m.Expiry < 90 || m.Expiry > 100 {
		t.Errorf("got %+v", m)
	}
	if m := next(t, s3); string(m.Payload) != "x" {
		t.Errorf("got %+v", m)
	}
}

func TestWillIsSentOnlyWhenTheClientVanishes(t *testing.T) {
	_, addr := start(t, broker.Limits{})
	for name, version := range versions {
		t.Run(name, func(t *testing.T) {
			s := dial(t, addr, mqttest.Options{})
			subscribe(t, s, "will/"+name, 1)
			will := &wire.Publish{Topic: "will/" + name, Payload: []byte("gone"), QoS: 1}
			polite := dial(t, addr, mqttest.Options{Version: version, Will: will})
			ok(t, polite.Disconnect())
			rude := dial(t, addr, mqttest.Options{Version: version, Will: will})
			rude.Close()
			if m := next(t, s); string(m.Payload) != "gone" {
				t.Errorf("got %+v", m)
			}
			ok(t, s.Quiet())
		})
	}
}

func TestKeepAliveEndsSilentClients(t *testing.T) {
	_, addr := start(t, broker.Limits{})
	s := dial(t, addr, mqttest.Options{})
	subscribe(t, s, "w", 0)
	c := dial(t, addr, mqttest.Options{Version: wire.V5, KeepAlive: 1, Will: &wire.Publish{Topic: "w", Payload: []byte("silent")}})
	body, err := c.Expect(wire.DISCONNECT)
	ok(t, err)
	if wire.Code(body[0]) != wire.KeepAliveTimeout {
		t.Errorf("code 0x%02x", body[0])
	}
	if m := next(t, s); string(m.Payload) != "silent" {
		t.Errorf("got %+v", m)
	}
}

func TestTakeoverEndsTheOldConnection(t *testing.T) {
	_, addr := start(t, broker.Limits{})
	old := dial(t, addr, mqttest.Options{Version: wire.V5, ID: "same"})
	subscribe(t, old, "t", 0)
	fresh := dial(t, addr, mqttest.Options{Version: wire.V5, ID: "same"})
	body, err := old.Expect(wire.DISCONNECT)
	ok(t, err)
	if wire.Code(body[0]) != wire.TakenOver {
		t.Errorf("code 0x%02x", body[0])
	}
	if _, _, err := old.Reader.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("the old connection: %v", err)
	}
	ok(t, fresh.Publish(wire.Publish{Topic: "t", Payload: []byte("x"), QoS: 1}))
	ok(t, fresh.Quiet()) // a clean start: the subscription is gone
}

func TestSessionsOutliveConnections(t *testing.T) {
	_, addr := start(t, broker.Limits{})
	for name, o := range map[string]mqttest.Options{
		"3.1.1": {Keep: true},
		"5":     {Keep: true, Version: wire.V5, Properties: []byte{0x11, 0, 0, 1, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			o.ID = "keep" + name
			topic := "keep/" + name
			c := dial(t, addr, o)
			subscribe(t, c, topic, 2)
			p := dial(t, addr, mqttest.Options{})
			ok(t, p.Publish(wire.Publish{Topic: topic, Payload: []byte("unanswered 1"), QoS: 1}))
			ok(t, p.Publish(wire.Publish{Topic: topic, Payload: []byte("unanswered 2"), QoS: 2}))
			var ids []uint16
			for range 2 {
				m, err := c.NextUnanswered()
				ok(t, err)
				ids = append(ids, m.PacketID)
			}
			ok(t, c.Ack(wire.PUBREC, ids[1]))
			_, err := c.Expect(wire.PUBREL)
			ok(t, err)
			c.Close()
			ok(t, p.Publish(wire.Publish{Topic: topic, Payload: []byte("offline 0"), QoS: 0}))
			ok(t, p.Publish(wire.Publish{Topic: topic, Payload: []byte("offline 1"), QoS: 1}))

			c, present, code, err := mqttest.Connect(addr, o)
			ok(t, err)
			defer c.Close()
			if !present || code != 0 {
				t.Fatalf("session present %v, code %d", present, code)
			}
			m, err := c.Next()
			ok(t, err)
			if string(m.Payload) != "unanswered 1" || !m.Dup || m.PacketID != ids[0] {
				t.Errorf("got %+v", m)
			}
			body, err := c.Expect(wire.PUBREL) // not the message again
			ok(t, err)
			if uint16(body[0])<<8|uint16(body[1]) != ids[1] {
				t.Errorf("PUBREL for % x", body)
			}
			for {
				m, err = c.Next()
				ok(t, err)
				if string(m.Payload) == "offline 1" {
					break
				}
				if string(m.Payload) != "offline 0" {
					t.Fatalf("got %+v", m)
				}
			}
			c.Close()

			o.Keep = false
			c2, present, _, err := mqttest.Connect(addr, o)
			ok(t, err)
			defer c2.Close()
			if present {
				t.Error("a clean start found a session")
			}
		})
	}
}

func TestQoS2IsNeverDoubled(t *testing.T) {
	_, addr := start(t, broker.Limits{})
	s := dial(t, addr, mqttest.Options{})
	subscribe(t, s, "t", 2)
	o := mqttest.Options{ID: "pub", Keep: true}
	p := dial(t, addr, o)
	m := wire.Publish{Topic: "t", Payload: []byte("once"), QoS: 2, PacketID: 5}
	ok(t, p.Send(m))
	_, err := p.Expect(wire.PUBREC)
	ok(t, err)
	m.Dup = true
	ok(t, p.Send(m)) // again on the same connection
	_, err = p.Expect(wire.PUBREC)
	ok(t, err)
	p.Close()
	p = dial(t, addr, o)
	ok(t, p.Send(m)) // and on the next
	_, err = p.Expect(wire.PUBREC)
	ok(t, err)
	ok(t, p.Ack(wire.PUBREL, 5))
	_, err = p.Expect(wire.PUBCOMP)
	ok(t, err)
	next(t, s)
	ok(t, s.Quiet())
	m.Dup = false // the id is free again: a new message
	ok(t, p.Send(m))
	next(t, s)
}

// TestAcknowledgedMessagesAreNeverDropped: many publishers, slow subscribers,
// tiny queues: publishers wait, and every QoS 1 and 2 message arrives in order.
func TestAcknowledgedMessagesAreNeverDropped(t *testing.T) {
	b, addr := start(t, broker.Limits{QueuedMessages: 20, Inflight: 10})
	const publishers, count = 4, 500
	var wg sync.WaitGroup
	for i := range 3 {
		s := dial(t, addr, mqttest.Options{})
		subscribe(t, s, "load/#", byte(1+i%2))
		wg.Go(func() {
			seen := map[string]int{}
			for range publishers * count {
				m, err := s.NextUnanswered()
				for err != nil { // a PUBREL of an earlier one
					if !strings.Contains(err.Error(), "PUBREL") {
						t.Error(err)
						return
					}
					m, err = s.NextUnanswered()
				}
				if m.QoS == 1 {
					_ = s.Ack(wire.PUBACK, m.PacketID)
				} else {
					_ = s.Ack(wire.PUBREC, m.PacketID)
					_ = s.Ack(wire.PUBCOMP, m.PacketID)
				}
				var n int
				fmt.Sscan(string(m.Payload), &n)
				if n != seen[m.Topic] {
					t.Errorf("%s: got %d, want %d", m.Topic, n, seen[m.Topic])
					return
				}
				seen[m.Topic]++
			}
		})
	}
	for i := range publishers {
		p := dial(t, addr, mqttest.Options{})
		wg.Go(func() {
			for n := range count { // all at once, without waiting for answers
				if err := p.Send(wire.Publish{Topic: fmt.Sprint("load/", i), Payload: fmt.Append(nil, n), QoS: 1, PacketID: uint16(n + 1)}); err != nil {
					t.Error(err)
					return
				}
			}
			for n := range count { // answers come in order (MQTT-4.6.0-2)
				body, err := p.Expect(wire.PUBACK)
				if err != nil || int(body[0])<<8|int(body[1]) != n+1 {
					t.Errorf("answer %d: % x, %v", n, body, err)
					return
				}
			}
		})
	}
	wg.Wait()
	if d := b.Stats().Dropped; d != 0 {
		t.Errorf("%d dropped", d)
	}
}

// TestClientsThatPublishToEachOtherDoNotLock: both are full of each other's
// messages; the answers that make room are behind more messages.
func TestClientsThatPublishToEachOtherDoNotLock(t *testing.T) {
	_, addr := start(t, broker.Limits{QueuedMessages: 8, Inflight: 4, StallTimeout: time.Hour})
	const count = 300
	var wg sync.WaitGroup
	var clients []*mqttest.Client
	for i := range 2 {
		c := dial(t, addr, mqttest.Options{ID: fmt.Sprint(i)})
		subscribe(t, c, "both", 1)
		clients = append(clients, c)
	}
	for _, c := range clients {
		var out sync.Mutex
		wg.Go(func() {
			for n := range count {
				out.Lock()
				err := c.Send(wire.Publish{Topic: "both", Payload: []byte("x"), QoS: 1, PacketID: uint16(n + 1)})
				out.Unlock()
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
		wg.Go(func() {
			for got, answered := 0, 0; got < 2*count || answered < count; {
				header, body, err := c.Reader.Next()
				if err != nil {
					t.Errorf("after %d messages, %d answers: %v", got, answered, err)
					return
				}
				if wire.Type(header>>4) == wire.PUBACK {
					answered++
					continue
				}
				got++
				var p wire.Publish
				if err := wire.DecodePublish(&p, wire.V311, header, body, ""); err != nil {
					t.Error(err)
					return
				}
				out.Lock()
				err = c.Ack(wire.PUBACK, p.PacketID)
				out.Unlock()
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// TestOneStalledClientSlowsNobody: it takes nothing; QoS 0 to it is dropped
// and counted, others get everything; with QoS 1 it is cut off in the end.
func TestOneStalledClientSlowsNobody(t *testing.T) {
	b, addr := start(t, broker.Limits{QueuedMessages: 100, StallTimeout: 100 * time.Millisecond})
	stalled := dial(t, addr, mqttest.Options{ID: "stalled"})
	subscribe(t, stalled, "t/#", 1)
	good := dial(t, addr, mqttest.Options{})
	subscribe(t, good, "t/#", 1)
	payload := make([]byte, 64<<10)
	for qos := range byte(2) {
		for range 500 {
			ok(t, publish(b, &broker.Message{Topic: "t/x", Payload: payload, QoS: qos}))
			next(t, good)
		}
	}
	s := b.Stats()
	if s.Dropped == 0 {
		t.Error("the stalled client took 32 MB: this test shows nothing")
	}
	eventually(t, "the good client is alone", func() bool { return b.Stats().Clients == 1 })
}

// TestAClientThatFillsItsOwnQueueHurtsItselfAlone: it publishes to itself,
// reads nothing, and may ping all the while.
func TestAClientThatFillsItsOwnQueueHurtsItselfAlone(t *testing.T) {
	b, addr := start(t, broker.Limits{QueuedMessages: 10, StallTimeout: 100 * time.Millisecond})
	self := dial(t, addr, mqttest.Options{ID: "self"})
	subscribe(t, self, "t", 1)
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range 5000 {
			if self.Send(wire.Publish{Topic: "t", Payload: make([]byte, 10<<10), QoS: 1, PacketID: uint16(i + 1)}) != nil {
				return
			}
			_, _ = self.Write([]byte{byte(wire.PINGREQ) << 4, 0})
		}
	})
	for deadline := time.Now().Add(mqttest.Patience); b.Stats().Clients > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it is not cut off")
		}
	}
	wg.Wait()
	dial(t, addr, mqttest.Options{ID: "self"}) // the id is free again
}

// TestPingsAreNoProgress: a client that pings and never acknowledges holds up
// its publishers for the stall time only, and not again when it comes back.
func TestPingsAreNoProgress(t *testing.T) {
	b, addr := start(t, broker.Limits{QueuedMessages: 10, Inflight: 5, StallTimeout: 2 * time.Second})
	o := mqttest.Options{ID: "lazy", Keep: true, KeepAlive: 60}
	for round := range 2 {
		lazy := dial(t, addr, o)
		if round == 0 {
			subscribe(t, lazy, "t", 1)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				if _, err := lazy.Write([]byte{byte(wire.PINGREQ) << 4, 0}); err != nil {
					return
				}
				if _, _, err := lazy.Reader.Next(); err != nil {
					return
				}
				time.Sleep(5 * time.Millisecond)
			}
		}()
		began := time.Now()
		for range 50 {
			ok(t, publish(b, &broker.Message{Topic: "t", Payload: []byte("x"), QoS: 1}))
		}
		if took := time.Since(began); round == 1 && took > 1500*time.Millisecond {
			t.Errorf("its publishers waited again, %s", took)
		}
		lazy.Close()
		<-done
	}
	if b.Stats().Dropped == 0 {
		t.Error("what its session could not take was not counted")
	}
}

// TestWhatOnePeerCanPin floods the broker in each way that makes it keep
// something for a client that does not read.
func TestWhatOnePeerCanPin(t *testing.T) {
	b, addr := start(t, broker.Limits{QueuedBytes: 1 << 20})
	for i := range 1000 {
		ok(t, publish(b, &broker.Message{Topic: fmt.Sprint("kept/", i), Payload: make([]byte, 100), Retain: true}))
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for name, packet := range map[string][]byte{
		"pings":         {byte(wire.PINGREQ) << 4, 0},
		"releases":      wire.AppendAck(nil, wire.V311, wire.PUBREL, wire.Ack{PacketID: 7}),
		"subscriptions": mqttest.AppendSubscribe(nil, wire.V311, 1, "#", 0, nil),
	} {
		c := dial(t, addr, mqttest.Options{ID: name})
		flood := []byte(strings.Repeat(string(packet), 10000))
		_ = c.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
		for range 200 {
			if _, err := c.Write(flood); err != nil {
				break // cut off, or not read from any more
			}
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 16<<20 {
		t.Errorf("three clients pin %d MiB", grown>>20)
	}
	dial(t, addr, mqttest.Options{}) // and the broker is well
}

// TestAMessageLargerThanTheQueueIsNotSpunOn: it waits its turn, and the
// publisher's context still counts.
func TestAMessageLargerThanTheQueueIsNotSpunOn(t *testing.T) {
	b, addr := start(t, broker.Limits{QueuedBytes: 1000, StallTimeout: time.Hour})
	c := dial(t, addr, mqttest.Options{})
	subscribe(t, c, "#", 1)
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	var err error
	for err == nil {
		_, err = b.Publish(ctx, &broker.Message{Topic: "x", Payload: make([]byte, 900), QoS: 1})
	}
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestADelayedWillIsDueWhenItsSessionEnds(t *testing.T) {
	_, addr := start(t, broker.Limits{})
	s := dial(t, addr, mqttest.Options{})
	subscribe(t, s, "w", 0)
	o := mqttest.Options{
		Version: wire.V5, ID: "c", Properties: []byte{0x11, 0, 0, 1, 0},
		Will: &wire.Publish{Topic: "w", Payload: []byte("gone"), Properties: []byte{0x18, 0, 0, 1, 0}},
	}
	dial(t, addr, o).Close()
	o.Keep = true
	o.Will = nil
	back := dial(t, addr, o)
	ok(t, s.Quiet()) // it came back in time
	o.Will = &wire.Publish{Topic: "w", Payload: []byte("gone"), Properties: []byte{0x18, 0, 0, 1, 0}}
	back.Close()
	dial(t, addr, o).Close()
	o.Keep, o.Will = false, nil
	dial(t, addr, o)
	if m := next(t, s); string(m.Payload) != "gone" {
		t.Errorf("got %+v", m)
	}
}

func TestInProcessPublishEndsWithItsContext(t *testing.T) {
	b, addr := start(t, broker.Limits{QueuedMessages: 2, StallTimeout: time.Hour})
	stalled := dial(t, addr, mqttest.Options{})
	subscribe(t, stalled, "#", 1)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	var err error
	for err == nil {
		_, err = b.Publish(ctx, &broker.Message{Topic: "x", Payload: make([]byte, 1<<20), QoS: 1})
	}
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestGoodbyeAfterEverythingIsDelivered(t *testing.T) {
	b, addr := start(t, broker.Limits{})
	s := dial(t, addr, mqttest.Options{Version: wire.V5})
	subscribe(t, s, "#", 0)
	for i := range 1000 {
		ok(t, publish(b, &broker.Message{Topic: "x", Payload: fmt.Append(nil, i)}))
	}
	ctx, cancel := context.WithTimeout(context.Background(), mqttest.Patience)
	defer cancel()
	b.Close(ctx)
	for i := range 1000 {
		if m := next(t, s); string(m.Payload) != fmt.Sprint(i) {
			t.Fatalf("got %s, want %d", m.Payload, i)
		}
	}
	body, err := s.Expect(wire.DISCONNECT)
	ok(t, err)
	if wire.Code(body[0]) != wire.ShuttingDown {
		t.Errorf("code 0x%02x", body[0])
	}
	if err := publish(b, &broker.Message{Topic: "x"}); err != nil {
		t.Errorf("publish to nobody: %v", err)
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
		ok(t, err)
		defer nc.Close()
		_, err = nc.Write([]byte{0x10, 0xff, 0xff, 0x01, 0, 4, 'M'}) // CONNECT of 32 KiB
		ok(t, err)
		c := dial(t, addr, mqttest.Options{})
		_, err = c.Write([]byte{0x30, 0xff, 0xff, 0xff, 0x20, 0, 1, 'x'}) // PUBLISH of 69 MB
		ok(t, err)
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
			ok(t, err)
			defer nc.Close()
			_ = nc.SetDeadline(time.Now().Add(mqttest.Patience))
			r := wire.NewReader(nc, 1<<20)
			if !c.first {
				_, err = nc.Write(v5())
				ok(t, err)
				_, _, err = r.Next()
				ok(t, err)
			}
			_, err = nc.Write([]byte(c.bytes))
			ok(t, err)
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
	eventually(t, "nothing is left behind", func() bool { return b.Stats().Clients == 0 && b.Stats().Sessions == 0 })
}

func TestVersionsThatDoNotExistAreRefusedPolitely(t *testing.T) {
	_, addr := start(t, broker.Limits{})
	nc, err := net.Dial("tcp", addr)
	ok(t, err)
	defer nc.Close()
	_, err = nc.Write([]byte("\x10\x0c\x00\x04MQTT\x09\x02\x00\x00\x00\x00"))
	ok(t, err)
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
