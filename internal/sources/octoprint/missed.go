package octoprint

import (
	"encoding/json"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/tidwall/gjson"
)

// This file finds what was missed. OctoPrint keeps a list of markings for its
// graph, each with a time: the printer was connected, a print began, paused,
// ended. It sends the list with each snapshot. Whatever stands in it behind the
// last marking that is accounted for, and came as no event, was missed.

const (
	// grace is how long a marking may be there before its event comes, or an
	// end before it is told. OctoPrint makes both within a quarter of a second.
	grace = 3 * time.Second
	// apart is how far a marking and its event may be apart, to be of the same.
	apart = 2 * time.Second
	// fresh is how young an event may be for its marking not to be there yet:
	// OctoPrint sends a snapshot each half second.
	fresh = time.Second
	// expireAfter is in how many snapshots the marking of an event may be missing.
	expireAfter = 20
	// maxLate bounds what one connection makes up. Of more the newest is told.
	maxLate = 1000
	// maxAhead is how far a time may be ahead of the clock, ours or OctoPrint's.
	maxAhead = 24 * time.Hour
)

// missed is what is known of what was missed.
type missed struct {
	// catching is set from when a connection begins until what was missed
	// before it was told. Events that come meanwhile are held.
	catching bool
	caught   time.Time // when catching began, with the first snapshot
	now      time.Time // of the newest snapshot or tick
	held     []heldEvent
	// heldBytes is the size of all that are held.
	heldBytes int
	// hole is set while there is a marking whose event has not come, and still
	// may.
	hole      bool
	holeTime  float64   // of the marking
	holeSince time.Time // when it was seen first
	restarted bool      // OctoPrint was, since the position
	library   []printed // the files, while what was missed is looked for
	late      int       // what was made up since the connection began
	oversaid  bool      // that it was too much
	moved     bool      // the position did, by markings, since it was stored last

	// Of the newest snapshot.
	markings []marking
	marks    bool    // there are any, which OctoPrint has since 1.9
	ahead    float64 // seconds that OctoPrint's clock is ahead of ours
	active   bool    // a print goes on
	printing bool    // and is not paused
	busy     bool    // a printer is connected
	job      job
	running  float64 // time of the marking of the newest print that was seen to go on
	runs     job     // that print
	failure  string  // what state.error says
	lastTime float64
}

// begin notes that a connection begins.
func (m *missed) begin() {
	m.catching, m.caught, m.held, m.heldBytes, m.hole = true, time.Time{}, nil, 0, false
	m.markings, m.late, m.oversaid = nil, 0, false
}

// over reports whether the program ends, so that answers are not to be trusted.
func (t *translator) over() bool { return t.ended != nil && t.ended() }

// latest is the latest time that anything may have happened, by OctoPrint's
// clock, in seconds since 1970: one that says more is wrong.
func (t *translator) latest() float64 { return t.server(t.now) + maxAhead.Seconds() }

// when is a time of OctoPrint's clock, or now if it cannot be: its clock was not
// set yet, or the list is wrong.
func (t *translator) when(seconds float64) time.Time {
	const y2000 = 946684800
	at := instant(min(seconds, maxTime))
	if at.After(t.now.Add(maxAhead)) || seconds < y2000 && t.server(t.now) >= y2000 {
		return t.now
	}
	return at
}

