package mqtt_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"event2mqtt/internal/broker"
	"event2mqtt/internal/event"
	"event2mqtt/internal/health"
	"event2mqtt/internal/sinks"
	"event2mqtt/internal/sinks/mqtt"
	"event2mqtt/internal/testkit"
	"event2mqtt/internal/wire"
	"event2mqtt/test/certtest"
	"event2mqtt/test/mqttest"
)

// TestAPoisonedEventIsNamedByItsReasonCode at the first try, and nothing behind
// it waits: the connection stays.
func TestAPoisonedEventIsNamedByItsReasonCode(t *testing.T) {
	for code, says := range map[wire.Code]string{
		wire.NotAuthorized:   "not authorized (reason code 0x87); allow this user to publish to the topic",
		wire.BadTopic:        "it does not allow the topic (reason code 0x90)",
		wire.BadPayload:      "the payload is not what its format says (reason code 0x99)",
		wire.QoSNotSupported: "it does not take this QoS (reason code 0x9b)",
	} {
		for qos := byte(1); qos < 3; qos++ {
			t.Run(fmt.Sprint(code, " QoS ", qos), func(t *testing.T) {
				t.Parallel()
				b := (&fiveBroker{publish: bad(code, always)}).start(t)
				r := newRig(t, func(c *mqtt.Config, p *mqtt.PublishConfig) { c.Protocol, p.QoS = "5", int(qos) }, b.url)
				for _, name := range []string{"before", "bad", "after1", "after2"} {
					r.post(name, "{}", event.Route{})
				}
				r.delivered()
				if got := b.events(); !slices.Equal(got, []string{"before", "after1", "after2"}) {
					t.Errorf("arrived: %q", got)
				}
				kept := r.kept()
				if len(kept) != 1 || kept[0].Name != "bad" || !strings.Contains(kept[0].Reason, says) {
					t.Errorf("kept: %+v", kept)
				}
				if b.connections() != 1 || r.sink.Skipped() != 1 {
					t.Errorf("%d connections, %d skipped", b.connections(), r.sink.Skipped())
				}
			})
		}
	}
}

// TestARefusalThatSaysLittleIsTriedAgain, but not for ever.
func TestARefusalThatSaysLittleIsTriedAgain(t *testing.T) {
	for _, code := range []wire.Code{wire.Unspecified, wire.ImplementationSpecific, 0xEE} {
		t.Run(code.String(), func(t *testing.T) {
			t.Parallel()
			b := (&fiveBroker{publish: bad(code, 2)}).start(t)
			r := newRig(t, five, b.url)
			r.post("bad", "{}", event.Route{})
			r.delivered()
			if len(r.kept()) != 0 || b.connections() != 3 {
				t.Errorf("%d kept, %d connections", len(r.kept()), b.connections())
			}
			b = (&fiveBroker{publish: bad(code, always)}).start(t)
			r = newRig(t, five, b.url)
			r.post("bad", "{}", event.Route{})
			r.post("after", "{}", event.Route{})
			r.delivered()
			if kept := r.kept(); len(kept) != 1 || !strings.Contains(kept[0].Reason, "as it has said 3 times") || b.connections() != 3 {
				t.Errorf("kept %+v, %d connections", kept, b.connections())
			}
		})
	}
}

// TestAQuotaIsWaitedFor, said in words, and nothing is skipped or out of order.
func TestAQuotaIsWaitedFor(t *testing.T) {
	t.Parallel()
	b := (&fiveBroker{publish: bad(wire.QuotaExceeded, 5)}).start(t)
	r := newRig(t, five, b.url)
	r.post("before", "{}", event.Route{})
	r.post("bad", "{}", event.Route{})
	r.post("after", "{}", event.Route{})
	r.delivered()
	if got := b.events(); !slices.Equal(got[len(got)-2:], []string{"bad", "after"}) || len(r.kept()) != 0 {
		t.Errorf("arrived: %q, kept %d", got, len(r.kept()))
	}
	if n := strings.Count(r.log.String(), "its quota is exceeded (reason code 0x97); it is sent again after a pause"); n != 1 {
		t.Errorf("said %d times", n)
	}
}

