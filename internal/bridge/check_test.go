package bridge_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"event2mqtt/internal/bridge"
	"event2mqtt/internal/testkit"
)

// TestAPresetIsFilledInBeforeItIsChecked, and check --print tells where its values
// come from.
func TestAPresetIsFilledInBeforeItIsChecked(t *testing.T) {
	plan := load(t, "sources: [{name: octo, type: webhook, preset: octoprint, auth: {body_secret: abc}, event: {names: {a: b}}}]\n")
	got := map[string]bridgeValue{}
	for _, v := range plan.Values() {
		got[v.Key] = bridgeValue{v.Text, v.Origin}
	}
	for key, want := range map[string]bridgeValue{
		"sources[0].auth.body_key": {"apiSecret", "preset"}, "sources[0].time_key": {"currentTime", "preset"},
		"sources[0].respond": {"accepted", "default"},
	} {
		if got[key] != want {
			t.Errorf("%s: %v, want %v", key, got[key], want)
		}
	}
	if names := got["sources[0].event.names"]; !strings.Contains(names.text, "PrintDone") || !strings.HasSuffix(names.origin, ":1:92 and preset") {
		t.Errorf("names: %v", names)
	}
	if plan := load(t, "sources: [{name: octo, type: webhook, preset: octoprint, time_key: mine}]\n"); !strings.Contains(fmt.Sprint(plan.Values()), "sources[0].time_key mine") {
		t.Error("a key that is set does not stay")
	}
}

type bridgeValue struct{ text, origin string }

// TestAnOpenWebhookIsWarnedOf: one without authentication at an address that other
// machines reach.
func TestAnOpenWebhookIsWarnedOf(t *testing.T) {
	for text, want := range map[string]string{
		"http: {listen: '0.0.0.0:8127'}\n":                                                                        "http.listen: the webhook default has no authentication, and 0.0.0.0:8127 can be reached",
		"http: {listen: ':8127'}\nsources: [{name: w, type: webhook}]":                                            ":2:11: sources[0].auth: the webhook w has no authentication",
		"http: {listen: ':8127'}\nsources: [{name: w, type: webhook, preset: octoprint}]":                         "the webhook w has no authentication",
		"http: {listen: ':8127'}\nsources: [{name: w, type: webhook, preset: octoprint, auth: {body_secret: x}}]": "",
		"http: {listen: ':8127'}\nsources: [{name: w, type: webhook, auth: {token: x}}]":                          "",
		"http: {listen: ':8127'}\nsources: [{name: w, type: webhook, auth: {hmac: {scheme: github, secret: x}}}]": "",
		"http: {listen: ':8127'}\nsources: [{name: t, type: tail, paths: /x}]":                                    "",
		"http: {listen: 'localhost:8127'}\n":                                                                      "",
		"http: {listen: '[::1]:8127'}\n":                                                                          "",
	} {
		got := strings.Join(load(t, text).Warnings(), "\n")
		if want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%s: %s; want %s", text, got, want)
		}
	}
}

func TestThereIsABoundOfSourcesAndRules(t *testing.T) {
	for key, one := range map[string]string{"sources": "{name: s%d, type: webhook},", "rules": "{match: a%d, drop: true},"} {
		text := key + ": ["
		for i := range 1001 {
			text += fmt.Sprintf(one, i)
		}
		_, err := bridge.Load(testkit.Write(t, filepath.Join(t.TempDir(), "c.yaml"), text+"]\n"), nil, t.TempDir())
		if err == nil || !strings.Contains(err.Error(), key+": there are 1001; at most 1000 are allowed") {
			t.Errorf("%s: %v", key, err)
		}
	}
}

