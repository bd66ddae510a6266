package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"event2mqtt/test/mqttest"
)

const (
	octoprintHour  = time.Hour // of the printer's time
	octoprintSpeed = 10
	// What is kept of the newest events and markings fills up first.
	octoprintWarm      = 2 * time.Hour
	octoprintWarmSpeed = 100
	// octoprintKeeps is how long OctoPrint keeps markings.
	octoprintKeeps = 30 * time.Minute
)

// octoprint plays an hour of frames at ten times speed, and two more before at a
// hundred times: the recording again and again, with its times and its files'
// names moved on, and the list of markings as long as it would be.
func (b *bench) octoprint() error {
	session, err := readSession()
	if err != nil {
		return err
	}
	played := &player{session: session, warm: make(chan struct{}), ended: make(chan error, 1)}
	server := httptest.NewServer(played)
	defer server.Close()
	m, err := b.startMosquitto()
	if err != nil {
		return err
	}
	defer m.end()
	count, err := countPrints(m.mqtt)
	if err != nil {
		return err
	}
	defer count.Close()
	p, err := b.startBridge(fmt.Sprintf("mqtt: {url: \"mqtt://%s\"}\nlog: {level: error}\nsources: [{name: octo, type: octoprint, url: %q, api_key: k}]\n", m.mqtt, server.URL))
	if err != nil {
		return err
	}
	defer p.end()
	select {
	case <-played.warm:
	case err := <-played.ended:
		return fmt.Errorf("event2mqtt left: %w", err)
	}
	cpu, began, before := p.cpu(), time.Now(), played.frames.Load()
	moments := []string{mib(p.rss())}
	ticker := time.NewTicker(octoprintHour / octoprintSpeed / 6)
	defer ticker.Stop()
	for playing := true; playing; {
		select {
		case <-ticker.C:
			moments = append(moments, mib(p.rss()))
		case err := <-played.ended:
			if playing = false; err != nil {
				return fmt.Errorf("event2mqtt left: %w", err)
			}
		}
	}
	frames, spent, took := played.frames.Load()-before, p.cpu()-cpu, time.Since(began)
	if err := count.until(played.prints.Load()); err != nil {
		return err
	}
	b.add("octoprint, an hour at ten times speed: CPU per frame, us", fmt.Sprintf("%.0f", float64(spent)/float64(frames)/1e3), "<= 2000",
		fmt.Sprintf("%d frames, %.1f %% of a core for ten printers; %d prints in all", frames, 100*float64(spent)/float64(took), played.prints.Load()))
	b.add("  RSS, each ten minutes, MiB", strings.Join(moments, " "), "flat", fmt.Sprintf("peak %s", mib(p.peak())))
	return nil
}

// printCounter counts ends of prints.
type printCounter struct {
	*mqttest.Client
	n atomic.Int64
}

func countPrints(address string) (*printCounter, error) {
	c, err := mqttest.Dial(address, mqttest.Options{})
	if err != nil {
		return nil, err
	}
	s := &printCounter{Client: c}
	for _, name := range []string{"PrintDone", "PrintCancelled"} {
		if _, err := c.Subscribe("event2mqtt/event/"+name, 0); err != nil {
			c.Close()
			return nil, err
		}
	}
	go func() { // until the connection is closed
		for {
			if _, err := c.Next(); err != nil {
				return
			}
			s.n.Add(1)
		}
	}()
	return s, nil
}

func (s *printCounter) until(n int64) error {
	for deadline := time.Now().Add(30 * time.Second); s.n.Load() != n; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("%d ends of prints came instead of %d", s.n.Load(), n)
		}
	}
	return nil
}

// frame is one of the recording.
type frame struct {
	at    time.Duration
	frame json.RawMessage
}

