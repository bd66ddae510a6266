package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"event2mqtt/internal/api"
	"event2mqtt/internal/event"
)

// This file is how watch shows events: each once, in order, with its fate.

// Bounds of what a screen keeps.
const (
	maxQueue     = 2048     // events that wait for their fate to be shown
	maxLate      = 4096     // events that were shown as waiting, or not yet since they wait
	maxLateBytes = 16 << 20 // of the latter
)

// shownAs is how events are shown.
type shownAs int

const (
	asText shownAs = iota
	asJSON
	asPayload
)

// outputError is that nobody reads what is shown.
type outputError struct{ err error }

func (e *outputError) Error() string { return "write: " + e.err.Error() }
func (e *outputError) Unwrap() error { return e.err }

// told is an event as the program has told of it.
type told struct {
	line    []byte // JSON
	seq     uint64 // 0 is not stored
	state   string
	fate    json.RawMessage
	came    time.Time
	printed bool
}

// screen shows events. It has one user.
type screen struct {
	out    *bufio.Writer
	at     terminal
	as     shownAs
	states []string // only events with one of these fates; empty is any
	left   int      // events that may yet be shown; -1 is any number
	err    error    // of out
	// whole fetches the payload of a stored event that was cut.
	whole func(seq uint64) ([]byte, error)

	seq   uint64 // the newest stored event that was shown, or chosen not to be
	known bool   // seq says something

	queue   []*told // not shown yet, in order
	pending map[uint64]*told
	// late are events whose fate was still open when they were shown, or would
	// have been.
	late      map[uint64]*told
	lateBytes int
	caught    struct {
		n           int
		first, last uint64
	} // late events that are delivered, and not told of yet
}

func newScreen(w *watching, out io.Writer) *screen {
	s := &screen{out: bufio.NewWriterSize(out, 64<<10), at: terminalOf(out), states: w.states, left: -1, pending: map[uint64]*told{}, late: map[uint64]*told{}}
	switch {
	case w.ask.json:
		s.as = asJSON
	case w.payload:
		s.as = asPayload
	}
	if w.count > 0 {
		s.left = w.count
	}
	return s
}

func (s *screen) done() bool { return s.left == 0 }

// show shows what lines tell until they, ctx or the count end. If gaps end it, too,
// the error is errBehind.
func (s *screen) show(ctx context.Context, lines <-chan []byte, gapsEnd bool) error {
	due := time.NewTimer(settleAfter)
	defer due.Stop()
	for !s.done() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case line, ok := <-lines:
			if !ok {
				return s.settle(time.Now())
			}
			if gap := s.take(line); gap > 0 {
				if err := s.settle(time.Now()); err != nil {
					return err
				}
				if gapsEnd && s.known {
					return errBehind
				}
				s.gap(gap)
			}
			if len(lines) > 0 && len(s.queue) < maxQueue {
				continue // what comes together is shown together
			}
		case <-due.C:
		}
		if err := s.settle(time.Now()); err != nil {
			return err
		}
		if len(s.queue) > 0 {
			due.Reset(max(time.Millisecond, time.Until(s.queue[0].came.Add(settleAfter))))
		}
	}
	return nil
}

// take takes one line of the stream, and returns how much that says was left out.
func (s *screen) take(line []byte) (gap uint64) {
	var item struct {
		Type    string
		Seq     *uint64
		Fate    json.RawMessage
		LeftOut uint64 `json:"left_out"`
	}
	var fate struct{ State string }
	if json.Unmarshal(line, &item) != nil {
		return 0 // of a later version, perhaps
	}
	_ = json.Unmarshal(item.Fate, &fate) // a gap has none
	seq := uint64(0)
	if item.Seq != nil {
		seq = *item.Seq
	}
	switch item.Type {
	case "gap":
		return item.LeftOut
	case "fate":
		s.change(seq, fate.State, item.Fate, line)
	case "event":
		t := &told{line: line, seq: seq, state: fate.State, fate: item.Fate, came: time.Now()}
		switch {
		case seq == 0:
		case s.pending[seq] != nil || s.known && seq <= s.seq: // it is told again
			s.change(seq, fate.State, item.Fate, nil)
			return 0
		default:
			s.pending[seq] = t
		}
		s.queue = append(s.queue, t)
	}
	return 0
}

// change notes what became of an event that was told of before. line is the one
// that says so, and nil if it is the event's own.
func (s *screen) change(seq uint64, state string, fate json.RawMessage, line []byte) {
	if t := s.pending[seq]; t != nil {
		t.state, t.fate = state, fate
		return
	}
	t := s.late[seq]
	if t == nil || state == "waiting" {
		return
	}
	delete(s.late, seq)
	s.lateBytes -= len(t.line)
	if !t.printed {
		if t.state, t.fate = state, fate; s.wants(state) {
			s.print(t)
		}
		return
	}
	if len(s.states) > 0 && !s.wants(state) {
		return
	}
	switch {
	case s.as == asJSON && line != nil:
		s.write(string(shownJSON(line)) + "\n")
	case s.as == asJSON:
		s.write(fmt.Sprintf(`{"type":"fate","seq":%d,"fate":%s}`+"\n", seq, shownJSON(fate)))
	case s.as == asPayload:
	case state == "delivered":
		if s.caught.n++; s.caught.n == 1 {
			s.caught.first = seq
		}
		s.caught.last = seq
	default:
		s.write(s.at.paint(dim, fmt.Sprintf("-- event %d, which waited: %s --", seq, wordsOf(fate))) + "\n")
	}
}

