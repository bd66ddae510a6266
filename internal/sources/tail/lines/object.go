package lines

import (
	"encoding/json"
	"slices"
	"unicode/utf8"

	"event2mqtt/internal/event"
)

// object builds a JSON object. Of several values of a key the last counts.
type object struct {
	keys   []string
	values [][]byte
	at     map[string]int // of keys, once there are many
}

// few is up to how many keys are looked through one by one.
const few = 16

func (o *object) set(key string, value []byte) {
	at, known := o.at[key]
	if o.at == nil {
		at = slices.Index(o.keys, key)
		known = at >= 0
	}
	if known {
		o.values[at] = value
		return
	}
	o.keys, o.values = append(o.keys, key), append(o.values, value)
	switch {
	case o.at != nil:
		o.at[key] = len(o.keys) - 1
	case len(o.keys) > few:
		o.at = make(map[string]int, 4*few)
		for i, key := range o.keys {
			o.at[key] = i
		}
	}
}

// text sets a key to a text.
func (o *object) text(key, value string) { o.set(key, event.String(value)) }

// scalar sets a key to the number, true or false that a text is, else to the
// text.
func (o *object) scalar(key, value string) { o.set(key, scalar(value)) }

func (o *object) bytes() []byte {
	n := 2
	for i, key := range o.keys {
		n += len(key) + len(o.values[i]) + 8
	}
	out := append(make([]byte, 0, n), '{')
	for i, key := range o.keys {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(append(out, event.String(key)...), ':')
		out = append(out, o.values[i]...)
	}
	return append(out, '}')
}

// scalar is the JSON of a text: itself if it is a number as JSON writes them,
// true or false, else a string. No digit is lost: 007 stays a text, and 1.50
// keeps its zero.
func scalar(value string) []byte {
	const longest = 32 // of a number; a longer one is an id of some kind
	if value == "true" || value == "false" {
		return []byte(value)
	}
	if value != "" && len(value) <= longest && (value[0] == '-' || value[0] >= '0' && value[0] <= '9') {
		if last := value[len(value)-1]; last >= '0' && last <= '9' && json.Valid([]byte(value)) {
			return []byte(value)
		}
	}
	return event.String(value)
}

// validText is a text that a format had escaped: where its bytes are not UTF-8,
// each is a character of Latin-1.
func validText(text string) string {
	if utf8.ValidString(text) {
		return text
	}
	runes := make([]rune, len(text))
	for i := range len(text) {
		runes[i] = rune(text[i])
	}
	return string(runes)
}
