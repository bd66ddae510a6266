package edit

import (
	"bytes"
	"fmt"
	"reflect"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Pair is an option and its value: a text, a number, true or false, a list of
// texts, or a Group.
type Pair struct {
	Key   string
	Value any
}

// Group are options in their order.
type Group []Pair

// String writes a group as YAML, an option on each line and groups within it in
// braces. A text means what it says: ${ in it is no variable.
func (g Group) String() string {
	var b strings.Builder
	for _, p := range g {
		b.WriteString(p.line() + "\n")
	}
	return b.String()
}

// Flow writes a group as YAML on one line, in braces.
func (g Group) Flow() string { return flow(g) }

// line is KEY: VALUE.
func (p Pair) line() string { return scalar(p.Key) + ": " + flow(p.Value) }

// flow writes a value on one line.
func flow(value any) string {
	switch v := value.(type) {
	case Group:
		var parts []string
		for _, p := range v {
			parts = append(parts, p.line())
		}
		return "{" + strings.Join(parts, ", ") + "}"
	case []string:
		var parts []string
		for _, text := range v {
			parts = append(parts, scalar(text))
		}
		return "[" + strings.Join(parts, ", ") + "]"
	case string:
		return scalar(strings.ReplaceAll(v, "${", "$${"))
	}
	return fmt.Sprint(value)
}

// plain are addresses, paths and topics, which need no quotes.
var plain = regexp.MustCompile(`^[A-Za-z/][A-Za-z0-9._:/-]*/([A-Za-z0-9._:/-]*[A-Za-z0-9._/-])?$`)

// scalar writes a text so that YAML reads it as that text, also within braces.
func scalar(text string) string {
	if plain.MatchString(text) {
		return text
	}
	node := yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle, Content: []*yaml.Node{{Kind: yaml.ScalarNode, Tag: "!!str", Value: text}}}
	if strings.ContainsAny(text, "\r\n") || len(text) > 60 { // it would be folded
		node.Content[0].Style = yaml.DoubleQuotedStyle
	}
	out, err := yaml.Marshal(&node)
	line := strings.TrimSpace(string(out))
	if err != nil || strings.Contains(line, "\n") {
		return fmt.Sprintf("%q", text)
	}
	return line[1 : len(line)-1]
}

// AddKeys returns text with options in a group at the top, such as mqtt, which
// is made if it is not there. An option that is there stays as it is; kept are
// the keys of those whose value is another than that in add. The error is that
// of AddItem.
func AddKeys(text []byte, key string, add Group) (out []byte, kept []string, err error) {
	var root yaml.Node
	if err := yaml.Unmarshal(text, &root); err != nil {
		return nil, nil, fmt.Errorf("read the file: %w", err)
	}
	end := "\n"
	if bytes.Contains(text, []byte("\r\n")) {
		end = "\r\n"
	}
	name, group, err := find(&root, key)
	if err != nil {
		return nil, nil, err
	}
	fresh, kept := missing(group, add)
	if len(fresh) == 0 {
		return bytes.Clone(text), kept, nil
	}
	switch {
	case name == nil:
		out = bytes.Clone(text)
		if len(out) > 0 && !bytes.HasSuffix(out, []byte("\n")) {
			out = append(out, end...)
		}
		out = append(out, key+":"+end+indented(fresh, "  ", end)...)
	case group.Tag == "!!null" && group.Value == "":
		out = insertLines(text, name.Line, indented(fresh, "  ", end))
	case group.Kind != yaml.MappingNode:
		return nil, nil, ErrByHand
	case group.Style&yaml.FlowStyle != 0:
		if out, err = insertBehind(text, group, '{', strings.TrimSuffix(flow(fresh)[1:], "}"), len(group.Content) > 0); err != nil {
			return nil, nil, err
		}
	default:
		out = insertLines(text, name.Line, indented(fresh, strings.Repeat(" ", group.Column-1), end))
	}
	if err := verifyKeys(text, out, key, fresh); err != nil {
		return nil, nil, err
	}
	return out, kept, nil
}

// find finds a key at the top and its value; both are nil if it is not there.
func find(root *yaml.Node, key string) (name, value *yaml.Node, err error) {
	if root.Kind == 0 || root.Content[0].Tag == "!!null" { // comments alone
		return nil, nil, nil
	}
	top := root.Content[0]
	if top.Kind != yaml.MappingNode || top.Style&yaml.FlowStyle != 0 {
		return nil, nil, ErrByHand
	}
	for i := 0; i < len(top.Content); i += 2 {
		if top.Content[i].Value == key {
			name, value = top.Content[i], top.Content[i+1]
		}
	}
	return name, value, nil
}

// missing are the options of add that a group does not have, and the keys of
// those that it has with another value.
func missing(group *yaml.Node, add Group) (fresh Group, kept []string) {
	have := map[string]any{}
	if group != nil {
		_ = group.Decode(&have) // what is no group is told of later
	}
	for _, p := range add {
		value, there := have[p.Key]
		var want any
		switch {
		case !there:
			fresh = append(fresh, p)
		case yaml.Unmarshal([]byte(flow(p.Value)), &want) != nil || !reflect.DeepEqual(value, want):
			kept = append(kept, p.Key)
		}
	}
	return fresh, kept
}

func indented(g Group, pad, end string) string {
	var b strings.Builder
	for _, p := range g {
		b.WriteString(pad + p.line() + end)
	}
	return b.String()
}

// insertBehind puts text behind the sign that a list or group begins with; more
// is that others follow.
func insertBehind(text []byte, node *yaml.Node, sign byte, insert string, more bool) ([]byte, error) {
	if more {
		insert += ", "
	}
	at := 0
	for range node.Line - 1 {
		at += bytes.IndexByte(text[at:], '\n') + 1
	}
	at += node.Column // behind the sign
	if at > len(text) || text[at-1] != sign {
		return nil, ErrByHand
	}
	return append(append(bytes.Clone(text[:at]), insert...), text[at:]...), nil
}

// verifyKeys reports whether the edited text says what it should: the same as
// before, and the options.
func verifyKeys(before, after []byte, key string, add Group) error {
	var want, got map[string]any
	var added map[string]any
	if yaml.Unmarshal(before, &want) != nil || yaml.Unmarshal(after, &got) != nil || yaml.Unmarshal([]byte(add.String()), &added) != nil {
		return ErrByHand
	}
	if want == nil {
		want = map[string]any{}
	}
	group, _ := want[key].(map[string]any)
	if group == nil {
		group = map[string]any{}
	}
	for name, value := range added {
		group[name] = value
	}
	want[key] = group
	if !reflect.DeepEqual(want, got) {
		return ErrByHand
	}
	return nil
}