// TestARefusedEventThatCannotBeKeptIsNotSkipped: nothing behind it is sent until
// it can.
func TestARefusedEventThatCannotBeKeptIsNotSkipped(t *testing.T) {
	t.Parallel()
	b := (&fiveBroker{publish: bad(wire.NotAuthorized, always)}).start(t)
	keeper := &unwilling{}
	r := newRigWith(t, func(o *mqtt.Options, d *sinks.Deps) {
		o.Config.Protocol, o.Config.InFlight = "5", 1
		keeper.Keeper, d.Refused = d.Refused, keeper
	}, b.url)
	keeper.set(true)
	r.post("bad", "{}", event.Route{})
	r.post("after", "{}", event.Route{})
	testkit.Eventually(t, "it is tried several times", func() bool { return keeper.tries() >= 3 })
	if got := b.events(); len(got) != 0 || r.cursor.Lag() != 2 {
		t.Errorf("arrived: %q, lag %d", got, r.cursor.Lag())
	}
	keeper.set(false)
	r.delivered()
	if got := b.events(); !slices.Equal(got, []string{"after"}) || len(r.kept()) != 1 {
		t.Errorf("arrived: %q, kept %d", got, len(r.kept()))
	}
}

// TestWhatTheBrokerDoesNotTakeIsNotSent: the limits of its CONNACK are kept.
func TestWhatTheBrokerDoesNotTakeIsNotSent(t *testing.T) {
	t.Parallel()
	one := byte(1)
	b := (&fiveBroker{
		connack: func(int, *wire.Connect) wire.Connack {
			return wire.Connack{ReceiveMaximum: 1, MaximumPacket: 400, MaximumQoS: &one, NoRetain: true, NoWildcards: true}
		},
		publish: func(_ int, p *wire.Publish) (wire.Code, []byte) {
			if p.QoS > 1 || p.Retain || wire.PublishSize(wire.V5, p) > 400 {
				return 0, wire.AppendDisconnect(nil, wire.V5, wire.ProtocolError, "", 0)
			}
			return 0, nil
		},
	}).start(t)
	two := byte(2)
	r := newRigThatHears(t, []string{"event2mqtt/s/set/+", "other"}, func(sinks.Incoming) {}, func(o *mqtt.Options, _ *sinks.Deps) { o.Config.Protocol = "5" }, b.url)
	report(t, r.states, "a", "k", "1")
	r.post("bad", `{"p":"`+strings.Repeat("x", 500)+`"}`, event.Route{})
	r.post("retained", "{}", event.Route{Retain: true})
	r.post("twice", "{}", event.Route{QoS: &two})
	r.emit(20)
	r.delivered()
	b.newest(t, "event2mqtt/a/k")
	if got := b.events(); len(got) != 22 || got[0] != "retained" || got[1] != "twice" || b.connections() != 1 {
		t.Errorf("arrived: %q on %d connections", got, b.connections())
	}
	if kept := r.kept(); len(kept) != 1 || !strings.Contains(kept[0].Reason, "bytes, and the broker takes at most 400") {
		t.Errorf("kept: %+v", kept)
	}
	for _, says := range []string{"takes QoS 1 at most", "keeps no retained messages", "allows no wildcards"} {
		if n := strings.Count(r.log.String(), says); n != 1 {
			t.Errorf("%q is said %d times", says, n)
		}
	}
}

