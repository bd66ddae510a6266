package broker_test

import (
	"fmt"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"event2mqtt/internal/broker"
	"event2mqtt/internal/journal"
	"event2mqtt/internal/testkit"
	"event2mqtt/internal/wire"
	"event2mqtt/test/mqttest"
)

// witness is a pair of ordinary clients. While an attack goes on their
// messages must come, each within the patience of a person.
type witness struct {
	t    testing.TB
	stop chan struct{}
	wg   sync.WaitGroup
	sent atomic.Int64
	// longest is the longest that a message took.
	longest atomic.Int64
}

func newWitness(t testing.TB, addr string) *witness {
	w := &witness{t: t, stop: make(chan struct{})}
	s, p := dial(t, addr, mqttest.Options{ID: "witness subscriber"}), dial(t, addr, mqttest.Options{ID: "witness publisher"})
	subscribe(t, s, "witness", 1)
	w.wg.Go(func() {
		for {
			select {
			case <-w.stop:
				return
			case <-time.After(2 * time.Millisecond):
			}
			began := time.Now()
			_ = s.SetDeadline(began.Add(mqttest.Patience))
			_ = p.SetDeadline(began.Add(mqttest.Patience))
			if err := p.Publish(wire.Publish{Topic: "witness", Payload: []byte("x"), QoS: 1}); err != nil {
				t.Errorf("the witness cannot publish: %v", err)
				return
			}
			if _, err := s.Next(); err != nil {
				t.Errorf("the witness receives nothing: %v", err)
				return
			}
			w.sent.Add(1)
			w.longest.Store(max(w.longest.Load(), int64(time.Since(began))))
		}
	})
	return w
}

// testify ends the witness; some of its messages must have come meanwhile.
func (w *witness) testify() {
	w.t.Helper()
	before := w.sent.Load()
	testkit.Eventually(w.t, "the witness has seen more", func() bool { return w.sent.Load() > before+5 || w.t.Failed() })
	close(w.stop)
	w.wg.Wait()
	w.t.Logf("%d messages of others meanwhile, the slowest took %s", w.sent.Load(), time.Duration(w.longest.Load()))
}

// raw is a connection that no client library would make.
func raw(t testing.TB, addr string) net.Conn {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	testkit.OK(t, err)
	t.Cleanup(func() { nc.Close() })
	return nc
}

// TestPrefixesPinLittle: whatever a socket has sent of a packet, it pins less
// than 64 KiB (CVE-2017-7651, CVE-2023-0809, CVE-2024-50948).
func TestPrefixesPinLittle(t *testing.T) {
	const sockets = 100
	connected := string(mqttest.AppendConnect(nil, mqttest.Options{Version: wire.V5, ID: "%"}))
	for name, prefix := range map[string]string{
		"a byte":                         "\x10",
		"a claim":                        "\x10\xff\xff\xff\x7f\x00\x04MQTT",
		"half of the largest CONNECT":    "\x10\xf0\xff\x01\x00\x04MQTT\x05\x02\x00\x00\x00" + strings.Repeat("x", 30_000),
		"another packet first":           "\x30\xff\xff\xff\x7f" + strings.Repeat("x", 1000),
		"not MQTT":                       strings.Repeat("x", 60_000),
		"a claim after CONNECT":          connected + "\x30\xf0\xff\x3f\x00\x01t\x00",
		"a SUBSCRIBE that claims":        connected + "\x82\xf0\xff\x3f\x00\x01\x00" + strings.Repeat("\x00\x01a\x00", 100),
		"a publish that comes in part":   connected + "\x30\xf0\xff\x3f\x00\x01t\x00" + strings.Repeat("x", 30_000),
		"properties that claim":          connected + "\x30\xf0\xff\x3f\x00\x01t\xff\xff\x7f\x26\xff\xff" + strings.Repeat("x", 20_000),
		"many small packets, unanswered": connected + strings.Repeat("\xc0\x00", 10_000),
	} {
		t.Run(name, func(t *testing.T) {
			_, addr := start(t, broker.Limits{ConnectTimeout: time.Minute})
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			for i := range sockets {
				_, _ = raw(t, addr).Write([]byte(strings.Replace(prefix, "%", fmt.Sprint(i%10), 1)))
			}
			dial(t, addr, mqttest.Options{ID: "other"}) // what was sent was read
			time.Sleep(50 * time.Millisecond)
			runtime.GC()
			runtime.ReadMemStats(&after)
			grown := int64(after.HeapInuse+after.StackInuse) - int64(before.HeapInuse+before.StackInuse)
			if grown/sockets > 64<<10 {
				t.Errorf("each socket pins %d bytes", grown/sockets)
			}
		})
	}
}

