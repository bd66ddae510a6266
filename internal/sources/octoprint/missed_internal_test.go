package octoprint

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"event2mqtt/internal/event"
)

// model is an OctoPrint with a printer. Its clock is not ours.
type model struct {
	r        *rand.Rand
	now      time.Time
	markings []string
	truth    []string // what happened, of which a client is to tell each once
	file     string
	state    string // Offline, Operational, Printing, Paused
	prints   int
	last     map[string]string // prints.last of files
	send     func(frame string)
}

const skew = 1000 * time.Second

func (m *model) seconds() float64 { return float64(m.now.Add(skew).UnixMilli()) / 1e3 }

func (m *model) mark(kind string) {
	m.now = m.now.Add(time.Millisecond)
	m.markings = append(m.markings, fmt.Sprintf(`{"type":%q,"label":"x","time":%f}`, kind, m.seconds()))
}

func (m *model) event(name, payload string) {
	m.send(fmt.Sprintf(`{"event":{"type":%q,"payload":%s}}`, name, payload))
}

func (m *model) snapshot(kind string) string {
	flags := map[string]string{"Offline": `"closedOrError":true`, "Operational": `"operational":true`, "Printing": `"operational":true,"printing":true`, "Paused": `"operational":true,"paused":true`}[m.state]
	file := `{}`
	if m.file != "" {
		file = fmt.Sprintf(`{"name":%q,"path":%q,"origin":"local","size":7}`, m.file, m.file)
	}
	return fmt.Sprintf(`{%q:{"state":{"text":%q,"flags":{%s}},"job":{"file":%s},"progress":{},"serverTime":%f,"temps":[],"markings":[%s]}}`, kind, m.state, flags, file, m.seconds(), strings.Join(m.markings, ","))
}

// pass lets time pass, in which OctoPrint sends a snapshot each half second.
func (m *model) pass(d time.Duration) {
	for end := m.now.Add(d); m.now.Before(end); {
		m.now = m.now.Add(500 * time.Millisecond)
		if m.state != "Offline" || m.r.IntN(20) == 0 {
			m.send(m.snapshot("current"))
		}
	}
}

// files are all that were printed, in folders.
func (m *model) files() []byte {
	var all []string
	for path, last := range m.last {
		all = append(all, fmt.Sprintf(`{"name":%q,"path":%q,"origin":"local",%s`, path, path, last[1:]))
	}
	return []byte(`{"files":[{"type":"folder","children":[` + strings.Join(all, ",") + `]}]}`)
}

// happen lets something happen that can.
func (m *model) happen() {
	happened := func(name string) { m.truth = append(m.truth, name+" "+m.file) }
	payload := func() string { return fmt.Sprintf(`{"name":%q,"path":%q,"origin":"local"}`, m.file, m.file) }
	// one fires an event and its marking, in either order, with a snapshot between
	// them now and then.
	one := func(name, kind, payload string) {
		happened(name)
		both := []func(){func() { m.event(name, payload) }, func() { m.mark(kind) }}
		if m.r.IntN(2) == 0 {
			slices.Reverse(both)
		}
		both[0]()
		if m.r.IntN(3) == 0 {
			m.send(m.snapshot("current"))
		}
		both[1]()
	}
	end := func(success bool) {
		m.now = m.now.Add(time.Millisecond)
		m.last[m.file] = fmt.Sprintf(`{"prints":{"last":{"date":%f,"success":%v,"printTime":5}}}`, m.seconds(), success)
	}
	switch m.state {
	case "Offline":
		m.state = "Operational"
		m.file = ""
		one("Connected", "connected", `{"port":"VIRTUAL"}`)
	case "Operational":
		if m.r.IntN(4) == 0 {
			m.state, m.file = "Offline", ""
			one("Disconnected", "disconnected", "null")
			return
		}
		m.prints++
		m.state, m.file = "Printing", fmt.Sprintf("%d.gcode", m.prints)
		one("PrintStarted", "print", payload())
	case "Paused":
		m.state = "Printing"
		one("PrintResumed", "resume", payload())
	case "Printing":
		switch m.r.IntN(6) {
		case 0, 1:
			m.state = "Paused"
			one("PrintPaused", "pause", payload())
		case 2, 3:
			m.state = "Operational"
			end(true)
			one("PrintDone", "done", payload())
		case 4:
			m.state = "Operational"
			end(false)
			one("PrintCancelled", "cancel", payload())
			m.event("PrintFailed", `{"reason":"cancelled"}`)
		case 5: // which leaves no marking
			m.state = "Operational"
			end(false)
			happened("PrintFailed")
			m.event("PrintFailed", payload())
		}
	}
}

