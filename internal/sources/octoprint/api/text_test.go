package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"event2mqtt/internal/sources/octoprint/api"
)

func TestCleanIsOneBoundedLine(t *testing.T) {
	for _, c := range []struct {
		text string
		most int
		want string
	}{
		{"Prusa MK4 – ö 日", 64, "Prusa MK4 – ö 日"},
		{"a\x1b[2J\r\nb\x00\u0085c\u2028d\u202ee", 64, "a [2J  b  c d e"},
		{"a\xffb\xc3", 64, "a?b?"},
		{"ööööö", 8, "öö…"},
		{"ööööö", 10, "ööööö"},
		{"\xff\xff\xff\xff\xff\xff", 5, "??…"},
		{"\x80\x80\x80\x80\x80\x80", 5, "…"},
		{"", 4, ""},
	} {
		if got := api.Clean(c.text, c.most); got != c.want || len(got) > c.most {
			t.Errorf("%q: %q, want %q", c.text, got, c.want)
		}
	}
}

// loud is text that would end lines, move cursors and fill a log.
var loud = "admin\x1b[2J\nok  broker \u202e" + strings.Repeat("x", 100<<10)

func wantQuiet(t *testing.T, what, text string) {
	t.Helper()
	if text == "" || len(text) > 1500 || strings.ContainsFunc(text, unicode.IsControl) || strings.Contains(text, "\u202e") || !utf8.ValidString(text) {
		t.Errorf("%s: %d bytes, %.200q", what, len(text), text)
	}
}

// TestWhatOctoPrintSaysIsCleanAndBounded, and what it takes for authentication is
// as it was.
func TestWhatOctoPrintSaysIsCleanAndBounded(t *testing.T) {
	name := "admin\x1b[2J\n"
	answers := map[string]func() any{
		"/octo/api/login":    func() any { return map[string]any{"name": name, "session": "s"} },
		"/octo/api/version":  func() any { return map[string]any{"server": loud} },
		"/octo/api/settings": func() any { return map[string]any{"appearance": map[string]any{"name": loud}} },
		"/octo/api/job":      func() any { return map[string]any{"job": map[string]any{"file": map[string]any{"path": loud}}} },
	}
	c := client(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode(answers[r.URL.Path]())
	}))
	session, err := c.Login(t.Context())
	if err != nil || session.Name != "admin [2J " || session.Auth() != name+":s" {
		t.Errorf("%q %q, %v", session.Name, session.Auth(), err)
	}
	version, err := c.Version(t.Context())
	wantQuiet(t, "version", version.Server)
	if err != nil || len(version.Server) > 64 {
		t.Errorf("%d bytes, %v", len(version.Server), err)
	}
	wantQuiet(t, "name", c.Name(t.Context()))
	path, err := c.Selected(t.Context())
	wantQuiet(t, "path", path)
	if err != nil {
		t.Error(err)
	}
	name = loud
	if _, err := c.Login(t.Context()); err == nil || !strings.Contains(err.Error(), "of more than 1024 bytes") {
		t.Errorf("a name of %d bytes is taken: %v", len(loud), err)
	}
}

// TestErrorsOfOctoPrintAreCleanAndBounded, whatever they are made of.
func TestErrorsOfOctoPrintAreCleanAndBounded(t *testing.T) {
	for what, handle := range map[string]http.HandlerFunc{
		"a redirect": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "http://elsewhere/"+strings.Repeat("x", 60<<10))
			w.WriteHeader(http.StatusFound)
		},
		"a header that is none": func(w http.ResponseWriter, _ *http.Request) {
			raw(w, "HTTP/1.1 200 OK\r\nbad\x1b[2J"+strings.Repeat("x", 10<<10)+"\r\n\r\n")
		},
		"no HTTP": func(w http.ResponseWriter, _ *http.Request) {
			raw(w, "SSH\x1b[2J"+strings.Repeat("x", 10<<10)+"\r\n\r\n")
		},
		"a refusal": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusConflict)
			_ = json.NewEncoder(w).Encode(map[string]string{"error": loud})
		},
	} {
		t.Run(what, func(t *testing.T) {
			c := client(t, handle)
			_, err := c.Tell(t.Context(), "/api/job", api.MayPrint, nil)
			wantQuiet(t, "Tell", fmt.Sprint(err))
			_, err = c.Login(t.Context())
			wantQuiet(t, "Login", fmt.Sprint(err))
			if what == "a redirect" && !strings.Contains(err.Error(), "…; write that address as url") {
				t.Errorf("what to do is cut: %v", err)
			}
			_, err = c.Dial(t.Context())
			wantQuiet(t, "Dial", fmt.Sprint(err))
			_, err = c.Snapshot(t.Context(), 1<<20)
			wantQuiet(t, "Snapshot", fmt.Sprint(err))
		})
	}
}

// raw answers with what need not be HTTP.
func raw(w http.ResponseWriter, text string) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, text)
}

// TestServerIsTheSameHoweverItIsWritten.
func TestServerIsTheSameHoweverItIsWritten(t *testing.T) {
	for text, want := range map[string]string{
		"http://Octopi.LOCAL": "octopi.local:80", "http://octopi.local.:80/x": "octopi.local:80", "https://o": "o:443", "http://[::1]": "[::1]:80", "http://o:81": "o:81",
	} {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := api.Server(u); got != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

// TestACameraSendsNowhereElse than to its own server: another port of its host is
// another's.
func TestACameraSendsNowhereElse(t *testing.T) {
	asked := make(chan struct{}, 1)
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked <- struct{}{} }))
	defer other.Close()
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, other.URL+"/admin", http.StatusFound)
	}))
	defer h.Close()
	camera, err := api.NewCamera(h.URL, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer camera.Close()
	if _, err := camera.Snapshot(context.Background(), 1<<20); err == nil || !strings.Contains(err.Error(), "sends elsewhere, to "+other.URL+"/admin") {
		t.Error(err)
	}
	select {
	case <-asked:
		t.Error("the other was asked")
	default:
	}
}
