package httpsink

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"event2mqtt/internal/event"
	"event2mqtt/internal/journal"
	"event2mqtt/internal/topic"
)

// Bounds of templates, and of what they make.
const (
	maxTemplate     = 16 << 10 // bytes
	maxPlaceholders = 64
	maxText         = 1800 // bytes of {text}: what all messengers take
	maxMembers      = 30   // members of a payload in {text}
)

// timeFormat is RFC 3339 in UTC, with milliseconds.
const timeFormat = "2006-01-02T15:04:05.000Z"

// form is where a template's text goes, which decides how values are written.
type form byte

const (
	asText form = iota // as they are
	asJSON             // so that the text stays JSON
	asURL              // percent-encoded
)

// template makes text of events. A { with a letter behind it begins a
// placeholder; any other brace is as it is written, as JSON needs it.
type template []part

// part is a literal, or a placeholder if value is set.
type part struct {
	literal string
	value   func(e *journal.Entry, id string) value
	filters []func(string) string
	json    bool // the value is JSON, with its quotes
	write   func(out []byte, text string) []byte
}

// value is what a placeholder stands for.
type value struct {
	text    string
	raw     []byte // as JSON
	missing bool
}

func textValue(text string) value { return value{text: text, raw: event.String(text)} }

var values = map[string]func(e *journal.Entry, id string) value{
	"event":   func(e *journal.Entry, _ string) value { return textValue(e.Name) },
	"source":  func(e *journal.Entry, _ string) value { return textValue(e.Source) },
	"time":    func(e *journal.Entry, _ string) value { return textValue(stamp(e.Time)) },
	"id":      func(_ *journal.Entry, id string) value { return textValue(id) },
	"text":    func(e *journal.Entry, _ string) value { return textValue(words(e)) },
	"payload": func(e *journal.Entry, _ string) value { return value{text: string(e.Payload), raw: e.Payload} },
}

func stamp(t time.Time) string { return t.UTC().Format(timeFormat) }

var filters = map[string]func(string) string{
	"lower": strings.ToLower, "snake": topic.Snake,
	"html": strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace,
}

const known = "there are {payload}, {payload.KEY}, {event}, {source}, {time}, {id} and {text}"

// parse reads a template. The error tells of every placeholder that is wrong.
func parse(text string, to form) (template, error) {
	switch {
	case len(text) > maxTemplate:
		return nil, fmt.Errorf("it has %d bytes; at most %d are allowed", len(text), maxTemplate)
	case !utf8.ValidString(text):
		return nil, errors.New("it is not valid UTF-8")
	}
	var t template
	var wrong []string
	var at place
	literal, placeholders := 0, 0
	for i := 0; i < len(text); i++ {
		if text[i] != '{' || i+1 == len(text) || text[i+1]|0x20 < 'a' || text[i+1]|0x20 > 'z' {
			at.pass(text[i])
			continue
		}
		end := strings.IndexByte(text[i:], '}')
		if end < 0 {
			wrong = append(wrong, "a placeholder has no closing brace")
			break
		}
		p, err := parsePlaceholder(text[i+1 : i+end])
		if err != nil {
			wrong = append(wrong, err.Error())
		}
		p.write, p.json = at.writer(to, p.json)
		if i > literal {
			t = append(t, part{literal: text[literal:i]})
		}
		t = append(t, p)
		placeholders++
		i += end
		literal = i + 1
	}
	if literal < len(text) {
		t = append(t, part{literal: text[literal:]})
	}
	switch {
	case wrong != nil:
		return nil, errors.New(strings.Join(wrong, "; "))
	case placeholders > maxPlaceholders:
		return nil, fmt.Errorf("it has %d placeholders; at most %d are allowed", placeholders, maxPlaceholders)
	}
	return t, nil
}

