package mqttclient_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"event2mqtt/internal/broker"
	"event2mqtt/internal/mqttclient"
	"event2mqtt/internal/testkit"
	"event2mqtt/internal/wire"
	"event2mqtt/test/certtest"
	"event2mqtt/test/mqttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// peer is the other end of a connection, in the hands of a test.
type peer struct {
	net.Conn
	*wire.Reader
	t testing.TB
}

// pair returns the two ends of a connection.
func pair(t testing.TB) (net.Conn, *peer) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	testkit.OK(t, err)
	defer l.Close()
	near, err := net.Dial("tcp", l.Addr().String())
	testkit.OK(t, err)
	far, err := l.Accept()
	testkit.OK(t, err)
	t.Cleanup(func() { far.Close(); near.Close() })
	_ = far.SetDeadline(time.Now().Add(mqttest.Patience))
	return near, &peer{far, wire.NewReader(far, 64<<20), t}
}

// read reads a packet, which must be of a type.
func (p *peer) read(want wire.Type) (header byte, body []byte) {
	p.t.Helper()
	header, body, err := p.Next()
	if err != nil || wire.Type(header>>4) != want {
		p.t.Fatalf("got %s (%v) instead of %s", wire.Type(header>>4), err, want)
	}
	return header, body
}

func (p *peer) publish() (m wire.Publish) {
	p.t.Helper()
	header, body := p.read(wire.PUBLISH)
	testkit.OK(p.t, wire.DecodePublish(&m, wire.V5, header, body, ""))
	return m
}

func (p *peer) send(b []byte) {
	p.t.Helper()
	_, err := p.Write(b)
	testkit.OK(p.t, err)
}

func (p *peer) ack(kind wire.Type, a wire.Ack) {
	p.t.Helper()
	p.send(wire.AppendAck(nil, wire.V5, kind, a))
}

// connected returns a client, and the other end, which has answered CONNACK.
func connected(t testing.TB, o mqttclient.Options, a wire.Connack) (*mqttclient.Client, *peer) {
	t.Helper()
	near, p := pair(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if _, _, err := p.Next(); err == nil {
			_, _ = p.Write(wire.AppendConnack(nil, wire.V5, a))
		}
	}()
	c, err := mqttclient.Connect(context.Background(), near, o)
	<-done
	testkit.OK(t, err)
	t.Cleanup(func() { c.Close(0, 100*time.Millisecond) })
	return c, p
}

func publish(t testing.TB, c *mqttclient.Client, p wire.Publish) *mqttclient.Ticket {
	t.Helper()
	ticket, err := c.Publish(context.Background(), &p)
	testkit.OK(t, err)
	return ticket
}

// answered waits until it is known what became of a message.
func answered(t testing.TB, ticket *mqttclient.Ticket) error {
	t.Helper()
	select {
	case <-ticket.Done():
	case <-time.After(mqttest.Patience):
		t.Fatal("no answer")
	}
	return ticket.Error()
}

func bytePointer(b byte) *byte { return &b }

// TestLimitsOfTheBrokerAreKept: what it does not take is not sent.
func TestLimitsOfTheBrokerAreKept(t *testing.T) {
	keep := uint16(7)
	c, p := connected(t, mqttclient.Options{Window: 50, ClientID: ""}, wire.Connack{ReceiveMaximum: 2, MaximumPacket: 100,
		MaximumQoS: bytePointer(1), NoRetain: true, NoWildcards: true, ServerKeep: &keep, AssignedID: "given", TopicAliasMax: 9})
	want := mqttclient.Limits{Window: 2, MaximumPacket: 100, MaximumQoS: 1, KeepAlive: 7 * time.Second, ClientID: "given"}
	if got := c.Limits(); got != want {
		t.Errorf("limits are %+v", got)
	}
	var large *mqttclient.TooLarge
	if _, err := c.Publish(context.Background(), &wire.Publish{Topic: "t", Payload: make([]byte, 100), QoS: 1}); !errors.As(err, &large) || large.Size != 108 || large.Most != 100 {
		t.Errorf("too large: %v", err)
	}
	if _, err := c.Publish(context.Background(), &wire.Publish{Topic: strings.Repeat("t", 70_000)}); !errors.As(err, &large) {
		t.Errorf("a topic that is too long: %v", err)
	}
	one, two := publish(t, c, wire.Publish{Topic: "1", QoS: 1}), publish(t, c, wire.Publish{Topic: "2", QoS: 1})
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Publish(ctx, &wire.Publish{Topic: "3", QoS: 1}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a third of two: %v", err)
	}
	first, second := p.publish(), p.publish()
	p.ack(wire.PUBACK, wire.Ack{PacketID: second.PacketID})
	testkit.OK(t, answered(t, two))
	publish(t, c, wire.Publish{Topic: "4", QoS: 1})
	p.ack(wire.PUBACK, wire.Ack{PacketID: first.PacketID})
	testkit.OK(t, answered(t, one))
	if m := p.publish(); m.Topic != "4" {
		t.Errorf("%s comes behind", m.Topic)
	}
}

