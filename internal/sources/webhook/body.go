package webhook

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"io"
	"iter"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"unicode/utf8"

	"event2mqtt/internal/decode"
	"event2mqtt/internal/event"
)

// small is up to what size bodies do not share the source's budget, in bytes.
const small = 64 << 10

// media is what a request says that its body is.
type media struct {
	given     string // the header as it came
	kind      string // application/json and the like; empty if it does not say
	malformed bool
	boundary  string
	charset   decode.Charset
}

func (s *Source) media(r *http.Request) media {
	text := r.Header.Get("Content-Type")
	if text == "application/json" { // what most send
		return media{given: text, kind: text, charset: s.charset}
	}
	kind, params, err := mime.ParseMediaType(text)
	m := media{given: text, kind: kind, malformed: err != nil && kind == "" && text != "", boundary: params["boundary"], charset: s.charset}
	if !m.charset.Known() { // an unknown name tells nothing
		m.charset, _ = decode.Lookup(params["charset"])
	}
	return m
}

// quoted shows the beginning of a header from outside.
func quoted(header string) string {
	const most = 64 // bytes
	if len(header) > most {
		return strconv.QuoteToASCII(header[:most]) + "…"
	}
	return strconv.QuoteToASCII(header)
}

func (m *media) isForm() bool      { return m.kind == "application/x-www-form-urlencoded" }
func (m *media) isMultipart() bool { return m.kind == "multipart/form-data" && m.boundary != "" }
func (m *media) isXML() bool {
	return m.kind == "application/xml" || m.kind == "text/xml" || strings.HasSuffix(m.kind, "+xml")
}

// isText reports whether a body that is not JSON is a text.
func (m *media) isText() bool {
	return m.kind == "" && !m.malformed || m.kind == "application/octet-stream" || strings.HasPrefix(m.kind, "text/") && !m.isJSON()
}

func (m *media) isJSON() bool {
	switch m.kind {
	case "application/json", "text/json", "application/x-json", "application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines", "application/json-seq":
		return true
	}
	return strings.HasSuffix(m.kind, "+json")
}

// content is what a body holds: one JSON value, or several one behind another,
// or nothing.
type content struct {
	json    []byte
	several bool
}

// read makes JSON of a request's body. What it needs of the source's budget is
// given back by q.release.
func (s *Source) read(w http.ResponseWriter, r *http.Request, q *request) (content, *refusal) {
	m := s.media(r)
	packed := false
	switch encoding := r.Header.Get("Content-Encoding"); encoding {
	case "", "identity":
	case "gzip", "x-gzip":
		packed = true
	default:
		return content{}, refusef(http.StatusUnsupportedMediaType, "the Content-Encoding %s is not known; use gzip or none", quoted(encoding))
	}
	if m.isMultipart() && !packed && !s.auth.signs() {
		payload, p := s.fromMultipart(q, http.MaxBytesReader(w, r.Body, int64(max(s.config.MaxUpload, s.config.MaxBody))), m.boundary, m.charset)
		return content{json: payload}, p
	}
	body, p := s.readBody(w, r, q)
	if p != nil {
		return content{}, p
	}
	if p := s.auth.signature(r, body, q.now); p != nil {
		return content{}, p
	}
	if packed {
		if body, p = s.unpack(body, q); p != nil {
			return content{}, p
		}
	} else if p := q.acquire(weight(&m, body)); p != nil {
		return content{}, p
	}
	if m.isMultipart() {
		payload, p := s.fromMultipart(q, bytes.NewReader(body), m.boundary, m.charset)
		return content{json: payload}, p
	}
	return s.parse(&m, body)
}

// weight is how much memory it takes to make events of a body, as measured and
// with some to spare: JSON is kept and copied, the rest is decoded, taken to
// pieces, and written as JSON.
func weight(m *media, body []byte) int64 {
	if m.isForm() || m.isMultipart() || m.isXML() || m.charset.Unit() > 1 || !utf8.Valid(body) {
		return growing * int64(len(body))
	}
	return 4 * int64(len(body))
}

// growing is how many bytes of memory it takes to make JSON of each byte that
// is not.
const growing = 8

func (s *Source) tooLarge() *refusal {
	return refusef(http.StatusRequestEntityTooLarge, "the body is larger than %s; see max_body", s.config.MaxBody)
}

