package broker_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"event2mqtt/internal/broker"
	"event2mqtt/internal/journal"
	"event2mqtt/internal/testkit"
	"event2mqtt/internal/wire"
	"event2mqtt/test/mqttest"
)

// This file tests subscriptions of the program itself.

// inbox keeps what a subscription of the program itself is given.
type inbox struct {
	mu  sync.Mutex
	got []broker.Delivery
}

func (i *inbox) use(d broker.Delivery) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.got = append(i.got, d)
}

func (i *inbox) all() []broker.Delivery {
	i.mu.Lock()
	defer i.mu.Unlock()
	return append([]broker.Delivery(nil), i.got...)
}

// first waits for n messages and returns them.
func (i *inbox) first(t testing.TB, n int) []broker.Delivery {
	t.Helper()
	testkit.Eventually(t, fmt.Sprintf("%d messages were given", n), func() bool { return len(i.all()) >= n })
	return i.all()[:n]
}

// listen subscribes from inside the program until the test ends.
func listen(t testing.TB, b *broker.Broker, filter string) *inbox {
	t.Helper()
	i := &inbox{}
	cancel, err := b.Subscribe(filter, i.use)
	testkit.OK(t, err)
	t.Cleanup(cancel)
	return i
}

// TestTheProgramItselfIsGivenWhatMatches of what clients and it publish, in
// order, with who published it and when it came.
func TestTheProgramItselfIsGivenWhatMatches(t *testing.T) {
	h := newHouse(t, map[string][]string{"ann": {"#:rw"}})
	in := listen(t, h.b, "base/+/set/+")
	began := time.Now()
	c := h.dial("ann", mqttest.Options{ID: "phone"})
	for qos := range byte(3) {
		testkit.OK(t, c.Publish(wire.Publish{Topic: "base/other/" + fmt.Sprint(qos), QoS: qos}))
		testkit.OK(t, c.Publish(wire.Publish{Topic: "base/printer/set/pause", Payload: fmt.Append(nil, qos), QoS: qos}))
	}
	testkit.OK(t, publish(h.b, &broker.Message{Topic: "base/printer/set/own"}))
	for n, d := range in.first(t, 4) {
		user, client, topic, qos := "ann", "phone", "base/printer/set/pause", n
		if n == 3 {
			user, client, topic, qos = "", "", "base/printer/set/own", 0
		}
		if d.Topic != topic || int(d.QoS) != qos || d.User != user || d.Client != client || d.Retain || d.Stored {
			t.Errorf("message %d is %+v", n, d)
		}
		if d.Received.Before(began) || d.Received.After(time.Now()) {
			t.Errorf("message %d was received at %s", n, d.Received)
		}
	}
}

// TestTheProgramItselfSeesTheRetainFlag: what was retained before is Stored;
// what comes later tells whether it was published to be retained.
func TestTheProgramItselfSeesTheRetainFlag(t *testing.T) {
	b, addr := start(t, broker.Limits{})
	c := dial(t, addr, mqttest.Options{ID: "c"})
	testkit.OK(t, c.Publish(wire.Publish{Topic: "x/old", Payload: []byte("1"), QoS: 1, Retain: true}))
	in := listen(t, b, "x/#")
	testkit.OK(t, c.Publish(wire.Publish{Topic: "x/old", Payload: []byte("2"), QoS: 1, Retain: true}))
	testkit.OK(t, c.Publish(wire.Publish{Topic: "x/new", Payload: []byte("3"), QoS: 1}))
	want := []string{"x/old 1 true true c", "x/old 2 true false c", "x/new 3 false false c"}
	for n, d := range in.first(t, 3) {
		if got := fmt.Sprintf("%s %s %t %t %s", d.Topic, d.Payload, d.Retain, d.Stored, d.Client); got != want[n] {
			t.Errorf("message %d is %q, want %q", n, got, want[n])
		}
	}
}

// TestWhatWasRetainedBeforeTheStartHasNoTime: nobody knows how old it is.
func TestWhatWasRetainedBeforeTheStartHasNoTime(t *testing.T) {
	folder := journal.DirFS(t.TempDir())
	b, err := broker.New(broker.Options{Folder: folder})
	testkit.OK(t, err)
	testkit.OK(t, publish(b, &broker.Message{Topic: "x", Payload: []byte("1"), Retain: true}))
	b.Close(context.Background())
	b, _ = startWith(t, broker.Options{Folder: folder})
	if d := listen(t, b, "x").first(t, 1)[0]; !d.Stored || !d.Retain || !d.Received.IsZero() || d.Client != "" {
		t.Errorf("it is %+v", d)
	}
}