// TestEachMessageHasItsAnswer, by QoS, also a refusal.
func TestEachMessageHasItsAnswer(t *testing.T) {
	c, p := connected(t, mqttclient.Options{}, wire.Connack{})
	testkit.OK(t, answered(t, publish(t, c, wire.Publish{Topic: "0"})))
	p.publish()
	nobody := publish(t, c, wire.Publish{Topic: "nobody", QoS: 1})
	p.ack(wire.PUBACK, wire.Ack{PacketID: p.publish().PacketID, Code: wire.NoMatchingSubscribers})
	testkit.OK(t, answered(t, nobody))
	if c.Unheard() != 1 || nobody.Code() != wire.NoMatchingSubscribers {
		t.Errorf("%d unheard, code %s", c.Unheard(), nobody.Code())
	}
	twice := publish(t, c, wire.Publish{Topic: "2", QoS: 2})
	id := p.publish().PacketID
	p.ack(wire.PUBREC, wire.Ack{PacketID: id})
	p.read(wire.PUBREL)
	p.ack(wire.PUBREC, wire.Ack{PacketID: id}) // once more
	p.read(wire.PUBREL)
	p.ack(wire.PUBCOMP, wire.Ack{PacketID: id})
	testkit.OK(t, answered(t, twice))
	for qos, kind := range map[byte]wire.Type{1: wire.PUBACK, 2: wire.PUBREC} {
		bad := publish(t, c, wire.Publish{Topic: "bad", QoS: qos})
		p.ack(kind, wire.Ack{PacketID: p.publish().PacketID, Code: wire.NotAuthorized, Reason: "no\x1b[31m"})
		var refused *mqttclient.Refused
		if err := answered(t, bad); !errors.As(err, &refused) || refused.Code != wire.NotAuthorized || err.Error() != `not authorized (reason code 0x87) (it says "no[31m")` {
			t.Errorf("QoS %d: %v", qos, err)
		}
	}
	p.ack(wire.PUBACK, wire.Ack{PacketID: 99}) // of none
	p.ack(wire.PUBREC, wire.Ack{PacketID: 99})
	_, body := p.read(wire.PUBREL)
	if a, err := wire.DecodeAck(wire.V5, body); err != nil || a.Code != wire.PacketIDNotFound {
		t.Errorf("a PUBREC of none: %+v %v", a, err)
	}
}

// TestTheEndOfTheConnectionAnswersAll at once, with the broker's reason.
func TestTheEndOfTheConnectionAnswersAll(t *testing.T) {
	c, p := connected(t, mqttclient.Options{Window: 1}, wire.Connack{})
	first := publish(t, c, wire.Publish{Topic: "t", QoS: 1})
	waiting := make(chan error, 1)
	go func() {
		_, err := c.Publish(context.Background(), &wire.Publish{Topic: "u", QoS: 1})
		waiting <- err
	}()
	p.send(wire.AppendDisconnect(nil, wire.V5, wire.QuotaExceeded, "too much", 0))
	p.Close()
	for _, err := range []error{answered(t, first), <-waiting, c.Ping(context.Background()), c.Subscribe(context.Background(), "x", 0)} {
		var told *mqttclient.Disconnected
		if !errors.As(err, &told) || told.Code != wire.QuotaExceeded || !strings.Contains(err.Error(), `its quota is exceeded (reason code 0x97) (it says "too much")`) {
			t.Errorf("got %v", err)
		}
	}
}

