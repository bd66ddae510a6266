package octoprint_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"event2mqtt/internal/health"
)

// TestTheVeryFirstRunTellsNothingOfThePast: what is in the graph of OctoPrint
// happened before anybody asked for it. The end of what goes on is told.
func TestTheVeryFirstRunTellsNothingOfThePast(t *testing.T) {
	s, out := newServer(t), newOutput()
	stop := run(t, options(s.url()), out)
	s.next().send(snapshot("history", "Printing", "a.gcode", 5000, mark("connected", 1000), mark("print", 2000)))
	until(t, "the position is kept", func() bool { return len(out.Positions()) == 1 })
	stop()
	if names := out.names(); len(names) > 0 {
		t.Error(names)
	}
	run(t, options(s.url()), out)
	s.next().send(snapshot("history", "Operational", "a.gcode", 6000, mark("connected", 1000), mark("print", 2000), mark("done", 5500)))
	wantNames(t, out, "PrintDone")
}

// TestWhatWasMissedIsToldOnceLateAndBeforeAnythingNewer, with its own time.
func TestWhatWasMissedIsToldOnceLateAndBeforeAnythingNewer(t *testing.T) {
	s, out := newServer(t), newOutput()
	marks := []string{mark("connected", 1000)}
	stop := run(t, options(s.url()), out)
	p := s.next()
	p.send(snapshot("history", "Operational", "", 1500, marks...))
	p.send(happened("PrintStarted", `{"name":"a.gcode","path":"a.gcode","origin":"local","size":1776}`))
	wantNames(t, out, "PrintStarted")
	stop() // and no word to anybody: it is as good as a kill, for all is in the position

	marks = append(marks, mark("print", 1501), mark("pause", 1600.25), mark("plugin_mark", 1650), mark("resume", 1700), mark("done", 1800), mark("disconnected", 1900), mark("connected", 2000), mark("print", 2100), mark("cancel", 2200))
	stop = run(t, options(s.url()), out)
	p = s.next()
	p.send(snapshot("history", "Operational", "b.gcode", 9000, marks...))
	p.send(happened("Alert", "null"))
	wantNames(t, out, "PrintStarted", "PrintPaused", "PrintResumed", "PrintDone", "Disconnected", "Connected", "PrintStarted", "PrintCancelled", "Alert")
	for i, want := range []struct {
		at   float64
		path any
	}{1: {1600.25, "a.gcode"}, 2: {1700, "a.gcode"}, 3: {1800, "a.gcode"}, 4: {1900, nil}, 5: {2000, nil}, 6: {2100, "b.gcode"}, 7: {2200, "b.gcode"}} {
		if i == 0 {
			continue
		}
		e := out.all()[i]
		payload := object(t, string(e.Payload))
		if payload["late"] != true || payload["path"] != want.path || e.Time.UnixMilli() != int64(want.at*1000) || payload["_timestamp"] != float64(int64(want.at)) {
			t.Errorf("%s at %s: %s", e.Name, e.Time, e.Payload)
		}
	}
	stop()

	run(t, options(s.url()), out) // nothing is told again
	p = s.next()
	p.send(snapshot("history", "Operational", "b.gcode", 9999, marks...))
	p.send(happened("Home", "null"))
	until(t, "it goes on", func() bool { return slices.Contains(out.names(), "Home") })
	if n := len(out.names()); n != 10 {
		t.Errorf("told again: %v", out.names()[9:])
	}
}

