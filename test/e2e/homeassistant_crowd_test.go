package e2e

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"event2mqtt/internal/testkit"
	"event2mqtt/test/mqttest"
)

// Many devices: 50 with 20 entities each, which are these values, the event and
// the last event.
const (
	crowdDevices = 50
	crowdValues  = 18
)

func crowdSources() string {
	var all, values strings.Builder
	for i := range crowdValues {
		fmt.Fprintf(&values, "      - {name: Value %d, kind: number, from: payload.v%d, unit: W, class: power}\n", i, i)
	}
	for i := range crowdDevices {
		fmt.Fprintf(&all, "  - name: crowd%02d\n    type: webhook\n    event: {names: {done: Finished}}\n    entities:\n%s", i, values.String())
	}
	return all.String()
}

// TestManyDevicesAreAnnouncedAtOnce in 5 s, which takes less than 4 MiB at rest.
func TestManyDevicesAreAnnouncedAtOnce(t *testing.T) {
	t.Parallel() // it waits for rest
	if _, err := os.Stat("/proc/self/status"); err != nil {
		absent(t, "there is no /proc here that tells what memory a process has")
	}
	addr := ownBroker(t)
	c, err := mqttest.Dial(addr, mqttest.Options{})
	testkit.OK(t, err)
	defer c.Close()
	_, err = c.Subscribe("homeassistant/device/+/config", 1)
	testkit.OK(t, err)
	yaml := "mqtt: {url: \"mqtt://" + addr + "\"}\npublish: {source_field: _source}\nsources:\n" + crowdSources()
	without := configure(t, "home_assistant: {discovery: false}\n"+yaml)
	without.start()
	with := configure(t, yaml)
	began := time.Now()
	with.start()
	up := time.Since(began)
	testkit.OK(t, c.SetReadDeadline(time.Now().Add(testkit.Patience)))
	for announced := map[string]bool{}; len(announced) < crowdDevices; {
		m, err := c.Next()
		if err != nil {
			t.Fatalf("%d devices were announced: %v", len(announced), err)
		}
		if strings.Contains(m.Topic, "_crowd") && bytes.Contains(m.Payload, []byte(`"value_17"`)) {
			announced[m.Topic] = true
		}
	}
	took := time.Since(began)
	t.Logf("%d devices with %d entities each were announced %.1f s after the program was started, and %.1f s after it answered", crowdDevices, crowdValues+2, took.Seconds(), (took - up).Seconds())
	if most := max(5*time.Second, 10*up); took > most { // a slow machine takes long to start, too
		t.Errorf("that took longer than %s", most)
	}
	// What counts is what stays: at rest the program gives back what it has no use for.
	busy := [2]int64{with.memory(), without.memory()}
	testkit.Eventually(t, "both have come to rest", func() bool {
		now := [2]int64{with.memory(), without.memory()}
		busy[0], busy[1] = max(busy[0], now[0]), max(busy[1], now[1])
		return now[0] < busy[0]-1<<20 && now[1] < busy[1]-1<<20
	})
	if takes := with.memory() - without.memory(); takes >= 4<<20 {
		t.Errorf("what was announced takes %.1f MiB, want less than 4", float64(takes)/(1<<20))
	}
	t.Logf("at rest the program has %.1f MiB of its own, and without discovery %.1f", float64(with.memory())/(1<<20), float64(without.memory())/(1<<20))
}

// memory is what the program has now that is not of its file, in bytes.
func (p *program) memory() int64 {
	p.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	testkit.OK(p.t, err)
	_, rest, _ := strings.Cut(string(text), "RssAnon:")
	kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	testkit.OK(p.t, err)
	return kib << 10
}

// crowd: Home Assistant keeps up with 50 devices with 20 entities each.
func (h *house) crowd() {
	h.t.Helper()
	want := map[string]string{}
	for i := range crowdDevices {
		for j := range crowdValues {
			want[fmt.Sprintf("crowd%02d/value_%d", i, j)] = "unknown"
		}
	}
	h.bridge.stop()
	testkit.OK(h.t, os.WriteFile(h.bridge.config, []byte("http: {listen: \""+h.bridge.http+"\"}\n"+h.yaml+h.printerSource("mk4")+washer+crowdSources()), 0o600))
	h.bridge.start()
	h.ha.expect(h.bridge, "Home Assistant has all of them", 4*h.back(), want)
	for i := range crowdDevices {
		h.bridge.hook(fmt.Sprintf("crowd%02d", i), fmt.Sprintf(`{"event":"done","v0":%d,"v17":%d}`, i, i+1))
		want[fmt.Sprintf("crowd%02d/value_0", i)] = fmt.Sprintf("~%d", i)
		want[fmt.Sprintf("crowd%02d/value_17", i)] = fmt.Sprintf("~%d", i+1)
		want[fmt.Sprintf("crowd%02d/last_event", i)] = "Finished"
	}
	h.ha.expect(h.bridge, "and their values", 4*h.back(), want)
	h.ha.restart()
	h.ha.expect(h.bridge, "and after a restart", 4*h.back(), want)
}