// TestWhatTheBrokerHasSaidIsReadAfterAWriteFails: it closes without reading.
func TestWhatTheBrokerHasSaidIsReadAfterAWriteFails(t *testing.T) {
	c, p := connected(t, mqttclient.Options{}, wire.Connack{})
	p.send(wire.AppendDisconnect(nil, wire.V5, wire.PacketTooLarge, "", 0))
	_, _ = c.Publish(context.Background(), &wire.Publish{Topic: "t", Payload: make([]byte, 1<<20)})
	p.Close()
	<-c.Done()
	var told *mqttclient.Disconnected
	if !errors.As(c.Err(), &told) || told.Code != wire.PacketTooLarge {
		t.Errorf("got %v", c.Err())
	}
}

// TestNoConnack tells apart why there is none.
func TestNoConnack(t *testing.T) {
	for _, c := range []struct {
		name, sends string
		check       func(error) bool
	}{
		{"nothing", "", func(err error) bool { return errors.Is(err, mqttclient.ErrSilent) }},
		{"an older form", "\x20\x02\x00\x01", func(err error) bool {
			var r *mqttclient.Refused
			return errors.As(err, &r) && r.Code == wire.UnsupportedVersion
		}},
		{"blank", "\x20\x00", func(err error) bool { return strings.Contains(err.Error(), "CONNACK is malformed") }},
		{"without properties", "\x20\x02\x00\x00", func(err error) bool { return strings.Contains(err.Error(), "CONNACK is malformed") }},
		{"unknown flags", "\x20\x03\x02\x00\x00", func(err error) bool { return strings.Contains(err.Error(), "CONNACK is malformed") }},
		{"an authentication method", "\x20\x08\x00\x00\x05\x15\x00\x02ab", func(err error) bool { return strings.Contains(err.Error(), "authentication exchange") }},
		{"AUTH", "\xf0\x00", func(err error) bool { return strings.Contains(err.Error(), "authentication exchange") }},
		{"a message", "\x30\x04\x00\x01t\x00", func(err error) bool { return strings.Contains(err.Error(), "instead of CONNACK") }},
		{"256 MiB", "\x20\xff\xff\xff\x7f", func(err error) bool { return strings.Contains(err.Error(), "268435455 bytes") }},
		{"elsewhere", string(wire.AppendConnack(nil, wire.V5, wire.Connack{Code: wire.UseAnotherServer, ServerReference: "b.example:1883"})),
			func(err error) bool { return strings.HasSuffix(err.Error(), "it names b.example:1883") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			near, p := pair(t)
			p.send([]byte(c.sends))
			go func() { _, _, _ = p.Next(); p.Close() }()
			client, err := mqttclient.Connect(context.Background(), near, mqttclient.Options{})
			if err == nil || !c.check(err) {
				t.Errorf("got %v", err)
			}
			if err == nil {
				client.Close(0, 0)
			}
		})
	}
}