// TestTheProgramItselfIsGivenNothingThatMayNotBeRetained any more, as it is
// for everybody else.
func TestTheProgramItselfIsGivenNothingThatMayNotBeRetained(t *testing.T) {
	h := newHouse(t, map[string][]string{"ann": {"#:rw"}, "bob": {"#:rw"}})
	for _, user := range []string{"ann", "bob"} {
		testkit.OK(t, h.dial(user, mqttest.Options{}).Publish(wire.Publish{Topic: "x/" + user, Payload: []byte("1"), QoS: 1, Retain: true}))
	}
	h.set(map[string][]string{"ann": {"y:rw"}, "bob": {"#:rw"}})
	in := listen(t, h.b, "x/#")
	testkit.OK(t, publish(h.b, &broker.Message{Topic: "x/last"}))
	if got := in.first(t, 2); got[0].Topic != "x/bob" || got[1].Topic != "x/last" {
		t.Errorf("got %v", got)
	}
}

// TestWildcardsOfTheProgramItselfDoNotMatchSys (MQTT-4.7.2-1), but a filter
// that names it does.
func TestWildcardsOfTheProgramItselfDoNotMatchSys(t *testing.T) {
	b, _ := startWith(t, broker.Options{SysInterval: time.Millisecond})
	everything, plus, sys := listen(t, b, "#"), listen(t, b, "+/broker/#"), listen(t, b, "$SYS/#")
	sys.first(t, 10)
	testkit.OK(t, publish(b, &broker.Message{Topic: "x/broker/y"}))
	for _, in := range []*inbox{everything, plus} {
		if d := in.first(t, 1)[0]; d.Topic != "x/broker/y" {
			t.Errorf("got %s", d.Topic)
		}
	}
}

// TestASlowProgramKeepsNobodyWaiting: its queue is bounded, in messages and in
// bytes; what is too much is dropped, counted and said once. Publishers go on.
func TestASlowProgramKeepsNobodyWaiting(t *testing.T) {
	for name, size := range map[string]int{"messages": 10, "bytes": 100 << 10} {
		t.Run(name, func(t *testing.T) {
			log := &logLines{}
			b, addr := startWith(t, broker.Options{Log: log.logger()})
			in, hold := &inbox{}, make(chan struct{})
			cancel, err := b.Subscribe("x", func(d broker.Delivery) { <-hold; in.use(d) })
			testkit.OK(t, err)
			defer cancel()
			c := dial(t, addr, mqttest.Options{})
			const count = 300
			for n := range count {
				testkit.OK(t, c.Publish(wire.Publish{Topic: "x", Payload: append(fmt.Appendf(nil, "%d ", n), make([]byte, size)...), QoS: byte(n % 3)}))
			}
			testkit.Eventually(t, "all were received", func() bool { return b.Stats().Received == count })
			dropped := int(b.Stats().Dropped)
			if dropped == 0 || size > 1<<10 && dropped < count-12 {
				t.Errorf("%d were dropped", dropped)
			}
			if lines := log.find("faster than it takes them"); len(lines) != 1 || lines[0]["filter"] != "x" {
				t.Errorf("the log says %v", lines)
			}
			close(hold)
			for n, d := range in.first(t, count-dropped) {
				if !strings.HasPrefix(string(d.Payload), fmt.Sprint(n, " ")) { // the newest were dropped
					t.Fatalf("message %d is %.10q", n, d.Payload)
				}
			}
			testkit.OK(t, c.Publish(wire.Publish{Topic: "x", Payload: []byte("last")}))
			if d := in.first(t, count-dropped+1); string(d[count-dropped].Payload) != "last" {
				t.Error("the one after the queue was full did not come")
			}
		})
	}
}

// TestTheProgramItselfIsNotGivenWhatHasExpired while it waited (MQTT-3.3.2-5).
func TestTheProgramItselfIsNotGivenWhatHasExpired(t *testing.T) {
	b, addr := start(t, broker.Limits{})
	in, hold := &inbox{}, make(chan struct{})
	cancel, err := b.Subscribe("x", func(d broker.Delivery) { <-hold; in.use(d) })
	testkit.OK(t, err)
	defer cancel()
	c := dial(t, addr, mqttest.Options{Version: wire.V5})
	for n, expiry := range []uint32{0, 1, 0} {
		testkit.OK(t, c.Publish(wire.Publish{Topic: "x", Payload: fmt.Append(nil, n), QoS: 1, HasExpiry: expiry > 0, Expiry: expiry}))
	}
	time.Sleep(1100 * time.Millisecond) // until the second has expired
	close(hold)
	if got := in.first(t, 2); string(got[1].Payload) != "2" {
		t.Errorf("got %s", got[1].Payload)
	}
}

