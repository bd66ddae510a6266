package mqtt_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"event2mqtt/internal/broker"
	"event2mqtt/internal/event"
	"event2mqtt/internal/health"
	"event2mqtt/internal/refused"
	"event2mqtt/internal/sinks"
	"event2mqtt/internal/sinks/mqtt"
	"event2mqtt/internal/testkit"
	"event2mqtt/internal/wire"
	"event2mqtt/test/mqttest"
)

// TestAnEventThatIsNeverTakenIsSkippedAndKept: whatever the broker has against
// it, those behind it arrive, in order, and it is told, counted and kept.
func TestAnEventThatIsNeverTakenIsSkippedAndKept(t *testing.T) {
	two := byte(2)
	named := func(name string, v verdict) func(int, *wire.Publish) verdict {
		return func(_ int, p *wire.Publish) verdict {
			if strings.HasSuffix(p.Topic, name) {
				return v
			}
			return take
		}
	}
	for _, c := range []struct {
		name    string
		publish func(int, *wire.Publish) verdict
		config  func(*mqtt.Config, *mqtt.PublishConfig)
		payload string
		route   event.Route
		says    string
	}{
		{name: "forbidden topic", publish: named("bad", hangUp), says: "the user may not publish to event2mqtt/event/bad"},
		{name: "too large", payload: `{"p":"` + strings.Repeat("x", 5000) + `"}`, says: "largest packet is smaller", publish: func(_ int, p *wire.Publish) verdict {
			if len(p.Payload) > 4000 {
				return hangUp
			}
			return take
		}},
		{name: "QoS 2", route: event.Route{QoS: &two}, says: "does not take QoS 2", publish: func(_ int, p *wire.Publish) verdict {
			if p.QoS == 2 {
				return hangUp
			}
			return take
		}},
		{name: "retained", route: event.Route{Topic: "r", Retain: true}, says: "takes no retained messages", publish: named("r", hangUp)},
		{name: "never acknowledged", publish: named("bad", ignore), says: "never acknowledges it", config: func(c *mqtt.Config, _ *mqtt.PublishConfig) { c.Timeout = 200 * time.Millisecond }},
		{name: "without a will", publish: named("bad", hangUp), says: "also alone", config: func(c *mqtt.Config, _ *mqtt.PublishConfig) { c.Will.Enabled = false }},
		{name: "QoS 0 by a rule", route: event.Route{QoS: new(byte)}, publish: func(int, *wire.Publish) verdict { return take }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := (&pickyBroker{publish: c.publish}).start(t)
			r := newRig(t, c.config, b.url)
			if c.payload == "" {
				c.payload = "{}"
			}
			r.post("before", "{}", event.Route{})
			r.post("bad", c.payload, c.route)
			r.post("after1", "{}", event.Route{})
			r.post("after2", "{}", event.Route{})
			r.delivered()
			if c.says == "" {
				return
			}
			if got := b.events(); !slices.Equal(got, []string{"before", "after1", "after2"}) {
				t.Errorf("arrived: %q", got)
			}
			kept := r.kept()
			if len(kept) != 1 || kept[0].Name != "bad" || kept[0].ID != r.journal.ID(2) || !strings.Contains(kept[0].Reason, c.says) {
				t.Errorf("kept: %+v", kept)
			}
			if n := strings.Count(r.log.String(), `"level":"error","event":"bad","source":"s"`); n != 1 || r.sink.Skipped() != 1 {
				t.Errorf("said %d times, counted %d:\n%s", n, r.sink.Skipped(), r.log)
			}
			all, err := r.refused.Get(kept[0].ID)
			testkit.OK(t, err)
			whole := all[0]
			if string(whole.Payload) != c.payload || whole.Route.Retain != c.route.Retain || whole.Route.Topic != c.route.Topic {
				t.Errorf("kept %+v", whole)
			}
			testkit.Eventually(t, "it is connected, and shows what was skipped", func() bool {
				h := r.health.Report()
				return h.Level == health.Up && strings.Contains(h.Detail, "1 events were refused")
			})
		})
	}
}