func TestHalfOpenConnectionsKeepNobodyOut(t *testing.T) {
	b, addr := start(t, broker.Limits{PerAddress: 5000, Pending: 100, Clients: 200, ConnectTimeout: time.Minute})
	w := newWitness(t, addr)
	for i := range 1000 {
		nc := raw(t, addr)
		if i%2 == 0 {
			_, _ = nc.Write([]byte{0x10})
		}
		if i%100 == 0 {
			dial(t, addr, mqttest.Options{}) // there is always room for one who says CONNECT
		}
	}
	w.testify()
	if s := b.Stats(); s.RefusedConnections < 800 {
		t.Errorf("%d connections were refused", s.RefusedConnections)
	}
}

func TestOneAddressHasItsShare(t *testing.T) {
	b, addr := start(t, broker.Limits{PerAddress: 10})
	var clients []*mqttest.Client
	for range 10 {
		clients = append(clients, dial(t, addr, mqttest.Options{}))
	}
	if _, err := mqttest.Dial(addr, mqttest.Options{}); err == nil {
		t.Error("an eleventh was let in")
	}
	if b.Stats().RefusedConnections != 1 {
		t.Errorf("%d were counted", b.Stats().RefusedConnections)
	}
	clients[0].Close()
	testkit.Eventually(t, "there is room again", func() bool {
		c, err := mqttest.Dial(addr, mqttest.Options{})
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// TestSlowReadersAndWritersSlowNobody: some take nothing of what they asked
// for, some send a byte at a time, some send nothing but requests.
func TestSlowReadersAndWritersSlowNobody(t *testing.T) {
	b, addr := start(t, broker.Limits{StallTimeout: 200 * time.Millisecond, QueuedMessages: 200})
	w := newWitness(t, addr)
	for i := range 20 {
		c := dial(t, addr, mqttest.Options{ID: fmt.Sprint("reader", i)})
		subscribe(t, c, "flood", byte(i%3))
	}
	var wg sync.WaitGroup
	for i := range 20 {
		nc := raw(t, addr)
		wg.Go(func() {
			for _, b := range mqttest.AppendConnect(nil, mqttest.Options{ID: fmt.Sprint("writer", i)}) {
				_, _ = nc.Write([]byte{b})
				time.Sleep(time.Millisecond)
			}
			_, _ = nc.Write([]byte("\x30\xff\xff\x03\x00\x05flood")) // and never the rest
		})
	}
	asker := raw(t, addr)
	_, err := asker.Write(mqttest.AppendConnect(nil, mqttest.Options{ID: "asker"}))
	testkit.OK(t, err)
	wg.Go(func() {
		_ = asker.SetWriteDeadline(time.Now().Add(mqttest.Patience))
		pings := []byte(strings.Repeat("\xc0\x00", 10_000))
		for range 1000 { // ends when it is cut off, at the latest
			if _, err := asker.Write(pings); err != nil {
				return
			}
		}
	})
	p := dial(t, addr, mqttest.Options{ID: "flooder"})
	for i := range 1500 {
		_ = p.SetDeadline(time.Now().Add(mqttest.Patience))
		testkit.OK(t, p.Publish(wire.Publish{Topic: "flood", Payload: make([]byte, 8<<10), QoS: byte(i % 3)}))
	}
	w.testify()
	wg.Wait()
	testkit.Eventually(t, "those who take nothing are cut off", func() bool { return b.Stats().Clients <= 3+20+7 })
	if b.Stats().Dropped == 0 {
		t.Error("nothing was dropped: this test shows nothing")
	}
}

func TestTakeoverLoopsDisturbNobody(t *testing.T) {
	b, addr := start(t, broker.Limits{})
	w := newWitness(t, addr)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for k := range 150 {
				o := mqttest.Options{ID: "the same", Keep: k%2 == 0, Version: wire.V311 + byte(i%2), Will: &wire.Publish{Topic: "w", Payload: make([]byte, 1000)}}
				c, _, _, err := mqttest.Connect(addr, o)
				if err == nil {
					_ = c.SetDeadline(time.Now().Add(mqttest.Patience))
					_, _ = c.Subscribe("w", 1)
				}
				if c != nil && c.Conn != nil {
					c.Close()
				}
			}
		})
	}
	wg.Wait()
	w.testify()
	testkit.Eventually(t, "the loops are over", func() bool { return b.Stats().Clients == 0 || b.Stats().Sessions <= 3 })
}

