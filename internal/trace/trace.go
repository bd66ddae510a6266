// Package trace keeps a short record of what happened to each event: whether it
// was refused, left out by a rule, stored, delivered or skipped, and why. The
// page, the watch command and metrics read it. It is a view of what
// goes by, not a log: it holds payloads of those alone that are not stored, is
// bounded, and is in memory only.
//
// Records are made only while somebody looks. Recording begins with the first
// Watch and ends, all records dropped, when the last one is closed: what
// happened before is not there. While nobody looks, every method that records
// costs one atomic load; nothing is allocated or locked.
package trace

import (
	"encoding/json"
	"strings"
	"time"
	"unicode/utf8"

	"event2mqtt/internal/event"
)

// Verdict is what happened to an event.
type Verdict string

// The verdicts. An event may get several in turn, such as Held, Stored,
// Delivered. Records of one stored event have the same Seq.
const (
	// Refused: it was not accepted, and its sender was told so.
	Refused Verdict = "refused"
	// Dropped: a rule drops it.
	Dropped Verdict = "dropped"
	// Repeated: a rule leaves it out because it says the same as the one before.
	Repeated Verdict = "repeated"
	// Held: a rule holds it back until its interval is over.
	Held Verdict = "held"
	// Replaced: a rule held it back, and a newer one took its place.
	Replaced Verdict = "replaced"
	// Stored: it is in the journal, and every sink will get it.
	Stored Verdict = "stored"
	// Delivered: a sink's destination has acknowledged it.
	Delivered Verdict = "delivered"
	// Skipped: a sink does not deliver it, now or later. Without an event's name
	// it is all up to Seq that the sink had not delivered.
	Skipped Verdict = "skipped"
)

// Record is one thing that happened to one event. Its names in JSON stay as
// they are; fields may be added. Each text has at most MaxText bytes: a longer
// one is cut and ends with an ellipsis.
type Record struct {
	// Number counts the records, from 1. It is set by the Ring.
	Number uint64 `json:"number"`
	// Time is when it happened. It is set by the Ring if it is zero.
	Time    time.Time `json:"time"`
	Verdict Verdict   `json:"verdict"`
	// Source is the configured name of the event's source.
	Source string `json:"source"`
	// Event is the event's name at that moment.
	Event string `json:"event"`
	// Offered is the name that the source gave the event, if rules have
	// changed it since.
	Offered string `json:"offered,omitempty"`
	// Seq is the event's number in the journal: of those stored, delivered and
	// skipped.
	Seq uint64 `json:"seq,omitempty"`
	// Rule is the rule that decided: of those dropped, repeated, held and
	// replaced. Of one that was stored it is the rule that held it until then.
	Rule *Rule `json:"rule,omitempty"`
	// Sink is the configured name of the sink: of those delivered and skipped.
	Sink string `json:"sink,omitempty"`
	// Topic is where it was published, or would have been; empty of a sink that
	// knows no topics.
	Topic string `json:"topic,omitempty"`
	// TookMS is how long that took from when the sink got it, in milliseconds:
	// of those delivered. From when it was stored is the time between the two
	// records with its Seq.
	TookMS float64 `json:"took_ms,omitempty"`
	// Reason tells why, in words: of those refused and skipped.
	Reason string `json:"reason,omitempty"`
	// Retry is set if one that was refused may be accepted when it is offered
	// again as it is.
	Retry bool `json:"retry,omitempty"`
	// Detail is what else is known of an event on its way into the journal; nil
	// of those delivered and skipped.
	Detail *Detail `json:"-"`
}

// Detail is more of a Record.
type Detail struct {
	// Payload is that of an event that is not stored, as it was then: JSON, but
	// for those refused, whose source may have sent anything. One of more than
	// MaxPayload bytes is cut (event.Cut), and Size is how many it had.
	Payload []byte
	Size    int
	// CameIn is the payload before rules have changed it; nil if they have not.
	CameIn []byte
	// Happened is when the event says that it happened.
	Happened time.Time
	// Route is where rules send it.
	Route event.Route
	// Hold names what a rule holds back, among all that is held: of those held,
	// replaced, and stored after they were held.
	Hold string
}

// MaxPayload bounds a payload that a record holds, in bytes.
const MaxPayload = 8 << 10

// Rule is a rule of the configuration.
type Rule struct {
	Index int    `json:"index"` // from 0
	Name  string `json:"name,omitempty"`
	// File is where the rule is written, at Line, which counts from 1. Without
	// a line it says what else the rule comes from.
	File string `json:"file,omitempty"`
	Line int    `json:"line,omitempty"`
}

// MaxText bounds each text of a record, in bytes. It is no less than the
// longest name that an event may have.
const MaxText = 512

const ellipsis = "…"

// bound cuts the record's texts and payloads and returns how many bytes they have. Texts are
// copied: they may be parts of much longer ones, which must not be kept.
func (r *Record) bound() (bytes int) {
	for _, text := range []*string{&r.Source, &r.Event, &r.Offered, &r.Sink, &r.Topic, &r.Reason} {
		*text = cut(*text)
		bytes += len(*text)
	}
	if r.Rule != nil { // its texts are the configuration's, and shared
		if rule := *r.Rule; len(rule.Name) > MaxText || len(rule.File) > MaxText {
			rule.Name, rule.File = cut(rule.Name), cut(rule.File)
			r.Rule = &rule
		}
	}
	if d := r.Detail; d != nil {
		for _, payload := range []*[]byte{&d.Payload, &d.CameIn} {
			*payload = cutPayload(*payload)
			bytes += len(*payload)
		}
		d.Hold = strings.Clone(d.Hold)
		bytes += len(d.Hold) + detailSize
	}
	return bytes
}

// detailSize is about what a Detail takes beside its texts.
const detailSize = 144

// cutPayload bounds a payload, which is nobody else's to change: normalised ones
// never are, and of others Story has made copies.
func cutPayload(payload []byte) []byte {
	if len(payload) <= MaxPayload {
		return payload
	}
	if !json.Valid(payload) {
		return event.TextOf(payload, MaxPayload)
	}
	cut, _ := event.Cut(payload, MaxPayload)
	return cut
}

// cut returns a copy of a text, valid UTF-8 of at most MaxText bytes.
func cut(text string) string {
	end, rest := len(text), ""
	if end > MaxText {
		end, rest = MaxText-len(ellipsis), ellipsis
		for n := 0; n < utf8.UTFMax && !utf8.RuneStart(text[end]); n++ {
			end-- // not in the middle of a character
		}
	}
	return strings.Clone(strings.ToValidUTF8(text[:end], "?") + rest)
}
