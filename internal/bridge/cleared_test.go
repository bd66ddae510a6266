package bridge

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"event2mqtt/internal/control"
	"event2mqtt/internal/testkit"
	"event2mqtt/test/mqttest"
)

// TestWhatAReloadClearsStaysAwayAfterAKill: the bundled broker has it on disk
// that a topic is cleared before that is forgotten, whichever change clears it,
// and also if nobody acknowledges states.
func TestWhatAReloadClearsStaysAwayAfterAKill(t *testing.T) {
	// What may wait to be saved waits for longer than the test lasts.
	base := strings.Replace(twoThings, "listen: MQTT", "listen: MQTT, save_interval: 1h", 1) + "home_assistant: {discovery: false}\n"
	section := func(yaml string) func(string) string { return func(s string) string { return s + yaml } }
	replace := func(old, fresh string) func(string) string {
		return func(s string) string { return strings.Replace(s, old, fresh, 1) }
	}
	const b = "  - {name: b, type: thing, keys: [bed/actual, job], value: \"2\"}\n"
	own := func(base string) []string {
		return []string{base + "/bridge/config", base + "/bridge/info", base + "/bridge/state", base + "/mqtt"}
	}
	of := func(base, source string) []string {
		return []string{base + "/" + source + "/available", base + "/" + source + "/bed/actual", base + "/" + source + "/job"}
	}
	const usual = "event2mqtt"
	for name, c := range map[string]struct {
		before, edit func(string) string
		want         []string
	}{
		"a source is removed":           {edit: replace(b, ""), want: slices.Concat(own(usual), of(usual, "a"))},
		"a source is removed, at QoS 0": {before: section("publish: {qos: 0}\n"), edit: replace(b, ""), want: slices.Concat(own(usual), of(usual, "a"))},
		"a source takes a state back":   {edit: replace(`value: "2"`, `value: "2", back: [job]`), want: slices.Concat(own(usual), of(usual, "a"), of(usual, "b")[:2])},
		"base_topic":                    {edit: section("publish: {base_topic: moved}\n"), want: slices.Concat(own("moved"), of("moved", "a"), of("moved", "b"))},
		"state_topic": {edit: section("publish: {state_topic: \"x/{source}/{key}\"}\n"),
			want: slices.Concat(own(usual), of(usual, "a")[:1], of(usual, "b")[:1], of("x", "a")[1:], of("x", "b")[1:])},
		"will.topic": {edit: section("mqtt: {will: {topic: \"{base}/here\"}}\n"), want: slices.Concat(own(usual)[:3], []string{usual + "/here"}, of(usual, "a"), of(usual, "b"))},
		"no will":    {edit: section("mqtt: {will: {enabled: false}}\n"), want: slices.Concat(own(usual)[:3], of(usual, "a"), of(usual, "b"))},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			state, addr, http := t.TempDir(), testkit.FreeAddress(t), testkit.FreeAddress(t)
			file := filepath.Join(t.TempDir(), "config.yaml")
			write := func(yaml string) {
				yaml = strings.NewReplacer("MQTT", addr, "HTTP", http).Replace(yaml)
				if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			before := base
			if c.before != nil {
				before = c.before(base)
			}
			write(before)
			_, stop := process(t, file, state)
			retains(t, addr, slices.Concat(own(usual), of(usual, "a"), of(usual, "b")))
			stop() // all of that is on disk now
			kill, _ := process(t, file, state)
			retains(t, addr, slices.Concat(own(usual), of(usual, "a"), of(usual, "b")))
			write(c.edit(before))
			testkit.Eventually(t, "the file is loaded again", func() bool {
				o, err := control.Reload(t.Context(), state)
				return err == nil && o.OK
			})
			retains(t, addr, c.want)
			testkit.Eventually(t, "what is cleared is forgotten", func() bool { return slices.Equal(ledgerTopics(state), sorted(c.want)) })
			kill()
			process(t, file, state)
			retains(t, addr, c.want)
		})
	}
}

func sorted(topics []string) []string { return slices.Sorted(slices.Values(topics)) }

// retains waits until a broker retains something for exactly these topics.
func retains(t *testing.T, addr string, want []string) {
	t.Helper()
	var got []string
	defer func() {
		if t.Failed() {
			t.Logf("it retains %q", got)
		}
	}()
	testkit.Eventually(t, fmt.Sprintf("the broker retains %q", want), func() bool {
		kept, err := mqttest.Retained(addr, "#")
		got = slices.Sorted(maps.Keys(kept))
		return err == nil && slices.Equal(got, sorted(want))
	})
}

// ledgerTopics are the topics that a state folder has of the bundled broker.
func ledgerTopics(state string) []string {
	var ledger struct {
		Brokers []struct{ Topics map[string]any }
	}
	text, err := os.ReadFile(filepath.Join(state, "mqtt.retained.json"))
	if err != nil || json.Unmarshal(text, &ledger) != nil || len(ledger.Brokers) != 1 {
		return nil
	}
	return slices.Sorted(maps.Keys(ledger.Brokers[0].Topics))
}
