// Package octotest is an OctoPrint for tests of whole programs: it gives keys,
// takes logins, and plays a recording to whoever connects to its push API. It is
// not for use in the program.
package octotest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/gorilla/websocket"

	"event2mqtt/internal/testkit"
)

// Key is the one that it gives and accepts.
const Key = "0123456789ABCDEF0123456789ABCDEF"

// Options say how this OctoPrint is. The zero value gives keys at once.
type Options struct {
	// Deny says no to who asks for a key, and Pending says nothing.
	Deny, Pending bool
	// Powerless has the key's user lack the permission Status.
	Powerless bool
	// Busy was asked too often.
	Busy bool
	// NoAppKeys has the plugin switched off, and Other is another program.
	NoAppKeys, Other bool
	// Booting shows a page instead of answers.
	Booting bool
	// Prefix is what paths begin with, such as /octoprint.
	Prefix string
	// TLS has it speak HTTPS, with a certificate of its own.
	TLS bool
	// Proxy asks for the user name proxy and the password pw.
	Proxy bool
	// Frames are sent after each login to the push API. If Pause is set, so many
	// of them are sent before Resume is called.
	Frames []string
	Pause  int
	// Files are the metadata of files, JSON, by path.
	Files map[string]string
	// Picture is what the webcam gives, at /webcam/.
	Picture []byte
}

// Server is a running OctoPrint.
type Server struct {
	URL string
	CA  string // its certificate, in PEM form

	options Options
	resume  chan struct{}
	once    sync.Once // of resume
	mu      sync.Mutex
	asked   []string
	told    []string
	away    bool
	conns   []*websocket.Conn
}

// New starts one. It ends with the test.
func New(t testing.TB, o Options) *Server {
	t.Helper()
	s := &Server{options: o, resume: make(chan struct{})}
	mux := http.NewServeMux()
	if !o.Other {
		s.handle(mux)
	}
	handler := http.StripPrefix(o.Prefix, mux)
	h := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		switch {
		case o.Proxy && (user != "proxy" || password != "pw"):
			w.WriteHeader(http.StatusUnauthorized)
		case o.Booting, s.isAway():
			w.Header().Set("Content-Type", "text/html")
			w.WriteHeader(http.StatusNotImplemented)
			fmt.Fprint(w, "<html>starting</html>")
		default:
			handler.ServeHTTP(w, r)
		}
	}))
	if o.TLS {
		h.Config.ErrorLog = nil
		h.StartTLS()
		s.CA = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.Certificate().Raw}))
	} else {
		h.Start()
	}
	s.URL = h.URL + o.Prefix
	t.Cleanup(func() {
		s.Resume()
		h.CloseClientConnections()
		h.Close()
	})
	return s
}

// Resume has the frames behind Options.Pause sent.
func (s *Server) Resume() { s.once.Do(func() { close(s.resume) }) }

// Away has OctoPrint end its connections, and show a page instead of answers, as
// while it starts; or answer again.
func (s *Server) Away(away bool) {
	s.mu.Lock()
	s.away = away
	conns := s.conns
	s.conns = nil
	s.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
	}
}

func (s *Server) isAway() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.away
}

// Asked are the users for whom a key was asked for, in order.
func (s *Server) Asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.asked...)
}

// Told are the bodies of requests that tell the printer's job something, in order.
func (s *Server) Told() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.told...)
}

