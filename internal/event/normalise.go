package event

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/tidwall/gjson"
)

// Limits of what is accepted. Beyond MaxDepth many subscribers' JSON parsers
// give up; beyond MaxName a topic is no longer of use to anybody.
const (
	MaxDepth = 64
	MaxName  = 512
	// DefaultMaxPayload bounds a payload, in bytes, unless configured.
	DefaultMaxPayload = 1 << 20
)

// Names of the fields that Normalise adds.
const (
	NameField             = "_event"
	DefaultTimestampField = "_timestamp"
	ValueField            = "value"
)

// Refused is the error for an event that can never be accepted as it is:
// offering it again is of no use.
type Refused struct {
	// Reason tells the sender what is wrong, in words.
	Reason string
	// TooLarge is set when it is the size that is wrong.
	TooLarge bool
}

func (r *Refused) Error() string { return r.Reason }

func refusef(format string, args ...any) error {
	return &Refused{Reason: fmt.Sprintf(format, args...)}
}

// Normaliser makes events fit to publish. The zero value uses the defaults.
type Normaliser struct {
	// TimestampField names the field that tells when it happened.
	TimestampField string
	// Millis gives that time in milliseconds instead of seconds.
	Millis bool
	// MaxPayload bounds the payload as it comes from the source, in bytes.
	MaxPayload int
}

// Normalise checks e and rewrites its payload to an object that begins with
// the name and the time. All other members keep their bytes: order, big
// integers and the spelling of numbers survive. Members that carry a name of
// the two added fields are replaced. A payload that is null or missing gives
// the two fields alone; one that is not an object goes under "value". The
// error is a *Refused and leaves e as it was.
func (n Normaliser) Normalise(e *Event) error {
	stamp := n.TimestampField
	if stamp == "" {
		stamp = DefaultTimestampField
	}
	limit := n.MaxPayload
	if limit <= 0 {
		limit = DefaultMaxPayload
	}
	switch {
	case e.Name == "":
		return refusef("the event has no name")
	case len(e.Name) > MaxName:
		return refusef("the event's name has %d bytes; at most %d are allowed", len(e.Name), MaxName)
	case !utf8.ValidString(e.Name):
		return refusef("the event's name is not valid UTF-8")
	case len(e.Payload) > limit:
		return &Refused{TooLarge: true, Reason: fmt.Sprintf("the payload has %d bytes; at most %d are allowed", len(e.Payload), limit)}
	}
	body := bytes.TrimSpace(e.Payload)
	if !e.Checked {
		if err := Check(body); err != nil {
			return err
		}
	}

	out := make([]byte, 0, len(body)+len(e.Name)+len(stamp)+48)
	out = append(out, '{')
	out = appendString(out, NameField)
	out = append(out, ':')
	out = appendString(out, e.Name)
	out = append(out, ',')
	out = appendString(out, stamp)
	out = append(out, ':')
	if n.Millis {
		out = strconv.AppendInt(out, e.Time.UnixMilli(), 10)
	} else {
		out = strconv.AppendInt(out, e.Time.Unix(), 10)
	}
	switch {
	case len(body) == 0, string(body) == "null":
	case body[0] == '{':
		out = appendMembers(out, body, NameField, stamp)
	default:
		out = append(out, ',')
		out = appendString(out, ValueField)
		out = append(out, ':')
		out = append(out, body...)
	}
	e.Payload = append(out, '}')
	return nil
}

// Again normalises an event that was normalised before, and then changed. Its
// size was looked at.
func (n Normaliser) Again(e *Event) error {
	n.MaxPayload = math.MaxInt
	e.Checked = true
	return n.Normalise(e)
}

// Check accepts nothing at all, or one JSON text of bounded depth in UTF-8.
// The error is a *Refused.
func Check(body []byte) error {
	if len(body) == 0 {
		return nil
	}
	if !utf8.Valid(body) {
		return refusef("the payload is not valid UTF-8")
	}
	// Before anything that recurses.
	if d := depth(body); d > MaxDepth {
		return refusef("the payload nests %d levels deep; at most %d are allowed", d, MaxDepth)
	}
	if !gjson.ValidBytes(body) { // three times as fast as json.Valid, see BenchmarkCheck
		return refusef("the payload is not JSON: %s", syntaxError(body))
	}
	return nil
}

// syntaxError says in words what is wrong with a text that is not JSON.
func syntaxError(body []byte) string {
	var v json.RawMessage
	err := json.Unmarshal(body, &v)
	var syn *json.SyntaxError
	if !errors.As(err, &syn) {
		return "unreadable"
	}
	at := int(min(syn.Offset, int64(len(body))))
	hint := ""
	rest := body[max(0, at-1):]
	switch {
	case bytes.HasPrefix(rest, []byte("N")), bytes.HasPrefix(rest, []byte("I")):
		hint = " (JSON has no NaN or Infinity; use null)"
	case bytes.HasPrefix(rest, []byte("'")):
		hint = " (JSON strings and keys need double quotes)"
	}
	return fmt.Sprintf("%s at byte %d%s", syn, at, hint)
}

// depth counts how deep a text nests, if it is JSON; of anything else it is an
// upper bound.
func depth(body []byte) int {
	deepest, d := 0, 0
	for i := 0; i < len(body); i++ {
		switch body[i] {
		case '"':
			i = stringEnd(body, i) - 1
		case '{', '[':
			if d++; d > deepest {
				deepest = d
			}
		case '}', ']':
			d--
		}
	}
	return deepest
}

// stringEnd returns the index after the string that begins at i, or after the
// whole text if the string does not end.
func stringEnd(body []byte, i int) int {
	for i++; ; {
		n := bytes.IndexByte(body[i:], '"')
		if n < 0 {
			return len(body)
		}
		end, escapes := i+n, 0
		for k := end - 1; k >= i && body[k] == '\\'; k-- {
			escapes++
		}
		i = end + 1
		if escapes%2 == 0 {
			return i
		}
	}
}

