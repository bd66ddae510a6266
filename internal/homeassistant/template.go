package homeassistant

import (
	"fmt"
	"strconv"
	"strings"

	"event2mqtt/internal/homeassistant/schema"
)

// This file writes the templates that Home Assistant reads payloads with. What
// comes from outside stands in them as string literals in which everything but
// letters, digits and a few signs is escaped, so that no name can be code. None
// may fail, or warn, on {}, null, text, or an empty payload, which is what a
// state that is gone looks like.

// quote is a text as a literal of Jinja, which knows the escapes of Python.
func quote(text string) string {
	var b strings.Builder
	b.WriteByte('\'')
	for _, r := range text {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', strings.ContainsRune(" _-.,:;/+=()", r):
			b.WriteRune(r)
		case r > 0xffff:
			fmt.Fprintf(&b, `\U%08x`, r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	b.WriteByte('\'')
	return b.String()
}

func quoteAll(texts []string) string {
	all := make([]string, len(texts))
	for i, t := range texts {
		all[i] = quote(t)
	}
	return "[" + strings.Join(all, ", ") + "]"
}

// pick is an expression for what stands at a path of the payload, none if there
// is nothing. Without a path it is the whole: what it is as JSON, or its text.
func pick(path string) string {
	if path == "" {
		return "value_json|default(value)"
	}
	steps := strings.Split(path, ".")
	e := "value_json|default({}, true)"
	for i, step := range steps {
		e = "(" + e + ")[" + quote(step) + "]"
		if i < len(steps)-1 {
			e += "|default({}, true)"
		}
	}
	return e + "|default(none)"
}

// with is a template that begins with v being what stands at a path.
func with(path, rest string) string { return "{% set v = " + pick(path) + " %}" + rest }

// number is a template for a number; what is none is unknown.
func number(path string) string {
	return with(path, "{{ v if v is number and v is not boolean else none }}")
}

// within is number for values that Home Assistant takes only between bounds.
func within(path string, least, most float64) string {
	return with(path, fmt.Sprintf("{{ v if v is number and v is not boolean and v >= %s and v <= %s else none }}", spell(least), spell(most)))
}

func spell(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }

// words is a template for a text, which is cut where Home Assistant would warn.
func words(path string) string {
	if path == "" { // which may look like JSON and be none
		return with(path, fmt.Sprintf("{{ none if v is none or value == '' else (v if v is string else value)[:%d] }}", schema.MaxState))
	}
	return with(path, fmt.Sprintf("{{ none if v is none or v == '' else (v|string)[:%d] }}", schema.MaxState))
}

// oneOf is a template for one of some words.
func oneOf(path string, options []string) string {
	return with(path, "{{ v if v in "+quoteAll(options)+" else none }}")
}

// moment is a template for a time, RFC 3339 or seconds since 1970.
func moment(path string) string {
	return with(path, "{% set t = v|as_datetime(none) if v is string and v or v is number else none %}{{ t.isoformat() if t else none }}")
}

// onOff is a template for ON and OFF.
func onOff(path, on, off string) string {
	if on == "" && off == "" {
		return with(path, "{{ 'ON' if v == true else 'OFF' if v == false else none }}")
	}
	is := func(word string) string {
		if path == "" {
			return quote(word) + " in [v, value]"
		}
		return "v == " + quote(word)
	}
	switch {
	case on == "":
		return with(path, "{{ 'OFF' if "+is(off)+" else 'ON' }}")
	case off == "":
		return with(path, "{{ 'ON' if "+is(on)+" else 'OFF' }}")
	}
	return with(path, "{{ 'ON' if "+is(on)+" else 'OFF' if "+is(off)+" else none }}")
}

// object begins a template with e being the payload, if it is an object.
const object = "{% set e = value_json if value_json is mapping else {} %}"

// of is a condition on an event: its name, and its source where that is told by
// its payload.
func (e *Events) of(names []string) string {
	condition := "e.get('_event') in " + quoteAll(names)
	if e.Key != "" {
		condition += " and e.get(" + quote(e.Key) + ") == " + quote(e.Source)
	}
	return condition
}

// event is a template for the event entity: it lets only those through that the
// entity knows, all others would be warned of.
func (e *Events) event(names []string) string {
	return object + "{% if " + e.of(names) + " %}{{ dict(e, event_type=e.get('_event'))|to_json }}{% endif %}"
}

// trigger is a template for the trigger of one event: its name, or nothing.
func (e *Events) trigger(name string) string {
	return object + "{% if " + e.of([]string{name}) + " %}{{ e.get('_event') }}{% endif %}"
}

// command is a template for what is published to give a command with a value.
func command(payload string) string {
	parts := strings.Split(payload, "{value}")
	for i, part := range parts {
		parts[i] = quote(part)
	}
	return "{{ " + strings.Join(parts, " ~ value ~ ") + " }}"
}
