package octoprint_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/rs/zerolog"

	"event2mqtt/internal/config"
	"event2mqtt/internal/device"
	"event2mqtt/internal/event"
	"event2mqtt/internal/health"
	"event2mqtt/internal/sources"
	"event2mqtt/internal/sources/octoprint"
	"event2mqtt/internal/testkit"
)

// patience bounds waiting for what comes at once but on a machine that is very
// busy.
const patience = testkit.Patience

const key = "0123456789ABCDEF"

// server is an OctoPrint, as far as the source sees one.
type server struct {
	t       *testing.T
	address string
	mux     *http.ServeMux
	logins  chan struct{} // cap 100; gets one for each
	conns   chan *peer    // those that are authenticated

	mu      sync.Mutex
	http    *httptest.Server
	login   func(w http.ResponseWriter, r *http.Request) bool // answers in place of OctoPrint, if it wants to
	files   map[string]string                                 // metadata by path
	session string
	stale   int // how many authentications are refused
	silent  bool
	sent    []string // what clients sent over the WebSocket
	headers []http.Header
	prefix  string
	tls     bool
	more    map[string]http.HandlerFunc // by pattern; beside what every OctoPrint answers
}

// peer is a connection of a client.
type peer struct {
	t    *testing.T
	conn *websocket.Conn
	mu   sync.Mutex
}

const hello = `{"connected":{"version":"1.11.8","display_version":"1.11.8","safe_mode":null,"permissions":[]}}`

func newServer(t *testing.T, change ...func(*server)) *server {
	t.Helper()
	s := &server{t: t, logins: make(chan struct{}, 100), conns: make(chan *peer, 100), files: map[string]string{}, session: "aa11"}
	for _, c := range change {
		c(s)
	}
	s.start()
	t.Cleanup(s.stop)
	return s
}

func (s *server) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

// start lets the server listen, at the address it had.
func (s *server) start() {
	s.mux = http.NewServeMux()
	s.mux.HandleFunc("POST /api/login", s.handleLogin)
	s.mux.HandleFunc("GET /api/version", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"api":"0.1","server":"1.11.8","text":"OctoPrint 1.11.8"}`)
	})
	s.mux.HandleFunc("GET /api/settings", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"appearance":{"name":"Ender"}}`) })
	s.mux.HandleFunc("GET /api/files", func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		var all []string
		for path, text := range s.files {
			all = append(all, fmt.Sprintf(`{"name":%q,"path":%q,"origin":"local",%s`, path, path, text[1:]))
		}
		if r.URL.RawQuery != "recursive=true" {
			all = nil
		}
		fmt.Fprintf(w, `{"files":[{"type":"folder","children":[%s]}]}`, strings.Join(all, ","))
	})
	s.mux.HandleFunc("GET /api/files/local/{path...}", func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		text, ok := s.files[r.PathValue("path")]
		s.mu.Unlock()
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		fmt.Fprint(w, text)
	})
	s.mux.HandleFunc("/sockjs/websocket", s.handleSocket)
	for pattern, answer := range s.more {
		s.mux.HandleFunc(pattern, answer)
	}
	h := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.headers = append(s.headers, r.Header.Clone())
		prefix := s.prefix
		s.mu.Unlock()
		http.StripPrefix(prefix, s.mux).ServeHTTP(w, r)
	}))
	if s.address != "" {
		l, err := net.Listen("tcp", s.address)
		if err != nil {
			s.t.Fatal(err)
		}
		_ = h.Listener.Close()
		h.Listener = l
	}
	s.address = h.Listener.Addr().String()
	if s.tls {
		h.StartTLS()
	} else {
		h.Start()
	}
	s.mu.Lock()
	s.http = h
	s.mu.Unlock()
}

// stop ends all connections, and listens no more.
func (s *server) stop() {
	s.mu.Lock()
	h := s.http
	s.http = nil
	s.mu.Unlock()
	for len(s.conns) > 0 {
		_ = (<-s.conns).conn.Close()
	}
	if h != nil {
		h.CloseClientConnections()
		h.Close()
	}
}

func (s *server) url() string {
	if s.tls {
		return "https://" + s.address
	}
	return "http://" + s.address
}

