// Package standin plays event2mqtt for its page: the same API, with scenarios
// that are hard to bring about in the program, such as a broker that has been
// away for nine minutes. It is for tests and for people who work on the page.
package standin

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"
)

// Object is JSON.
type Object = map[string]any

// Scenarios are the names of what is played.
var Scenarios = []string{"calm", "busy", "away", "badconfig", "empty", "hostile", "external", "login"}

// Hostile are texts that a page must show and never obey.
var Hostile = []string{
	"<b>bold</b>", "<img src=x onerror=alert(1)>", `"><script>alert(2)</script>`, "\u202eesrever\u202c \u2067rtl\u2069", strings.Repeat("a", 160),
	"Zähler_№_5_„Küche“", "javascript:alert(3)", "{{7*7}}${7*7}", "line\nbreak\ttab\x00nul\x7f\u0085", strings.Repeat("👾", 12), "İstanbul ß ﷽",
	"'-alert(4)-'", "<svg/onload=alert(5)>", "</textarea><script>alert(6)</script>", "%3Cscript%3Ealert(7)%3C/script%3E", "data:text/html,<script>alert(8)</script>",
}

// Rules are those of each scenario.
var Rules = []Object{
	{"n": 1, "name": "web clients", "line": 34, "kind": "drop", "what": "Client*: drop", "hits": 41},
	{"n": 2, "name": "thin layers", "line": 36, "kind": "min_interval", "what": "ZChange: one per 5 s", "hits": 82},
	{"n": 3, "name": "same progress", "line": 39, "kind": "dedupe", "what": "Progress: dedupe", "hits": 123},
}

// Sim is one scenario.
type Sim struct {
	Name  string
	Paths string // what the page is served below, with a slash at its end

	mu      sync.Mutex
	r       *rand.Rand
	start   time.Time
	seq     int
	log     []Object // oldest first
	z       float64
	subs    map[chan frame]struct{}
	state   Object   // what tests have put in the place of the usual
	Calls   []string // of what changes something: method, path and body
	mode    Mode
	kicked  map[string]bool
	deleted map[string]bool
	gone    chan struct{} // closed when streams are to end
}

// Mode is how a Sim answers.
type Mode int

// Modes.
const (
	Usual  Mode = iota
	Down        // connections are closed
	Silent      // streams open, and a proxy keeps back what they say
	Full        // streams are refused
)

// frame is one of a stream.
type frame struct {
	kind string
	data any
	id   int
}

// New begins a scenario.
func New(name string) *Sim {
	s := &Sim{
		Name: name, r: rand.New(rand.NewPCG(7, 7)), start: time.Now().Add(-5*time.Hour - 2*time.Minute), seq: 4180, z: 16.8, subs: map[chan frame]struct{}{},
		state: Object{}, kicked: map[string]bool{}, deleted: map[string]bool{}, gone: make(chan struct{}),
	}
	if name == "empty" || name == "login" {
		return s
	}
	now := time.Now()
	step := 17300 * time.Millisecond
	if name == "busy" {
		step = 20 * time.Millisecond
	}
	for i := range 200 {
		at := now.Add(-time.Duration(200-i)*step - time.Duration(s.r.IntN(9000))*time.Millisecond*min(step/time.Second, 1))
		s.log = append(s.log, s.one(at))
	}
	slices.SortStableFunc(s.log, func(a, b Object) int { return int((a["time"].(float64) - b["time"].(float64)) * 1000) })
	s.seq = 4180
	for _, e := range s.log {
		if e["seq"] != nil {
			s.seq++
			e["seq"] = s.seq
		}
	}
	if name == "away" {
		late := 0
		for _, e := range slices.Backward(s.log) {
			if late < 28 && e["fate"].(Object)["state"] == "delivered" {
				e["fate"] = Object{"state": "waiting"}
				late++
			}
		}
	}
	return s
}

func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

// Event makes an event, which is not told yet.
func (s *Sim) Event(source, name string, payload Object) Object {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.event(time.Now(), source, name, payload, nil)
}

func (s *Sim) event(at time.Time, source, name string, payload, fate Object) Object {
	safe := strings.Map(func(c rune) rune {
		if strings.ContainsRune("/+#*> \x00\n\t", c) {
			return '_'
		}
		return c
	}, name)
	full := Object{"_event": name, "_timestamp": at.Unix()}
	for k, v := range payload {
		full[k] = v
	}
	text, _ := json.Marshal(full)
	if fate == nil {
		fate = Object{"state": "delivered", "ms": []int{3, 4, 6, 7, 9, 11, 12, 14, 31}[s.r.IntN(9)]}
	}
	e := Object{
		"type": "event", "id": fmt.Sprintf("%012x", s.r.Uint64()>>16), "seq": nil, "time": seconds(at), "source": source, "event": name,
		"topic": "event2mqtt/event/" + safe, "qos": 1, "retain": false, "size": len(text), "payload": full, "came_in": payload, "fate": fate,
	}
	if state := fate["state"]; state != "dropped" && state != "held" {
		s.seq++
		e["seq"] = s.seq
	}
	return e
}

func drop(n int, why string) Object {
	return Object{"state": "dropped", "rule": named(n), "why": why}
}

// named is a rule as fates and dry runs name it.
func named(n int) Object {
	r := maps.Clone(Rules[n-1])
	delete(r, "what")
	delete(r, "hits")
	return r
}

