package octoprint

import (
	"slices"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"event2mqtt/internal/event"
)

// This file makes events of frames. It does no input or output: what it is
// given and what it returns are values, and the time is told to it.

// result is what comes of a frame.
type result struct {
	events []event.Event
	states []event.State // one without a payload is taken back
	// describe is set when the device may be another than it was.
	describe bool
	// skipped is set when more was missed than is told.
	skipped bool
	// mark is set if the position is to be kept though no event carries it.
	mark bool
}

// join adds what came later.
func (r *result) join(more result) {
	r.events, r.states = append(r.events, more.events...), append(r.states, more.states...)
	r.describe, r.mark, r.skipped = r.describe || more.describe, r.mark || more.mark, r.skipped || more.skipped
}

// translator makes events and states of the frames of one OctoPrint, over all
// connections to it. One goroutine uses it.
type translator struct {
	config *Options
	asks
	reporter
	pos   position
	known bool // whether there is a position: it has run before
	// pictured is whether there are pictures of the webcam, or will be.
	pictured bool

	out   result
	user  string // whose key it is
	since time.Time
	// expected are the events that our own connection causes, and that are not
	// passed on: how many of each are still to come.
	expected map[string]int
	// mute is until when lines that say that the printer waits are repetitions.
	mute time.Time
	// unstored is set when something could not be stored, until the next
	// connection.
	unstored bool
	missed
}

// asks are questions to OctoPrint. The answers are JSON, or nothing if it does
// not tell. When ended says that the program ends, answers are not to be
// trusted. All are given anew for each connection.
type asks struct {
	file  func(origin, path string) []byte // the metadata of a file
	files func() []byte                    // all files
	ended func() bool                      // nil is never
}

// ownFor is how long after the login an event may be one that it caused.
const ownFor = 10 * time.Second

// muteFor is how long after a line that says that the printer waits for its
// user the next is the same waiting: firmware repeats it every 2 s.
const muteFor = 10 * time.Second

// maxHeld and maxHeldBytes bound the events that wait for what was missed.
const (
	maxHeld      = 1000
	maxHeldBytes = 4 << 20
)

func newTranslator(config *Options, stored []byte, ask asks) *translator {
	t := &translator{config: config, asks: ask, reporter: newReporter(config)}
	t.pos, t.known = parsePosition(stored)
	t.pictured = config.Snapshot.on() || slices.Contains(config.Commands.Commands, commandSnapshot)
	return t
}

// take returns what has come together.
func (t *translator) take() result {
	out := t.out
	t.out = result{}
	return out
}

// begin notes that a login was made, and that a connection begins. again is set
// if one has ended before, whose end OctoPrint tells of.
func (t *translator) begin(user string, again bool, now time.Time) {
	t.authenticate(user, now)
	t.expected["ClientOpened"] = 1
	if again {
		t.expected["ClientClosed"] = 1
	}
	t.missed.begin()
	t.unstored = false
}

// authenticate notes that a login was made.
func (t *translator) authenticate(user string, now time.Time) {
	t.user, t.since = user, now
	t.expected = map[string]int{"ClientAuthed": 1, "UserLoggedIn": 1}
}

// frame takes a frame that came now.
func (t *translator) frame(f frame, now time.Time) result {
	switch {
	case f.Connected != nil:
		t.greet(*f.Connected, &t.out)
	case f.History != nil:
		t.snapshot(f.History, now, true)
	case f.Current != nil:
		t.snapshot(f.Current, now, false)
	case f.Event != nil:
		t.happened(*f.Event, now)
	case f.Slicing != nil:
		t.slicing(*f.Slicing, now, &t.out)
	}
	return t.take()
}

// tick takes it that time has passed, and returns when it wants to be called
// again at the latest; zero is not at all.
func (t *translator) tick(now time.Time) (result, time.Time) {
	if t.catching || t.hole {
		t.catchUp(now)
	}
	var next time.Time
	if t.catching || t.hole {
		next = now.Add(grace / 4)
	}
	return t.take(), next
}