// TestAWillThatTheBrokerDoesNotTakeIsMadeSuchAsItDoes.
func TestAWillThatTheBrokerDoesNotTakeIsMadeSuchAsItDoes(t *testing.T) {
	t.Parallel()
	wills := make(chan wire.Will, 10)
	b := (&fiveBroker{connack: func(_ int, c *wire.Connect) wire.Connack {
		switch {
		case c.Will.Retain:
			return wire.Connack{Code: wire.RetainNotSupported}
		case c.Will.QoS > 0:
			return wire.Connack{Code: wire.QoSNotSupported}
		}
		wills <- *c.Will
		return wire.Connack{}
	}}).start(t)
	r := newRig(t, five, b.url)
	r.emit(1)
	r.delivered()
	if w := <-wills; w.Topic != "event2mqtt/mqtt" || string(w.Payload) != "disconnected" {
		t.Errorf("%+v", w)
	}
}

// TestAnEventTellsWhatItIs beside its payload.
func TestAnEventTellsWhatItIs(t *testing.T) {
	t.Parallel()
	b := (&fiveBroker{}).start(t)
	r := newRig(t, func(c *mqtt.Config, p *mqtt.PublishConfig) { c.Protocol, p.MessageExpiry = "5", 90*time.Second }, b.url)
	r.post("E", "{}", event.Route{})
	r.post("Brief", "{}", event.Route{Expiry: 5})
	r.post("Raw", string(event.RawPayload([]byte("x"), "")), event.Route{Raw: true})
	r.delivered()
	want := wire.AppendContentType(wire.AppendIsText(nil), "application/json")
	users := wire.AppendUserProperty(wire.AppendUserProperty(nil, "source", "s"), "event", "E")
	want = wire.AppendUserProperty(append(want, users...), "id", r.journal.ID(1))
	if p := b.newest(t, "event2mqtt/event/E"); string(p.Properties) != string(want) || !p.HasExpiry || p.Expiry != 90 {
		t.Errorf("%q, expiry %d", p.Properties, p.Expiry)
	}
	if p := b.newest(t, "event2mqtt/event/Brief"); !p.HasExpiry || p.Expiry != 5 {
		t.Errorf("a rule's expiry is %d", p.Expiry)
	}
	if p := b.newest(t, "event2mqtt/event/Raw"); strings.Contains(string(p.Properties), "json") {
		t.Errorf("%q", p.Properties)
	}
}

// TestNobodyListens is delivered, counted and told.
func TestNobodyListens(t *testing.T) {
	t.Parallel()
	b := (&fiveBroker{publish: bad(wire.NoMatchingSubscribers, 3)}).start(t)
	r := newRig(t, five, b.url)
	for range 4 {
		r.post("bad", "{}", event.Route{})
	}
	r.delivered()
	if n := strings.Count(r.log.String(), "nobody has subscribed to an event"); n != 1 || len(r.kept()) != 0 {
		t.Errorf("said %d times", n)
	}
	testkit.Eventually(t, "the health tells", func() bool {
		h := r.health.Report()
		return h.Level == health.Up && strings.Contains(h.Detail, "nobody had subscribed to")
	})
}

