package bridge

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"event2mqtt/internal/event"
	"event2mqtt/internal/health"
	"event2mqtt/internal/sources"
	"event2mqtt/internal/testkit"
	"event2mqtt/test/mqttest"
)

// things are sources for tests of states, by name.
type things struct {
	broken atomic.Bool // they cannot start

	mu  sync.Mutex
	now map[string]*thing
}

// types are the types of sources there are with them: they stand in for tail,
// since the log knows all parts by name.
func (s *things) types() Types {
	s.now = map[string]*thing{}
	types := BuiltIn()
	types.Sources = append(types.Sources, sources.Type{Name: "thing", Options: func() sources.Options { return &thingOptions{things: s} }})
	return types
}

func (s *things) at(name string) *thing {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now[name]
}

// thingOptions are a source that reports each of its keys with the value VALUE.
type thingOptions struct {
	sources.Common `koanf:",squash"`
	Keys           []string `koanf:"keys"`
	Value          string   `koanf:"value"`
	Back           []string `koanf:"back"` // keys that it takes back at once

	things *things
}

func (*thingOptions) Check() error    { return nil }
func (*thingOptions) Exclusive() bool { return false }
func (o *thingOptions) Build(sources.Deps) (sources.Source, error) {
	return &thing{options: o, fail: make(chan error)}, nil
}

type thing struct {
	options *thingOptions
	out     sources.Output
	fail    chan error
}

func (s *thing) Run(ctx context.Context, out sources.Output) error {
	if s.options.things.broken.Load() {
		return errors.New("broken")
	}
	out.Ready()
	for _, key := range s.options.Keys {
		out.Report(event.State{Key: key, Payload: []byte(s.options.Value)})
	}
	if len(s.options.Back) > 0 {
		out.Remove(s.options.Back...)
	}
	s.out = out
	all := s.options.things
	all.mu.Lock()
	all.now[s.options.Name] = s
	all.mu.Unlock()
	select {
	case err := <-s.fail:
		return err
	case <-ctx.Done():
		return nil
	}
}

// twoThings is a configuration of two sources with the same keys.
const twoThings = `
http: {listen: HTTP}
broker: {listen: MQTT}
sources:
  - {name: a, type: thing, keys: [bed/actual, job], value: "1"}
  - {name: b, type: thing, keys: [bed/actual, job], value: "2"}
`

var (
	oneThing = strings.Replace(twoThings, "  - {name: b, type: thing, keys: [bed/actual, job], value: \"2\"}\n", "", 1)
	ofA      = []string{"a/available=online", "a/bed/actual=1", "a/job=1"}
	ofBoth   = append(slices.Clone(ofA), "b/available=online", "b/bed/actual=2", "b/job=2")
)

// keeps waits until a broker keeps exactly these states of sources.
func keeps(t *testing.T, addr string, want ...string) {
	t.Helper()
	slices.Sort(want)
	var got []string
	defer func() {
		if t.Failed() {
			t.Logf("it keeps %q", got)
		}
	}()
	testkit.Eventually(t, fmt.Sprintf("the broker keeps %q", want), func() bool {
		kept, err := mqttest.Retained(addr, "event2mqtt/#")
		if err != nil {
			return false
		}
		got = nil
		for _, topic := range slices.Sorted(maps.Keys(kept)) {
			if topic != "event2mqtt/mqtt" && !strings.HasPrefix(topic, "event2mqtt/bridge/") { // the program's own
				got = append(got, strings.TrimPrefix(topic, "event2mqtt/")+"="+kept[topic])
			}
		}
		return slices.Equal(got, want)
	})
}

// statesRig runs a bridge with things, which settle after a while.
func statesRig(t *testing.T, yaml string, settle time.Duration) (*rig, *things) {
	all := &things{}
	h := newRigWith(t, yaml, t.TempDir(), all.types(), func(b *Bridge) { b.settle = settle })
	return h, all
}

func TestAReloadThatRemovesASourceClearsItsStates(t *testing.T) {
	h, _ := statesRig(t, twoThings, time.Hour)
	keeps(t, h.mqtt, ofBoth...)
	h.reload(oneThing)
	keeps(t, h.mqtt, ofA...)
	h.reload(twoThings)
	keeps(t, h.mqtt, ofBoth...)
	h.reload(strings.Replace(oneThing, "sources:", "publish: {state_topic: \"{base}/of/{source}/{key}\"}\nsources:", 1))
	keeps(t, h.mqtt, "a/available=online", "of/a/bed/actual=1", "of/a/job=1")
}