// TestPoisonAmongManyLosesNothingElse: a real broker with small packets closes
// connections on which a window full of events is on its way.
func TestPoisonAmongManyLosesNothingElse(t *testing.T) {
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
	s := subscriber(t, l.Addr().String(), "event2mqtt/event/#")
	r := newRig(t, nil, "mqtt://"+l.Addr().String())
	const n = 300
	for i := range n {
		payload := "{}"
		if i%100 == 50 {
			payload = `{"p":"` + strings.Repeat("x", 8000) + `"}`
		}
		r.post(fmt.Sprint("e", i), payload, event.Route{})
	}
	for want := 0; want < n; {
		if want%100 == 50 {
			want++
			continue
		}
		topic, _, _ := next(t, s)
		var got int
		_, err := fmt.Sscanf(topic, "event2mqtt/event/e%d", &got)
		testkit.OK(t, err)
		if got > want {
			t.Fatalf("event %d came before %d", got, want)
		}
		if got == want {
			want++
		}
	}
	r.delivered()
	if kept := r.kept(); len(kept) != 3 || r.sink.Skipped() != 3 {
		t.Errorf("kept %v", kept)
	}
}

// TestABrokerInTroubleCausesNoSkip: connections end for many reasons that are
// not the event's fault. What was stored then arrives once they are over.
func TestABrokerInTroubleCausesNoSkip(t *testing.T) {
	const trouble = 6 // connections
	for name, make := range map[string]func() *pickyBroker{
		"it closes before CONNACK": func() *pickyBroker {
			return &pickyBroker{connect: func(n int, _ *wire.Connect) verdict { return []verdict{take, hangUp}[min(1, max(0, trouble-n))] }}
		},
		"it takes CONNECT and hangs up": func() *pickyBroker {
			return &pickyBroker{connect: func(n int, _ *wire.Connect) verdict { return []verdict{take, ignore}[min(1, max(0, trouble-n))] }}
		},
		"it takes nothing at all": func() *pickyBroker {
			return &pickyBroker{publish: func(n int, _ *wire.Publish) verdict { return []verdict{take, hangUp}[min(1, max(0, trouble-n))] }}
		},
		"it takes what tells that the bridge is there, every second time": func() *pickyBroker {
			return &pickyBroker{publish: func(n int, p *wire.Publish) verdict {
				if n < trouble && (n%2 == 0 || strings.Contains(p.Topic, "/event/") && n%4 == 1) {
					return hangUp
				}
				return take
			}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := make().start(t)
			r := newRig(t, nil, b.url)
			r.emit(5)
			testkit.Eventually(t, "there was trouble", func() bool { return b.connections() >= trouble || r.cursor.Lag() == 0 })
			r.delivered()
			if r.sink.Skipped() != 0 || len(r.kept()) != 0 {
				t.Errorf("skipped %d:\n%s", r.sink.Skipped(), r.log)
			}
		})
	}
}

// TestATwinCausesNoSkip: another client with the same id ends every connection
// after a moment, while large events are on their way.
func TestATwinCausesNoSkip(t *testing.T) {
	t.Parallel()
	l := listen(t, "127.0.0.1:0")
	addr := l.Addr().String()
	serve(t, l)
	r := newRig(t, nil, "mqtt://"+addr)
	testkit.Eventually(t, "it is connected", func() bool { return r.up() })
	for range 5 {
		r.emit(20)
		twin, err := mqttest.Dial(addr, mqttest.Options{ID: "sink"})
		testkit.OK(t, err)
		_, _, _ = twin.Reader.Next() // until the sink is back
		twin.Close()
	}
	r.delivered()
	if r.sink.Skipped() != 0 {
		t.Errorf("skipped %d:\n%s", r.sink.Skipped(), r.log)
	}
}

