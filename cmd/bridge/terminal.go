package main

import (
	"io"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"
)

// This file is what commands write to terminals: times and texts as people read
// them, and nothing from outside that could steer the terminal.

// harmless reports whether a rune moves nothing but the cursor, by one place, and
// does not turn the direction of writing. The joiner and the selector that emoji
// are made with do neither.
func harmless(r rune) bool {
	return r == ' ' || r == '\u200d' || unicode.IsPrint(r)
}

// shown is a text from outside on one line. What would steer a terminal, end the
// line or turn the direction of writing is written as in Go: \x1b, \n, \u202e.
func shown(text string) string {
	if strings.IndexFunc(text, func(r rune) bool { return r == utf8.RuneError || !harmless(r) }) < 0 {
		return text
	}
	var b strings.Builder
	for len(text) > 0 {
		r, size := utf8.DecodeRuneInString(text)
		switch {
		case r == utf8.RuneError && size == 1:
			b.WriteString(`\x` + strconv.FormatUint(uint64(text[0])|0x100, 16)[1:])
		case harmless(r):
			b.WriteRune(r)
		default:
			quoted := strconv.QuoteRuneToASCII(r)
			b.WriteString(quoted[1 : len(quoted)-1])
		}
		text = text[size:]
	}
	return b.String()
}

// shownLines is shown for a text that may have several lines.
func shownLines(text string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		lines[i] = shown(strings.TrimSuffix(line, "\r"))
	}
	return strings.Join(lines, "\n")
}

// shownJSON is JSON that means the same, and steers no terminal either: what JSON
// allows in strings as it is, and terminals do not, is escaped.
func shownJSON(text []byte) []byte {
	odd := func(r rune) bool { return r >= 0x7f && !harmless(r) && r != utf8.RuneError }
	at := 0
	for at < len(text) && text[at] < 0x7f {
		at++
	}
	if at == len(text) {
		return text
	}
	out := append(make([]byte, 0, len(text)+16), text[:at]...)
	for rest := text[at:]; len(rest) > 0; {
		r, size := utf8.DecodeRune(rest)
		if odd(r) {
			for _, unit := range utf16Of(r) {
				out = append(append(out, `\u`...), strconv.FormatUint(uint64(unit)|0x10000, 16)[1:]...)
			}
		} else {
			out = append(out, rest[:size]...)
		}
		rest = rest[size:]
	}
	return out
}

// utf16Of is a rune as JSON escapes it.
func utf16Of(r rune) []rune {
	if r < 0x10000 {
		return []rune{r}
	}
	r -= 0x10000
	return []rune{0xd800 + r>>10, 0xdc00 + r&0x3ff}
}

// cut bounds a text, in runes.
func cut(text string, most int) string {
	if len(text) <= most || utf8.RuneCountInString(text) <= most {
		return text
	}
	runes := []rune(text)
	return string(runes[:max(0, most-1)]) + "…"
}

// terminal is what is known of where a command writes.
type terminal struct {
	is     bool // it is a terminal
	colour bool
	width  int // columns; 0 is any number
}

// terminalOf looks at a command's output.
func terminalOf(w io.Writer) (t terminal) {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return t
	}
	t.is = true
	t.colour = os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	if width, _, err := term.GetSize(int(f.Fd())); err == nil && width >= 40 {
		t.width = width
	}
	return t
}

// Colours, as select graphic rendition (ECMA-48, 8.3.117) has them.
const (
	bold   = "1"
	dim    = "2"
	red    = "31"
	green  = "32"
	yellow = "33"
	cyan   = "36"
)

// paint colours a text, at a terminal that shows colours.
func (t terminal) paint(colour, text string) string {
	if !t.colour || colour == "" || text == "" {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

// clock is a moment: the time if it was today, and the day as well if it was not.
func clock(t time.Time, today, other string) string {
	t, now := t.Local(), time.Now()
	if t.IsZero() || t.Unix() <= 0 {
		return "-"
	}
	if t.YearDay() == now.YearDay() && t.Year() == now.Year() {
		return t.Format(today)
	}
	return t.Format(other)
}

// moment is a time of the day to the minute.
func moment(t time.Time) string { return clock(t, "15:04", "2006-01-02 15:04") }

// span is how long something takes or took, in its largest unit or two.
func span(d time.Duration) string {
	switch d = max(d, 0); {
	case d < time.Second:
		return strconv.FormatInt(d.Milliseconds(), 10) + " ms"
	case d < 2*time.Minute:
		return strconv.FormatInt(int64(d/time.Second), 10) + " s"
	case d < 2*time.Hour:
		return strconv.FormatInt(int64(d/time.Minute), 10) + " min"
	case d < 48*time.Hour:
		return strconv.FormatInt(int64(d/time.Hour), 10) + " h"
	}
	return strconv.FormatInt(int64(d/(24*time.Hour)), 10) + " days"
}