// observe keeps what a snapshot tells. first is set at the very first.
func (t *translator) observe(s *snapshot, now time.Time, first bool) {
	flag := func(names ...string) bool {
		return slices.ContainsFunc(names, func(name string) bool { return s.State.Get("flags." + name).Bool() })
	}
	t.now = now
	t.markings, t.marks = s.Markings, s.Marks
	t.ahead = s.Server - float64(now.UnixMilli())/1e3
	t.active = flag("printing", "paused", "pausing", "resuming", "cancelling", "finishing")
	t.printing = flag("printing", "resuming", "finishing")
	t.busy = !flag("closedOrError")
	t.failure = strings.Clone(bounded(s.State.Get("error").Str, maxPosition))
	t.lastTime = finite(s.Job.Get("lastPrintTime"))
	file := s.Job.Get("file")
	t.job = *jobOf([]byte(file.Raw), s.Server-finite(s.Progress.Get("printTime")))
	if i := lastOf(s.Markings, isJob); i >= 0 && s.Markings[i].Type == "print" && t.active && t.job.Path != "" && !t.followed(s.Markings[i]) {
		t.running, t.runs = s.Markings[i].Time, t.job
	}
	if t.catching && t.caught.IsZero() {
		t.caught = now
		for i := range t.held {
			t.held[i].server = t.server(t.held[i].at)
		}
		t.restarted = !first && s.Marks && (t.pos.Marked > 0 && t.after() < 0 || t.pos.Marked == 0 && len(t.markings) == 0 && (t.pos.Connected || t.pos.Open != nil))
		if t.restarted {
			t.pos.Told = nil // their markings are gone
		}
		t.online(now)
	}
}

// followed reports whether a print is held that began after that of a marking,
// the newest, and has none yet.
func (t *translator) followed(m marking) bool {
	return slices.ContainsFunc(t.held, func(h heldEvent) bool { return h.name == "PrintStarted" && t.server(h.at)-m.Time >= apart.Seconds() })
}

// firstEver takes what is there at the very first run for told.
func (t *translator) firstEver(s *snapshot) {
	t.known, t.pos.Told = true, nil
	if n := len(s.Markings); n > 0 {
		t.pos.Marked = s.Markings[n-1].Time
	}
	flags := s.State.Get("flags")
	if flags.Get("printing").Bool() || flags.Get("paused").Bool() || flags.Get("pausing").Bool() || flags.Get("resuming").Bool() {
		t.pos.Open = jobOf([]byte(s.Job.Get("file").Raw), s.Server-finite(s.Progress.Get("printTime")))
		t.metadata(t.pos.Open, t.file, &t.out)
	}
	t.pos.Connected = !flags.Get("closedOrError").Bool()
	t.pos.Online = true
	t.out.mark = true
}

// isJob reports whether a marking is of the beginning or the end of a print.
func isJob(m marking) bool {
	switch m.Type {
	case "print", "done", "cancel", "disconnected":
		return true
	}
	return false
}

// lastOf is the index of the last marking that is, or -1.
func lastOf(all []marking, is func(marking) bool) int {
	for i := len(all) - 1; i >= 0; i-- {
		if is(all[i]) {
			return i
		}
	}
	return -1
}

// after is the index of the marking up to which all are accounted for, or -1.
func (t *translator) after() int {
	return lastOf(t.markings, func(m marking) bool { return m.Time == t.pos.Marked })
}

// online says that OctoPrint is there again, if it was said to be gone. After a
// restart that comes before all that it has marked since.
func (t *translator) online(now time.Time) {
	if t.pos.Online {
		return
	}
	t.pos.Online = true
	at := now
	if t.restarted && len(t.markings) > 0 {
		if first := t.when(t.markings[0].Time); first.Before(at) {
			at = first
		}
	}
	t.derive("Startup", at)
}

// catchUp tells what was missed, as far as that is sure.
func (t *translator) catchUp(now time.Time) {
	if t.catching && t.caught.IsZero() {
		return // nothing is known yet
	}
	t.now = now
	if t.restarted {
		t.restarted = false
		t.closeOld(now)
		// What is told from now on has its markings in the new list. That is stored
		// also if nothing else is: with the old one it would seem to be restarted
		// again at the next start.
		t.pos.Marked, t.moved = 0, true
	}
	t.hole = !t.settle(now)
	t.library = nil
	if t.moved { // and no event has carried it
		t.moved, t.out.mark = false, true
	}
	if t.over() {
		return
	}
	if !t.catching {
		return
	}
	waited := now.Sub(t.caught)
	ended := t.pos.Open != nil && (!t.active || t.job.Path != t.pos.Open.Path)
	if (t.hole || ended) && waited < grace || t.hole && waited < 2*grace {
		if ended {
			t.hole = true // to be looked at again
		}
		return
	}
	if ended && !slices.ContainsFunc(t.held, func(h heldEvent) bool { return ends[h.name] || h.name == "PrintStarted" }) {
		t.end(now)
		if t.active {
			open := t.job
			t.pos.Open = &open
		}
	}
	if !t.marks {
		t.reconcile(now)
	}
	t.catching = false
	t.release()
}

