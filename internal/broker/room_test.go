package broker_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"event2mqtt/internal/broker"
	"event2mqtt/internal/testkit"
	"event2mqtt/internal/wire"
	"event2mqtt/test/mqttest"
)

// TestABurstLosesNothing: publishers at full speed, and subscribers with QoS 0
// that take what comes, but whose queues are small.
func TestABurstLosesNothing(t *testing.T) {
	for name, p := range map[string]wire.Publish{"QoS 0": {}, "QoS 0, retained": {Retain: true}, "QoS 1": {QoS: 1}} {
		t.Run(name, func(t *testing.T) {
			b, addr := start(t, broker.Limits{QueuedMessages: 40, Moment: time.Hour})
			const publishers, count = 4, 4000
			var wg sync.WaitGroup
			for range 4 {
				s := dial(t, addr, mqttest.Options{})
				subscribe(t, s, "burst/#", 0)
				wg.Go(func() { takeAll(t, s, publishers, count) })
			}
			for i := range publishers {
				c := dial(t, addr, mqttest.Options{})
				wg.Go(func() { burst(t, c, fmt.Sprint("burst/", i), p, count) })
				if p.QoS > 0 {
					wg.Go(func() {
						for range count {
							if _, err := c.Expect(wire.PUBACK); err != nil {
								t.Error(err)
								return
							}
						}
					})
				}
			}
			wg.Wait()
			if d := b.Stats().Dropped; d != 0 {
				t.Errorf("%d dropped", d)
			}
		})
	}
}

// burst publishes the numbers from 0, many in one write.
func burst(t *testing.T, c *mqttest.Client, topic string, p wire.Publish, count int) {
	var out []byte
	p.Topic = topic
	for n := range count {
		p.PacketID, p.Payload = uint16(n+1), fmt.Appendf(nil, "%d %0200d", n, 0)
		if out = wire.AppendPublish(out, c.Version, &p); n%50 == 49 || n == count-1 {
			if _, err := c.Write(out); err != nil {
				t.Error(err)
				return
			}
			out = out[:0]
		}
	}
}

// takeAll reads what a number of bursts has sent, in order.
func takeAll(t *testing.T, c *mqttest.Client, publishers, count int) {
	seen := map[string]int{}
	for range publishers * count {
		m, err := c.NextUnanswered()
		if err != nil {
			t.Error(err)
			return
		}
		var n int
		fmt.Sscan(string(m.Payload), &n)
		if n != seen[m.Topic] {
			t.Errorf("%s: got %d, want %d", m.Topic, n, seen[m.Topic])
			return
		}
		seen[m.Topic]++
	}
}

// TestABurstToOneself: a client gets what it publishes, and whoever does not
// read it is not waited for.
func TestABurstToOneself(t *testing.T) {
	t.Run("it reads", func(t *testing.T) {
		b, addr := start(t, broker.Limits{QueuedMessages: 40, Moment: time.Hour})
		c := dial(t, addr, mqttest.Options{})
		subscribe(t, c, "self", 0)
		var wg sync.WaitGroup
		wg.Go(func() { takeAll(t, c, 1, 20000) })
		burst(t, c, "self", wire.Publish{}, 20000)
		wg.Wait()
		if d := b.Stats().Dropped; d != 0 {
			t.Errorf("%d dropped", d)
		}
	})
	t.Run("it writes first", func(t *testing.T) {
		b, addr := start(t, broker.Limits{QueuedMessages: 40, Moment: 20 * time.Millisecond})
		c := dial(t, addr, mqttest.Options{})
		subscribe(t, c, "self", 0)
		for range 1000 {
			testkit.OK(t, c.Send(wire.Publish{Topic: "self", Payload: make([]byte, 64<<10)}))
		}
		if b.Stats().Dropped == 0 {
			t.Error("64 MB were on the way: this test shows nothing")
		}
		next(t, c)
	})
	t.Run("its answers are behind the burst", func(t *testing.T) {
		b, addr := start(t, broker.Limits{QueuedMessages: 40, Inflight: 4, Moment: time.Hour})
		c := dial(t, addr, mqttest.Options{})
		subscribe(t, c, "self", 1)
		for n := range 10 {
			testkit.OK(t, publish(b, &broker.Message{Topic: "self", Payload: fmt.Append(nil, n), QoS: 1}))
		}
		burst(t, c, "self", wire.Publish{}, 100) // nobody is to wait for its place behind those
		for n := range 10 {
			if m := next(t, c); string(m.Payload) != fmt.Sprint(n) {
				t.Fatalf("got %s, want %d", m.Payload, n)
			}
		}
	})
}

// TestOneStuckSubscriberCostsAMoment, not one for each message; once it takes
// messages again, it gets them.
func TestOneStuckSubscriberCostsAMoment(t *testing.T) {
	const moment = 200 * time.Millisecond
	b, addr := start(t, broker.Limits{QueuedMessages: 40, Moment: moment})
	stuck := dial(t, addr, mqttest.Options{ID: "stuck"})
	subscribe(t, stuck, "t", 0)
	good := dial(t, addr, mqttest.Options{})
	subscribe(t, good, "t", 0)
	subscribe(t, good, "last", 1)
	var reading, publishing sync.WaitGroup
	reading.Go(func() {
		for last := false; !last; {
			m, err := good.NextUnanswered()
			if err != nil {
				t.Error(err)
				return
			}
			last = m.Topic == "last"
		}
	})
	// With a moment for each message this would take 200 s, and the clients'
	// deadline is mqttest.Patience.
	for range 4 {
		p := dial(t, addr, mqttest.Options{})
		publishing.Go(func() {
			for range 250 {
				if err := p.Send(wire.Publish{Topic: "t", Payload: make([]byte, 64<<10)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	publishing.Wait()
	if b.Stats().Dropped == 0 {
		t.Error("the stuck client took 64 MB: this test shows nothing")
	}
	for m := (wire.Publish{}); string(m.Payload) != "again"; m = next(t, stuck) {
		testkit.OK(t, publish(b, &broker.Message{Topic: "t", Payload: []byte("again")}))
	}
	testkit.OK(t, publish(b, &broker.Message{Topic: "last", QoS: 1}))
	reading.Wait()
}
