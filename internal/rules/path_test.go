package rules_test

import (
	"strings"
	"testing"
	"time"

	"event2mqtt/internal/event"
	"event2mqtt/internal/rules"
)

// TestPickAndPerTakePaths finds values inside, numbers and booleans among them.
func TestPickAndPerTakePaths(t *testing.T) {
	set, err := rules.New([]rules.Config{{Pick: []string{"a.b[0].c", "ok", "x.y"}, MinInterval: time.Hour, Per: []string{"a.b[0].c"}}}, rules.Options{Base: "b"})
	if err != nil {
		t.Fatal(err)
	}
	p := set.Begin(time.Now())
	defer p.Abort()
	for _, c := range []struct {
		payload, want string
		verdict       rules.Kind
	}{
		{`{"a":{"b":[{"c":1}]},"ok":true,"z":1}`, `{"ok":true,"a.b[0].c":1}`, rules.Pass},
		{`{"a":{"b":[{"c":2}]},"ok":true,"x":{"y":false}}`, `{"ok":true,"a.b[0].c":2,"x.y":false}`, rules.Pass},
		{`{"a":{"b":[{"c":2}]},"ok":false}`, `{"ok":false,"a.b[0].c":2}`, rules.Hold},
	} {
		e := event.Event{Name: "e", Source: "s", Payload: []byte(c.payload)}
		if got := p.Apply(&e).Kind; got != c.verdict || string(e.Payload) != c.want {
			t.Errorf("%s: %v, %s; want %v, %s", c.payload, got, e.Payload, c.verdict, c.want)
		}
	}
}

// TestAddRefusesPlaceholders, which it would not fill in, and takes other braces.
func TestAddRefusesPlaceholders(t *testing.T) {
	for value, bad := range map[any]bool{"{event}": true, "at {payload.a.b|lower}": true, "{x}": false, "{}": false, 7: false} {
		err := check([]rules.Config{{Add: map[string]any{"k": value}}}, "b")
		if (err != nil) != bad || bad && !strings.Contains(err.Error(), "placeholder") {
			t.Errorf("%v: %v", value, err)
		}
	}
	if check([]rules.Config{{Add: map[string]any{"k": map[string]any{"in": []any{"{source}"}}}}}, "b") == nil {
		t.Error("one deep inside is taken")
	}
}

// TestRenameRefusesPlaceholders, as add does.
func TestRenameRefusesPlaceholders(t *testing.T) {
	for name, bad := range map[string]bool{"{event}-x": true, "a {payload.b|lower}": true, "{x}": false, "Done": false} {
		err := check([]rules.Config{{Rename: name}}, "b")
		if (err != nil) != bad || bad && !strings.Contains(err.Error(), "rules[0].rename: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
