package event_test

import (
	"encoding/json"
	"strings"
	"testing"

	"event2mqtt/internal/event"
)

func TestPathsLeadIntoObjectsAndArrays(t *testing.T) {
	const doc = `{"a":{"b":[{"c":1},{"c":"two","d.e":true}],"":0},"a.x":"whole","list":[[1,2],[3]],"n":null,"0":"zero"}`
	for path, want := range map[string]string{
		"a.b.0.c":    `1`,
		"a.b[1].c":   `"two"`,
		"a.b.1.d.e":  `true`,
		"a.x":        `"whole"`,
		"list.1.0":   `3`,
		"list[0][1]": `2`,
		"n":          `null`,
		"0":          `"zero"`,
		"a.b.2.c":    ``, "a.b.-1": ``, "a.b.x": ``, "a.c": ``, "n.x": ``, "": ``, ".": ``, "a.b[": ``, "list[9999999999]": ``, "a.b.0.c.d": ``,
	} {
		if got := event.Find([]byte(doc), path); string(got) != want {
			t.Errorf("%s: got %s, want %s", path, got, want)
		}
	}
}

func TestTextsThatHoldJSONAreOpened(t *testing.T) {
	for _, c := range []struct {
		object string
		paths  []string
		want   string
	}{
		{`{"payload":"{\"action\":\"opened\"}","x":1}`, []string{"payload"}, `{"payload":{"action":"opened"},"x":1}`},
		{`{"a":{"log":"{\"l\":\"[1]\"}\n"}}`, []string{"a.log", "a.log.l"}, `{"a":{"log":{"l":[1]}}}`},
		{`{"a":"x","b":"{","c":"12","d":{"e":1}}`, []string{"a", "b", "c", "d", "missing"}, `{"a":"x","b":"{","c":"12","d":{"e":1}}`},
	} {
		if got := event.Open([]byte(c.object), c.paths...); string(got) != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
	deep := strings.Repeat("[", event.MaxDepth) + strings.Repeat("]", event.MaxDepth)
	object, _ := json.Marshal(map[string]string{"log": deep})
	if got := event.Open(object, "log"); string(got) != string(object) {
		t.Errorf("opening made the payload deeper than is allowed: %s", got)
	}
}

// TestAPathWithAnEmptyStepIsRefused.
func TestAPathWithAnEmptyStepIsRefused(t *testing.T) {
	for path, good := range map[string]bool{
		"a": true, "a.b": true, "a[0].b": true, "[0].b": true, "a.0[1]": true, "a.[0]": true, "@timestamp": true, "labels.a-b": true,
		"": false, "a..b": false, ".a": false, "a.": false, "a[]": false, "a[0": true, "a[": false,
	} {
		if err := event.CheckPath(path); (err == nil) != good {
			t.Errorf("%q: %v", path, err)
		}
	}
}

func FuzzPaths(f *testing.F) {
	f.Add(`{"a":{"b":[{"c":"{\"d\":1}"}]}}`, "a.b[0].c")
	f.Fuzz(func(t *testing.T, doc, path string) {
		if len(doc) == 0 || doc[0] != '{' || event.Check([]byte(doc)) != nil {
			return
		}
		if found := event.Find([]byte(doc), path); found != nil && !json.Valid(found) {
			t.Errorf("%q in %q gave %q", path, doc, found)
		}
		if opened := event.Open([]byte(doc), path); event.Check(opened) != nil {
			t.Errorf("opening %q in %q gave %q", path, doc, opened)
		}
	})
}