func (s *server) handleLogin(w http.ResponseWriter, r *http.Request) {
	select {
	case s.logins <- struct{}{}:
	default:
	}
	s.mu.Lock()
	login, session := s.login, s.session
	s.mu.Unlock()
	if login != nil && login(w, r) {
		return
	}
	if r.Header.Get("X-Api-Key") != key {
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprint(w, `{"error":"CSRF validation failed"}`)
		return
	}
	fmt.Fprintf(w, `{"name":"admin","session":%q,"_login_mechanism":"apikey","admin":true}`, session)
}

func (s *server) handleSocket(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Origin") != "" {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	conn, err := (&websocket.Upgrader{}).Upgrade(w, r, nil)
	if err != nil {
		return
	}
	p := &peer{t: s.t, conn: conn}
	p.send(hello)
	for {
		_, message, err := conn.ReadMessage()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.sent = append(s.sent, string(message))
		good := string(message) == `{"auth":"admin:`+s.session+`"}`+"\n" || string(message) == `{"auth":"admin:`+s.session+`"}`
		stale := s.stale > 0
		if good && stale {
			s.stale--
		}
		silent := s.silent
		s.mu.Unlock()
		switch {
		case !strings.HasPrefix(string(message), `{"auth"`), silent:
		case !good || stale:
			p.send(`{"reauthRequired":{"reason":"stale"}}`)
		default:
			s.conns <- p
		}
	}
}

// next waits for a client that is authenticated.
func (s *server) next() *peer {
	s.t.Helper()
	select {
	case p := <-s.conns:
		return p
	case <-time.After(patience):
		s.t.Fatal("nobody connected")
		return nil
	}
}

func (p *peer) send(frame string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = p.conn.WriteMessage(websocket.TextMessage, []byte(frame))
}

// snapshot is a frame that says how things are.
func snapshot(kind, state, path string, server float64, markings ...string) string {
	flags := map[string]string{
		"Operational": `"operational":true,"closedOrError":false,"ready":true`,
		"Printing":    `"operational":true,"printing":true,"closedOrError":false`,
		"Paused":      `"operational":true,"paused":true,"closedOrError":false`,
		"Offline":     `"closedOrError":true`,
	}[state]
	file := `{"name":null,"path":null,"origin":null,"size":null}`
	if path != "" {
		file = fmt.Sprintf(`{"name":%q,"path":%q,"origin":"local","size":1776}`, path, path)
	}
	return fmt.Sprintf(`{%q:{"state":{"text":%q,"flags":{%s},"error":""},"job":{"file":%s,"lastPrintTime":12.5},"progress":{"completion":null,"printTime":null,"printTimeLeft":null,"printTimeLeftOrigin":null},`+
		`"currentZ":null,"serverTime":%f,"temps":[],"markings":[%s]}}`, kind, state, flags, file, server, strings.Join(markings, ","))
}

// mark is a marking.
func mark(kind string, at float64) string {
	return fmt.Sprintf(`{"type":%q,"label":"x","time":%f}`, kind, at)
}

func happened(name, payload string) string {
	return fmt.Sprintf(`{"event":{"type":%q,"payload":%s}}`, name, payload)
}

// output keeps what a source says, as the bridge does.
type output struct {
	mu        sync.Mutex
	events    []event.Event
	states    []event.State
	positions map[string][]byte
	statuses  []health.Status
	device    device.Device
	full      bool
	attempts  int
	refuse    string // the name of an event that is refused
	ready     int
}

func newOutput() *output { return &output{positions: map[string][]byte{}} }

func (o *output) Ready()                   { o.set(func() { o.ready++ }) }
func (o *output) Tell(s health.Status)     { o.set(func() { o.statuses = append(o.statuses, s) }) }
func (o *output) Describe(d device.Device) { o.set(func() { o.device = d }) }
func (o *output) Remove(keys ...string) {
	o.set(func() {
		for _, key := range keys {
			o.states = append(o.states, event.State{Key: key})
		}
	})
}

func (o *output) set(change func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	change()
}

type nothing struct{}

func (nothing) Delivered(context.Context) error { return nil }

func (o *output) Emit(_ context.Context, events ...event.Event) (sources.Receipt, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.attempts++
	if o.full {
		return nil, sources.ErrFull
	}
	for _, e := range events {
		if e.Name == o.refuse {
			return nil, &event.Refused{Reason: "too large"}
		}
	}
	for _, e := range events {
		if err := (event.Normaliser{}).Normalise(&e); err != nil {
			return nil, err
		}
		o.events = append(o.events, e)
		if e.Position.Key != "" {
			o.positions[e.Position.Key] = bytes.Clone(e.Position.Value)
		}
	}
	return nothing{}, nil
}

