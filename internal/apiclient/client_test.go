package apiclient_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"event2mqtt/internal/apiclient"
)

func TestAddressesAreWrittenAsPeopleDo(t *testing.T) {
	for text, want := range map[string]string{
		"printer.lan:8127": "http://printer.lan:8127", "http://a/": "http://a", "https://a:1/e2m/": "https://a:1/e2m", "[::1]:8127": "http://[::1]:8127",
		"": "", "ftp://a": "", "http://": "", "http://u:p@a": "", "http://a/?x=1": "", "http://a/#x": "", "a b": "",
	} {
		if got, err := apiclient.ParseURL(text); got != want || (err != nil) != (want == "") {
			t.Errorf("%q is %q, %v; want %q", text, got, err, want)
		}
	}
}

// serve answers as a program of a given kind does.
func serve(t *testing.T, paths map[string]http.HandlerFunc) *apiclient.Client {
	t.Helper()
	mux := http.NewServeMux()
	for path, h := range paths {
		mux.HandleFunc(path, h)
	}
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	c := apiclient.New(apiclient.Target{URL: s.URL, Token: "secret"})
	t.Cleanup(c.Close)
	return c
}

func says(status int, kind, text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text)
	}
}

// TestErrorsTellWhatAnswers: an older program, another one, none, or one that refuses.
func TestErrorsTellWhatAnswers(t *testing.T) {
	const problem, nothing = "application/problem+json", `{"status":404,"detail":"nothing is served here"}`
	healthy := says(200, "text/plain", "ok")
	for name, c := range map[string]struct {
		paths map[string]http.HandlerFunc
		want  error
		text  string
	}{
		"an older program":    {map[string]http.HandlerFunc{"/healthz": healthy, "/": says(404, problem, nothing)}, apiclient.ErrNoAPI, "update it"},
		"one without details": {map[string]http.HandlerFunc{"/healthz": healthy}, apiclient.ErrNoAPI, "update it"},
		"another program":     {map[string]http.HandlerFunc{}, apiclient.ErrOther, "404"},
		"a page":              {map[string]http.HandlerFunc{"/": says(200, "text/html", "<html>")}, apiclient.ErrOther, ""},
		"one that leads on":   {map[string]http.HandlerFunc{"/": http.RedirectHandler("https://other/", http.StatusFound).ServeHTTP}, nil, "leads on"},
	} {
		err := serve(t, c.paths).Get(t.Context(), "state", &struct{}{})
		if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", name, err)
		}
	}
	refuses := serve(t, map[string]http.HandlerFunc{
		"/api/v1/state": says(401, problem, `{"status":401,"detail":"the token is not right"}`), "/api/v1/none": says(404, problem, nothing), "/api/v1/openapi.json": healthy,
	})
	for path, status := range map[string]int{"state": 401, "none": 404} {
		err := refuses.Get(t.Context(), path, nil)
		if e, ok := errors.AsType[*apiclient.Error](err); !ok || e.Status != status {
			t.Errorf("%s: %v", path, err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close() // nobody is there any more
	if err := apiclient.New(apiclient.Target{URL: "http://" + l.Addr().String()}).Get(t.Context(), "state", nil); !errors.Is(err, apiclient.ErrNotRunning) {
		t.Errorf("nobody: %v", err)
	}
}

// TestTheTokenGoesWhereItBelongs: with requests, and neither with a health check
// nor to where an answer leads on to.
func TestTheTokenGoesWhereItBelongs(t *testing.T) {
	var seen []string
	note := func(h http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			seen = append(seen, r.URL.Path+" "+r.Header.Get("Authorization"))
			h(w, r)
		}
	}
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1")
	c := serve(t, map[string]http.HandlerFunc{
		"/healthz": note(says(200, "text/plain", "ok")), "/api/v1/state": note(says(200, "application/json", "{}")),
		"/api/v1/moved": note(http.RedirectHandler("/elsewhere", http.StatusTemporaryRedirect).ServeHTTP), "/elsewhere": note(says(200, "application/json", "{}")),
	})
	_ = c.Get(t.Context(), "state", &struct{}{})
	_ = c.Healthy(t.Context())
	_ = c.Get(t.Context(), "moved", nil)
	if got := strings.Join(seen, "; "); got != "/api/v1/state Bearer secret; /healthz ; /api/v1/moved Bearer secret" {
		t.Error(got)
	}
}

// TestAStreamGivesLinesUntilItEnds, and ends with its context.
func TestAStreamGivesLinesUntilItEnds(t *testing.T) {
	hold := make(chan struct{})
	c := serve(t, map[string]http.HandlerFunc{
		"/api/v1/short": says(200, "application/x-ndjson", "{\"a\":1}\n{\"a\":2}\n"),
		"/api/v1/long": func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, "{}\n")
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
			close(hold)
		},
	})
	s, err := c.Stream(t.Context(), "short")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, want := range []string{`{"a":1}`, `{"a":2}`} {
		if line, err := s.Next(); err != nil || string(line) != want {
			t.Errorf("%s, %v", line, err)
		}
	}
	if _, err := s.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("the end: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	long, err := c.Stream(ctx, "long")
	if err != nil {
		t.Fatal(err)
	}
	defer long.Close()
	if _, err := long.Next(); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := long.Next(); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	<-hold
}
