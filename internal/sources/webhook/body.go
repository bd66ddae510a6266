package webhook

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"strings"

	"event2mqtt/internal/event"
	"event2mqtt/internal/web/problem"
)

// maxFields bounds the fields of a form.
const maxFields = 1000

// readBody returns the body as it came and unpacked, both bounded.
func (s *Source) readBody(w http.ResponseWriter, r *http.Request) (raw, body []byte, p *problem.Details) {
	limit := int64(s.config.MaxBody)
	tooLarge := problem.New(http.StatusRequestEntityTooLarge, fmt.Sprintf("the body is larger than %s", s.config.MaxBody))
	if r.ContentLength > limit {
		return nil, nil, tooLarge
	}
	buf := bytes.Buffer{}
	if r.ContentLength > 0 {
		buf.Grow(int(min(r.ContentLength, 64<<10)) + bytes.MinRead) // more only as it comes
	}
	if _, err := buf.ReadFrom(http.MaxBytesReader(w, r.Body, limit)); err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return nil, nil, tooLarge
		}
		return nil, nil, problem.New(http.StatusBadRequest, "the body could not be read to its end")
	}
	raw = buf.Bytes()
	switch encoding := r.Header.Get("Content-Encoding"); encoding {
	case "", "identity":
		return raw, raw, nil
	case "gzip", "x-gzip":
		body, p = s.unpack(raw)
		return raw, body, p
	default:
		return nil, nil, problem.New(http.StatusUnsupportedMediaType, "the content encoding is not known; use gzip or none")
	}
}

func (s *Source) unpack(raw []byte) ([]byte, *problem.Details) {
	z, err := gzip.NewReader(bytes.NewReader(raw))
	var body []byte
	if err == nil {
		body, err = io.ReadAll(io.LimitReader(z, int64(s.config.MaxUnpacked)+1))
	}
	if int64(len(body)) > int64(s.config.MaxUnpacked) {
		return nil, problem.New(http.StatusRequestEntityTooLarge, fmt.Sprintf("the body unpacks to more than %s", s.config.MaxUnpacked))
	}
	if err != nil {
		return nil, problem.New(http.StatusBadRequest, "the body is not valid gzip, though Content-Encoding says so")
	}
	return body, nil
}

// payload makes one JSON value of a body; nil if there is none.
func (s *Source) payload(r *http.Request, body []byte) ([]byte, *problem.Details) {
	contentType := r.Header.Get("Content-Type")
	kind, params, err := mime.ParseMediaType(contentType)
	if err != nil && contentType != "" {
		return nil, problem.New(http.StatusUnsupportedMediaType, "the Content-Type is malformed")
	}
	trimmed := bytes.TrimSpace(body)
	switch {
	case kind == "multipart/form-data":
		return s.fromMultipart(body, params["boundary"])
	case kind == "application/x-www-form-urlencoded" && !looksLikeJSON(trimmed):
		// curl -d sends JSON under this type unless told otherwise.
		return fromForm(trimmed)
	case kind == "", kind == "application/json", strings.HasSuffix(kind, "+json"), kind == "text/plain", kind == "application/x-www-form-urlencoded":
	default:
		return nil, problem.New(http.StatusUnsupportedMediaType, "the Content-Type must be application/json, application/x-www-form-urlencoded or multipart/form-data")
	}
	if err := event.Check(trimmed); err != nil {
		detail := err.Error()
		if looksLikeJSON(trimmed) && bytes.IndexByte(trimmed, '"') < 0 && bytes.IndexByte(trimmed, ':') > 0 {
			detail += "; its double quotes are missing, most likely taken by a shell: put the JSON into single quotes (OctoPrint up to 1.11.2: -d '{__json}', later without quotes: -d {__json})"
		}
		return nil, problem.New(http.StatusBadRequest, detail)
	}
	return trimmed, nil
}

func looksLikeJSON(b []byte) bool { return len(b) > 0 && (b[0] == '{' || b[0] == '[') }

// object builds a JSON object in the order of its fields; a field that comes
// several times becomes a list.
type object struct {
	names  []string
	values map[string][][]byte
}

func (o *object) add(name, text string) error {
	value := []byte(text)
	if trimmed := bytes.TrimSpace(value); looksLikeJSON(trimmed) && json.Valid(trimmed) {
		value = trimmed // forms carry nested values as JSON text
	} else {
		var err error
		if value, err = json.Marshal(text); err != nil {
			return err
		}
	}
	if o.values == nil {
		o.values = map[string][][]byte{}
	}
	if _, known := o.values[name]; !known {
		if len(o.names) == maxFields {
			return fmt.Errorf("the form has more than %d fields", maxFields)
		}
		o.names = append(o.names, name)
	}
	o.values[name] = append(o.values[name], value)
	return nil
}

func (o *object) encode() []byte {
	out := []byte{'{'}
	for i, name := range o.names {
		if i > 0 {
			out = append(out, ',')
		}
		key, _ := json.Marshal(name) // a string always encodes
		out = append(append(out, key...), ':')
		if values := o.values[name]; len(values) == 1 {
			out = append(out, values[0]...)
		} else {
			out = append(append(append(out, '['), bytes.Join(values, []byte{','})...), ']')
		}
	}
	return append(out, '}')
}

// fromForm reads a URL-encoded form. The order of its fields is kept.
func fromForm(body []byte) ([]byte, *problem.Details) {
	if len(body) == 0 {
		return nil, nil
	}
	var o object
	for pair := range strings.SplitSeq(string(body), "&") {
		name, value, _ := strings.Cut(pair, "=")
		name, err1 := url.QueryUnescape(name)
		value, err2 := url.QueryUnescape(value)
		if err := errors.Join(err1, err2); err != nil || name == "" {
			return nil, problem.New(http.StatusBadRequest, "the form is malformed; for JSON send Content-Type: application/json")
		}
		if err := o.add(name, value); err != nil {
			return nil, problem.New(http.StatusBadRequest, err.Error())
		}
	}
	return checked(o.encode())
}

// fromMultipart reads a multipart form. Files are counted and dropped.
func (s *Source) fromMultipart(body []byte, boundary string) ([]byte, *problem.Details) {
	malformed := problem.New(http.StatusBadRequest, "the multipart form is malformed")
	if boundary == "" {
		return nil, malformed
	}
	var o object
	reader := multipart.NewReader(bytes.NewReader(body), boundary)
	for {
		part, err := reader.NextPart()
		if err == io.EOF {
			return checked(o.encode())
		}
		if err != nil {
			return nil, malformed
		}
		if part.FileName() != "" {
			s.dropped.Add(1)
			continue
		}
		value, err := io.ReadAll(part)
		if err != nil {
			return nil, malformed
		}
		if part.FormName() == "" {
			continue
		}
		if err := o.add(part.FormName(), string(value)); err != nil {
			return nil, problem.New(http.StatusBadRequest, err.Error())
		}
	}
}

// checked bounds the depth of what was put together.
func checked(payload []byte) ([]byte, *problem.Details) {
	if err := event.Check(payload); err != nil {
		return nil, problem.New(http.StatusBadRequest, err.Error())
	}
	return payload, nil
}
