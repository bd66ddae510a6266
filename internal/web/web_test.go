package web_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"event2mqtt/internal/health"
	"event2mqtt/internal/web"
)

// TestClientsAreLetGo: who has a connection when the server is to end is
// answered, and told to go; who says nothing is not waited for for ever.
func TestClientsAreLetGo(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := web.New(nil, zerolog.Nop())
	ctx, end := context.WithCancel(t.Context())
	linger, hurry := context.WithCancel(t.Context())
	served := make(chan error)
	go func() { served <- s.Serve(ctx, linger, linger, l) }()
	ask := func(c net.Conn, r *bufio.Reader) (last bool) {
		fmt.Fprint(c, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
		answer, err := http.ReadResponse(r, nil)
		if err != nil || answer.StatusCode != http.StatusOK {
			t.Fatalf("%v, %v", answer, err)
		}
		_, _ = io.Copy(io.Discard, answer.Body)
		return answer.Close
	}
	var clients []net.Conn
	var readers []*bufio.Reader
	for i := range 2 {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		clients, readers = append(clients, c), append(readers, bufio.NewReader(c))
		if ask(c, readers[i]) {
			t.Error("told to go too early")
		}
	}
	end()
	for { // until nobody new is accepted
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			break
		}
		_ = c.Close()
	}
	if !ask(clients[0], readers[0]) {
		t.Error("not told to go")
	}
	select {
	case err := <-served:
		t.Fatalf("ended before everybody had gone: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	hurry()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if _, err := readers[1].ReadByte(); err != io.EOF {
		t.Errorf("the silent client: %v", err)
	}
}

func serve(t *testing.T, c web.Config, health func() (bool, []web.Component)) (*web.Server, string) {
	t.Helper()
	s := web.New(health, zerolog.Nop())
	return s, serveWith(t, s, c)
}

func serveWith(t *testing.T, s *web.Server, c web.Config) (url string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.Configure(c, nil)
	ctx, cancel := context.WithCancel(context.Background())
	limit, end := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Serve(ctx, ctx, limit, l) }()
	t.Cleanup(func() {
		cancel()
		time.AfterFunc(time.Second, end)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return "http://" + l.Addr().String()
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	r, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	text, _ := io.ReadAll(r.Body)
	return r.StatusCode, string(text)
}

func TestHooksComeAndGo(t *testing.T) {
	s, url := serve(t, web.Defaults(), nil)
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.URL.Path) })
	old := s.Mount("a", http.NotFoundHandler())
	unmount := s.Mount("a", h)             // takes its place
	s.Mount("a", http.NotFoundHandler())() // and gives it back
	old()
	for _, path := range []string{"/hooks/a", "/hooks/a/b/c"} {
		if status, text := get(t, url+path); status != 200 || text != path {
			t.Errorf("%s: %d %s", path, status, text)
		}
	}
	for _, path := range []string{"/hooks/", "/hooks/b", "/hooks/ab", "/", "/x"} {
		if status, text := get(t, url+path); status != 404 || !strings.Contains(text, `"detail":"`) {
			t.Errorf("%s: %d %s", path, status, text)
		}
	}
	unmount()
	if status, _ := get(t, url+"/hooks/a"); status != 404 {
		t.Errorf("after unmount: %d", status)
	}
}

func TestHealth(t *testing.T) {
	ready := true
	_, url := serve(t, web.Defaults(), func() (bool, []web.Component) {
		return ready, []web.Component{{Name: "sink mqtt", Report: health.Report{Status: health.Lacking("connecting")}}}
	})
	if status, text := get(t, url+"/healthz"); status != 200 || text != "ok\n" {
		t.Errorf("healthz: %d %s", status, text)
	}
	if status, text := get(t, url+"/readyz"); status != 200 || !strings.Contains(text, `"connecting"`) {
		t.Errorf("readyz: %d %s", status, text)
	}
	ready = false
	if status, _ := get(t, url+"/readyz"); status != 503 {
		t.Errorf("readyz: %d", status)
	}
}

// TestSlowAndManyPeersAreBounded: the third connection takes the place of the
// one that has been idle longer, or stands beside the two once three are
// allowed; headers without end are refused.
func TestSlowAndManyPeersAreBounded(t *testing.T) {
	s, url := serve(t, web.Config{MaxConnections: 2}, nil)
	first, second := newPeer(t, url, ""), newPeer(t, url, "")
	first.want(http.StatusOK, "GET /healthz")
	untilIdle(t, s, 1)
	second.want(http.StatusOK, "GET /healthz")
	untilIdle(t, s, 2)
	third := newPeer(t, url, "")
	third.want(http.StatusOK, "GET /healthz")
	first.wantEnd()
	s.Configure(web.Config{MaxConnections: 3}, nil)
	newPeer(t, url, "").want(http.StatusOK, "GET /healthz")
	for _, p := range []*rawPeer{second, third} {
		p.want(http.StatusOK, "GET /healthz")
	}
	second.want(http.StatusRequestHeaderFieldsTooLarge, "GET /healthz", "X: "+strings.Repeat("x", 40<<10))
}
