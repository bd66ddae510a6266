package octoprint_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"event2mqtt/internal/health"
)

// isUp reports whether a source that was told of is connected.
func isUp(out *output) func() bool {
	return func() bool { return out.status().Level == health.Up }
}

// TestWhatCameBeforeTheConnectionFailedIsTold: the end of a print is in one burst
// with the wish for a new login, and OctoPrint refuses that one since it stops.
func TestWhatCameBeforeTheConnectionFailedIsTold(t *testing.T) {
	t.Parallel()
	s, out := newServer(t), newOutput()
	run(t, options(s.url()), out)
	p := s.next()
	now := float64(time.Now().Unix())
	p.send(snapshot("history", "Operational", "", now, mark("connected", now-100)))
	until(t, "it is up", isUp(out))
	p.send(happened("PrintStarted", `{"name":"a","path":"a","origin":"local"}`))
	wantNames(t, out, "PrintStarted")
	out.set(func() { out.full = true }) // so that a burst waits
	tried := out.tried()
	p.send(happened("ZChange", `{"new":1}`))
	until(t, "it is offered", func() bool { return out.tried() > tried })
	s.set(func() {
		s.login = func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(http.StatusNotImplemented)
			return true
		}
	})
	time.Sleep(2500 * time.Millisecond) // wishes right after the login are of the same cause
	p.send(happened("PrintDone", `{"name":"a","path":"a","origin":"local","time":3}`))
	p.send(`{"reauthRequired":{"reason":"stale"}}`)
	p.send(happened("Last", "null"))
	out.set(func() { out.full = false })
	wantNames(t, out, "PrintStarted", "ZChange", "PrintDone", "Shutdown")
}

// TestAnEndThatIsHeldOutlastsAFullJournal: the connection ends while the end of a
// print waits for what was missed, and the journal is full for long.
func TestAnEndThatIsHeldOutlastsAFullJournal(t *testing.T) {
	t.Parallel()
	s, out := newServer(t), newOutput()
	run(t, options(s.url()), out)
	p := s.next()
	now := float64(time.Now().Unix())
	p.send(snapshot("history", "Operational", "", now, mark("connected", now-100)))
	until(t, "it is up", isUp(out))
	p.send(happened("PrintStarted", `{"name":"a","path":"a","origin":"local"}`))
	wantNames(t, out, "PrintStarted")
	_ = p.conn.Close()
	p = s.next()
	out.set(func() { out.full = true })
	tried := out.tried()
	p.send(happened("Alert", "null"))
	p.send(happened("PrintDone", `{"name":"a","path":"a","origin":"local","time":3}`))
	_ = p.conn.Close()
	until(t, "it is offered", func() bool { return out.tried() > tried })
	time.Sleep(2500 * time.Millisecond) // longer than the program waits at its end
	out.set(func() { out.full = false })
	p = s.next()
	p.send(snapshot("history", "Operational", "a", now+9, mark("connected", now-100), mark("print", now), mark("done", now+4)))
	until(t, "the end is told", func() bool { return slices.Contains(out.names(), "PrintDone") })
	if names := strings.Join(out.names(), " "); names != "PrintStarted Alert PrintDone" {
		t.Error(names)
	}
}
