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
func AddItem(text []byte, key, item string) ([]byte, error) { return add(text, key, item, false) }

// AppendItem is AddItem for an item that becomes the last.
func AppendItem(text []byte, key, item string) ([]byte, error) { return add(text, key, item, true) }

func add(text []byte, key, item string, last bool) ([]byte, error) {
	var root yaml.Node
	if err := yaml.Unmarshal(text, &root); err != nil {
		return nil, fmt.Errorf("read the file: %w", err)
	}
	end := "\n"
	if bytes.Contains(text, []byte("\r\n")) {
		end = "\r\n"
	}
	name, list, err := find(&root, key)
	if err != nil {
		return nil, err
	}
	var out []byte
	switch {
	case name == nil:
		out = appendList(text, key, item, end)
	case list.Tag == "!!null" && list.Value == "":
		out = insertLines(text, name.Line, indent(item, "  ", end))
	case list.Kind != yaml.SequenceNode:
		return nil, ErrByHand
	case list.Style&yaml.FlowStyle != 0:
		return insertFlow(text, list, key, item, last)
	default:
		line := name.Line
		if last {
			line = lastLine(text, list)
		}
		out = insertLines(text, line, indent(item, strings.Repeat(" ", list.Column-1), end))
	}
	if err := verify(text, out, key, item, last); err != nil {
		return nil, err
	}
	return out, nil
}

// lastLine is the line that the last item of a list ends on: the last of those
// that are indented further than its dash.
func lastLine(text []byte, list *yaml.Node) int {
	line := list.Content[len(list.Content)-1].Line
	n := 0
	for each := range bytes.Lines(text) {
		if n++; n <= line {
			continue
		}
		rest := bytes.TrimLeft(each, " ")
		switch indented := len(each) - len(rest); {
		case len(bytes.TrimSpace(rest)) == 0:
		case indented < list.Column:
			return line
		default:
			line = n
		}
	}
	return line
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

// insertFlow puts an item into a list such as [{name: a}].
func insertFlow(text []byte, list *yaml.Node, key, item string, last bool) ([]byte, error) {
	var node yaml.Node
	if err := yaml.Unmarshal([]byte(item), &node); err != nil || len(node.Content) != 1 {
		return nil, fmt.Errorf("the item is no YAML: %w", errors.Join(err, ErrByHand))
	}
	node.Content[0].Style = yaml.FlowStyle
	written, err := yaml.Marshal(node.Content[0])
	if err != nil {
		return nil, fmt.Errorf("write the item: %w", err)
	}
	flow := string(bytes.TrimSpace(written))
	if last && len(list.Content) > 0 {
		return appendFlow(text, list, key, item, flow)
	}
	out, err := insertBehind(text, list, '[', flow, len(list.Content) > 0)
	if err == nil {
		err = verify(text, out, key, item, last)
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}

// appendFlow puts an item before the bracket that closes a list. Where that is
// the parser does not tell: each that may be it is tried.
func appendFlow(text []byte, list *yaml.Node, key, item, flow string) ([]byte, error) {
	const most = 20
	at := offset(text, list.Content[len(list.Content)-1])
	for range most {
		next := bytes.IndexByte(text[at:], ']')
		if next < 0 {
			break
		}
		at += next
		kept := len(bytes.TrimRight(text[:at], " \r\n"))
		for _, glue := range []string{", ", " "} { // there may be a comma behind the last
			out := append([]byte(nil), text[:kept]...)
			out = append(out, glue+flow...)
			out = append(out, text[kept:]...)
			if verify(text, out, key, item, true) == nil {
				return out, nil
			}
		}
		at++
	}
	return nil, ErrByHand
}

// offset is where a node begins.
func offset(text []byte, node *yaml.Node) (at int) {
	for range node.Line - 1 {
		at += bytes.IndexByte(text[at:], '\n') + 1
	}
	return min(at+node.Column-1, len(text))
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
// before, and the item first, or last.
func verify(before, after []byte, key, item string, last bool) error {
	var want, got map[string]any
	var added any
	if yaml.Unmarshal(before, &want) != nil || yaml.Unmarshal(after, &got) != nil || yaml.Unmarshal([]byte(item), &added) != nil {
		return ErrByHand
	}
	if want == nil {
		want = map[string]any{}
	}
	list, _ := want[key].([]any)
	if last {
		want[key] = append(list, added)
	} else {
		want[key] = append([]any{added}, list...)
	}
	if !reflect.DeepEqual(want, got) {
		return ErrByHand
	}
	return nil
}

// Written tells whether a file has a key at the top, and whether what stands
// there is, or would have to be, within brackets, for who adds to it by hand.
func Written(text []byte, key string) (there, inline bool) {
	var root yaml.Node
	if yaml.Unmarshal(text, &root) != nil || root.Kind == 0 || root.Content[0].Kind != yaml.MappingNode {
		return false, false
	}
	top := root.Content[0]
	inline = top.Style&yaml.FlowStyle != 0
	for i := 0; i < len(top.Content); i += 2 {
		if value := top.Content[i+1]; top.Content[i].Value == key {
			return true, inline || value.Style&yaml.FlowStyle != 0 && len(value.Content) > 0
		}
	}
	return false, inline
}
