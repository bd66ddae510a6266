package event_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"event2mqtt/internal/event"
)

// TestACutPayloadStaysJSON, is within its bound, and begins as it did.
func TestACutPayloadStaysJSON(t *testing.T) {
	for payload, want := range map[string]string{
		`{"a":1}`: `{"a":1}`,
		`{"a":1,"long":"` + strings.Repeat("x", 200) + `","b":2}`: `{"a":1,"b":2}`,
		`"` + strings.Repeat("ü", 100) + `"`:                      "",
		`[` + strings.Repeat("1,", 100) + `1]`:                    "",
		`{"` + strings.Repeat("k", 200) + `":1}`:                  `{}`,
	} {
		cut, truncated := event.Cut([]byte(payload), 64)
		if !json.Valid(cut) || truncated != (len(payload) > 64) || want != "" && string(cut) != want || len(cut) > 2*64+8 {
			t.Errorf("%.40s: %s, %t", payload, cut, truncated)
		}
	}
	if got := event.TextOf([]byte("ab\xc3\xbc"), 3); string(got) != `"ab"` {
		t.Errorf("a character was torn: %s", got)
	}
}

// TestAMessageComesOutOfItsEventAsItWentIn, whatever bytes it has.
func TestAMessageComesOutOfItsEventAsItWentIn(t *testing.T) {
	for _, c := range []struct{ message, encoding string }{
		{"", event.EncodingPlain}, {"ON", event.EncodingPlain}, {`{"a":[1,2.50]}`, event.EncodingJSON}, {"null", event.EncodingJSON}, {`"text"`, event.EncodingJSON},
		{"\xff\x00\xfe", event.EncodingPlain}, {"line\nbreak \u2028 \"quoted\" <b>", event.EncodingPlain}, {"\x00", event.EncodingBase64},
	} {
		e := event.Event{Name: event.RawName, Payload: event.RawPayload([]byte(c.message), c.encoding)}
		if err := (event.Normaliser{}).Normalise(&e); err != nil {
			t.Errorf("%q: %v", c.message, err)
			continue
		}
		if got, err := event.Raw(e.Payload); err != nil || string(got) != c.message {
			t.Errorf("%q came out as %q, %v", c.message, got, err)
		}
	}
	for _, bad := range []string{`{}`, `{"encoding":"json"}`, `{"encoding":1,"payload":"x"}`, `{"encoding":"plain","payload":1}`, `{"encoding":"base64","payload":"%"}`} {
		if got, err := event.Raw([]byte(bad)); err == nil {
			t.Errorf("%s gave %q", bad, got)
		}
	}
}

func FuzzRaw(f *testing.F) {
	f.Add([]byte("\xff"))
	f.Fuzz(func(t *testing.T, message []byte) {
		payload := event.RawPayload(message, event.EncodingPlain)
		if got, err := event.Raw(payload); err != nil || !bytes.Equal(got, message) || !json.Valid(payload) || !utf8.Valid(payload) {
			t.Errorf("%q gave %q, %v", message, got, err)
		}
	})
}