// finish notes that the connection has ended. Nothing is passed on if what came
// before could not be stored.
func (t *translator) finish() result {
	if !t.unstored {
		t.leave()
	}
	t.catching, t.hole, t.held, t.heldBytes = false, false, nil, 0
	return t.take()
}

// rewind goes back to a position that was stored, since what was told after it
// could not be.
func (t *translator) rewind(stored []byte) {
	t.pos, t.known = parsePosition(stored)
	t.moved = false
}

// away notes that there is no way to OctoPrint. off is set if that is since it
// does not answer.
func (t *translator) away(now time.Time, off bool) result {
	if off && t.pos.Online {
		t.pos.Online = false
		t.derive("Shutdown", now)
	}
	t.reporter.away(&t.out)
	return t.take()
}

func (t *translator) snapshot(s *snapshot, now time.Time, history bool) {
	first := !t.known
	if first {
		t.firstEver(s)
	}
	t.observe(s, now, first)
	t.catchUp(now)
	if !t.catching {
		t.pos.expire()
	}
	if s.Waits && !history { // lines of history have no time
		if now.After(t.mute) {
			t.pass("PausedForUser", []byte("null"), now)
		}
		t.mute = now.Add(muteFor)
	}
	t.report(s, now, history, &t.out)
}

// happened takes an event of OctoPrint's.
func (t *translator) happened(h happening, now time.Time) {
	if t.isOwn(h, now) {
		return
	}
	t.pass(h.Name, h.Payload, now)
}

// isOwn reports whether an event is one that our own connection has caused.
func (t *translator) isOwn(h happening, now time.Time) bool {
	if t.expected[h.Name] == 0 || now.Sub(t.since) > ownFor {
		return false
	}
	if name := gjson.GetBytes(h.Payload, "username"); name.Exists() && name.Str != t.user {
		return false
	}
	t.expected[h.Name]--
	return true
}

// pass passes an event on, or holds it until what was missed before it is
// known.
func (t *translator) pass(name string, payload []byte, at time.Time) {
	if !t.catching {
		t.emit(name, payload, at, 0)
		return
	}
	h := heldEvent{name: name, payload: payload, at: at, server: t.server(at)}
	if len(t.held) >= maxHeld || t.heldBytes+h.size() > maxHeldBytes {
		t.leave()
	}
	t.held, t.heldBytes = append(t.held, h), t.heldBytes+h.size()
}

// derive passes an event on that OctoPrint does not push.
func (t *translator) derive(name string, at time.Time) {
	t.put(name, []byte(`{"derived":true}`), at, true)
}

// emit passes an event on. marked is the time of its marking if that was seen;
// it is stored with the event, so that neither goes without the other.
func (t *translator) emit(name string, payload []byte, at time.Time, marked float64) {
	if t.pos.Open != nil && (name == "PrintStarted" || t.catching && name == "Disconnected" && !slices.ContainsFunc(t.held, heldEvent.ends)) {
		if t.end(at); t.over() { // the end of the one before was missed
			return
		}
	}
	changed := t.apply(name, payload, at)
	kind := markingOf[name]
	switch {
	case marked > 0:
		t.pos.Marked = marked
	case kind != "":
		t.pos.tell(kind)
	}
	t.put(name, payload, at, changed)
}

// put adds an event to the result, with the position if it changed that.
func (t *translator) put(name string, payload []byte, at time.Time, marked bool) {
	e := event.Event{Name: name, Time: at, Payload: payload, Checked: true}
	t.route(&e)
	if marked && t.known { // else the very first snapshot is to come
		e.Position = t.pos.stored()
		t.moved = false
	}
	t.out.events = append(t.out.events, e)
}

// apply keeps what an event changes, and reports whether it changes the
// position.
func (t *translator) apply(name string, payload []byte, at time.Time) bool {
	switch name {
	case "PrintStarted":
		t.pos.Open = jobOf(payload, t.server(at))
		t.metadata(t.pos.Open, t.file, &t.out)
	case "PrintDone", "PrintFailed", "PrintCancelled":
		t.pos.Open = nil
		t.metadata(nil, nil, &t.out)
	case "PrintPaused", "PrintResumed":
	case "Connected", "Disconnected":
		t.pos.Connected = name == "Connected"
		t.link(name, payload, &t.out)
	case "FirmwareData":
		t.pos.Firmware = firmwareOf(payload)
		t.out.describe = true
	default:
		return false
	}
	return true
}

