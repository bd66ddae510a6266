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

// element is one that is open.
type element struct {
	name string
	own  *node
	text strings.Builder
}

// node is a JSON object under construction: names in their order, with the
// values of each, which are JSON.
type node struct {
	names  []string
	values map[string][][]byte
}

func (n *node) add(name string, value []byte) {
	if n.values == nil {
		n.values = map[string][][]byte{}
	}
	if _, known := n.values[name]; !known {
		n.names = append(n.names, name)
	}
	n.values[name] = append(n.values[name], value)
}

func (n *node) encode() []byte {
	out := []byte{'{'}
	for i, name := range n.names {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(append(out, event.String(name)...), ':')
		if values := n.values[name]; len(values) == 1 {
			out = append(out, values[0]...)
		} else {
			out = append(append(append(out, '['), bytes.Join(values, []byte{','})...), ']')
		}
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

// fromXML makes an object of XML: an element is a member under its local name,
// several of one name are a list, attributes are members with @ before their
// name. One with nothing but text is that text; text beside others is "#text".
func fromXML(text []byte) ([]byte, error) {
	if len(text) > maxXML {
		return nil, fmt.Errorf("the XML has more than %d bytes", maxXML)
	}
	decoder := xml.NewDecoder(bytes.NewReader(text))
	decoder.CharsetReader = func(_ string, in io.Reader) (io.Reader, error) { return in, nil } // it is UTF-8 already
	open, count := []*element{{own: &node{}}}, 0
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
			e := &element{name: t.Name.Local, own: &node{}}
			for _, a := range t.Attr {
				if a.Name.Space != "xmlns" && a.Name.Local != "xmlns" {
					e.own.add("@"+a.Name.Local, event.String(a.Value))
				}
			}
			open = append(open, e)
		case xml.EndElement:
			if len(open) == 1 || top.name != t.Name.Local {
				return nil, fmt.Errorf("the body is not XML: </%.32s> closes nothing", t.Name.Local)
			}
			open = open[:len(open)-1]
			open[len(open)-1].own.add(top.name, top.value())
		case xml.CharData:
			top.text.Write(t)
		}
	}
	if len(open) > 1 || len(open[0].own.names) == 0 {
		return nil, errors.New("the body is not XML: it ends too early")
	}
	return open[0].own.encode(), nil
}

func (e *element) value() []byte {
	text := strings.TrimSpace(e.text.String())
	if len(e.own.names) == 0 {
		return event.String(text)
	}
	if text != "" {
		e.own.add("#text", event.String(text))
	}
	return e.own.encode()
}
