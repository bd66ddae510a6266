package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"event2mqtt/internal/testkit"
)

// place is an HTTP server that takes events, at an address that stays the same
// while it is away. What it takes is checked as subscribe does.
type place struct {
	*subscriber
	addr   string
	server *http.Server
	served sync.WaitGroup
	faults atomic.Int32 // what the next request meets: none, noAnswer or busy
	keys   sync.Map     // body of each Idempotency-Key
}

const (
	noAnswer = 1 + iota // it is taken, and the connection ends before the answer
	busy                // it is not taken
)

func startPlace(t *testing.T) *place {
	t.Helper()
	p := &place{subscriber: &subscriber{t: t, newest: map[string]int{}}, addr: fmt.Sprintf("127.0.0.1:%d", freePort(t))}
	p.back()
	t.Cleanup(p.gone)
	return p
}

func (p *place) back() {
	p.t.Helper()
	l, err := net.Listen("tcp", p.addr)
	testkit.OK(p.t, err)
	p.server = &http.Server{Handler: p}
	p.served.Go(func() { _ = p.server.Serve(l) })
}

// gone ends all connections, too.
func (p *place) gone() {
	_ = p.server.Close()
	p.served.Wait()
}

func (p *place) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	fault := p.faults.Swap(0)
	if fault == busy {
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the program was killed while it sent
	}
	key := r.Header.Get("Idempotency-Key")
	if before, again := p.keys.LoadOrStore(key, string(body)); key == "" || again && before != string(body) {
		p.fail("the key %q had the body\n%s\nand now has\n%s", key, before, body)
	}
	var events []json.RawMessage
	if body[0] != '[' {
		events = []json.RawMessage{body}
	} else if err := unmarshal(body, &events); err != nil {
		p.fail("not JSON: %s", body)
	}
	for _, e := range events {
		p.take(e)
	}
	if fault == noAnswer {
		panic(http.ErrAbortHandler)
	}
}

func (p *place) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.total
}

// TestNothingIsLostOnTheWayToAnHTTPServer kills the program again and again, and
// meanwhile the server gives no answer, is busy, or is away for a while: it gets all
// that was accepted, in order, and what comes again has the key it had before.
func TestNothingIsLostOnTheWayToAnHTTPServer(t *testing.T) {
	for name, more := range map[string]string{"each in a request": "/{event}\"", "in batches": "\", batch: {events: 50}"} {
		t.Run(name, func(t *testing.T) {
			server := startPlace(t)
			logs := t.TempDir()
			p := configure(t, fmt.Sprintf("broker: {listen: \"off\"}\nsinks: [{name: server, type: http, url: \"http://%s%s}]\n"+sourcesYAML, server.addr, more, logs))
			senders := startSenders(p.http, 4)
			w := startWriter(t, logs, true)
			for i := range 16 {
				before := server.count()
				switch i % 4 {
				case 1:
					server.faults.Store(noAnswer)
				case 2:
					server.faults.Store(busy)
				case 3:
					server.gone()
				}
				p.start()
				if i%4 == 3 {
					server.back()
				}
				testkit.Eventually(t, "an event arrives", func() bool { return server.count() > before })
				time.Sleep(rand.N(120 * time.Millisecond))
				p.kill()
			}
			p.start()
			accepted, lines := senders.finish(), w.finish()
			server.expect(accepted, lines)
		})
	}
}
