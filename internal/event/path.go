package event

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Find returns the value at a path in valid JSON, nil if there is none: member
// names and, for arrays, indexes from 0, with dots between them ("alerts.0.status",
// or "alerts[0].status"). A member whose name is all that is left of the path
// goes first, so that names with dots are found as they are.
func Find(value []byte, path string) []byte {
	for {
		value = bytes.TrimSpace(value)
		if len(value) == 0 {
			return nil
		}
		switch value[0] {
		case '{':
			if found := Member(value, path); found != nil {
				return found
			}
			name, rest, more := cutPath(path)
			if !more {
				return nil
			}
			if value, path = Member(value, name), rest; rest == "" {
				return value
			}
		case '[':
			name, rest, more := cutPath(path)
			index, err := strconv.ParseUint(name, 10, 32)
			if err != nil {
				return nil
			}
			if value = item(value, index); !more || rest == "" {
				return value
			}
			path = rest
		default:
			return nil
		}
	}
}

// CheckPath tells what is wrong with a path: an empty step leads nowhere.
func CheckPath(path string) error {
	steps := strings.NewReplacer(".[", ".", "[", ".", "]", "").Replace(strings.TrimPrefix(path, "["))
	if slices.Contains(strings.Split(steps, "."), "") {
		return fmt.Errorf("%q has an empty step; write names and indexes with one dot between them, such as alerts.0.status", path)
	}
	return nil
}

// cutPath takes the first step off a path: "a.b" gives a and b, "a[0].b" gives
// a and 0.b. more is false if the path is one step.
func cutPath(path string) (step, rest string, more bool) {
	i := strings.IndexAny(path, ".[")
	switch {
	case i < 0:
		return path, "", false
	case path[i] == '.':
		return path[:i], path[i+1:], true
	}
	index, rest, closed := strings.Cut(path[i+1:], "]")
	if !closed {
		return path, "", false
	}
	rest = strings.TrimPrefix(rest, ".")
	if i == 0 {
		return index, rest, true
	}
	if rest == "" {
		return path[:i], index, true
	}
	return path[:i], index + "." + rest, true
}

// item returns an item of a valid JSON array, nil if there are fewer.
func item(array []byte, index uint64) []byte {
	for value := range Items(array) {
		if index == 0 {
			return value
		}
		index--
	}
	return nil
}

// Scalar returns the text of a JSON string and the spelling of a number, true
// or false; ok is false for any other value.
func Scalar(value []byte) (text string, ok bool) {
	switch string(value) {
	case "true", "false":
		return string(value), true
	case `""`:
		return "", true
	}
	text = Text(value)
	return text, text != ""
}

// Open returns a valid JSON object in which the texts at the given paths that
// hold a JSON object or array are replaced by it, so that what a form or a log
// carries as text can be used like the rest. What is no such text stays. The
// result is not deeper than MaxDepth: a text that would make it so stays text.
func Open(object []byte, paths ...string) []byte {
	for _, path := range paths {
		value := Find(object, path)
		if len(value) == 0 || value[0] != '"' {
			continue
		}
		inner := bytes.TrimSpace([]byte(Text(value)))
		if len(inner) == 0 || inner[0] != '{' && inner[0] != '[' || Check(inner) != nil {
			continue
		}
		// value is a slice of object, and what is behind it tells where.
		at := cap(object) - cap(value)
		opened := append(append(bytes.Clone(object[:at]), inner...), object[at+len(value):]...)
		if depth(opened) <= MaxDepth {
			object = opened
		}
	}
	return object
}

// AppendString appends text as a JSON string.
func AppendString(out []byte, text string) []byte { return appendString(out, text) }

// String returns text as a JSON string, the only value that any text can be.
func String(text string) []byte { return appendString(nil, text) }
