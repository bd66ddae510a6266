package lines

import (
	"bytes"
	"regexp"

	"github.com/tidwall/gjson"

	"event2mqtt/internal/event"
)

// startJoiner begins an entry with each line that matches.
type startJoiner struct {
	start *regexp.Regexp
	begun bool
}

func (j *startJoiner) add(line []byte) verdict {
	if !j.begun {
		j.begun = true
		return more
	}
	if line = trimEnd(line); j.start.Match(line[:min(len(line), maxStart)]) {
		return next
	}
	return more
}

// dockerJoiner joins the records that Docker makes of a line longer than 16
// KiB: all but the last have a text without a line feed at its end.
type dockerJoiner struct{ stream string }

func (j *dockerJoiner) add(line []byte) verdict {
	if j.stream == "" && (!bytes.HasPrefix(line, []byte(`{"log":`)) || bytes.Contains(line, []byte(`\n","`))) {
		return last // nearly always
	}
	line = bytes.TrimSpace(line)
	whole := !gjson.ValidBytes(line)
	stream := gjson.GetBytes(line, "stream").String()
	text := gjson.GetBytes(line, "log")
	whole = whole || text.Type != gjson.String || stream == "" || bytes.HasSuffix([]byte(text.Str), []byte("\n"))
	switch {
	case j.stream != "" && stream != j.stream:
		return next
	case whole:
		return last
	}
	j.stream = stream
	return more
}

// jsonJoiner joins the lines of JSON texts that begin at the beginning of a
// line. So that one broken line does not take others with it, an entry ends
// before the first line that cannot be its continuation: one that JSON does
// not allow there, or that itself begins with { or [ at its beginning, where
// printers that break lines indent. Only the items of an array may begin so;
// if that array never closes, it ended before the first of them.
//
// No text of JSON goes over the end of a line, so that the state between lines
// is what is open and what may come next.
type jsonJoiner struct {
	lines int
	open  [event.MaxDepth]byte // the brackets that are open
	depth int
	want  want
}

// want is what JSON allows next.
type want int

const (
	wantValue  want = iota
	wantItem        // a value, or the end of the array
	wantKey         // a key
	wantMember      // a key, or the end of the object
	wantColon
	wantComma // a comma, or the end of the array or object
)

func (j *jsonJoiner) add(line []byte) verdict {
	j.lines++
	begins := line[:min(1, len(line))]
	atStart := string(begins) == "{" || string(begins) == "["
	v := more
	switch {
	case j.lines == 1 && !atStart:
		return last
	case j.lines == 1:
	case string(begins) == "{" && j.open[0] == '[' && j.depth == 1 && (j.want == wantItem || j.want == wantValue):
		v = suspect
	case atStart:
		return next
	}
	switch ok := j.scan(line); {
	case !ok && j.lines == 1:
		return last
	case !ok:
		return next
	case j.depth == 0:
		return last
	}
	return v
}

// scan goes through a line; false says that it is not JSON, though true does
// not say that it is. At depth 0 any number of objects and arrays may stand one
// after the other.
func (j *jsonJoiner) scan(line []byte) bool {
	for i := 0; i < len(line); {
		c := line[i]
		switch {
		case c == ' ' || c == '\t' || c == '\r' || c == '\n':
			i++
			continue
		case c == '"':
			end := textEnd(line, i)
			if end < 0 || !j.text() {
				return false
			}
			i = end
			continue
		case c == ':':
			if j.want != wantColon {
				return false
			}
			j.want = wantValue
		case c == '{' || c == '[':
			if !j.enter(c) {
				return false
			}
		case c == '}' || c == ']':
			if !j.leave(c) {
				return false
			}
		case c == ',':
			if j.want != wantComma || j.depth == 0 {
				return false
			}
			j.want = wantValue
			if j.open[j.depth-1] == '{' {
				j.want = wantKey
			}
		default: // a number or a word
			if j.depth == 0 || j.want != wantValue && j.want != wantItem {
				return false
			}
			n := wordEnd(line[i:])
			if n == 0 {
				return false
			}
			i += n
			j.want = wantComma
			continue
		}
		i++
	}
	return true
}

func (j *jsonJoiner) text() bool {
	switch j.want {
	case wantKey, wantMember:
		j.want = wantColon
	case wantValue, wantItem:
		j.want = wantComma
		return j.depth > 0
	default:
		return false
	}
	return true
}

func (j *jsonJoiner) enter(c byte) bool {
	if j.depth == len(j.open) || j.depth > 0 && j.want != wantValue && j.want != wantItem {
		return false
	}
	j.open[j.depth] = c
	j.depth++
	j.want = wantItem
	if c == '{' {
		j.want = wantMember
	}
	return true
}

func (j *jsonJoiner) leave(c byte) bool {
	if j.depth == 0 || j.open[j.depth-1] != c-2 { // { and }, [ and ] are two apart
		return false
	}
	empty := wantItem
	if c == '}' {
		empty = wantMember
	}
	if j.want != wantComma && j.want != empty {
		return false
	}
	j.depth--
	j.want = wantComma
	return true
}

// textEnd returns the index behind the JSON string that begins at i, -1 if it
// does not end.
func textEnd(line []byte, i int) int {
	for from := i + 1; ; {
		n := bytes.IndexByte(line[from:], '"')
		if n < 0 {
			return -1
		}
		end, escapes := from+n, 0
		for k := end - 1; k > i && line[k] == '\\'; k-- {
			escapes++
		}
		if from = end + 1; escapes%2 == 0 {
			return from
		}
	}
}

// wordEnd returns how many bytes the number, true, false or null at the
// beginning of text takes, 0 if it is none of these.
func wordEnd(text []byte) int {
	for _, word := range []string{"true", "false", "null"} {
		if bytes.HasPrefix(text, []byte(word)) {
			return len(word)
		}
	}
	if text[0] != '-' && (text[0] < '0' || text[0] > '9') {
		return 0
	}
	n := 1
	for n < len(text) && bytes.IndexByte([]byte("0123456789+-.eE"), text[n]) >= 0 {
		n++
	}
	return n
}

func trimEnd(line []byte) []byte { return bytes.TrimRight(line, "\r\n") }
