package mqtt_test

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"event2mqtt/internal/event"
	"event2mqtt/internal/format"
	"event2mqtt/internal/health"
	"event2mqtt/internal/sinks"
	"event2mqtt/internal/sinks/mqtt"
	"event2mqtt/internal/testkit"
	"event2mqtt/internal/wire"
	"event2mqtt/test/mqttest"
)

// keeps waits until a broker keeps exactly these states, each "TOPIC=PAYLOAD"
// below event2mqtt, but for the will's.
func keeps(t testing.TB, addr string, want ...string) {
	t.Helper()
	slices.Sort(want)
	var got []string
	defer func() {
		if t.Failed() {
			t.Logf("it keeps %q, not %q", got, want)
		}
	}()
	testkit.Eventually(t, "the broker keeps "+strings.Join(want, " "), func() bool {
		kept, err := mqttest.Retained(addr, "#")
		if err != nil {
			return false
		}
		got = nil
		for _, topic := range slices.Sorted(maps.Keys(kept)) {
			if topic != "event2mqtt/mqtt" {
				got = append(got, strings.TrimPrefix(topic, "event2mqtt/")+"="+kept[topic])
			}
		}
		return slices.Equal(got, want)
	})
}

func report(t testing.TB, s *event.States, source string, pairs ...string) {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		testkit.OK(t, s.Report(source, event.State{Key: pairs[i], Payload: []byte(pairs[i+1])}))
	}
}

// kept runs a broker that goes on until the test ends, and returns its address.
func kept(t testing.TB) string {
	l := listen(t, "127.0.0.1:0")
	serve(t, l)
	return l.Addr().String()
}

func TestTheBrokerKeepsExactlyWhatIsLive(t *testing.T) {
	for _, qos := range []int{0, 1, 2} {
		t.Run(fmt.Sprint("QoS ", qos), func(t *testing.T) {
			t.Parallel()
			addr := kept(t)
			r := newRig(t, func(_ *mqtt.Config, p *mqtt.PublishConfig) { p.QoS = qos }, "mqtt://"+addr)
			report(t, r.states, "a", "bed/actual", "60", "job", "x", event.KeyAvailable, "online")
			report(t, r.states, "b", "bed/actual", "50")
			keeps(t, addr, "a/available=online", "a/bed/actual=60", "a/job=x", "b/bed/actual=50")
			r.states.Remove("a", "job")
			keeps(t, addr, "a/available=online", "a/bed/actual=60", "b/bed/actual=50")
			report(t, r.states, "a", "job", "y")
			keeps(t, addr, "a/available=online", "a/bed/actual=60", "a/job=y", "b/bed/actual=50")
			r.states.RemoveSource("a")
			keeps(t, addr, "b/bed/actual=50")
		})
	}
}

// TestWhatIsRemovedWhileTheBrokerIsAwayIsClearedWhenItComesBack.
func TestWhatIsRemovedWhileTheBrokerIsAwayIsClearedWhenItComesBack(t *testing.T) {
	addr := kept(t)
	way := listen(t, "127.0.0.1:0") // which can be cut
	t.Cleanup(func() { way.Close() })
	var cut atomic.Bool
	go relay(way, addr, &cut)
	r := newRig(t, nil, "mqtt://"+way.Addr().String())
	report(t, r.states, "a", "k", "1", "l", "1")
	keeps(t, addr, "a/k=1", "a/l=1")
	cut.Store(true)
	testkit.Eventually(t, "it is away", func() bool { return !r.up() })
	r.states.Remove("a", "k")
	cut.Store(false)
	keeps(t, addr, "a/l=1")
}

// relay passes connections on to a server until they are cut.
func relay(from net.Listener, to string, cut *atomic.Bool) {
	for {
		in, err := from.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", to)
		if err != nil {
			_ = in.Close()
			continue
		}
		pass := func(a, b net.Conn) {
			buf := make([]byte, 4096)
			for {
				_ = a.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
				n, err := a.Read(buf)
				if n > 0 {
					_, _ = b.Write(buf[:n])
				}
				if timeout, ok := err.(net.Error); cut.Load() || err != nil && !(ok && timeout.Timeout()) {
					_ = a.Close()
					_ = b.Close()
					return
				}
			}
		}
		go pass(in, out)
		go pass(out, in)
	}
}