// TestWhatCannotBeKeptIsNotSkipped: an event leaves the journal only when it is
// on disk elsewhere.
func TestWhatCannotBeKeptIsNotSkipped(t *testing.T) {
	t.Parallel()
	b := (&pickyBroker{publish: func(_ int, p *wire.Publish) verdict {
		if strings.HasSuffix(p.Topic, "bad") {
			return hangUp
		}
		return take
	}}).start(t)
	r := newRig(t, func(c *mqtt.Config, _ *mqtt.PublishConfig) { c.ClientID = "first" }, b.url)
	r.stop()
	var full atomic.Bool
	full.Store(true)
	var tries atomic.Int64
	c, p := mqtt.Defaults()
	c.URL, c.ClientID = []string{b.url}, "second"
	sink, err := mqtt.New(mqtt.Options{Config: c, Publish: p, Calm: 10 * time.Millisecond}, sinks.Deps{ID: r.journal.ID, Log: zerolog.New(r.log), Refused: keeper(func(refused.Event) error {
		tries.Add(1)
		if full.Load() {
			return errors.New("no space left on device")
		}
		return nil
	})})
	testkit.OK(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = sink.Run(ctx, r.cursor, r.states, func(health.Status) {}) })
	defer wg.Wait()
	defer cancel()
	r.post("bad", "{}", event.Route{})
	r.post("after", "{}", event.Route{})
	testkit.Eventually(t, "it was tried twice", func() bool { return tries.Load() >= 2 })
	if lag := r.cursor.Lag(); lag != 2 || sink.Skipped() != 0 {
		t.Errorf("%d events wait, %d were skipped", lag, sink.Skipped())
	}
	full.Store(false)
	r.delivered()
}

// TestAFolderThatCannotBeWrittenIsNamed, once in the log and in the health for
// as long as it lasts, and the event is skipped as soon as it can be written.
func TestAFolderThatCannotBeWrittenIsNamed(t *testing.T) {
	for name, bad := range map[string]string{"refused by the broker": "bad", "no topic can be made": strings.Repeat("n", 70_000)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := (&pickyBroker{publish: func(_ int, p *wire.Publish) verdict {
				if len(p.Payload) > 3000 {
					return hangUp
				}
				return take
			}}).start(t)
			r := newRig(t, nil, b.url)
			testkit.OK(t, os.RemoveAll(r.dir))
			testkit.OK(t, os.WriteFile(r.dir, []byte("a file"), 0o600))
			r.post("before", "{}", event.Route{})
			r.post(bad, `{"p":"`+strings.Repeat("x", 5000)+`"}`, event.Route{})
			r.post("after", "{}", event.Route{})
			named := func() bool {
				h := r.health.Report()
				return h.Level != health.Up && strings.Contains(h.Detail, r.dir) && strings.Contains(h.Detail, "not a directory")
			}
			testkit.Eventually(t, "the health names the folder", named)
			n := b.connections()
			testkit.Eventually(t, "it is tried again", func() bool { return b.connections() >= n+2 })
			testkit.Eventually(t, "what is before it is delivered", func() bool { return r.cursor.Lag() == 2 })
			if !named() || r.sink.Skipped() != 0 {
				t.Errorf("health %+v, %d events wait, %d were skipped", r.health.Report(), r.cursor.Lag(), r.sink.Skipped())
			}
			testkit.OK(t, os.Remove(r.dir))
			r.delivered()
			testkit.Eventually(t, "it is connected", func() bool { return r.up() })
			if n := strings.Count(r.log.String(), "mkdir "+r.dir); n != 1 {
				t.Errorf("the folder is named %d times", n)
			}
			if got := b.events(); !slices.Equal(got, []string{"before", "after"}) || len(r.kept()) != 1 {
				t.Errorf("arrived %q, kept %+v", got, r.kept())
			}
		})
	}
}

// TestOneRefusalTeachesOfTheNext: what is like an event that was refused for
// certain costs one careful connection.
func TestOneRefusalTeachesOfTheNext(t *testing.T) {
	for name, c := range lessonCases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := (&pickyBroker{publish: func(_ int, p *wire.Publish) verdict {
				if c.refuses(p) {
					return hangUp
				}
				return take
			}}).start(t)
			r := newRig(t, nil, b.url)
			const pairs = 10
			for i := range pairs {
				r.post("bad", c.payload, event.Route{})
				r.post(fmt.Sprint("good", i), "{}", event.Route{})
			}
			r.delivered()
			if got := b.events(); len(got) != pairs || r.sink.Skipped() != pairs {
				t.Errorf("arrived %q, skipped %d", got, r.sink.Skipped())
			}
			// Two make it doubtful, three prove the first, one each of the others,
			// and the last lasts; without a lesson it is three each.
			if n := b.connections(); n > 2*pairs {
				t.Errorf("that took %d connections", n)
			}
		})
	}
}

