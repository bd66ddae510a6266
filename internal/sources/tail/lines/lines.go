// Package lines knows what the bytes of a log mean: it splits them into entries
// and makes events of entries. It does not know where the bytes come from, nor
// when a file is finished.
package lines

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/rs/zerolog"

	"event2mqtt/internal/config"
	"event2mqtt/internal/decode"
	"event2mqtt/internal/event"
	"event2mqtt/internal/sources"
)

// Bounds of what one entry may hold.
const (
	maxEvents  = 1000 // of the arrays and texts of an entry
	maxColumns = 1000 // of a row, and pairs of logfmt
)

// Defaults returns the options that hold where nothing is configured.
func Defaults() (c Config) {
	config.SetDefaults(&c)
	return c
}

// Reader reads one kind of log. It is safe for concurrent use.
type Reader struct {
	config  Config
	c       compiled
	maxLine int
	joiner  func() joiner // nil: each line is an entry
	fast    bool          // joins JSON
	payload func(text, header []byte) (payload []byte, why string)
	clock   *sources.Clock
	log     zerolog.Logger
	assumed atomic.Bool // was logged
	holes   atomic.Bool // was logged
	columns atomic.Pointer[columns]
}

// New returns a reader for c, which was prepared and checked. It logs to log,
// once each, what it has to assume of the bytes, and that a time cannot be read.
func New(c Config, log zerolog.Logger) (*Reader, error) {
	compiled, err := c.compile()
	if err != nil {
		return nil, err
	}
	r := &Reader{config: c, c: compiled, maxLine: int(c.MaxLine), clock: sources.NewClock(c.Timing, log), log: log}
	switch {
	case c.Multiline.Start != "":
		r.joiner = func() joiner { return &startJoiner{start: compiled.start} }
	case c.joinsJSON():
		r.joiner, r.fast = func() joiner { return new(jsonJoiner) }, true
	case c.Format == formatDocker:
		r.joiner = func() joiner { return new(dockerJoiner) }
	}
	switch c.Format {
	case formatRegexp:
		r.payload = r.groups
	case formatText:
		r.payload = line
	case formatLogfmt:
		r.payload = logfmt
	case formatCSV:
		r.payload = r.row
	case formatNginx:
		r.payload = access
	case formatDocker:
		r.payload = docker
	case formatJournald:
		r.payload = journald
	case formatSyslog:
		r.payload = syslog
	}
	return r, nil
}

// Charset returns the character set of a file that begins with head, and the
// bytes of its byte order mark: as the mark tells, else as configured.
func (r *Reader) Charset(head []byte) (cs decode.Charset, bom int) {
	if cs, bom = decode.Detect(head); bom > 0 {
		return cs, bom
	}
	return r.c.charset, 0
}

// UnreadTimes counts the times that could not be read; their events got the
// time at which they were made.
func (r *Reader) UnreadTimes() uint64 { return r.clock.Failed() }

// Events makes events of an entry; their payloads may alias it. header is the
// file's first line, which names the columns of csv. cut tells that the entry
// is only the beginning of a line that is too long. why says in words why there
// is no event, or, beside events, why some items of an array are none. Both are
// empty if the entry has nothing to say: it is blank, or the header itself.
func (r *Reader) Events(cs decode.Charset, entry, header []byte, cut bool) (events []event.Event, why string) {
	if cut {
		if why = r.cut(); why != "" {
			return nil, why
		}
		entry = wholeRunes(cs, entry)
	}
	text, note, err := cs.Text(entry)
	if err != nil {
		return nil, err.Error()
	}
	if text = trimEnd(text); len(bytes.TrimSpace(text)) == 0 {
		return nil, ""
	}
	if note != "" {
		r.say(note)
	}
	if r.payload == nil {
		return r.json(bytes.TrimSpace(text))
	}
	if r.config.Format == formatCSV {
		if header, _, err = cs.Text(header); err != nil {
			return nil, "the file's first line names the columns, and " + err.Error()
		}
		if header = trimEnd(bytes.TrimPrefix(header, []byte("\ufeff"))); bytes.Equal(text, header) {
			return nil, ""
		}
	}
	if bytes.IndexByte(text, '\r') >= 0 {
		text = bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n"))
	}
	payload, why := r.payload(text, header)
	if why != "" {
		return nil, why
	}
	e, why := r.event(payload, time.Now())
	if why != "" {
		return nil, why
	}
	return []event.Event{e}, ""
}

// cut tells why a cut entry is none.
func (r *Reader) cut() string {
	switch r.config.Format {
	case formatJSON, formatDocker, formatJournald:
		return "it is longer than max_line, and a part of a JSON text is none"
	case formatCSV:
		return "it is longer than max_line, and a part of a row is none"
	}
	return ""
}

