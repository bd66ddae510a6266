package edit_test

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"event2mqtt/internal/config/edit"
)

// TestAGroupMeansWhatItsValuesSay, whatever they hold.
func TestAGroupMeansWhatItsValuesSay(t *testing.T) {
	for _, text := range []string{
		"plain", "", "a: b", "{x}", "[x]", "on", "1883", "null", "~", "# no comment", "'", `"`, "a, b", "octoPrint/", "mqtt://h:1", "/a/b:", "http://[::1]:5000/x", "//", "a/b: c", "/etc/a b", "/x #y", "event/{event}", "*", "&a", "!x", "%", "@", "`",
		" space ", "Ä ✓", "a\nb", "\x00\x1b", strings.Repeat("long words ", 20), "- x", "?", ": ", "2026-11-26", "010", "<<", "=", "| x", "a #b",
	} {
		g := edit.Group{{Key: "text", Value: text}, {Key: "list", Value: []string{text, "x"}}, {Key: "group", Value: edit.Group{{Key: "inner", Value: text}}}}
		var got map[string]any
		if err := yaml.Unmarshal([]byte(g.String()), &got); err != nil {
			t.Errorf("%q: %v\n%s", text, err, g)
			continue
		}
		want := map[string]any{"text": text, "list": []any{text, "x"}, "group": map[string]any{"inner": text}}
		if !reflect.DeepEqual(got, want) || strings.Count(g.String(), "\n") != 3 {
			t.Errorf("%q: %v\n%s", text, got, g)
		}
	}
	if got := (edit.Group{{Key: "a", Value: "${X}"}, {Key: "n", Value: 5}, {Key: "f", Value: 0.1}, {Key: "b", Value: true}}).String(); got != "a: '$${X}'\nn: 5\nf: 0.1\nb: true\n" {
		t.Error(got)
	}
}

// TestOptionsAreAddedAndNothingElseChanges.
func TestOptionsAreAddedAndNothingElseChanges(t *testing.T) {
	add := edit.Group{{Key: "url", Value: "mqtt://h:1"}, {Key: "tls", Value: edit.Group{{Key: "ca", Value: "/ca"}}}, {Key: "keepalive", Value: "60s"}}
	const lines = "  url: mqtt://h:1\n  tls: {ca: /ca}\n  keepalive: 60s\n"
	for name, c := range map[string]struct {
		before, after string
		kept          []string
	}{
		"empty":       {"", "mqtt:\n" + lines, nil},
		"comments":    {"# mine", "# mine\nmqtt:\n" + lines, nil},
		"no group":    {"log: {level: info}\n", "log: {level: info}\nmqtt:\n" + lines, nil},
		"empty group": {"mqtt: # none\nlog: {}\n", "mqtt: # none\n" + lines + "log: {}\n", nil},
		"block":       {"mqtt:\n    # ours\n    username: u # who\n", "mqtt:\n" + "    url: mqtt://h:1\n    tls: {ca: /ca}\n    keepalive: 60s\n    # ours\n    username: u # who\n", nil},
		"some":        {"mqtt:\n  url: mqtt://h:1\n  keepalive: 30s\n", "mqtt:\n  tls: {ca: /ca}\n  url: mqtt://h:1\n  keepalive: 30s\n", []string{"keepalive"}},
		"all":         {"mqtt: {url: x, tls: {ca: /ca}, keepalive: 60s} # c\n", "mqtt: {url: x, tls: {ca: /ca}, keepalive: 60s} # c\n", []string{"url"}},
		"braces":      {"mqtt: {username: u} # c\n", "mqtt: {url: mqtt://h:1, tls: {ca: /ca}, keepalive: 60s, username: u} # c\n", nil},
		"no braces":   {"mqtt: {}\n", "mqtt: {url: mqtt://h:1, tls: {ca: /ca}, keepalive: 60s}\n", nil},
		"CRLF":        {"mqtt:\r\n  username: u\r\n", "mqtt:\r\n" + strings.ReplaceAll(lines, "\n", "\r\n") + "  username: u\r\n", nil},
	} {
		got, kept, err := edit.AddKeys([]byte(c.before), "mqtt", add)
		if err != nil || string(got) != c.after || !slices.Equal(kept, c.kept) {
			t.Errorf("%s: %v %v\n%s\nwant\n%s", name, err, kept, got, c.after)
		}
	}
	for _, text := range []string{"{mqtt: {}}\n", "mqtt: 7\n", "mqtt: [a]\n", "x: &a {b: 1}\nmqtt: *a\n", "mqtt: &a\n  b: 1\nother: *a\n", "- a\n"} {
		if got, _, err := edit.AddKeys([]byte(text), "mqtt", add); !errors.Is(err, edit.ErrByHand) {
			t.Errorf("%q: %v\n%s", text, err, got)
		}
	}
}
