package lines_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"event2mqtt/internal/decode"
	"event2mqtt/internal/sources/tail/lines"
)

// reader returns a reader of a configuration that is prepared and checked.
func reader(t testing.TB, set func(*lines.Config)) *lines.Reader {
	t.Helper()
	r, _ := logged(t, set)
	return r
}

// logged is reader, with what it logs.
func logged(t testing.TB, set func(*lines.Config)) (*lines.Reader, *bytes.Buffer) {
	t.Helper()
	c := lines.Defaults()
	if set != nil {
		set(&c)
	}
	c.Prepare()
	if err := c.Check(); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	r, err := lines.New(c, zerolog.New(&log))
	if err != nil {
		t.Fatal(err)
	}
	return r, &log
}

// split takes data apart, to its end.
func split(t testing.TB, r *lines.Reader, cs decode.Charset, data []byte) (entries []string) {
	t.Helper()
	for len(data) > 0 {
		n := r.Split(cs, data, true)
		if n <= 0 || n > len(data) {
			t.Fatalf("Split took %d of %d bytes", n, len(data))
		}
		entries = append(entries, string(data[:n]))
		data = data[n:]
	}
	return entries
}

// TestPrettyJSONIsOneEntry holds what the tail promises of JSON over several
// lines, and that a broken line takes no other with it.
func TestPrettyJSONIsOneEntry(t *testing.T) {
	for name, want := range map[string][]string{
		"single lines":                 {"{\"a\":1}\n", "{\"b\":2}\n"},
		"printed over lines":           {"{\n  \"event\": \"PrettyOne\",\n  \"a\": {\n    \"b\": [\n      1\n    ]\n  }\n}\n", "{\"event\":\"After\"}\n"},
		"with CR LF and empty lines":   {"{\r\n\r\n \"a\": 1\r\n}\r\n", "\r\n", "{\"b\":2}\r\n"},
		"array of indented objects":    {"[\n  {\"a\":1},\n  {\"a\":2}\n]\n", "x\n"},
		"array of objects at column 0": {"[\n{\"a\":1},\n{\"a\":2}\n]\n", "{\"b\":2}\n"},
		"broken: cut in a text":        {"{\"a\":\"tex\n", "{\"b\":2}\n", "t\n"},
		"broken: cut before a value":   {"{\"a\":\n", "{\"b\":2}\n", "{\"c\":2}\n"},
		"broken: cut after a comma":    {"{\"a\":1,\n", "{\"b\":2}\n"},
		"broken: nothing fits":         {"{\"a\":1\n", "plain\n", "{\"b\":2}\n"},
		"broken: array":                {"[\n", "{\"a\":1}\n", "{\"b\":2}\n", "{\"c\":2}\n"},
		"broken: array to the end":     {"[\n", "{\"a\":1},\n", "{\"b\":2},\n"},
		"broken: arrays":               {"[1,\n", "[2,\n", "[3]\n"},
		"a log's own brackets":         {"[main] started\n", "[main] stopped\n"},
		"brackets in texts":            {"{\"a\":\"}{][\\\"{\",\n\"b\":1}\n", "{}\n"},
		"no line end":                  {"{\"a\":1}\n", "{\n \"b\":2\n}"},
		"several on a line":            {"{\"a\":1}{\"b\":2}\n", "{\"c\":1} {\n\"d\":2}\n", "{}\n"},
		"NULs before it":               {"\x00\x00{\n \"a\": 1\n}\n", "{}\n"},
	} {
		t.Run(name, func(t *testing.T) {
			got := split(t, reader(t, nil), decode.Charset{}, []byte(strings.Join(want, "")))
			if strings.Join(got, "|") != strings.Join(want, "|") {
				t.Errorf("got  %q\nwant %q", got, want)
			}
		})
	}
}
