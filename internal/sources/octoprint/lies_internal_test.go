package octoprint

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// teller is a translator whose OctoPrint says what a test wants.
type teller struct {
	t      *testing.T
	tr     *translator
	now    time.Time
	names  []string
	times  []time.Time
	stored []byte
	marked int // how often the position was stored without an event
}

// newTeller starts with a stored position; nil is none.
func newTeller(t *testing.T, stored []byte, a asks) *teller {
	if a.file == nil {
		a.file = func(_, _ string) []byte { return nil }
	}
	if a.files == nil {
		a.files = func() []byte { return nil }
	}
	l := &teller{t: t, now: time.Unix(1_700_000_000, 0), stored: stored}
	l.tr = newTranslator(Type.Options().(*Options), stored, a)
	l.tr.begin("admin", false, l.now)
	return l
}

func (l *teller) keep(r result) {
	for _, e := range r.events {
		if len(e.Payload) > 0 && !json.Valid(e.Payload) {
			l.t.Errorf("%s: %s", e.Name, e.Payload)
		}
		l.names, l.times = append(l.names, e.Name), append(l.times, e.Time)
		if e.Position.Key != "" {
			l.stored = slices.Clone(e.Position.Value)
		}
	}
	if r.mark {
		l.marked++
		l.stored = l.tr.pos.stored().Value
	}
}

func (l *teller) frame(text string) {
	l.t.Helper()
	f, err := decode([]byte(text))
	if err != nil {
		l.t.Fatal(err)
	}
	l.keep(l.tr.frame(f, l.now))
	r, _ := l.tr.tick(l.now)
	l.keep(r)
}

func (l *teller) event(name, payload string) {
	l.frame(fmt.Sprintf(`{"event":{"type":%q,"payload":%s}}`, name, payload))
}

// snap sends a snapshot; path is a file that is selected, and printed if state
// says so.
func (l *teller) snap(kind, state, path string, marks ...string) {
	l.t.Helper()
	file := `{}`
	if path != "" {
		file = fmt.Sprintf(`{"name":"x","path":%q,"origin":"local"}`, path)
	}
	l.frame(fmt.Sprintf(`{%q:{"state":{"flags":{%s}},"job":{"file":%s,"lastPrintTime":1e999},"progress":{"printTime":1e999},"serverTime":%f,"temps":[],"markings":[%s]}}`,
		kind, state, file, float64(l.now.UnixMilli())/1e3, strings.Join(marks, ",")))
}

// snaps sends snapshots for a while, one each half a second.
func (l *teller) snaps(n int, state, path string, marks ...string) {
	for range n {
		l.now = l.now.Add(500 * time.Millisecond)
		l.snap("current", state, path, marks...)
	}
}

const (
	ready    = `"operational":true`
	printing = `"operational":true,"printing":true`
	offline  = `"closedOrError":true`
	jobX     = `{"name":"x","path":"x","origin":"local"}`
)

func marked(kind string, at time.Time) string {
	return fmt.Sprintf(`{"type":%q,"time":%f}`, kind, float64(at.UnixMilli())/1e3)
}

func (l *teller) want(names ...string) {
	l.t.Helper()
	if !slices.Equal(l.names, names) {
		l.t.Errorf("told %q\n want %q", l.names, names)
	}
}

// TestWhatARestartForgotIsForgottenForGood: after a restart of OctoPrint was seen
// the program is killed, at once or later, and does not take it for another
// restart.
func TestWhatARestartForgotIsForgottenForGood(t *testing.T) {
	for _, later := range []int{0, 100} {
		l := newTeller(t, nil, asks{})
		l.snap("history", ready, "", marked("connected", l.now.Add(-time.Hour)))
		l.keep(l.tr.finish())
		l.keep(l.tr.away(l.now, true))
		l.now = l.now.Add(time.Minute)
		l.tr.begin("admin", true, l.now)
		l.snap("history", offline, "")
		l.snaps(20, offline, "")
		l.event("Connected", `{"port":"VIRTUAL"}`)
		m := marked("connected", l.now)
		l.snaps(later, ready, "", m)
		l.want("Shutdown", "Startup", "Disconnected", "Connected")
		if l.marked > 3 {
			t.Errorf("the position was stored %d times", l.marked)
		}

		again := newTeller(t, l.stored, asks{})
		again.now = l.now.Add(10 * time.Minute)
		again.snap("history", ready, "", m)
		again.snaps(20, ready, "", m)
		again.want()
		if later == 0 {
			continue
		}
		// Another restart is none of the same: the new list begins anew.
		third := newTeller(t, l.stored, asks{})
		third.now = l.now.Add(time.Hour)
		m = marked("connected", third.now.Add(-time.Minute))
		third.snap("history", ready, "", m)
		third.snaps(20, ready, "", m)
		third.want("Disconnected", "Connected")
	}
}