// TestTheBrokersReasonIsSaid, with the key to look at.
func TestTheBrokersReasonIsSaid(t *testing.T) {
	refuses := func(code wire.Code, server string) *fiveBroker {
		return &fiveBroker{connack: func(int, *wire.Connect) wire.Connack { return wire.Connack{Code: code, ServerReference: server} }}
	}
	ends := func(code wire.Code) *fiveBroker {
		return &fiveBroker{publish: func(n int, _ *wire.Publish) (wire.Code, []byte) {
			return 0, wire.AppendDisconnect(nil, wire.V5, code, "", 0)
		}}
	}
	for says, b := range map[string]*fiveBroker{
		"wrong user name or password (reason code 0x86) (mqtt.username, mqtt.password)":    refuses(wire.BadCredentials, ""),
		"not authorized (reason code 0x87) (mqtt.username":                                 refuses(wire.NotAuthorized, ""),
		"does not allow the client id (reason code 0x85) (mqtt.client_id)":                 refuses(wire.BadClientID, ""),
		"reason code 0x9d); it names b.example (mqtt.url)":                                 refuses(wire.ServerMoved, "b.example"),
		"does not speak MQTT 5; write mqtt.protocol: auto":                                 refuses(wire.UnsupportedVersion, ""),
		"needs mqtt.protocol: auto":                                                        {raw: []byte{}},
		"does not speak MQTT 5; write":                                                     {raw: []byte{0x20, 2, 0, 1}},
		"CONNACK is malformed":                                                             {raw: []byte{0x20, 0}},
		"authentication exchange":                                                          {raw: []byte{0x20, 8, 0, 0, 5, 0x15, 0, 2, 'a', 'b'}},
		"announced a packet of type CONNACK with 268435455 bytes":                          {raw: []byte{0x20, 0xff, 0xff, 0xff, 0x7f}},
		"another client has connected with the same client id (reason code 0x8e) (mqtt.cl": ends(wire.TakenOver),
		"a packet was larger than it takes (reason code 0x95)":                             ends(wire.PacketTooLarge),
		"were waiting for their acknowledgement (reason code 0x93) (mqtt.in_flight)":       ends(wire.ReceiveMaxExceeded),
		"it is shutting down (reason code 0x8b)":                                           ends(wire.ShuttingDown),
	} {
		t.Run(says, func(t *testing.T) {
			t.Parallel()
			b.start(t)
			r := newRig(t, five, b.url)
			r.emit(1)
			testkit.Eventually(t, "it is said", func() bool { return strings.Contains(r.log.String(), says) })
			if len(r.kept()) != 0 {
				t.Errorf("kept %+v", r.kept())
			}
		})
	}
}

// TestABrokerWithoutFiveIsToldOverWebSocket, also if it does no more than close the
// connection, as NATS often does.
func TestABrokerWithoutFiveIsToldOverWebSocket(t *testing.T) {
	t.Parallel()
	upgrader := websocket.Upgrader{Subprotocols: []string{"mqtt"}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c, err := upgrader.Upgrade(w, r, nil); err == nil {
			_, _, _ = c.ReadMessage()
			_ = c.Close()
		}
	}))
	t.Cleanup(server.Close)
	r := newRig(t, five, "ws"+strings.TrimPrefix(server.URL, "http"))
	testkit.Eventually(t, "it is said", func() bool { return strings.Contains(r.log.String(), "needs mqtt.protocol: auto") })
}

// TestABrokerThatShutsDownBlamesNoEvent, however often it does.
func TestABrokerThatShutsDownBlamesNoEvent(t *testing.T) {
	t.Parallel()
	b := (&fiveBroker{publish: func(n int, p *wire.Publish) (wire.Code, []byte) {
		if n < 8 && strings.HasSuffix(p.Topic, "/event/E") {
			return 0, wire.AppendDisconnect(nil, wire.V5, wire.ShuttingDown, "", 0)
		}
		return 0, nil
	}}).start(t)
	r := newRig(t, five, b.url)
	r.emit(1)
	r.delivered()
	if len(r.kept()) != 0 || b.connections() != 8 {
		t.Errorf("kept %d, %d connections", len(r.kept()), b.connections())
	}
}

// TestAMessageThatEndsTheConnectionIsFoundOut also where the broker says why:
// the code is that of a connection, not of a message.
func TestAMessageThatEndsTheConnectionIsFoundOut(t *testing.T) {
	t.Parallel()
	b := (&fiveBroker{publish: func(_ int, p *wire.Publish) (wire.Code, []byte) {
		if strings.HasSuffix(p.Topic, "/bad") {
			return 0, wire.AppendDisconnect(nil, wire.V5, wire.NotAuthorized, "", 0)
		}
		return 0, nil
	}}).start(t)
	r := newRig(t, five, b.url)
	r.post("bad", "{}", event.Route{})
	r.post("after", "{}", event.Route{})
	r.delivered()
	if kept := r.kept(); len(kept) != 1 || kept[0].Name != "bad" {
		t.Errorf("kept %+v", kept)
	}
}

