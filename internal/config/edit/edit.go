// Package edit adds to a YAML file that a person wrote, and leaves everything
// else in it as it is: comments, order, blank lines. It changes text; writing
// files is not its business.
package edit

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v3"
)

// ErrByHand tells that a file is written in a way that this package does not
// change.
var ErrByHand = errors.New("the file is written in a way that is not changed automatically; add it by hand")

// AddItem returns text with one more item in the list under a key at the top,
// as its first. item is YAML, without the dash: a group of options, each on a
// line of its own. The error is ErrByHand, or that of a file that is no YAML.
func AddItem(text []byte, key, item string) ([]byte, error) {
	var root yaml.Node
	if err := yaml.Unmarshal(text, &root); err != nil {
		return nil, fmt.Errorf("read the file: %w", err)
	}
	end := "\n"
	if bytes.Contains(text, []byte("\r\n")) {
		end = "\r\n"
	}
	out, err := insert(text, &root, key, item, end)
	if err != nil {
		return nil, err
	}
	if err := verify(text, out, key, item); err != nil {
		return nil, err
	}
	return out, nil
}

func insert(text []byte, root *yaml.Node, key, item, end string) ([]byte, error) {
	name, list, err := find(root, key)
	switch {
	case err != nil:
		return nil, err
	case name == nil:
		return appendList(text, key, item, end), nil
	case list.Tag == "!!null" && list.Value == "":
		return insertLines(text, name.Line, indent(item, "  ", end)), nil
	case list.Kind != yaml.SequenceNode:
		return nil, ErrByHand
	case list.Style&yaml.FlowStyle != 0:
		return insertFlow(text, list, item)
	}
	return insertLines(text, name.Line, indent(item, strings.Repeat(" ", list.Column-1), end)), nil
}

// appendList adds a list at the end.
func appendList(text []byte, key, item, end string) []byte {
	out := bytes.Clone(text)
	if len(out) > 0 && !bytes.HasSuffix(out, []byte("\n")) {
		out = append(out, end...)
	}
	return append(out, key+":"+end+indent(item, "  ", end)...)
}

// insertLines puts lines behind the line with a number, counted from 1.
func insertLines(text []byte, line int, lines string) []byte {
	at := 0
	for range line {
		next := bytes.IndexByte(text[at:], '\n')
		if next < 0 { // the last line does not end
			return append(append(bytes.Clone(text), '\n'), lines...)
		}
		at += next + 1
	}
	return append(append(bytes.Clone(text[:at]), lines...), text[at:]...)
}

// insertFlow puts an item behind the bracket of a list such as [{name: a}].
func insertFlow(text []byte, list *yaml.Node, item string) ([]byte, error) {
	var node yaml.Node
	if err := yaml.Unmarshal([]byte(item), &node); err != nil || len(node.Content) != 1 {
		return nil, fmt.Errorf("the item is no YAML: %w", errors.Join(err, ErrByHand))
	}
	node.Content[0].Style = yaml.FlowStyle
	flow, err := yaml.Marshal(node.Content[0])
	if err != nil {
		return nil, fmt.Errorf("write the item: %w", err)
	}
	return insertBehind(text, list, '[', string(bytes.TrimSpace(flow)), len(list.Content) > 0)
}

// indent writes an item of a list whose dashes are behind pad.
func indent(item, pad, end string) string {
	var b strings.Builder
	first := true
	for line := range strings.Lines(strings.TrimRight(item, "\n")) {
		lead := pad + "  "
		if first {
			lead, first = pad+"- ", false
		}
		b.WriteString(lead + strings.TrimRight(line, "\r\n") + end)
	}
	return b.String()
}

// verify reports whether the edited text says what it should: the same as
// before, and the item first.
func verify(before, after []byte, key, item string) error {
	var want, got map[string]any
	var added any
	if yaml.Unmarshal(before, &want) != nil || yaml.Unmarshal(after, &got) != nil || yaml.Unmarshal([]byte(item), &added) != nil {
		return ErrByHand
	}
	if want == nil {
		want = map[string]any{}
	}
	list, _ := want[key].([]any)
	want[key] = append([]any{added}, list...)
	if !reflect.DeepEqual(want, got) {
		return ErrByHand
	}
	return nil
}
