package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"event2mqtt/internal/testkit"
)

// stored is the line of a stored event.
func stored(seq int, state string) string {
	return fmt.Sprintf(`{"type":"event","id":"j-%d","seq":%d,"time":1,"source":"s","event":"E","topic":"t/E","qos":1,"retain":false,"size":2,"payload":{"n":%d},"fate":{"state":"%s"}}`, seq, seq, seq, state)
}

func fate(seq int, state string) string {
	return fmt.Sprintf(`{"type":"fate","id":"j-%d","seq":%d,"fate":{"state":"%s"}}`, seq, seq, state)
}

// player is an API whose streams say what a test wants, one after the other. Each
// ends then, but the last.
type player struct {
	*httptest.Server
	mu      sync.Mutex
	streams [][]string
	asked   []string // since of each
	oldest  int      // the first event that the journal has
	newest  int
}

func play(t *testing.T, streams ...[]string) *player {
	p := &player{streams: streams}
	mux := http.NewServeMux()
	mux.HandleFunc("/api/v1/events", func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		defer p.mu.Unlock()
		after, seq := 0, p.newest
		if n, _ := fmt.Sscan(r.FormValue("after"), &after); n == 1 {
			seq = max(after+1, p.oldest)
		}
		if seq == 0 {
			_, _ = io.WriteString(w, `{"events":[]}`)
			return
		}
		_, _ = fmt.Fprintf(w, `{"events":[%s]}`, stored(seq, "delivered"))
	})
	mux.HandleFunc("/api/v1/stream", func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		p.asked = append(p.asked, r.FormValue("since"))
		lines, last := []string(nil), len(p.streams) <= 1
		if len(p.streams) > 0 {
			lines, p.streams = p.streams[0], p.streams[1:]
		}
		p.mu.Unlock()
		_, _ = io.WriteString(w, strings.Join(append(lines, ""), "\n"))
		_ = http.NewResponseController(w).Flush()
		if last {
			<-r.Context().Done()
		}
	})
	p.Server = httptest.NewServer(mux)
	t.Cleanup(p.Close)
	return p
}

