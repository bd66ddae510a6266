package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"event2mqtt/internal/bridge"
	"event2mqtt/internal/event"
	"event2mqtt/internal/sources"
	"event2mqtt/internal/testkit"
	"event2mqtt/test/mqttest"
)

// This file gives commands with mosquitto_pub, through the bundled broker and
// an external one. The program runs in this process, with a source that needs no
// printer.

// robotOptions are those of a source that can be told what to do.
type robotOptions struct {
	sources.Common   `koanf:",squash"`
	sources.Commands `koanf:",squash"`
}

func (*robotOptions) Check() error                               { return nil }
func (*robotOptions) Exclusive() bool                            { return false }
func (*robotOptions) Build(sources.Deps) (sources.Source, error) { return robot{}, nil }

type robot struct{}

func (robot) Run(ctx context.Context, out sources.Output) error {
	out.Ready()
	<-ctx.Done()
	return nil
}

func (robot) Do(_ context.Context, c event.Command) ([]byte, error) {
	return fmt.Appendf(nil, "did %s", c.Name), nil
}

// runRobot runs a configuration with a robot until the test ends.
func runRobot(t *testing.T, yaml string) *testkit.Log {
	t.Helper()
	file, state, log := filepath.Join(t.TempDir(), "config.yaml"), t.TempDir(), &testkit.Log{}
	yaml += fmt.Sprintf("http: {listen: \"127.0.0.1:%d\"}\nsources:\n  - {name: robot, type: robot, commands: [wave]}\n", freePort(t))
	if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	types := bridge.BuiltIn()
	types.Sources = append(types.Sources, sources.Type{Name: "robot", Options: func() sources.Options { return &robotOptions{} }})
	plan, err := types.Load(file, nil, state)
	if err != nil {
		t.Fatal(err)
	}
	b := bridge.New(bridge.Options{Plan: plan, StateDir: state, Log: zerolog.New(log)})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := b.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
		if t.Failed() {
			t.Logf("its log:\n%s", log)
		}
	})
	return log
}

// give publishes with mosquitto_pub.
func give(t *testing.T, addr string, more ...string) {
	t.Helper()
	host, port, _ := strings.Cut(addr, ":")
	cmd := exec.Command(need(t, "mosquitto_pub"), append([]string{"-h", host, "-p", port, "-i", "phone", "-q", "1"}, more...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("mosquitto_pub: %v: %s", err, out)
	}
}

// hear returns what is published to any of some filters.
func hear(t *testing.T, addr string, filters ...string) func() string {
	t.Helper()
	c, err := mqttest.Dial(addr, mqttest.Options{ID: "listener"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	for _, filter := range filters {
		if _, err := c.Subscribe(filter, 0); err != nil {
			t.Fatal(err)
		}
	}
	_ = c.SetDeadline(time.Now().Add(mqttest.Patience))
	return func() string {
		t.Helper()
		m, err := c.Next()
		if err != nil {
			t.Fatal(err)
		}
		return m.Topic + " " + string(m.Payload)
	}
}

// giveAll gives what must be ignored, and then what must not; of all that only
// one command comes back. known is whether the broker tells who gave it.
func giveAll(t *testing.T, addr string, known bool) {
	t.Helper()
	next := hear(t, addr, "event2mqtt/robot/result", "event2mqtt/event/#")
	give(t, addr, "-t", "event2mqtt/robot/set/jump", "-m", `{"id":"bad"}`)
	got := next()
	for strings.Contains(got, "awaited") || !strings.Contains(got, `"id"`) { // of awaitWave
		got = next()
	}
	if !strings.HasPrefix(got, "event2mqtt/robot/result {") || !strings.Contains(got, `"command":"jump","id":"bad","ok":false`) {
		t.Errorf("what is not allowed is answered with %s", got)
	}
	give(t, addr, "-t", "event2mqtt/robot/set/wave", "-m", fmt.Sprintf(`{"id":"bad","timestamp":%d}`, time.Now().Add(-time.Minute).Unix()))
	give(t, addr, "-t", "event2mqtt/robot/set/wave", "-m", `{"id":"42"}`)
	for _, want := range []string{"event2mqtt/robot/result {", "event2mqtt/event/Command {"} {
		got := next()
		for strings.Contains(got, "awaited") || !strings.Contains(got, `"id"`) { // of awaitWave
			got = next()
		}
		for _, part := range []string{want, `"command":"wave"`, `"id":"42"`, `"ok":true`} {
			if !strings.Contains(got, part) {
				t.Errorf("%s lacks %s", got, part)
			}
		}
		if strings.Contains(got, `"who":{"client":"phone"}`) != known {
			t.Errorf("who: %s", got)
		}
	}
}

// TestACommandOfMosquittoPubReachesTheSource; the retained, the stale and the
// not allowed do not.
func TestACommandOfMosquittoPubReachesTheSource(t *testing.T) {
	t.Run("bundled", func(t *testing.T) {
		addr := fmt.Sprintf("127.0.0.1:%d", freePort(t))
		log := runRobot(t, fmt.Sprintf("broker: {listen: %q}\n", addr))
		awaitWave(t, addr)
		give(t, addr, "-t", "event2mqtt/robot/set/wave", "-r", "-m", "x")
		giveAll(t, addr, true)
		expectIgnored(t, log)
	})
	t.Run("external", func(t *testing.T) {
		m := mosquitto(t, "")
		m.start()
		give(t, m.addr, "-t", "event2mqtt/robot/set/wave", "-r", "-m", "x") // before it comes
		log := runRobot(t, fmt.Sprintf("mqtt: {url: \"mqtt://%s\"}\n", m.addr))
		awaitWave(t, m.addr)
		giveAll(t, m.addr, false)
		expectIgnored(t, log)
	})
}

func expectIgnored(t *testing.T, log *testkit.Log) {
	t.Helper()
	for _, why := range []string{"does not allow it", "it is retained", "it is older than 10s"} {
		if n := strings.Count(log.String(), why); n != 1 {
			t.Errorf("the log says %d times that %s:\n%s", n, why, log)
		}
	}
}

// awaitWave waves until that is answered.
func awaitWave(t *testing.T, addr string) {
	t.Helper()
	testkit.Eventually(t, "there is a broker", func() bool {
		c, err := mqttest.Dial(addr, mqttest.Options{ID: "waiter"})
		if err != nil {
			return false
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(time.Second))
		if _, err := c.Subscribe("event2mqtt/event/Command", 0); err != nil { // it comes behind the answer
			return false
		}
		give(t, addr, "-t", "event2mqtt/robot/set/wave", "-m", "awaited")
		m, err := c.Next()
		return err == nil && bytes.Contains(m.Payload, []byte("awaited"))
	})
}

// TestCommandsAreTakenAgainWhenAKilledBrokerIsBack, and not those that were
// given while nobody listened.
func TestCommandsAreTakenAgainWhenAKilledBrokerIsBack(t *testing.T) {
	m := mosquitto(t, "persistence true\n")
	m.start()
	runRobot(t, fmt.Sprintf("mqtt: {url: \"mqtt://%s\"}\n", m.addr))
	awaitWave(t, m.addr)
	_ = m.cmd.Process.Signal(syscall.SIGKILL)
	_ = m.cmd.Wait()
	m.cmd = nil
	m.start()
	awaitWave(t, m.addr)
}
