package main

import (
	"encoding/json"
	"reflect"
	"testing"
	"time"
)

// TestNothingFromOutsideSteersATerminal, nor is what people write changed.
func TestNothingFromOutsideSteersATerminal(t *testing.T) {
	for text, want := range map[string]string{
		"Türe offen – 21,5 °C 日本 👩‍🔧": "Türe offen – 21,5 °C 日本 👩‍🔧",
		"\x1b[31mred\x07":          `\x1b[31mred\a`,
		"a\r\nb\tc":                `a\r\nb\tc`,
		"\u202eevil\u2066\u200f":   `\u202eevil\u2066\u200f`,
		"\u0085\u2028\u00ad\ufeff": `\u0085\u2028\u00ad\ufeff`,
		"\x9b31m\xff":              `\x9b31m\xff`,
		"\U000e0041\ufffd":         `\U000e0041` + "\ufffd",
	} {
		if got := shown(text); got != want {
			t.Errorf("%q is shown as %s, not %s", text, got, want)
		}
	}
	if got := shownLines("a\x1b\r\nb\u202e"); got != "a\\x1b\nb\\u202e" {
		t.Errorf("lines: %q", got)
	}
}

// TestJSONForTerminalsMeansTheSame.
func TestJSONForTerminalsMeansTheSame(t *testing.T) {
	for text, want := range map[string]string{
		`{"a":"plain","b":[1.50]}`:                          `{"a":"plain","b":[1.50]}`,
		`{"a":"Türe ` + "\u202e\u0085\x7f\U000e0041" + `"}`: `{"a":"Türe \u202e\u0085\u007f\udb40\udc41"}`,
		`{"n":12345678901234567890}`:                        `{"n":12345678901234567890}`,
	} {
		got := shownJSON([]byte(text))
		var x, y any
		if json.Unmarshal([]byte(text), &x) != nil || json.Unmarshal(got, &y) != nil || !reflect.DeepEqual(x, y) || string(got) != want {
			t.Errorf("%s became %s", text, got)
		}
	}
}

func TestTimesAreWrittenAsPeopleSayThem(t *testing.T) {
	now := time.Date(2026, 3, 4, 12, 0, 0, 0, time.Local)
	for text, want := range map[string]time.Time{
		"2h": now.Add(-2 * time.Hour), "1d": now.AddDate(0, 0, -1), "11:30": now.Add(-30 * time.Minute), "2026-03-01": time.Date(2026, 3, 1, 0, 0, 0, 0, time.Local),
		"2026-03-01 10:00": time.Date(2026, 3, 1, 10, 0, 0, 0, time.Local), "2026-03-01T10:00:00Z": time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC),
	} {
		if got, err := parseMoment(text, now); err != nil || !got.Equal(want) {
			t.Errorf("%s is %v, %v", text, got, err)
		}
	}
	if _, err := parseMoment("soon", now); err == nil {
		t.Error("soon is a time")
	}
	for d, want := range map[time.Duration]string{20 * time.Millisecond: "20 ms", 90 * time.Second: "90 s", 8 * time.Minute: "8 min", 5 * time.Hour: "5 h", 72 * time.Hour: "3 days", -1: "0 ms"} {
		if got := span(d); got != want {
			t.Errorf("%v is %s", d, got)
		}
	}
}
