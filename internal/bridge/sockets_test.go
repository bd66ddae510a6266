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

	"event2mqtt/internal/testkit"
)

// TestAnAddressMayGrowAndShrink: from this machine to all and back, on the same
// port, and nobody else can take it.
func TestAnAddressMayGrowAndShrink(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("Linux alone")
	}
	h := newRig(t, plain)
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
			testkit.Eventually(t, "events are taken at "+address, func() bool { return h.post("hooks") == http.StatusAccepted })
		}
		h.replaced.Wait()
		http.DefaultClient.CloseIdleConnections()
		h.draining.Wait()
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
	h := newRig(t, yaml)
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
		h.http = testkit.FreeAddress(t)
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

// hasIPv6 reports whether this machine has ::1.
func hasIPv6() bool {
	l, err := net.Listen("tcp", "[::1]:0")
	if err == nil {
		_ = l.Close()
	}
	return err == nil
}

// TestLocalhostIsBothLoopbacks, since programs try either first; to them and
// back without a moment in which nobody listens.
func TestLocalhostIsBothLoopbacks(t *testing.T) {
	if !hasIPv6() {
		t.Skip("this machine has no ::1")
	}
	h := newRig(t, plain)
	_, port, _ := net.SplitHostPort(h.http)
	_, mqttPort, _ := net.SplitHostPort(h.mqtt)
	local := strings.NewReplacer("HTTP", "localhost:"+port, "MQTT", "localhost:"+mqttPort).Replace(plain)
	reach := func(host, port string) bool {
		c, err := net.Dial("tcp", net.JoinHostPort(host, port))
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	}
	for range 2 {
		if o := h.reload(local); !o.OK {
			t.Fatalf("%+v", o)
		}
		h.replaced.Wait()
		for _, host := range []string{"127.0.0.1", "::1"} {
			r, err := http.Post("http://"+net.JoinHostPort(host, port)+"/hooks/hooks", "application/json", strings.NewReader(`{"event":"X"}`))
			if err != nil {
				t.Fatalf("%s: %v", host, err)
			}
			_ = r.Body.Close()
			if r.StatusCode != http.StatusAccepted || !reach(host, mqttPort) {
				t.Errorf("%s: %s", host, r.Status)
			}
		}
		if o := h.reload(plain); !o.OK {
			t.Fatalf("%+v", o)
		}
		http.DefaultClient.CloseIdleConnections()
		h.replaced.Wait()
		h.draining.Wait()
		if reach("::1", port) || reach("::1", mqttPort) || !reach("127.0.0.1", port) || !reach("127.0.0.1", mqttPort) {
			t.Error("not only 127.0.0.1 is listened on")
		}
	}
	if runtime.GOOS != "linux" {
		return
	}
	for _, address := range []string{":" + port, "localhost:" + port, "0.0.0.0:" + port, "localhost:" + port, "[::1]:" + port, "localhost:" + port} {
		if o := h.reload(strings.Replace(plain, "HTTP", "\""+address+"\"", 1)); !o.OK {
			t.Fatalf("to %s: %+v", address, o)
		}
	}
}

// TestGreetingsNameWhatIsReallyListenedOn.
func TestGreetingsNameWhatIsReallyListenedOn(t *testing.T) {
	for _, c := range []struct{ broker, want, not string }{
		{"listen: 'localhost:0'", "MQTT broker listens on 127.0.0.1:", ":0"},
		{"listen: off", "MQTT broker is reached over WebSocket alone, at ws://127.0.0.1:", "nothing"},
		{"listen: off, websocket: {http: false}", "MQTT broker listens nowhere", "nothing"},
	} {
		h := newRig(t, strings.Replace(plain, "listen: MQTT", c.broker, 1))
		has := func(text string) bool {
			return strings.Contains(h.log.String(), text)
		}
		testkit.Eventually(t, "it greets", func() bool { return has("try: curl") })
		if !has(c.want) || has(c.not+",") || has(c.not+"\"") || !has("HTTP listens on "+h.Bridge.httpAddress()) || !has("see what happens at http://"+h.Bridge.httpAddress()+"/, from this machine\"") {
			t.Errorf("%s: its log: %s", c.broker, h.log.String())
		}
	}
}

// TestTheGreetingsCommandWorks: it is about a source that takes what anybody
// posts, whatever its keys of the name, and there is none without such a source.
func TestTheGreetingsCommandWorks(t *testing.T) {
	const head = "http: {listen: HTTP}\nbroker: {listen: MQTT}\nsources:\n"
	for sources, want := range map[string]string{
		"  - {name: hooks, type: webhook, auth: {token: s}}\n  - {name: calls, type: webhook, methods: [GET]}\n  - {name: open, type: webhook, event: {keys: [a]}}\n": "/hooks/open/PrintStarted",
		"  - {name: hooks, type: webhook, auth: {hmac: {scheme: github, secret: s}}}\n":                                                                               "",
	} {
		h := newRig(t, head+sources)
		text := func() string {
			return h.log.String()
		}
		testkit.Eventually(t, "it greets", func() bool { return strings.Contains(text(), "HTTP listens on") })
		if want == "" {
			h.reload(head + sources + "log: {levels: {tail: error}}\n") // what comes behind the greeting
			if strings.Contains(text(), "try:") {
				t.Errorf("%s: %s", sources, text())
			}
			continue
		}
		testkit.Eventually(t, "it tells what to try", func() bool { return strings.Contains(text(), h.http+want) })
		r, err := http.Post("http://"+h.http+want, "application/x-www-form-urlencoded", strings.NewReader(`{"file":"a.gcode"}`))
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
		if r.StatusCode != http.StatusAccepted {
			t.Errorf("%s: %s", want, r.Status)
		}
	}
}