// TestNothingIsLostBetweenPublishAndPuback: the broker dies there, again and
// again.
func TestNothingIsLostBetweenPublishAndPuback(t *testing.T) {
	t.Parallel()
	b := (&fiveBroker{publish: func(n int, p *wire.Publish) (wire.Code, []byte) {
		var i int
		if _, err := fmt.Sscanf(p.Topic, "event2mqtt/event/e%d", &i); err == nil && n < 6 && i >= n*10 {
			return 0, []byte{} // it is gone
		}
		return 0, nil
	}}).start(t)
	r := newRig(t, five, b.url)
	var want []string
	for i := range 100 {
		want = append(want, fmt.Sprint("e", i))
		r.post(want[i], "{}", event.Route{})
	}
	r.delivered()
	got := b.events()
	seen := map[string]bool{}
	got = slices.DeleteFunc(got, func(name string) bool { was := seen[name]; seen[name] = true; return was })
	if !slices.Equal(got, want) || len(r.kept()) != 0 {
		t.Errorf("arrived: %q", got)
	}
}

// TestFiveThroughTheBundledBroker: in order with a window, each once with QoS 2,
// states and commands as well.
func TestFiveThroughTheBundledBroker(t *testing.T) {
	t.Parallel()
	l := listen(t, "127.0.0.1:0")
	serve(t, l)
	s := subscriber(t, l.Addr().String(), "event2mqtt/event/#")
	heard := make(chan sinks.Incoming, 1)
	r := newRigThatHears(t, []string{"event2mqtt/s/set/+"}, func(in sinks.Incoming) { heard <- in }, func(o *mqtt.Options, _ *sinks.Deps) {
		o.Config.Protocol, o.Config.InFlight, o.Publish.QoS = "5", 64, 2
	}, "mqtt://"+l.Addr().String())
	report(t, r.states, "a", "k", "1")
	const n = 1000
	r.emit(n)
	for i := range n {
		_, payload, _ := next(t, s)
		if !strings.Contains(payload, fmt.Sprintf(`"n":%d}`, i+1)) {
			t.Fatalf("%s comes as number %d", payload, i+1)
		}
	}
	r.delivered()
	testkit.OK(t, s.Quiet())
	states := subscriber(t, l.Addr().String(), "event2mqtt/a/k")
	if _, payload, retained := next(t, states); payload != "1" || !retained {
		t.Errorf("the state is %s, retained: %t", payload, retained)
	}
	testkit.OK(t, states.Publish(wire.Publish{Topic: "event2mqtt/s/set/x", Payload: []byte("go")}))
	if in := <-heard; in.Topic != "event2mqtt/s/set/x" || string(in.Payload) != "go" {
		t.Errorf("heard %+v", in)
	}
	r.stop()
	testkit.OK(t, states.Ping())
}

// TestAPacketTooLargeForTheBundledBrokerIsNotSent: it says so in its CONNACK.
func TestAPacketTooLargeForTheBundledBrokerIsNotSent(t *testing.T) {
	t.Parallel()
	l := listen(t, "127.0.0.1:0")
	b, err := broker.New(broker.Options{Limits: broker.Limits{PacketSize: 4096}})
	testkit.OK(t, err)
	var wg sync.WaitGroup
	wg.Go(func() { _ = b.Serve(l) })
	defer wg.Wait()
	defer func() {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		b.Close(ctx)
	}()
	r := newRig(t, five, "mqtt://"+l.Addr().String())
	r.post("bad", `{"p":"`+strings.Repeat("x", 8000)+`"}`, event.Route{})
	r.emit(3)
	r.delivered()
	if kept := r.kept(); len(kept) != 1 || !strings.Contains(kept[0].Reason, "the broker takes at most") || r.sink.Connections() != 1 {
		t.Errorf("kept %+v on %d connections", kept, r.sink.Connections())
	}
}

