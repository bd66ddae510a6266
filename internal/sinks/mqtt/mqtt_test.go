package mqtt_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"event2mqtt/internal/broker"
	bundledbroker "event2mqtt/internal/broker/bundled"
	"event2mqtt/internal/event"
	"event2mqtt/internal/health"
	"event2mqtt/internal/journal"
	"event2mqtt/internal/refused"
	"event2mqtt/internal/sinks"
	"event2mqtt/internal/sinks/mqtt"
	"event2mqtt/internal/testkit"
	"event2mqtt/internal/wire"
	"event2mqtt/test/certtest"
	"event2mqtt/test/mqttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func listen(t testing.TB, address string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", address)
	testkit.OK(t, err)
	return l
}

// serve runs a broker on l until the returned function ends it.
func serve(t testing.TB, l net.Listener) (stop func()) {
	b, err := broker.New(broker.Options{})
	testkit.OK(t, err)
	var wg sync.WaitGroup
	wg.Go(func() { _ = b.Serve(l) })
	stop = sync.OnceFunc(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		b.Close(ctx)
		wg.Wait()
	})
	t.Cleanup(stop)
	return stop
}

// rig is a sink with a journal in front.
type rig struct {
	t       testing.TB
	journal *journal.Journal
	cursor  *journal.Cursor
	states  *event.States
	sink    *mqtt.Sink
	refused *refused.Folder
	dir     string // of refused
	log     *testkit.Log
	health  health.Record
	config  mqtt.Config
	publish mqtt.PublishConfig
	stop    func()
	n       int
}

func newRig(t testing.TB, change func(*mqtt.Config, *mqtt.PublishConfig), urls ...string) *rig {
	t.Helper()
	return newRigWith(t, func(o *mqtt.Options, _ *sinks.Deps) {
		if change != nil {
			change(&o.Config, &o.Publish)
		}
	}, urls...)
}

// newRigWith is newRig with more options.
func newRigWith(t testing.TB, change func(*mqtt.Options, *sinks.Deps), urls ...string) *rig {
	t.Helper()
	return newRigThatHears(t, nil, nil, change, urls...)
}

// newRigIn is newRig with a state folder, and states that are there before it.
func newRigIn(t testing.TB, stateDir string, states *event.States, change func(*mqtt.Config, *mqtt.PublishConfig), urls ...string) *rig {
	t.Helper()
	return newRigOf(t, states, nil, nil, func(o *mqtt.Options, d *sinks.Deps) {
		d.StateDir = stateDir
		if change != nil {
			change(&o.Config, &o.Publish)
		}
	}, urls...)
}

// newRigThatHears is newRigWith, and asks for messages of others.
func newRigThatHears(t testing.TB, filters []string, use func(sinks.Incoming), change func(*mqtt.Options, *sinks.Deps), urls ...string) *rig {
	t.Helper()
	return newRigOf(t, event.NewStates(), filters, use, change, urls...)
}

func newRigOf(t testing.TB, states *event.States, filters []string, use func(sinks.Incoming), change func(*mqtt.Options, *sinks.Deps), urls ...string) *rig {
	t.Helper()
	r := &rig{t: t, states: states}
	r.run(filters, use, func(deps sinks.Deps) (*mqtt.Sink, error) {
		c, p := mqtt.Defaults()
		c.URL, c.ClientID, c.Timeout = urls, "sink", 2*time.Second
		options := mqtt.Options{Common: sinks.Common{Name: "mqtt"}, Config: c, Publish: p, Calm: 50 * time.Millisecond, Pause: 100 * time.Millisecond}
		change(&options, &deps)
		r.config, r.publish = options.Config, options.Publish
		return mqtt.New(options, deps)
	})
	return r
}

