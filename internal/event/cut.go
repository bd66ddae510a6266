package event

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"unicode/utf8"
)

// This file is payloads in other forms: cut short for people who look on, and
// as messages that are published as they are.

// Cut returns a payload, valid JSON, in at most about most bytes, and whether
// that is less than it was: of an object its first members that fit, of another
// value the beginning of its text, as a string. What is not cut is returned as
// it is, without a copy.
func Cut(payload []byte, most int) (cut []byte, truncated bool) {
	if len(payload) <= most {
		return payload, false
	}
	if payload[0] != '{' {
		return TextOf(payload, most), true
	}
	out := make([]byte, 1, most)
	out[0] = '{'
	members(payload, func(member, _, _ []byte) {
		if len(out)+len(member)+2 > most {
			return
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(out, member...)
	})
	return append(out, '}'), true
}

// TextOf returns the beginning of any bytes, at most most of them, as a JSON
// string.
func TextOf(text []byte, most int) []byte {
	if len(text) > most {
		text = text[:most]
		for n := 0; n < utf8.UTFMax && len(text) > 0 && !utf8.Valid(text[max(0, len(text)-utf8.UTFMax):]); n++ {
			text = text[:len(text)-1]
		}
	}
	return appendString(nil, string(text))
}

// Encodings of the payload of a message that is published as it is.
const (
	EncodingJSON   = "json"
	EncodingPlain  = "plain"
	EncodingBase64 = "base64"
)

// RawName is the name of the events that stand for messages which are published
// as they are (Route.Raw).
const RawName = "Publish"

// RawPayload is the payload, before Normalise, of an event that stands for a
// message: which is JSON, or any bytes.
func RawPayload(message []byte, encoding string) []byte {
	value := message
	switch {
	case encoding == EncodingJSON:
	case utf8.Valid(message):
		encoding, value = EncodingPlain, appendString(nil, string(message))
	default:
		encoding, value = EncodingBase64, appendString(nil, base64.StdEncoding.EncodeToString(message))
	}
	out := append([]byte(`{"encoding":"`), encoding...)
	out = append(out, `","payload":`...)
	return append(append(out, value...), '}')
}

// Raw returns the message that a payload of RawPayload stands for, also after
// Normalise.
func Raw(payload []byte) ([]byte, error) {
	found := Pick(payload, "encoding", "payload")
	var encoding, text string
	err := json.Unmarshal(found[0], &encoding)
	if err == nil && encoding == EncodingJSON {
		if found[1] == nil {
			return nil, errNoMessage
		}
		return found[1], nil
	}
	if err == nil {
		err = json.Unmarshal(found[1], &text)
	}
	if err != nil {
		return nil, errNoMessage
	}
	if encoding == EncodingBase64 {
		return base64.StdEncoding.DecodeString(text)
	}
	return []byte(text), nil
}

var errNoMessage = errors.New("the event holds no message")