// readSession reads the recording, up to when OctoPrint was restarted.
func readSession() (all []frame, err error) {
	dir, err := exec.Command("go", "list", "-f", "{{.Dir}}", "event2mqtt/internal/sources/octoprint").Output()
	if err != nil {
		return nil, fmt.Errorf("find the recording: %w", err)
	}
	f, err := os.Open(filepath.Join(strings.TrimSpace(string(dir)), "testdata", "transcript-subscribed.jsonl"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for greetings := 0; lines.Scan(); {
		var line struct {
			T     float64
			Dir   string
			Frame json.RawMessage
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			return nil, err
		}
		if bytes.HasPrefix(line.Frame, []byte(`{"connected"`)) {
			if greetings++; greetings > 1 {
				break
			}
		}
		if line.Dir == "in" {
			all = append(all, frame{time.Duration(line.T * float64(time.Second)), line.Frame})
		}
	}
	return all, lines.Err()
}

// player is an OctoPrint that plays the recording to whoever connects.
type player struct {
	session        []frame
	frames, prints atomic.Int64
	warm           chan struct{} // closed when the hour begins
	ended          chan error    // nil at the end, else why the client left
}

func (p *player) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/api/login":
		fmt.Fprint(w, `{"name":"admin","session":"aa"}`)
	case "/sockjs/websocket":
		c, err := (&websocket.Upgrader{}).Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer c.Close()
		if err := p.play(c); err != nil || p.frames.Load() > 0 {
			select {
			case p.ended <- err:
			default:
			}
		}
	default:
		http.NotFound(w, r)
	}
}

func (p *player) play(c *websocket.Conn) error {
	for range 2 { // the subscription and the authentication
		if _, _, err := c.ReadMessage(); err != nil {
			return err
		}
	}
	go func() { // answers pings, until the connection is closed
		for {
			if _, _, err := c.ReadMessage(); err != nil {
				return
			}
		}
	}()
	began := time.Now()
	length := p.session[len(p.session)-1].at + time.Second
	var old []map[string]any // markings of the rounds before
	warm := false
	for round := 0; time.Duration(round)*length < octoprintWarm+octoprintHour; round++ {
		var newest []map[string]any
		for _, f := range p.session {
			if round > 0 && (bytes.HasPrefix(f.frame, []byte(`{"connected"`)) || bytes.HasPrefix(f.frame, []byte(`{"history"`))) {
				continue
			}
			text, marks, err := moved(f.frame, round, time.Duration(round)*length, old)
			if err != nil {
				return err
			}
			if marks != nil {
				newest = marks
			}
			at := time.Duration(round)*length + f.at
			if at >= octoprintWarm && !warm {
				warm = true
				close(p.warm)
			}
			time.Sleep(time.Until(began.Add(min(at, octoprintWarm)/octoprintWarmSpeed + max(0, at-octoprintWarm)/octoprintSpeed)))
			if err := c.WriteMessage(websocket.TextMessage, text); err != nil {
				return err
			}
			p.frames.Add(1)
			if bytes.Contains(text, []byte(`"type":"PrintDone"`)) || bytes.Contains(text, []byte(`"type":"PrintCancelled"`)) {
				p.prints.Add(1)
			}
		}
		old = newest
	}
	return nil
}

// moved is a frame as it would be so much later, and the markings that it has.
func moved(text json.RawMessage, round int, by time.Duration, old []map[string]any) ([]byte, []map[string]any, error) {
	text = bytes.ReplaceAll(text, []byte(".gcode"), fmt.Appendf(nil, " %d.gcode", round))
	var whole map[string]map[string]any
	if err := json.Unmarshal(text, &whole); err != nil {
		return nil, nil, err
	}
	later := func(m map[string]any, key string) float64 {
		at, _ := m[key].(float64)
		m[key] = at + by.Seconds()
		return at + by.Seconds()
	}
	state := whole["current"]
	if state == nil {
		state = whole["history"]
	}
	var marks []map[string]any
	if state != nil {
		now := later(state, "serverTime")
		for _, m := range old {
			if now-m["time"].(float64) < octoprintKeeps.Seconds() {
				marks = append(marks, m)
			}
		}
		own, _ := state["markings"].([]any)
		for _, m := range own {
			m := m.(map[string]any)
			later(m, "time")
			marks = append(marks, m)
		}
		state["markings"] = marks
		temps, _ := state["temps"].([]any)
		for _, reading := range temps {
			later(reading.(map[string]any), "time")
		}
	}
	text, err := json.Marshal(whole)
	return text, marks, err
}