func (s *Server) handle(mux *http.ServeMux) {
	if !s.options.NoAppKeys {
		s.handleKeys(mux)
	}
	mux.HandleFunc("GET /sockjs/info", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"websocket":true,"cookie_needed":false}`)
	})
	user := `"admin":true`
	if s.options.Powerless {
		user = `"admin":false,"needs":{"role":[]}`
	}
	mux.HandleFunc("POST /api/login", s.keyed(`{"name":"admin","session":"aa11","_login_mechanism":"apikey",`+user+`}`))
	mux.HandleFunc("GET /api/version", s.keyed(`{"api":"0.1","server":"1.11.8","text":"OctoPrint 1.11.8"}`))
	mux.HandleFunc("GET /api/settings", s.keyed(`{"appearance":{"name":"Ender"}}`))
	mux.HandleFunc("GET /api/files/local/{path...}", func(w http.ResponseWriter, r *http.Request) {
		text, ok := s.options.Files[r.PathValue("path")]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
		}
		fmt.Fprint(w, text)
	})
	mux.HandleFunc("POST /api/job", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(io.LimitReader(r.Body, 1<<16))
		if err != nil || r.Header.Get("X-Api-Key") != Key {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		s.mu.Lock()
		s.told = append(s.told, string(body))
		s.mu.Unlock()
		w.WriteHeader(http.StatusNoContent)
	})
	if s.options.Picture != nil {
		mux.HandleFunc("GET /webcam/", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(s.options.Picture) })
	}
	mux.HandleFunc("/sockjs/websocket", s.push)
}

func (s *Server) handleKeys(mux *http.ServeMux) {
	mux.HandleFunc("GET /plugin/appkeys/probe", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	mux.HandleFunc("POST /plugin/appkeys/request", func(w http.ResponseWriter, r *http.Request) {
		var body struct{ App, User string }
		if json.NewDecoder(r.Body).Decode(&body) != nil || body.App != "event2mqtt" || s.options.Busy {
			w.WriteHeader(http.StatusTooManyRequests)
			return
		}
		s.mu.Lock()
		s.asked = append(s.asked, body.User)
		s.mu.Unlock()
		w.WriteHeader(http.StatusCreated)
		fmt.Fprintf(w, `{"app_token":"T-_1","auth_dialog":"%s/plugin/appkeys/auth/T-_1"}`, s.URL)
	})
	mux.HandleFunc("GET /plugin/appkeys/request/T-_1", func(w http.ResponseWriter, _ *http.Request) {
		switch {
		case s.options.Deny:
			w.WriteHeader(http.StatusNotFound)
		case s.options.Pending:
			w.WriteHeader(http.StatusAccepted)
		default:
			fmt.Fprintf(w, `{"api_key":%q}`, Key)
		}
	})
}

// keyed answers who has the key.
func (s *Server) keyed(answer string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Api-Key") != Key {
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, `{"error":"CSRF validation failed"}`)
			return
		}
		fmt.Fprint(w, answer)
	}
}

// push is the push API.
func (s *Server) push(w http.ResponseWriter, r *http.Request) {
	conn, err := (&websocket.Upgrader{}).Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer conn.Close()
	s.mu.Lock()
	s.conns = append(s.conns, conn)
	s.mu.Unlock()
	send := func(frame string) { _ = conn.WriteMessage(websocket.TextMessage, []byte(frame)) }
	send(`{"connected":{"version":"1.11.8","display_version":"1.11.8","safe_mode":null,"permissions":[]}}`)
	for {
		_, message, err := conn.ReadMessage()
		switch {
		case err != nil:
			return
		case strings.TrimSpace(string(message)) == `{"auth":"admin:aa11"}`:
			for i, frame := range s.options.Frames {
				if i == s.options.Pause && i > 0 {
					<-s.resume
				}
				send(frame)
			}
		}
	}
}

// Recording are the frames that OctoPrint sent in a recorded session, without
// the first, which New sends by itself.
func Recording(t testing.TB, path string) (frames []string) {
	t.Helper()
	f, err := os.Open(path)
	testkit.OK(t, err)
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var line struct {
			Dir   string
			Frame json.RawMessage
		}
		testkit.OK(t, json.Unmarshal(lines.Bytes(), &line))
		if line.Dir == "in" && !bytes.HasPrefix(line.Frame, []byte(`{"connected"`)) {
			frames = append(frames, string(line.Frame))
		}
	}
	testkit.OK(t, lines.Err())
	return frames
}
