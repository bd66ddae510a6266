package lines

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/tidwall/gjson"

	"event2mqtt/internal/decode"
	"event2mqtt/internal/event"
)

// line is the payload of format text.
func line(text, _ []byte) ([]byte, string) {
	var o object
	o.text("line", string(text))
	return o.bytes(), ""
}

// groups makes an object of the pattern's named groups, without those that
// took no part.
func (r *Reader) groups(text, _ []byte) ([]byte, string) {
	m := r.c.pattern.FindSubmatchIndex(text)
	if m == nil {
		return nil, "it does not match the pattern"
	}
	var o object
	for i, name := range r.c.pattern.SubexpNames() {
		if name != "" && m[2*i] >= 0 {
			o.text(name, validText(string(text[m[2*i]:m[2*i+1]])))
		}
	}
	return o.bytes(), ""
}

// logfmt takes key=value pairs apart, as Heroku, Go's slog and logrus write
// them: a value in quotes is escaped as in Go, and a key without = is true.
func logfmt(text, _ []byte) ([]byte, string) {
	var o object
	pairs, rest := 0, string(text)
	for count := 0; ; count++ {
		if rest = strings.TrimLeft(rest, " \t\r\n"); rest == "" {
			break
		}
		if count == maxColumns {
			return nil, fmt.Sprintf("it has more than %d pairs", maxColumns)
		}
		end := strings.IndexAny(rest, "= \t\r\n")
		if end < 0 {
			end = len(rest)
		}
		key := rest[:end]
		rest = rest[end:]
		value, found := strings.CutPrefix(rest, "=")
		if key == "" {
			return nil, "it has a value without a key"
		}
		if !found {
			o.set(key, []byte("true"))
			continue
		}
		pairs++
		if strings.HasPrefix(value, `"`) {
			end := textEnd([]byte(value), 0)
			if end < 0 {
				return nil, fmt.Sprintf("the quotes of %.64q do not end", key)
			}
			o.text(key, unquote(value[1:end-1]))
			rest = value[end:]
			continue
		}
		if end = strings.IndexAny(value, " \t\r\n"); end < 0 {
			end = len(value)
		}
		o.scalar(key, value[:end])
		rest = value[end:]
	}
	if pairs == 0 {
		return nil, "it holds no key=value"
	}
	return o.bytes(), ""
}

// docker publishes Docker's record of a line, or of the parts of a long one.
// What it holds of JSON is opened.
func docker(text, _ []byte) (payload []byte, why string) {
	var o object
	var whole strings.Builder
	for part := range bytes.Lines(text) {
		if part = bytes.TrimSpace(part); len(part) == 0 {
			continue
		}
		if err := event.Check(part); err != nil {
			return nil, err.Error()
		}
		log := gjson.GetBytes(part, "log")
		if part[0] != '{' || log.Type != gjson.String {
			return nil, `it is not Docker's: it has no text "log"`
		}
		whole.WriteString(log.Str)
		if why = o.fields(part); why != "" {
			return nil, why
		}
	}
	o.text("log", strings.TrimRight(whole.String(), "\r\n"))
	return event.Open(o.bytes(), "log"), ""
}

// journald publishes an entry of the journal. Fields that are not UTF-8, or
// hold control characters, come as arrays of bytes, and become texts.
// See https://systemd.io/JOURNAL_EXPORT_FORMATS/#journal-json-format.
func journald(text, _ []byte) (payload []byte, why string) {
	text = bytes.TrimSpace(text)
	if err := event.Check(text); err != nil {
		return nil, err.Error()
	}
	if text[0] != '{' {
		return nil, "it is not an object"
	}
	if !bytes.Contains(text, []byte("[")) {
		return text, ""
	}
	var o object
	if why = o.fields(text); why != "" {
		return nil, why
	}
	for i, value := range o.values {
		if value[0] == '[' {
			if plain, ok := byteText(value); ok {
				o.values[i] = event.String(plain)
			}
		}
	}
	return o.bytes(), ""
}

// fields sets the members of a valid JSON object; why says that there are too
// many.
func (o *object) fields(text []byte) (why string) {
	count := 0
	gjson.ParseBytes(text).ForEach(func(key, value gjson.Result) bool {
		if count++; count > maxColumns {
			why = fmt.Sprintf("it has more than %d fields", maxColumns)
			return false
		}
		o.set(key.String(), []byte(value.Raw))
		return true
	})
	return why
}

// byteText makes a text of a JSON array of bytes.
func byteText(array []byte) (text string, ok bool) {
	var raw []byte
	for item := range event.Items(array) {
		n := 0
		for _, c := range item {
			if c < '0' || c > '9' || n > 255 {
				return "", false
			}
			n = 10*n + int(c-'0')
		}
		if n > 255 {
			return "", false
		}
		raw = append(raw, byte(n))
	}
	plain, _, err := decode.Charset{}.Text(raw)
	return string(plain), err == nil && len(raw) > 0
}