// settle shows events whose fate is known, and those that have waited for it long
// enough, and flushes.
func (s *screen) settle(now time.Time) error {
	n := 0
	for _, t := range s.queue {
		if s.done() || t.state == "waiting" && now.Sub(t.came) < settleAfter && len(s.queue)-n < maxQueue {
			break
		}
		s.pop(t)
		n++
	}
	s.queue = slices.Delete(s.queue, 0, n)
	if s.caught.n > 0 {
		text := fmt.Sprintf("-- event %d, which waited, is delivered --", s.caught.first)
		if s.caught.n > 1 {
			text = fmt.Sprintf("-- %d events that waited are delivered (%d to %d) --", s.caught.n, s.caught.first, s.caught.last)
		}
		s.write(s.at.paint(dim, text) + "\n")
		s.caught.n = 0
	}
	if s.err == nil {
		s.err = s.out.Flush()
	}
	if s.err != nil {
		return &outputError{s.err}
	}
	return nil
}

// pop shows the oldest event of the queue.
func (s *screen) pop(t *told) {
	if t.seq > 0 {
		delete(s.pending, t.seq)
		s.seq, s.known = t.seq, true
	}
	if s.wants(t.state) {
		s.print(t)
	}
	if t.state != "waiting" || t.seq == 0 {
		return
	}
	if t.printed {
		t.line = nil
	}
	if len(s.late) < maxLate && s.lateBytes+len(t.line) <= maxLateBytes {
		s.late[t.seq] = t
		s.lateBytes += len(t.line)
	} else if !t.printed {
		s.gap(1) // it is not shown, whatever becomes of it
	}
}

func (s *screen) wants(state string) bool {
	return len(s.states) == 0 || slices.Contains(s.states, state)
}

// rewind forgets what was not shown yet, and returns the number of the event behind
// which all has to be told again.
func (s *screen) rewind() uint64 {
	s.queue = nil
	clear(s.pending)
	seq := s.seq
	for late := range s.late {
		seq = min(seq, late-1)
	}
	return seq
}

// gap says that events are not shown.
func (s *screen) gap(n uint64) {
	if s.as == asJSON {
		s.write(fmt.Sprintf(`{"type":"gap","left_out":%d}`+"\n", n))
		return
	}
	text := "-- 1 event is left out --"
	if n != 1 {
		text = fmt.Sprintf("-- %d events are left out --", n)
	}
	if s.as == asText {
		s.write(s.at.paint(red, text) + "\n")
	}
}

// end shows what is left, and flushes.
func (s *screen) end() error { return s.settle(time.Now().Add(time.Hour)) }

func (s *screen) write(text string) {
	if s.err == nil {
		_, s.err = s.out.WriteString(text)
	}
}

// print shows one event.
func (s *screen) print(t *told) {
	if s.done() {
		return
	}
	if t.printed = true; s.left > 0 {
		s.left--
	}
	if s.as == asJSON {
		s.write(string(shownJSON(withFate(t.line, t.fate))) + "\n")
		return
	}
	var e struct {
		Time                 api.Time
		Source, Event, Topic string
		Retain, Truncated    bool
		Payload              json.RawMessage
	}
	if json.Unmarshal(t.line, &e) != nil {
		return
	}
	payload, cutOff := []byte(e.Payload), e.Truncated
	if s.as == asPayload && e.Truncated && t.seq > 0 {
		if whole, err := s.whole(t.seq); err == nil {
			payload, cutOff = whole, false
		}
	}
	if e.Event == event.RawName && !cutOff { // a message as it is
		if message, err := event.Raw(payload); err == nil {
			payload = message
		}
	}
	text := string(payload)
	if s.as == asPayload {
		if s.at.is {
			text = shown(text)
		}
		s.write(text + "\n")
		return
	}
	retained := ""
	if e.Retain {
		retained = " (retained)"
	}
	text = shown(text)
	if e.Truncated {
		text += "…"
	}
	when := clock(e.Time.Time, "15:04:05.000", "2006-01-02 15:04:05")
	where := orDash(e.Topic) + retained
	words := wordsOf(t.fate)
	if s.at.width > 0 {
		taken := len(when) + len([]rune(words)) + len([]rune(where)) + len([]rune(e.Source)) + len([]rune(e.Event)) + 10
		text = cut(text, max(20, s.at.width-taken))
	}
	s.write(strings.Join([]string{
		s.at.paint(dim, when), orDash(e.Source), s.at.paint(bold, orDash(e.Event)), s.at.paint(dim, where), s.at.paint(colourOf(t.state), words), text,
	}, "  ") + "\n")
}

// withFate is an event's line with its newest fate, which is the last member.
func withFate(line []byte, fate json.RawMessage) []byte {
	var old struct{ Fate json.RawMessage }
	if json.Unmarshal(line, &old) != nil || string(old.Fate) == string(fate) {
		return line
	}
	before, found := strings.CutSuffix(string(line), `"fate":`+string(old.Fate)+"}")
	if !found {
		return line
	}
	return []byte(before + `"fate":` + string(fate) + "}")
}

// wordsOf says what became of an event.
func wordsOf(fate json.RawMessage) string {
	var f api.Fate
	if json.Unmarshal(fate, &f) != nil {
		return "-"
	}
	return fateWords(&f)
}

func colourOf(state string) string {
	return map[string]string{"delivered": green, "waiting": yellow, "held": cyan, "dropped": dim, "refused": red}[state]
}
