package web_test

import (
	"errors"
	"io"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"event2mqtt/internal/web"
)

// soon is how long who finds no room waits, where that is not what is tested.
const soon = 50 * time.Millisecond

// busy serves a source whose answers wait until free is called.
func busy(t *testing.T, c web.Config, wait time.Duration) (s *web.Server, log *text, url string, free func()) {
	t.Helper()
	log = &text{}
	s = web.New(nil, zerolog.New(log))
	s.Hurry(30*time.Second, wait)
	work := make(chan struct{})
	free = sync.OnceFunc(func() { close(work) })
	url = serveWith(t, s, c)
	t.Cleanup(free) // before the server is ended
	s.Mount("busy", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusAccepted)
		_ = http.NewResponseController(w).Flush()
		<-work
	}))
	return s, log, url, free
}

// occupy makes connections that the server is at work for.
func occupy(t *testing.T, url, from string, n int) (peers []*rawPeer) {
	t.Helper()
	for range n {
		p := newPeer(t, url, from)
		p.send("POST /hooks/busy")
		if line, err := p.r.ReadString('\n'); err != nil || !strings.Contains(line, "202") { // it is at work
			t.Fatalf("%q, %v", line, err)
		}
		peers = append(peers, p)
	}
	return peers
}

func needLoopbacks(t *testing.T) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("127.0.0.2 is an address of this machine on Linux alone")
	}
}

// TestOneAddressHasAShare: who has as many connections as one may is told to
// come again, and others are served; the health check is answered all the same.
func TestOneAddressHasAShare(t *testing.T) {
	needLoopbacks(t)
	_, log, url, _ := busy(t, web.Config{MaxConnections: 40}, soon)
	occupy(t, url, "127.0.0.1", 10)
	for range 3 {
		header, detail := newPeer(t, url, "127.0.0.1").want(http.StatusServiceUnavailable, "GET /nothing")
		if header.Get("Retry-After") == "" || !strings.Contains(detail, "try again") {
			t.Errorf("got %v %s", header, detail)
		}
	}
	newPeer(t, url, "127.0.0.2").want(http.StatusNotFound, "GET /nothing")
	if _, got := newPeer(t, url, "127.0.0.1").want(http.StatusOK, "GET /healthz"); got != "ok\n" {
		t.Errorf("health: %q", got)
	}
	newPeer(t, url, "127.0.0.1").want(http.StatusOK, "HEAD /healthz?x=y")
	if n := log.lines(`"from":"127.0.0.1","connections":10`); n != 1 {
		t.Errorf("%d lines tell of it", n)
	}
}

// TestAProxyOfTheListHasNoShare: behind it are many.
func TestAProxyOfTheListHasNoShare(t *testing.T) {
	_, _, url, _ := busy(t, web.Config{MaxConnections: 20, TrustedProxies: []string{"127.0.0.1"}}, soon)
	occupy(t, url, "127.0.0.1", 20)
	newPeer(t, url, "127.0.0.1").want(http.StatusServiceUnavailable, "GET /nothing")
}

// TestWhenAllAreAtWorkTheHealthCheckIsAnswered, also while very many wait.
func TestWhenAllAreAtWorkTheHealthCheckIsAnswered(t *testing.T) {
	needLoopbacks(t)
	s, log, url, _ := busy(t, web.Config{MaxConnections: 16}, soon)
	occupy(t, url, "127.0.0.1", 8)
	occupy(t, url, "127.0.0.2", 8)
	for range 100 { // say nothing
		newPeer(t, url, "127.0.0.3")
	}
	newPeer(t, url, "127.0.0.4").want(http.StatusOK, "GET /healthz")
	newPeer(t, url, "127.0.0.4").want(http.StatusServiceUnavailable, "GET /nothing")
	if n := log.lines("http.max_connections (and"); n != 1 {
		t.Errorf("%d lines tell of it", n)
	}
	metrics := measured(s)
	if !strings.Contains(metrics, `event2mqtt_http_responses_total{code="503"}`) {
		t.Errorf("counted:\n%s", metrics)
	}
}

