package webhook_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"event2mqtt/internal/sources"
	"event2mqtt/internal/sources/sourcetest"
	"event2mqtt/internal/sources/webhook"
)

func TestTheContractOfSources(t *testing.T) {
	sourcetest.Run(t, func(t testing.TB) sourcetest.Subject {
		c := webhook.Defaults()
		c.Name = "test"
		mux := &sourcetest.Mux{}
		s, err := c.Build(sources.Deps{Mux: mux, Log: zerolog.Nop()})
		if err != nil {
			t.Fatal(err)
		}
		server := mux.Of("test")
		return sourcetest.Subject{Source: s, Send: func(t testing.TB, name string) {
			for { // as senders do
				r := httptest.NewRequest(http.MethodPost, "/hooks/test", strings.NewReader(fmt.Sprintf(`{"event":%q}`, name)))
				r.Header.Set("Content-Type", "application/json")
				w := httptest.NewRecorder()
				server.ServeHTTP(w, r)
				switch {
				case w.Code == http.StatusServiceUnavailable && w.Header().Get("Retry-After") != "":
					time.Sleep(time.Millisecond)
					continue
				case w.Code != http.StatusAccepted && name != "Refused":
					t.Errorf("%s: the answer is %d: %s", name, w.Code, w.Body)
				}
				return
			}
		}}
	})
}
