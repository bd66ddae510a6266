// Package topic renders topic templates such as "{base}/event/{event}" and
// decides what may stand in a topic. Names come from outside: whatever they
// hold, a rendered topic stays under its template's literal beginning, is one
// that every broker takes, and names no other level than the template meant.
package topic

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/tidwall/gjson"
)

// Limits of a rendered topic. MQTT allows 65,535 bytes (5.0 spec, 1.5.4);
// brokers, ours and Mosquitto among them, refuse more than 200 levels.
const (
	MaxBytes  = 65535
	MaxLevels = 200
)

// Missing stands in for a payload value that is absent, null or not a scalar.
const Missing = "unknown"

// Values are what a template's placeholders stand for.
type Values struct {
	Event   string
	Source  string
	Payload []byte // valid JSON
	Key     string // of a state; each level between slashes is one of the topic
}

// Template is a parsed topic template. It is immutable; its zero value
// renders nothing and is refused by Render.
type Template struct {
	text  string
	parts []part
}

// part is a literal, or a placeholder when field is set.
type part struct {
	literal string
	field   string // "event", "source", "payload", "key"
	path    string // gjson path, when field is "payload"
	filters []func(string) string
}

var filters = map[string]func(string) string{"lower": strings.ToLower, "snake": Snake}

// Parse reads a template. {base} is replaced by base at once; {event},
// {source} and {payload.key} (dots go deeper) wait for Render, each
// optionally followed by |lower or |snake. The template must begin with a
// literal, {base} included.
func Parse(text, base string) (Template, error) { return parse(text, base, parsePlaceholder) }

// ParseState reads a template of states' topics. {source} and {key} wait for
// Render, and both must be there, so that two states do not share a topic.
func ParseState(text, base string) (Template, error) {
	t, err := parse(text, base, parseStatePlaceholder)
	if err != nil {
		return Template{}, err
	}
	var missing []string
	for _, field := range []string{"source", "key"} {
		if !slices.ContainsFunc(t.parts, func(p part) bool { return p.field == field }) {
			missing = append(missing, "no {"+field+"}")
		}
	}
	if missing != nil {
		return Template{}, fmt.Errorf("topic template %q has %s: different states would go to one topic", text, strings.Join(missing, " and "))
	}
	return t, nil
}

// parse reads a template. The error tells all that is wrong with it, on one line.
func parse(text, base string, placeholder func(inner string) (part, error)) (Template, error) {
	t := Template{text: text}
	var wrong []string
	for rest := text; rest != ""; {
		literal, after, found := strings.Cut(rest, "{")
		if strings.Contains(literal, "}") {
			wrong = append(wrong, "'}' without '{'")
		}
		t.addLiteral(literal)
		if !found {
			break
		}
		inner, next, closed := strings.Cut(after, "}")
		if !closed {
			wrong = append(wrong, "'{' without '}'")
			break
		}
		if inner == "base" {
			t.addLiteral(base)
		} else {
			p, err := placeholder(inner)
			if err != nil {
				wrong = append(wrong, err.Error())
			}
			t.parts = append(t.parts, p)
		}
		rest = next
	}
	if len(t.parts) == 0 && wrong == nil {
		return Template{}, errors.New("topic template is empty")
	}
	if wrong = append(wrong, t.wrong()...); len(wrong) > 0 {
		return Template{}, fmt.Errorf("topic template %q: %s", text, strings.Join(slices.Compact(wrong), "; "))
	}
	return t, nil
}

func (t *Template) addLiteral(s string) {
	if s == "" {
		return
	}
	if n := len(t.parts); n > 0 && t.parts[n-1].field == "" {
		t.parts[n-1].literal += s
		return
	}
	t.parts = append(t.parts, part{literal: s})
}

func parsePlaceholder(inner string) (part, error) {
	field, rest, _ := strings.Cut(inner, "|")
	p := part{field: field}
	switch {
	case field == "event", field == "source":
	case strings.HasPrefix(field, "payload."):
		p.field, p.path = "payload", strings.TrimPrefix(field, "payload.")
		if !plainPath(p.path) {
			return p, fmt.Errorf("{%s}: a payload key may hold letters, digits, '_' and '-', with dots between levels", inner)
		}
	default:
		return p, fmt.Errorf("unknown placeholder {%s}; there are {base}, {event}, {source} and {payload.KEY}", inner)
	}
	return p.filter(inner, rest)
}

