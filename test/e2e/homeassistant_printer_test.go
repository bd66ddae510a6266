package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/gorilla/websocket"

	"event2mqtt/internal/testkit"
)

// player is an OctoPrint that plays a recorded session when it is told to, and
// shows whoever connects how things are at that moment.
type player struct {
	t    *testing.T
	http *httptest.Server

	mu      sync.Mutex
	frames  []string // still to be played
	now     shot     // how things are
	current string   // the newest snapshot, as it was sent
	waits   bool     // for the user, as the printer has said once
	heaters map[string]heat
	clients map[*websocket.Conn]bool
	asked   []string // bodies of what was asked of jobs
}

// shot is a snapshot, as far as it matters here.
type shot struct {
	State struct {
		Text  string
		Flags struct{ Printing, Paused bool }
		Error string
	}
	Job struct{ File struct{ Name *string } }

	Progress struct{ Completion, PrintTime, PrintTimeLeft *float64 }
	Temps    []map[string]json.RawMessage
}

type heat struct{ Actual, Target *float64 }

// play prepares the recorded session; nothing of it has happened yet.
func play(t *testing.T) *player {
	t.Helper()
	f, err := os.Open("../../internal/sources/octoprint/testdata/transcript.jsonl")
	testkit.OK(t, err)
	defer f.Close()
	p := &player{t: t, heaters: map[string]heat{}, clients: map[*websocket.Conn]bool{}}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var r struct {
			Dir   string
			Frame json.RawMessage
		}
		testkit.OK(t, json.Unmarshal(lines.Bytes(), &r))
		text := string(r.Frame)
		if r.Dir == "in" && !strings.HasPrefix(text, `{"connected"`) {
			p.frames = append(p.frames, text)
		}
	}
	p.advance() // the first is what a client is shown on connecting
	p.http = httptest.NewServer(p)
	t.Cleanup(func() {
		p.http.CloseClientConnections()
		p.mu.Lock()
		for c := range p.clients {
			_ = c.Close()
		}
		p.mu.Unlock()
		p.http.Close()
	})
	return p
}

// advance plays one frame and returns the name of the event that it is.
func (p *player) advance() (event string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.frames) == 0 {
		p.t.Fatal("the recording has ended")
	}
	text := p.frames[0]
	p.frames = p.frames[1:]
	var frame struct {
		Current, History *shot
		Event            struct{ Type string }
	}
	testkit.OK(p.t, json.Unmarshal([]byte(text), &frame))
	if !p.waits && strings.Contains(text, "busy: paused for user") {
		p.waits, frame.Event.Type = true, "PausedForUser" // of which the source makes an event
	}
	for _, is := range []*shot{frame.Current, frame.History} {
		if is == nil {
			continue
		}
		p.now, p.current = *is, text
		for _, temps := range is.Temps {
			for name, raw := range temps {
				var h heat
				if json.Unmarshal(raw, &h) == nil {
					p.heaters[name] = h
				}
			}
		}
	}
	for c := range p.clients {
		if c.WriteMessage(websocket.TextMessage, []byte(text)) != nil {
			delete(p.clients, c)
		}
	}
	return frame.Event.Type
}

// until plays until things are so, and returns the events that have happened.
func (p *player) until(holds func(is *shot) bool) (events []string) {
	for {
		if event := p.advance(); event != "" {
			events = append(events, event)
		}
		p.mu.Lock()
		is := p.now
		p.mu.Unlock()
		if holds(&is) {
			return events
		}
	}
}

// at is a condition for until: the state's text, of which there were
// temperatures since.
func at(text string) func(*shot) bool {
	return func(is *shot) bool { return is.State.Text == text && len(is.Temps) > 0 }
}

// heated is a condition for until: it prints, and is hot.
func heated(is *shot) bool {
	for _, temps := range is.Temps {
		var h heat
		if json.Unmarshal(temps["tool0"], &h) == nil && h.Actual != nil && *h.Actual >= 60 {
			return is.State.Text == "Printing"
		}
	}
	return false
}

func (p *player) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/api/login":
		fmt.Fprint(w, `{"name":"admin","session":"aa","_login_mechanism":"apikey","admin":true}`)
	case "/api/version":
		fmt.Fprint(w, `{"api":"0.1","server":"1.11.8","text":"OctoPrint 1.11.8"}`)
	case "/api/settings":
		fmt.Fprint(w, `{"appearance":{"name":"Prusa"}}`)
	case "/api/job":
		body, _ := io.ReadAll(io.LimitReader(r.Body, 1<<10))
		p.mu.Lock()
		p.asked = append(p.asked, string(body))
		p.mu.Unlock()
		w.WriteHeader(http.StatusNoContent)
	case "/sockjs/websocket":
		p.serveSocket(w, r)
	default:
		http.NotFound(w, r)
	}
}

func (p *player) serveSocket(w http.ResponseWriter, r *http.Request) {
	c, err := (&websocket.Upgrader{}).Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer c.Close()
	_ = c.WriteMessage(websocket.TextMessage, []byte(`{"connected":{"version":"1.11.8","display_version":"1.11.8"}}`))
	for {
		_, message, err := c.ReadMessage()
		p.mu.Lock()
		if err != nil {
			delete(p.clients, c)
			p.mu.Unlock()
			return
		}
		if strings.Contains(string(message), `"auth"`) {
			_ = c.WriteMessage(websocket.TextMessage, []byte(strings.Replace(p.current, `{"current"`, `{"history"`, 1)))
			p.clients[c] = true
		}
		p.mu.Unlock()
	}
}

// connected reports whether anybody listens.
func (p *player) connected() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.clients) > 0
}

// wasAsked are the bodies of what was asked of jobs.
func (p *player) wasAsked() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.asked)
}

// wanted are the states of the printer's entities, as they must be now, by the
// entities' keys.
func (p *player) wanted(source string) map[string]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	want := map[string]string{}
	is := &p.now
	put := func(key, state string) { want[source+"/"+key] = state }
	number := func(key string, n *float64) {
		if n == nil {
			put(key, "unknown")
		} else {
			put(key, fmt.Sprintf("~%g", *n))
		}
	}
	onOff := func(key string, on bool) { put(key, map[bool]string{true: "on", false: "off"}[on]) }
	put("connected", "on")
	put("version", "1.11.8")
	put("status", is.State.Text)
	onOff("printing", is.State.Flags.Printing)
	onOff("paused", is.State.Flags.Paused)
	if f := is.Job.File.Name; f != nil {
		put("file", *f)
	} else {
		put("file", "unknown")
	}
	number("progress", is.Progress.Completion)
	number("print_time", is.Progress.PrintTime)
	number("print_time_left", is.Progress.PrintTimeLeft)
	put("eta", "*")
	if is.Progress.PrintTimeLeft == nil {
		put("eta", "unknown")
	}
	for name, h := range p.heaters {
		if name == "chamber" { // it has none
			continue
		}
		number("temperature_"+name, h.Actual)
		number("target_"+name, h.Target)
	}
	return want
}