// TestWhichPrintsWereMissedIsFoundInTheHistoriesOfFiles: nothing is selected any
// more.
func TestWhichPrintsWereMissedIsFoundInTheHistoriesOfFiles(t *testing.T) {
	s, out := newServer(t), newOutput()
	s.set(func() { s.files["a.gcode"] = `{"prints":{"last":{"date":2500.5,"success":true}}}` })
	s.set(func() { s.files["b.gcode"] = `{"prints":{"last":{"date":3100.1,"success":false}}}` })
	s.set(func() { s.files["c.gcode"] = `{"prints":{"last":{"date":1999,"success":true}}}` })
	s.set(func() { s.files["d.gcode"] = `{"hash":"x"}` })
	marks := []string{mark("connected", 1000)}
	stop := run(t, options(s.url()), out)
	s.next().send(snapshot("history", "Operational", "", 1500, marks...))
	until(t, "the position is kept", func() bool { return len(out.Positions()) == 1 })
	stop()
	marks = append(marks, mark("print", 2000), mark("done", 2500), mark("print", 3000), mark("cancel", 3100), mark("disconnected", 4000))
	run(t, options(s.url()), out)
	s.next().send(snapshot("history", "Offline", "", 9000, marks...))
	wantNames(t, out, "PrintStarted", "PrintDone", "PrintStarted", "PrintCancelled", "Disconnected")
	for i, want := range []any{"a.gcode", "a.gcode", "b.gcode", "b.gcode", nil} {
		if got := object(t, string(out.all()[i].Payload))["path"]; got != want {
			t.Errorf("%s of %v, want %v", out.all()[i].Name, got, want)
		}
	}
}

// TestHistoriesOfWholeSecondsAreUnderstood: OctoPrint 2 cuts the rest off, and a
// print may end in the second in which it began, or in which another did.
func TestHistoriesOfWholeSecondsAreUnderstood(t *testing.T) {
	s, out := newServer(t), newOutput()
	s.set(func() {
		s.files["a.gcode"] = `{"prints":{"last":{"date":2000.0,"success":false}}}`
		s.files["b.gcode"] = `{"prints":{"last":{"date":2500.0,"success":true}}}`
		s.files["c.gcode"] = `{"prints":{"last":{"date":2500.0,"success":false}}}`
		s.files["d.gcode"] = `{"prints":{"last":{"date":2502.0,"success":true}}}`
		s.files["e.gcode"] = `{"prints":{"last":{"date":2600.0,"success":false}}}`
		s.files["f.gcode"] = `{"prints":{"last":{"date":2601.0,"success":true}}}`
		s.files["g.gcode"] = `{"prints":{"last":{"date":2602.0,"success":false}}}`
	})
	marks := []string{mark("connected", 1000)}
	stop := run(t, options(s.url()), out)
	s.next().send(snapshot("history", "Operational", "", 1500, marks...))
	until(t, "the position is kept", func() bool { return len(out.Positions()) == 1 })
	stop()
	marks = append(marks, mark("print", 2000.1), mark("cancel", 2000.3), mark("print", 2100), mark("done", 2500.2), mark("print", 2500.4), mark("cancel", 2500.8), mark("print", 2500.9), mark("done", 2502.2))
	marks = append(marks, mark("print", 2600.6), mark("cancel", 2600.9), mark("print", 2601.2), mark("done", 2601.5), mark("print", 2601.8), mark("cancel", 2602.6))
	run(t, options(s.url()), out)
	s.next().send(snapshot("history", "Operational", "", 9000, marks...))
	wantNames(t, out, "PrintStarted", "PrintCancelled", "PrintStarted", "PrintDone", "PrintStarted", "PrintCancelled", "PrintStarted", "PrintDone",
		"PrintStarted", "PrintCancelled", "PrintStarted", "PrintDone", "PrintStarted", "PrintCancelled")
	for i, want := range []string{"a.gcode", "a.gcode", "b.gcode", "b.gcode", "c.gcode", "c.gcode", "d.gcode", "d.gcode", "e.gcode", "e.gcode", "f.gcode", "f.gcode", "g.gcode", "g.gcode"} {
		if got := object(t, string(out.all()[i].Payload))["path"]; got != want {
			t.Errorf("%s of %v, want %v", out.all()[i].Name, got, want)
		}
	}
}