// reconcile tells by the state alone what was missed, of an OctoPrint that has
// no markings. When it was is not known.
func (t *translator) reconcile(now time.Time) {
	held := func(name string) bool {
		return slices.ContainsFunc(t.held, func(h heldEvent) bool { return h.name == name })
	}
	if t.busy != t.pos.Connected && !held("Connected") && !held("Disconnected") {
		t.tellLate(map[bool]string{true: "Connected", false: "Disconnected"}[t.busy], now, map[string]any{"derived": true})
	}
	if t.active && t.pos.Open == nil && t.job.Path != "" && !held("PrintStarted") {
		more := map[string]any{"derived": true}
		t.job.describe(more)
		t.tellLate("PrintStarted", t.when(t.job.Since), more)
	}
}

// ends are the events that end a print.
var ends = map[string]bool{"PrintDone": true, "PrintFailed": true, "PrintCancelled": true}

// closeOld tells the end of what was going on when OctoPrint was restarted: its
// list of markings began anew.
func (t *translator) closeOld(now time.Time) {
	if t.pos.Open != nil && !(t.active && t.job.Path == t.pos.Open.Path) { // a print from the printer's card goes on
		t.end(now)
	}
	if t.pos.Connected && (!t.busy || slices.ContainsFunc(t.markings, func(m marking) bool { return m.Type == "connected" })) {
		at := now
		if len(t.markings) > 0 {
			at = t.when(t.markings[0].Time)
		}
		t.tellLate("Disconnected", at, map[string]any{"derived": true})
	}
}

// server is a time by OctoPrint's clock, in seconds since 1970.
func (t *translator) server(at time.Time) float64 { return float64(at.UnixMilli())/1e3 + t.ahead }

// settle goes through the markings that are not accounted for. It returns false
// if it stopped at one whose event may still come.
func (t *translator) settle(now time.Time) bool {
	server := t.server(now)
	pending := t.markings[t.after()+1:]
	for i, m := range pending {
		name := eventOf[m.Type]
		if t.over() {
			return false
		}
		switch {
		case name == "", t.pos.account(m.Type):
		case len(pending)-i > maxLate:
			t.skip()
		case t.heldFor(m) >= 0:
			i := t.heldFor(m)
			if now.Sub(t.held[i].at) < fresh {
				return false // it may be of a marking that is still to come
			}
			t.passHeld(i, m)
		case t.young(m, server, now):
			return false
		case t.late >= maxLate:
			t.skip()
		default:
			t.late++
			if t.makeUp(name, m); t.over() {
				return false
			}
		}
		t.pos.Marked = m.Time
		t.moved = t.moved || name != ""
	}
	return true
}

// skip notes that something that was missed is not told.
func (t *translator) skip() {
	if !t.oversaid {
		t.oversaid, t.out.skipped = true, true
	}
}

// young reports whether the event of a marking may still come.
func (t *translator) young(m marking, server float64, now time.Time) bool {
	if m.Time != t.holeTime {
		t.holeTime, t.holeSince = m.Time, now
	}
	return server-m.Time < grace.Seconds() && now.Sub(t.holeSince) < grace
}