// members calls use with each member of a valid JSON object, as it stands
// there, and with its key and value.
func members(object []byte, use func(member, key, value []byte)) {
	i := skipSpace(object, 1)
	for object[i] != '}' {
		start := i
		i = stringEnd(object, i)
		key := object[start:i]
		at := skipSpace(object, skipSpace(object, i)+1)
		i = valueEnd(object, at)
		use(object[start:i], key, object[at:i])
		if i = skipSpace(object, i); object[i] == ',' {
			i = skipSpace(object, i+1)
		}
	}
}

// appendMembers appends the members of a valid JSON object, each after a
// comma, but those whose key is one of drop.
func appendMembers(out, object []byte, drop ...string) []byte {
	members(object, func(member, key, _ []byte) {
		if indexKey(key, drop) < 0 {
			out = append(out, ',')
			out = append(out, member...)
		}
	})
	return out
}

// Without returns a valid JSON object less the members with the given keys.
func Without(object []byte, keys ...string) []byte {
	out := appendMembers(make([]byte, 0, len(object)), object, keys...)
	if len(out) == 0 {
		return []byte("{}")
	}
	out[0] = '{'
	return append(out, '}')
}

// Only returns a valid JSON object with none but the members with the given
// keys.
func Only(object []byte, keys ...string) []byte {
	out := make([]byte, 0, len(object))
	members(object, func(member, key, _ []byte) {
		if indexKey(key, keys) >= 0 {
			out = append(out, ',')
			out = append(out, member...)
		}
	})
	if len(out) == 0 {
		return []byte("{}")
	}
	out[0] = '{'
	return append(out, '}')
}

// Set returns a valid JSON object in which a member has a value, itself JSON.
func Set(object []byte, key, value string) []byte {
	out := Without(object, key)
	out = out[:len(out)-1]
	if len(out) > 1 {
		out = append(out, ',')
	}
	out = appendString(out, key)
	out = append(out, ':')
	out = append(out, value...)
	return append(out, '}')
}

// Member returns the value of a member of a valid JSON object: the last, if
// there are several of that name, as most parsers have it; nil if none.
func Member(object []byte, key string) (found []byte) {
	names := [1]string{key}
	members(object, func(_, quoted, value []byte) { // without a list to allocate
		if indexKey(quoted, names[:]) == 0 {
			found = value
		}
	})
	return found
}

// Pick is Member for several keys at once.
func Pick(object []byte, keys ...string) [][]byte {
	values := make([][]byte, len(keys))
	members(object, func(_, quoted, value []byte) {
		if i := indexKey(quoted, keys); i >= 0 {
			values[i] = value
		}
	})
	return values
}

// Text returns the text of a JSON string, the spelling of a number, and "" for
// any other value.
func Text(value []byte) string {
	switch {
	case len(value) == 0:
		return ""
	case value[0] == '"':
		if bytes.IndexByte(value, '\\') < 0 {
			return string(value[1 : len(value)-1])
		}
		var s string
		_ = json.Unmarshal(value, &s)
		return s
	case value[0] == '-' || value[0] >= '0' && value[0] <= '9':
		return string(value)
	}
	return ""
}

// valueEnd returns the index after the value that begins at i in valid JSON.
func valueEnd(body []byte, i int) int {
	d := 0
	for {
		switch body[i] {
		case '"':
			i = stringEnd(body, i)
		case '{', '[':
			d++
			i++
		case '}', ']':
			d--
			i++
		default:
			i++
		}
		if d == 0 && (i == len(body) || bytes.IndexByte([]byte(",}] \t\r\n"), body[i]) >= 0) {
			return i
		}
	}
}

func skipSpace(body []byte, i int) int {
	for body[i] == ' ' || body[i] == '\t' || body[i] == '\n' || body[i] == '\r' {
		i++
	}
	return i
}

// indexKey returns which of names the quoted key is, escapes undone, or -1.
func indexKey(quoted []byte, names []string) int {
	key := quoted[1 : len(quoted)-1]
	if bytes.IndexByte(key, '\\') >= 0 {
		var text string
		if json.Unmarshal(quoted, &text) != nil {
			return -1
		}
		return slices.Index(names, text)
	}
	for i, name := range names {
		if string(key) == name {
			return i
		}
	}
	return -1
}

// AddField returns a normalised payload with one more string member at its
// end, such as an id that is only known once the event is stored.
func AddField(payload []byte, field, value string) []byte {
	out := make([]byte, 0, len(payload)+len(field)+len(value)+8)
	out = append(out, payload[:len(payload)-1]...)
	out = append(out, ',')
	out = appendString(out, field)
	out = append(out, ':')
	out = appendString(out, value)
	return append(out, '}')
}

// appendString appends s as a JSON string.
func appendString(out []byte, s string) []byte {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return appendEscaped(out, s)
		}
	}
	out = append(out, '"')
	out = append(out, s...)
	return append(out, '"')
}

func appendEscaped(out []byte, s string) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // "<" in a file name is nobody's web page
	if err := enc.Encode(s); err != nil {
		return append(out, `""`...)
	}
	return append(out, bytes.TrimSuffix(b.Bytes(), []byte("\n"))...)
}

// Items yields the items of a valid JSON array.
func Items(array []byte) func(yield func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for i := skipSpace(array, 1); array[i] != ']'; {
			end := valueEnd(array, i)
			if !yield(array[i:end]) {
				return
			}
			if i = skipSpace(array, end); array[i] == ',' {
				i = skipSpace(array, i+1)
			}
		}
	}
}