// TestAnEndWithoutAMarkingIsAskedFor: an error leaves no marking, and the file
// knows how its last print went.
func TestAnEndWithoutAMarkingIsAskedFor(t *testing.T) {
	for name, c := range map[string]struct{ file, state, event, reason string }{
		"it failed":     {`{"prints":{"last":{"date":1800.5,"success":false,"printTime":70}}}`, "Offline", "PrintFailed", "unknown"},
		"it was done":   {`{"prints":{"last":{"date":1800.5,"success":true,"printTime":70}}}`, "Operational", "PrintDone", ""},
		"nobody knows":  {`{"prints":{"last":{"date":900,"success":true}}}`, "Operational", "PrintFailed", "unknown"},
		"it is no more": {``, "Operational", "PrintFailed", "unknown"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, out := newServer(t), newOutput()
			if c.file != "" {
				s.set(func() { s.files["a.gcode"] = c.file })
			}
			stop := run(t, options(s.url()), out)
			s.next().send(snapshot("history", "Printing", "a.gcode", 1500, mark("connected", 1000), mark("print", 1400)))
			until(t, "the position is kept", func() bool { return len(out.Positions()) == 1 })
			stop()
			run(t, options(s.url()), out)
			s.next().send(snapshot("history", c.state, "", 5000, mark("connected", 1000), mark("print", 1400)))
			until(t, "the end is told", func() bool { return len(out.names()) == 1 })
			p := out.payload(c.event)
			if p == nil || p["late"] != true || p["derived"] != true || p["path"] != "a.gcode" || (p["reason"] != c.reason && c.reason != "") {
				t.Errorf("%v", string(out.all()[0].Payload))
			}
			if at := out.all()[0].Time.UnixMilli(); strings.Contains(c.file, "1800.5") && at != 1800500 {
				t.Errorf("at %d", at)
			}
		})
	}
}

// TestStartupAndShutdownAreDerived from whether the login works, each once, also
// if the program ends between them. A restart ends what went on.
func TestStartupAndShutdownAreDerived(t *testing.T) {
	t.Parallel()
	s, out := newServer(t), newOutput()
	stop := run(t, options(s.url()), out)
	p := s.next()
	now := float64(time.Now().Unix())
	p.send(snapshot("history", "Printing", "a.gcode", now, mark("connected", now-100), mark("print", now-50)))
	until(t, "the position is kept", func() bool { return len(out.Positions()) == 1 })
	s.conns <- p
	s.stop()
	wantNames(t, out, "Shutdown")
	stop()
	stop = run(t, options(s.url()), out)
	until(t, "it waits", func() bool { return strings.Contains(out.status().Detail, "connection refused") })
	s.start()
	p = s.next()
	p.send(snapshot("history", "Operational", "", now+60, mark("connected", now+40)))
	wantNames(t, out, "Shutdown", "Startup", "PrintFailed", "Disconnected", "Connected")
	for _, name := range []string{"Shutdown", "Startup"} {
		if p := out.payload(name); p["derived"] != true || len(p) != 3 {
			t.Errorf("%s: %v", name, p)
		}
	}
	if p := out.payload("PrintFailed"); p["path"] != "a.gcode" || p["late"] != true || p["derived"] != true {
		t.Errorf("%v", p)
	}
	stop()
}

// TestWhatWaitsForTheMissedIsNotLostWithTheConnection, nor with the program.
func TestWhatWaitsForTheMissedIsNotLostWithTheConnection(t *testing.T) {
	for name, end := range map[string]func(p *peer, stop func()){
		"connection": func(p *peer, _ func()) { _ = p.conn.Close() },
		"program":    func(_ *peer, stop func()) { stop() },
	} {
		t.Run(name, func(t *testing.T) {
			s, out := newServer(t), newOutput()
			stop := run(t, options(s.url()), out)
			p := s.next()
			p.send(snapshot("history", "Operational", "", 1000, mark("connected", 900)))
			until(t, "the position is kept", func() bool { return len(out.Positions()) == 1 })
			_ = p.conn.Close()
			p = s.next()
			// The event of the last marking may still come, so what comes waits.
			p.send(snapshot("history", "Printing", "a.gcode", 2000, mark("connected", 900), mark("print", 2000)))
			until(t, "it is worked on", func() bool { return strings.Contains(out.state("state"), "Printing") })
			p.send(happened("Alert", "null"))
			p.send(snapshot("current", "Paused", "a.gcode", 2000, mark("connected", 900), mark("print", 2000)))
			until(t, "it is worked on", func() bool { return strings.Contains(out.state("state"), "Paused") })
			end(p, stop)
			until(t, "it is told", func() bool { return slices.Contains(out.names(), "Alert") })
		})
	}
}