// readBody returns the body as it came, bounded. One that is not small waits for
// memory as soon as that much of it is there.
func (s *Source) readBody(w http.ResponseWriter, r *http.Request, q *request) ([]byte, *refusal) {
	limit := int64(s.config.MaxBody)
	if r.ContentLength > limit {
		return nil, s.tooLarge()
	}
	in := &metered{Reader: http.MaxBytesReader(w, r.Body, limit), q: q, most: 2 * limit} // a buffer that grows is up to twice as large
	buf := bytes.Buffer{}
	if r.ContentLength > 0 {
		in.most = r.ContentLength + bytes.MinRead
		buf.Grow(int(min(r.ContentLength, small+1)) + bytes.MinRead) // more only as it comes
	}
	_, err := io.CopyN(&buf, in, small+1)
	if err == nil { // it is not small
		if err = q.reserve(in.most); err == nil {
			if r.ContentLength > 0 {
				buf.Grow(int(r.ContentLength) - buf.Len() + bytes.MinRead)
			}
			_, err = buf.ReadFrom(in)
		}
	}
	if err != nil && err != io.EOF {
		if errors.Is(err, errBusy) {
			return nil, busy()
		}
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return nil, s.tooLarge()
		}
		return nil, refusef(http.StatusBadRequest, "the body could not be read to its end")
	}
	return buf.Bytes(), nil
}

// unpack returns a body unpacked. What unpacks to more than is small waits for
// the whole budget: before anything is unpacked if it says so itself, so that
// what waits is as small as it came, or else before the rest is.
func (s *Source) unpack(raw []byte, q *request) ([]byte, *refusal) {
	limit := int64(s.config.MaxUnpacked)
	most := min(limit, inflates*int64(len(raw)))
	says := min(int64(unpacked(raw)), most)
	if says > small {
		if p := q.acquire(limit); p != nil {
			return nil, p
		}
	}
	z, err := gzip.NewReader(bytes.NewReader(raw))
	var buf bytes.Buffer
	// A buffer that grows by itself takes three times as much. One byte more
	// than there should be shows whether there is more.
	for _, size := range []int64{small, says + 1, most + 1} {
		left := size - int64(buf.Len())
		if err != nil || left <= 0 {
			continue
		}
		if size > small {
			if p := q.acquire(limit); p != nil {
				return nil, p
			}
			buf.Grow(int(left) + bytes.MinRead)
		}
		_, err = io.CopyN(&buf, z, left)
	}
	if int64(buf.Len()) > limit {
		return nil, refusef(http.StatusRequestEntityTooLarge, "the body unpacks to more than %s; see max_unpacked", s.config.MaxUnpacked)
	}
	if err != io.EOF {
		return nil, refusef(http.StatusBadRequest, "the body is not valid gzip, though Content-Encoding says so")
	}
	return buf.Bytes(), nil
}

// inflates is how many bytes at most come of each byte that is packed: DEFLATE
// writes 258 bytes in two bits (RFC 1951, section 3.2.5).
const inflates = 258 * 8 / 2

// unpacked is the size that a body says to have unpacked, in its last four bytes
// (RFC 1952, section 2.3.1), of which nothing but memory may depend.
func unpacked(raw []byte) uint32 {
	if len(raw) < 4 {
		return 0
	}
	return binary.LittleEndian.Uint32(raw[len(raw)-4:])
}

// decoded makes UTF-8 of a body. Only what is UTF-8 already may be larger than
// max_body, which packed bodies can be: the rest grows.
func (s *Source) decoded(raw []byte, charset decode.Charset) ([]byte, *refusal) {
	if len(raw) > int(s.config.MaxBody) && charset.Unit() == 1 && !utf8.Valid(raw) {
		return nil, refusef(http.StatusRequestEntityTooLarge, "the body is not UTF-8, and larger than %s; see max_body", s.config.MaxBody)
	}
	text, note, err := decode.Body(raw, charset)
	if err != nil {
		return nil, refusef(http.StatusBadRequest, "the body cannot be read: %s; correct the charset at the sender, or set encoding to what it is", err)
	}
	s.noted(note)
	return text, nil
}

// noted says once for each source what decoding had to assume.
func (s *Source) noted(note decode.Note) {
	if note == "" {
		return
	}
	if _, said := s.notes.LoadOrStore(note, true); !said {
		s.tally.log.Warn().Msgf("a webhook's body: %s", note)
	}
}