func TestWillsByTheThousandDisturbNobody(t *testing.T) {
	b, addr := start(t, broker.Limits{PerAddress: 2000, Pending: 2000, Clients: 2000})
	w := newWitness(t, addr)
	s := dial(t, addr, mqttest.Options{ID: "hears them"})
	subscribe(t, s, "w/#", 1)
	const count = 1000
	var clients []*mqttest.Client
	for i := range count {
		clients = append(clients, dial(t, addr, mqttest.Options{Version: wire.V5, Will: &wire.Publish{
			Topic: fmt.Sprint("w/", i), Payload: make([]byte, 1000), QoS: byte(i % 3), Retain: i%2 == 0,
		}}))
	}
	for _, c := range clients {
		c.Close()
	}
	_ = s.SetDeadline(time.Now().Add(mqttest.Patience))
	for range count {
		next(t, s)
	}
	w.testify()
	if n := b.Stats().Retained; n != count/2 {
		t.Errorf("%d wills are retained", n)
	}
}

// TestDeepTopicsCostNothing: CVE-2019-11779. 200 slashes are allowed, as in
// Mosquitto; more are not.
func TestDeepTopicsCostNothing(t *testing.T) {
	b, addr := start(t, broker.Limits{})
	w := newWitness(t, addr)
	for _, n := range []int{402, 1000, 65535} {
		deep := strings.Repeat("/", n)
		for _, version := range versions {
			c := dial(t, addr, mqttest.Options{Version: version})
			if code, err := c.Subscribe(deep, 0); err != nil || code < wire.Unspecified {
				t.Errorf("%d levels: code 0x%02x, %v", n, byte(code), err)
			}
			if code, err := c.Subscribe(strings.Repeat("+/", n/2)+"#", 0); err != nil || code < wire.Unspecified {
				t.Errorf("%d wildcards: code 0x%02x, %v", n, byte(code), err)
			}
			testkit.OK(t, c.Unsubscribe(deep))
			for qos := range byte(3) {
				testkit.OK(t, c.Publish(wire.Publish{Topic: deep, Payload: []byte("x"), QoS: qos, Retain: true}))
			}
			c.Close()
		}
	}
	// 200,000 levels are three strings of the longest kind.
	c := dial(t, addr, mqttest.Options{Version: wire.V5})
	var body []byte
	for range 3 {
		body = append(append(body, 0xff, 0xff), strings.Repeat("/", 65535)...)
		body = append(body, 0)
	}
	_, err := c.Write(mqttest.Packet(nil, wire.SUBSCRIBE, 2, append([]byte{0, 1, 0}, body...)))
	testkit.OK(t, err)
	answer, err := c.Expect(wire.SUBACK)
	testkit.OK(t, err)
	for _, code := range answer[3:] {
		if wire.Code(code) != wire.BadFilter {
			t.Errorf("code 0x%02x", code)
		}
	}
	if s := b.Stats(); s.Retained != 0 || s.Subscriptions != 1 {
		t.Errorf("left behind: %+v", s)
	}
	w.testify()
}

// TestDuplicateQoS2IDs: CVE-2023-28366. The same ids again and again, released
// and not, from a session that comes back.
func TestDuplicateQoS2IDs(t *testing.T) {
	b, addr := startWith(t, broker.Options{Limits: broker.Limits{Inflight: 50}, Folder: journal.DirFS(t.TempDir())})
	w := newWitness(t, addr)
	s := dial(t, addr, mqttest.Options{ID: "hears them"})
	subscribe(t, s, "t", 0)
	o := mqttest.Options{ID: "sender", Keep: true}
	for range 20 {
		c := dial(t, addr, o)
		for id := range uint16(50) {
			for range 5 {
				testkit.OK(t, c.Send(wire.Publish{Topic: "t", Payload: []byte{byte(id)}, QoS: 2, PacketID: id + 1, Dup: true}))
			}
		}
		for range 250 {
			_, err := c.Expect(wire.PUBREC)
			testkit.OK(t, err)
		}
		c.Close()
	}
	for range 50 {
		next(t, s)
	}
	testkit.OK(t, s.Quiet())
	w.testify()
	if n := b.Stats().Received; n-uint64(w.sent.Load()) > 60 {
		t.Errorf("%d messages were taken", n)
	}
}