// run runs the sink that build makes, until the test ends.
func (r *rig) run(filters []string, use func(sinks.Incoming), build func(sinks.Deps) (*mqtt.Sink, error)) {
	t := r.t
	t.Helper()
	r.log, r.dir = &testkit.Log{}, t.TempDir()
	r.refused = refused.Open(r.dir, zerolog.Nop())
	var err error
	r.journal, err = journal.Open(journal.Options{FS: journal.DirFS(t.TempDir()), Log: zerolog.Nop()})
	testkit.OK(t, err)
	r.cursor, err = r.journal.Cursor("mqtt")
	testkit.OK(t, err)
	r.sink, err = build(sinks.Deps{ID: r.journal.ID, StateDir: t.TempDir(), Refused: r.refused, Log: zerolog.New(r.log)})
	testkit.OK(t, err)
	if filters != nil {
		r.sink.Hear(filters, use)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = r.sink.Run(ctx, r.cursor, r.states, r.health.Tell) })
	r.stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	t.Cleanup(func() {
		r.stop()
		testkit.OK(t, r.journal.Close())
		if t.Failed() {
			t.Logf("its log:\n%s", r.log)
		}
	})
}

// up reports whether the sink has told that it is connected.
func (r *rig) up() bool {
	h := r.health.Report()
	return h.Level == health.Up && h.Detail != "" // else it has told nothing yet
}

// emit stores n more numbered events.
func (r *rig) emit(n int) {
	r.t.Helper()
	for range n {
		r.n++
		e := event.Event{Name: "E", Source: "s", Time: time.Now(), Payload: fmt.Appendf(nil, `{"n":%d}`, r.n)}
		testkit.OK(r.t, event.Normaliser{}.Normalise(&e))
		_, err := r.journal.Append(context.Background(), e)
		testkit.OK(r.t, err)
	}
}

// post stores an event with a name, a payload, and where it goes.
func (r *rig) post(name, payload string, route event.Route) {
	r.t.Helper()
	_, err := r.journal.Append(context.Background(), event.Event{Name: name, Source: "s", Time: time.Now(), Payload: []byte(payload), Route: route})
	testkit.OK(r.t, err)
}

// kept are the events that were refused.
func (r *rig) kept() []refused.Event {
	r.t.Helper()
	list, err := r.refused.List()
	testkit.OK(r.t, err)
	return list
}

func (r *rig) delivered() {
	r.t.Helper()
	testkit.Eventually(r.t, "all is delivered", func() bool { return r.cursor.Lag() == 0 })
}

func subscriber(t testing.TB, addr, filter string) *mqttest.Client {
	t.Helper()
	c, err := mqttest.Dial(addr, mqttest.Options{})
	testkit.OK(t, err)
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(mqttest.Patience))
	_, err = c.Subscribe(filter, 1)
	testkit.OK(t, err)
	return c
}

func next(t testing.TB, c *mqttest.Client) (topic, payload string, retain bool) {
	t.Helper()
	m, err := c.Next()
	testkit.OK(t, err)
	return m.Topic, string(m.Payload), m.Retain
}

func TestStartsWithTheBrokerDownAndCatchesUp(t *testing.T) {
	l := listen(t, "127.0.0.1:0")
	addr := l.Addr().String()
	l.Close()
	r := newRig(t, nil, "mqtt://"+addr)
	r.emit(20)
	testkit.Eventually(t, "the failure is told", func() bool { return strings.Contains(r.log.String(), "nothing listens there") })
	testkit.Eventually(t, "it tried again", func() bool { return !r.up() && strings.Contains(r.health.Report().Detail, "nothing listens") })
	time.Sleep(time.Second) // some attempts
	serve(t, listen(t, addr))
	s := subscriber(t, addr, "event2mqtt/event/#")
	r.delivered()
	r.emit(1)
	for {
		if _, payload, _ := next(t, s); strings.Contains(payload, `"n":21`) {
			break
		}
	}
	if n := strings.Count(r.log.String(), "nothing listens there"); n != 1 {
		t.Errorf("the same failure was logged %d times:\n%s", n, r.log)
	}
	if !strings.Contains(r.log.String(), `"attempts":`) || !r.up() {
		t.Errorf("success is not told:\n%s", r.log)
	}
}