// client is the source and its journal, which may end at any moment.
type client struct {
	t      *translator
	m      *model
	stored []byte // the position
	told   []string
	times  []time.Time
	late   int
	lost   int // how many more events may be stored before it is killed; -1 is any
}

func (c *client) keep(r result) {
	for _, e := range r.events {
		if c.lost == 0 || c.t == nil {
			c.t = nil // killed: nothing of this is stored
			return
		}
		if c.lost > 0 {
			c.lost--
		}
		c.store(e)
	}
	if c.t != nil && r.mark {
		c.stored = c.t.pos.stored().Value
	}
}

func (c *client) store(e event.Event) {
	if e.Position.Key != "" {
		c.stored = slices.Clone(e.Position.Value)
	}
	var payload map[string]any
	if len(e.Payload) > 0 {
		_ = json.Unmarshal(e.Payload, &payload)
	}
	if payload["reason"] == "cancelled" { // the second word of the same end
		return
	}
	path := gjson.GetBytes(e.Payload, "path").Str
	c.told = append(c.told, e.Name+" "+path)
	c.times = append(c.times, e.Time)
	if payload["late"] == true {
		c.late++
	}
}

func (c *client) take(frame string) {
	if c.t == nil {
		return
	}
	f, err := decode([]byte(frame))
	if err != nil {
		panic(err)
	}
	c.keep(c.t.frame(f, c.m.now))
	if c.t != nil {
		r, _ := c.t.tick(c.m.now)
		c.keep(r)
	}
}

func (c *client) connect() {
	options := &Options{}
	c.t, c.lost = newTranslator(options, c.stored, asks{func(_, path string) []byte { return []byte(c.m.last[path]) }, c.m.files, nil}), -1
	c.t.begin("admin", false, c.m.now)
	c.take(c.m.snapshot("history"))
}

// TestEachDoingOfThePrinterIsToldOnce lets printers work at random, and the
// client end at random: killed between any two events that it stores, and away
// for a while. What happened is told, each once, in order, whatever was missed.
func TestEachDoingOfThePrinterIsToldOnce(t *testing.T) {
	late := 0
	for seed := range uint64(100) {
		m := &model{r: rand.New(rand.NewPCG(seed, 1)), now: time.Unix(1_700_000_000, 0), state: "Offline", last: map[string]string{}}
		c := &client{m: m}
		m.send = c.take
		c.connect()
		for range 40 {
			switch m.r.IntN(5) {
			case 0: // killed at the next event but some
				c.lost = m.r.IntN(3)
			case 1: // the connection ends, or the program
				c.t = nil
			}
			m.happen()
			m.pass(time.Duration(600+m.r.IntN(6000)) * time.Millisecond) // printers take their time
			if c.t == nil && m.r.IntN(3) > 0 {
				c.connect()
			}
		}
		if c.t == nil {
			c.connect()
		}
		c.lost = -1
		m.pass(10 * time.Second)
		r, _ := c.t.tick(m.now)
		c.keep(r)
		told := slices.Clone(c.told)
		for i, text := range told { // connections have no path
			if name, path, _ := strings.Cut(text, " "); path == "" && (name == "Connected" || name == "Disconnected") {
				_, truth, _ := strings.Cut(append(m.truth, make([]string, len(told))...)[i], " ")
				told[i] = name + " " + truth
			}
		}
		if !slices.Equal(told, m.truth) {
			t.Fatalf("seed %d:\n told %q\ntruth %q", seed, c.told, m.truth)
		}
		late += c.late
	}
	if late < 300 {
		t.Errorf("only %d were late", late)
	}
}