// makeUp tells an event that was missed.
func (t *translator) makeUp(name string, m marking) {
	more := map[string]any{}
	last := !slices.ContainsFunc(t.markings, func(other marking) bool { return other.Type == "print" && other.Time > m.Time })
	switch name {
	case "Connected", "Disconnected", "PrintStarted":
		if t.pos.Open != nil { // it has ended before, and left no marking
			t.end(t.when(m.Time))
		}
	}
	switch name {
	case "Connected", "Disconnected":
		t.pos.Marked = m.Time
		t.tellLate(name, t.when(m.Time), more)
		return
	case "PrintStarted":
		open := t.runs
		if m.Time != t.running { // it is over, and another file may be selected since
			open = t.fileOf(m)
		}
		if open.Path == "" && last {
			open = t.job
		}
		open.Since = m.Time
		t.pos.Open = &open
	case "PrintDone":
		if t.lastTime > 0 && !t.active && t.pos.Open != nil && t.job.Path == t.pos.Open.Path && last {
			more["time"] = t.lastTime
		}
	}
	if j := t.pos.Open; j != nil {
		j.describe(more)
	} else if last {
		t.job.describe(more)
	}
	t.pos.Marked = m.Time
	t.tellLate(name, t.when(m.Time), more)
}

// fileOf is the print that began with a marking, as far as the histories of
// files tell: it is the first that ended after that as its next marking says,
// and before the next print began or anything else came that only comes after its
// end.
func (t *translator) fileOf(began marking) job {
	next, until := marking{Time: math.Inf(1)}, math.Inf(1)
	later := func(is func(marking) bool) int {
		return slices.IndexFunc(t.markings, func(m marking) bool { return m.Time > began.Time && is(m) })
	}
	if i := later(isJob); i >= 0 {
		next, until = t.markings[i], t.markings[i].Time
	}
	if next.Type == "done" || next.Type == "cancel" {
		until += grace.Seconds() // the file learns of it later
		if i := later(func(m marking) bool { return m.Type == "print" }); i >= 0 {
			until = min(until, t.markings[i].Time)
		}
	}
	if t.library == nil { // is asked for once for all that was missed
		t.library = readLibrary(t.files(), t.latest())
	}
	// OctoPrint 2 tells whole seconds: what seems to have ended in the second
	// before counts only if nothing else does.
	found := first(t.library, began.Time, until, next.Type)
	if found == nil {
		found = first(t.library, math.Floor(began.Time)-1e-3, until, next.Type)
	}
	if found == nil {
		return job{}
	}
	return *found
}

// describe puts what is known of a print into a payload, under the keys that
// OctoPrint uses.
func (j *job) describe(payload map[string]any) {
	if j.Path == "" {
		return
	}
	payload["name"], payload["path"], payload["origin"] = j.Name, j.Path, j.Origin
	if j.Size > 0 {
		payload["size"] = j.Size
	}
}

// tellLate passes an event on that was missed; when the program ends it does
// not, and the next start does.
func (t *translator) tellLate(name string, at time.Time, payload map[string]any) {
	if t.over() {
		return
	}
	payload["late"] = true
	text, err := json.Marshal(payload)
	if err != nil { // nothing in it should fail; and that it happened is what counts
		text = []byte(`{"late":true}`)
	}
	open := t.pos.Open
	t.apply(name, text, at)
	if name == "PrintStarted" && open != nil {
		t.pos.Open = open // with its time by OctoPrint's clock
	}
	t.put(name, text, at, true)
}

// end tells the end of the open print, of which there is no marking: an error
// leaves none, and a restart of OctoPrint takes all away. The history of the
// file knows how it ended, and when; else it was at the latest at the time at.
func (t *translator) end(at time.Time) {
	j := t.pos.Open
	name, more := "PrintFailed", map[string]any{"derived": true}
	j.describe(more)
	last := gjson.Result{}
	if j.Path != "" {
		last = gjson.GetBytes(t.file(j.Origin, j.Path), "prints.last")
	}
	switch date := last.Get("date").Num; {
	case date <= max(0, j.Since) || date > t.latest(): // of another print, or no time
	case last.Get("success").Bool():
		name, at = "PrintDone", t.when(date)
		if elapsed := last.Get("printTime"); elapsed.Type == gjson.Number && finite(elapsed) == elapsed.Num {
			more["time"] = elapsed.Num
		}
	default: // an error, or somebody cancelled it
		at = t.when(date)
	}
	if name == "PrintFailed" {
		more["reason"] = "unknown"
		if t.failure != "" {
			more["reason"], more["error"] = "error", t.failure
		}
	}
	t.tellLate(name, at, more)
}