// TestWhatIsNotConfiguredAnyMoreIsClearedAfterARestart; what a source may yet
// report is kept until it has had its time.
func TestWhatIsNotConfiguredAnyMoreIsClearedAfterARestart(t *testing.T) {
	addr, dir := kept(t), t.TempDir()
	r := newRigIn(t, dir, event.NewStates(), nil, "mqtt://"+addr)
	report(t, r.states, "a", "k", "1", "l", "1", "m", "1", event.KeyAvailable, "online")
	testkit.OK(t, r.states.Report("a", event.State{Key: "own", Payload: []byte("1"), Topic: "own/topic"}))
	report(t, r.states, "b", "k", "1", event.KeyAvailable, "online")
	keeps(t, addr, "a/available=online", "a/k=1", "a/l=1", "a/m=1", "own/topic=1", "b/available=online", "b/k=1")
	r.stop()

	states := event.NewStates()
	states.Expect("a", 0)
	newRigIn(t, dir, states, nil, "mqtt://"+addr)
	keeps(t, addr, "a/available=online", "a/k=1", "a/l=1", "a/m=1", "own/topic=1") // b went at once
	report(t, states, "a", "k", "2")
	states.Remove("a", "m")
	keeps(t, addr, "a/available=online", "a/k=2", "a/l=1", "own/topic=1")
	report(t, states, "a", event.KeyAvailable, "online")
	states.Settle("a")
	keeps(t, addr, "a/available=online", "a/k=2")
}

// TestNewTopicsLeaveNothingUnderOldOnes: base topic, template and will.
func TestNewTopicsLeaveNothingUnderOldOnes(t *testing.T) {
	addr, dir := kept(t), t.TempDir()
	run := func(change func(*mqtt.Config, *mqtt.PublishConfig)) *rig {
		states := event.NewStates()
		states.Expect("a", 0)
		report(t, states, "a", "k", "1")
		return newRigIn(t, dir, states, change, "mqtt://"+addr)
	}
	r := run(nil)
	report(t, r.states, "a", "only/once", "1")
	keeps(t, addr, "a/k=1", "a/only/once=1")
	p := r.publish
	p.StateTopic = "{base}/of/{source|snake}/{key}"
	testkit.OK(t, r.sink.Adjust(&mqtt.Options{Publish: p}))
	keeps(t, addr, "of/a/k=1", "of/a/only/once=1")
	r.stop()
	run(func(_ *mqtt.Config, p *mqtt.PublishConfig) { p.BaseTopic = "moved" })
	keeps(t, addr, "moved/a/k=1", "moved/mqtt=connected")
	if all, err := mqttest.Retained(addr, "event2mqtt/#"); err != nil || len(all) > 0 {
		t.Errorf("below the old base there is %q, %v", all, err)
	}
}

// TestAnotherBrokerIsRememberedUntilItComesBack.
func TestAnotherBrokerIsRememberedUntilItComesBack(t *testing.T) {
	one, two, dir := kept(t), kept(t), t.TempDir()
	run := func(addr string) *rig {
		return newRigIn(t, dir, event.NewStates(), nil, "mqtt://"+addr)
	}
	r := run(one)
	report(t, r.states, "a", "k", "1")
	keeps(t, one, "a/k=1")
	r.stop()
	r = run(two)
	report(t, r.states, "b", "k", "1")
	keeps(t, two, "b/k=1")
	keeps(t, one, "a/k=1")
	r.stop()
	r = run(one)
	keeps(t, one)
	keeps(t, two, "b/k=1")
	r.stop()
	run(two)
	keeps(t, two)
}

// TestATopicIsListedBeforeItIsPublished, so that a crash at any time leaves
// nothing that is not known.
func TestATopicIsListedBeforeItIsPublished(t *testing.T) {
	dir := t.TempDir()
	var missing atomic.Int64
	b := (&pickyBroker{publish: func(_ int, p *wire.Publish) verdict {
		text, err := os.ReadFile(filepath.Join(dir, "mqtt.retained.json"))
		if p.Retain && len(p.Payload) > 0 && (err != nil || !strings.Contains(string(text), `"`+p.Topic+`"`)) {
			missing.Add(1)
		}
		return take
	}}).start(t)
	r := newRigIn(t, dir, event.NewStates(), nil, b.url)
	for i := range 50 {
		report(t, r.states, "a", fmt.Sprint(i%20), fmt.Sprint(i))
	}
	testkit.Eventually(t, "all is there", func() bool { return b.took("event2mqtt/a/19") > 0 })
	if n := missing.Load(); n > 0 {
		t.Errorf("%d messages were retained before their topic was listed", n)
	}
}

