package decode_test

import (
	"bytes"
	"testing"
	"unicode/utf8"

	"event2mqtt/internal/decode"
)

func lookup(t *testing.T, name string) decode.Charset {
	t.Helper()
	c, err := decode.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestTextIsReadByItsMarkThenAsDeclaredThenAsItLooks(t *testing.T) {
	for _, c := range []struct {
		name, declared, raw, want string
		note                      decode.Note
	}{
		{"plain", "", "Küche", "Küche", ""},
		{"marked UTF-8", "", "\xef\xbb\xbfhello", "hello", ""},
		{"marked UTF-16LE", "", "\xff\xfeh\x00\xfc\x00\n\x00", "hü\n", ""},
		{"marked UTF-16BE", "", "\xfe\xff\x00h\x00\xfc", "hü", ""},
		{"the mark goes before what is declared", "iso-8859-1", "\xef\xbb\xbfK\xc3\xbcche", "Küche", ""},
		{"a surrogate pair", "utf-16le", "\x3d\xd8\x00\xde", "😀", ""},
		{"a replacement character of its own", "", "h\ufffd", "h\ufffd", ""},
		{"one in UTF-16BE", "", "\xfe\xff\x00h\xff\xfd", "h\ufffd", ""},
		{"one in UTF-16LE", "utf-16le", "h\x00\xfd\xff\x3d\xd8\x00\xde", "h\ufffd😀", ""},
		{"declared Latin-1", "ISO-8859-1", "K\xfcche", "Küche", ""},
		{"declared Latin-9 is not Latin-1", "iso-8859-15", "\xa4", "€", ""},
		{"declared Shift JIS", "shift_jis", "\x83\x65\x83\x58\x83\x67", "テスト", ""},
		{"undeclared Latin-1", "", "K\xfcche", "Küche", decode.Assumed},
		{"bytes that Windows-1252 leaves open", "", "\x81\x80\xff", "\u0081€ÿ", decode.Assumed},
		{"a hole", "", "\x00\x00\x00{\"event\":\"A\"}\x00", `{"event":"A"}`, decode.Holes},
		{"nothing", "utf-8", "", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			text, note, err := decode.Body([]byte(c.raw), lookup(t, c.declared))
			if err != nil || string(text) != c.want || note != c.note {
				t.Errorf("got %q, %q, %v; want %q, %q", text, note, err, c.want, c.note)
			}
		})
	}
}

func TestWhatCannotBeReadIsAnErrorAndNoReplacementCharacter(t *testing.T) {
	for _, c := range []struct{ declared, raw string }{
		{"utf-8", "K\xfcche"}, {"utf-16le", "h"}, {"utf-16be", "\xdc\x00\x00h"}, {"utf-16be", "\xd8\x3d"}, {"utf-16be", "\xd8\x3d\x00h"},
		{"utf-16le", "\x3d\xd8\x3d\xd8\x00\xde"}, {"utf-16le", "\xfd\xff\x00\xdc"}, {"utf-16le", "h\x00\xfd\xff\xfd"}, {"shift_jis", "\x83"}, {"windows-1252", "\x81"},
	} {
		if text, _, err := decode.Body([]byte(c.raw), lookup(t, c.declared)); err == nil {
			t.Errorf("%q as %s gave %q", c.raw, c.declared, text)
		}
	}
	for _, name := range []string{"utf-7", "latin", "replacement", "x-user-defined", "utf 8"} {
		if c, err := decode.Lookup(name); err == nil {
			t.Errorf("%q is %v", name, c)
		}
	}
}

// ownReplacements counts the U+FFFD that a text holds itself.
func ownReplacements(raw []byte, c decode.Charset) (n int) {
	if told, bom := decode.Detect(raw); bom > 0 {
		raw, c = raw[bom:], told
	}
	if c.Unit() == 1 {
		return bytes.Count(raw, []byte("\xef\xbf\xbd"))
	}
	own := []byte("\xff\xfd")
	if c.String() == "utf-16le" {
		own = []byte("\xfd\xff")
	}
	for i := 0; i+2 <= len(raw); i += 2 {
		if bytes.Equal(raw[i:i+2], own) {
			n++
		}
	}
	return n
}

func FuzzBody(f *testing.F) {
	f.Add([]byte("\xff\xfeh\x00"), "")
	f.Add([]byte("K\xfcche\x00"), "iso-8859-1")
	f.Add([]byte("\xff\xfd\xd8\x3d\xde\x00\xdc\x00"), "utf-16be")
	f.Add([]byte("\xfd\xffh\x00"), "utf-16le")
	f.Fuzz(func(t *testing.T, raw []byte, name string) {
		c, err := decode.Lookup(name)
		if err != nil {
			return
		}
		before := bytes.Clone(raw)
		text, note, err := decode.Body(raw, c)
		switch {
		case !bytes.Equal(before, raw):
			t.Error("the input was changed")
		case err != nil:
		case !utf8.Valid(text), bytes.IndexByte(text, 0) >= 0:
			t.Errorf("%q gave %q", raw, text)
		case bytes.Count(text, []byte("\ufffd")) > ownReplacements(raw, c):
			t.Errorf("%q gave a replacement character, with the note %q", raw, note)
		case len(text) > 3*len(raw)+3:
			t.Errorf("%d bytes became %d", len(raw), len(text))
		}
	})
}
