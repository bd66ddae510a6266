package mqtt_test

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"event2mqtt/internal/broker"
	"event2mqtt/internal/broker/accounts"
	"event2mqtt/internal/event"
	"event2mqtt/internal/sinks"
	"event2mqtt/internal/sinks/mqtt"
	"event2mqtt/internal/testkit"
	"event2mqtt/internal/wire"
	"event2mqtt/test/mqttest"
)

// This file tests the way back: what others publish for this program.

// ear keeps what a sink is told.
type ear struct {
	mu   sync.Mutex
	got  []sinks.Incoming
	hold chan struct{} // each message is taken when it can be read from; nil takes all
}

func (e *ear) use(in sinks.Incoming) {
	if e.hold != nil {
		<-e.hold
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.got = append(e.got, in)
}

func (e *ear) all() []sinks.Incoming {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]sinks.Incoming(nil), e.got...)
}

func (e *ear) first(t testing.TB, n int) []sinks.Incoming {
	t.Helper()
	testkit.Eventually(t, fmt.Sprintf("%d messages came", n), func() bool { return len(e.all()) >= n })
	return e.all()[:n]
}

// town is a broker, and a sink that listens to it.
type town struct {
	*rig
	*ear
	b       *broker.Broker
	address string
	network bool
}

const commands = "event2mqtt/printer/set/+"

// inBothWays runs a test with a broker in the network and with the bundled one.
// before is called before the sink starts.
func inBothWays(t *testing.T, before func(*town), test func(*testing.T, *town)) {
	for _, network := range []bool{true, false} {
		t.Run(map[bool]string{true: "network", false: "bundled"}[network], func(t *testing.T) {
			b, address := newBroker(t, broker.Options{})
			w := &town{b: b, address: address, ear: &ear{}, network: network}
			if before != nil {
				before(w)
			}
			w.listen(t, nil)
			test(t, w)
		})
	}
}

// listen starts the sink.
func (w *town) listen(t testing.TB, change func(*mqtt.Options, *sinks.Deps), filters ...string) {
	if filters == nil {
		filters = []string{commands, "other/x/+"}
	}
	var urls []string
	if w.network {
		urls = []string{"mqtt://" + w.address}
	}
	w.rig = newRigThatHears(t, filters, w.use, func(o *mqtt.Options, d *sinks.Deps) {
		if !w.network {
			d.Broker = bundled{w.b}
		}
		if change != nil {
			change(o, d)
		}
	}, urls...)
	testkit.Eventually(t, "it is connected", func() bool { return w.up() })
}

// newBroker runs a broker until the test ends.
func newBroker(t testing.TB, o broker.Options) (*broker.Broker, string) {
	l := listen(t, "127.0.0.1:0")
	b, err := broker.New(o)
	testkit.OK(t, err)
	var wg sync.WaitGroup
	wg.Go(func() { _ = b.Serve(l) })
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		b.Close(ctx)
		wg.Wait()
	})
	return b, l.Addr().String()
}

// publish publishes as a client with the id phone.
func (w *town) publish(t testing.TB, messages ...wire.Publish) {
	t.Helper()
	c, err := mqttest.Dial(w.address, mqttest.Options{ID: "phone"})
	testkit.OK(t, err)
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(mqttest.Patience))
	for _, m := range messages {
		m.QoS = 1
		testkit.OK(t, c.Publish(m))
	}
}

const pause = "event2mqtt/printer/set/pause"

// TestTheSinkIsToldWhatItSubscribedTo: what is retained says so, and what comes
// later says who published it, as far as can be known.
func TestTheSinkIsToldWhatItSubscribedTo(t *testing.T) {
	began := time.Now()
	inBothWays(t, func(w *town) {
		w.publish(t, wire.Publish{Topic: pause, Payload: []byte("old"), Retain: true})
	}, func(t *testing.T, w *town) {
		w.first(t, 1)
		w.publish(t, wire.Publish{Topic: "event2mqtt/printer", Payload: []byte("not asked for")},
			wire.Publish{Topic: pause, Payload: []byte("retained later"), Retain: true}, wire.Publish{Topic: pause, Payload: []byte("live")})
		w.publish(t, wire.Publish{Topic: "other/x/y"})
		want := []string{"old true phone", "retained later true phone", "live false phone", " false phone"}
		if w.network { // MQTT 3.1.1 does not tell more
			want = []string{"old true ", "retained later false ", "live false ", " false "}
		}
		for i, in := range w.first(t, 4) {
			if got := fmt.Sprintf("%s %t %s", in.Payload, in.Retained, in.Client); got != want[i] {
				t.Errorf("message %d is %q, want %q", i, got, want[i])
			}
			if in.Received.Before(began) || in.Received.After(time.Now()) {
				t.Errorf("message %d was received at %s", i, in.Received)
			}
		}
	})
}