// TestWhatCannotBeListedWaits; states with known topics go on, and it is said once.
func TestWhatCannotBeListedWaits(t *testing.T) {
	addr, parent := kept(t), t.TempDir()
	dir := filepath.Join(parent, "state")
	testkit.OK(t, os.Mkdir(dir, 0o700))
	r := newRigIn(t, dir, event.NewStates(), nil, "mqtt://"+addr)
	report(t, r.states, "a", "k", "1")
	keeps(t, addr, "a/k=1")
	testkit.OK(t, os.Rename(dir, dir+".away"))
	report(t, r.states, "a", "k", "2", "new", "1")
	keeps(t, addr, "a/k=2")
	testkit.Eventually(t, "it is tried again", func() bool { return strings.Contains(r.log.String(), "states with new topics are not published") })
	testkit.OK(t, os.Rename(dir+".away", dir))
	keeps(t, addr, "a/k=2", "a/new=1")
	if n := strings.Count(r.log.String(), "states with new topics"); n != 1 {
		t.Errorf("said %d times", n)
	}
}

// TestAListThatIsDamagedIsSetAside, with a word, and the rest goes on.
func TestAListThatIsDamagedIsSetAside(t *testing.T) {
	for name, text := range map[string]string{"garbage": "{", "no format": `{"brokers":[]}`, "null": `{"format":1,"brokers":[null,{"broker":"x","topics":null}]}`} {
		addr, dir := kept(t), t.TempDir()
		path := filepath.Join(dir, "mqtt.retained.json")
		testkit.OK(t, os.WriteFile(path, []byte(text), 0o600))
		r := newRigIn(t, dir, event.NewStates(), nil, "mqtt://"+addr)
		report(t, r.states, "a", "k", "1")
		keeps(t, addr, "a/k=1")
		_, err := os.Stat(path + ".damaged")
		if told := strings.Contains(r.log.String(), "set aside"); told != (name != "null") || told != (err == nil) {
			t.Errorf("%s: told %t, %v", name, told, err)
		}
	}
}

// TestAListOfANewerVersionIsLeftAlone: the sink does not run without it.
func TestAListOfANewerVersionIsLeftAlone(t *testing.T) {
	addr, dir := kept(t), t.TempDir()
	path := filepath.Join(dir, "mqtt.retained.json")
	const text = `{"format":2,"brokers":{"otherwise":1}}`
	testkit.OK(t, os.WriteFile(path, []byte(text), 0o600))
	c, p := mqtt.Defaults()
	c.URL = []string{"mqtt://" + addr}
	o := mqtt.Options{Common: sinks.Common{Name: "mqtt"}, Config: c, Publish: p}
	if err := o.CheckState(dir); !errors.Is(err, format.ErrNewer) || !strings.Contains(err.Error(), path) {
		t.Errorf("checked: %v", err)
	}
	sink, err := mqtt.New(o, sinks.Deps{StateDir: dir, Log: zerolog.Nop()})
	testkit.OK(t, err)
	if err := sink.Run(t.Context(), nil, event.NewStates(), func(health.Status) {}); !errors.Is(err, format.ErrNewer) {
		t.Errorf("run: %v", err)
	}
	if now, err := os.ReadFile(path); err != nil || string(now) != text {
		t.Errorf("it is now %s, %v", now, err)
	}
	if err := o.CheckState(t.TempDir()); err != nil {
		t.Errorf("none: %v", err)
	}
}

// TestOfTwoStatesWithOneTopicTheFirstIsPublished, and the other is told of once.
func TestOfTwoStatesWithOneTopicTheFirstIsPublished(t *testing.T) {
	addr := kept(t)
	r := newRig(t, func(_ *mqtt.Config, p *mqtt.PublishConfig) { p.StateInterval = 0 }, "mqtt://"+addr)
	report(t, r.states, "a", "b c", "first")
	keeps(t, addr, "a/b_c=first")
	for i := range 10 {
		report(t, r.states, "a", "b_c", fmt.Sprint(i))
	}
	report(t, r.states, "a", "b c", "second", "other", "1")
	keeps(t, addr, "a/b_c=second", "a/other=1")
	if n := strings.Count(r.log.String(), "has this topic already"); n != 1 {
		t.Errorf("said %d times", n)
	}
	r.states.Remove("a", "b c") // now there is room
	keeps(t, addr, "a/b_c=9", "a/other=1")
}

