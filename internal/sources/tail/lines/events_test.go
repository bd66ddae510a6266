package lines_test

import (
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"event2mqtt/internal/decode"
	"event2mqtt/internal/sources/tail/lines"
)

// outcome is what a whole entry gives: names and payloads, or why there are none.
func outcome(r *lines.Reader, cs decode.Charset, entry, header string, cut bool) string {
	events, why := r.Events(cs, []byte(entry), []byte(header), cut)
	var out []string
	for _, e := range events {
		out = append(out, e.Name+" "+string(e.Payload))
	}
	if why != "" {
		out = append(out, "why: "+why)
	}
	return strings.Join(out, "\n")
}

// TestEntriesThatAreNoEvents holds what is said of them: nothing of blank ones,
// else why.
func TestEntriesThatAreNoEvents(t *testing.T) {
	many := strings.Repeat(`{"event":"a"},`, 1001)
	for name, c := range map[string]struct{ format, entry, want string }{
		"blank":                       {"json", "\r\n", ""},
		"NULs alone":                  {"text", "\x00\x00\x00\n", ""},
		"empty":                       {"syslog", "", ""},
		"no JSON":                     {"json", "x\n", "why: the payload is not JSON: invalid character 'x' looking for beginning of value at byte 1"},
		"empty array":                 {"json", "[]\n", "why: its array is empty"},
		"no name":                     {"json", `{"a":1}`, "why: it holds none of the keys _event, event, type, topic, and there is no event.default"},
		"some of an array":            {"json", `[{"event":"a"},{"b":1}]`, "a {\"event\":\"a\"}\nwhy: it holds none of the keys _event, event, type, topic, and there is no event.default"},
		"too many in an array":        {"json", "[" + many[:len(many)-1] + "]", "why: it holds more than 1000 events"},
		"too many one after other":    {"json", strings.ReplaceAll(many, ",", ""), "why: it holds more than 1000 events"},
		"the second is broken":        {"json", `{"event":"a"}{"event"}`, "why: the payload is not JSON: invalid character '{' after top-level value at byte 14"},
		"logfmt without a pair":       {"logfmt", "plain words\n", "why: it holds no key=value"},
		"logfmt with open quotes":     {"logfmt", `a="b`, "why: the quotes of \"a\" do not end"},
		"logfmt without a key":        {"logfmt", "=b\n", "why: it has a value without a key"},
		"logfmt with too many":        {"logfmt", strings.Repeat("a=1 ", 1001), "why: it has more than 1000 pairs"},
		"csv: the header":             {"csv", "a,b\n", ""},
		"csv: the header, with a BOM": {"csv", "a,b\r\n", ""},
		"csv: more than the header":   {"csv", "1,2,3\n", "why: it has 3 columns, and the file's first line names 2; set delimiter if that is wrong"},
		"csv: too many":               {"csv", strings.Repeat(",", 1000), "why: it has more than 1000 columns"},
		"nginx":                       {"nginx", "x\n", "why: it is not of nginx's combined format"},
		"docker: not its own":         {"docker", `{"event":"a"}`, `why: it is not Docker's: it has no text "log"`},
		"journald: no object":         {"journald", "1\n", "why: it is not an object"},
		"journald: too many":          {"journald", "{\"a\":[" + strings.Repeat("1,", 1000) + "1]" + strings.Repeat(`,"b":1`, 1000) + "}", "why: it has more than 1000 fields"},
		"syslog":                      {"syslog", "x\n", "why: it is not a line of syslog"},
	} {
		t.Run(name, func(t *testing.T) {
			r := reader(t, func(o *lines.Config) {
				o.Format = c.format
				if c.format == "text" {
					o.Event.Default = "T"
				}
			})
			header := ""
			if c.format == "csv" {
				header = "a,b\r\n"
			}
			if got := outcome(r, decode.Charset{}, c.entry, header, false); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// TestFormats holds what docs/tail-formats.md does not show.
func TestFormats(t *testing.T) {
	for name, c := range map[string]struct{ format, entry, want string }{
		"logfmt: numbers":          {"logfmt", "a=-1e3 b=1. c=+1 d= e=x=y f=1f\n", `Log {"a":-1e3,"b":"1.","c":"+1","d":"","e":"x=y","f":"1f"}`},
		"logfmt: the last counts":  {"logfmt", "a=1 a=2\n", `Log {"a":2}`},
		"csv: quotes":              {"csv", "\"say \"\"hi\"\"\",\"1,5\"\r\n", `Row {"a":"say \"hi\"","b":"1,5"}`},
		"csv: fewer":               {"csv", "007\n", `Row {"a":"007"}`},
		"nginx: common format":     {"nginx", `::1 - - [t] "GET / HTTP/1.0" 304 -`, `Access {"remote_addr":"::1","time_local":"t","request":"GET / HTTP/1.0","request_method":"GET","request_uri":"/","server_protocol":"HTTP/1.0","status":304}`},
		"nginx: no request":        {"nginx", `1.2.3.4 - - [t] "\x16\x03\xFF" 400 157 "-" "-" "extra"`, `Access {"remote_addr":"1.2.3.4","time_local":"t","request":"\u0016\u0003ÿ","status":400,"body_bytes_sent":157}`},
		"docker: with attributes":  {"docker", `{"log":"x\n","stream":"stdout","attrs":{"tag":"t"},"time":"t"}`, `Docker {"log":"x","stream":"stdout","attrs":{"tag":"t"},"time":"t"}`},
		"journald: lists stay":     {"journald", `{"MESSAGE":["a","b"],"N":[300],"M":null}`, `Journal {"MESSAGE":["a","b"],"N":[300],"M":null}`},
		"journald: not UTF-8":      {"journald", `{"MESSAGE":[228]}`, `Journal {"MESSAGE":"ä"}`},
		"syslog: RFC 3164":         {"syslog", `<13>Nov  5 10:00:00 box cron[9]: run`, `Syslog {"facility":"user","severity":"notice","time":"Nov  5 10:00:00","host":"box","app":"cron","pid":9,"message":"run"}`},
		"syslog: kernel":           {"syslog", `Nov 25 10:00:00 box kernel: [  1.5] usb 1-1: new`, `Syslog {"time":"Nov 25 10:00:00","host":"box","app":"kernel","message":"[  1.5] usb 1-1: new"}`},
		"syslog: quotes in data":   {"syslog", `<0>1 - - - - - [a b="]\""][c] m`, `Syslog {"facility":"kern","severity":"emerg","data":"[a b=\"]\\\"\"][c]","message":"m"}`},
		"json: over lines":         {"json", "{\n \"event\": \"a\",\n \"b\": [1, 2]\n}\n", `a {"event":"a","b":[1,2]}`},
		"json: a scalar":           {"json", "1\n", "why: it holds none of the keys _event, event, type, topic, and there is no event.default"},
		"text: CR LF between":      {"text", "a\r\nb\r\n", `T {"line":"a\nb"}`},
		"text: < > & and controls": {"text", "<&>\x1b\t\"\n", `T {"line":"<&>\u001b\t\""}`},
	} {
		t.Run(name, func(t *testing.T) {
			r := reader(t, func(o *lines.Config) {
				o.Format = c.format
				if c.format == "text" {
					o.Event.Default = "T"
				}
			})
			if got := outcome(r, decode.Charset{}, c.entry, "\ufeffa,b\n", false); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func utf16le(text string) string {
	var out []byte
	for _, u := range utf16.Encode([]rune(text)) {
		out = append(out, byte(u), byte(u>>8))
	}
	return string(out)
}

// TestCharsets holds that lines are decoded, that U+FFFD comes of none, and
// that what was assumed is logged once.
func TestCharsets(t *testing.T) {
	text := func(c *lines.Config) { c.Format, c.Event.Default = "text", "T" }
	for name, c := range map[string]struct{ encoding, file, want, log string }{
		"UTF-16 by its mark":    {"", "\xff\xfe" + utf16le("h\u0a0aö\r\n\u0100z\n"), "T {\"line\":\"h\u0a0aö\"};T {\"line\":\"\u0100z\"}", ""},
		"UTF-16 as configured":  {"utf-16le", utf16le("a\n"), `T {"line":"a"}`, ""},
		"UTF-8's mark":          {"iso-8859-1", "\xef\xbb\xbf\xc3\xb6\n", `T {"line":"ö"}`, ""},
		"Latin-1":               {"iso-8859-1", "\xf6\n", `T {"line":"ö"}`, ""},
		"Windows-1252, assumed": {"", "\xf6\n\x80\n", `T {"line":"ö"};T {"line":"€"}`, "read as Windows-1252"},
		"not what it should be": {"utf-8", "a\n\xf6\n", `T {"line":"a"};why: it is not valid UTF-8, as it is said to be`, ""},
		"Shift JIS":             {"shift_jis", "\x83\x5c\n", `T {"line":"ソ"}`, ""},
		"a hole of NULs":        {"", "\x00\x00\x00after one\nafter two\n", `T {"line":"after one"};T {"line":"after two"}`, "NUL bytes, which were left out"},
		"half a unit":           {"utf-16le", utf16le("a\n") + "b", `T {"line":"a"};why: it is not valid utf-16le, as it is said to be`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r, log := logged(t, func(o *lines.Config) { text(o); o.Encoding = c.encoding })
			cs, bom := r.Charset([]byte(c.file))
			var got []string
			for _, entry := range split(t, r, cs, []byte(c.file[bom:])) {
				got = append(got, outcome(r, cs, entry, "", false))
			}
			if strings.Join(got, ";") != c.want {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
			if c.log == "" && log.Len() > 0 || !strings.Contains(log.String(), c.log) || strings.Count(log.String(), "\n") > 1 {
				t.Errorf("logged %q, not once %q", log, c.log)
			}
		})
	}
}

// TestCutLines holds that the beginning of a line that is too long is used
// where it can be, without the part of a character at its end.
func TestCutLines(t *testing.T) {
	latin, _ := decode.Lookup("iso-8859-1")
	wide, _ := decode.Lookup("utf-16le")
	for name, c := range map[string]struct {
		format, entry string
		cs            decode.Charset
		want          string
	}{
		"text":           {"text", "aö"[:2], decode.Charset{}, `T {"line":"a"}`},
		"text, emoji":    {"text", "a😀"[:4], decode.Charset{}, `T {"line":"a"}`},
		"text, whole":    {"text", "a😀", decode.Charset{}, `T {"line":"a😀"}`},
		"text, Latin-1":  {"text", "a\xc3", latin, `T {"line":"aÃ"}`},
		"UTF-16, byte":   {"text", utf16le("ab")[:3], wide, `T {"line":"a"}`},
		"UTF-16, half":   {"text", utf16le("a😀")[:4], wide, `T {"line":"a"}`},
		"JSON is none":   {"json", `{"event":`, decode.Charset{}, "why: it is longer than max_line, and a part of a JSON text is none"},
		"docker is JSON": {"docker", `{"log":`, decode.Charset{}, "why: it is longer than max_line, and a part of a JSON text is none"},
		"a row is none":  {"csv", `a,b`, decode.Charset{}, "why: it is longer than max_line, and a part of a row is none"},
	} {
		t.Run(name, func(t *testing.T) {
			r := reader(t, func(o *lines.Config) { o.Format, o.Event.Default = c.format, "T" })
			if got := outcome(r, c.cs, c.entry, "", true); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

// TestJoining holds what is told apart by a start pattern and by Docker, and
// the bounds of an entry.
func TestJoining(t *testing.T) {
	start := func(c *lines.Config) {
		c.Format, c.Event.Default, c.Multiline.Start, c.MaxLine = "text", "T", `^\d+ `, 64
	}
	docker := func(c *lines.Config) { c.Format = "docker" }
	record := func(text, stream string) string {
		return fmt.Sprintf("{\"log\":\"%s\",\"stream\":\"%s\",\"time\":\"2023-11-25T10:00:00Z\"}\n", text, stream)
	}
	long := strings.Repeat(" at x\n", 10)
	for name, c := range map[string]struct {
		set     func(*lines.Config)
		entries []string
	}{
		"start":                    {start, []string{"1 a\n b\n\n c\n", "2 d\r\n", "3 e"}},
		"start: nothing before it": {start, []string{" b\n", "1 a\n"}},
		"start: max_line ends it":  {start, []string{"1 a\n" + long, " at z\n", "2 b\n"}},
		"start: NULs before it":    {start, []string{"1 a\n", "\x00\x002 b\n"}},
		"start: UTF-16":            {func(c *lines.Config) { start(c); c.Encoding = "utf-16le" }, []string{utf16le("1 a\n b\n"), utf16le("2 b\n")}},
		"JSON: UTF-16":             {func(c *lines.Config) { c.Encoding = "utf-16be" }, []string{"\x00{\x00\n\x00}\x00\n", "\x00{\x00}\x00\n"}},
		"JSON: max_line ends it":   {func(c *lines.Config) { c.MaxLine = 64 }, []string{"{\"a\":[\n" + strings.Repeat(" 12,\n", 11), " 12,\n", " 12]}\n", "{}\n"}},
		"JSON: turned off":         {func(c *lines.Config) { off := false; c.Multiline.JSON = &off }, []string{"{\n", "}\n"}},
		"JSON: in Shift JIS":       {func(c *lines.Config) { c.Encoding = "shift_jis" }, []string{"{\"\x83\x5c\":\n1}\n", "{}\n"}},
		"JSON: 10,000 lines":       {nil, []string{"[\n" + strings.Repeat(" 1,\n", 9999), " 1\n", "]\n"}},
		"JSON: too deep":           {nil, []string{strings.Repeat("[", 65) + "\n", " 1\n"}},
		"docker: parts":            {docker, []string{record("a", "stdout") + record("b", "stdout") + record(`c\n`, "stdout"), record(`d\n`, "stdout")}},
		"docker: streams":          {docker, []string{record("a", "stdout"), record(`b\n`, "stderr")}},
		"docker: broken":           {docker, []string{"{\"log\":\"a\n", record(`b\n`, "stdout")}},
		"text has single lines":    {func(c *lines.Config) { c.Format, c.Event.Default = "text", "T" }, []string{"{\n", "}\n"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := reader(t, c.set)
			data := []byte(strings.Join(c.entries, ""))
			cs, _ := r.Charset(nil)
			if got := split(t, r, cs, data); strings.Join(got, "|") != strings.Join(c.entries, "|") {
				t.Errorf("got  %q\nwant %q", got, c.entries)
			}
		})
	}
}

// TestSplitWaits holds that an entry is not ended before it must be.
func TestSplitWaits(t *testing.T) {
	r := reader(t, nil)
	for data, want := range map[string]int{"{\"a\":1}": 0, "{\"a\":1}\n": 8, "{\n": 0, "{\n \"a\":1": 0, "{\n{": 2, "[\n{}": 0, "plain": 0, "plain\n{": 6, "": 0} {
		if n := r.Split(decode.Charset{}, []byte(data), false); n != want {
			t.Errorf("%q: %d, not %d", data, n, want)
		}
	}
}

// TestTimes holds that a time that cannot be read is logged once and counted.
func TestTimes(t *testing.T) {
	r, log := logged(t, func(c *lines.Config) { c.Timing.Key = "at" })
	before := time.Now()
	for _, line := range []string{`{"event":"a","at":"soon"}`, `{"event":"a","at":"later"}`, `{"event":"a"}`} {
		if events, _ := r.Events(decode.Charset{}, []byte(line), nil, false); len(events) != 1 || events[0].Time.Before(before) {
			t.Errorf("%s: %v", line, events)
		}
	}
	if r.UnreadTimes() != 2 || strings.Count(log.String(), "soon") != 1 || strings.Contains(log.String(), "later") {
		t.Errorf("%d unread, logged %q", r.UnreadTimes(), log)
	}
}

// TestCheck holds what options have to do with each other.
func TestCheck(t *testing.T) {
	on := true
	for want, set := range map[string]func(*lines.Config){
		"pattern: is needed with format: regexp":                                                                                                  func(c *lines.Config) { c.Format = "regexp" },
		"pattern: goes with format: regexp only":                                                                                                  func(c *lines.Config) { c.Pattern = "x" },
		"pattern: has no named group such as (?P<event>...): the payload would be empty":                                                          func(c *lines.Config) { c.Format, c.Pattern = "regexp", "x" },
		"event.default: is needed: no group of the pattern is named as one of event.keys":                                                         func(c *lines.Config) { c.Format, c.Pattern = "regexp", "(?P<a>x)" },
		"event.default: is needed with format: text: plain lines have no event name":                                                              func(c *lines.Config) { c.Format = "text" },
		"multiline.start: error parsing regexp: missing closing ): `(`":                                                                           func(c *lines.Config) { c.Multiline.Start = "(" },
		"multiline.json: does not go with multiline.start: one of them says where an entry ends":                                                  func(c *lines.Config) { c.Multiline = lines.Multiline{Start: "x", JSON: &on} },
		"multiline.json: goes with format: json, text or regexp only":                                                                             func(c *lines.Config) { c.Format, c.Multiline.JSON = "nginx", &on },
		"multiline.start: does not go with format: docker, which says itself where an entry ends":                                                 func(c *lines.Config) { c.Format, c.Multiline.Start = "docker", "x" },
		`encoding: "klingon" is not a character set that is known; write one such as utf-8, utf-16le, iso-8859-1, windows-1252, shift_jis or gbk`: func(c *lines.Config) { c.Encoding = "klingon" },
		"delimiter: goes with format: csv only":                                                                                                   func(c *lines.Config) { c.Delimiter = ";" },
		`delimiter: "ab" is not a delimiter; write one of , ; | or tab`:                                                                           func(c *lines.Config) { c.Format, c.Delimiter = "csv", "ab" },
		"parse: has an empty path; write the key of a text that holds JSON":                                                                       func(c *lines.Config) { c.Parse = []string{""} },
		"parse: has 65 paths; at most 64 are allowed":                                                                                             func(c *lines.Config) { c.Parse = strings.Split(strings.Repeat("a,", 64)+"a", ",") },
		`time_format: "soon" is not a format; write unix, unix_ms, unix_us, unix_ns, or strftime's directives such as %d.%m.%Y %H:%M:%S`:          func(c *lines.Config) { c.Timing.Format = "soon" },
	} {
		c := lines.Defaults()
		set(&c)
		c.Prepare()
		if err := c.Check(); err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
	}
}

// TestPrepareKeepsWhatIsSet holds that a format fills in only what is not
// configured.
func TestPrepareKeepsWhatIsSet(t *testing.T) {
	c := lines.Defaults()
	c.Format, c.Event.Keys, c.Event.Default, c.Timing.Key = "docker", []string{"stream"}, "Mine", "log.at"
	c.Prepare()
	if len(c.Event.Keys) != 1 || c.Event.Default != "Mine" || c.Timing.Key != "log.at" || c.Timing.Format != "" {
		t.Errorf("%+v", c)
	}
	c = lines.Defaults()
	c.Format = "journald"
	c.Prepare()
	if c.Event.Default != "Journal" || c.Timing.Key != "__REALTIME_TIMESTAMP" || c.Timing.Format != "unix_us" || *c.Multiline.JSON {
		t.Errorf("%+v", c)
	}
}

// TestDockerLinesByOtherMeans holds that a name inside Docker's text is found
// with format docker and keys of one's own, and with format json and parse.
func TestDockerLinesByOtherMeans(t *testing.T) {
	const line = `{"log":"{\"event\":\"PrintDone\",\"file\":\"a\"}\n","stream":"stdout","time":"2023-11-25T10:00:00.123456789Z"}`
	for name, set := range map[string]func(*lines.Config){
		"docker": func(c *lines.Config) { c.Format = "docker" },
		"json":   func(c *lines.Config) { c.Parse = []string{"log"} },
	} {
		r := reader(t, func(c *lines.Config) {
			c.Event.Keys, c.Event.Default, c.Timing.Key = []string{"log.event", "event"}, "Docker", "time"
			set(c)
		})
		events, why := r.Events(decode.Charset{}, []byte(line), nil, false)
		if len(events) != 1 || events[0].Name != "PrintDone" || events[0].Time.Unix() != 1700906400 || !strings.Contains(string(events[0].Payload), `"log":{"event":"PrintDone","file":"a"}`) {
			t.Errorf("%s: %+v, %s", name, events, why)
		}
	}
}
