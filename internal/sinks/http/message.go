package httpsink

import (
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"event2mqtt/internal/event"
	"event2mqtt/internal/journal"
)

// maxHeader bounds a header's value, in bytes.
const maxHeader = 4000

// The kinds of body.
const (
	bodyJSON       = "json"
	bodyTemplate   = "template"
	bodyForm       = "form"
	bodyCloud      = "cloudevents"
	bodyStructured = "cloudevents_structured"
	bodyNone       = "none"
)

// field is a header, or a field of a form.
type field struct {
	name  string
	value template
}

// message is a request, the same at each attempt.
type message struct {
	url    *url.URL
	header http.Header
	body   []byte
	id     string
}

// message makes the request of one event, or of a batch. The error says why that
// cannot be, and does not for a batch.
func (s *Sink) message(entries []journal.Entry) (*message, error) {
	e := &entries[0]
	id := s.deps.ID(e.Seq)
	u, err := s.url.render(e, id)
	if err != nil {
		return nil, err
	}
	m := &message{url: u, header: http.Header{}, id: id}
	if n := len(entries); n > 1 {
		m.id += "-" + strconv.Itoa(n)
	}
	if err := s.setBody(m, entries); err != nil {
		return nil, err
	}
	if s.contentType != "" {
		m.header.Set("Content-Type", s.contentType)
	}
	m.header.Set("User-Agent", "event2mqtt")
	m.header.Set("Idempotency-Key", m.id)
	for _, h := range s.headers {
		text, missing := h.value.render(e, id)
		switch {
		case missing || len(text) == 0:
			m.header.Del(h.name)
		case len(text) > maxHeader:
			return nil, fmt.Errorf("its header %s would have %d bytes; at most %d are sent", h.name, len(text), maxHeader)
		default:
			m.header.Set(h.name, headerValue(string(text)))
		}
	}
	switch {
	case s.opt.Token != "":
		m.header.Set("Authorization", "Bearer "+string(s.opt.Token))
	case s.opt.Username != "":
		r := http.Request{Header: m.header}
		r.SetBasicAuth(s.opt.Username, string(s.opt.Password))
	}
	return m, nil
}

// headerValue makes a text fit for a header: one line, and ASCII, by RFC 2047
// where it is not.
func headerValue(text string) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "_"))
	// Long text is several words, with blanks between, as in a folded header.
	return mime.BEncoding.Encode("utf-8", strings.TrimSpace(text))
}

func (s *Sink) setBody(m *message, entries []journal.Entry) error {
	e, id := &entries[0], s.deps.ID(entries[0].Seq)
	switch s.body {
	case bodyJSON:
		m.body = s.list(entries, func(out []byte, e *journal.Entry) []byte { return append(out, e.Payload...) })
	case bodyStructured:
		m.body = s.list(entries, s.appendCloud)
	case bodyCloud:
		m.body = e.Payload
		m.header.Set("Ce-Specversion", "1.0")
		m.header.Set("Ce-Id", cloudHeader(id))
		m.header.Set("Ce-Source", cloudHeader(s.cloudSource(e, id)))
		m.header.Set("Ce-Type", cloudHeader(s.cloudType(e, id)))
		m.header.Set("Ce-Time", stamp(e.Time))
		for name := range m.header {
			if len(m.header.Get(name)) > maxHeader {
				return fmt.Errorf("its header %s would have %d bytes; at most %d are sent", name, len(m.header.Get(name)), maxHeader)
			}
		}
	case bodyTemplate:
		m.body, _ = s.template.render(e, id)
	case bodyForm:
		form := url.Values{}
		for _, f := range s.form {
			if text, missing := f.value.render(e, id); !missing && len(text) > 0 {
				form.Set(f.name, string(text))
			}
		}
		m.body = []byte(form.Encode())
	}
	return nil
}

// list writes one event as it is, and with batches a JSON array of any number.
func (s *Sink) list(entries []journal.Entry, one func([]byte, *journal.Entry) []byte) []byte {
	if !s.batches() {
		return one(nil, &entries[0])
	}
	out := []byte{'['}
	for i := range entries {
		if i > 0 {
			out = append(out, ',')
		}
		out = one(out, &entries[i])
	}
	return append(out, ']')
}

// appendCloud writes an event in the JSON format of CloudEvents 1.0.
func (s *Sink) appendCloud(out []byte, e *journal.Entry) []byte {
	id := s.deps.ID(e.Seq)
	for i, f := range []struct{ name, value string }{
		{"specversion", "1.0"}, {"id", id}, {"source", s.cloudSource(e, id)}, {"type", s.cloudType(e, id)},
		{"time", stamp(e.Time)}, {"datacontenttype", "application/json"},
	} {
		sign := byte(',')
		if i == 0 {
			sign = '{'
		}
		out = event.AppendString(append(out, sign), f.name)
		out = event.AppendString(append(out, ':'), f.value)
	}
	return append(append(append(out, `,"data":`...), e.Payload...), '}')
}

// cloudSource is a URI reference: what an event puts into it is percent-encoded.
func (s *Sink) cloudSource(e *journal.Entry, id string) string {
	text, _ := s.ceSource.render(e, id)
	return string(text)
}

func (s *Sink) cloudType(e *journal.Entry, id string) string {
	text, _ := s.ceType.render(e, id)
	return strings.ToValidUTF8(string(text), "_")
}

// cloudHeader encodes a value as CloudEvents' HTTP binding says (section 3.1.3.2):
// a blank, ", % and what is not printable ASCII.
func cloudHeader(text string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(text) {
		if c := text[i]; c > 0x20 && c < 0x7F && c != '"' && c != '%' {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
		}
	}
	return b.String()
}

// taken are headers that are made by the program, or by HTTP itself.
var taken = []string{"Content-Length", "Transfer-Encoding", "Connection", "Host", "Trailer", "Upgrade", "Te", "Keep-Alive", "Proxy-Connection",
	"Idempotency-Key", "Webhook-Id", "Webhook-Timestamp", "Webhook-Signature"}

// checkHeader tells what is wrong with a header's name.
func checkHeader(name string) error {
	const token = "!#$%&'*+-.^_`|~"
	switch canonical := http.CanonicalHeaderKey(name); {
	case name == "" || strings.ContainsFunc(name, func(r rune) bool {
		return r >= 0x7F || !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune(token, r)
	}):
		return fmt.Errorf("%q is not the name of a header", name)
	case slices.Contains(taken, canonical) || strings.HasPrefix(canonical, "Ce-"):
		return fmt.Errorf("%s is set by the program itself; leave it out", canonical)
	}
	return nil
}