// parse makes JSON of a body that is no multipart form.
func (s *Source) parse(m *media, body []byte) (content, *refusal) {
	trimmed := bytes.TrimSpace(body)
	if m.isForm() && !looksLikeJSON(trimmed) && bytes.IndexByte(trimmed, '=') >= 0 {
		if len(trimmed) > int(s.config.MaxBody) {
			return content{}, s.tooLarge()
		}
		payload, p := s.fromForm(trimmed, m.charset)
		return content{json: payload}, p
	}
	charset := m.charset
	if m.isXML() && !charset.Known() {
		charset = xmlCharset(body)
	}
	text, p := s.decoded(body, charset)
	if p != nil {
		return content{}, p
	}
	trimmed = bytes.TrimSpace(text)
	asText := m.isText() || m.isForm() // curl -d sends everything as a form unless told otherwise
	switch {
	case len(trimmed) == 0:
		return content{}, nil
	case m.isXML() && trimmed[0] == '<':
		payload, err := fromXML(trimmed)
		if err != nil {
			return content{}, invalid(err)
		}
		payload, p := checked(payload)
		return content{json: payload}, p
	case !looksLikeJSON(trimmed) && !m.isJSON() && !asText:
		if m.malformed {
			return content{}, refusef(http.StatusUnsupportedMediaType, "the Content-Type %s is malformed; send application/json", quoted(m.given))
		}
		if m.kind == "multipart/form-data" {
			return content{}, refusef(http.StatusUnsupportedMediaType, "the Content-Type %s has no boundary, which every multipart form needs; let the sender's HTTP library set this header", quoted(m.given))
		}
		return content{}, refusef(http.StatusUnsupportedMediaType, "bodies of the Content-Type %s are not known; send application/json, text/plain, application/xml, application/x-www-form-urlencoded or multipart/form-data", quoted(m.given))
	}
	c, p := s.fromJSON(trimmed)
	if p == nil || !asText || p.Status != http.StatusBadRequest || meantAsJSON(trimmed) || looksLikeJSON(trimmed) && m.isForm() {
		return c, p
	}
	if len(trimmed) > int(s.config.MaxBody) {
		return content{}, s.tooLarge()
	}
	return content{json: event.String(string(trimmed))}, nil
}

// fromJSON checks JSON: one value, or several one behind another, with or
// without lines between them.
func (s *Source) fromJSON(text []byte) (content, *refusal) {
	err := event.Check(text)
	if err == nil {
		return content{json: text}, nil
	}
	first := invalid(err)
	if looksLikeJSON(text) && bytes.IndexByte(text, '"') < 0 && bytes.IndexByte(text, ':') > 0 {
		first.Detail += "; its double quotes are missing, most likely taken by a shell: put the JSON into single quotes (an event hook of OctoPrint needs OctoPrint 1.11.3 or newer, and -d {__json} without quotes)"
	}
	n := 0
	for value := range values(text) {
		if n++; n > s.config.MaxEvents {
			return content{}, s.tooMany()
		}
		if err := event.Check(value); err != nil && n == 1 {
			return content{}, first
		} else if err != nil {
			p := invalid(err)
			p.Detail = "value " + strconv.Itoa(n) + " of the body: " + p.Detail
			return content{}, p
		}
	}
	if n < 2 {
		return content{}, first
	}
	return content{json: text, several: true}, nil
}

func (s *Source) tooMany() *refusal {
	return refusef(http.StatusRequestEntityTooLarge, "the body holds more than %d events; send fewer at a time, or raise max_events", s.config.MaxEvents)
}

// invalid is the refusal of a body that is not what it should be.
func invalid(err error) *refusal {
	p := refusef(http.StatusBadRequest, "%s", err)
	if p.cause = "invalid"; looksTooLarge(err) {
		p.Status, p.cause = http.StatusRequestEntityTooLarge, "too large"
	}
	return p
}

func looksTooLarge(err error) bool {
	refused, ok := errors.AsType[*event.Refused](err)
	return ok && refused.TooLarge
}

// looksLikeJSON reports whether a text begins as an object or an array does.
func looksLikeJSON(b []byte) bool { return len(b) > 0 && (b[0] == '{' || b[0] == '[') }

// meantAsJSON reports whether a text that is not JSON was most likely meant to
// be: a line of a log may well begin with a bracket.
func meantAsJSON(b []byte) bool {
	if len(b) > 1 && b[0] == '[' {
		b = bytes.TrimSpace(b[1:])
	}
	return len(b) > 0 && (b[0] == '{' || b[0] == '"')
}

// separators are what may stand between JSON values: white space, and the
// record separator of RFC 7464.
const separators = " \t\r\n\x1e"

// values yields the values that stand one behind another in a text, as far as
// brackets and quotes tell them apart; each is still to be checked.
func values(text []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for {
			text = bytes.TrimLeft(text, separators)
			if len(text) == 0 {
				return
			}
			end := valueLength(text)
			if !yield(text[:end]) {
				return
			}
			text = text[end:]
		}
	}
}

// valueLength returns how long the value is that a text begins with; the whole
// text if the value does not end.
func valueLength(text []byte) int {
	depth, quoted := 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			if quoted = !quoted; !quoted && depth == 0 {
				return i + 1
			}
		case quoted:
		case c == '{', c == '[':
			if depth == 0 && i > 0 {
				return i // behind a number, or a word
			}
			depth++
		case c == '}', c == ']':
			if depth--; depth <= 0 {
				return i + 1
			}
		case depth == 0 && strings.IndexByte(separators, c) >= 0:
			return i
		}
	}
	return len(text)
}
