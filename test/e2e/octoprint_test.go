package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"event2mqtt/internal/testkit"
	"event2mqtt/test/mqttest"
)

// fakePrinter is an OctoPrint whose printer prints all the time, and faster than
// any does, so that the program can be killed while forty prints go by: the real
// one (octoprint_real_test.go) takes a minute for eight. An event and its marking come together, and the time of snapshots is
// ahead of that of markings: none is so young that its event may still come.
type fakePrinter struct {
	mu       sync.Mutex
	clients  map[*websocket.Conn]bool
	markings []string
	state    string
	file     string
}

// now is the time of markings.
func (f *fakePrinter) now() float64 { return float64(time.Now().UnixMicro()) / 1e6 }

// ahead is how far the time of snapshots is ahead, in seconds.
const ahead = 10

// push sends a frame to whoever is connected. mu is held.
func (f *fakePrinter) push(frame string) {
	for c := range f.clients {
		if c.WriteMessage(websocket.TextMessage, []byte(frame)) != nil {
			delete(f.clients, c)
		}
	}
}

// snapshot is a frame. mu is held.
func (f *fakePrinter) snapshot(kind string) string {
	return fmt.Sprintf(`{%q:{"state":{"text":%q,"flags":{"operational":true,"printing":%v}},"job":{"file":{"name":%q,"path":%q,"origin":"local"}},"progress":{},"serverTime":%f,"temps":[],"markings":[%s]}}`,
		kind, f.state, f.state == "Printing", f.file, f.file, f.now()+ahead, strings.Join(f.markings, ","))
}

// happen lets an event happen, and its marking.
func (f *fakePrinter) happen(name, kind, state, file string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.state, f.file = state, file
	f.markings = append(f.markings, fmt.Sprintf(`{"type":%q,"label":"x","time":%f}`, kind, f.now()))
	f.push(fmt.Sprintf(`{"event":{"type":%q,"payload":{"name":%q,"path":%q,"origin":"local"}}}`, name, file, file))
	f.push(f.snapshot("current"))
}

func (f *fakePrinter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/api/login":
		fmt.Fprint(w, `{"name":"admin","session":"aa"}`)
	case "/sockjs/websocket":
		c, err := (&websocket.Upgrader{}).Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer c.Close()
		_ = c.WriteMessage(websocket.TextMessage, []byte(`{"connected":{"version":"1.11.8"}}`))
		for {
			_, message, err := c.ReadMessage()
			f.mu.Lock()
			if err != nil {
				delete(f.clients, c)
				f.mu.Unlock()
				return
			}
			if strings.Contains(string(message), `"auth"`) {
				_ = c.WriteMessage(websocket.TextMessage, []byte(f.snapshot("history")))
				f.clients[c] = true
			}
			f.mu.Unlock()
		}
	default:
		http.NotFound(w, r)
	}
}

// TestEachEndOfAPrintIsToldOnceWhateverIsKilled kills the program eight times
// while prints begin and end, and leaves it dead for a while.
func TestEachEndOfAPrintIsToldOnceWhateverIsKilled(t *testing.T) {
	printer := &fakePrinter{clients: map[*websocket.Conn]bool{}, state: "Operational"}
	s := httptest.NewServer(printer)
	defer s.Close()
	defer s.CloseClientConnections()
	addr := ownBroker(t)
	c, _, _, err := mqttest.Connect(addr, mqttest.Options{ID: "watcher", Keep: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Subscribe("event2mqtt/event/#", 1); err != nil {
		t.Fatal(err)
	}
	p := configure(t, fmt.Sprintf("mqtt: {url: \"mqtt://%s\"}\npublish: {id_field: _id}\nsources: [{name: octo, type: octoprint, url: %q, api_key: k}]\n", addr, s.URL))
	p.start()
	testkit.Eventually(t, "the source is connected", func() bool { return strings.Contains(p.log.String(), "connected to OctoPrint 1.11.8") })

	const prints = 40
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var work sync.WaitGroup
	work.Go(func() {
		for i := range prints {
			file := fmt.Sprintf("%d.gcode", i)
			time.Sleep(time.Duration(100+rand.IntN(150)) * time.Millisecond)
			printer.happen("PrintStarted", "print", "Printing", file)
			time.Sleep(time.Duration(100+rand.IntN(150)) * time.Millisecond)
			printer.happen("PrintDone", "done", "Operational", file)
		}
		cancel()
	})
	for ctx.Err() == nil {
		time.Sleep(time.Duration(200+rand.IntN(1000)) * time.Millisecond)
		p.kill()
		time.Sleep(time.Duration(rand.IntN(800)) * time.Millisecond)
		p.start()
	}
	work.Wait()
	testkit.Eventually(t, "the source is connected again", func() bool {
		printer.mu.Lock()
		defer printer.mu.Unlock()
		return len(printer.clients) > 0
	})
	defer time.AfterFunc(time.Minute, func() { c.Close() }).Stop() // nothing comes for ever
	printer.happen("Last", "last", "Operational", "")

	ids, told := map[string]bool{}, map[string]int{}
	late := 0
	for {
		m, err := c.Next()
		if err != nil {
			t.Fatal(err)
		}
		var payload struct {
			Event, ID, Path string
			Late            bool
		}
		if err := unmarshal([]byte(strings.NewReplacer(`"_event"`, `"event"`, `"_id"`, `"id"`).Replace(string(m.Payload))), &payload); err != nil {
			t.Fatal(err)
		}
		if ids[payload.ID] { // what was on its way when it was killed is sent again
			continue
		}
		ids[payload.ID] = true
		told[payload.Event]++
		if payload.Late {
			late++
		}
		if payload.Event == "Last" {
			break
		}
	}
	if told["PrintStarted"] != prints || told["PrintDone"] != prints || told["PrintFailed"] != 0 || late == 0 {
		t.Errorf("of %d prints: %v; %d events were late", prints, told, late)
	}
}
