package template

import (
	"strings"
	"testing"
	"time"

	"event2mqtt/internal/event"
	"event2mqtt/internal/journal"
)

func TestTexts(t *testing.T) {
	e := &journal.Entry{Seq: 7, Event: event.Event{
		Name: "Print\nDone", Source: "octo\u2028", Time: time.Date(2026, 3, 1, 12, 0, 0, 5e6, time.FixedZone("", 3600)),
		Payload: []byte("{\"_event\":\"Print\",\n \"name\":\"a\\n\\\"b\", \"n\":1.50, \"o\":{\"x\":[1,\r\n2]}, \"z\":null, \"e\":\"\"}"),
	}}
	for text, want := range map[string]string{
		"{payload}":                                 `{"_event":"Print","name":"a\n\"b","n":1.50,"o":{"x":[1,2]},"z":null,"e":""}`,
		"{time} {source} {event}":                   "2026-03-01T11:00:00.005Z octo  Print Done",
		"{event|snake}: {payload.name}":             `print _done: a "b`,
		"{payload.n}, {payload.o}, {payload.o.x.1}": `1.50, {"x":[1,2]}, 2`,
		"{payload.none}|{payload.none|json}":        "unknown|null",
		"{payload.z}|{payload.z|json}":              "null|null",
		"[{payload.e}] [{payload.e|json}]":          `[] [""]`,
		`{"id":{id|json},"n":{payload.n|json},"who":{source|json},"name":{payload.name|json},"all":{payload}}`: `{"id":"id-7","n":1.50,"who":"octo\u2028","name":"a\n\"b","all":{"_event":"Print","name":"a\n\"b","n":1.50,"o":{"x":[1,2]},"z":null,"e":""}}`,
		"a={payload.name|url}&b={payload.o|url}": "a=a%0A%22b&b=%7B%22x%22%3A%5B1%2C2%5D%7D",
		"{payload.name|lower|json}":              `"a\n\"b"`, "} {{event|lower}}": "} {print done}",
	} {
		tpl, err := Parse(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		got, ok := tpl.Append(nil, e, "id-7", 1000)
		if string(got) != want || !ok {
			t.Errorf("%s:\n got %q\nwant %q", text, got, want)
		}
		if begins := tpl.Begins(); !strings.HasPrefix(want, strings.TrimSuffix(begins, ":")) {
			t.Errorf("%s does not begin with %q", text, begins)
		}
		if got, ok := tpl.Append([]byte("before"), e, "id-7", int64(len(want))); ok || string(got) != "before" {
			t.Errorf("%s: a text of %d bytes is taken where fewer may be", text, len(want))
		}
	}
	for text, want := range map[string]string{
		"": "is empty", "  ": "is empty", "x": "has no placeholder", "{payload": "no closing brace", "{evnt}": "no placeholder {evnt}", "{event|up}": `no filter "up"`,
		"{payload|lower}":                 "takes no filter",
		"{evnt} {event|up|json|down} {id": `{evnt}; there are {payload}, {payload.KEY}, {event}, {source}, {time} and {id}; {event|up|json|down}: there is no filter "up", "down"; there are lower, snake, url and json; "{id" has no closing brace`, "{payload.a..b}": "empty step", "{event}\n": "one line", "{event}\xff": "UTF-8",
		strings.Repeat("{id}", 65): "at most 64", strings.Repeat("x", 4097): "at most 4096",
	} {
		if _, err := Parse(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: %v; want %s", text, err, want)
		}
	}
}