// TestALostConnectionAloneIsNoShutdown: the login works at once.
func TestALostConnectionAloneIsNoShutdown(t *testing.T) {
	t.Parallel()
	s, out := newServer(t), newOutput()
	run(t, options(s.url()), out)
	p := s.next()
	p.send(snapshot("history", "Operational", "", 1000))
	until(t, "it is up", func() bool { return out.status().Level == health.Up })
	_ = p.conn.Close()
	p = s.next()
	p.send(snapshot("history", "Operational", "", 1002))
	p.send(happened("ClientClosed", `{"remoteAddress":"127.0.0.1"}`)) // of our first connection
	p.send(happened("Home", "null"))
	wantNames(t, out, "Home")
}

// TestTheRecordingCutAnywhereTellsEachDoingOnce: the recorded session, with the
// program killed and started again at moments all over it, gives each of its
// doings once and in order.
func TestTheRecordingCutAnywhereTellsEachDoingOnce(t *testing.T) {
	t.Parallel()
	all := frames(t, "transcript-subscribed.jsonl")
	doings := []string{"Connected", "PrintStarted", "PrintPaused", "PrintResumed", "PrintDone", "PrintStarted", "PrintCancelled", "Disconnected", "Connected", "Disconnected", "Connected"}
	end := slices.IndexFunc(all[1:], func(f string) bool { return strings.HasPrefix(f, `{"history"`) }) + 1 // OctoPrint is restarted then
	all = all[:end]
	for _, cut := range []int{20, 60, 75, 110, 150, 165, 200, 240} {
		t.Run(fmt.Sprint(cut), func(t *testing.T) {
			t.Parallel()
			s, out := newServer(t), newOutput()
			stop := run(t, options(s.url()), out)
			p := s.next()
			for _, frame := range all[:cut] {
				p.send(frame)
			}
			p.send(happened("Cut", "null"))
			until(t, "all was worked on", func() bool { return slices.Contains(out.names(), "Cut") })
			stop()
			last := ""
			for _, frame := range all[:cut+30] { // thirty frames later it is back
				if strings.HasPrefix(frame, `{"current"`) {
					last = frame
				}
			}
			run(t, options(s.url()), out)
			p = s.next()
			p.send(strings.Replace(last, `{"current"`, `{"history"`, 1))
			for _, frame := range all[min(cut+30, len(all)):] {
				p.send(frame)
			}
			got := func() (names []string) {
				for _, name := range out.names() {
					if slices.Contains(doings, name) {
						names = append(names, name)
					}
				}
				return names
			}
			limit := time.Now().Add(patience)
			for !slices.Equal(got(), doings) {
				if time.Now().After(limit) {
					t.Fatalf("got %v\nwant %v", got(), doings)
				}
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
}

// TestAnOctoPrintWithoutMarkingsTellsByItsState: 1.8 has none.
func TestAnOctoPrintWithoutMarkingsTellsByItsState(t *testing.T) {
	s, out := newServer(t), newOutput()
	old := func(state, path string, server float64) string {
		return strings.Replace(snapshot("history", state, path, server), `,"markings":[]`, "", 1)
	}
	for _, each := range []struct {
		state, path string
		want        []string
	}{
		{"Operational", "", nil},
		{"Operational", "", nil},
		{"Printing", "a.gcode", []string{"PrintStarted"}},
		{"Printing", "a.gcode", []string{"PrintStarted"}},
		{"Paused", "a.gcode", []string{"PrintStarted"}},
		{"Operational", "a.gcode", []string{"PrintStarted", "PrintFailed"}},
		{"Offline", "", []string{"PrintStarted", "PrintFailed", "Disconnected"}},
	} {
		stop := run(t, options(s.url()), out)
		p := s.next()
		p.send(old(each.state, each.path, 1000))
		until(t, "it is up", func() bool { return out.status().Level == health.Up })
		wantNames(t, out, each.want...)
		stop()
		out.set(func() { out.statuses = nil })
	}
}
