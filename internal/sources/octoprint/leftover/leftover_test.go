package leftover_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"event2mqtt/internal/broker/accounts"
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
	for _, filter := range filters {
		if !accounts.ValidFilter(filter) {
			return fmt.Errorf("%s is no filter", filter) // as a broker in the network says
		}
	}
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
	m.announce("n", "o/")
	return m
}

// announce keeps what announces a device, as far as it takes for its place to be
// believed.
func (m *memory) announce(node, base string) {
	for key, own := range map[string]string{"PRINTING_P": `"stat_t":"~progress/printing"`, "PRINTING_S": `"stat_t":"~hass/printing"`, "BED": `"stat_t":"~temperature/bed"`, "SOC": `"stat_t":"~temperature/soc"`} {
		at, text := announce(node, key, base, own)
		m.kept[at] = text
	}
}

var request = leftover.Request{Prefixes: []string{"homeassistant"}}

// TestStatesAreClearedFirst: they are found by what is announced, so a run that
// ends in between can be repeated.
func TestStatesAreClearedFirst(t *testing.T) {
	m := newMemory()
	m.refuses = "homeassistant/sensor/n_SOC/config"
	report := leftover.Clear(t.Context(), m, request)
	want := []string{"o/hass/is_paused", "o/temperature/soc", "homeassistant/sensor/n_BED/config", "homeassistant/sensor/n_PRINTING_P/config", "homeassistant/sensor/n_PRINTING_S/config"}
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
		if report.Problem != "the broker has not cleared 1 of 6 topics, such as o/hass/is_paused; may event2mqtt publish there?" || report.Devices[0].Cleared {
			t.Errorf("%+v", report)
		}
	})
}

