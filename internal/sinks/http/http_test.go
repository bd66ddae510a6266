package httpsink_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"event2mqtt/internal/config"
	"event2mqtt/internal/event"
	"event2mqtt/internal/sinks"
	httpsink "event2mqtt/internal/sinks/http"
	"event2mqtt/internal/sinks/sinktest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// place is a destination: a server that may be out of order.
type place struct {
	url    string
	batch  int
	broken atomic.Bool
	mu     sync.Mutex
	got    [][]byte
}

func (p *place) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	switch {
	case err != nil:
		return
	case p.broken.Load():
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	case bytes.Contains(body, []byte("poison")):
		w.WriteHeader(http.StatusUnprocessableEntity)
		return
	}
	payloads := []json.RawMessage{body}
	if p.batch > 1 {
		if err := json.Unmarshal(body, &payloads); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, payload := range payloads {
		p.got = append(p.got, payload)
	}
}

func (p *place) Options() sinks.Options {
	o := options(p.url)
	o.Batch.Events = p.batch
	return o
}

func options(url string) *httpsink.Options {
	o := httpsink.Type.Options().(*httpsink.Options)
	o.Name, o.Type, o.URL = "there", "http", config.Secret(url)
	return o
}

func (p *place) Deps(*sinks.Deps) {}

func (p *place) Got() [][]byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.got
}

func (p *place) Break() { p.broken.Store(true) }
func (p *place) Mend()  { p.broken.Store(false) }

func (p *place) Never() (event.Event, bool) {
	return event.Event{Name: "Poison", Source: "s", Payload: fmt.Appendf(nil, `{"x":"poison","long":%q}`, strings.Repeat("x", 8<<10))}, true
}

func TestContract(t *testing.T) {
	for _, batch := range []int{1, 7} {
		t.Run(fmt.Sprintf("batches of %d", batch), func(t *testing.T) {
			sinktest.Run(t, func(t *testing.T) sinktest.Destination {
				p := &place{batch: batch}
				server := httptest.NewServer(p)
				t.Cleanup(server.Close)
				p.url = server.URL + "/hooks/secret-of-this-test"
				return p
			})
		})
	}
}