// TestOnlyWhatIsAcknowledgedCounts: a broker takes messages and answers every
// third only before it dies; the next gets, in order, all that it left out.
func TestOnlyWhatIsAcknowledgedCounts(t *testing.T) {
	l := listen(t, "127.0.0.1:0")
	addr := l.Addr().String()
	var got atomic.Int64
	died := make(chan struct{})
	go func() {
		defer close(died)
		defer l.Close()
		nc, err := l.Accept()
		if err != nil {
			return
		}
		defer nc.Close()
		reader := wire.NewReader(nc, 1<<20)
		for {
			header, body, err := reader.Next()
			if err != nil {
				return
			}
			switch wire.Type(header >> 4) {
			case wire.CONNECT:
				_, _ = nc.Write([]byte{0x20, 2, 0, 0})
			case wire.PUBLISH:
				var p wire.Publish
				if wire.DecodePublish(&p, wire.V311, header, body, "") != nil {
					return
				}
				n := got.Load()
				if !p.Retain { // it is no birth message
					n = got.Add(1)
				}
				if p.Retain || n <= 3 {
					_, _ = nc.Write(wire.AppendAck(nil, wire.V311, wire.PUBACK, wire.Ack{PacketID: p.PacketID}))
				} else if n == 10 {
					return
				}
			}
		}
	}()
	r := newRig(t, nil, "mqtt://"+addr)
	r.emit(10)
	<-died
	for deadline := time.Now().Add(20 * time.Second); r.cursor.Lag() != 7; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d of 10 events wait, want 7", r.cursor.Lag())
		}
	}
	serve(t, listen(t, addr))
	s := subscriber(t, addr, "event2mqtt/event/#")
	r.delivered()
	r.emit(1)
	// The subscriber may have come late; what it gets is in order, from 4 on.
	last := 3
	for last < 11 {
		_, payload, _ := next(t, s)
		var n int
		_, err := fmt.Sscanf(payload[strings.Index(payload, `"n":`):], `"n":%d`, &n)
		testkit.OK(t, err)
		if n <= last {
			t.Fatalf("%d after %d", n, last)
		}
		last = n
	}
}

// TestABrokerThatNeverAnswersIsLeft: it accepts and says nothing, or stops
// acknowledging.
func TestABrokerThatNeverAnswersIsLeft(t *testing.T) {
	for name, connack := range map[string]bool{"no CONNACK": false, "no PUBACK": true} {
		t.Run(name, func(t *testing.T) {
			silent := listen(t, "127.0.0.1:0")
			var wg sync.WaitGroup
			defer wg.Wait()
			defer silent.Close()
			wg.Go(func() {
				for {
					nc, err := silent.Accept()
					if err != nil {
						return
					}
					wg.Go(func() {
						defer nc.Close()
						reader := wire.NewReader(nc, 1<<20)
						for {
							if _, _, err := reader.Next(); err != nil {
								return
							}
							if connack {
								_, _ = nc.Write([]byte{0x20, 2, 0, 0})
								connack = false
							}
						}
					})
				}
			})
			good := listen(t, "127.0.0.1:0")
			serve(t, good)
			r := newRig(t, func(c *mqtt.Config, _ *mqtt.PublishConfig) { c.Timeout = time.Second }, "mqtt://"+silent.Addr().String(), "mqtt://"+good.Addr().String())
			r.emit(5)
			r.delivered()
			if text := r.log.String(); !strings.Contains(text, "does not answer") && !strings.Contains(text, "did not acknowledge") {
				t.Errorf("the log does not say why:\n%s", text)
			}
			r.stop()
		})
	}
}

