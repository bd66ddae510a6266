package lines

import (
	"regexp"
	"strings"
)

// combined is nginx's access log in its format "combined", which is also
// Apache's; what a site appends to it is left out.
var combined = regexp.MustCompile(`^(\S+) (\S+) (.*?) \[([^\]]*)\] "((?:[^"\\]|\\.)*)" (\d{3}) (\d+|-)(?: "((?:[^"\\]|\\.)*)" "((?:[^"\\]|\\.)*)")?`)

// access takes a request apart; the keys are the names of nginx's variables.
// What is "-" was not there.
func access(text, _ []byte) ([]byte, string) {
	m := combined.FindStringSubmatch(string(text))
	if m == nil {
		return nil, "it is not of nginx's combined format"
	}
	var o object
	set := func(key, value string) {
		if value != "" && value != "-" {
			o.text(key, unquote(value))
		}
	}
	o.text("remote_addr", m[1])
	set("remote_user", m[3])
	o.text("time_local", m[4])
	set("request", m[5])
	method, rest, _ := strings.Cut(m[5], " ")
	if i := strings.LastIndex(rest, " HTTP/"); i >= 0 {
		set("request_method", method)
		set("request_uri", rest[:i])
		set("server_protocol", rest[i+1:])
	}
	o.scalar("status", m[6])
	if m[7] != "-" {
		o.scalar("body_bytes_sent", m[7])
	}
	set("http_referer", m[8])
	set("http_user_agent", m[9])
	return o.bytes(), ""
}

// unquote undoes the escapes of a text in quotes: \" \\ \n \t \r, and \xHH,
// \uHHHH and \UHHHHHHHH. What is none of these stays.
func unquote(text string) string {
	if !strings.Contains(text, `\`) {
		return text
	}
	var out strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' || i+1 == len(text) {
			out.WriteByte(text[i])
			continue
		}
		i++
		switch c := text[i]; c {
		case 'n':
			out.WriteByte('\n')
		case 't':
			out.WriteByte('\t')
		case 'r':
			out.WriteByte('\r')
		case 'x', 'u', 'U':
			digits := map[byte]int{'x': 2, 'u': 4, 'U': 8}[c]
			code, ok := hex(text[i+1:], digits)
			switch {
			case !ok:
				out.WriteString(text[i-1 : i+1])
				continue
			case c == 'x':
				out.WriteByte(byte(code))
			default:
				out.WriteRune(rune(code))
			}
			i += digits
		case '"', '\\', '\'', '/':
			out.WriteByte(c)
		default:
			out.WriteString(text[i-1 : i+1])
		}
	}
	return validText(out.String())
}

// hex reads that many digits; false if it is no character.
func hex(text string, digits int) (code uint64, ok bool) {
	if len(text) < digits {
		return 0, false
	}
	for _, c := range []byte(text[:digits]) {
		at := strings.IndexByte("0123456789abcdef", c|0x20)
		if c < '0' || at < 0 {
			return 0, false
		}
		code = code<<4 | uint64(at)
	}
	return code, code <= 0x10ffff && code&^0x7ff != 0xd800
}