// TestWhatRunWouldRefuseIsRefusedByCheck.
func TestWhatRunWouldRefuseIsRefusedByCheck(t *testing.T) {
	notAFolder := testkit.Write(t, filepath.Join(t.TempDir(), "f"), "")
	for text, want := range map[string]string{
		"broker: {unix: /tmp/" + strings.Repeat("a", 103) + "}":               "broker.unix: the path has 108 bytes; a unix socket's has at most 107",
		"journal: {path: " + notAFolder + "}":                                 "journal.path: " + notAFolder + " is there and is no folder",
		"journal: {path: data/journal}":                                       "journal.path: \"data/journal\" must begin with /",
		"broker: {unix: e2m.sock}":                                            "broker.unix: \"e2m.sock\" must begin with /",
		"sources: [{name: w, type: webhook, event: {keys: [a, b..c]}}]":       "sources[0].event.keys[1]: \"b..c\" has an empty step",
		"sources: [{name: w, type: webhook, time_key: a..b}]":                 "sources[0].time_key: \"a..b\" has an empty step",
		"sources: [{name: w, type: webhook, split: a., parse: [.b]}]":         "sources[0].split: \"a.\" has an empty step",
		"sources: [{name: w, type: webhook, time_key: a, time_format: '%Q'}]": "sources[0].time_format: \"%Q\" has the directive",
		"sources: [{name: w, type: webhook, time_format: unix}]":              "time_format: is of use only with time_key or time_header or time_query",
		"sources: [{name: w, type: tail, paths: /x, time_format: unix}]":      "time_format: is of use only with time_key,",
		"sources: [{name: w, type: tail, paths: /x, event: {keys: ['a[]']}}]": "sources[0].event.keys[0]: \"a[]\" has an empty step",
		"sources: [{name: w, type: tail, paths: /x, preset: docker}]":         "sources[0].preset: is for webhooks; what a log looks like is its format: write format: docker",
		"sinks: [{name: a, type: fil, path: /tmp/x}]":                         "sinks[0].type: \"fil\" is not a type of sink; there are file, http, mqtt; did you mean file?",
		"sinks: [{name: a, type: file, path: /tmp/x, keep: 24h}]":             "sinks[0].keep: is how many renamed files are kept, such as 5, and not \"24h\"; how long the place of a removed sink is kept is journal.keep",
		"sinks: [{name: a, type: file, path: /tmp/x, max_size: 100}]":         "sinks[0].max_size: the number 100 needs a unit, such as 100KiB or 100MiB",
		"max_payload: 2048": "max_payload: the number 2048 needs a unit; as bytes it is 2KiB",
		"sinks: [{name: a, type: file, path: /tmp/x, match: ['@print']}]":    "sinks[0].match[0]: there is no class @print; there are @comm, ",
		"sinks: [{name: a, type: file, path: /tmp/x, match: [A, '[']}]":      "sinks[0].match[1]: \"[\" is not a pattern; write",
		"sinks: [{name: \"a\\nb\", type: file, path: /tmp/x}]":               "sinks[0].name: \"a\\nb\" holds characters that cannot be printed",
		"sinks: [{name: \"a\\0b\", type: file, path: /tmp/x}]":               "sinks[0].name: \"a\\x00b\" holds characters that cannot be printed",
		"sources: [{name: \"a\\nb\", type: webhook}]":                        "sources[0].name: \"a\\nb\" holds characters that cannot be printed",
		"sources: [{name: " + strings.Repeat("a", 201) + ", type: webhook}]": "sources[0].name: has 201 bytes; at most 200 are allowed",
		"log: debug":                             "log: a group of options is needed here, such as log: {level: debug}",
		"rules: [{rename: '{event}-x'}]":         "rules[0].rename: \"{event}\" looks like a placeholder",
		"home_assistant: {prefix: event2mqtt}":   "home_assistant.prefix: \"event2mqtt\" is publish.base_topic, too",
		"home_assistant: {prefix: event2mqtt/a}": "home_assistant.prefix: \"event2mqtt/a\" is below publish.base_topic",
		"mqtt: {url: 'mqtt://h:99999'}":          "mqtt.url: \"mqtt://h:99999\" names port 99999; there are 1 to 65535",
	} {
		_, err := bridge.Load(testkit.Write(t, filepath.Join(t.TempDir(), "c.yaml"), text), nil, t.TempDir())
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// TestAMistakeInAnEntityIsSaidOnce, with what was meant.
func TestAMistakeInAnEntityIsSaidOnce(t *testing.T) {
	for entity, want := range map[string]string{
		"name: A, form: a": "entities[0].form: there is no such option; did you mean from?",
		"name: A":          "entities[0].from: is needed: it is where the value is found; write for example payload.open",
		"name: A, from: a, kind: Binary, class: door":               "is not one of text, number, binary, timestamp; did you mean binary?",
		"name: A, from: a, kind: number, device_class: power":       "entities[0].device_class: there is no such option; did you mean class?",
		"name: A, from: a, kind: number, unit_of_measurement: W":    "did you mean unit?",
		"name: A, from: a, kind: number, class: powr, unit: W":      "entities[0].class: \"powr\" is no class of kind: number; did you mean power?",
		"name: A, from: a, kind: number, class: power, unit: C":     "entities[0].unit: \"C\" is no unit of class: power; write W, or kW",
		"name: A, from: a, kind: number, state_class: totals":       "did you mean total?",
		"name: A, from: a, class: temperature":                      "entities[0].class: is for kind: number or kind: binary",
		"name: A, from: a, key: B":                                  "entities[0].key: \"B\" cannot be a key",
		"name: A, from: a, kind: number, class: power, unit: \"W\"": "",
	} {
		for _, source := range []string{"type: webhook", "type: tail, paths: /x"} {
			text := "sources: [{name: w, " + source + ", entities: [{" + entity + "}]}]"
			_, err := bridge.Load(testkit.Write(t, filepath.Join(t.TempDir(), "c.yaml"), text), nil, t.TempDir())
			if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n")) {
				t.Errorf("%s: %v; want %s", text, err, want)
			}
		}
	}
}

// TestTwoSourcesWithOneDeviceIDAreWarnedOf.
func TestTwoSourcesWithOneDeviceIDAreWarnedOf(t *testing.T) {
	const text = "publish: {source_field: _source}\nsources:\n- {name: a, type: webhook, device: true, device_id: x, auth: {token: t}}\n- {name: b, device: true, device_id: "
	for second, want := range map[string]string{"x, type: tail, paths: /x}": "sources[1].device_id: it is that of sources[0], too", "y, type: tail, paths: /x}": ""} {
		if got := strings.Join(load(t, text+second).Warnings(), "\n"); strings.Contains(got, "device_id") != (want != "") || !strings.Contains(got, want) {
			t.Errorf("%s: %s; want %s", second, got, want)
		}
	}
}

// TestATimeFormatIsOfUseWithAnyPlaceOfTheTime.
func TestATimeFormatIsOfUseWithAnyPlaceOfTheTime(t *testing.T) {
	for _, place := range []string{"webhook, time_key: a", "webhook, time_header: X-A", "webhook, time_query: a", "webhook, preset: stripe", "tail, paths: /x, time_key: a", "tail, paths: /x, format: docker"} {
		load(t, "sources: [{name: w, type: "+place+", time_format: unix}]")
	}
}

// TestAnEmptySecretIsWarnedOf.
func TestAnEmptySecretIsWarnedOf(t *testing.T) {
	for text, want := range map[string]string{
		"sources: [{name: w, type: webhook, auth: {token: '${NONE:-}'}}]":                             "sources[0].auth.token: is empty",
		"mqtt: {url: 'mqtt://h', username: u}\nsources: [{name: w, type: webhook, auth: {token: x}}]": "",
	} {
		got := strings.Join(load(t, text).Warnings(), "\n")
		if want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%s: %s; want %s", text, got, want)
		}
	}
}