func parsePlaceholder(inner string) (part, error) {
	steps := strings.Split(inner, "|")
	field := steps[0]
	p := part{value: values[field]}
	if path, found := strings.CutPrefix(field, "payload."); found {
		if err := event.CheckPath(path); err != nil {
			return part{}, fmt.Errorf("{%s}: %w", inner, err)
		}
		p.value = func(e *journal.Entry, _ string) value { return payloadValue(event.Find(e.Payload, path)) }
	}
	if p.value == nil {
		return part{}, fmt.Errorf("there is no placeholder {%s}; %s", inner, known)
	}
	for _, name := range steps[1:] {
		switch f := filters[name]; {
		case name == "json":
			p.json = true
		case f == nil:
			return part{}, fmt.Errorf("{%s}: there is no filter %q; there are lower, snake, html and json", inner, name)
		default:
			p.filters = append(p.filters, f)
		}
	}
	return p, nil
}

func payloadValue(raw []byte) value {
	if len(raw) == 0 || string(raw) == "null" {
		return value{text: topic.Missing, raw: []byte("null"), missing: true}
	}
	if text, ok := event.Scalar(raw); ok {
		return value{text: text, raw: raw}
	}
	return value{text: string(raw), raw: raw}
}

// place is where in a text a placeholder is: in a JSON string, or behind the ?
// of a URL.
type place struct{ quoted, escaped, query bool }

// pass goes on behind a byte of a literal. What values write ends no string.
func (p *place) pass(c byte) {
	switch {
	case p.escaped:
		p.escaped = false
	case c == '\\' && p.quoted:
		p.escaped = true
	case c == '"':
		p.quoted = !p.quoted
	case c == '?':
		p.query = true
	}
}

// writer returns how a value is written there, and whether as JSON.
func (p *place) writer(to form, json bool) (func(out []byte, text string) []byte, bool) {
	switch {
	case to == asURL && p.query:
		return appendQuery, json
	case to == asURL:
		return appendSegment, json
	case to == asJSON && p.quoted:
		return appendQuoted, json
	case to == asJSON:
		return appendPlain, true
	}
	return appendPlain, json
}

func appendPlain(out []byte, text string) []byte { return append(out, text...) }

// appendQuoted writes text within the quotes of a JSON string.
func appendQuoted(out []byte, text string) []byte {
	quoted := event.String(text)
	return append(out, quoted[1:len(quoted)-1]...)
}

// render returns the text of an event. missing is set if it has placeholders, and
// the event has nothing for any of them.
func (t template) render(e *journal.Entry, id string) (text []byte, missing bool) {
	found, placeholders := false, false
	var out []byte
	for i := range t {
		p := &t[i]
		if p.value == nil {
			out = append(out, p.literal...)
			continue
		}
		v := p.value(e, id)
		placeholders, found = true, found || !v.missing
		out = p.append(out, v)
	}
	return out, placeholders && !found
}

func (p *part) append(out []byte, v value) []byte {
	if p.json && len(p.filters) == 0 {
		return p.write(out, string(v.raw))
	}
	text := v.text
	for _, f := range p.filters {
		text = f(text)
	}
	switch {
	case p.json && v.missing:
		text = "null"
	case p.json:
		text = string(event.String(text))
	}
	return p.write(out, text)
}

// fixed reports whether all events have the same text.
func (t template) fixed() bool {
	for i := range t {
		if t[i].value != nil {
			return false
		}
	}
	return true
}

// words says in a few words what an event is about, for people: its payload's
// message, or else what it holds, a line for each member. It is never empty.
func words(e *journal.Entry) string {
	for _, v := range event.Pick(e.Payload, "message", "text", "msg", "description") {
		if text := strings.TrimSpace(event.Text(v)); text != "" {
			return cut(text, maxText)
		}
	}
	var b strings.Builder
	d := json.NewDecoder(bytes.NewReader(e.Payload))
	_, _ = d.Token() // the brace
	for n := 0; n < maxMembers && d.More() && b.Len() < maxText; {
		name, err := d.Token()
		var member json.RawMessage
		if err != nil || d.Decode(&member) != nil {
			break
		}
		key, _ := name.(string)
		text, scalar := event.Scalar(member)
		if strings.HasPrefix(key, "_") || !scalar {
			continue // the program's own, or for programs
		}
		n++
		fmt.Fprintf(&b, "%s: %s\n", cut(key, 100), cut(text, maxText))
	}
	if text := strings.TrimSpace(b.String()); text != "" {
		return cut(text, maxText)
	}
	return e.Name
}

// cut returns the first bytes of a text, in whole characters.
func cut(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most-len("…")], "") + "…"
}