// TestAMissedPrintIsNotTakenForTheOneThatFollows: the next file is selected, and
// printed, before it is sure that the one before was missed.
func TestAMissedPrintIsNotTakenForTheOneThatFollows(t *testing.T) {
	m := &model{r: rand.New(rand.NewPCG(1, 3)), now: time.Unix(1_700_000_000, 0), state: "Operational", last: map[string]string{}}
	c := &client{m: m}
	m.send = c.take
	m.mark("connected")
	c.connect()
	c.t = nil
	print := func(file, kind string) {
		m.file = file
		m.mark("print")
		m.pass(2 * time.Second)
		m.last[file] = fmt.Sprintf(`{"prints":{"last":{"date":%f,"success":%v}}}`, m.seconds(), kind == "done")
		m.mark(kind)
	}
	print("a.gcode", "done")
	print("b.gcode", "cancel")
	m.file = ""
	c.connect()
	m.file, m.state = "c.gcode", "Printing"
	m.event("PrintStarted", `{"name":"c.gcode","path":"c.gcode"}`)
	m.mark("print")
	m.pass(10 * time.Second)
	if want := []string{"PrintStarted a.gcode", "PrintDone a.gcode", "PrintStarted b.gcode", "PrintCancelled b.gcode", "PrintStarted c.gcode"}; !slices.Equal(c.told, want) {
		t.Errorf("\n got %q\nwant %q", c.told, want)
	}
}

// TestARestartOfOctoPrintLosesNoEndAndDoublesNone: it forgets its markings, and
// the print that went on. Each print whose beginning was told gets one end.
func TestARestartOfOctoPrintLosesNoEndAndDoublesNone(t *testing.T) {
	restarts := 0
	for seed := range uint64(100) {
		m := &model{r: rand.New(rand.NewPCG(seed, 2)), now: time.Unix(1_700_000_000, 0), state: "Offline", last: map[string]string{}}
		c := &client{m: m}
		m.send = c.take
		c.connect()
		for range 40 {
			if m.r.IntN(4) == 0 {
				c.lost = m.r.IntN(3)
			}
			if m.r.IntN(6) == 0 {
				if c.t != nil && m.r.IntN(2) == 0 { // the source sees it go
					c.keep(c.t.away(m.now, true))
				}
				c.t = nil
				m.markings, m.state, m.file = nil, "Offline", ""
				restarts++
				m.now = m.now.Add(10 * time.Second)
			}
			m.happen()
			m.pass(time.Duration(600+m.r.IntN(6000)) * time.Millisecond)
			if c.t == nil && m.r.IntN(3) > 0 {
				c.connect()
			}
		}
		if m.state == "Printing" || m.state == "Paused" {
			m.markings, m.state, m.file, c.t = nil, "Offline", "", nil
		}
		c.connect()
		m.pass(10 * time.Second)
		r, _ := c.t.tick(m.now)
		c.keep(r)
		starts, ended := map[string]int{}, map[string]int{}
		for _, text := range c.told {
			name, path, _ := strings.Cut(text, " ")
			switch {
			case path == "":
			case name == "PrintStarted":
				starts[path]++
			case ends[name]:
				ended[path]++
			}
		}
		for path, n := range starts {
			if n != 1 || ended[path] != 1 {
				t.Fatalf("seed %d: %s began %d times and ended %d times:\n told %q\ntruth %q", seed, path, n, ended[path], c.told, m.truth)
			}
		}
	}
	if restarts < 100 {
		t.Errorf("only %d restarts", restarts)
	}
}
