package tail

import (
	"bytes"
	"encoding/json"
	"regexp"
	"strings"
	"time"

	"event2mqtt/internal/event"
)

// parser makes events of lines.
type parser struct {
	config *Config
	re     *regexp.Regexp
}

// parse makes an event of a line; the payload may alias it. ok is false for a
// line that holds no event; why says so in words.
func (p *parser) parse(line []byte, cut bool) (e event.Event, why string, ok bool) {
	payload := bytes.TrimSpace(line)
	switch p.config.Format {
	case formatJSON:
		if cut {
			return e, "it is longer than max_line, and a part of a JSON text is none", false
		}
		if err := event.Check(payload); err != nil {
			return e, err.Error(), false
		}
	case formatRegexp:
		if payload, ok = p.groups(line); !ok {
			return e, "it does not match the pattern", false
		}
	case formatText:
		payload = appendText([]byte(`{"line":`), line)
		payload = append(payload, '}')
	}
	e.Payload, e.Checked, e.Time = payload, true, time.Now()
	var object []byte
	if len(payload) > 0 && payload[0] == '{' {
		object = payload
	}
	if e.Name = p.config.Event.Name("", object); e.Name == "" {
		return e, "it holds none of the keys " + strings.Join(p.config.Event.Keys, ", ") + ", and there is no event.default", false
	}
	if object != nil && p.config.TimeKey != "" {
		if t, ok := event.ParseTime(event.Text(event.Member(object, p.config.TimeKey)), time.Now()); ok {
			e.Time = t
		}
	}
	return e, "", true
}

// groups makes an object of the pattern's named groups, without those that
// took no part.
func (p *parser) groups(line []byte) ([]byte, bool) {
	m := p.re.FindSubmatchIndex(line)
	if m == nil {
		return nil, false
	}
	out := []byte{'{'}
	for i, name := range p.re.SubexpNames() {
		if name == "" || m[2*i] < 0 {
			continue
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(appendText(out, []byte(name)), ':')
		out = appendText(out, line[m[2*i]:m[2*i+1]])
	}
	return append(out, '}'), true
}

func appendText(out, text []byte) []byte {
	s, _ := json.Marshal(string(bytes.ToValidUTF8(text, []byte("\ufffd")))) // a string always encodes
	return append(out, s...)
}
