package webhook

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"strings"

	"event2mqtt/internal/decode"
	"event2mqtt/internal/event"
)

// Bounds of what is counted rather than weighed.
const (
	maxFields     = 1000     // of a form, with its files
	maxQuery      = 100      // parameters of a query
	maxPartHeader = 64 << 10 // bytes before a part's content
)

// object builds a JSON object in the order of its fields; a field that comes
// several times becomes a list.
type object struct {
	fields []field
	index  map[string]int
	count  int // of texts
	most   int
}

type field struct {
	name  string
	texts []string
}

func newObject(most int) *object { return &object{index: map[string]int{}, most: most} }

// What can be wrong with fields.
var (
	errTooMany     = errors.New("too many fields")
	errMalformed   = errors.New("malformed")
	errUndecodable = errors.New("not in its character set")
)

func (o *object) add(name, text string) error {
	if o.count == o.most {
		return errTooMany
	}
	o.count++
	i, known := o.index[name]
	if !known {
		i = len(o.fields)
		o.index[name] = i
		o.fields = append(o.fields, field{name: name})
	}
	o.fields[i].texts = append(o.fields[i].texts, text)
	return nil
}

// text returns the first text of a field, "" if there is none.
func (o *object) text(name string) string {
	if i, ok := o.index[name]; ok {
		return o.fields[i].texts[0]
	}
	return ""
}

// take is text for a field that comes once, and takes it out. Of one that comes
// several times it returns nothing: which of them is meant nobody knows.
func (o *object) take(name string) (text string) {
	i, ok := o.index[name]
	if !ok {
		return ""
	}
	if len(o.fields[i].texts) == 1 {
		text = o.fields[i].texts[0]
	}
	o.fields[i].texts = nil // is not encoded
	return text
}

// value is a field's value as JSON. Forms carry nested values as JSON text.
func (f field) value() []byte {
	one := func(text string) []byte {
		if trimmed := bytes.TrimSpace([]byte(text)); looksLikeJSON(trimmed) && event.Check(trimmed) == nil {
			return trimmed
		}
		return event.String(text)
	}
	if len(f.texts) == 1 {
		return one(f.texts[0])
	}
	out := []byte{'['}
	for i, text := range f.texts {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, one(text)...)
	}
	return append(out, ']')
}

// member is a field as it stands in an object.
func (f field) member() []byte { return append(append(event.String(f.name), ':'), f.value()...) }