// TestSourcesCannotWriteTheProgramsOwnTopics, whatever they say.
func TestSourcesCannotWriteTheProgramsOwnTopics(t *testing.T) {
	addr := kept(t)
	r := newRig(t, func(_ *mqtt.Config, p *mqtt.PublishConfig) { p.StateTopic = "{base}/{source|lower}/{key|lower}" }, "mqtt://"+addr)
	report(t, r.states, event.OwnSource, "config", "own")
	own := []string{"mqtt", "bridge/config", "bridge/x", "event/x", "b/available", "b/set/pause", "b/result"}
	for i, topic := range own {
		testkit.OK(t, r.states.Report("a", event.State{Key: fmt.Sprint(i), Payload: []byte("forged"), Topic: "event2mqtt/" + topic}))
	}
	report(t, r.states, "Event", "x", "forged")
	report(t, r.states, "a", "Available", "forged", "good", "1")
	testkit.OK(t, r.states.Report("a", event.State{Key: "bad", Payload: []byte("forged"), Topic: "a/#"}))
	keeps(t, addr, "a/good=1", "bridge/config=own")
	if n := strings.Count(r.log.String(), "this state is not published"); n != len(own)+3 {
		t.Errorf("said %d times:\n%s", n, r.log)
	}
}

// TestAStateMaySpeakForTheWill, if its source says that it tells of presence: on
// connecting it is said at once, in place of the birth, and when the program dies
// the broker publishes the will. Without the state, the will's topic is as ever.
func TestAStateMaySpeakForTheWill(t *testing.T) {
	addr := kept(t)
	r := newRig(t, nil, "mqtt://"+addr)
	presence := func(want string) {
		t.Helper()
		testkit.Eventually(t, "the will's topic says "+want, func() bool {
			kept, err := mqttest.Retained(addr, "event2mqtt/mqtt")
			return err == nil && kept["event2mqtt/mqtt"] == want
		})
	}
	presence("connected")
	for _, says := range []string{"disconnected", "connected", "disconnected"} {
		testkit.OK(t, r.states.Report("a", event.State{Key: "mqtt", Topic: "event2mqtt/mqtt", Presence: true, Payload: []byte(says)}))
		presence(says)
	}
	// No other topic is to be had so, nor that one without saying so.
	testkit.OK(t, r.states.Report("b", event.State{Key: "x", Topic: "event2mqtt/bridge/x", Presence: true, Payload: []byte("forged")}, event.State{Key: "y", Topic: "event2mqtt/mqtt", Payload: []byte("forged")}))
	testkit.Eventually(t, "the others are refused", func() bool { return strings.Count(r.log.String(), "this topic is the program's own") == 2 })
	presence("disconnected")
}

// TestAStateThatChangesOftenCostsItsRate: the first change goes at once, the
// last value arrives, and between them there is a message for each interval.
func TestAStateThatChangesOftenCostsItsRate(t *testing.T) {
	const interval, changes = 200 * time.Millisecond, 50
	var sent atomic.Int64
	var newest atomic.Value
	b := (&pickyBroker{publish: func(_ int, p *wire.Publish) verdict {
		if strings.HasSuffix(p.Topic, "/bed") {
			sent.Add(1)
			newest.Store(string(p.Payload))
		}
		return take
	}}).start(t)
	r := newRig(t, func(_ *mqtt.Config, p *mqtt.PublishConfig) { p.StateInterval = interval }, b.url)
	testkit.Eventually(t, "it is connected", r.up)
	began := time.Now()
	report(t, r.states, "a", "bed", "0")
	testkit.Eventually(t, "the first goes", func() bool { return sent.Load() == 1 })
	first := time.Since(began)
	tick := time.NewTicker(20 * time.Millisecond) // 50 times a second
	defer tick.Stop()
	for i := range changes {
		<-tick.C
		report(t, r.states, "a", "bed", fmt.Sprint(i+1))
	}
	testkit.Eventually(t, "the last value is there", func() bool { return newest.Load() == fmt.Sprint(changes) })
	lasted := time.Since(began)
	if n, most := sent.Load(), int64(lasted/interval)+2; n > most {
		t.Errorf("%d messages in %s, at most %d are allowed", n, lasted, most)
	}
	t.Logf("%d messages for %d changes in %s; the first after %s", sent.Load(), changes+1, lasted, first)
}