// Report keeps changes alone, as the bridge does.
func (o *output) Report(states ...event.State) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, st := range states {
		i := slices.IndexFunc(o.states, func(have event.State) bool { return have.Key == st.Key })
		for j := i + 1; i >= 0 && j < len(o.states); j++ {
			if o.states[j].Key == st.Key {
				i = j
			}
		}
		if i >= 0 && bytes.Equal(o.states[i].Payload, st.Payload) {
			continue
		}
		o.states = append(o.states, st)
	}
}

func (o *output) Mark(_ context.Context, positions ...event.Position) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.full {
		return sources.ErrFull
	}
	for _, p := range positions {
		o.positions[p.Key] = bytes.Clone(p.Value)
	}
	return nil
}

func (o *output) Positions() map[string][]byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	all := map[string][]byte{}
	for k, v := range o.positions {
		all[k] = bytes.Clone(v)
	}
	return all
}

func (o *output) Forget(string) {}

// all are the events so far.
func (o *output) all() (all []event.Event) {
	o.set(func() { all = slices.Clone(o.events) })
	return all
}

// reported are the changes of states so far.
func (o *output) reported() (all []event.State) {
	o.set(func() { all = slices.Clone(o.states) })
	return all
}

// told is how often the source told how it is.
func (o *output) told() (n int) {
	o.set(func() { n = len(o.statuses) })
	return n
}

// tried is how often events were offered.
func (o *output) tried() (n int) {
	o.set(func() { n = o.attempts })
	return n
}

// begun is how often the source was ready.
func (o *output) begun() (n int) {
	o.set(func() { n = o.ready })
	return n
}

func (o *output) described() (d device.Device) {
	o.set(func() { d = o.device })
	return d
}

// names are those of the events so far.
func (o *output) names() (all []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, e := range o.events {
		all = append(all, e.Name)
	}
	return all
}

// payload is that of the newest event with a name.
func (o *output) payload(name string) (p map[string]any) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, e := range o.events {
		if e.Name == name {
			p = nil
			_ = json.Unmarshal(e.Payload, &p)
		}
	}
	return p
}

// state is the newest of a key.
func (o *output) state(key string) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, st := range slices.Backward(o.states) {
		if st.Key == key {
			return string(st.Payload)
		}
	}
	return "none"
}

func (o *output) status() health.Status {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.statuses) == 0 {
		return health.Status{}
	}
	return o.statuses[len(o.statuses)-1]
}

// options are those of a source at a server.
func options(url string, change ...func(*octoprint.Options)) *octoprint.Options {
	o := octoprint.Type.Options().(*octoprint.Options)
	o.Name, o.Type, o.URL, o.APIKey = "octo", "octoprint", url, config.Secret(key)
	for _, c := range change {
		c(o)
	}
	return o
}

// run runs a source until stop is called, or the test ends.
func run(t *testing.T, o *octoprint.Options, out *output, log ...*bytes.Buffer) (stop func()) {
	t.Helper()
	logger := zerolog.Nop()
	if len(log) > 0 {
		logger = zerolog.New(&locked{b: log[0]})
	}
	source, err := o.Build(sources.Deps{Log: logger})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- source.Run(ctx, out) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Errorf("Run: %v", err)
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

// locked is a log that one goroutine at a time writes to.
type locked struct {
	mu sync.Mutex
	b  *bytes.Buffer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// until waits for a condition.
func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	testkit.Eventually(t, what, condition)
}

// wantNames waits for exactly these events.
func wantNames(t *testing.T, out *output, names ...string) {
	t.Helper()
	end := time.Now().Add(patience)
	for !slices.Equal(out.names(), names) {
		if time.Now().After(end) {
			t.Fatalf("events:\n got %v\nwant %v", out.names(), names)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// recorded is a line of a recording.
type recorded struct {
	T     float64
	Dir   string
	Frame json.RawMessage
}

func recording(t testing.TB, name string) (all []recorded) {
	t.Helper()
	f, err := os.Open("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var r recorded
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	return all
}

// frames are those that OctoPrint sent, without the first, which the server
// sends by itself.
func frames(t testing.TB, name string) (all []string) {
	t.Helper()
	for _, r := range recording(t, name) {
		if r.Dir == "in" && !bytes.HasPrefix(r.Frame, []byte(`{"connected"`)) {
			all = append(all, string(r.Frame))
		}
	}
	return all
}

// text is what the log has.
func (l *locked) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