// TestALessonIsForgottenWhenTheBrokerTakesIt: from then on a broker in trouble
// causes no skip of such an event.
func TestALessonIsForgottenWhenTheBrokerTakesIt(t *testing.T) {
	for name, c := range lessonCases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var left atomic.Int64 // how often it refuses
			left.Store(1000)
			b := (&pickyBroker{publish: func(_ int, p *wire.Publish) verdict {
				if c.refuses(p) && left.Add(-1) >= 0 {
					return hangUp
				}
				return take
			}}).start(t)
			r := newRig(t, nil, b.url)
			r.post("bad", c.payload, event.Route{})
			r.delivered()
			for _, refusals := range []int64{0, 4} { // two on usual connections, two on careful ones
				left.Store(refusals)
				r.post("bad", c.payload, event.Route{})
				r.delivered()
			}
			if n := r.sink.Skipped(); n != 1 || b.took("event2mqtt/event/bad") != 2 {
				t.Errorf("skipped %d, taken %d", n, b.took("event2mqtt/event/bad"))
			}
		})
	}
}

var lessonCases = map[string]struct {
	payload string
	refuses func(*wire.Publish) bool
}{
	"topic": {"{}", func(p *wire.Publish) bool { return strings.HasSuffix(p.Topic, "/bad") }},
	"size":  {`"` + strings.Repeat("x", 5000) + `"`, func(p *wire.Publish) bool { return len(p.Payload) > 4000 }},
}

type keeper func(refused.Event) error

func (k keeper) Keep(e refused.Event) error { return k(e) }

// TestAStateThatIsNeverTakenIsSkippedUntilItChanges, and is told once.
func TestAStateThatIsNeverTakenIsSkippedUntilItChanges(t *testing.T) {
	for _, qos := range []int{0, 1} {
		t.Run(fmt.Sprint("QoS ", qos), func(t *testing.T) {
			t.Parallel()
			b := (&pickyBroker{publish: func(_ int, p *wire.Publish) verdict {
				if len(p.Payload) > 1000 {
					return hangUp
				}
				return take
			}}).start(t)
			r := newRig(t, func(_ *mqtt.Config, p *mqtt.PublishConfig) { p.QoS = qos }, b.url)
			r.states.Report("s", event.State{Key: "large", Payload: make([]byte, 5000)}, event.State{Key: "good", Payload: []byte("1")})
			r.emit(10)
			testkit.Eventually(t, "it is told", func() bool { return strings.Contains(r.log.String(), "this state cannot be published") })
			r.emit(10)
			r.delivered()
			testkit.Eventually(t, "the other state is there", func() bool { return b.took("event2mqtt/s/good") > 0 })
			testkit.Eventually(t, "it is connected", func() bool { return r.up() })
			n := b.connections()
			r.states.Report("s", event.State{Key: "large", Payload: []byte("small now")})
			testkit.Eventually(t, "the state is there", func() bool { return b.took("event2mqtt/s/large") == 1 })
			if b.connections() != n {
				t.Errorf("%d connections ended meanwhile", b.connections()-n)
			}
			if told := strings.Count(r.log.String(), "this state cannot"); told != 1 || r.sink.Skipped() != 0 {
				t.Errorf("told %d times:\n%s", told, r.log)
			}
		})
	}
}

// TestAWillThatIsNotTakenIsLeftOut, and so is the message that belongs to it;
// events arrive all the same.
func TestAWillThatIsNotTakenIsLeftOut(t *testing.T) {
	for _, qos := range []int{0, 1} {
		t.Run(fmt.Sprint("QoS ", qos), func(t *testing.T) {
			t.Parallel()
			b := (&pickyBroker{
				connect: func(_ int, c *wire.Connect) verdict {
					if c.Will != nil && c.Will.Retain {
						return hangUp
					}
					return take
				},
				publish: func(_ int, p *wire.Publish) verdict {
					if p.Retain {
						return hangUp
					}
					return take
				},
			}).start(t)
			r := newRig(t, func(c *mqtt.Config, _ *mqtt.PublishConfig) { c.Will.QoS = qos }, b.url)
			r.emit(3)
			r.delivered()
			testkit.Eventually(t, "both are told", func() bool {
				return strings.Contains(r.log.String(), "if it is given a last will") && strings.Contains(r.log.String(), "the message that the bridge is there")
			})
			if r.sink.Skipped() != 0 {
				t.Errorf("skipped %d", r.sink.Skipped())
			}
		})
	}
}

