// Package web is the program's HTTP server: the place where webhook sources
// hang in, and the health checks. It knows nothing of events.
package web

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"event2mqtt/internal/config"
	"event2mqtt/internal/web/problem"
)

// Config are the options of the http section.
type Config struct {
	Listen         string `koanf:"listen" default:"127.0.0.1:8127" format:"address" doc:"Where HTTP is served: webhooks, health, metrics, the API."`
	MaxConnections int    `koanf:"max_connections" default:"256" min:"1" max:"65535" doc:"How many connections there may be at a time."`
	// Token lets programs elsewhere use the API.
	Token config.Secret `koanf:"token" doc:"Lets programs on other machines use the API, as a bearer token."`
}

// Defaults returns the options that hold where nothing is configured.
func Defaults() (c Config) {
	config.SetDefaults(&c)
	return c
}

// HooksPath is where webhook sources hang in.
const HooksPath = "/hooks/"

// Time-outs against slow and idle peers.
const (
	headerTimeout = 5 * time.Second
	readTimeout   = 30 * time.Second
	idleTimeout   = 2 * time.Minute
	maxHeader     = 16 << 10
	longest       = 5 * time.Minute // of a request
)

// Component is the state of one part of the program.
type Component struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
	// Since is when it was started, zero for what runs always.
	Since time.Time `json:"since,omitzero"`
}

// Server serves HTTP. It is safe for concurrent use.
type Server struct {
	log    zerolog.Logger
	health func() (ready bool, parts []Component)

	limit limit

	mu    sync.RWMutex
	hooks map[string][]*http.Handler // by name of the source; the last serves
	paths map[string]http.Handler    // by whole path
}

// New returns a server that reports what health says.
func New(health func() (bool, []Component), log zerolog.Logger) *Server {
	s := &Server{log: log, health: health, hooks: map[string][]*http.Handler{}, paths: map[string]http.Handler{}}
	s.limit.changed.L = &s.limit.mu
	s.limit.set(Defaults().MaxConnections)
	return s
}

// Handle serves a path by h from now on, or no more if h is nil.
func (s *Server) Handle(path string, h http.Handler) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.paths[path] = h; h == nil {
		delete(s.paths, path)
	}
}

// Mount serves /hooks/NAME and what is below it by h until unmount is called.
// What is mounted later goes first: one handler takes over from the other, and
// gives back, with no moment in between.
func (s *Server) Mount(name string, h http.Handler) (unmount func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	mine := &h
	s.hooks[name] = append(s.hooks[name], mine)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.hooks[name] = slices.DeleteFunc(s.hooks[name], func(other *http.Handler) bool { return other == mine })
		if len(s.hooks[name]) == 0 {
			delete(s.hooks, name)
		}
	}
}

// SetMaxConnections bounds the connections to each listener from now on. Those
// that there are stay.
func (s *Server) SetMaxConnections(most int) { s.limit.set(most) }

// Serve serves l until ctx ends. Several listeners may be served. At the end
// clients have time to go by themselves, until linger ends, and requests that
// are under way then to finish, until patience ends; no longer than they should
// ever take.
func (s *Server) Serve(ctx, linger, patience context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	mux.HandleFunc(HooksPath, s.hook)
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /readyz", s.readyz)
	mux.HandleFunc("/", s.path)
	bye := farewell{none: make(chan struct{}, 1)}
	server := &http.Server{
		Handler:           bye.handler(mux),
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       readTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          debugLog(s.log),
		ConnState:         bye.state,
	}
	defer server.Close()
	limited := &limitListener{Listener: l, limit: &s.limit}
	defer context.AfterFunc(ctx, func() {
		bye.begun.Store(true)
		_ = limited.Close()
	})()
	err := server.Serve(limited)
	if ctx.Err() == nil {
		return err
	}
	linger, cancelLinger := context.WithTimeout(linger, longest)
	defer cancelLinger()
	bye.wait(linger.Done())
	patience, cancel := context.WithTimeout(patience, longest)
	defer cancel()
	_ = server.Shutdown(patience)
	return nil
}

// hook finds the source by the first level below HooksPath.
func (s *Server) hook(w http.ResponseWriter, r *http.Request) {
	name, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, HooksPath), "/")
	s.mu.RLock()
	var h http.Handler
	if mounted := s.hooks[name]; len(mounted) > 0 {
		h = *mounted[len(mounted)-1]
	}
	s.mu.RUnlock()
	if h == nil {
		problem.New(http.StatusNotFound, "no webhook source has this name; the path is "+HooksPath+"SOURCE or "+HooksPath+"SOURCE/EVENT").Write(w)
		return
	}
	h.ServeHTTP(w, r)
}

func (s *Server) path(w http.ResponseWriter, r *http.Request) {
	s.mu.RLock()
	h := s.paths[r.URL.Path]
	s.mu.RUnlock()
	if h == nil {
		problem.New(http.StatusNotFound, "nothing is here; events are posted to "+HooksPath+"SOURCE").Write(w)
		return
	}
	h.ServeHTTP(w, r)
}

// healthz says that the process lives.
func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = fmt.Fprintln(w, "ok")
}

// readyz says whether events are taken. A broker that is away is no reason
// not to take them; it is seen in the parts.
func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) {
	ready, parts := s.health()
	w.Header().Set("Content-Type", "application/json")
	if !ready {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"ready": ready, "components": parts})
}
