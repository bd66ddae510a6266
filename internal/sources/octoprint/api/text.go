package api

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// This file makes what OctoPrint says fit for people: it ends up in the log, in
// terminals and in the status.

// Bounds of what is repeated of OctoPrint's own words, in bytes.
const (
	maxSaid  = 256
	maxShort = 64
	// maxError bounds a whole error, in which others' words are bounded already.
	maxError = 1 << 10
	// maxLogin bounds the name and the session of a login, which are shown to
	// OctoPrint again.
	maxLogin = 1 << 10
)

// more ends a text that was cut.
const more = "…"

// Clean is a text from outside in one line, of at most so many bytes and in whole
// runes. What would move a terminal's cursor, end a line or turn the direction of
// writing becomes a space, what is not UTF-8 a question mark; a text that is cut
// ends with …. The result keeps nothing of text in memory.
func Clean(text string, most int) string {
	whole := len(text) <= most
	if !whole {
		cut := max(0, most-len(more))
		for cut > 0 && !utf8.RuneStart(text[cut]) {
			cut--
		}
		text = text[:cut]
	}
	var b strings.Builder
	for _, r := range text {
		switch {
		case r == utf8.RuneError:
			r = '?'
		case unicode.IsControl(r) || unicode.In(r, unicode.Zl, unicode.Zp, unicode.Bidi_Control):
			r = ' '
		}
		b.WriteRune(r)
	}
	if !whole {
		b.WriteString(more)
	}
	return b.String()
}