// jobOf is the print that an event is about.
func jobOf(payload []byte, since float64) *job {
	p := gjson.ParseBytes(payload)
	// Copies: they are kept longer than the frame.
	text := func(key string) string { return strings.Clone(bounded(p.Get(key).Str, maxPosition)) }
	return &job{Name: text("name"), Path: text("path"), Origin: text("origin"), Size: int64(finite(p.Get("size"))), Since: since}
}

// firmwareOf is what a printer says of itself: 1.x puts it under data, 2.0 may
// not.
func firmwareOf(payload []byte) *firmware {
	p := gjson.ParseBytes(payload)
	first := func(paths ...string) string {
		for _, path := range paths {
			if text := p.Get(path).Str; text != "" {
				return strings.Clone(bounded(text, maxPosition))
			}
		}
		return ""
	}
	return &firmware{Name: first("name", "data.FIRMWARE_NAME", "FIRMWARE_NAME"), Model: first("data.MACHINE_TYPE", "MACHINE_TYPE", "machine_type")}
}

// heldEvent is an event that waits for what was missed before it.
type heldEvent struct {
	name    string
	payload []byte
	at      time.Time
	server  float64 // at, by OctoPrint's clock
}

// ends reports whether a print has ended.
func (h heldEvent) ends() bool { return ends[h.name] }

// size is what it takes in memory, in bytes, roughly.
func (h heldEvent) size() int { return len(h.name) + len(h.payload) }

// found reports whether an event would be found again by what OctoPrint
// remembers: its marking, or the history of the file.
func (h heldEvent) found() bool { return markingOf[h.name] != "" || h.ends() }

// release passes on what was held.
func (t *translator) release() {
	held := t.held
	t.held, t.heldBytes = nil, 0
	for _, h := range held {
		t.emit(h.name, h.payload, h.at, 0)
	}
}

// leave passes on what was held and can wait no longer, though it is not known
// what was missed before it. What OctoPrint remembers is not passed on: it would
// overtake what was missed, and be told again after that. It is told late.
func (t *translator) leave() {
	if t.marks || t.caught.IsZero() {
		t.held = slices.DeleteFunc(t.held, heldEvent.found)
	}
	t.release()
}

// eventOf is the event of a marking.
var eventOf = map[string]string{
	"connected": "Connected", "disconnected": "Disconnected", "print": "PrintStarted", "pause": "PrintPaused",
	"resume": "PrintResumed", "done": "PrintDone", "cancel": "PrintCancelled",
}

// markingOf is the marking that OctoPrint makes with an event.
var markingOf = func() map[string]string {
	all := map[string]string{}
	for kind, name := range eventOf {
		all[name] = kind
	}
	return all
}()

// heldFor is the index of the held event of a marking, or -1. One that came long
// after it is another's; and where there are more markings of a kind than events,
// the events are those of the last.
func (t *translator) heldFor(m marking) int {
	first, events, markings := -1, 0, 0
	for i, h := range t.held {
		if markingOf[h.name] == m.Type {
			if events++; first < 0 && h.server-m.Time < apart.Seconds() {
				first = i
			}
		}
	}
	for _, other := range t.markings {
		if other.Type == m.Type && other.Time >= m.Time {
			markings++
		}
	}
	if markings > events {
		return -1
	}
	return first
}

// passHeld passes on what is held up to the event of a marking.
func (t *translator) passHeld(i int, m marking) {
	before, h := t.held[:i], t.held[i]
	t.held = t.held[i+1:]
	t.heldBytes -= h.size()
	for _, b := range before {
		t.heldBytes -= b.size()
	}
	for _, b := range before {
		t.emit(b.name, b.payload, b.at, 0)
	}
	t.emit(h.name, h.payload, h.at, m.Time)
}
