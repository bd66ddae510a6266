package bridge

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestAnAddressMayGrowAndShrink: from this machine to all and back, on the same
// port, and nobody else can take it.
func TestAnAddressMayGrowAndShrink(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("Linux alone")
	}
	h := newHouse(t, plain)
	_, port, _ := net.SplitHostPort(h.http)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var made, failed atomic.Int64
	wg.Go(func() { // somebody connects all the time
		for {
			select {
			case <-stop:
				return
			default:
			}
			c, err := net.Dial("tcp", h.http)
			if err != nil {
				failed.Add(1)
				continue
			}
			made.Add(1)
			_ = c.Close()
		}
	})
	for range 3 {
		for _, address := range []string{"0.0.0.0:" + port, h.http, ":" + port, h.http} {
			if o := h.reload(strings.Replace(plain, "HTTP", "\""+address+"\"", 1)); !o.OK {
				t.Fatalf("to %s: %+v", address, o)
			}
			eventually(t, "events are taken at "+address, func() bool { return h.post("hooks") == http.StatusAccepted })
		}
		h.endings.Wait()
		http.DefaultClient.CloseIdleConnections()
		h.background.Wait()
		if l, err := net.Listen("tcp", h.http); err == nil {
			_ = l.Close()
			t.Error("the port was free")
		}
	}
	close(stop)
	wg.Wait()
	// The system resets what comes between the last look into a socket and its end.
	if n := failed.Load(); n > 12 {
		t.Errorf("%d of %d connections were refused", n, made.Load())
	}
	t.Logf("%d of %d connections were refused", failed.Load(), made.Load())
}

// TestHTTPMovesWithoutARequestLost: clients that keep their connections send
// as fast as they can, and one is in the middle of its body, while HTTP moves
// to another address, again and again. Each request is answered; the last
// answer on a connection says so.
func TestHTTPMovesWithoutARequestLost(t *testing.T) {
	const yaml = plain + "shutdown_timeout: 0s\n"
	h := newHouse(t, yaml)
	const request = "POST /hooks/hooks HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 13\r\n\r\n"
	dial := func() (net.Conn, *bufio.Reader) {
		c, err := net.Dial("tcp", h.http)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		return c, bufio.NewReader(c)
	}
	accepted := func(r *bufio.Reader) (last bool) {
		answer, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Errorf("a request has no answer: %v", err)
			return true
		}
		if answer.StatusCode != http.StatusAccepted {
			t.Errorf("got %s", answer.Status)
		}
		_, _ = io.Copy(io.Discard, answer.Body)
		return answer.Close
	}
	for range 10 {
		var clients sync.WaitGroup
		for range 8 {
			c, r := dial()
			clients.Go(func() {
				defer c.Close()
				for last := false; !last; last = accepted(r) {
					fmt.Fprint(c, request+`{"event":"X"}`)
				}
			})
		}
		slow, answer := dial()
		fmt.Fprint(slow, request+`{"event"`)
		if h.post("hooks") != http.StatusAccepted {
			t.Error("nothing is taken")
		}
		h.http = freeAddress(t)
		if o := h.reload(yaml); !o.OK {
			t.Fatal(o)
		}
		if h.post("hooks") != http.StatusAccepted {
			t.Error("nothing is taken at the new address")
		}
		fmt.Fprint(slow, `:"X"}`)
		accepted(answer)
		clients.Wait()
		slow.Close()
		if t.Failed() {
			return
		}
	}
}