func (o *object) encode() []byte {
	out := []byte{'{'}
	for _, f := range o.fields {
		if len(f.texts) == 0 {
			continue
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(out, f.member()...)
	}
	return append(out, '}')
}

// fromPairs reads URL-encoded pairs into o. Empty pairs are skipped, as the
// URL standard has it.
func (s *Source) fromPairs(o *object, text string, charset decode.Charset) error {
	for pair := range strings.SplitSeq(text, "&") {
		if pair == "" {
			continue
		}
		name, value, _ := strings.Cut(pair, "=")
		name, err1 := url.QueryUnescape(name)
		value, err2 := url.QueryUnescape(value)
		if err1 != nil || err2 != nil || name == "" {
			return errMalformed
		}
		name, err1 = s.field(name, charset)
		value, err2 = s.field(value, charset)
		if err1 != nil || err2 != nil {
			return errUndecodable
		}
		if err := o.add(name, value); err != nil {
			return err
		}
	}
	return nil
}

// formError says what is wrong with a form, in words.
func formError(err error) *refusal {
	switch err {
	case errTooMany:
		return refusef(http.StatusBadRequest, "the form has more than %d fields", maxFields)
	case errUndecodable:
		return refusef(http.StatusBadRequest, "a field of the form is not in the character set that it is said to be in; correct the charset at the sender, or set encoding to what it is")
	}
	return refusef(http.StatusBadRequest, "the form is malformed; for JSON send Content-Type: application/json")
}

// field decodes a name or a value.
func (s *Source) field(text string, charset decode.Charset) (string, error) {
	decoded, note, err := charset.Text([]byte(text))
	s.noted(note)
	return string(decoded), err
}

// fromForm reads a URL-encoded form. One whose only field is "payload", with an
// object in it, is that object: so the same sender gives the same event,
// whichever way it is told to send.
func (s *Source) fromForm(body []byte, charset decode.Charset) ([]byte, *refusal) {
	if _, bom := decode.Detect(body); bom > 0 || charset.Unit() > 1 {
		text, p := s.decoded(body, charset)
		if p != nil {
			return nil, p
		}
		body, charset = bytes.TrimSpace(text), decode.Charset{}
	}
	o := newObject(maxFields)
	if err := s.fromPairs(o, string(body), charset); err != nil {
		return nil, formError(err)
	}
	if len(o.fields) == 1 && o.fields[0].name == "payload" && o.count == 1 {
		if value := o.fields[0].value(); value[0] == '{' {
			return value, nil
		}
	}
	return checked(o.encode())
}

// query returns the parameters of a request's query.
func (s *Source) query(r *http.Request) (*object, *refusal) {
	o := newObject(maxQuery)
	if err := s.fromPairs(o, r.URL.RawQuery, s.charset); err != nil {
		return nil, refusef(http.StatusBadRequest, "the query of the URL cannot be used: it is malformed, not in its character set, or has more than %d parameters", maxQuery)
	}
	return o, nil
}

// gate is a reader that can be told how much it may yield.
type gate struct {
	io.Reader
	left int64
}

var errGate = errors.New("a part's header is too long")

func (g *gate) Read(p []byte) (int, error) {
	if g.left <= 0 {
		return 0, errGate
	}
	if int64(len(p)) > g.left {
		p = p[:g.left]
	}
	n, err := g.Reader.Read(p)
	g.left -= int64(n)
	return n, err
}

// fromMultipart reads a multipart form as it comes. Files are counted and
// skipped; the rest may hold as much as a body.
func (s *Source) fromMultipart(q *request, body io.Reader, boundary string, charset decode.Charset) ([]byte, *refusal) {
	const everything = 1 << 62
	o := newObject(maxFields)
	left := int64(s.config.MaxBody)
	in := &gate{Reader: body}
	fields := &metered{q: q, most: 2 * left} // of all fields together
	reader := multipart.NewReader(in, boundary)
	for range maxFields + 1 {
		in.left = maxPartHeader
		part, err := reader.NextPart()
		if err == io.EOF {
			if p := q.acquire(growing * (int64(s.config.MaxBody) - left)); p != nil {
				return nil, p
			}
			return checked(o.encode())
		}
		if err != nil {
			return nil, s.multipartError(err)
		}
		in.left = everything
		if part.FileName() != "" || part.FormName() == "" {
			if part.FileName() != "" {
				s.dropped.Add(1)
			}
			if _, err := io.Copy(io.Discard, part); err != nil {
				return nil, s.multipartError(err)
			}
			continue
		}
		fields.Reader = io.LimitReader(part, left+1)
		raw, err := io.ReadAll(fields)
		if err != nil {
			return nil, s.multipartError(err)
		}
		if left -= int64(len(raw) + len(part.FormName())); left < 0 {
			return nil, s.tooLarge()
		}
		own := charset
		if _, params, err := mime.ParseMediaType(part.Header.Get("Content-Type")); err == nil && !s.charset.Known() {
			if c, err := decode.Lookup(params["charset"]); err == nil && c.Known() {
				own = c
			}
		}
		name, err1 := s.field(part.FormName(), charset)
		text, p := s.decoded(raw, own)
		if err1 != nil || p != nil {
			return nil, formError(errUndecodable)
		}
		if o.add(name, string(text)) != nil {
			break
		}
	}
	return nil, formError(errTooMany)
}

func (s *Source) multipartError(err error) *refusal {
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return refusef(http.StatusRequestEntityTooLarge, "the form is larger than %s with its files; see max_upload", s.config.MaxUpload)
	}
	if errors.Is(err, errBusy) {
		return busy()
	}
	if errors.Is(err, errGate) {
		return refusef(http.StatusRequestEntityTooLarge, "the header of a part of the form is longer than %d bytes", maxPartHeader)
	}
	return refusef(http.StatusBadRequest, "the multipart form is malformed or ends too early")
}

// checked bounds the depth of what was put together.
func checked(payload []byte) ([]byte, *refusal) {
	if err := event.Check(payload); err != nil {
		return nil, invalid(err)
	}
	return payload, nil
}

// beside adds members to a valid JSON object, but those whose names it has.
func beside(object []byte, names []string, members [][]byte) []byte {
	there := event.Pick(object, names...)
	out := bytes.Clone(bytes.TrimSpace(object))
	out = bytes.TrimRight(out[:len(out)-1], " \t\r\n")
	for i, member := range members {
		if there[i] != nil {
			continue
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(out, member...)
	}
	return append(out, '}')
}

// members lists the fields for beside.
func (o *object) members() (names []string, members [][]byte) {
	for _, f := range o.fields {
		if len(f.texts) > 0 {
			names, members = append(names, f.name), append(members, f.member())
		}
	}
	return names, members
}