// TestAHostileBrokerTakesNoMemory with what it announces.
func TestAHostileBrokerTakesNoMemory(t *testing.T) {
	b := (&fiveBroker{publish: func(int, *wire.Publish) (wire.Code, []byte) {
		return 0, append([]byte{0x30, 0xff, 0xff, 0xff, 0x7f}, make([]byte, 1<<20)...)
	}}).start(t)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	r := newRig(t, five, b.url)
	r.emit(1)
	testkit.Eventually(t, "it has come several times", func() bool { return b.connections() > 4 })
	r.stop()
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 100<<20 { // of 256 MiB each time, and a MiB each for the test
		t.Errorf("%d MiB were taken", grown>>20)
	}
}

// TestABrokerThatNeverReadsIsLeftAlone, and the events go to the next.
func TestABrokerThatNeverReadsIsLeftAlone(t *testing.T) {
	t.Parallel()
	stuck := listen(t, "127.0.0.1:0")
	defer stuck.Close()
	var open []net.Conn
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := stuck.Accept()
			if err != nil {
				return
			}
			open = append(open, c)
			_, _ = c.Write(wire.AppendConnack(nil, wire.V5, wire.Connack{}))
		}
	})
	defer func() {
		stuck.Close()
		wg.Wait()
		for _, c := range open {
			c.Close()
		}
	}()
	good := listen(t, "127.0.0.1:0")
	serve(t, good)
	r := newRig(t, func(c *mqtt.Config, _ *mqtt.PublishConfig) { c.Protocol, c.Timeout = "5", time.Second }, "mqtt://"+stuck.Addr().String(), "mqtt://"+good.Addr().String())
	r.emit(10)
	r.delivered()
}

// TestProbeSpeaksFive, as "event2mqtt check --connect" does.
func TestProbeSpeaksFive(t *testing.T) {
	l := listen(t, "127.0.0.1:0")
	serve(t, l)
	c, p := mqtt.Defaults()
	c.Protocol, c.Timeout = "5", mqttest.Patience
	picky := (&fiveBroker{publish: func(int, *wire.Publish) (wire.Code, []byte) { return wire.NotAuthorized, nil }}).start(t)
	old := (&fiveBroker{raw: []byte{0x20, 2, 0, 1}}).start(t)
	c.URL = []string{"mqtt://" + l.Addr().String(), picky.url, old.url}
	var said []error
	testkit.OK(t, mqtt.Probe(context.Background(), c, p, func(_ string, err error) { said = append(said, err) }))
	if len(said) != 3 || said[0] != nil {
		t.Fatal(errors.Join(said...))
	}
	for i, says := range []string{1: "cannot publish to event2mqtt/bridge/check: not authorized", 2: "does not speak MQTT 5"} {
		if i > 0 && !strings.Contains(fmt.Sprint(said[i]), says) {
			t.Errorf("%v does not say %q", said[i], says)
		}
	}
}

// TestFiveOverEachTransport, large events as well.
func TestFiveOverEachTransport(t *testing.T) {
	a := certtest.New(t)
	cert, key := a.Issue("client", nil)
	b, err := broker.New(broker.Options{})
	testkit.OK(t, err)
	web := listen(t, "127.0.0.1:0")
	var wg sync.WaitGroup
	wg.Go(func() { _ = b.ServeWebSocket(web, nil) })
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		b.Close(ctx)
		wg.Wait()
	})
	for name, url := range map[string]string{
		"tls":                "mqtts://" + listenTLS(t, a, "good", nil, &tls.Config{}),
		"client certificate": "mqtts://" + listenTLS(t, a, "strict", nil, &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert}),
		"ws":                 "ws://" + web.Addr().String(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, func(c *mqtt.Config, _ *mqtt.PublishConfig) {
				c.Protocol = "5"
				if name != "ws" {
					c.TLS.CA, c.TLS.Cert, c.TLS.Key = a.CAFile, cert, key
				}
			}, url)
			r.post("Large", `{"p":"`+strings.Repeat("x", 300_000)+`"}`, event.Route{})
			r.emit(100)
			r.delivered()
			if r.sink.Connections() != 1 || len(r.kept()) != 0 {
				t.Errorf("%d connections, %d kept", r.sink.Connections(), len(r.kept()))
			}
		})
	}
}
