package standin

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"event2mqtt/internal/page"
	"event2mqtt/internal/web/problem"
)

// Token is the one that the scenario login asks for.
const Token = "let me in"

// Server serves scenarios, each below a path with its name, as a proxy would:
// the page's relative addresses are tried, too.
type Server struct {
	mu   sync.Mutex
	sims map[string]*Sim
	page *page.Page
	// Seen is called for each request, if it is set.
	Seen func(*http.Request)
}

// NewServer returns a server.
func NewServer() *Server {
	return &Server{sims: map[string]*Sim{}, page: page.New(page.Options{
		Admit: func(r *http.Request) *problem.Details {
			if c, err := r.Cookie("session"); r.Header.Get("X-Scenario") == "login" && (err != nil || c.Value != "ok") {
				return problem.New(http.StatusUnauthorized, "this needs http.token")
			}
			return nil
		},
		Login: func(w http.ResponseWriter, _ *http.Request, token string) *problem.Details {
			if token != Token {
				return problem.New(http.StatusUnauthorized, "the token is not right; it is http.token of the configuration")
			}
			http.SetCookie(w, &http.Cookie{Name: "session", Value: "ok", Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode})
			return nil
		},
	})}
}

// Sim returns a scenario. One that is named calm-2 is another one like calm.
func (s *Server) Sim(name string) *Sim {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sims[name] == nil {
		kind, _, _ := strings.Cut(name, "-")
		s.sims[name] = New(kind)
	}
	return s.sims[name]
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.Seen != nil {
		s.Seen(r)
	}
	name, path, ok := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	kind, _, _ := strings.Cut(name, "-")
	if !ok || !slices.Contains(Scenarios, kind) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		for _, name := range Scenarios {
			fmt.Fprintf(w, "<p><a href=%q>%s</a>\n", "/"+name+"/", name)
		}
		return
	}
	sim := s.Sim(name)
	sim.mu.Lock()
	mode, gone := sim.mode, sim.gone
	sim.mu.Unlock()
	if mode == Down {
		panic(http.ErrAbortHandler) // the connection is closed
	}
	r.Header.Set("X-Scenario", kind)
	rest, isAPI := strings.CutPrefix(path, "api/v1/")
	if !isAPI {
		r.URL.Path = "/" + path
		s.page.ServeHTTP(w, r)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	if c, err := r.Cookie("session"); kind == "login" && (err != nil || c.Value != "ok") {
		problem.New(http.StatusUnauthorized, "this needs http.token: send it as a bearer token, or log in").Write(w)
		return
	}
	switch {
	case rest == "stream":
		sim.stream(w, r, mode, gone)
	case r.Method == http.MethodGet:
		sim.get(w, r, rest)
	default:
		sim.change(w, r, rest)
	}
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the browser may be gone
}

func (s *Sim) get(w http.ResponseWriter, r *http.Request, path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case path == "state":
		d := s.whole()
		d["latest"] = append([]Object{}, s.log[max(0, len(s.log)-300):]...)
		answer(w, http.StatusOK, d)
	case path == "events":
		s.events(w, r)
	case strings.HasPrefix(path, "events/"):
		n, _ := strconv.Atoi(path[len("events/"):])
		for _, e := range s.log {
			if e["seq"] == n {
				whole := Object{}
				for k, v := range e {
					whole[k] = v
				}
				delete(whole, "truncated")
				whole["payload"] = Object{"whole": "all of it", "bytes": e["size"]}
				answer(w, http.StatusOK, whole)
				return
			}
		}
		problem.New(http.StatusNotFound, "this event is not kept").Write(w)
	case path == "topics":
		answer(w, http.StatusOK, s.topics(r.FormValue("prefix"), r.FormValue("q"), r.FormValue("depth") == "1"))
	case path == "clients" && s.external():
		problem.New(http.StatusNotFound, "events go to another broker; only the bundled one tells this").Write(w)
	case path == "clients":
		answer(w, http.StatusOK, s.clients())
	case strings.HasSuffix(path, "/picture"):
		w.Header().Set("Content-Type", "image/png")
		_, _ = w.Write(picture) // the browser may be gone
	default:
		problem.New(http.StatusNotFound, "there is nothing at "+path).Write(w)
	}
}

