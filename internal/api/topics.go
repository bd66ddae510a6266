package api

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"event2mqtt/internal/event"
	"event2mqtt/internal/journal"
)

// This file is the last values of topics.

// Bounds of a list of topics.
const (
	maxTopics = 2000
	maxValue  = 1024 // bytes of a value
	maxDepth  = 64   // levels
)

// topicEntry is the last value of a topic.
type topicEntry struct {
	Topic    string `json:"topic"`
	Value    string `json:"value"`
	Time     *Time  `json:"time"`  // null if nobody knows
	Count    int    `json:"count"` // in the part of the journal that was looked at
	Size     int    `json:"size"`  // bytes of the value
	Retained bool   `json:"retained"`
}

// topicLevel is a level that has topics below it which are not listed.
type topicLevel struct {
	Level string `json:"level"`
	Below int    `json:"below"` // how many retained messages, and events that were looked at, are below it
}

// topics are collected for one answer.
type topics struct {
	prefix, words string // words are in lower case
	depth         int    // levels behind prefix that are listed; 0 is all
	found         map[string]*topicEntry
	levels        map[string]*topicLevel
	cut           bool
}

// wanted reports whether a topic is asked for, and counts it if it is too deep to
// be listed.
func (t *topics) wanted(topic string, payload []byte) bool {
	rest, ok := strings.CutPrefix(topic, t.prefix)
	if !ok || t.words != "" && !strings.Contains(strings.ToLower(topic+" "+value(payload)), t.words) {
		return false
	}
	if t.depth == 0 {
		return true
	}
	at := 0
	for range t.depth {
		slash := strings.IndexByte(rest[at:], '/')
		if slash < 0 {
			return true
		}
		at += slash + 1
	}
	t.below(topic[:len(t.prefix)+at-1])
	return false
}

// below counts a topic that is below a level.
func (t *topics) below(level string) {
	l := t.levels[level]
	if l == nil {
		if t.full() {
			return
		}
		l = &topicLevel{Level: level}
		t.levels[level] = l
	}
	l.Below++
}

// full reports whether no more have room.
func (t *topics) full() bool {
	full := len(t.found)+len(t.levels) >= maxTopics
	t.cut = t.cut || full
	return full
}

// add notes the last value of a topic, and returns it, or nil if it has no room.
func (t *topics) add(topic string, payload []byte, at *Time) *topicEntry {
	e := t.found[topic]
	if e == nil {
		if t.full() {
			return nil
		}
		e = &topicEntry{Topic: topic}
		t.found[topic] = e
	}
	e.Value, e.Size = value(payload), len(payload)
	if at != nil {
		e.Time = at
	}
	return e
}

// getTopics answers the last values of topics: what the bundled broker retains,
// and what this program has published as far as memory and one look at the
// journal tell.
func (a *API) getTopics(w http.ResponseWriter, c call) error {
	t := topics{prefix: c.param("prefix"), words: strings.ToLower(c.param("q")), found: map[string]*topicEntry{}, levels: map[string]*topicLevel{}}
	if text := c.param("depth"); text != "" {
		var err error
		if t.depth, err = strconv.Atoi(text); err != nil || t.depth < 1 || t.depth > maxDepth {
			return invalid(fmt.Sprintf("depth=%q is not a number of levels from 1 to %d", short(text), maxDepth))
		}
	}
	if b := a.o.Program.Broker(); b != nil {
		b.Retained(t.prefix, func(m Received) bool {
			if !t.wanted(m.Topic, m.Payload) {
				return true
			}
			var at *Time
			if !m.Received.IsZero() {
				at = &Time{m.Received}
			}
			e := t.add(m.Topic, m.Payload, at)
			if e != nil {
				e.Retained = true
			}
			return e != nil
		})
	}
	const looked = 2000 // events
	last := a.o.Journal.Stats().Last
	err := a.read(c.Context(), last-min(last, looked)+1, last, func(e *journal.Entry) bool {
		route := a.o.Program.Route(e)
		payload := e.Payload
		if e.Route.Raw {
			payload, _ = event.Raw(e.Payload)
		}
		if route.Topic == "" || !t.wanted(route.Topic, payload) {
			return true
		}
		if before := t.found[route.Topic]; before != nil && before.Retained {
			before.Count++
			return true // the broker has what is newest
		}
		if one := t.add(route.Topic, payload, &Time{e.Time}); one != nil {
			one.Count++
		}
		return true
	})
	if err != nil {
		return err
	}
	all, levels := make([]*topicEntry, 0, len(t.found)), make([]*topicLevel, 0, len(t.levels))
	for _, one := range t.found {
		all = append(all, one)
	}
	for _, one := range t.levels {
		levels = append(levels, one)
	}
	slices.SortFunc(all, func(x, y *topicEntry) int { return strings.Compare(x.Topic, y.Topic) })
	slices.SortFunc(levels, func(x, y *topicLevel) int { return strings.Compare(x.Level, y.Level) })
	return answer(w, http.StatusOK, map[string]any{"topics": all, "levels": levels, "left_out": t.cut})
}

// value is a payload as people read it.
func value(payload []byte) string {
	cut := payload[:min(len(payload), maxValue)]
	return strings.ToValidUTF8(string(cut), "\uFFFD")
}