// TestALargeMessageEndsNothing: otherwise, whoever may publish a command could
// keep the events from being sent, for good if it is retained.
func TestALargeMessageEndsNothing(t *testing.T) {
	large := wire.Publish{Topic: pause, Payload: make([]byte, 900<<10), Retain: true}
	inBothWays(t, func(w *town) { w.publish(t, large) }, func(t *testing.T, w *town) {
		w.emit(1)
		just := wire.Publish{Topic: pause, Payload: make([]byte, 16<<10-len(pause)-2)}
		above := wire.Publish{Topic: pause, Payload: make([]byte, len(just.Payload)+1)}
		w.publish(t, above, just, large, above, wire.Publish{Topic: pause, Payload: []byte("small")})
		if got := w.first(t, 2); len(got[0].Payload) != len(just.Payload) || string(got[1].Payload) != "small" {
			t.Errorf("%d and %d bytes came", len(got[0].Payload), len(got[1].Payload))
		}
		w.emit(1)
		w.delivered()
		if n := w.sink.Missed(); n != 4 {
			t.Errorf("%d were skipped, want 4", n)
		}
		if n := strings.Count(w.log.String(), "too large"); n != 1 || !strings.Contains(w.log.String(), pause) {
			t.Errorf("the log says it %d times:\n%s", n, w.log)
		}
		if n := strings.Count(w.log.String(), "connected to"); w.network && n != 1 {
			t.Errorf("connected %d times:\n%s", n, w.log)
		}
	})
}

// TestALargeMessageThatComesSlowlyEndsNothing: what it holds up, the answers to
// a ping and to an event, counts as on its way.
func TestALargeMessageThatComesSlowlyEndsNothing(t *testing.T) {
	t.Parallel()
	const size, chunks = 64 << 10, 100
	l := listen(t, "127.0.0.1:0")
	var wg sync.WaitGroup
	var log lockedStrings
	wg.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { defer nc.Close(); trickle(nc, size, chunks, &log) })
		}
	})
	defer wg.Wait()
	defer l.Close()
	w := &town{ear: &ear{}, network: true, address: l.Addr().String()}
	w.listen(t, func(o *mqtt.Options, _ *sinks.Deps) {
		o.Config.KeepAlive, o.Config.Timeout, o.Config.Will.Enabled = time.Second, time.Second, false
	}, commands)
	w.emit(1)
	w.delivered()
	w.stop()
	testkit.Eventually(t, "one connection did all", func() bool { return log.all() == "CONNECT SUBSCRIBE PUBLISH DISCONNECT" })
	if w.sink.Missed() != 1 {
		t.Errorf("%d were skipped", w.sink.Missed())
	}
}

// trickle is a broker that answers an event only behind a large message, which
// takes it 3 s to send.
func trickle(nc net.Conn, size, chunks int, log *lockedStrings) {
	reader := wire.NewReader(nc, 1<<20)
	for {
		header, body, err := reader.Next()
		if err != nil {
			return
		}
		kind := wire.Type(header >> 4)
		if kind != wire.PINGREQ {
			log.add(kind.String())
		}
		switch kind {
		case wire.CONNECT:
			_, _ = nc.Write([]byte{0x20, 2, 0, 0})
		case wire.SUBSCRIBE:
			_, _ = nc.Write([]byte{0x90, 3, body[0], body[1], 0})
		case wire.PUBLISH:
			var p wire.Publish
			if wire.DecodePublish(&p, wire.V311, header, body, "") != nil {
				return
			}
			answer := wire.AppendPublish(nil, wire.V311, &wire.Publish{Topic: pause, Payload: make([]byte, size)})
			for i := range chunks {
				_, _ = nc.Write(answer[len(answer)*i/chunks : len(answer)*(i+1)/chunks])
				time.Sleep(3 * time.Second / time.Duration(chunks))
			}
			_, _ = nc.Write(wire.AppendAck(nil, wire.V311, wire.PUBACK, wire.Ack{PacketID: p.PacketID}))
		}
	}
}

// lockedStrings are words that several goroutines add.
type lockedStrings struct {
	mu    sync.Mutex
	words []string
}

func (l *lockedStrings) add(word string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.words = append(l.words, word)
}

func (l *lockedStrings) all() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.words, " ")
}