func TestWebSocketFramesSplitEverywhereDisturbNobody(t *testing.T) {
	b, addr := start(t, broker.Limits{})
	w := newWitness(t, addr)
	wsAddr := serveOn(t, listenTCP(t), func(l net.Listener) error { return b.ServeWebSocket(l, nil) })
	var wg sync.WaitGroup
	for frame := 1; frame < 12; frame++ {
		wg.Go(func() {
			c, err := mqttest.Dial(wsAddr, mqttest.Options{Version: wire.V5, Dial: mqttest.WebSocket("/mqtt", frame, nil, nil)})
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(mqttest.Patience))
			topic := fmt.Sprint("split/", frame)
			if _, err := c.Subscribe(topic, 1); err != nil {
				t.Error(err)
				return
			}
			for i := range 30 {
				if err := c.Send(wire.Publish{Topic: topic, Payload: make([]byte, i*10)}); err != nil {
					t.Error(err)
					return
				}
				if m, err := c.Next(); err != nil || len(m.Payload) != i*10 {
					t.Errorf("frames of %d: %v", frame, err)
					return
				}
			}
		})
	}
	wg.Wait()
	// And those that stop in the middle of the handshake, or of a frame.
	for _, part := range []string{"GET /mqtt HTTP/1.1\r\n", "GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff"} {
		for range 50 {
			_, _ = raw(t, wsAddr).Write([]byte(part))
		}
	}
	w.testify()
}

func TestFastPublishersAreCutOffWhereThatIsConfigured(t *testing.T) {
	_, addr := start(t, broker.Limits{PublishRate: 10})
	c := dial(t, addr, mqttest.Options{Version: wire.V5})
	for range 100 {
		if c.Send(wire.Publish{Topic: "t"}) != nil {
			break
		}
	}
	body, err := c.Expect(wire.DISCONNECT)
	testkit.OK(t, err)
	if wire.Code(body[0]) != wire.MessageRateTooHigh {
		t.Errorf("code 0x%02x", body[0])
	}
}

func TestTheServersKeepAliveHolds(t *testing.T) {
	_, addr := start(t, broker.Limits{KeepAlive: time.Second})
	for _, asked := range []uint16{0, 600} {
		for name, version := range versions {
			t.Run(fmt.Sprintf("%s asks for %d s", name, asked), func(t *testing.T) {
				t.Parallel()
				began := time.Now()
				c := dial(t, addr, mqttest.Options{Version: version, KeepAlive: asked})
				if version == wire.V5 && !strings.Contains(string(c.Connack), "\x13\x00\x01") {
					t.Errorf("it is not told: % x", c.Connack)
				}
				for {
					if _, _, err := c.Reader.Next(); err != nil {
						break
					}
				}
				if took := time.Since(began); took < 1400*time.Millisecond || took > 20*time.Second {
					t.Errorf("cut off after %s", took)
				}
			})
		}
	}
	short := dial(t, addr, mqttest.Options{Version: wire.V5, KeepAlive: 1})
	if strings.Contains(string(short.Connack), "\x13\x00\x01") {
		t.Error("told to one that asks for as much")
	}
}

func TestRetainedMessagesAreBounded(t *testing.T) {
	b, addr := start(t, broker.Limits{Retained: 10})
	c := dial(t, addr, mqttest.Options{Version: wire.V5})
	for i := range 12 {
		testkit.OK(t, c.Send(wire.Publish{Topic: fmt.Sprint("t/", i), Payload: []byte("x"), QoS: 1, PacketID: 1, Retain: true}))
		body, err := c.Expect(wire.PUBACK)
		testkit.OK(t, err)
		if want := i >= 10; (codeOf(body) == byte(wire.QuotaExceeded)) != want {
			t.Errorf("message %d: code 0x%02x", i, codeOf(body))
		}
	}
	testkit.OK(t, c.Publish(wire.Publish{Topic: "t/0", Payload: []byte("new"), QoS: 1, Retain: true})) // in place of another
	if s := b.Stats(); s.Retained != 10 || s.RetainedRefused != 2 {
		t.Errorf("got %+v", s)
	}
}

// TestAllQueuesTogetherAreBounded: absent clients with large queues must not
// use up the memory, nor stop those that are there.
func TestAllQueuesTogetherAreBounded(t *testing.T) {
	b, addr := start(t, broker.Limits{QueuedTotal: 1 << 20, QueuedBytes: 8 << 20})
	for i := range 10 {
		c := dial(t, addr, mqttest.Options{ID: fmt.Sprint("absent", i), Keep: true})
		subscribe(t, c, "t", 1)
		c.Close()
	}
	testkit.Eventually(t, "they are away", func() bool { return b.Stats().Clients == 0 })
	s, p := dial(t, addr, mqttest.Options{}), dial(t, addr, mqttest.Options{})
	subscribe(t, s, "t", 1)
	for range 200 {
		testkit.OK(t, p.Publish(wire.Publish{Topic: "t", Payload: make([]byte, 4<<10), QoS: 1}))
		next(t, s)
	}
	// What the subscriber has, and has acknowledged, is queued until the broker has read that.
	testkit.Eventually(t, "what is queued is within the bound", func() bool { return b.Stats().QueuedBytes <= 1<<20+100<<10 })
	if b.Stats().Dropped == 0 {
		t.Error("nothing was dropped")
	}
}
