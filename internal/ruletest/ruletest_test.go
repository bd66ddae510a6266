package ruletest_test

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"event2mqtt/internal/bridge"
	"event2mqtt/internal/ruletest"
	"event2mqtt/internal/testkit"
)

const testedRules = `
rules:
  - {match: Client*, drop: true}
  - {match: ZChange, min_interval: 5s}
  - {match: PrintDone, add: {room: cellar}, remove: [path], qos: 2, retain: true}
`

func load(t *testing.T, text string) *bridge.Plan {
	t.Helper()
	plan, err := bridge.Load(testkit.Write(t, filepath.Join(t.TempDir(), "config.yaml"), text), nil, t.TempDir())
	testkit.OK(t, err)
	return plan
}

// TestTestsTellWhatWouldBePublished, and in which way it is not what was
// expected.
func TestTestsTellWhatWouldBePublished(t *testing.T) {
	plan := load(t, testedRules)
	for _, c := range []struct{ test, want string }{
		{"events: [{event: ClientOpened}]", ""},
		{"events: [{event: ClientOpened}]\n    expect: [{}]", "- missing:    (any topic)"},
		{"events: [{event: A}]\n    expect: [{topic: event2mqtt/event/A, qos: 1, retain: false}]", ""},
		{"events: [{event: A}]", `+ unexpected: event2mqtt/event/A {"_event":"A","_timestamp":1700000000} (QoS 1, retain false)`},
		{"events: [{event: A}]\n    expect: [{topic: event2mqtt/event/B}]", "message 1: the topic differs"},
		{"events: [{event: A, payload: {n: 1, o: {p: [1]}}}]\n    expect: [{payload: {n: 1, o: {p: [1.0]}}}]", ""},
		{"events: [{event: A, payload: {n: 1}}]\n    expect: [{payload: {n: 2}}]", "n is 1, not 2"},
		{"events: [{event: A}]\n    expect: [{payload: {n: 2}}]", "the payload has no n"},
		{"events: [{event: PrintDone, payload: {path: x}}]\n    expect: [{payload: {room: cellar}, absent: [path], qos: 2, retain: true}]", ""},
		{"events: [{event: PrintDone}]\n    expect: [{absent: [room]}]", "the payload has room"},
		{"events: [{event: PrintDone}]\n    expect: [{qos: 1}]", "the QoS differs"},
		{"events: [{event: PrintDone}]\n    expect: [{retain: false}]", "the retain flag differs"},
		{"events: [{event: ZChange, payload: {z: 1}}, {event: ZChange, payload: {z: 2}, at: 1s}, {event: ZChange, payload: {z: 3}, at: 2s}, {event: A, at: 6s}]\n" +
			"    expect: [{payload: {z: 1}}, {payload: {z: 3}}, {topic: event2mqtt/event/A}]", ""},
		{"file: events.jsonl\n    expect: [{topic: event2mqtt/event/FromFile, payload: {x: 1}}]", ""},
	} {
		dir := t.TempDir()
		testkit.Write(t, filepath.Join(dir, "events.jsonl"), "{\"event\":\"FromFile\",\"x\":1}\n\n{\"event\":\"ClientClosed\"}\n")
		tests, err := ruletest.Load(testkit.Write(t, filepath.Join(dir, "tests.yaml"), "tests:\n  - "+c.test+"\n"), nil)
		if err != nil {
			t.Fatalf("%s: %v", c.test, err)
		}
		result, err := plan.RuleTest().Run(&tests.Tests[0])
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(result.Wrong, "\n"); c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%s\ngave %s\nwant %q", c.test, got, c.want)
		}
	}
}

var folder = regexp.MustCompile(`\(/[^)]*/`)

// TestTestsTellWhichRuleDecides, with its name and where it is written.
func TestTestsTellWhichRuleDecides(t *testing.T) {
	plan := load(t, `rules:
  - match: Client*
    drop: true
    name: no chatter
  - {match: Kept, keep: true}
  - {match: ZChange, min_interval: 5s, name: calm}
  - {match: Same, dedupe: true}
  - {match: ZChange, drop: true, when: payload.z == 3}
`)
	test := ruletest.Case{Events: []ruletest.Event{
		{Event: "ClientOpened"}, {Event: "Kept"}, {Event: "Other"}, {Event: "Same"}, {Event: "Same"},
		{Event: "ZChange", Payload: map[string]any{"z": 1}}, {Event: "ZChange", Payload: map[string]any{"z": 2}}, {Event: "ZChange", Payload: map[string]any{"z": 3}},
		{Event: "ZChange", Payload: map[string]any{"z": 4}, At: 6 * time.Second},
	}}
	result, err := plan.RuleTest().Run(&test)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, text := range result.Decisions {
		got = append(got, folder.ReplaceAllString(text, "("))
	}
	want := []string{
		`event 1 ClientOpened: dropped by rules[0] "no chatter" (config.yaml:2)`,
		`event 2 Kept: published by rules[1] (config.yaml:5)`,
		`event 3 Other: published`,
		`event 4 Same: published`,
		`event 5 Same: dropped as it says the same as the one before by rules[3] (config.yaml:7)`,
		`event 6 ZChange: published`,
		`event 7 ZChange: held by rules[2] "calm" (config.yaml:6)`,
		`event 8 ZChange: held by rules[2] "calm" (config.yaml:6), in place of the one that it held before`,
		`ZChange that rules[2] "calm" (config.yaml:6) held: dropped by rules[4] (config.yaml:8)`,
		`event 9 ZChange: held by rules[2] "calm" (config.yaml:6)`,
		`ZChange that rules[2] "calm" (config.yaml:6) held: published`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestTestsTellWhichRulesChangeAnEvent, its new name, and why a when failed.
func TestTestsTellWhichRulesChangeAnEvent(t *testing.T) {
	plan := load(t, `rules:
  - {match: Done, when: payload.t > 5, rename: LongDone}
  - {match: LongDone, add: {room: cellar}, name: room}
  - {match: Gone, rename: Away}
  - {match: Away, drop: true}
`)
	result, err := plan.RuleTest().Run(&ruletest.Case{Events: []ruletest.Event{
		{Event: "Done", Payload: map[string]any{"t": 6}}, {Event: "Done"}, {Event: "Gone"}, {Event: "LongDone"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	got := folder.ReplaceAllString(strings.Join(result.Decisions, "\n"), "(")
	want := `event 1 Done: published as LongDone, changed by rules[0] (config.yaml:2) and rules[1] "room" (config.yaml:3)
event 2 Done: published
event 2 Done: rules[0] (config.yaml:2) does not apply, since its expression failed: invalid operation: <nil> > int (1:11)
event 3 Gone: dropped by rules[3] (config.yaml:5), changed by rules[2] (config.yaml:4)
event 4 LongDone: published, changed by rules[1] "room" (config.yaml:3)`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestBadTestsSayWhatIsWrong(t *testing.T) {
	for text, want := range map[string]string{
		"tests: []\n":                              "tests.yaml:1:1: tests: there are none",
		"tests: [{expect: []}]\n":                  "tests.yaml:1:9: tests[0]: has no events",
		"tests: [{evnts: []}]\n":                   "did you mean events?",
		"tests: [{file: none.jsonl}]\n":            "tests[0].file: open ",
		"tests: [{events: [{event: A, at: 1}]}]\n": "tests[0].events[0].at: the number 1 needs a unit",
	} {
		_, err := ruletest.Load(testkit.Write(t, filepath.Join(t.TempDir(), "tests.yaml"), text), nil)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
