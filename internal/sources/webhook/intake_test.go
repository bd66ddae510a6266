package webhook_test

import (
	"bytes"
	"context"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"event2mqtt/internal/sources/webhook"
)

const alwaysSmall = 64 << 10 // and one byte: as much as is read before a body must wait

// slow is a body that comes but for its last byte, until it may end.
type slow struct {
	text  []byte
	at    int
	may   chan struct{}
	begun func() // it has come as far as is always read
	large func() // it is read on
	ends  func() // nothing but the last byte is missing
	over  func() // it has ended
}

func (b *slow) Read(p []byte) (int, error) {
	if b.at > alwaysSmall+8<<10 && b.large != nil { // a little more, for what parses reads ahead
		b.large()
		b.large = nil
	}
	last := len(b.text) - 1
	switch b.at {
	case len(b.text):
		return 0, io.EOF
	case last:
		b.ends()
		<-b.may
		b.over()
		last++
	}
	n := copy(p, b.text[b.at:min(last, b.at+4096)])
	if b.at += n; b.at > alwaysSmall && b.begun != nil {
		b.begun()
		b.begun = nil
	}
	return n, nil
}

func (b *slow) Close() error { return nil }

// TestUnfinishedBodiesTakeLittleMemory: of many that one address, or several,
// do not finish, only some are read beyond what is small.
func TestUnfinishedBodiesTakeLittleMemory(t *testing.T) {
	json := append(append([]byte(`"`), bytes.Repeat([]byte("x"), 1<<20-2)...), '"')
	var form bytes.Buffer
	w := multipart.NewWriter(&form)
	_ = w.WriteField("a", string(json[:len(json)-4096]))
	w.Close()
	for _, c := range []struct {
		name, contentType string
		body              []byte
		chunked           bool
		addresses, most   int64
	}{
		{"with a length", asJSON, json, false, 1, 8},
		{"of several addresses", asJSON, json, false, 16, 32},
		{"without a length", asJSON, json, true, 1, 4},
		{"multipart", w.FormDataContentType(), form.Bytes(), false, 1, 4},
		{"signed multipart", w.FormDataContentType(), form.Bytes(), false, 1, 8},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := webhook.Defaults()
			config.Name, config.Event.Default = "test", "D"
			if c.name == "signed multipart" {
				config.Auth.HMAC.Scheme, config.Auth.HMAC.Secret = "github", "s3cret"
			}
			s, err := webhook.New(config, nil, zerolog.Nop())
			if err != nil {
				t.Fatal(err)
			}
			h := s.Handler(&output{})
			const requests = 64
			var large, most, odd atomic.Int64
			var begun, all sync.WaitGroup
			begun.Add(requests)
			may := make(chan struct{})
			for i := range requests {
				all.Go(func() {
					body := &slow{text: c.body, may: may, begun: begun.Done, large: func() {
						for now, before := large.Add(1), most.Load(); now > before && !most.CompareAndSwap(before, now); before = most.Load() {
						}
					}, ends: func() {}, over: func() { large.Add(-1) }}
					r := httptest.NewRequest(http.MethodPost, "/hooks/test", body)
					r.Header.Set("Content-Type", c.contentType)
					r.RemoteAddr = "192.0.2." + string(rune('0'+int64(i)%min(c.addresses, 10))) + ":1"
					if r.ContentLength = int64(len(c.body)); c.chunked {
						r.ContentLength = -1
					}
					w := httptest.NewRecorder()
					h.ServeHTTP(w, r)
					if w.Code == http.StatusServiceUnavailable && w.Header().Get("Retry-After") == "" || w.Code != 202 && w.Code != 503 && w.Code != 401 {
						odd.Add(1)
					}
				})
			}
			begun.Wait()
			close(may)
			all.Wait()
			if n := most.Load(); n > c.most || n == 0 {
				t.Errorf("%d large bodies were in memory at a time", n)
			}
			if odd.Load() > 0 {
				t.Error("there were other answers than 202, 401 and 503")
			}
		})
	}
}

// TestUnfinishedBodiesKeepNobodyElseOut: a large body of the same address is
// told to come again, small ones and other addresses do not wait.
func TestUnfinishedBodiesKeepNobodyElseOut(t *testing.T) {
	config := webhook.Defaults()
	config.Name, config.Event.Default = "test", "D"
	s, err := webhook.New(config, nil, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	h := s.Handler(&output{})
	text := append(append([]byte(`"`), bytes.Repeat([]byte("x"), 1<<20-2)...), '"')
	post := func(ctx context.Context, from string, body io.Reader, length int) *httptest.ResponseRecorder {
		r := httptest.NewRequestWithContext(ctx, http.MethodPost, "/hooks/test", body)
		r.ContentLength, r.RemoteAddr = int64(length), from+":1"
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	var all, full sync.WaitGroup
	may := make(chan struct{})
	full.Add(7) // 8 MiB, and a little for each
	for range 7 {
		all.Go(func() {
			post(t.Context(), "192.0.2.1", &slow{text: text, may: may, ends: full.Done, over: func() {}}, len(text))
		})
	}
	full.Wait()
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if w := post(short, "192.0.2.1", bytes.NewReader(text), len(text)); w.Code != 503 || w.Header().Get("Retry-After") == "" {
		t.Errorf("the same address: %d %s", w.Code, w.Body)
	}
	if w := post(t.Context(), "192.0.2.1", bytes.NewReader([]byte("{}")), 2); w.Code != 202 {
		t.Errorf("a small body: %d %s", w.Code, w.Body)
	}
	if w := post(t.Context(), "192.0.2.2", bytes.NewReader(text), len(text)); w.Code != 202 {
		t.Errorf("another address: %d %s", w.Code, w.Body)
	}
	close(may)
	all.Wait()
	if w := post(t.Context(), "192.0.2.1", bytes.NewReader(text), len(text)); w.Code != 202 {
		t.Errorf("afterwards: %d %s", w.Code, w.Body)
	}
}