func parseStatePlaceholder(inner string) (part, error) {
	field, rest, _ := strings.Cut(inner, "|")
	if field != "source" && field != "key" {
		return part{field: field}, fmt.Errorf("unknown placeholder {%s}; there are {base}, {source} and {key}", inner)
	}
	return part{field: field}.filter(inner, rest)
}

// filter adds the filters that stand behind a placeholder, between bars.
func (p part) filter(inner, rest string) (part, error) {
	if rest == "" {
		return p, nil
	}
	var unknown []string
	for name := range strings.SplitSeq(rest, "|") {
		if f, ok := filters[name]; ok {
			p.filters = append(p.filters, f)
		} else {
			unknown = append(unknown, strconv.Quote(name))
		}
	}
	if unknown != nil {
		return p, fmt.Errorf("{%s}: unknown filter %s; there are lower and snake", inner, strings.Join(unknown, ", "))
	}
	return p, nil
}

func plainPath(path string) bool {
	for level := range strings.SplitSeq(path, ".") {
		if level == "" || strings.Trim(level, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") != "" {
			return false
		}
	}
	return true
}

// wrong tells why every rendering of the template would be wrong or unconfined.
func (t Template) wrong() (why []string) {
	if len(t.parts) > 0 && t.parts[0].field != "" {
		why = append(why, "it must begin with a fixed text such as {base}/, so that no event can choose its own place")
	}
	for i, p := range t.parts {
		if p.field == "" {
			if err := checkLiteral(p.literal, i == 0); err != nil {
				why = append(why, err.Error())
			}
		}
	}
	return why
}

func checkLiteral(s string, first bool) error {
	switch {
	case !utf8.ValidString(s):
		return fmt.Errorf("not valid UTF-8")
	case strings.ContainsAny(s, "+#"):
		return fmt.Errorf("'+' and '#' are wildcards and cannot be published to")
	case strings.IndexFunc(s, unicode.IsControl) >= 0:
		return fmt.Errorf("control characters are not allowed")
	case first && strings.HasPrefix(s, "$"):
		return fmt.Errorf("topics that begin with '$' belong to the broker")
	case first && strings.HasPrefix(s, "/"):
		return fmt.Errorf("must not begin with '/': that makes a first level without a name")
	case strings.Contains(s, "//"):
		return fmt.Errorf("has a level without a name ('//')")
	}
	return nil
}

// Check tells whether a topic that holds no placeholder can be published to.
func Check(topic string) error {
	if strings.ContainsAny(topic, "{}") {
		return fmt.Errorf("topic %q: placeholders are not allowed here", topic)
	}
	return CheckName(topic)
}

// CheckName tells whether a topic can be published to, as it is.
func CheckName(topic string) error {
	if topic == "" {
		return fmt.Errorf("topic is empty")
	}
	if err := checkLiteral(topic, true); err != nil {
		return fmt.Errorf("topic %q: %w", topic, err)
	}
	return checkSize(topic)
}

// Literal returns the topic of a template that has no placeholder left.
func (t Template) Literal() (string, bool) {
	if len(t.parts) == 1 && t.parts[0].field == "" {
		return t.parts[0].literal, true
	}
	return "", false
}

// Outside reports whether what an event says has a part in its topic: its name,
// or what is in its payload.
func (t Template) Outside() bool {
	return slices.ContainsFunc(t.parts, func(p part) bool { return p.field == "event" || p.field == "payload" })
}

// Sample returns a topic of the template in which no placeholder's value means
// anything: a level of it that does is one of every topic.
func (t Template) Sample() string {
	var b strings.Builder
	for _, p := range t.parts {
		b.WriteString(p.render(Values{}))
	}
	return b.String()
}

// String returns the template as it was written.
func (t Template) String() string { return t.text }

// Prefix returns the literal that every rendering begins with.
func (t Template) Prefix() string { return t.parts[0].literal }

// Render returns the topic for v, or an error for a topic that is too long or
// too deep; such an event cannot be published, others can.
func (t Template) Render(v Values) (string, error) {
	if len(t.parts) == 0 {
		return "", fmt.Errorf("topic template is empty")
	}
	if len(t.parts) == 2 && t.parts[1].field == "event" && t.parts[1].filters == nil {
		topic := t.parts[0].literal + Safe(v.Event) // the default template
		return topic, checkSize(topic)
	}
	var b strings.Builder
	for _, p := range t.parts {
		b.WriteString(p.render(v))
	}
	topic := b.String()
	return topic, checkSize(topic)
}

