// Package template makes texts of events: a line of a file, or the payload of a
// message. Nothing that comes from outside ends a line, or begins another. Topics
// have templates of their own, in package topic.
package template

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"event2mqtt/internal/event"
	"event2mqtt/internal/journal"
	"event2mqtt/internal/topic"
)

// Bounds of a template, so that what a text takes is bounded too.
const (
	maxTemplate     = 4096 // bytes
	maxPlaceholders = 64
)

// timeFormat is RFC 3339 in UTC, with milliseconds, all of the same length.
const timeFormat = "2006-01-02T15:04:05.000Z"

// Template makes texts of events, each in one line. A { with a letter behind it begins a
// placeholder; any other brace is as it is written, as JSON needs it.
type Template []part

// part is a literal, or a placeholder if value is set.
type part struct {
	literal string
	value   func(e *journal.Entry, id string) string
	// raw gives the value as JSON, nil where there is none. It is set for a
	// payload and what is in it.
	raw     func(e *journal.Entry) []byte
	whole   bool // the value is all of the payload
	filters []func(string) string
	json    bool // the value is JSON, with its quotes
	url     bool // among filters is url, which is for objects and arrays, too
}

var values = map[string]func(e *journal.Entry, id string) string{
	"event":  func(e *journal.Entry, _ string) string { return e.Name },
	"source": func(e *journal.Entry, _ string) string { return e.Source },
	"time":   func(e *journal.Entry, _ string) string { return e.Time.UTC().Format(timeFormat) },
	"id":     func(_ *journal.Entry, id string) string { return id },
}

var filters = map[string]func(string) string{"lower": strings.ToLower, "snake": topic.Snake, "url": url.QueryEscape}

// Parse reads a template. The error tells of every placeholder that is wrong.
func Parse(text string) (Template, error) {
	switch {
	case strings.TrimSpace(text) == "":
		return nil, errors.New("it is empty, and so would be each text")
	case len(text) > maxTemplate:
		return nil, fmt.Errorf("it has %d bytes; at most %d are allowed", len(text), maxTemplate)
	case !utf8.ValidString(text):
		return nil, errors.New("it is not valid UTF-8")
	case strings.ContainsFunc(text, func(r rune) bool { return unicode.IsControl(r) && r != '\t' }):
		return nil, errors.New("control characters are not allowed: an event is one line")
	}
	var t Template
	var wrong []error
	literal := 0 // where it begins
	placeholders := 0
	for i := 0; i < len(text); i++ {
		if text[i] != '{' || i+1 == len(text) || !isLetter(text[i+1]) {
			continue
		}
		end := strings.IndexByte(text[i:], '}')
		if end < 0 {
			wrong = append(wrong, fmt.Errorf("%q has no closing brace", text[i:]))
			break
		}
		p, err := parsePlaceholder(text[i+1 : i+end])
		if err != nil {
			wrong = append(wrong, err)
		}
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
		return nil, oneLine(wrong)
	case placeholders == 0:
		return nil, fmt.Errorf("%q has no placeholder, so all would be the same; there are {payload}, {payload.KEY}, {event}, {source}, {time} and {id}", text)
	case placeholders > maxPlaceholders:
		return nil, fmt.Errorf("it has %d placeholders; at most %d are allowed", placeholders, maxPlaceholders)
	}
	return t, nil
}

// oneLine joins errors that are about one option.
func oneLine(all []error) error {
	texts := make([]string, len(all))
	for i, err := range all {
		texts[i] = err.Error()
	}
	return errors.New(strings.Join(texts, "; "))
}

func isLetter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }

func parsePlaceholder(inner string) (part, error) {
	steps := strings.Split(inner, "|")
	field := steps[0]
	p := part{value: values[field]}
	switch path, found := strings.CutPrefix(field, "payload."); {
	case field == "payload":
		p.raw, p.whole = func(e *journal.Entry) []byte { return e.Payload }, true
	case found:
		if err := event.CheckPath(path); err != nil {
			return part{}, fmt.Errorf("{%s}: %w", inner, err)
		}
		p.raw = func(e *journal.Entry) []byte { return event.Find(e.Payload, path) }
	case p.value == nil:
		return part{}, fmt.Errorf("there is no placeholder {%s}; there are {payload}, {payload.KEY}, {event}, {source}, {time} and {id}", inner)
	}
	if p.whole && len(steps) > 1 {
		return part{}, fmt.Errorf("{%s}: the payload is a JSON object as it is, and takes no filter", inner)
	}
	var unknown []string
	for _, name := range steps[1:] {
		switch f := filters[name]; {
		case name == "json":
			p.json = true
		case f == nil:
			unknown = append(unknown, strconv.Quote(name))
		default:
			p.filters = append(p.filters, f)
			p.url = p.url || name == "url"
		}
	}
	if unknown != nil {
		return part{}, fmt.Errorf("{%s}: there is no filter %s; there are lower, snake, url and json", inner, strings.Join(unknown, ", "))
	}
	return p, nil
}

// payloadBegins is what event.Normalise begins each payload with.
const payloadBegins = `{"_event":`

// Begins returns what each text begins with, as far as that is known.
func (t Template) Begins() string {
	switch p := t[0]; {
	case p.raw == nil && p.value == nil:
		return p.literal
	case p.whole:
		return payloadBegins
	}
	return ""
}

// Append appends the text of an event. It stops with false once the text has limit
// bytes or more, after one value more at most.
func (t Template) Append(out []byte, e *journal.Entry, id string, limit int64) ([]byte, bool) {
	begin := len(out)
	for i := range t {
		out = t[i].append(out, e, id)
		if int64(len(out)-begin) >= limit {
			return out[:begin], false
		}
	}
	return out, true
}

// append appends what the part stands for. Nothing that comes from outside ends
// the line, or begins another.
func (p *part) append(out []byte, e *journal.Entry, id string) []byte {
	switch {
	case p.raw != nil:
		return p.appendRaw(out, p.raw(e))
	case p.value != nil:
		return p.appendText(out, p.value(e, id))
	}
	return append(out, p.literal...)
}

func (p *part) appendRaw(out, value []byte) []byte {
	if !p.whole && (len(p.filters) > 0 || !p.json) {
		if text, ok := event.Scalar(value); ok {
			return p.appendText(out, text)
		}
	}
	if len(value) == 0 {
		if p.json {
			return append(out, "null"...)
		}
		return append(out, topic.Missing...)
	}
	if p.url && !p.json {
		var b bytes.Buffer
		if json.Compact(&b, value) != nil {
			return append(out, "null"...) // what is stored is valid
		}
		return append(out, url.QueryEscape(b.String())...)
	}
	if bytes.IndexByte(value, '\n') < 0 && bytes.IndexByte(value, '\r') < 0 {
		return append(out, value...)
	}
	var b bytes.Buffer
	if json.Compact(&b, value) != nil {
		return append(out, "null"...) // what is stored is valid
	}
	return append(out, b.Bytes()...)
}

func (p *part) appendText(out []byte, text string) []byte {
	for _, f := range p.filters {
		text = f(text)
	}
	if p.json {
		return append(out, event.String(text)...)
	}
	if !strings.ContainsFunc(text, unprintable) {
		return append(out, text...)
	}
	return append(out, strings.Map(func(r rune) rune {
		if unprintable(r) {
			return ' '
		}
		return r
	}, text)...)
}

// unprintable are control characters and the two separators of lines that some
// programs split at.
func unprintable(r rune) bool { return unicode.IsControl(r) || r == '\u2028' || r == '\u2029' }
