package leftover_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"event2mqtt/internal/sources/octoprint/leftover"
	"event2mqtt/internal/topic"
)

// memory is a broker in memory, which refuses to clear one topic, or does not do
// so and does not say it.
type memory struct {
	kept    map[string]string
	refuses string
	forbids string
	cleared []string
	uses    []func(leftover.Message)
}

func (m *memory) Read(_ context.Context, filters []string, use func(leftover.Message)) error {
	for at, text := range m.kept {
		if slices.ContainsFunc(filters, func(f string) bool { return topic.Overlap(f, at) }) {
			use(leftover.Message{Topic: at, Payload: []byte(text)})
		}
	}
	m.uses = append(m.uses, use)
	return nil
}

func (m *memory) Clear(_ context.Context, at string) error {
	if at == m.refuses {
		return errors.New("not today")
	}
	if at == m.forbids {
		return nil
	}
	m.cleared = append(m.cleared, at)
	for _, use := range m.uses {
		use(leftover.Message{Topic: at})
	}
	return nil
}

// announce is what announces one entity.
func announce(node, key, base, own string) (at, text string) {
	return "homeassistant/sensor/" + node + "_" + key + "/config",
		fmt.Sprintf(`{"~":%q,"uniq_id":"%s_%s",%s,"device":{"ids":%q,"sw":"HomeAssistant Discovery for OctoPrint 3.7.0"}}`, base, node, key, own, node)
}

func newMemory() *memory {
	m := &memory{kept: map[string]string{"o/hass/is_paused": "False", "o/temperature/soc": `{"temperature":1}`}}
	for key, own := range map[string]string{"PRINTING_S": `"stat_t":"~hass/printing"`, "SOC": `"stat_t":"~temperature/soc"`} {
		at, text := announce("n", key, "o/", own)
		m.kept[at] = text
	}
	return m
}

var request = leftover.Request{Prefixes: []string{"homeassistant"}}

// TestStatesAreClearedFirst: they are found by what is announced, so a run that
// ends in between can be repeated.
func TestStatesAreClearedFirst(t *testing.T) {
	m := newMemory()
	m.refuses = "homeassistant/sensor/n_SOC/config"
	report := leftover.Clear(t.Context(), m, request)
	want := []string{"o/hass/is_paused", "o/temperature/soc", "homeassistant/sensor/n_PRINTING_S/config"}
	if !slices.Equal(m.cleared, want) || report.Problem != "clear homeassistant/sensor/n_SOC/config: not today" || len(report.Devices) != 1 || report.Devices[0].Cleared {
		t.Errorf("%v %+v", m.cleared, report)
	}
}

// TestWhatABrokerDoesNotAllowIsSaid, though it is acknowledged.
func TestWhatABrokerDoesNotAllowIsSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		m.forbids = "o/hass/is_paused"
		report := leftover.Clear(t.Context(), m, request)
		if report.Problem != "the broker has not cleared 1 of 4 topics, such as o/hass/is_paused; may event2mqtt publish there?" || report.Devices[0].Cleared {
			t.Errorf("%+v", report)
		}
	})
}

// TestToLookChangesNothing.
func TestToLookChangesNothing(t *testing.T) {
	m, look := newMemory(), request
	look.LookOnly = true
	if report := leftover.Clear(t.Context(), m, look); len(m.cleared) != 0 || report.Problem != "" || len(report.Devices) != 1 || len(report.Devices[0].Entities) != 2 || len(report.Devices[0].States) != 2 {
		t.Errorf("%v %+v", m.cleared, report)
	}
}

// TestWatchingEndsWithItsContext.
func TestWatchingEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	long := request
	long.Watch = leftover.MaxWatch
	m := newMemory()
	m.uses = []func(leftover.Message){func(leftover.Message) {
		if len(m.cleared) == len(m.kept) {
			cancel()
		}
	}}
	if report := leftover.Clear(ctx, m, long); !strings.Contains(report.Problem, "watch whether it is announced again: context canceled") || !report.Devices[0].Cleared {
		t.Errorf("%+v", report)
	}
}