// TestEventsDoNotWaitForCommands: acknowledgements are taken though nobody takes
// the messages; too many of these are skipped, the newest, and that is said once.
func TestEventsDoNotWaitForCommands(t *testing.T) {
	inBothWays(t, func(w *town) { w.hold = make(chan struct{}) }, func(t *testing.T, w *town) {
		flood := make([]wire.Publish, 400)
		for i := range flood {
			flood[i] = wire.Publish{Topic: pause, Payload: fmt.Append(nil, i)}
		}
		w.publish(t, flood...)
		w.emit(10)
		w.delivered()
		close(w.hold)
		skipped := func() int { return int(w.sink.Missed() + w.b.Stats().Dropped) } // who drops depends on the way
		testkit.Eventually(t, "all were given or skipped", func() bool { return len(w.all())+skipped() == len(flood) })
		if skipped() == 0 {
			t.Error("none was skipped")
		}
		for i, in := range w.all()[:50] {
			if string(in.Payload) != fmt.Sprint(i) {
				t.Fatalf("message %d is %s", i, in.Payload)
			}
		}
		if n := strings.Count(w.log.String(), "faster than it takes them"); w.network && n != 1 {
			t.Errorf("the log says it %d times", n)
		}
	})
}

// TestNothingIsGivenAfterTheSinkHasEnded, and it is no longer subscribed.
func TestNothingIsGivenAfterTheSinkHasEnded(t *testing.T) {
	inBothWays(t, nil, func(t *testing.T, w *town) {
		w.publish(t, wire.Publish{Topic: pause})
		w.first(t, 1)
		if n := w.b.Stats().Subscriptions; n != 2 {
			t.Errorf("%d subscriptions", n)
		}
		w.stop()
		testkit.Eventually(t, "nothing is subscribed to", func() bool { return w.b.Stats().Subscriptions == 0 })
		w.publish(t, wire.Publish{Topic: pause})
		if n := len(w.all()); n != 1 {
			t.Errorf("%d messages were given", n)
		}
	})
}

// TestTheSinkSubscribesAgainOnEachConnection, and what was published meanwhile
// does not come late.
func TestTheSinkSubscribesAgainOnEachConnection(t *testing.T) {
	l := listen(t, "127.0.0.1:0")
	stop := serve(t, l)
	w := &town{ear: &ear{}, network: true, address: l.Addr().String()}
	w.listen(t, nil)
	w.publish(t, wire.Publish{Topic: pause, Payload: []byte("1")})
	w.first(t, 1)
	stop()
	testkit.Eventually(t, "it is not connected", func() bool { return !w.up() })
	serve(t, listen(t, w.address))
	w.publish(t, wire.Publish{Topic: "event2mqtt/printer/set/unheard"}) // or it is heard, if the sink is fast
	testkit.Eventually(t, "it is connected", func() bool { return w.up() })
	w.publish(t, wire.Publish{Topic: pause, Payload: []byte("2")})
	testkit.Eventually(t, "it hears", func() bool { got := w.all(); return string(got[len(got)-1].Payload) == "2" })
}

// TestSessionsAreClean: a broker must not keep commands for a sink that is away.
func TestSessionsAreClean(t *testing.T) {
	var clean lockedStrings
	b := (&pickyBroker{connect: func(_ int, c *wire.Connect) verdict { clean.add(fmt.Sprint(c.CleanStart)); return take }}).start(t)
	w := &town{ear: &ear{}, network: true, address: strings.TrimPrefix(b.url, "mqtt://")}
	w.listen(t, nil)
	if clean.all() != "true" {
		t.Errorf("clean: %s", clean.all())
	}
}

// TestABrokerThatRefusesTheSubscriptionGetsEvents: the log says once why no
// command comes, and when that is over.
func TestABrokerThatRefusesTheSubscriptionGetsEvents(t *testing.T) {
	file := accounts.File(filepath.Join(t.TempDir(), "accounts.json"))
	allow := func(rule string) {
		testkit.OK(t, file.Update(func([]accounts.User) ([]accounts.User, error) {
			return []accounts.User{{Name: "u", Hash: accounts.PlainHash("p"), Allow: []string{rule}}}, nil
		}))
	}
	allow("#:w")
	a, err := accounts.New(accounts.Options{File: file, Delay: time.Millisecond, Failures: 1000})
	testkit.OK(t, err)
	b, address := newBroker(t, broker.Options{Accounts: a})
	w := &town{b: b, address: address, ear: &ear{}, network: true}
	w.listen(t, func(o *mqtt.Options, _ *sinks.Deps) { o.Config.Username, o.Config.Password = "u", "p" })
	w.emit(3)
	w.delivered()
	if n := strings.Count(w.log.String(), "does not allow event2mqtt to subscribe to "+commands); n != 1 {
		t.Errorf("the log says it %d times", n)
	}
	allow("#:rw")
	_, err = a.Reload()
	testkit.OK(t, err)
	takeOver, err := mqttest.Dial(address, mqttest.Options{ID: "sink", User: "u", Password: "p"}) // ends its connection
	testkit.OK(t, err)
	takeOver.Close()
	testkit.Eventually(t, "the log says that commands are accepted", func() bool { return strings.Contains(w.log.String(), "commands are accepted") })
	w.emit(1)
	w.delivered()
}