// one makes any event.
func (s *Sim) one(at time.Time) Object {
	r, x := s.r, s.r.Float64()
	if s.Name == "hostile" && x < .5 {
		h := Hostile[r.IntN(len(Hostile))]
		var fate Object
		if r.IntN(3) == 0 {
			fate = Object{"state": "refused", "why": "the broker closes the connection: packet too large (" + h + ")"}
		}
		return s.event(at, []string{"hooks", h[:min(len(h), 64)]}[r.IntN(2)], h, Object{h: h, "n": x, "deep": Object{"a": []any{h, Object{"b": nil}}}}, fate)
	}
	switch {
	case x < .34:
		old := s.z
		if s.z += .2; s.z > 42 {
			s.z = .2
		}
		p := Object{"new": float64(int(s.z*10+.5)) / 10, "old": float64(int(old*10+.5)) / 10}
		if r.IntN(5) < 2 {
			return s.event(at, "printer", "ZChange", p, drop(2, "one per 5 s, the last was 1.8 s before"))
		}
		return s.event(at, "printer", "ZChange", p, nil)
	case x < .5:
		fate := Object(nil)
		if r.IntN(2) == 0 {
			fate = drop(3, "the same as before, but for printTimeLeft")
		}
		return s.event(at, "printer", "Progress", Object{"completion": float64(int(s.z/42*1000)) / 10, "printTime": 3120, "printTimeLeft": 4310, "path": "bracket_v7_0.2mm_PETG_MK4.gcode"}, fate)
	case x < .6:
		return s.event(at, "printer", "ClientOpened", Object{"remoteAddress": "192.168.1.50"}, drop(1, "drop: true"))
	case x < .72:
		return s.event(at, "door", []string{"opened", "closed"}[r.IntN(2)], Object{"who": "anna", "path": "/var/log/door.log", "line": "2026-11-25T14:02:11 opened by anna"}, nil)
	case x < .8:
		e := s.event(at, "washer", "Phase", Object{"phase": []string{"rinse", "spin", "wash"}[r.IntN(3)], "minutes_left": 18}, nil)
		e["topic"], e["retain"] = "event2mqtt/laundry/phase", true
		return e
	case x < .86:
		return s.event(at, "hooks", "BuildDone", Object{"repo": "firmware", "ok": true, "seconds": 212, "artifacts": []any{Object{"name": "mk4.bin", "bytes": 812331}}, "ref": "refs/heads/main"}, nil)
	case x < .9:
		return s.event(at, "printer", "PositionUpdate", Object{"x": 12.5, "y": 88.1, "z": 28.2, "e": 0}, nil)
	case x < .93:
		e := s.event(at, "hooks", "Thumb", Object{"image": "iVBORw0KGgo", "bytes": 1300000}, Object{"state": "refused", "why": "larger than the broker accepts (1.3 MB of 1 MiB); kept in refused/"})
		e["truncated"] = true
		return e
	}
	return s.event(at, "printer", "CaptureDone", Object{"file": "/home/pi/.octoprint/timelapse/tmp/bracket-00042.jpg"}, nil)
}

// Add tells of events.
func (s *Sim) Add(events ...Object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.add(events...)
}

func (s *Sim) add(events ...Object) {
	id := 0
	for _, e := range events {
		s.log = append(s.log, e)
		if n, ok := e["seq"].(int); ok {
			id = n
		}
	}
	s.tell(frame{"items", events, id})
}

// Fate tells what became of an event.
func (s *Sim) Fate(e, fate Object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e["fate"] = fate
	s.tell(frame{"items", []Object{{"type": "fate", "id": e["id"], "seq": e["seq"], "fate": fate}}, 0})
}

// Many makes and tells of so many events.
func (s *Sim) Many(n int, source, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	events := make([]Object, n)
	for i := range events {
		events[i] = s.event(time.Now(), source, name, Object{"n": i + 1}, nil)
	}
	s.add(events...)
}

// Gap tells of items that were left out.
func (s *Sim) Gap(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tell(frame{"gap", Object{"left_out": n}, 0})
}

// Set replaces keys of the state, and tells of these alone.
func (s *Sim) Set(keys Object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, v := range keys {
		s.state[k] = v
	}
	keys["now"] = seconds(time.Now())
	s.tell(frame{"state", keys, 0})
}

// Be has the scenario answer otherwise from now on. All streams end.
func (s *Sim) Be(m Mode) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mode = m
	close(s.gone)
	s.gone = make(chan struct{})
}

// Restart is a program that was stopped, and starts anew with its journal.
func (s *Sim) Restart(away time.Duration) {
	s.Be(Down)
	time.Sleep(away)
	s.mu.Lock()
	s.start = time.Now()
	s.mu.Unlock()
	s.Be(Usual)
}

// Whole is the state that a stream begins with.
func (s *Sim) Whole() Object {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.whole()
}

// Streams is how many there are.
func (s *Sim) Streams() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.subs)
}

// Called returns the calls that have changed something.
func (s *Sim) Called() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.Calls)
}

// tell sends to all streams. One that does not read is not waited for.
func (s *Sim) tell(f frame) {
	text, _ := json.Marshal(f.data)
	for sub := range s.subs {
		select {
		case sub <- frame{f.kind, json.RawMessage(text), f.id}:
		default:
		}
	}
}

// Live adds events and changes values once in a while until stop is closed.
func (s *Sim) Live(stop <-chan struct{}) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		s.mu.Lock()
		switch {
		case s.Name == "empty" || s.Name == "login":
		case s.Name == "busy":
			for range 10 {
				events := make([]Object, 20)
				for i := range events {
					events[i] = s.one(time.Now())
				}
				s.add(events...)
			}
		case n%7 == 0 || s.Name == "hostile":
			s.add(s.one(time.Now()))
		}
		s.tell(frame{"state", s.whole(), 0})
		s.mu.Unlock()
	}
}