// TestALargeEventComesThroughASlowNetwork, which takes several time-outs.
func TestALargeEventComesThroughASlowNetwork(t *testing.T) {
	t.Parallel()
	b := (&pickyBroker{slow: func(nc net.Conn) net.Conn { return &slowConn{nc} }}).start(t)
	r := newRig(t, func(c *mqtt.Config, _ *mqtt.PublishConfig) { c.Timeout = 300 * time.Millisecond }, b.url)
	r.post("large", `"`+strings.Repeat("x", 4<<20)+`"`, event.Route{})
	r.post("after", "{}", event.Route{})
	r.delivered()
	if got := b.events(); !slices.Equal(got, []string{"large", "after"}) || r.sink.Skipped() != 0 {
		t.Errorf("arrived %q, skipped %d:\n%s", got, r.sink.Skipped(), r.log)
	}
}

// slowConn reads 128 KiB in 20 ms.
type slowConn struct{ net.Conn }

func (c *slowConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p[:min(len(p), 16<<10)])
	time.Sleep(time.Duration(n) * 20 * time.Millisecond / (128 << 10))
	return n, err
}

// TestAPacketThatClaimsToBeHugeTakesNoMemory: the protocol allows 256 MiB.
func TestAPacketThatClaimsToBeHugeTakesNoMemory(t *testing.T) {
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
			_, _ = nc.Write([]byte{0x20, 2, 0, 0, 0x30, 0xff, 0xff, 0xff, 0x7f, 1, 2, 3})
			_, _, _ = reader.Next()
			_, _, _ = reader.Next()
			nc.Close()
		}
	})
	defer wg.Wait()
	defer l.Close()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	r := newRig(t, nil, "mqtt://"+l.Addr().String())
	testkit.Eventually(t, "the log says it", func() bool { return strings.Contains(r.log.String(), "longer than the 16384 bytes") })
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 64<<20 {
		t.Errorf("%d MiB were allocated", grown>>20)
	}
	r.stop()
}

// TestStoppingDoesNotWaitForASlowTransfer.
func TestStoppingDoesNotWaitForASlowTransfer(t *testing.T) {
	t.Parallel()
	stuck := make(chan struct{})
	b := (&pickyBroker{slow: func(nc net.Conn) net.Conn { return &stuckConn{nc, stuck, 64 << 10} }}).start(t)
	defer close(stuck)
	r := newRig(t, func(c *mqtt.Config, _ *mqtt.PublishConfig) { c.Timeout = time.Hour }, b.url)
	for range 4 {
		r.post("large", `"`+strings.Repeat("x", 4<<20)+`"`, event.Route{})
	}
	testkit.Eventually(t, "it is connected", func() bool { return r.up() })
	began := time.Now()
	r.stop()
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("took %s", took)
	}
}

// stuckConn reads some bytes, and then no more.
type stuckConn struct {
	net.Conn
	stuck chan struct{}
	left  int
}

func (c *stuckConn) Read(p []byte) (int, error) {
	if c.left <= 0 {
		<-c.stuck
	}
	n, err := c.Conn.Read(p[:min(len(p), 1<<10)])
	c.left -= n
	return n, err
}

// TestABrokerThatTakesNothingRetainedTeachesOfTheNext: two states prove it, and
// each more costs one careful connection, whatever its topic is.
func TestABrokerThatTakesNothingRetainedTeachesOfTheNext(t *testing.T) {
	t.Parallel()
	b := (&pickyBroker{publish: func(_ int, p *wire.Publish) verdict {
		if p.Retain {
			return hangUp
		}
		return take
	}}).start(t)
	r := newRig(t, func(c *mqtt.Config, _ *mqtt.PublishConfig) { c.Will.Enabled = false }, b.url)
	const states = 10
	for i := range states {
		report(t, r.states, "s", fmt.Sprint("k", i), "1")
	}
	testkit.Eventually(t, "all are told of", func() bool { return strings.Count(r.log.String(), "this state cannot be published") == states })
	r.emit(3)
	r.delivered()
	// Two make it doubtful, three each prove the first two, one each of the
	// others, and the last lasts; without a lesson it is three each.
	if n := b.connections(); n > 2+6+states {
		t.Errorf("that took %d connections", n)
	}
}
