package web_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"event2mqtt/internal/web"
)

// rawPeer is a connection that is used by hand.
type rawPeer struct {
	net.Conn
	t *testing.T
	r *bufio.Reader
}

// newPeer connects from an address of this machine, or from any.
func newPeer(t *testing.T, url, from string) *rawPeer {
	t.Helper()
	dialer := net.Dialer{Timeout: 30 * time.Second}
	if from != "" {
		dialer.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	c, err := dialer.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	return &rawPeer{c, t, bufio.NewReader(c)}
}

func (p *rawPeer) send(line string, headers ...string) {
	p.t.Helper()
	text := line + " HTTP/1.1\r\nHost: localhost\r\n"
	for _, h := range headers {
		text += h + "\r\n"
	}
	if _, err := fmt.Fprint(p, text+"\r\n"); err != nil {
		p.t.Fatal(err)
	}
}

// want sends a request and returns the answer, which must have a status.
func (p *rawPeer) want(status int, line string, headers ...string) (http.Header, string) {
	p.t.Helper()
	p.send(line, headers...)
	return p.answer(status, line)
}

func (p *rawPeer) answer(status int, line string) (http.Header, string) {
	p.t.Helper()
	method, _, _ := strings.Cut(line, " ")
	r, err := http.ReadResponse(p.r, &http.Request{Method: method})
	if err != nil {
		p.t.Fatalf("%s: %v", line, err)
	}
	text, err := io.ReadAll(r.Body)
	if err != nil {
		p.t.Fatalf("%s: %v", line, err)
	}
	if r.StatusCode != status {
		p.t.Errorf("%s %q: %d %s, want %d", line, p.LocalAddr(), r.StatusCode, text, status)
	}
	return r.Header, string(text)
}

// wantEnd waits until the server has ended the connection.
func (p *rawPeer) wantEnd() {
	p.t.Helper()
	_, err := io.Copy(io.Discard, p.r)
	if e, ok := err.(net.Error); ok && e.Timeout() {
		p.t.Error("the connection is still there")
	}
}

// text is a log.
type text struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *text) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// lines are those that hold what.
func (l *text) lines(what string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.b.String()) {
		if strings.Contains(line, what) {
			n++
		}
	}
	return n
}

// untilIdle waits until the server has seen the end of n answers' connections.
func untilIdle(t *testing.T, s *web.Server, n int) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); s.Idle() != n; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d connections are idle, want %d", s.Idle(), n)
		}
	}
}
