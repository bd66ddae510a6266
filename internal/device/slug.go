package device

import (
	"strings"
	"unicode"
)

// Slug spells a name in small letters, digits and _, as Home Assistant does
// where ids are made of names. Whole reports that nothing outside of ASCII was
// left out, so that both spell it alike.
func Slug(name string) (slug string, whole bool) {
	var b strings.Builder
	whole = true
	for _, r := range strings.ToLower(name) {
		text, known := spelled[r]
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			b.WriteRune(r)
		case known:
			b.WriteString(text)
		case unicode.Is(unicode.Mn, r): // the dots of an ü that is written as two
		default:
			whole = whole && r <= unicode.MaxASCII
			if b.Len() > 0 && !strings.HasSuffix(b.String(), "_") {
				b.WriteByte('_')
			}
		}
	}
	return strings.Trim(b.String(), "_"), whole
}

// spelled are the letters of Europe's languages that are written in Latin, with
// what Home Assistant makes of them (Unidecode).
var spelled = spelling(map[string]string{
	"a": "àáâãäåāăą", "ae": "æ", "c": "çćĉċč", "d": "ðďđ", "e": "èéêëēĕėęě", "g": "ĝğġģ", "h": "ĥħ", "i": "ìíîïĩīĭįı", "j": "ĵ", "k": "ķ",
	"l": "ĺļľŀł", "n": "ñńņň", "o": "òóôõöøōŏő", "oe": "œ", "r": "ŕŗř", "s": "śŝşšș", "ss": "ß", "t": "ţťŧț", "th": "þ", "u": "ùúûüũūŭůűų", "w": "ŵ",
	"y": "ýÿŷ", "z": "źżž",
})

func spelling(groups map[string]string) map[rune]string {
	all := map[rune]string{}
	for text, letters := range groups {
		for _, r := range letters {
			all[r] = text
		}
	}
	return all
}