// TestNumbersThatCannotBeLoseNoEnd: JSON has numbers that are infinite, and times
// that no clock shows.
func TestNumbersThatCannotBeLoseNoEnd(t *testing.T) {
	for _, last := range []string{
		`"success":true,"printTime":1e999`, `"date":1e999,"success":true`, `"date":1e300,"success":true`, `"date":9e12`, `"date":253402300799`, `"date":-5`,
	} {
		history := ""
		l := newTeller(t, nil, asks{file: func(_, _ string) []byte { return []byte(history) }})
		l.snap("history", ready, "", marked("connected", l.now.Add(-time.Hour)))
		l.snaps(10, ready, "", marked("connected", l.now.Add(-time.Hour)))
		l.event("PrintStarted", jobX)
		l.keep(l.tr.finish())
		if !strings.Contains(last, "date") {
			last += fmt.Sprintf(`,"date":%d`, l.now.Unix()+60)
		}
		history = `{"prints":{"last":{` + last + `}}}`
		l.now = l.now.Add(time.Hour)
		l.tr.begin("admin", true, l.now)
		l.snap("history", ready, "x") // it was restarted
		l.snaps(20, ready, "x")
		end := map[bool]string{true: "PrintDone", false: "PrintFailed"}[strings.Contains(last, "printTime")]
		l.want("PrintStarted", end)
		if at := l.times[len(l.times)-1]; at.After(l.now.Add(maxAhead)) || at.Year() < 2000 {
			t.Errorf("%s: at %s", last, at)
		}
		if p, ok := parsePosition(l.stored); !ok || p.Open != nil {
			t.Errorf("%s: %s", last, l.stored)
		}
	}
	l := newTeller(t, nil, asks{}) // a print that goes on, of which nobody knows for how long
	l.snap("history", printing, "x", marked("print", l.now.Add(-time.Hour)))
	if p, ok := parsePosition(l.stored); !ok || p.Open == nil {
		t.Errorf("%s", l.stored)
	}
}

// TestAClockThatIsSetDoublesNoEnd: it jumps between an event and its marking.
func TestAClockThatIsSetDoublesNoEnd(t *testing.T) {
	l := newTeller(t, nil, asks{})
	connected := marked("connected", l.now.Add(-time.Hour))
	l.snap("history", ready, "", connected)
	l.snaps(10, ready, "", connected)
	began := marked("print", l.now)
	l.event("PrintStarted", jobX)
	l.snaps(10, printing, "x", connected, began)
	done := marked("done", l.now)
	l.event("PrintDone", jobX)
	l.now = l.now.Add(time.Hour)
	l.snap("current", ready, "x", connected, began) // it was made before the marking
	l.snaps(20, ready, "x", connected, began, done)
	l.want("PrintStarted", "PrintDone")
}

// TestALongNameIsTheSameAfterAStart: it is cut, in whole runes.
func TestALongNameIsTheSameAfterAStart(t *testing.T) {
	path := strings.Repeat("a", maxPosition-1) + "ü.gcode"
	l := newTeller(t, nil, asks{})
	connected := marked("connected", l.now.Add(-time.Hour))
	l.snap("history", ready, "", connected)
	l.snaps(10, ready, "", connected)
	began := marked("print", l.now)
	l.event("PrintStarted", `{"name":"x","path":"`+path+`","origin":"local"}`)
	l.snaps(2, printing, path, connected, began)
	l.want("PrintStarted")

	again := newTeller(t, l.stored, asks{})
	again.now = l.now.Add(time.Minute)
	again.snap("history", printing, path, connected, began)
	again.snaps(20, printing, path, connected, began)
	again.want()
}

// TestEventsThatAreHeldAreBoundedInBytes: those that OctoPrint does not remember
// are told, and nothing is lost.
func TestEventsThatAreHeldAreBoundedInBytes(t *testing.T) {
	l := newTeller(t, nil, asks{})
	l.snap("history", ready, "", marked("connected", l.now.Add(-time.Hour)))
	l.tr.begin("admin", true, l.now)
	for range 50 {
		l.event("Alert", `"`+strings.Repeat("x", 1<<19)+`"`)
		size := 0
		for _, h := range l.tr.held {
			size += h.size()
		}
		if size > maxHeldBytes || size != l.tr.heldBytes {
			t.Fatalf("%d bytes are held, and %d counted", size, l.tr.heldBytes)
		}
	}
	l.event("PrintStarted", jobX)
	for range maxHeld + 10 {
		l.event("Home", "null")
	}
	began := marked("print", l.now)
	l.snap("history", printing, "x", marked("connected", l.now.Add(-time.Hour)), began)
	l.snaps(20, printing, "x", marked("connected", l.now.Add(-time.Hour)), began)
	counts := map[string]int{}
	for _, name := range l.names {
		counts[name]++
	}
	if counts["Alert"] != 50 || counts["Home"] != maxHeld+10 || counts["PrintStarted"] != 1 {
		t.Error(counts)
	}
}