// TestWhoWaitsIsServedOnceThereIsRoom.
func TestWhoWaitsIsServedOnceThereIsRoom(t *testing.T) {
	_, _, url, free := busy(t, web.Config{MaxConnections: 8}, 30*time.Second)
	occupy(t, url, "", 8)
	var late []*rawPeer
	for range 20 {
		p := newPeer(t, url, "")
		p.send("GET /nothing", "Connection: close")
		late = append(late, p)
	}
	time.AfterFunc(50*time.Millisecond, free)
	for _, p := range late {
		p.answer(http.StatusNotFound, "GET /nothing")
	}
}

// TestTheLongestIdleGivesWay: of the same address when that has its share, of
// all when all are too many.
func TestTheLongestIdleGivesWay(t *testing.T) {
	needLoopbacks(t)
	s, _, url, _ := busy(t, web.Config{MaxConnections: 9}, soon)
	first := newPeer(t, url, "127.0.0.2")
	first.want(http.StatusOK, "GET /healthz")
	untilIdle(t, s, 1)
	var peers []*rawPeer
	for i := range 8 {
		p := newPeer(t, url, "127.0.0.1")
		p.want(http.StatusOK, "GET /healthz")
		untilIdle(t, s, i+2)
		peers = append(peers, p)
	}
	more := newPeer(t, url, "127.0.0.1") // its own share is full
	more.want(http.StatusOK, "GET /healthz")
	untilIdle(t, s, 9)
	peers[0].wantEnd()
	newPeer(t, url, "127.0.0.3").want(http.StatusOK, "GET /healthz") // all are
	first.wantEnd()
	for _, p := range append(peers[1:], more) {
		p.want(http.StatusOK, "GET /healthz")
	}
}

// flood returns a function that sends requests and reads no answer, until
// nothing more is taken for a moment. It returns why, and goes on where it was.
func flood(p *rawPeer) func() error {
	requests := strings.Repeat("GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n", 500)
	rest := requests
	return func() error {
		for {
			_ = p.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
			n, err := io.WriteString(p, rest)
			if rest = rest[n:]; rest == "" {
				rest = requests
			}
			if err != nil {
				return err
			}
		}
	}
}

// TestWhoReadsNoAnswerIsCutOff: each write has a deadline.
func TestWhoReadsNoAnswerIsCutOff(t *testing.T) {
	s := web.New(nil, zerolog.Nop())
	s.Hurry(100*time.Millisecond, time.Second)
	url := serveWith(t, s, web.Defaults())
	p := newPeer(t, url, "")
	send := flood(p)
	// A slow server takes a while to fill what nobody reads.
	for end := time.Now().Add(time.Minute); errors.Is(send(), os.ErrDeadlineExceeded); {
		if time.Now().After(end) {
			t.Fatal("the connection is still there")
		}
	}
}

// TestWhoReadsNoAnswerGivesWay: long before its deadline, if others need the place.
func TestWhoReadsNoAnswerGivesWay(t *testing.T) {
	s := web.New(nil, zerolog.Nop())
	s.Hurry(time.Hour, 20*time.Second)
	url := serveWith(t, s, web.Config{MaxConnections: 1})
	p := newPeer(t, url, "")
	_ = flood(p)()
	newPeer(t, url, "").want(http.StatusNotFound, "GET /nothing")
	p.wantEnd()
}

// TestAHandlerMaySetADeadlineOfItsOwn, for answers without end; with the next
// request the usual one is back.
func TestAHandlerMaySetADeadlineOfItsOwn(t *testing.T) {
	s := web.New(nil, zerolog.Nop())
	s.Hurry(50*time.Millisecond, time.Second)
	url := serveWith(t, s, web.Defaults())
	const size = 16 << 20 // more than sockets hold
	s.Mount("long", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hooks/long/own" {
			if err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(time.Hour)); err != nil {
				t.Error(err)
			}
		}
		_, _ = w.Write(make([]byte, size))
	}))
	p := newPeer(t, url, "")
	p.send("POST /hooks/long/own")
	time.Sleep(300 * time.Millisecond) // nothing is read meanwhile
	if _, got := p.answer(http.StatusOK, "POST"); len(got) != size {
		t.Errorf("%d bytes of %d", len(got), size)
	}
	p.send("POST /hooks/long")
	time.Sleep(300 * time.Millisecond)
	if n, err := io.Copy(io.Discard, p.r); n >= size {
		t.Errorf("%d bytes, %v", n, err)
	}
}