// TestStatesDoNotWaitForEachOther: a broker that acknowledges none of them is
// sent many all the same, and events go on.
func TestStatesDoNotWaitForEachOther(t *testing.T) {
	const window = 64
	var got atomic.Int64
	b := (&pickyBroker{publish: func(n int, p *wire.Publish) verdict {
		if strings.HasPrefix(p.Topic, "event2mqtt/a/") && n == 1 {
			got.Add(1)
			return ignore
		}
		return take
	}}).start(t)
	r := newRig(t, func(c *mqtt.Config, _ *mqtt.PublishConfig) { c.Timeout = time.Minute }, b.url)
	testkit.Eventually(t, "it is connected", r.up)
	for i := range 2 * window {
		report(t, r.states, "a", fmt.Sprint(i), "1")
	}
	testkit.Eventually(t, "many are on their way", func() bool { return got.Load() == window })
	r.emit(10)
	r.delivered()
	if n := got.Load(); n != window {
		t.Errorf("%d are on their way", n)
	}
}

// TestTheLastStatesArriveWhenTheSinkEnds, however short before they changed.
func TestTheLastStatesArriveWhenTheSinkEnds(t *testing.T) {
	addr := kept(t)
	r := newRig(t, func(_ *mqtt.Config, p *mqtt.PublishConfig) { p.StateInterval = time.Hour }, "mqtt://"+addr)
	report(t, r.states, "a", event.KeyAvailable, "online", "k", "1")
	keeps(t, addr, "a/available=online", "a/k=1")
	report(t, r.states, "a", event.KeyAvailable, "offline")
	r.states.Remove("a", "k")
	r.stop()
	keeps(t, addr, "a/available=offline")
}

// TestEachBrokerOfAListTellsItsCauseOnce, however often they are tried.
func TestEachBrokerOfAListTellsItsCauseOnce(t *testing.T) {
	var brokers [2]*pickyBroker
	for i := range brokers {
		brokers[i] = (&pickyBroker{connect: func(int, *wire.Connect) verdict { return hangUp }}).start(t)
	}
	r := newRig(t, nil, brokers[0].url, brokers[1].url)
	testkit.Eventually(t, "both are tried again and again", func() bool { return min(brokers[0].connections(), brokers[1].connections()) > 4 })
	for _, b := range brokers {
		if n := strings.Count(r.log.String(), b.url); n != 1 {
			t.Errorf("%s was told of %d times:\n%s", b.url, n, r.log)
		}
	}
}

// BenchmarkAStateAmongMany: one of 1,000 states changes.
func BenchmarkAStateAmongMany(b *testing.B) {
	var got atomic.Int64
	broker := (&pickyBroker{publish: func(_ int, p *wire.Publish) verdict { got.Add(1); return take }}).start(b)
	r := newRig(b, func(_ *mqtt.Config, p *mqtt.PublishConfig) { p.StateInterval = 0 }, broker.url)
	for i := range 999 {
		report(b, r.states, "a", fmt.Sprint("temperature/", i), "1")
	}
	testkit.Eventually(b, "all are there", func() bool { return broker.took("event2mqtt/a/temperature/998") > 0 })
	n := got.Load()
	for i := 0; b.Loop(); i++ {
		report(b, r.states, "b", "k", fmt.Sprint(i))
		for got.Load() == n {
			time.Sleep(10 * time.Microsecond)
		}
		n++
	}
}