func TestBirthWillAndGoodbye(t *testing.T) {
	l := listen(t, "127.0.0.1:0")
	addr := l.Addr().String()
	serve(t, l)
	s := subscriber(t, addr, "event2mqtt/mqtt")
	r := newRig(t, nil, "mqtt://"+addr)
	if _, payload, _ := next(t, s); payload != "connected" {
		t.Errorf("birth: %s", payload)
	}
	if _, payload, retain := next(t, subscriber(t, addr, "event2mqtt/mqtt")); payload != "connected" || !retain {
		t.Errorf("birth is not retained: %s", payload)
	}
	// Another client takes the id over: the connection ends without goodbye.
	thief, err := mqttest.Dial(addr, mqttest.Options{ID: "sink"})
	testkit.OK(t, err)
	defer thief.Close()
	if _, payload, _ := next(t, s); payload != "disconnected" {
		t.Errorf("will: %s", payload)
	}
	if _, payload, _ := next(t, s); payload != "connected" {
		t.Errorf("after reconnect: %s", payload)
	}
	r.stop()
	if _, payload, _ := next(t, s); payload != "disconnected" {
		t.Errorf("goodbye: %s", payload)
	}
	testkit.OK(t, s.Quiet()) // the will was discarded
}

func TestStatesAreRetainedAndComeAgainAfterAReconnect(t *testing.T) {
	l := listen(t, "127.0.0.1:0")
	addr := l.Addr().String()
	stop := serve(t, l)
	r := newRig(t, nil, "mqtt://"+addr)
	for i := range 100 {
		r.states.Report("s", event.State{Key: "temperature/bed 1", Payload: fmt.Append(nil, i)})
	}
	expect := func() {
		t.Helper()
		s := subscriber(t, addr, "event2mqtt/s/temperature/#")
		for {
			if topic, payload, _ := next(t, s); topic != "event2mqtt/s/temperature/bed_1" {
				t.Fatalf("topic %s", topic)
			} else if payload == "99" {
				return
			}
		}
	}
	expect()
	stop() // it forgets what was retained
	serve(t, listen(t, addr))
	expect()
}

func TestEventsAreNeverRetainedAndMayCarryTheirSourceAndAnID(t *testing.T) {
	l := listen(t, "127.0.0.1:0")
	addr := l.Addr().String()
	serve(t, l)
	s := subscriber(t, addr, "b/#")
	r := newRig(t, func(c *mqtt.Config, p *mqtt.PublishConfig) {
		p.BaseTopic, p.SourceField, p.IDField, p.EventTopic = "b", "_source", "_id", "{base}/{source}/{event|snake}/{payload.n}"
		c.Will.Enabled = false
		c.InFlight = 1
	}, "mqtt://"+addr)
	r.emit(3)
	for i := 1; i <= 3; i++ {
		topic, payload, _ := next(t, s)
		if want := fmt.Sprintf("b/s/e/%d", i); topic != want {
			t.Errorf("topic %s, want %s", topic, want)
		}
		if !strings.HasSuffix(payload, fmt.Sprintf(`,"_source":"s","_id":%q}`, r.journal.ID(uint64(i)))) {
			t.Errorf("payload %s", payload)
		}
	}
	testkit.OK(t, subscriber(t, addr, "b/#").Quiet()) // nothing retained
}

func TestEveryQoSDelivers(t *testing.T) {
	l := listen(t, "127.0.0.1:0")
	addr := l.Addr().String()
	serve(t, l)
	for qos := range 3 {
		s := subscriber(t, addr, fmt.Sprintf("q%d/event/#", qos))
		r := newRig(t, func(_ *mqtt.Config, p *mqtt.PublishConfig) { p.QoS, p.BaseTopic = qos, fmt.Sprint("q", qos) }, "mqtt://"+addr)
		r.emit(300)
		for i := 1; i <= 300; i++ {
			m, err := s.Next()
			testkit.OK(t, err)
			if !strings.HasSuffix(string(m.Payload), fmt.Sprintf(`"n":%d}`, i)) || int(m.QoS) != min(qos, 1) {
				t.Fatalf("QoS %d: message %d is %s with QoS %d", qos, i, m.Payload, m.QoS)
			}
		}
		r.delivered()
		r.stop()
	}
}