// wholeRunes takes off the part of a character that a cut left at the end.
func wholeRunes(cs decode.Charset, entry []byte) []byte {
	switch {
	case cs.Unit() == 2:
		entry = entry[:len(entry)&^1]
		if n := len(entry); n > 0 {
			high := entry[n-1]
			if cs.LineFeed()[0] == 0 { // the high byte is the first
				high = entry[n-2]
			}
			if high&0xfc == 0xd8 {
				return entry[:n-2]
			}
		}
	case !cs.Known() || cs.String() == "utf-8":
		for n := 1; n < utf8.UTFMax && n <= len(entry); n++ {
			if tail := entry[len(entry)-n:]; utf8.RuneStart(tail[0]) {
				if !utf8.FullRune(tail) {
					return entry[:len(entry)-n]
				}
				break
			}
		}
	}
	return entry
}

func (r *Reader) say(note decode.Note) {
	said := &r.assumed
	if note == decode.Holes {
		said = &r.holes
	}
	if !said.Swap(true) {
		r.log.Warn().Msgf("tail: a line was read, but %s", note)
	}
}

// json makes events of JSON texts that stand one after the other; an array is
// one event for each of its items.
func (r *Reader) json(text []byte) (events []event.Event, why string) {
	now := time.Now()
	err := event.Check(text)
	if err == nil && bytes.IndexByte(text, '\n') >= 0 { // a message is read in lines, too
		var out bytes.Buffer
		if err := json.Compact(&out, text); err != nil {
			return nil, err.Error()
		}
		text = out.Bytes()
	}
	if err == nil && text[0] != '[' {
		e, why := r.event(text, now)
		if why != "" {
			return nil, why
		}
		return []event.Event{e}, ""
	}
	texts := [][]byte{text}
	if err != nil {
		if texts = values(text); len(texts) < 2 {
			return nil, err.Error()
		}
	}
	count := 0
	add := func(item []byte) bool {
		if count++; count > maxEvents {
			return false
		}
		e, no := r.event(item, now)
		if no == "" {
			events = append(events, e)
		} else {
			why = no
		}
		return true
	}
	for _, text := range texts {
		if e := event.Check(text); e != nil {
			return nil, err.Error()
		}
		if text[0] != '[' {
			if !add(text) {
				break
			}
			continue
		}
		for item := range event.Items(text) {
			if !add(item) {
				break
			}
		}
	}
	switch {
	case count > maxEvents:
		return nil, fmt.Sprintf("it holds more than %d events", maxEvents)
	case len(events) == 0 && why == "":
		return nil, "its array is empty"
	}
	return events, why
}

// values takes apart objects and arrays that stand one after the other, at
// most one more than there may be; nil if they are none.
func values(text []byte) (out [][]byte) {
	for len(text) > 0 && len(out) <= maxEvents {
		end := 0
		for i, depth := 0, 0; i < len(text) && end == 0; i++ {
			switch text[i] {
			case '"':
				if i = textEnd(text, i) - 1; i < 0 {
					return nil
				}
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					end = i + 1
				}
			}
		}
		if end == 0 {
			return nil
		}
		out = append(out, text[:end:end])
		text = bytes.TrimSpace(text[end:])
	}
	return out
}

// event makes an event of a payload that was checked.
func (r *Reader) event(payload []byte, now time.Time) (e event.Event, why string) {
	var object []byte
	if payload[0] == '{' {
		if len(r.config.Parse) > 0 {
			payload = event.Open(payload, r.config.Parse...)
		}
		object = payload
	}
	label, pushed := pushed(object)
	if label != "" {
		payload = pushed
	}
	e = event.Event{Payload: payload, Checked: true}
	if e.Name = r.config.Event.Name(label, object); e.Name == "" {
		return e, "it holds none of the keys " + strings.Join(r.config.Event.Keys, ", ") + ", and there is no event.default"
	}
	e.Time = r.clock.Time(object, now)
	return e, ""
}

// pushed takes apart an event in the form of OctoPrint's push API, which is
// also what an event hook can append to a file:
// {"event":{"type":"PrintDone","payload":{...}}}. The name is "" for others.
func pushed(object []byte) (name string, payload []byte) {
	if len(object) == 0 {
		return "", nil
	}
	inner := event.Member(object, "event")
	if len(inner) == 0 || inner[0] != '{' {
		return "", nil
	}
	members := event.Pick(inner, "type", "payload")
	if len(members[0]) == 0 || members[0][0] != '"' || members[1] == nil {
		return "", nil
	}
	return event.Text(members[0]), members[1]
}
