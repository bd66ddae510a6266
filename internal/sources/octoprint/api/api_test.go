package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"event2mqtt/internal/sources/octoprint/api"
)

func client(t *testing.T, h http.Handler, change ...func(*api.Options)) *api.Client {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	u, err := api.ParseURL(s.URL + "/octo/")
	if err != nil {
		t.Fatal(err)
	}
	o := api.Options{URL: u, Key: "k"}
	for _, c := range change {
		c(&o)
	}
	c := api.New(o)
	t.Cleanup(c.Close)
	return c
}

// TestAKeyIsGivenWhenSomebodySaysYes: the request is looked after until then, at
// the address that we know, whatever OctoPrint takes for its own.
func TestAKeyIsGivenWhenSomebodySaysYes(t *testing.T) {
	for name, c := range map[string]struct {
		poll []int // statuses
		key  string
		err  error
	}{
		"yes":             {[]int{202, 200}, "NEWKEY", nil},
		"no":              {[]int{202, 404}, "", api.ErrDenied},
		"refused at once": {[]int{404}, "", api.ErrDenied},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var polls atomic.Int32
			mux := http.NewServeMux()
			mux.HandleFunc("GET /octo/plugin/appkeys/probe", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
			mux.HandleFunc("POST /octo/plugin/appkeys/request", func(w http.ResponseWriter, r *http.Request) {
				var body map[string]string
				if err := json.NewDecoder(r.Body).Decode(&body); err != nil || body["app"] != "event2mqtt" || body["user"] != "admin" {
					t.Errorf("%v, %v", body, err)
				}
				w.Header().Set("Location", "http://inner:5000/plugin/appkeys/request/TOKEN")
				w.WriteHeader(http.StatusCreated)
				fmt.Fprint(w, `{"app_token":"TOKEN","auth_dialog":"http://inner:5000/plugin/appkeys/auth/TOKEN?user=admin"}`)
			})
			mux.HandleFunc("GET /octo/plugin/appkeys/request/TOKEN", func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(c.poll[polls.Add(1)-1])
				fmt.Fprint(w, `{"api_key":"NEWKEY"}`)
			})
			cl := client(t, mux)
			r, err := cl.RequestKey(t.Context(), "event2mqtt", "admin")
			if err != nil || r.Dialog != "http://inner:5000/plugin/appkeys/auth/TOKEN?user=admin" {
				t.Fatalf("%+v, %v", r, err)
			}
			key, err := cl.AwaitKey(t.Context(), r)
			if key != c.key || !errors.Is(err, c.err) {
				t.Errorf("%q, %v", key, err)
			}
		})
	}
}

// TestAnOctoPrintThatGivesNoKeysSaysSo.
func TestAnOctoPrintThatGivesNoKeysSaysSo(t *testing.T) {
	status := func(s int) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(s) })
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /octo/sockjs/info", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"websocket":true}`) })
	if _, err := client(t, mux).RequestKey(t.Context(), "a", ""); !errors.Is(err, api.ErrNoAppKeys) {
		t.Error(err)
	}
	for _, s := range []int{404, 403, 200} { // another program
		if _, err := client(t, status(s)).RequestKey(t.Context(), "a", ""); api.KindOf(err) != api.Foreign {
			t.Errorf("%d: %v", s, err)
		}
	}
	if _, err := client(t, status(429)).RequestKey(t.Context(), "a", ""); api.KindOf(err) != api.Busy {
		t.Error(err)
	}
	if _, err := client(t, status(501)).RequestKey(t.Context(), "a", ""); api.KindOf(err) != api.Away || !strings.Contains(err.Error(), "is starting") {
		t.Error(err)
	}
}

// TestFilesAreAskedForByTheirNames, whatever stands in them.
func TestFilesAreAskedForByTheirNames(t *testing.T) {
	const path = "a folder/50% + #1?.gcode"
	mux := http.NewServeMux()
	mux.HandleFunc("GET /octo/api/files/local/{path...}", func(w http.ResponseWriter, r *http.Request) {
		if r.PathValue("path") != path || r.URL.RawQuery != "" {
			t.Errorf("%q", r.URL)
		}
		fmt.Fprint(w, `{"hash": "x"}`)
	})
	if raw, err := client(t, mux).File(t.Context(), "local", path); err != nil || string(raw) != `{"hash": "x"}` {
		t.Errorf("%s, %v", raw, err)
	}
}

// TestAnswersAreBounded in bytes and in time.
func TestAnswersAreBounded(t *testing.T) {
	big := client(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"server":"`, strings.Repeat("x", 2<<20), `"}`)
	}))
	if _, err := big.Version(t.Context()); api.KindOf(err) != api.Foreign {
		t.Error(err)
	}
	ended := make(chan struct{})
	slow := client(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-ended }), func(o *api.Options) { o.Timeout = 50 * time.Millisecond })
	_, err := slow.Login(t.Context())
	close(ended)
	if api.KindOf(err) != api.Away || !strings.Contains(err.Error(), "no answer") {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := slow.Login(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestACertificateThatNobodyKnowsIsSaidInWords.
func TestACertificateThatNobodyKnowsIsSaidInWords(t *testing.T) {
	s := httptest.NewTLSServer(http.NotFoundHandler())
	defer s.Close()
	s.Config.ErrorLog = nil
	u, err := api.ParseURL(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	c := api.New(api.Options{URL: u, Key: "k"})
	defer c.Close()
	if _, err := c.Login(t.Context()); api.KindOf(err) != api.Certificate || !strings.Contains(err.Error(), "set tls.ca") {
		t.Error(err)
	}
	if _, err := c.Dial(t.Context()); api.KindOf(err) != api.Certificate {
		t.Error(err)
	}
}