// TestTwoSourcesAtOneOctoPrintAreWarnedOf, however its address is written.
func TestTwoSourcesAtOneOctoPrintAreWarnedOf(t *testing.T) {
	const first = "publish: {source_field: _source}\nsources:\n- {name: a, type: octoprint, url: http://octopi.local, api_key: k, device_id: x}\n- {name: b, type: octoprint, api_key: k, "
	const same = ":4:42: sources[1].url: this is the OctoPrint of sources[0], too"
	for second, want := range map[string]string{
		"url: 'http://octopi.local'}":                           same,
		"url: 'http://octopi.local/'}":                          same,
		"url: 'http://OctoPi.local.:80//'}":                     same,
		"url: 'http://octopi.local/b'}":                         "",
		"url: 'http://octopi.local:5000'}":                      "",
		"url: 'https://octopi.local'}":                          "",
		"url: 'http://octopi.local:5000', device_id: x}":        "sources[1].device_id: it is that of sources[0], too",
		"url: 'http://other'}\n- {name: c, type: webhook}\n":    "",
		"url: 'http://octopi.local', device_id: other-printer}": same,
	} {
		warnings := load(t, first+second).Warnings()
		if got := strings.Join(warnings, "\n"); want == "" && got != "" || !strings.Contains(got, want) || len(warnings) > 1 {
			t.Errorf("%s: %s; want %s", second, got, want)
		}
	}
}

// TestASourceThatReadsWhatASinkWritesIsWarnedOf: each event would make another.
func TestASourceThatReadsWhatASinkWritesIsWarnedOf(t *testing.T) {
	dir := t.TempDir()
	for paths, circle := range map[string]bool{
		"/*.jsonl]": true, "/*.1]": true, "/events.jsonl]": true, "/**]": true, "/other.jsonl]": false, "/*.jsonl*], exclude: [events.jsonl*]": false,
	} {
		got := strings.Join(load(t, "sources: [{name: s, type: tail, paths: ["+dir+paths+"}]\nsinks: [{name: log, type: file, path: "+dir+"/events.jsonl}]").Warnings(), "\n")
		if strings.Contains(got, "sinks[0].path: the source s reads what is written here") != circle {
			t.Errorf("%s: %q", paths, got)
		}
	}
}

// TestGroupsOfNamesArePrintedAsInAFile, and a secret in one is hidden.
func TestGroupsOfNamesArePrintedAsInAFile(t *testing.T) {
	plan := load(t, "sources: [{name: octo, type: octoprint, url: http://octopi.local, api_key: k, gcode: {park: [G91, G0 Z10], home: [G28]}, max_temperature: {tool0: 250, bed: 100}, headers: {X-Token: geheim}}]\n")
	all := fmt.Sprint(plan.Values())
	for _, want := range []string{"gcode {home: [G28], park: [G91, G0 Z10]}", "max_temperature {bed: 100, tool0: 250}", "headers {X-Token: ***}"} {
		if !strings.Contains(all, "sources[0]."+want) {
			t.Errorf("%s is missing: %s", want, all)
		}
	}
}