// watch runs the command until it has shown so many events.
func (p *player) watch(t *testing.T, n int, args ...string) (lines []string, since string) {
	t.Helper()
	out, says, err := execute(t, append([]string{"watch", "--url", p.URL, "--count", fmt.Sprint(n), "--duration", "60s"}, args...)...)
	if err != nil {
		t.Fatalf("%v\n%s%s", err, out, says)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Split(strings.TrimSuffix(out, "\n"), "\n"), strings.Join(p.asked, " ")
}

// numbers are those of the events that were shown, and what else was, as it is.
func numbers(lines []string) string {
	var all []string
	for _, line := range lines {
		var e struct {
			Type    string
			Seq     int
			Fate    struct{ State string }
			LeftOut int `json:"left_out"`
		}
		switch _ = json.Unmarshal([]byte(line), &e); e.Type {
		case "event":
			all = append(all, fmt.Sprintf("%d:%s", e.Seq, e.Fate.State))
		case "fate":
			all = append(all, fmt.Sprintf("(%d:%s)", e.Seq, e.Fate.State))
		case "gap":
			all = append(all, fmt.Sprintf("gap %d", e.LeftOut))
		default:
			all = append(all, line)
		}
	}
	return strings.Join(all, " ")
}

// TestWatchGoesOnWhereItWas when it was too slow, or the connection was lost: each
// event once, in order, with its fate.
func TestWatchGoesOnWhereItWas(t *testing.T) {
	for name, c := range map[string]struct {
		streams [][]string
		oldest  int
		n       int
		want    string
		since   string
	}{
		"an event gets its fate":  {[][]string{{stored(1, "waiting"), stored(2, "waiting"), fate(1, "delivered"), fate(2, "refused")}}, 0, 2, "1:delivered 2:refused", "0"},
		"a gap":                   {[][]string{{stored(1, "delivered"), `{"type":"gap","left_out":7}`, stored(9, "delivered")}, {stored(2, "delivered"), stored(3, "delivered")}}, 0, 3, "1:delivered 2:delivered 3:delivered", "0 1"},
		"what was not shown yet":  {[][]string{{stored(1, "delivered"), stored(2, "waiting"), `{"type":"gap","left_out":7}`}, {stored(2, "delivered"), stored(3, "delivered")}}, 0, 3, "1:delivered 2:delivered 3:delivered", ""},
		"an end":                  {[][]string{{stored(1, "delivered")}, {stored(2, "delivered")}}, 0, 2, "1:delivered 2:delivered", "0 1"},
		"events told again":       {[][]string{{stored(1, "delivered")}, {stored(1, "delivered"), stored(2, "delivered")}}, 0, 2, "1:delivered 2:delivered", "0 1"},
		"the journal has no more": {[][]string{{stored(1, "delivered")}, {stored(5, "delivered")}}, 5, 2, "1:delivered gap 3 5:delivered", "0 4"},
		"gaps that do not end":    {[][]string{{`{"type":"gap","left_out":7}`}, {`{"type":"gap","left_out":8}`}, {`{"type":"gap","left_out":9}`}, {`{"type":"gap","left_out":10}`, stored(9, "delivered")}}, 0, 1, "gap 10 9:delivered", "0 0 0 0"},
		"what nobody knows yet":   {[][]string{{`{"type":"ping"}`, `{"type":"news","x":1}`, `no JSON`, stored(1, "held")}}, 0, 1, "1:held", "0"},
		"an event not stored":     {[][]string{{strings.Replace(stored(1, "dropped"), `"seq":1`, `"seq":null`, 1), stored(1, "delivered")}}, 0, 2, "0:dropped 1:delivered", "0"},
	} {
		p := play(t, c.streams...)
		p.oldest = c.oldest
		lines, since := p.watch(t, c.n, "--json")
		if got := numbers(lines); got != c.want || c.since != "" && since != c.since {
			t.Errorf("%s: %s, since %s; want %s, since %s", name, got, since, c.want, c.since)
		}
	}
}

// TestAnEventThatWaitsIsShownInTime, and what becomes of it later is said: also if
// that happened while there was no connection.
func TestAnEventThatWaitsIsShownInTime(t *testing.T) {
	var out bytes.Buffer
	s := newScreen(&watching{ask: &asking{}}, &out)
	tell := func(lines ...string) string {
		out.Reset()
		for _, line := range lines {
			s.take([]byte(line))
		}
		testkit.OK(t, s.settle(time.Now()))
		return out.String()
	}
	if text := tell(stored(1, "waiting"), stored(2, "delivered"), stored(3, "waiting"), stored(4, "waiting")); text != "" {
		t.Errorf("what comes behind an event that may be delivered in a moment is not shown before it: %s", text)
	}
	testkit.OK(t, s.settle(time.Now().Add(settleAfter)))
	if text := out.String(); strings.Count(text, "waiting") != 3 || strings.Index(text, `"n":1`) > strings.Index(text, `"n":2`) {
		t.Error(text)
	}
	if text := tell(fate(1, "delivered")); text != "-- event 1, which waited, is delivered --\n" {
		t.Error(text)
	}
	if seq := s.rewind(); seq != 2 {
		t.Errorf("it goes on behind event %d", seq)
	}
	if text := tell(stored(3, "delivered"), stored(4, "delivered"), stored(5, "delivered")); !strings.Contains(text, "-- 2 events that waited are delivered (3 to 4) --\n") || strings.Count(text, `{"n":`) != 1 {
		t.Error(text)
	}
}

// TestStatesAreThoseThatEventsGet: an event that waits is shown once it is
// delivered, if that is what was asked for.
func TestStatesAreThoseThatEventsGet(t *testing.T) {
	var out bytes.Buffer
	s := newScreen(&watching{ask: &asking{json: true}, states: []string{"delivered"}}, &out)
	for _, line := range []string{stored(1, "waiting"), stored(2, "dropped"), stored(3, "delivered"), stored(4, "waiting")} {
		s.take([]byte(line))
	}
	testkit.OK(t, s.settle(time.Now().Add(settleAfter)))
	for _, line := range []string{fate(1, "delivered"), fate(4, "refused")} {
		s.take([]byte(line))
	}
	testkit.OK(t, s.end())
	if got := numbers(strings.Split(strings.TrimSpace(out.String()), "\n")); got != "3:delivered 1:delivered" {
		t.Error(got)
	}
}

// TestAScreenIsBounded: also if nothing is ever delivered.
func TestAScreenIsBounded(t *testing.T) {
	s := newScreen(&watching{ask: &asking{}, states: []string{"refused"}}, io.Discard)
	for seq := range 3 * maxLate {
		s.take([]byte(stored(seq+1, "waiting")))
		testkit.OK(t, s.settle(time.Now()))
	}
	if len(s.queue) > maxQueue || len(s.late) > maxLate || s.lateBytes > maxLateBytes {
		t.Errorf("%d in the queue, %d late ones of %d bytes", len(s.queue), len(s.late), s.lateBytes)
	}
}

// TestWatchFailsIfItNeverBegan, or may not go on.
func TestWatchFailsIfItNeverBegan(t *testing.T) {
	refuse := func(status int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(status)
			_, _ = fmt.Fprintf(w, `{"status":%d,"detail":"it is \u202e so"}`, status)
		}
	}
	for status, want := range map[int]int{401: exitRefused, 403: exitRefused, 422: exitUsage, 503: 1} {
		s := httptest.NewServer(refuse(status))
		_, _, err := execute(t, "watch", "--url", s.URL)
		if exitStatus(err) != want || err == nil || !strings.Contains(err.Error(), `it is \u202e so`) {
			t.Errorf("%d: %d, %v", status, exitStatus(err), err)
		}
		s.Close()
	}
	p := play(t, []string{stored(1, "delivered")}, nil)
	began := time.Now()
	if out, _, err := execute(t, "watch", "--url", p.URL, "--no-reconnect"); err == nil || !strings.Contains(out, `{"n":1}`) || time.Since(began) > time.Minute {
		t.Errorf("%v: %s", err, out)
	}
}