// TestCancelWaitsForTheLastMessage and nothing is given after it.
func TestCancelWaitsForTheLastMessage(t *testing.T) {
	b, _ := start(t, broker.Limits{})
	before := b.Stats().Subscriptions
	var in inbox
	entered, hold := make(chan struct{}, 10), make(chan struct{})
	cancel, err := b.Subscribe("x", func(d broker.Delivery) { entered <- struct{}{}; <-hold; in.use(d) })
	testkit.OK(t, err)
	for range 5 {
		testkit.OK(t, publish(b, &broker.Message{Topic: "x"}))
	}
	<-entered
	done := make(chan struct{})
	go func() { cancel(); close(done) }()
	testkit.Eventually(t, "it is no longer subscribed", func() bool { return b.Stats().Subscriptions == before })
	select {
	case <-done:
		t.Error("cancel did not wait")
	default:
	}
	hold <- struct{}{}
	close(hold)
	<-done
	cancel() // again
	n := len(in.all())
	testkit.OK(t, publish(b, &broker.Message{Topic: "x"}))
	if n != 1 || len(in.all()) != n {
		t.Errorf("%d were given before and %d after", n, len(in.all()))
	}
}

// TestCloseEndsSubscriptionsOfTheProgramItself and leaves nothing behind, which
// TestMain looks at.
func TestCloseEndsSubscriptionsOfTheProgramItself(t *testing.T) {
	b, err := broker.New(broker.Options{})
	testkit.OK(t, err)
	var in inbox
	cancel, err := b.Subscribe("#", in.use)
	testkit.OK(t, err)
	testkit.OK(t, publish(b, &broker.Message{Topic: "x"}))
	in.first(t, 1)
	b.Close(context.Background())
	cancel()
	if _, err := b.Subscribe("#", in.use); !errors.Is(err, broker.ErrClosed) {
		t.Errorf("subscribing to a closed broker: %v", err)
	}
}

// TestTheProgramItselfCannotSubscribeToNonsense: shared subscriptions are for
// clients, and the limits of filters hold for all.
func TestTheProgramItselfCannotSubscribeToNonsense(t *testing.T) {
	b, _ := start(t, broker.Limits{})
	for _, filter := range []string{"", "a/#/b", "a+", "$share/x/y", strings.Repeat("x", 2000), strings.Repeat("/", 300)} {
		if _, err := b.Subscribe(filter, func(broker.Delivery) {}); err == nil {
			t.Errorf("%.20q was accepted", filter)
		}
	}
}

// TestSubscriptionsOfTheProgramItselfAreNotStored: after a restart there is
// none, and no session of one.
func TestSubscriptionsOfTheProgramItselfAreNotStored(t *testing.T) {
	folder := journal.DirFS(t.TempDir())
	b, err := broker.New(broker.Options{Folder: folder})
	testkit.OK(t, err)
	_, err = b.Subscribe("x", func(broker.Delivery) {})
	testkit.OK(t, err)
	testkit.OK(t, publish(b, &broker.Message{Topic: "x", QoS: 2, Payload: []byte("1"), Retain: true}))
	b.Close(context.Background())
	b, _ = startWith(t, broker.Options{Folder: folder})
	if s := b.Stats(); s.Sessions != 0 || s.Subscriptions != 0 || s.Retained != 1 {
		t.Errorf("after a restart: %+v", s)
	}
}

// TestTheProgramItselfIsGivenWills with whose they are.
func TestTheProgramItselfIsGivenWills(t *testing.T) {
	b, addr := start(t, broker.Limits{})
	in := listen(t, b, "will")
	c := dial(t, addr, mqttest.Options{ID: "dying", Will: &wire.Publish{Topic: "will", Payload: []byte("x"), Retain: true}})
	c.Close()
	if d := in.first(t, 1)[0]; d.Client != "dying" || !d.Retain || d.Stored || d.Received.IsZero() {
		t.Errorf("it is %+v", d)
	}
}
