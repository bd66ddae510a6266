package broker_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"event2mqtt/internal/broker"
	"event2mqtt/internal/testkit"
	"event2mqtt/internal/wire"
	"event2mqtt/test/mqttest"
)

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
			testkit.OK(t, publish(b, &broker.Message{Topic: "t/x", Payload: payload, QoS: qos}))
			next(t, good)
		}
	}
	s := b.Stats()
	if s.Dropped == 0 {
		t.Error("the stalled client took 32 MB: this test shows nothing")
	}
	testkit.Eventually(t, "the good client is alone", func() bool { return b.Stats().Clients == 1 })
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
			testkit.OK(t, publish(b, &broker.Message{Topic: "t", Payload: []byte("x"), QoS: 1}))
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
		testkit.OK(t, publish(b, &broker.Message{Topic: fmt.Sprint("kept/", i), Payload: make([]byte, 100), Retain: true}))
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
		testkit.OK(t, publish(b, &broker.Message{Topic: "x", Payload: fmt.Append(nil, i)}))
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
	testkit.OK(t, err)
	if wire.Code(body[0]) != wire.ShuttingDown {
		t.Errorf("code 0x%02x", body[0])
	}
	if err := publish(b, &broker.Message{Topic: "x"}); err != nil {
		t.Errorf("publish to nobody: %v", err)
	}
}
