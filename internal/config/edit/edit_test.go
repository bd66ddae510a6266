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

// TestAnItemIsAppended behind all lines of the last one, and before what is
// commented out behind it.
func TestAnItemIsAppended(t *testing.T) {
	const block = "  - name: octo\n    type: octoprint\n    api_key: {file: /k}\n"
	const flow = "{name: octo, type: octoprint, api_key: {file: /k}}"
	for name, c := range map[string]struct{ before, after string }{
		"empty":     {"", "sources:\n" + block},
		"empty key": {"sources:   # none yet\nmqtt: {}\n", "sources:   # none yet\n" + block + "mqtt: {}\n"},
		"block": {"a: 1\nsources:\n  # the first\n  - name: w # why\n    type: webhook\n\n  - name: v\n    type: webhook\n    # its own\n\n# b is\nb: 2\n",
			"a: 1\nsources:\n  # the first\n  - name: w # why\n    type: webhook\n\n  - name: v\n    type: webhook\n    # its own\n" + block + "\n# b is\nb: 2\n"},
		"commented out": {"sources:\n  - {name: w}\n  # - {name: v}\nb: 2\n", "sources:\n  - {name: w}\n" + block + "  # - {name: v}\nb: 2\n"},
		"at the margin": {"sources:\n- name: w\n  type: webhook\nb: 2\n", "sources:\n- name: w\n  type: webhook\n- name: octo\n  type: octoprint\n  api_key: {file: /k}\nb: 2\n"},
		"text":          {"sources:\n  - name: |\n      a\n\n      b: # c\n    type: webhook\nb: 2\n", "sources:\n  - name: |\n      a\n\n      b: # c\n    type: webhook\n" + block + "b: 2\n"},
		"no end":        {"sources:\n  - {name: w}", "sources:\n  - {name: w}\n" + block},
		"CRLF":          {"sources:\r\n  - {name: w}\r\n", "sources:\r\n  - {name: w}\r\n" + strings.ReplaceAll(block, "\n", "\r\n")},
		"flow":          {"sources: [{name: 'w]'}, {a: [b]}] # one ]\n", "sources: [{name: 'w]'}, {a: [b]}, " + flow + "] # one ]\n"},
		"lines in flow": {"sources: [\n  {name: w},\n  ]\nb: 2\n", "sources: [\n  {name: w}, " + flow + "\n  ]\nb: 2\n"},
		"brackets":      {"sources: []\nb: 2\n", "sources: [" + flow + "]\nb: 2\n"},
	} {
		got, err := edit.AppendItem([]byte(c.before), "sources", item)
		if err != nil || string(got) != c.after {
			t.Errorf("%s: %v\n%s\nwant\n%s", name, err, got, c.after)
		}
	}
	for _, text := range []string{"{sources: []}\n", "sources: 7\n", "x: &all [{name: w}]\nsources: *all\n", "sources: &a\n  - {name: w}\nother: *a\n"} {
		if got, err := edit.AppendItem([]byte(text), "sources", item); !errors.Is(err, edit.ErrByHand) {
			t.Errorf("%q: %v\n%s", text, err, got)
		}
	}
}

// TestWrittenTellsHowToAddByHand.
func TestWrittenTellsHowToAddByHand(t *testing.T) {
	for text, want := range map[string][2]bool{
		"": {}, "a: [": {}, "- a\n": {}, "a: 1\n": {}, "{a: 1}": {false, true}, "{sources: []}": {true, true},
		"sources:\n": {true, false}, "sources: [{name: w}]\n": {true, true}, "sources: &a\n  - {name: w}\nb: *a\n": {true, false},
	} {
		if there, inline := edit.Written([]byte(text), "sources"); there != want[0] || inline != want[1] {
			t.Errorf("%q: %t, %t", text, there, inline)
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
		if out, err = edit.AppendItem(text, "sources", item); (out == nil) == (err == nil) {
			t.Errorf("%q, as the last: %q, %v", text, out, err)
		}
	})
}
