package lines_test

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"

	"event2mqtt/internal/decode"
	"event2mqtt/internal/event"
	"event2mqtt/internal/sources/tail/lines"
)

// kinds are readers of every way to split, with a small max_line so that the
// fuzzer gets to its bounds.
func kinds(t testing.TB) (all []*lines.Reader) {
	for _, set := range []func(*lines.Config){
		nil,
		func(c *lines.Config) { c.Format, c.Event.Default, c.Multiline.Start = "text", "T", `^\d` },
		func(c *lines.Config) { c.Format = "docker" },
		func(c *lines.Config) { c.Format, c.Event.Default = "text", "T" },
	} {
		all = append(all, reader(t, func(c *lines.Config) {
			c.MaxLine = 64
			if set != nil {
				set(c)
			}
		}))
	}
	return all
}

var charsets = []string{"", "utf-8", "utf-16le", "utf-16be", "shift_jis", "windows-1252"}

// FuzzSplit holds that entries are the file, byte for byte, that they come to
// an end, and that they do not depend on how the file came.
func FuzzSplit(f *testing.F) {
	for kind := range uint8(4) {
		f.Add([]byte("{\n \"a\": 1\n}\n{\"b\":2}\nplain\n[\n{\"c\":3},\n{\"d\":[\n"), kind, uint8(0), uint8(7))
		f.Add([]byte("1 first\n more\n2 second\r\n\x00\x003\n\n"), kind, uint8(1), uint8(1))
		f.Add([]byte("{\"log\":\"par\",\"stream\":\"a\"}\n{\"log\":\"t\\n\",\"stream\":\"a\"}\n"), kind, uint8(0), uint8(30))
		f.Add([]byte("{\x00\n\x00\x0a\x0d \x00}\x00\n\x00x"), kind, uint8(2), uint8(3))
		f.Add([]byte("\x00{\x00\n\x0d\x0a\x00}\x00\n"), kind, uint8(3), uint8(5))
		f.Add([]byte("{\"\x83\x5c\":\n1}\n"+strings.Repeat("[", 70)+"\n"+strings.Repeat("[\n", 70)), kind, uint8(4), uint8(9))
	}
	readers := kinds(f)
	f.Fuzz(func(t *testing.T, data []byte, kind, charset, step uint8) {
		r := readers[int(kind)%len(readers)]
		cs, err := decode.Lookup(charsets[int(charset)%len(charsets)])
		if err != nil {
			t.Fatal(err)
		}
		want := split(t, r, cs, data)
		if strings.Join(want, "") != string(data) {
			t.Fatalf("the entries %q are not the file %q", want, data)
		}
		var got []string
		from := 0
		for to := 0; from < len(data); {
			n := r.Split(cs, data[from:to], to == len(data))
			switch {
			case n > 0:
				got = append(got, string(data[from:from+n]))
				from += n
			case to == len(data):
				t.Fatalf("no progress at the end, at %d of %q", from, data)
			default:
				to = min(len(data), to+1+int(step))
			}
		}
		if strings.Join(got, "|") != strings.Join(want, "|") {
			t.Fatalf("in steps of %d: %q\nat once: %q", step, got, want)
		}
	})
}

// FuzzEvents holds that whatever a line says, what comes of it is JSON of
// bounded depth, has no character of doubt that was not there, and that a line
// is either an event, or blank, or said in words to be none.
func FuzzEvents(f *testing.F) {
	formats := []string{"json", "regexp", "text", "logfmt", "csv", "nginx", "docker", "journald", "syslog"}
	for i, line := range []string{
		`[{"event":"a"},{"event":"b"}]`, `a b`, "x\xff", `a=1 b="c\x41\"" d`, `1;"2;3"`,
		`::1 - - [25/Nov/2023:11:00:00 +0100] "GET / HTTP/1.1" 200 5 "-" "a\x22b"`,
		`{"log":"{\"event\":\"x\"}\n","stream":"stdout","time":"2023-11-25T10:00:00Z"}`,
		`{"MESSAGE":[104,105,255],"__REALTIME_TIMESTAMP":"1700906400000000"}`, `<34>1 2003-10-11T22:14:15.003Z host app - ID47 [a b="c\"d"] m`,
	} {
		f.Add([]byte(line), uint8(i), uint8(0), false)
		f.Add([]byte(line), uint8(i), uint8(2), true)
	}
	var readers []*lines.Reader
	for _, format := range formats {
		readers = append(readers, reader(f, func(c *lines.Config) {
			c.Format, c.Event.Default, c.Parse = format, "E", []string{"a", "log.a"}
			if format == "regexp" {
				c.Pattern = `(?s)^(?P<a>\S*) ?(?P<event>.*)`
			}
			if format == "csv" {
				c.Delimiter = ";"
			}
		}))
	}
	f.Fuzz(func(t *testing.T, entry []byte, format, charset uint8, cut bool) {
		cs, err := decode.Lookup(charsets[int(charset)%len(charsets)])
		if err != nil {
			t.Fatal(err)
		}
		events, why := readers[int(format)%len(readers)].Events(cs, entry, []byte("a;b;c"), cut)
		if len(events) == 0 && why == "" && len(bytes.Trim(entry, "\x00\r\n\t ")) > 0 && format%9 != 4 {
			if text, _, _ := cs.Text(entry); len(bytes.TrimSpace(text)) > 0 && !cut {
				t.Fatalf("%q is no event, and nobody says why", entry)
			}
		}
		for _, e := range events {
			if err := event.Check(e.Payload); err != nil || len(e.Payload) == 0 {
				t.Fatalf("%q gives %q: %v", entry, e.Payload, err)
			}
			if bytes.ContainsRune(e.Payload, utf8.RuneError) && !bytes.ContainsRune(entry, utf8.RuneError) && !bytes.Contains(entry, []byte(`\`)) {
				t.Fatalf("%q gives %q", entry, e.Payload)
			}
		}
	})
}