func TestAnEventThatCannotBePublishedHoldsUpNoOther(t *testing.T) {
	l := listen(t, "127.0.0.1:0")
	addr := l.Addr().String()
	serve(t, l)
	r := newRig(t, func(_ *mqtt.Config, p *mqtt.PublishConfig) { p.EventTopic = "{base}/{payload.long}/{event}" }, "mqtt://"+addr)
	for _, long := range []string{"a", strings.Repeat("x", 70000), "b"} {
		e := event.Event{Name: "E", Time: time.Now(), Payload: []byte(`{"long":"` + long + `"}`)}
		testkit.OK(t, event.Normaliser{}.Normalise(&e))
		_, err := r.journal.Append(context.Background(), e)
		testkit.OK(t, err)
	}
	r.delivered()
	if r.sink.Skipped() != 1 || !strings.Contains(r.log.String(), "at most 65535") {
		t.Errorf("skipped %d:\n%s", r.sink.Skipped(), r.log)
	}
	if kept := r.kept(); len(kept) != 1 || kept[0].ID != r.journal.ID(2) {
		t.Errorf("kept %v", kept)
	}
}

// listenTLS runs a broker behind TLS, with a certificate of the authority.
func listenTLS(t testing.TB, a *certtest.Authority, name string, change func(*x509.Certificate), c *tls.Config) string {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(a.Issue(name, change))
	testkit.OK(t, err)
	c.Certificates = []tls.Certificate{pair}
	c.ClientCAs = x509.NewCertPool()
	c.ClientCAs.AddCert(a.Cert)
	l := listen(t, "127.0.0.1:0")
	serve(t, tls.NewListener(l, c))
	return l.Addr().String()
}

func TestTheBundledBrokerIsReachedInProcess(t *testing.T) {
	l := listen(t, "127.0.0.1:0")
	b, err := broker.New(broker.Options{})
	testkit.OK(t, err)
	var wg sync.WaitGroup
	wg.Go(func() { _ = b.Serve(l) })
	defer wg.Wait()
	defer b.Close(context.Background())
	s := subscriber(t, l.Addr().String(), "#")
	j, err := journal.Open(journal.Options{FS: journal.DirFS(t.TempDir()), Log: zerolog.Nop()})
	testkit.OK(t, err)
	defer j.Close()
	cursor, err := j.Cursor("mqtt")
	testkit.OK(t, err)
	c, p := mqtt.Defaults()
	sink, err := mqtt.New(mqtt.Options{Config: c, Publish: p}, sinks.Deps{Broker: bundled{b}, ID: j.ID, Log: zerolog.Nop()})
	testkit.OK(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	wg.Go(func() { _ = sink.Run(ctx, cursor, event.NewStates(), func(health.Status) {}) })
	_, err = j.Append(ctx, event.Event{Name: "E", Payload: []byte(`{}`)})
	testkit.OK(t, err)
	want := []string{"event2mqtt/mqtt connected", "event2mqtt/event/E {}", "event2mqtt/mqtt disconnected"}
	for i, w := range want {
		if topic, payload, _ := next(t, s); topic+" "+payload != w {
			t.Errorf("got %s %s, want %s", topic, payload, w)
		}
		if i == 1 {
			testkit.Eventually(t, "acknowledged", func() bool { return cursor.Lag() == 0 })
			cancel()
		}
	}
	s.Close()
}

type bundled struct{ *broker.Broker }

func (b bundled) Subscribe(filter string, use func(sinks.Incoming)) (cancel func(), err error) {
	return (&bundledbroker.Broker{Broker: b.Broker}).Subscribe(filter, use)
}

func (b bundled) Publish(ctx context.Context, o sinks.Outgoing) (sinks.Receipt, error) {
	return b.Broker.Publish(ctx, &broker.Message{Topic: o.Topic, Payload: o.Payload, QoS: o.QoS, Retain: o.Retain, SaveLater: o.SaveLater})
}
