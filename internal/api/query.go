package api

import (
	"bytes"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"event2mqtt/internal/config"
	"event2mqtt/internal/journal"
	"event2mqtt/internal/topic"
)

// This file is which events somebody asks for.

// Bounds of a query.
const (
	maxQuery = 512 // bytes of one parameter
	maxWords = 16
	maxMany  = 16 // values of one parameter
)

// query chooses events: those that fit each of its fields that is not empty.
type query struct {
	words   []word
	sources []string // patterns as path.Match has them
	events  []string
	topics  []string // MQTT's filters
	states  []string
	from    time.Time
	to      time.Time
}

// word must be somewhere in the event, or in one field of it.
type word struct {
	field  string // empty is anywhere
	text   string // in small letters
	filter bool   // the text is a topic filter
}

// parseQuery reads the parameters that choose events.
func parseQuery(v url.Values) (q query, err error) {
	for _, name := range []string{"q", "source", "event", "topic", "state", "from", "to"} {
		if len(v[name]) > maxMany {
			return q, invalid(fmt.Sprintf("%s is given more than %d times", name, maxMany))
		}
		for _, text := range v[name] {
			if len(text) > maxQuery {
				return q, invalid(fmt.Sprintf("%s has %d bytes; at most %d are allowed", name, len(text), maxQuery))
			}
		}
	}
	for _, name := range []string{"source", "event"} {
		for _, pattern := range v[name] {
			if _, err := path.Match(pattern, ""); err != nil {
				return q, invalid(fmt.Sprintf("%s=%q is not a pattern; write for example Print*", name, pattern))
			}
		}
	}
	for _, filter := range v["topic"] {
		if !topic.ValidFilter(filter) {
			return q, invalid(fmt.Sprintf("topic=%q is not a topic filter; + stands for one level, # for all that follow", filter))
		}
	}
	for _, state := range v["state"] {
		if !slices.Contains(fateStates, state) {
			return q, invalid(fmt.Sprintf("state=%q does not exist; there are %s", state, strings.Join(fateStates, ", ")))
		}
	}
	q.sources, q.events, q.topics, q.states = given(v["source"]), given(v["event"]), given(v["topic"]), given(v["state"])
	if q.from, err = parseMoment("from", v.Get("from")); err == nil {
		q.to, err = parseMoment("to", v.Get("to"))
	}
	if err == nil {
		q.words, err = parseWords(v.Get("q"))
	}
	return q, err
}

// given are the values that are not empty.
func given(values []string) []string {
	return slices.DeleteFunc(slices.Clone(values), func(s string) bool { return s == "" })
}

// parseWords reads what people type: words, of which source:x, event:x, topic:x
// and state:x are about one field.
func parseWords(text string) (words []word, err error) {
	for _, w := range strings.Fields(text) {
		field, rest, ok := strings.Cut(w, ":")
		if !ok || rest == "" || !slices.Contains([]string{"source", "event", "topic", "state"}, field) {
			field, rest = "", w
		}
		words = append(words, word{field, strings.ToLower(rest), false})
		if field == "topic" && strings.ContainsAny(rest, "+#") && topic.ValidFilter(rest) {
			words[len(words)-1] = word{field, rest, true}
		}
	}
	if len(words) > maxWords {
		return nil, invalid(fmt.Sprintf("q has %d words; at most %d are allowed", len(words), maxWords))
	}
	return words, nil
}

// parseMoment reads a time: seconds since 1970, RFC 3339, or how long ago.
func parseMoment(name, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if seconds, err := strconv.ParseFloat(text, 64); err == nil && seconds >= 0 && seconds < 1e11 {
		return time.UnixMilli(int64(seconds * 1000)), nil
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t, nil
	}
	if d, err := config.ParseDuration(text); err == nil {
		return time.Now().Add(-d), nil
	}
	return time.Time{}, invalid(fmt.Sprintf("%s=%q is not a time; write seconds since 1970, 2026-01-31T12:00:00Z, or how long ago, such as 10m", name, text))
}

// fits reports whether an item of the ring is asked for.
func (q *query) fits(it *item) bool { return q.choose(&it.facts, it.text) }

// choose reports whether what is known of an event fits, and its text.
func (q *query) choose(f *facts, texts ...[]byte) bool {
	return (len(q.states) == 0 || slices.Contains(q.states, f.state)) && matchAny(q.sources, f.source) && matchAny(q.events, f.event) &&
		(len(q.topics) == 0 || slices.ContainsFunc(q.topics, func(t string) bool { return topic.Matches(t, f.topic) })) &&
		!slices.ContainsFunc(q.words, func(w word) bool { return !w.in(f, texts) })
}

func matchAny(patterns []string, name string) bool {
	return len(patterns) == 0 || slices.ContainsFunc(patterns, func(p string) bool {
		ok, err := path.Match(p, name)
		return ok && err == nil
	})
}

func (w *word) in(f *facts, texts [][]byte) bool {
	switch w.field {
	case "source":
		return foldContains([]byte(f.source), w.text)
	case "event":
		return foldContains([]byte(f.event), w.text)
	case "state":
		return strings.Contains(f.state, w.text)
	case "topic":
		if w.filter {
			return topic.Matches(w.text, f.topic)
		}
		return foldContains([]byte(f.topic), w.text)
	}
	for _, text := range [][]byte{[]byte(f.source), []byte(f.event), []byte(f.topic)} {
		if foldContains(text, w.text) {
			return true
		}
	}
	return slices.ContainsFunc(texts, func(text []byte) bool { return foldContains(text, w.text) })
}

// foldContains reports whether text holds a word, which is in small letters,
// whatever the letters' case in text.
func foldContains(text []byte, word string) bool {
	if word == "" {
		return true
	}
	if word[0] >= utf8.RuneSelf || strings.ContainsFunc(word, func(c rune) bool { return c >= utf8.RuneSelf }) {
		return bytes.Contains(bytes.ToLower(text), []byte(word))
	}
	for i := 0; i+len(word) <= len(text); i++ {
		n := 0
		for n < len(word) && lower(text[i+n]) == word[n] {
			n++
		}
		if n == len(word) {
			return true
		}
	}
	return false
}

func lower(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// entry reports whether a stored event is asked for.
func (q *query) entry(e *journal.Entry, f *fates) bool {
	if !q.from.IsZero() && e.Time.Before(q.from) || !q.to.IsZero() && e.Time.After(q.to) {
		return false
	}
	if q.empty() {
		return true
	}
	about := facts{source: e.Source, event: e.Name, topic: f.a.o.Program.Route(e).Topic}
	if len(q.states) > 0 || slices.ContainsFunc(q.words, func(w word) bool { return w.field == "state" }) {
		about.state = f.of(e.Seq, f.a.o.Journal.ID(e.Seq)).State
	}
	return q.choose(&about, e.Payload)
}

// empty reports whether nothing but the time counts.
func (q *query) empty() bool {
	return len(q.words)+len(q.sources)+len(q.events)+len(q.topics)+len(q.states) == 0
}