// TestEventsCannotTakeTheProgramsOwnTopics, where the template would let them:
// they are skipped, and kept. What a rule says without a placeholder is the
// operator's word.
func TestEventsCannotTakeTheProgramsOwnTopics(t *testing.T) {
	addr := kept(t)
	r := newRig(t, func(_ *mqtt.Config, p *mqtt.PublishConfig) { p.EventTopic = "{base}/{event}/{payload.at}" }, "mqtt://"+addr)
	s := subscriber(t, addr, "event2mqtt/+/#")
	r.post("bridge", `{"at":"config"}`, event.Route{})
	r.post("a", `{"at":"available"}`, event.Route{})
	r.post("a", `{"at":"result"}`, event.Route{Topic: "event2mqtt/a/result"})
	chosen := []string{"mqtt", "bridge/config", "a/available", "a/set/pause", "a/result"}
	for _, topic := range chosen { // as by a rule with a placeholder
		r.post("a", `{"at":"x"}`, event.Route{Topic: "event2mqtt/" + topic, Outside: true})
	}
	r.post("a", `{"at":"x"}`, event.Route{Topic: "event2mqtt/event/set", Outside: true})
	r.post("event", `{"at":"x"}`, event.Route{})
	r.delivered()
	var got []string
	for len(got) < 3 {
		if topic, _, _ := next(t, s); topic != "event2mqtt/mqtt" {
			got = append(got, topic)
		}
	}
	want, skipped := []string{"event2mqtt/a/result", "event2mqtt/event/set", "event2mqtt/event/x"}, 2+len(chosen)
	if !slices.Equal(got, want) || r.sink.Skipped() != uint64(skipped) || len(r.kept()) != skipped {
		t.Errorf("got %q, %d skipped, %d kept", got, r.sink.Skipped(), len(r.kept()))
	}
}

// BenchmarkEventsBesideStates: 200 states that change 50 times a second each
// take nothing from events.
func BenchmarkEventsBesideStates(b *testing.B) {
	for _, busy := range []bool{false, true} {
		b.Run(fmt.Sprint("states ", busy), func(b *testing.B) {
			r := newRig(b, nil, "mqtt://"+kept(b))
			testkit.Eventually(b, "it is connected", r.up)
			stop := make(chan struct{})
			var changing sync.WaitGroup
			if busy {
				changing.Go(func() {
					tick := time.NewTicker(20 * time.Millisecond)
					defer tick.Stop()
					for i := 0; ; i++ {
						for k := range 200 {
							report(b, r.states, "a", fmt.Sprint("temperature/", k), fmt.Sprint(i))
						}
						select {
						case <-tick.C:
						case <-stop:
							return
						}
					}
				})
			}
			for b.Loop() {
				r.emit(100)
				r.delivered()
			}
			b.ReportMetric(100*float64(b.N)/b.Elapsed().Seconds(), "events/s")
			close(stop)
			changing.Wait()
		})
	}
}

// TestASinkSaysWhatItsBrokerHas: all of a source's states as they are, and no
// others of it; nothing without a connection.
func TestASinkSaysWhatItsBrokerHas(t *testing.T) {
	addr := kept(t)
	r := newRig(t, func(_ *mqtt.Config, p *mqtt.PublishConfig) { p.QoS = 0 }, "mqtt://"+addr)
	const source = event.DiscoverySource
	device := func(topic, payload string) event.State {
		return event.State{Key: "device", Topic: topic, Payload: []byte(payload)}
	}
	s := subscriber(t, addr, "homeassistant/#")
	testkit.OK(t, r.states.Report(source, device("homeassistant/device/a/config", "{}")))
	has := func() bool { return r.sink.Has(source) }
	testkit.Eventually(t, "the broker has it", has)
	for i := range 20 { // each at once, though it is not to be published more often than that
		payload := fmt.Sprintf(`{"n":%d}`, i)
		testkit.OK(t, r.states.Report(source, device("homeassistant/device/a/config", payload)))
		testkit.Eventually(t, "the broker has the next", has)
	}
	for i := -1; i < 20; i++ { // none was replaced before it was there
		want := fmt.Sprintf(`{"n":%d}`, i)
		if i < 0 {
			want = "{}"
		}
		if _, payload, _ := next(t, s); payload != want {
			t.Fatalf("the broker had %s, not %s", payload, want)
		}
	}
	testkit.OK(t, r.states.Report(source, device("ha/device/a/config", "{}")))
	testkit.Eventually(t, "it has moved", has)
	r.states.Remove(source, "device")
	testkit.Eventually(t, "the broker has no more of it", has)
	keeps(t, addr)
	away := newRig(t, nil, "mqtt://127.0.0.1:1")
	if away.sink.Has(source) {
		t.Error("a broker that is away has everything")
	}
}