// TestToLookChangesNothing.
func TestToLookChangesNothing(t *testing.T) {
	m, look := newMemory(), request
	look.LookOnly = true
	if report := leftover.Clear(t.Context(), m, look); len(m.cleared) != 0 || report.Problem != "" || len(report.Devices) != 1 || len(report.Devices[0].Entities) != 4 || len(report.Devices[0].States) != 2 {
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
	m.announce("n", "o/")
	report := leftover.Clear(t.Context(), m, leftover.Request{Prefixes: request.Prefixes, LookOnly: true})
	if len(report.Devices) != 0 || !strings.Contains(report.Problem, "more than 50 devices") {
		t.Errorf("%d devices, %s", len(report.Devices), report.Problem)
	}
	report = leftover.Clear(t.Context(), m, leftover.Request{Prefixes: request.Prefixes, Nodes: []string{"n"}, LookOnly: true})
	if len(report.Devices) != 1 || len(report.Devices[0].Kept) != 20 {
		t.Errorf("%+v", report)
	}
}

// TestAPlaceWithoutTopicsIsLeftOut, and the rest is cleared: one forged
// announcement must not keep a broker from being read.
func TestAPlaceWithoutTopicsIsLeftOut(t *testing.T) {
	for _, base := range []string{"#/", "+/", "o\x00/", "$share/g/", "//", "o/#", strings.Repeat("x", 70_000)} {
		m := newMemory()
		m.announce("forged", base)
		more := m.kept["homeassistant/sensor/n_PRINTING_S/config"] // among those of the real device, too
		m.kept["homeassistant/sensor/n_PRINTING_Z/config"] = strings.NewReplacer("PRINTING_S", "PRINTING_Z", `"o/"`, string(must(json.Marshal(base)))).Replace(more)
		report := leftover.Clear(t.Context(), m, request)
		if report.Problem != "" || !slices.Contains(m.cleared, "o/hass/is_paused") || !slices.Contains(m.cleared, "o/temperature/soc") {
			t.Errorf("%.20q: %.200s; cleared: %v", base, report.Problem, m.cleared)
		}
		for _, d := range report.Devices {
			if len(d.Kept) > 0 { // it is no place, so there is nothing to say of it
				t.Errorf("%.20q: kept is %.200v", base, d.Kept)
			}
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// TestAPlaceThatIsNotTheDevicesOwnStaysAsItIs: what a single message says, which
// anybody may have forged, leads to no place; what OctoPrint's configuration
// names does.
func TestAPlaceThatIsNotTheDevicesOwnStaysAsItIs(t *testing.T) {
	picture := map[string]string{"frigate/front/camera": "\xff\xd8\xff", "frigate/front/hass/is_paused": "False"}
	for name, c := range map[string]struct {
		forged map[string]string // key: the rest
		places []leftover.Place
		clears bool
	}{
		"one":                     {forged: map[string]string{"PRINTING_S": `"stat_t":"~hass/printing"`}},
		"two":                     {forged: map[string]string{"PRINTING_S": `"stat_t":"~hass/printing"`, "BED": `"stat_t":"~temperature/bed"`}},
		"many that lead nowhere":  {forged: map[string]string{"PRINTING_S": `"stat_t":"~hass/printing"`, "BED": `"stat_t":"else/bed"`, "TOOL0": `"stat_t":"else/tool0"`, "PRINTING_P": `"x":1`}},
		"optional ones":           {forged: map[string]string{"SOC": `"stat_t":"~temperature/soc"`, "PSU": `"cmd_t":"~hassControl/psu"`, "CHAMBER": `"stat_t":"~temperature/chamber"`}},
		"with the configuration":  {forged: map[string]string{"PRINTING_S": `"stat_t":"~hass/printing"`}, places: []leftover.Place{leftover.Usual("frigate/front/")}, clears: true},
		"another's configuration": {forged: map[string]string{"PRINTING_S": `"stat_t":"~hass/printing"`}, places: []leftover.Place{leftover.Usual("o/")}},
	} {
		m, r := newMemory(), request
		r.Places = c.places
		maps.Copy(m.kept, picture)
		for key, own := range c.forged {
			at, text := announce("forged", key, "frigate/front/", own)
			m.kept[at] = text
		}
		report := leftover.Clear(t.Context(), m, r)
		for at := range picture {
			if slices.Contains(m.cleared, at) != c.clears {
				t.Errorf("%s: %s is cleared: %v", name, at, !c.clears)
			}
		}
		said := fmt.Sprint(report.Devices)
		if report.Problem != "" || !slices.Contains(m.cleared, "o/hass/is_paused") || strings.Contains(said, "frigate/front/# only ") == c.clears {
			t.Errorf("%s: %s; %s", name, report.Problem, said)
		}
	}
}

// TestOneOfManyDoesNotSayWhereStatesAre: a forged announcement beside those of a
// device moves none of its topics.
func TestOneOfManyDoesNotSayWhereStatesAre(t *testing.T) {
	m := newMemory()
	for _, key := range []string{"PRINTING", "PRINTING_C", "STOP"} {
		at, text := announce("n", key, "o/", `"stat_t":"~hass/printing"`)
		m.kept[at] = text
	}
	at, text := announce("n", "PRINTING_Z", "o/", `"stat_t":"~other/printing"`)
	m.kept[at], m.kept["o/other/is_paused"] = text, "False"
	leftover.Clear(t.Context(), m, request)
	if slices.Contains(m.cleared, "o/other/is_paused") || !slices.Contains(m.cleared, "o/hass/is_paused") {
		t.Error(m.cleared)
	}
}

// TestTopicsMayBeginWithinALevel, as OctoPrint can be configured.
func TestTopicsMayBeginWithinALevel(t *testing.T) {
	m, r := newMemory(), request
	r.Places = []leftover.Place{{Base: "p_", Hass: "p_hass_", Control: "p_control_", Temperature: "p_t_", Will: "p_mqtt"}}
	m.kept["p_hass_is_paused"], m.kept["p_control_stop"], m.kept["p_camera"] = "False", "PRESS", "\xff\xd8\xff"
	report := leftover.Clear(t.Context(), m, r)
	for _, at := range []string{"p_hass_is_paused", "p_control_stop", "p_camera"} {
		if !slices.Contains(m.cleared, at) {
			t.Errorf("%s is left: %s", at, report.Problem)
		}
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
	f.Add("homeassistant/sensor/n_SOC/config", strings.Replace(text, `"o/"`, `"#/"`, 1), "#/camera", "x")
	f.Add("homeassistant/sensor/n_BED/config", `{"~":"","uniq_id":"n_BED","device":{"ids":["n"]}}`, "camera", "\xff\xd8\xff")
	f.Fuzz(func(t *testing.T, at, text, other, state string) {
		m := &memory{kept: map[string]string{at: text, other: state}}
		report := leftover.Clear(t.Context(), m, request)
		if report.Problem != "" {
			t.Errorf("it is not finished: %s", report.Problem)
		}
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