// TestABrokerThatHangsUpWhenSubscribedToGetsEvents, and so does one that never
// answers: after some attempts, every other connection is left without.
func TestABrokerThatHangsUpWhenSubscribedToGetsEvents(t *testing.T) {
	for name, v := range map[string]verdict{"hangs up": hangUp, "never answers": ignore} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var asked lockedStrings
			b := (&pickyBroker{subscribe: func(int) verdict { asked.add("x"); return v }}).start(t)
			r := newRigThatHears(t, []string{commands}, (&ear{}).use, func(o *mqtt.Options, _ *sinks.Deps) {
				o.Config.Timeout = 200 * time.Millisecond
			}, b.url)
			r.emit(3)
			r.delivered()
			if got := asked.all(); got != "x x x" || b.connections() != 4 {
				t.Errorf("asked %s on %d connections", got, b.connections())
			}
			if n := strings.Count(r.log.String(), "no command is accepted"); n != 1 {
				t.Errorf("the log says it %d times", n)
			}
			if len(r.kept()) > 0 {
				t.Error("an event was blamed for it")
			}
		})
	}
}

// TestAnAnswerWithTooManyCodesEndsTheConnectionOnly: paho would panic.
func TestAnAnswerWithTooManyCodesEndsTheConnectionOnly(t *testing.T) {
	for _, answer := range [][]byte{{0x90, 4, 0, 1, 0, 0}, {0x90, 2, 0, 1}} {
		l := listen(t, "127.0.0.1:0")
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				nc, err := l.Accept()
				if err != nil {
					return
				}
				reader := wire.NewReader(nc, 1<<20)
				_, _, _ = reader.Next()
				_, _ = nc.Write([]byte{0x20, 2, 0, 0})
				_, body, _ := reader.Next()
				if len(body) > 1 {
					copy(answer[2:], body[:2])
				}
				_, _ = nc.Write(answer)
				_, _, _ = reader.Next()
				nc.Close()
			}
		})
		r := newRigThatHears(t, []string{commands}, (&ear{}).use, func(*mqtt.Options, *sinks.Deps) {}, "mqtt://"+l.Addr().String())
		says := "longer than the 3 bytes"
		if len(answer) == 4 {
			says = "does not allow event2mqtt to subscribe"
		}
		testkit.Eventually(t, "the log says "+says, func() bool { return strings.Contains(r.log.String(), says) })
		r.stop()
		l.Close()
		wg.Wait()
	}
}

// TestWhatIsHeardChangesWhileConnected, without another connection.
func TestWhatIsHeardChangesWhileConnected(t *testing.T) {
	inBothWays(t, nil, func(t *testing.T, w *town) {
		other := "event2mqtt/other/set/+"
		w.sink.Hear([]string{other}, w.use)
		testkit.Eventually(t, "it is subscribed", func() bool {
			w.publish(t, wire.Publish{Topic: "event2mqtt/other/set/x", Payload: []byte("new")})
			return len(w.all()) > 0 && w.b.Stats().Subscriptions == 1
		})
		w.publish(t, wire.Publish{Topic: pause, Payload: []byte("old")}, wire.Publish{Topic: "event2mqtt/other/set/x", Payload: []byte("last")})
		testkit.Eventually(t, "the last came", func() bool { got := w.all(); return string(got[len(got)-1].Payload) == "last" })
		for _, in := range w.all() {
			if string(in.Payload) == "old" {
				t.Error("it hears what it no longer asks for")
			}
		}
		w.sink.Hear(nil, nil)
		testkit.Eventually(t, "nothing is subscribed to", func() bool { return w.b.Stats().Subscriptions == 0 })
		w.emit(1)
		w.delivered()
		if n := strings.Count(w.log.String(), "connected to"); w.network && n != 1 {
			t.Errorf("connected %d times", n)
		}
	})
}