// TestASourceThatIsChangedLosesWhatItNoLongerReports, when it has had its time,
// and not before.
func TestASourceThatIsChangedLosesWhatItNoLongerReports(t *testing.T) {
	changed := strings.Replace(oneThing, "[bed/actual, job]", "[bed/actual, fan]", 1)
	for _, settle := range []time.Duration{time.Hour, time.Millisecond} {
		h, _ := statesRig(t, oneThing, settle)
		keeps(t, h.mqtt, ofA...)
		h.reload(changed)
		want := []string{"a/available=online", "a/bed/actual=1", "a/fan=1"}
		if settle == time.Hour {
			want = append(want, "a/job=1")
		}
		keeps(t, h.mqtt, want...)
	}
}

// TestAvailableFollowsASourcesHealth: online while it is up, offline while it
// waits, has failed, or is stopped.
func TestAvailableFollowsASourcesHealth(t *testing.T) {
	h, all := statesRig(t, oneThing, time.Hour)
	keeps(t, h.mqtt, ofA...)
	gone := append([]string{"a/available=offline"}, ofA[1:]...)
	for range 2 {
		all.at("a").out.Tell(health.Lacking("the printer is switched off"))
		keeps(t, h.mqtt, gone...)
		all.at("a").out.Tell(health.Running("connected"))
		keeps(t, h.mqtt, ofA...)
	}
	all.broken.Store(true)
	all.at("a").fail <- errors.New("broken")
	keeps(t, h.mqtt, gone...)
	all.broken.Store(false)
	keeps(t, h.mqtt, ofA...) // it was started again
	h.reload(strings.Replace(oneThing, `value: "1"`, `value: "3"`, 1))
	keeps(t, h.mqtt, "a/available=online", "a/bed/actual=3", "a/job=3")
}

// TestASourceReportsOnlyWhatIsItsOwn: keys that are the program's are refused,
// said once each, and not removed.
func TestASourceReportsOnlyWhatIsItsOwn(t *testing.T) {
	h, all := statesRig(t, oneThing, time.Hour)
	keeps(t, h.mqtt, ofA...)
	out := all.at("a").out
	for range 3 {
		out.Report(event.State{Key: "available", Payload: []byte("offline")}, event.State{Key: "set/x", Payload: []byte("1")}, event.State{Key: "fan", Payload: []byte("1"), Source: "b"})
		out.Report(event.State{Key: "large", Payload: make([]byte, 2<<20)})
		out.Report(event.State{Key: "config", Payload: []byte("forged"), Topic: "event2mqtt/bridge/config"})
	}
	keeps(t, h.mqtt, append(slices.Clone(ofA), "a/fan=1")...)
	out.Remove("available", "set/x")
	out.Remove("fan")
	keeps(t, h.mqtt, ofA...)
	out.Remove()
	keeps(t, h.mqtt, ofA[0])
	log := h.log.String()
	if n := strings.Count(log, "a state that a source reports is not published"); n != 3 {
		t.Errorf("said %d times:\n%s", n, log)
	}
	if n := strings.Count(log, "topic is the program's own"); n != 1 {
		t.Errorf("said %d times:\n%s", n, log)
	}
}

func TestNamesOfSourcesAreNotTheProgramsOwn(t *testing.T) {
	for names, want := range map[string]string{
		"event": "is taken", "mqtt": "is taken", "bridge": "is taken", "Event": "is taken",
		"a b,a_b": `"a_b" is a_b in topics, as is "a b"`, "a/b,a_b": "in topics",
		"events,a,b,A":                                "",
		"{base}/{source|lower}/{key}: Ab,ab":          `"ab" has the topics of "Ab": publish.state_topic is "{base}/{source|lower}/{key}"`,
		"{base}/{source|snake}/{key}: HTTP,http,ab":   `"http" has the topics of "HTTP"`,
		"{base}/{source|lower}/{key|lower}: Ab,Abc,b": "",
	} {
		yaml := "sources:\n"
		if at, rest, ok := strings.Cut(names, ": "); ok {
			names, yaml = rest, fmt.Sprintf("publish: {state_topic: %q}\n%s", at, yaml)
		}
		for name := range strings.SplitSeq(names, ",") {
			yaml += fmt.Sprintf("  - {name: %q, type: webhook}\n", name)
		}
		file := filepath.Join(t.TempDir(), "config.yaml")
		if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Load(file, nil, t.TempDir())
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", names, err)
		}
	}
}

