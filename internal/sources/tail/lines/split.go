package lines

import (
	"bytes"
	"cmp"

	"event2mqtt/internal/decode"
)

// Bounds of an entry of several lines, beside max_line.
const (
	maxLines = 10_000
	// maxStart is how much of a line is looked at for its being the first of an
	// entry, in bytes of text.
	maxStart = 1024
)

// Split returns how many bytes the first entry of data takes, its end
// included, or 0 if more of the file is needed to tell. data begins where an
// entry does. With rest it may be taken to its end: nothing was added for a
// while, or nothing will be.
//
// The answer does not depend on how much of the file is in data beyond what is
// needed to tell. Entries of several lines have at most max_line bytes: where
// that many are there, Split has an answer if they hold the end of a line. It
// keeps nothing between calls, and a call looks at no more than max_line bytes
// beyond the first line.
func (r *Reader) Split(cs decode.Charset, data []byte, rest bool) (n int) {
	first := lineEnd(cs, data)
	if first == 0 {
		if rest {
			return len(data)
		}
		return 0
	}
	if r.joiner == nil || first >= r.maxLine {
		return first
	}
	if r.fast && cs.Unit() == 1 && first < len(data) && data[0] == '{' && data[first] == '{' {
		return first // as most logs of JSON are; joinJSON says the same
	}
	return r.join(cs, data[:min(len(data), r.maxLine)], first, rest && len(data) < r.maxLine)
}

// verdict is what a joiner says of a line.
type verdict int

const (
	more    verdict = iota // it belongs to the entry, which goes on
	suspect                // as more, but if the entry never ends well, it ended before this line
	last                   // it is the entry's last
	next                   // it begins the next entry
)

// joiner says of each line of an entry, its first being the first, whether it
// belongs to it, until it says last or next. line is UTF-8, unless it cannot be
// decoded, and has its end.
type joiner interface{ add(line []byte) verdict }

// join returns the end of the entry that begins window. first is the end of
// the first line, which is in window; rest tells that nothing comes after
// window.
func (r *Reader) join(cs decode.Charset, window []byte, first int, rest bool) int {
	j, start, stop, doubt := r.joiner(), 0, first, 0
	for count := 1; ; count++ {
		v := j.add(plain(cs, window[start:stop]))
		if v == suspect && doubt == 0 {
			doubt = start
		}
		switch {
		case v == last:
			return stop
		case v == next:
			return cmp.Or(doubt, start)
		case count == maxLines:
			return cmp.Or(doubt, stop)
		}
		start = stop
		n := lineEnd(cs, window[start:])
		if n == 0 && rest {
			n = len(window) - start
		}
		switch stop += n; {
		case n > 0:
		case rest, len(window) >= r.maxLine: // no more is there, or no more may be
			return cmp.Or(doubt, stop)
		default:
			return 0
		}
	}
}

// plain is a line for a joiner: UTF-8 without NULs, if it can be.
func plain(cs decode.Charset, line []byte) []byte {
	if (!cs.Known() || cs.String() == "utf-8") && bytes.IndexByte(line, 0) < 0 {
		return line
	}
	text, _, err := cs.Text(line)
	if err != nil {
		return line
	}
	return text
}

// lineEnd returns the number of bytes to behind the first line feed, 0 if there
// is none.
func lineEnd(cs decode.Charset, data []byte) int {
	if cs.Unit() == 1 {
		return bytes.IndexByte(data, '\n') + 1
	}
	feed, unit := cs.LineFeed(), cs.Unit()
	for at := 0; ; {
		i := bytes.Index(data[at:], feed)
		if i < 0 {
			return 0
		}
		if (at+i)%unit == 0 {
			return at + i + unit
		}
		at += i + 1
	}
}