// TestConnectEndsWithItsContext, however silent the broker is.
func TestConnectEndsWithItsContext(t *testing.T) {
	near, _ := pair(t)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, err := mqttclient.Connect(ctx, near, mqttclient.Options{Timeout: time.Hour}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// TestAHostileHeaderTakesNoMemory, whatever the type.
func TestAHostileHeaderTakesNoMemory(t *testing.T) {
	for _, first := range []byte{0x20, 0x30, 0x40, 0x50, 0x62, 0x70, 0x90, 0xB0, 0xD0, 0xE0, 0xF0} {
		c, p := connected(t, mqttclient.Options{}, wire.Connack{})
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		p.send([]byte{first, 0xff, 0xff, 0xff, 0x7f})
		<-c.Done()
		runtime.ReadMemStats(&after)
		if grown := after.TotalAlloc - before.TotalAlloc; grown > 1<<20 || !strings.Contains(c.Err().Error(), "268435455 bytes") {
			t.Errorf("0x%02x takes %d bytes: %v", first, grown, c.Err())
		}
	}
}

// TestALargeMessageIsSkipped and answered, and those behind it come.
func TestALargeMessageIsSkipped(t *testing.T) {
	var got, skipped []string
	arrived := make(chan struct{}, 10)
	c, p := connected(t, mqttclient.Options{MaxIncoming: 100,
		Message: func(m *wire.Publish) { got = append(got, m.Topic); arrived <- struct{}{} },
		Skipped: func(topic string, bytes int) { skipped = append(skipped, fmt.Sprint(topic, " ", bytes)) }}, wire.Connack{})
	subscribed := make(chan error, 1)
	go func() { subscribed <- c.Subscribe(context.Background(), "#", 2) }()
	_, body := p.read(wire.SUBSCRIBE)
	p.send(wire.AppendSuback(nil, wire.V5, wire.SUBACK, uint16(body[0])<<8|uint16(body[1]), []wire.Code{2}))
	testkit.OK(t, <-subscribed)
	for qos := range byte(3) {
		m := wire.Publish{Topic: fmt.Sprint("large", qos), Payload: make([]byte, 300_000), QoS: qos}
		if qos > 0 {
			m.PacketID = 7
		}
		p.send(wire.AppendPublish(nil, wire.V5, &m))
	}
	p.read(wire.PUBACK)
	p.read(wire.PUBREC)
	p.ack(wire.PUBREL, wire.Ack{PacketID: 7})
	p.read(wire.PUBCOMP)
	for range 2 { // the second is the same once more
		p.send(wire.AppendPublish(nil, wire.V5, &wire.Publish{Topic: "small", QoS: 2, PacketID: 8}))
		p.read(wire.PUBREC)
	}
	p.send(wire.AppendPublish(nil, wire.V5, &wire.Publish{Topic: "last"}))
	<-arrived
	<-arrived
	if fmt.Sprint(got) != "[small last]" || fmt.Sprint(skipped) != "[large0 300009 large1 300011 large2 300011]" {
		t.Errorf("got %v, skipped %v", got, skipped)
	}
}

// TestABrokerThatNeverReadsIsLeft, and holds nobody up but for the time-out.
func TestABrokerThatNeverReadsIsLeft(t *testing.T) {
	c, _ := connected(t, mqttclient.Options{Timeout: 200 * time.Millisecond, Window: 1000}, wire.Connack{})
	var err error
	for err == nil {
		_, err = c.Publish(context.Background(), &wire.Publish{Topic: "t", Payload: make([]byte, 1<<20), QoS: 1})
	}
	<-c.Done()
	var late net.Error
	if !errors.As(c.Err(), &late) || !late.Timeout() {
		t.Errorf("got %v, then %v", err, c.Err())
	}
}

// TestABrokerThatReadsSlowlyIsNotLeft: each 16 KiB have a time-out of their own.
func TestABrokerThatReadsSlowlyIsNotLeft(t *testing.T) {
	t.Parallel()
	const chunks, timeout = 12, 2 * time.Second
	near, far := net.Pipe()
	defer far.Close()
	p := &peer{far, wire.NewReader(far, 1<<20), t}
	go func() {
		p.read(wire.CONNECT)
		p.send(wire.AppendConnack(nil, wire.V5, wire.Connack{}))
	}()
	c, err := mqttclient.Connect(context.Background(), near, mqttclient.Options{Timeout: timeout, PingTimeout: time.Hour})
	testkit.OK(t, err)
	defer c.Close(0, 0)
	ticket := publish(t, c, wire.Publish{Topic: "t", Payload: make([]byte, chunks<<14), QoS: 1})
	for range chunks {
		time.Sleep(timeout / 8) // this is what is tested
		_, err := io.ReadFull(p.Conn, make([]byte, 16<<10))
		testkit.OK(t, err)
	}
	_, err = p.Read(make([]byte, 100))
	testkit.OK(t, err)
	p.ack(wire.PUBACK, wire.Ack{PacketID: 1})
	testkit.OK(t, answered(t, ticket))
}

// TestTheConnectionIsLookedAfter: pings keep it, also as the broker wants, and
// one without an answer ends it.
func TestTheConnectionIsLookedAfter(t *testing.T) {
	for name, o := range map[string]mqttclient.Options{"ours": {KeepAlive: 20 * time.Millisecond}, "the broker's": {KeepAlive: time.Hour}} {
		t.Run(name, func(t *testing.T) {
			o.PingTimeout = 2 * time.Second
			answer := wire.Connack{}
			if second := uint16(1); name != "ours" {
				answer.ServerKeep = &second
			}
			c, p := connected(t, o, answer)
			p.read(wire.PINGREQ)
			p.send(wire.AppendPingresp(nil))
			p.read(wire.PINGREQ)
			<-c.Done()
			if !errors.Is(c.Err(), mqttclient.ErrNoPong) {
				t.Errorf("got %v", c.Err())
			}
		})
	}
}

func TestPingComesBehindAll(t *testing.T) {
	c, p := connected(t, mqttclient.Options{}, wire.Connack{})
	publish(t, c, wire.Publish{Topic: "t"})
	back := make(chan error, 1)
	go func() { back <- c.Ping(context.Background()) }()
	p.publish()
	p.read(wire.PINGREQ)
	p.send(wire.AppendPingresp(nil))
	testkit.OK(t, <-back)
}

// TestRefusedSubscriptions say why, and one without an answer is given up.
func TestRefusedSubscriptions(t *testing.T) {
	c, p := connected(t, mqttclient.Options{Timeout: 200 * time.Millisecond}, wire.Connack{})
	if err := c.Subscribe(context.Background(), "a", 0); !errors.Is(err, mqttclient.ErrNoAnswer) {
		t.Errorf("got %v", err)
	}
	_, late := p.read(wire.SUBSCRIBE)
	p.send(wire.AppendSuback(nil, wire.V5, wire.SUBACK, uint16(late[0])<<8|uint16(late[1]), []wire.Code{0}))
	back := make(chan error, 1)
	go func() { back <- c.Subscribe(context.Background(), "b", 0) }()
	_, body := p.read(wire.SUBSCRIBE)
	p.send(wire.AppendSuback(nil, wire.V5, wire.SUBACK, uint16(body[0])<<8|uint16(body[1]), []wire.Code{wire.NotAuthorized}))
	var refused *mqttclient.Refused
	if err := <-back; !errors.As(err, &refused) || refused.Packet != wire.SUBSCRIBE {
		t.Errorf("got %v", err)
	}
}

// TestMisbehaviourEndsTheConnection with words for it.
func TestMisbehaviourEndsTheConnection(t *testing.T) {
	for sends, says := range map[string]string{
		"\x10\x00":                          "CONNECT, which only a client may send",
		"\x80\x00":                          "SUBSCRIBE, which only a client may send",
		"\xc0\x00":                          "PINGREQ, which only a client may send",
		"\x41\x02\x00\x01":                  "flags 0x1",
		"\x40\x00":                          "malformed PUBACK",
		"\x70\x02\x00\x01":                  "PUBCOMP that does not belong",
		"\x50\x02\x00\x01":                  "PUBREC that does not belong",
		"\x30\x07\x00\x01t\x03\x23\x00\x01": "topic alias",
		"\x30\x03\x00\x01#":                 "malformed PUBLISH",
		"\xf0\x00":                          "AUTH",
		"\x40\xff\xff\xff\xff\x7f":          "length is malformed",
	} {
		c, p := connected(t, mqttclient.Options{}, wire.Connack{})
		publish(t, c, wire.Publish{Topic: "t", QoS: 1})
		p.publish()
		p.send([]byte(sends))
		<-c.Done()
		if !strings.Contains(c.Err().Error(), says) {
			t.Errorf("% x: %v", sends, c.Err())
		}
	}
}

// TestCloseSaysGoodbyeBehindAll that was handed over.
func TestCloseSaysGoodbyeBehindAll(t *testing.T) {
	c, p := connected(t, mqttclient.Options{}, wire.Connack{})
	ticket := publish(t, c, wire.Publish{Topic: "t", QoS: 1})
	closed := make(chan struct{})
	go func() { defer close(closed); c.Close(wire.DisconnectWithWill, time.Minute) }()
	p.publish()
	if _, body := p.read(wire.DISCONNECT); len(body) != 1 || body[0] != 4 {
		t.Errorf("% x", body)
	}
	<-closed
	if err := answered(t, ticket); !errors.Is(err, mqttclient.ErrClosed) {
		t.Errorf("got %v", err)
	}
	if _, err := c.Publish(context.Background(), &wire.Publish{Topic: "t"}); !errors.Is(err, mqttclient.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

// serve runs the bundled broker.
func serve(t testing.TB) (address string) {
	b, err := broker.New(broker.Options{})
	testkit.OK(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	testkit.OK(t, err)
	var wg sync.WaitGroup
	wg.Go(func() { _ = b.Serve(l) })
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		b.Close(ctx)
		wg.Wait()
	})
	return l.Addr().String()
}

// TestOrderIsKept in every version and QoS, with many on their way, and
// subscribing works beside it.
func TestOrderIsKept(t *testing.T) {
	address := serve(t)
	for _, version := range []byte{wire.V31, wire.V311, wire.V5} {
		for qos := range byte(3) {
			t.Run(fmt.Sprint(version, qos), func(t *testing.T) {
				const n = 2000
				var next atomic.Int64
				all := make(chan struct{})
				conn, err := net.Dial("tcp", address)
				testkit.OK(t, err)
				c, err := mqttclient.Connect(context.Background(), conn, mqttclient.Options{Version: version, ClientID: "c", Window: 64, Message: func(m *wire.Publish) {
					if want := fmt.Sprint(next.Load()); string(m.Payload) != want {
						t.Errorf("%q comes instead of %s", m.Payload, want)
					}
					if next.Add(1) == n {
						close(all)
					}
				}})
				testkit.OK(t, err)
				defer c.Close(0, time.Second)
				filter := fmt.Sprint("order/", version, "/", qos)
				testkit.OK(t, c.Subscribe(context.Background(), filter, qos))
				tickets := make([]*mqttclient.Ticket, n)
				for i := range n {
					tickets[i] = publish(t, c, wire.Publish{Topic: filter, Payload: fmt.Append(nil, i), QoS: qos})
				}
				for _, ticket := range tickets {
					testkit.OK(t, answered(t, ticket))
				}
				select {
				case <-all:
				case <-time.After(mqttest.Patience):
					t.Fatalf("%d of %d came: %v", next.Load(), n, c.Err())
				}
				testkit.OK(t, c.Unsubscribe(context.Background(), filter))
			})
		}
	}
}

// TestOverTLS: messages from several goroutines, and a clean end.
func TestOverTLS(t *testing.T) {
	a := certtest.New(t)
	cert, key := a.Issue("127.0.0.1", nil)
	pair, err := tls.LoadX509KeyPair(cert, key)
	testkit.OK(t, err)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}})
	testkit.OK(t, err)
	b, err := broker.New(broker.Options{})
	testkit.OK(t, err)
	var wg sync.WaitGroup
	wg.Go(func() { _ = b.Serve(l) })
	defer wg.Wait()
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		b.Close(ctx)
	}()
	conn, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{InsecureSkipVerify: true} /* it is about packets */)
	testkit.OK(t, err)
	c, err := mqttclient.Connect(context.Background(), conn, mqttclient.Options{ClientID: "c"})
	testkit.OK(t, err)
	var senders sync.WaitGroup
	for i := range 4 {
		senders.Go(func() {
			for range 200 {
				ticket, err := c.Publish(context.Background(), &wire.Publish{Topic: fmt.Sprint(i), Payload: make([]byte, 100*i), QoS: byte(i % 3)})
				if err != nil || answered(t, ticket) != nil {
					t.Errorf("%v %v", err, c.Err())
					return
				}
			}
		})
	}
	senders.Wait()
	c.Close(0, time.Second)
}

// TestHeldMessagesGoOut when they are released, when something else is asked for,
// and when the window is full, which no acknowledgement would open otherwise.
func TestHeldMessagesGoOut(t *testing.T) {
	for name, tt := range map[string]struct {
		window int
		then   func(*mqttclient.Client)
	}{
		"released": {8, func(c *mqttclient.Client) { c.Release(); c.Hold() }},
		"a ping":   {8, func(c *mqttclient.Client) { go c.Ping(t.Context()) }},
		"full": {2, func(c *mqttclient.Client) {
			go c.Publish(t.Context(), &wire.Publish{Topic: "t", QoS: 1})
		}},
	} {
		t.Run(name, func(t *testing.T) {
			c, p := connected(t, mqttclient.Options{Window: tt.window}, wire.Connack{})
			c.Hold()
			publish(t, c, wire.Publish{Topic: "t", QoS: 1, Payload: []byte("1")})
			publish(t, c, wire.Publish{Topic: "t", QoS: 1, Payload: []byte("2")})
			tt.then(c)
			for _, want := range []string{"1", "2"} {
				if m := p.publish(); string(m.Payload) != want {
					t.Errorf("got %q, want %q", m.Payload, want)
				}
			}
		})
	}
}