// Filter returns a subscription that has all topics that events of a source can
// have, and few others: each level that is not the same for all is a wildcard.
func (t Template) Filter(source string) string {
	const wild = "\x00" // no topic holds it
	var b strings.Builder
	for _, p := range t.parts {
		switch p.field {
		case "event", "payload", "key":
			b.WriteString(wild)
		default:
			b.WriteString(p.render(Values{Source: source}))
		}
	}
	levels := strings.Split(b.String(), "/")
	for i, level := range levels {
		if strings.Contains(level, wild) {
			levels[i] = "+"
		}
	}
	return strings.Join(levels, "/")
}

// Of returns the topic of the events of a source with a name, if no event with
// another name has it.
func (t Template) Of(source, name string) (string, bool) {
	for _, p := range t.parts {
		if p.field == "payload" || p.field == "event" && len(p.filters) > 0 {
			return "", false
		}
	}
	topic, err := t.Render(Values{Source: source, Event: name})
	return topic, err == nil && Safe(name) == name
}

// Overlap reports whether a topic may match both filters, which have no
// wildcard but +.
func Overlap(a, b string) bool {
	for {
		one, restA, moreA := strings.Cut(a, "/")
		other, restB, moreB := strings.Cut(b, "/")
		if one != other && one != "+" && other != "+" || moreA != moreB {
			return false
		}
		if !moreA {
			return true
		}
		a, b = restA, restB
	}
}

func (p part) render(v Values) string {
	var s string
	switch p.field {
	case "":
		return p.literal
	case "event":
		s = v.Event
	case "source":
		s = v.Source
	case "payload":
		s = scalar(gjson.GetBytes(v.Payload, p.path))
	}
	if p.field == "key" {
		s = v.Key
	}
	for _, f := range p.filters {
		s = f(s)
	}
	if p.field == "key" {
		return SafePath(s)
	}
	return Safe(s)
}

func scalar(r gjson.Result) string {
	switch r.Type {
	case gjson.String:
		return r.Str
	case gjson.Number, gjson.True, gjson.False:
		return r.Raw
	}
	return Missing
}

func checkSize(topic string) error {
	if len(topic) > MaxBytes {
		return fmt.Errorf("topic has %d bytes; at most %d are allowed", len(topic), MaxBytes)
	}
	if n := strings.Count(topic, "/") + 1; n > MaxLevels {
		return fmt.Errorf("topic has %d levels; at most %d are allowed", n, MaxLevels)
	}
	return nil
}

// Safe makes a name fit to stand as one topic level. Names of letters,
// digits, '_' and '-' keep their exact spelling; what some broker would
// refuse or take for a wildcard or a separator becomes '_': / + # . * >,
// white space, control characters, a leading '$', and what is not UTF-8.
func Safe(name string) string {
	if name == "" {
		return "_"
	}
	clean := true
	for i := 0; i < len(name) && clean; i++ {
		c := name[i]
		clean = c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9' || c == '_' || c == '-'
	}
	if clean {
		return name
	}
	safe := strings.Map(func(r rune) rune {
		if r == utf8.RuneError || strings.ContainsRune("/+#.*>", r) || unicode.IsSpace(r) || !unicode.IsPrint(r) {
			return '_'
		}
		return r
	}, strings.ToValidUTF8(name, "_"))
	if safe[0] == '$' {
		safe = "_" + safe[1:]
	}
	return safe
}

// SafePath makes each level of a path between slashes safe.
func SafePath(path string) string {
	levels := strings.Split(path, "/")
	for i, level := range levels {
		levels[i] = Safe(level)
	}
	return strings.Join(levels, "/")
}

// Snake turns PrintStarted into print_started and HTTPError into http_error.
func Snake(name string) string {
	var b strings.Builder
	runes := []rune(name)
	for i, r := range runes {
		if unicode.IsUpper(r) && i > 0 && runes[i-1] != '_' {
			beforeWord := i+1 < len(runes) && unicode.IsLower(runes[i+1])
			if !unicode.IsUpper(runes[i-1]) || beforeWord {
				b.WriteByte('_')
			}
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}