// processVariable is set for TestStatesProcess: file, state folder.
const processVariable = "TEST_STATES_PROCESS"

// TestStatesProcess is the program that other tests kill.
func TestStatesProcess(t *testing.T) {
	given := os.Getenv(processVariable)
	if given == "" {
		t.Skip("runs as a process of another test")
	}
	file, state, _ := strings.Cut(given, "|")
	types := (&things{}).types()
	load := func() (*Plan, error) { return types.Load(file, nil, state) }
	plan, err := load()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { // it ends with the test that has started it
		_, _ = os.Stdin.Read(make([]byte, 1))
		cancel()
	}()
	if err := New(Options{Plan: plan, Load: load, StateDir: state, Log: zerolog.New(os.Stderr)}).Run(ctx); err != nil {
		t.Error(err)
	}
}

// TestAfterAKillTheBrokerKeepsWhatIsConfigured: after kill -9 and a start
// without one of two sources, with the bundled broker and with Mosquitto.
func TestAfterAKillTheBrokerKeepsWhatIsConfigured(t *testing.T) {
	for _, name := range []string{"bundled", "mosquitto"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, addr := t.TempDir(), testkit.FreeAddress(t)
			mqtt := "broker: {listen: MQTT}"
			if name == "mosquitto" {
				mosquitto(t, addr)
				mqtt = "mqtt: {url: \"mqtt://MQTT\"}"
			}
			run := func(yaml string) (kill, stop func()) {
				yaml = strings.NewReplacer("broker: {listen: MQTT}", strings.Replace(mqtt, "MQTT", addr, 1), "HTTP", testkit.FreeAddress(t)).Replace(yaml)
				file := filepath.Join(t.TempDir(), "config.yaml")
				if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
					t.Fatal(err)
				}
				return process(t, file, dir)
			}
			kill, _ := run(twoThings)
			keeps(t, addr, ofBoth...)
			kill()
			_, stop := run(oneThing)
			keeps(t, addr, ofA...)
			stop()
			kill, _ = run(twoThings)
			keeps(t, addr, ofBoth...)
			kill()
			_, stop = run(strings.Replace(oneThing, "sources:", "publish: {base_topic: moved}\nsources:", 1))
			keeps(t, addr)
			stop()
			if name == "bundled" {
				return // it has ended, too
			}
			testkit.Eventually(t, "after a clean stop the broker keeps what the program left", func() bool {
				kept, err := mqttest.Retained(addr, "#")
				return err == nil && kept["moved/a/available"] == "offline" && kept["moved/a/job"] == "1" && kept["moved/mqtt"] == "disconnected" && kept["event2mqtt/mqtt"] == ""
			})
		})
	}
}

// process runs this test's binary as a bridge. It is killed, or stopped, at the
// latest when the test ends.
func process(t *testing.T, file, state string) (kill, stop func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestStatesProcess$")
	cmd.Env = append(os.Environ(), processVariable+"="+file+"|"+state)
	log := &testkit.Log{}
	cmd.Stderr, cmd.Stdout = log, log
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	ended := sync.OnceFunc(func() { _ = cmd.Wait() })
	kill = func() { _ = cmd.Process.Kill(); ended() }
	stop = func() { _ = stdin.Close(); ended() }
	t.Cleanup(func() {
		kill()
		if t.Failed() {
			t.Logf("the log of a process:\n%s", log.String())
		}
	})
	return kill, stop
}

// mosquitto runs a Mosquitto until the test ends.
func mosquitto(t *testing.T, addr string) {
	t.Helper()
	path, err := exec.LookPath("mosquitto")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("mosquitto is not installed, and in CI it must be")
		}
		t.Skip("mosquitto is not installed")
	}
	_, port, _ := strings.Cut(addr, ":")
	config := filepath.Join(t.TempDir(), "mosquitto.conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, "listener %s 127.0.0.1\nallow_anonymous true\n", port), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "-c", config)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	testkit.Eventually(t, "mosquitto listens", func() bool {
		_, err := mqttest.Retained(addr, "#")
		return err == nil
	})
}
