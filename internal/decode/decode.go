// Package decode makes UTF-8 of the bytes that events come in: lines of files
// and bodies of requests alike. It knows byte order marks, UTF-16, declared and
// configured character sets, and NUL bytes. It does not look at what the text
// says, and it never puts U+FFFD in the place of what it cannot read.
package decode

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"unicode/utf16"
	"unicode/utf8"

	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/charmap"
	"golang.org/x/text/encoding/htmlindex"
)

// Charset is a character set. The zero value is not known: UTF-8 where the
// bytes are that, and Windows-1252, which holds Latin-1, where they are not.
type Charset struct {
	name  string
	order binary.ByteOrder  // of UTF-16, else nil
	enc   encoding.Encoding // nil is UTF-16 or UTF-8, if name is set
}

// The character sets that byte order marks tell.
var (
	utf8Charset = Charset{name: "utf-8"}
	utf16le     = Charset{name: "utf-16le", order: binary.LittleEndian}
	utf16be     = Charset{name: "utf-16be", order: binary.BigEndian}
)

// Lookup returns the character set of a name as HTTP and HTML use it, such as
// utf-8, utf-16le, iso-8859-1, windows-1252, shift_jis or gbk; "" is the zero
// value.
func Lookup(name string) (Charset, error) {
	if name == "" {
		return Charset{}, nil
	}
	enc, err := htmlindex.Get(name)
	if err != nil {
		return Charset{}, fmt.Errorf("%q is not a character set that is known; write one such as utf-8, utf-16le, iso-8859-1, windows-1252, shift_jis or gbk", name)
	}
	switch canonical, _ := htmlindex.Name(enc); canonical {
	case "utf-8":
		return utf8Charset, nil
	case "utf-16le":
		return utf16le, nil
	case "utf-16be":
		return utf16be, nil
	case "replacement", "x-user-defined": // not for reading text
		return Charset{}, fmt.Errorf("%q is not a character set that can be read", name)
	default:
		return Charset{name: canonical, enc: enc}, nil
	}
}

// Detect looks for a byte order mark at the beginning of a file or a body. It
// returns the character set that it tells and how many bytes it takes, or the
// zero value and 0.
func Detect(head []byte) (c Charset, bom int) {
	switch {
	case bytes.HasPrefix(head, []byte("\xef\xbb\xbf")):
		return utf8Charset, 3
	case bytes.HasPrefix(head, []byte("\xff\xfe")):
		return utf16le, 2
	case bytes.HasPrefix(head, []byte("\xfe\xff")):
		return utf16be, 2
	}
	return Charset{}, 0
}

// Known reports whether the character set was told.
func (c Charset) Known() bool { return c.name != "" }

// String returns the name.
func (c Charset) String() string { return c.name }

// Unit is how many bytes a code unit has: 2 for UTF-16, else 1. A line of UTF-16 ends
// in a line feed of two bytes, at an even distance from the beginning.
func (c Charset) Unit() int {
	if c.order != nil {
		return 2
	}
	return 1
}

// LineFeed is the line feed as the character set writes it.
func (c Charset) LineFeed() []byte {
	switch c.name {
	case utf16le.name:
		return []byte{'\n', 0}
	case utf16be.name:
		return []byte{0, '\n'}
	}
	return []byte{'\n'}
}

// Note says what a text's decoding had to assume; "" is nothing.
type Note string

// What decoding may have to assume, each to be said once by who decodes.
const (
	Assumed Note = "it is not UTF-8 and was read as Windows-1252; set encoding to what it is"
	Holes   Note = "it holds NUL bytes, which were left out"
)

// Text makes UTF-8 of raw, which has no byte order mark any more, and leaves
// out NUL bytes, as a file has them that was truncated under its writer. The
// result is raw itself where nothing needs to change. The error says in words
// that raw is not in the character set that it is said to be in.
func (c Charset) Text(raw []byte) (text []byte, note Note, err error) {
	switch {
	case c.order != nil:
		var ok bool
		if text, ok = fromUTF16(raw, c.order); !ok {
			return nil, "", fmt.Errorf("it is not valid %s, as it is said to be", c.name)
		}
	case c.enc != nil:
		if text, err = c.enc.NewDecoder().Bytes(raw); err != nil || bytes.ContainsRune(text, utf8.RuneError) {
			return nil, "", fmt.Errorf("it is not valid %s, as it is said to be", c.name)
		}
	case utf8.Valid(raw):
		text = raw
	case c.name != "":
		return nil, "", fmt.Errorf("it is not valid UTF-8, as it is said to be")
	default:
		text, note = western(raw), Assumed
	}
	if bytes.IndexByte(text, 0) >= 0 {
		text = bytes.ReplaceAll(text, []byte{0}, nil)
		if note == "" {
			note = Holes
		}
	}
	return text, note, nil
}

// fromUTF16 reads UTF-16, and reports whether it is that: of whole units, and
// with surrogates in pairs. A U+FFFD that is written there is a character as
// any other.
func fromUTF16(raw []byte, order binary.ByteOrder) ([]byte, bool) {
	if len(raw)%2 != 0 {
		return nil, false
	}
	next := func(i int) (r rune, size int) {
		r, size = rune(order.Uint16(raw[i:])), 2
		if utf16.IsSurrogate(r) {
			second := rune(0)
			if i+4 <= len(raw) {
				second = rune(order.Uint16(raw[i+2:]))
			}
			r, size = utf16.DecodeRune(r, second), 4 // no pair makes U+FFFD
			if r == utf8.RuneError {
				size = 0
			}
		}
		return r, size
	}
	total := 0
	for i := 0; i < len(raw); {
		r, size := next(i)
		if size == 0 {
			return nil, false
		}
		total, i = total+utf8.RuneLen(r), i+size
	}
	text := make([]byte, 0, total)
	for i := 0; i < len(raw); {
		r, size := next(i)
		text, i = utf8.AppendRune(text, r), i+size
	}
	return text, true
}

// western reads Windows-1252. The five bytes that it leaves open are what they
// are in Latin-1, as the WHATWG's Encoding Standard has it.
func western(raw []byte) []byte {
	total := 0
	for _, b := range raw {
		total += utf8.RuneLen(westernRune(b))
	}
	text := make([]byte, 0, total)
	for _, b := range raw {
		text = utf8.AppendRune(text, westernRune(b))
	}
	return text
}

func westernRune(b byte) rune {
	if r := charmap.Windows1252.DecodeByte(b); r != utf8.RuneError {
		return r
	}
	return rune(b)
}

// Body decodes a whole text: by its byte order mark, else as it is declared to
// be, else as the zero Charset does.
func Body(raw []byte, declared Charset) (text []byte, note Note, err error) {
	if told, bom := Detect(raw); bom > 0 {
		return told.Text(raw[bom:])
	}
	return declared.Text(raw)
}
