package edit_test

import (
	"errors"
	"strings"
	"testing"

	"event2mqtt/internal/config/edit"
)

const item = "name: octo\ntype: octoprint\napi_key: {file: /k}\n"

// TestAnItemIsAddedAndNothingElseChanges, whichever way the list is written.
func TestAnItemIsAddedAndNothingElseChanges(t *testing.T) {
	for name, c := range map[string]struct{ before, after string }{
		"empty":         {"", "sources:\n  - name: octo\n    type: octoprint\n    api_key: {file: /k}\n"},
		"comments only": {"# mine", "# mine\nsources:\n  - name: octo\n    type: octoprint\n    api_key: {file: /k}\n"},
		"no list":       {"mqtt:\n  url: x # the broker\n", "mqtt:\n  url: x # the broker\nsources:\n  - name: octo\n    type: octoprint\n    api_key: {file: /k}\n"},
		"empty key":     {"sources:   # none yet\nmqtt: {}\n", "sources:   # none yet\n  - name: octo\n    type: octoprint\n    api_key: {file: /k}\nmqtt: {}\n"},
		"block": {"a: 1\nsources:\n# the first\n- name: w # why\n  type: webhook\n\nb: 2\n",
			"a: 1\nsources:\n- name: octo\n  type: octoprint\n  api_key: {file: /k}\n# the first\n- name: w # why\n  type: webhook\n\nb: 2\n"},
		"deeper":   {"sources:\n    - {name: w}\n", "sources:\n    - name: octo\n      type: octoprint\n      api_key: {file: /k}\n    - {name: w}\n"},
		"flow":     {"sources: [{name: w}] # one\n", "sources: [{name: octo, type: octoprint, api_key: {file: /k}}, {name: w}] # one\n"},
		"no end":   {"sources:", "sources:\n  - name: octo\n    type: octoprint\n    api_key: {file: /k}\n"},
		"brackets": {"sources: []\nb: 2\n", "sources: [{name: octo, type: octoprint, api_key: {file: /k}}]\nb: 2\n"},
		"CRLF":     {"a: 1\r\nsources:\r\n  - {name: w}\r\n", "a: 1\r\nsources:\r\n  - name: octo\r\n    type: octoprint\r\n    api_key: {file: /k}\r\n  - {name: w}\r\n"},
	} {
		got, err := edit.AddItem([]byte(c.before), "sources", item)
		if err != nil || string(got) != c.after {
			t.Errorf("%s: %v\n%s\nwant\n%s", name, err, got, c.after)
		}
	}
}

// TestWhatIsNotUnderstoodIsLeftAlone.
func TestWhatIsNotUnderstoodIsLeftAlone(t *testing.T) {
	for _, text := range []string{
		"{sources: []}\n", "sources: 7\n", "sources: {a: 1}\n", "- a\n", "text\n",
		"x: &all [{name: w}]\nsources: *all\n", "sources: !!seq\n  - {name: w}\n---\nsources: []\n", "sources: &a\n  - {name: w}\nother: *a\n",
	} {
		got, err := edit.AddItem([]byte(text), "sources", item)
		if !errors.Is(err, edit.ErrByHand) {
			t.Errorf("%q: %v\n%s", text, err, got)
		}
	}
	if _, err := edit.AddItem([]byte("a: [\n"), "sources", item); err == nil || !strings.Contains(err.Error(), "yaml: line") {
		t.Errorf("no YAML: %v", err)
	}
}

// FuzzAddItem: whatever the file holds, the edited one says the same and the
// item, which AddItem itself verifies, or nothing is returned.
func FuzzAddItem(f *testing.F) {
	for _, text := range []string{"", "sources:\n  - {name: w}\n", "sources: [{}]", "a: |\n  sources:\n   - x\nsources:\n"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		out, err := edit.AddItem(text, "sources", item)
		if (out == nil) == (err == nil) {
			t.Errorf("%q: %q, %v", text, out, err)
		}
	})
}