// TestWhatIsFoundIsBounded, however much is announced.
func TestWhatIsFoundIsBounded(t *testing.T) {
	m := &memory{kept: map[string]string{}}
	for n := range 60 {
		at, text := announce(fmt.Sprintf("n%d", n), "BED", "o/", `"stat_t":"~temperature/bed"`)
		m.kept[at] = text
	}
	for n := range 100 {
		m.kept[fmt.Sprintf("o/hass/%d", n)] = "x"
	}
	at, text := announce("n", "PRINTING_S", "o/", `"stat_t":"~hass/printing"`)
	m.kept[at] = text
	report := leftover.Clear(t.Context(), m, leftover.Request{Prefixes: request.Prefixes, LookOnly: true})
	if len(report.Devices) != 0 || !strings.Contains(report.Problem, "more than 50 devices") {
		t.Errorf("%d devices, %s", len(report.Devices), report.Problem)
	}
	report = leftover.Clear(t.Context(), m, leftover.Request{Prefixes: request.Prefixes, Nodes: []string{"n"}, LookOnly: true})
	if len(report.Devices) != 1 || len(report.Devices[0].Kept) != 20 {
		t.Errorf("%+v", report)
	}
}

// TestRequestsOutOfBoundsAreRefused.
func TestRequestsOutOfBoundsAreRefused(t *testing.T) {
	many := slices.Repeat([]string{"a"}, 9)
	for name, c := range map[string]struct {
		r    leftover.Request
		good bool
	}{
		"as it is":         {request, true},
		"all":              {leftover.Request{Prefixes: []string{"a/b"}, Nodes: []string{"n"}, Places: []leftover.Place{leftover.Usual("octoPrint/")}, Watch: time.Minute}, true},
		"no prefix":        {leftover.Request{}, false},
		"many prefixes":    {leftover.Request{Prefixes: many}, false},
		"many nodes":       {leftover.Request{Prefixes: many[:1], Nodes: many}, false},
		"a wildcard":       {leftover.Request{Prefixes: []string{"#"}}, false},
		"one in a node":    {leftover.Request{Prefixes: many[:1], Nodes: []string{"+"}}, false},
		"one in a place":   {leftover.Request{Prefixes: many[:1], Places: []leftover.Place{leftover.Usual("#/")}}, false},
		"a long prefix":    {leftover.Request{Prefixes: []string{strings.Repeat("a", 501)}}, false},
		"a long watch":     {leftover.Request{Prefixes: many[:1], Watch: time.Hour}, false},
		"a negative watch": {leftover.Request{Prefixes: many[:1], Watch: -1}, false},
	} {
		if err := c.r.Check(); (err == nil) != c.good {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzClear: whatever a broker keeps, nothing outside what is announced by the
// plugin, and the plugin's own topics in its place, is cleared.
func FuzzClear(f *testing.F) {
	at, text := announce("n", "SOC", "o/", `"stat_t":"~temperature/soc","cmd_t":"~x/soc","avty":[{"t":"~mqtt","pl_avail":"connected"}]`)
	f.Add(at, text, "o/temperature/soc", `{"temperature":1,"_timestamp":1700000000}`)
	f.Add("homeassistant/sensor/n_BED/config", `{"~":"","uniq_id":"n_BED","device":{"ids":["n"]}}`, "camera", "\xff\xd8\xff")
	f.Fuzz(func(t *testing.T, at, text, other, state string) {
		m := &memory{kept: map[string]string{at: text, other: state}}
		report := leftover.Clear(t.Context(), m, request)
		for _, cleared := range m.cleared {
			if cleared != at && cleared != other || len(report.Devices) == 0 {
				t.Errorf("%q is cleared: %+v", cleared, report)
			}
		}
		if len(m.cleared) > 0 && !slices.Contains(m.cleared, at) && !slices.Contains(m.cleared, other) {
			t.Error(m.cleared)
		}
	})
}