// TestALyingListIsBounded: one that is another at each time makes no event for
// ever, and no time is told that cannot be.
func TestALyingListIsBounded(t *testing.T) {
	l := newTeller(t, nil, asks{})
	l.snap("history", ready, "", marked("connected", l.now.Add(-time.Hour)))
	for i := range 2 * maxLate {
		l.now = l.now.Add(500 * time.Millisecond)
		l.snap("current", ready, "", marked("done", l.now.Add(-time.Duration(i+9)*time.Hour)))
	}
	if n := len(l.names); n == 0 || n > maxLate {
		t.Errorf("%d events of a list that changes", n)
	}
	for _, at := range []time.Time{time.Unix(1, 0), time.Unix(4_000_000_000, 0)} {
		l := newTeller(t, nil, asks{})
		l.snap("history", ready, "", marked("connected", l.now.Add(-time.Hour)))
		l.snaps(40, ready, "", marked("connected", l.now.Add(-time.Hour)), marked("cancel", at))
		if l.want("PrintCancelled"); len(l.times) > 0 && l.now.Sub(l.times[0]).Abs() > time.Hour {
			t.Errorf("%s is told for %s", l.times[0], at)
		}
	}
	var long []string // of a very long list the newest is told
	for i := range maxMarkings {
		long = append(long, marked("pause", l.now.Add(time.Duration(i-maxMarkings)*time.Second)))
	}
	l = newTeller(t, nil, asks{})
	l.snap("history", ready, "", marked("connected", l.now.Add(-10*time.Hour)))
	l.now = l.now.Add(time.Hour)
	l.tr.begin("admin", true, l.now)
	l.snap("history", ready, "", append([]string{marked("connected", l.now.Add(-11*time.Hour))}, long...)...)
	if n := len(l.names); n != maxLate || l.times[n-1].Before(l.now.Add(-time.Hour)) {
		t.Errorf("%d events, the last at %v", n, l.times[n-1:])
	}
}

// TestAHostileLibraryDoesNotHang: folders in folders, and many prints to be found
// in it. It is read once, and files are looked up while the program does not end.
func TestAHostileLibraryDoesNotHang(t *testing.T) {
	const levels, prints = 4000, 900
	reads, ends, ended := 0, false, false
	library := `{"files":[` + strings.Repeat(`{"children":[`+strings.Repeat(" ", 200), levels) + strings.Repeat(`]}`, levels) + `]}`
	l := newTeller(t, nil, asks{
		file:  func(_, _ string) []byte { ended = ends; return nil },
		files: func() []byte { ended, reads = ends, reads+1; return []byte(library) },
		ended: func() bool { return ended },
	})
	connected := marked("connected", l.now.Add(-time.Hour))
	l.snap("history", ready, "", connected)
	l.now = l.now.Add(time.Hour)
	l.tr.begin("admin", true, l.now)
	marks := []string{connected}
	for i := range prints {
		marks = append(marks, marked("print", l.now.Add(time.Duration(i-3000)*time.Second)))
	}
	before := time.Now()
	l.snap("history", ready, "", marks...)
	if n := len(l.names); n < prints || reads != 1 {
		t.Errorf("%d events, %d reads", n, reads)
	}
	if took := time.Since(before); took > 20*time.Second { // it was 9 s for each print
		t.Error(took)
	}

	told := len(l.names)
	stored := l.stored
	l.tr.begin("admin", true, l.now)
	marks = append(marks, marked("print", l.now.Add(-9*time.Minute)))
	l.tr.pos.Open.Path = "x"
	ends = true // in the middle of the next question, which is not answered any more
	l.snap("history", ready, "", marks...)
	l.snaps(20, ready, "", marks...)
	if len(l.names) != told || string(stored) != string(l.stored) {
		t.Errorf("told when the program ended: %q", l.names[told:])
	}
}

// TestALibraryIsBounded in depth and number.
func TestALibraryIsBounded(t *testing.T) {
	file := `{"path":"x","prints":{"last":{"date":1.5,"success":true}}}`
	nest := func(depth int) string {
		return `{"files":[` + strings.Repeat(`{"children":[`, depth-1) + file + strings.Repeat(`]}`, depth-1) + `]}`
	}
	for name, c := range map[string]struct {
		text string
		want int
	}{
		"deep":      {nest(maxDepth), 1},
		"too deep":  {nest(maxDepth + 1), 0},
		"many":      {`{"files":[` + strings.Repeat("{},", maxLibrary-1) + file + `]}`, 1},
		"too many":  {`{"files":[` + strings.Repeat("{},", maxLibrary) + file + `]}`, 0},
		"no list":   {`{"files":{"a":` + file + `}}`, 0},
		"no answer": {``, 0},
	} {
		if got := len(readLibrary([]byte(c.text), 10)); got != c.want {
			t.Errorf("%s: %d", name, got)
		}
	}
}