// TestTheSinkSaysSomethingBesideTheEvents, if there is a connection.
func TestTheSinkSaysSomethingBesideTheEvents(t *testing.T) {
	inBothWays(t, nil, func(t *testing.T, w *town) {
		s := subscriber(t, w.address, "event2mqtt/printer/result")
		ctx, cancel := context.WithTimeout(t.Context(), mqttest.Patience)
		defer cancel()
		testkit.Eventually(t, "it is said", func() bool { return w.sink.Say(ctx, "event2mqtt/printer/result", []byte("done")) == nil })
		if topic, payload, _ := next(t, s); topic != "event2mqtt/printer/result" || payload != "done" {
			t.Errorf("%s %s", topic, payload)
		}
		w.stop()
		if err := w.sink.Say(ctx, "event2mqtt/printer/result", nil); err == nil {
			t.Error("said without a connection")
		}
	})
}

// TestTheSinkPublishesNothingThatItHears: an event that a rule sends there would
// be a command to itself. It is skipped and kept; those behind it are sent.
func TestTheSinkPublishesNothingThatItHears(t *testing.T) {
	inBothWays(t, nil, func(t *testing.T, w *town) {
		w.post("Own", `{}`, event.Route{Topic: pause})
		w.post("Other", `{}`, event.Route{Topic: "event2mqtt/nobody/set/pause"})
		w.emit(1)
		w.delivered()
		w.publish(t, wire.Publish{Topic: pause, Payload: []byte("of another")})
		if got := w.first(t, 1); string(got[0].Payload) != "of another" {
			t.Errorf("it heard itself: %s", got[0].Payload)
		}
		kept := w.kept()
		if len(kept) != 1 || kept[0].Name != "Own" || !strings.Contains(kept[0].Reason, "gives itself none") {
			t.Errorf("kept %+v", kept)
		}
	})
}

// TestWhatTheSinkHearsIsSkippedWhileInDoubt, too: it must not stop those behind
// it, nor be blamed for what another does.
func TestWhatTheSinkHearsIsSkippedWhileInDoubt(t *testing.T) {
	b := (&pickyBroker{publish: func(_ int, p *wire.Publish) verdict {
		if strings.HasSuffix(p.Topic, "/Bad") {
			return hangUp
		}
		return take
	}}).start(t)
	r := newRigThatHears(t, []string{commands}, (&ear{}).use, func(o *mqtt.Options, _ *sinks.Deps) { o.Config.Timeout = time.Second }, b.url)
	r.states.Report("s", event.State{Key: "own", Topic: pause, Payload: []byte("1")})
	r.post("Bad", `{}`, event.Route{})
	r.post("Own", `{}`, event.Route{Topic: pause})
	r.emit(1)
	r.delivered()
	if kept := r.kept(); len(kept) != 2 || !strings.Contains(kept[0].Reason+kept[1].Reason, "gives itself none") {
		t.Errorf("kept %+v", kept)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, topic := range b.got {
		if topic == pause {
			t.Error("it gave itself a command")
		}
	}
}

// TestWhatNobodyHasAskedForIsNoErrorWhenRefused: an account that may do no more
// than publish is as good as before there was anything to hear by default.
func TestWhatNobodyHasAskedForIsNoErrorWhenRefused(t *testing.T) {
	file := accounts.File(filepath.Join(t.TempDir(), "accounts.json"))
	testkit.OK(t, file.Update(func([]accounts.User) ([]accounts.User, error) {
		return []accounts.User{{Name: "u", Hash: accounts.PlainHash("p"), Allow: []string{"#:w"}}}, nil
	}))
	a, err := accounts.New(accounts.Options{File: file, Delay: time.Millisecond, Failures: 1000})
	testkit.OK(t, err)
	b, address := newBroker(t, broker.Options{Accounts: a})
	w := &town{b: b, address: address, ear: &ear{}, network: true}
	w.listen(t, func(o *mqtt.Options, _ *sinks.Deps) { o.Config.Username, o.Config.Password = "u", "p" })
	w.sink.Hear([]string{"event2mqtt/bridge/set/+", "homeassistant/status"}, w.use)
	testkit.Eventually(t, "it is said", func() bool {
		return strings.Contains(w.log.String(), `"level":"info","message":"mqtt: the broker does not allow event2mqtt to subscribe to event2mqtt/bridge/set/+; events are sent`)
	})
	w.emit(3)
	w.delivered()
	if n := strings.Count(w.log.String(), "homeassistant/status"); n > 0 {
		t.Errorf("the log says it of each: %s", w.log.String())
	}
}
