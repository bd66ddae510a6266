package webhook

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"event2mqtt/internal/decode"
	"event2mqtt/internal/event"
)

// Bounds of XML. encoding/xml knows no entities but the five of XML itself, so
// that nothing in it multiplies; what is left is to count.
const (
	maxXML      = 1 << 20 // bytes
	maxElements = 10000   // with their attributes
	maxXMLDepth = event.MaxDepth - 2
)

// element is an element of XML, or an attribute. What is in it is kept by name,
// names in their order, and becomes JSON in one go: each level making its own
// would copy everything once for each level.
type element struct {
	name  string
	names []string
	inner map[string][]*element
	text  strings.Builder
}

func (e *element) add(name string, inner *element) {
	if e.inner == nil {
		e.inner = map[string][]*element{}
	}
	if _, known := e.inner[name]; !known {
		e.names = append(e.names, name)
	}
	e.inner[name] = append(e.inner[name], inner)
}

// appendJSON appends the element's value: a text, or an object.
func (e *element) appendJSON(out []byte) []byte {
	text := strings.TrimSpace(e.text.String())
	if len(e.names) == 0 {
		return append(out, event.String(text)...)
	}
	out = append(out, '{')
	for i, name := range e.names {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(append(out, event.String(name)...), ':')
		inner := e.inner[name]
		if len(inner) == 1 {
			out = inner[0].appendJSON(out)
			continue
		}
		for k, one := range inner {
			out = append(out, "[,"[min(k, 1)])
			out = one.appendJSON(out)
		}
		out = append(out, ']')
	}
	if text != "" {
		out = append(append(out, `,"#text":`...), event.String(text)...)
	}
	return append(out, '}')
}

var xmlEncoding = regexp.MustCompile(`^<\?xml[^>]*?encoding=["']([A-Za-z0-9._-]+)["']`)

// xmlCharset returns the character set that the first line of a text of XML
// tells, or the zero value.
func xmlCharset(raw []byte) decode.Charset {
	if m := xmlEncoding.FindSubmatch(raw[:min(len(raw), 128)]); m != nil {
		if c, err := decode.Lookup(string(m[1])); err == nil && c.Unit() == 1 {
			return c
		}
	}
	return decode.Charset{}
}

// crowded reports whether a tag has more attributes than all elements may have.
// encoding/xml makes those of a tag before it hands it out, 50 bytes of memory
// for each byte. A < is nowhere in a tag but at its beginning, so each one begins
// anew here: what is taken for a tag in a comment can only be too much.
func crowded(text []byte) bool {
	n, quote := 0, byte(0)
	inside := false
	for _, c := range text {
		switch {
		case c == '<':
			n, quote, inside = 0, 0, true
		case !inside:
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '"', c == '\'':
			quote = c
		case c == '>':
			inside = false
		case c == '=':
			if n++; n > maxElements {
				return true
			}
		}
	}
	return false
}

// fromXML makes an object of XML: an element is a member under its local name,
// several of one name are a list, attributes are members with @ before their
// name. One with nothing but text is that text; text beside others is "#text".
func fromXML(text []byte) ([]byte, error) {
	if len(text) > maxXML {
		return nil, fmt.Errorf("the XML has more than %d bytes", maxXML)
	}
	if crowded(text) {
		return nil, fmt.Errorf("the XML has more than %d elements and attributes", maxElements)
	}
	decoder := xml.NewDecoder(bytes.NewReader(text))
	decoder.CharsetReader = func(_ string, in io.Reader) (io.Reader, error) { return in, nil } // it is UTF-8 already
	open, count := []*element{{}}, 0
	for {
		token, err := decoder.RawToken()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("the body is not XML: %w", err)
		}
		top := open[len(open)-1]
		switch t := token.(type) {
		case xml.StartElement:
			if count += 1 + len(t.Attr); count > maxElements {
				return nil, fmt.Errorf("the XML has more than %d elements and attributes", maxElements)
			}
			if len(open) > maxXMLDepth {
				return nil, fmt.Errorf("the XML nests more than %d levels deep", maxXMLDepth)
			}
			e := &element{name: t.Name.Local}
			for _, a := range t.Attr {
				if a.Name.Space != "xmlns" && a.Name.Local != "xmlns" {
					attribute := &element{}
					attribute.text.WriteString(a.Value)
					e.add("@"+a.Name.Local, attribute)
				}
			}
			open = append(open, e)
		case xml.EndElement:
			if len(open) == 1 || top.name != t.Name.Local {
				return nil, fmt.Errorf("the body is not XML: </%.32s> closes nothing", t.Name.Local)
			}
			open = open[:len(open)-1]
			open[len(open)-1].add(top.name, top)
		case xml.CharData:
			if len(open) > 1 {
				top.text.Write(t)
			}
		}
	}
	if len(open) > 1 || len(open[0].names) == 0 {
		return nil, errors.New("the body is not XML: it ends too early")
	}
	return open[0].appendJSON(nil), nil
}