// events answers a page of the history, the newest first.
func (s *Sim) events(w http.ResponseWriter, r *http.Request) {
	number := func(name string, otherwise float64) float64 {
		if n, err := strconv.ParseFloat(r.FormValue(name), 64); err == nil {
			return n
		}
		return otherwise
	}
	q, topic := strings.ToLower(r.FormValue("q")), r.FormValue("topic")
	from, to, before, limit := number("from", 0), number("to", 9e12), int(number("before", 9e12)), int(number("limit", 100))
	found, next, out := 0, any(nil), []Object{}
	for _, e := range slices.Backward(s.log) {
		n, stored := e["seq"].(int)
		at := e["time"].(float64)
		text, _ := json.Marshal(e)
		if !stored || n >= before || at < from || at > to || topic != "" && e["topic"] != topic || q != "" && !strings.Contains(strings.ToLower(string(text)), q) {
			continue
		}
		if found++; len(out) < limit {
			out = append(out, e)
		} else if next == nil {
			next = n + 1
		}
	}
	answer(w, http.StatusOK, Object{"events": out, "next": next, "found": found, "whole": true})
}

func (s *Sim) change(w http.ResponseWriter, r *http.Request, path string) {
	text, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	var body struct {
		Source, Event, Q string
		Payload          any
		Seqs             []int
		DryRun           bool `json:"dry_run"`
	}
	_ = json.Unmarshal(text, &body)
	s.mu.Lock()
	defer s.mu.Unlock()
	dry := body.DryRun || r.FormValue("dry_run") != ""
	if !dry {
		s.Calls = append(s.Calls, r.Method+" "+path+" "+string(text))
	}
	switch {
	case path == "events" && dry:
		answer(w, http.StatusOK, tried(body.Event, body.Payload))
	case path == "events":
		p := Object{"test": true}
		if given, ok := body.Payload.(map[string]any); ok {
			for k, v := range given {
				p[k] = v
			}
		}
		fate := Object(nil)
		if tried(body.Event, body.Payload)["publish"] == nil {
			fate = drop(1, "drop: true")
		}
		e := s.event(time.Now(), body.Source, body.Event, p, fate)
		s.add(e)
		answer(w, http.StatusAccepted, Object{"id": e["id"], "seq": e["seq"], "fate": e["fate"]})
	case path == "replay" && r.Method == http.MethodPost:
		n := len(body.Seqs)
		if n == 0 {
			for _, e := range s.log {
				if e["seq"] != nil {
					n++
				}
			}
		}
		answer(w, map[bool]int{true: http.StatusOK, false: http.StatusAccepted}[dry], Object{"count": n, "rate": 50, "seconds": max(1, n/50)})
	case strings.HasPrefix(path, "clients/"):
		s.kicked[path[len("clients/"):]] = true
		answer(w, http.StatusOK, Object{})
	case strings.HasPrefix(path, "retained/"):
		s.deleted[path[len("retained/"):]] = true
		answer(w, http.StatusOK, Object{})
	default:
		answer(w, http.StatusOK, Object{"result": "done", "reply": nil})
	}
}

// stream tells what happens, by server-sent events.
func (s *Sim) stream(w http.ResponseWriter, r *http.Request, mode Mode, gone <-chan struct{}) {
	if mode == Full {
		problem.New(http.StatusTooManyRequests, "there are 16 streams").Write(w)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	flush := func() { _ = http.NewResponseController(w).Flush() }
	flush()
	if mode == Silent {
		select {
		case <-gone:
		case <-r.Context().Done():
		}
		return
	}
	put := func(f frame) {
		text, _ := json.Marshal(f.data)
		if f.id > 0 {
			fmt.Fprintf(w, "id: %d\n", f.id)
		}
		fmt.Fprintf(w, "event: %s\ndata: %s\n\n", f.kind, text)
	}
	since, _ := strconv.Atoi(r.FormValue("since"))
	if last, err := strconv.Atoi(r.Header.Get("Last-Event-ID")); err == nil {
		since = max(since, last)
	}
	sub := make(chan frame, 4096)
	s.mu.Lock()
	s.subs[sub] = struct{}{}
	_, _ = io.WriteString(w, "retry: 200\n\n")
	put(frame{"state", s.whole(), 0})
	missed, id := []Object{}, 0
	for _, e := range s.log {
		if n, ok := e["seq"].(int); ok && n > since {
			missed, id = append(missed, e), n
		}
	}
	if len(missed) > 0 {
		put(frame{"items", missed, id})
	}
	s.mu.Unlock()
	flush()
	defer func() {
		s.mu.Lock()
		delete(s.subs, sub)
		s.mu.Unlock()
	}()
	for {
		select {
		case <-gone:
			return
		case <-r.Context().Done():
			return
		case f := <-sub:
			put(f)
			flush()
		}
	}
}
