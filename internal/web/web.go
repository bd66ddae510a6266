// Package web is the program's HTTP server: the place where webhook sources
// hang in, and the health checks. It knows nothing of events.
package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/net/netutil"

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

	mu    sync.RWMutex
	hooks map[string][]*http.Handler // by name of the source; the last serves
	paths map[string]http.Handler    // by whole path
}

// New returns a server that reports what health says.
func New(health func() (bool, []Component), log zerolog.Logger) *Server {
	return &Server{log: log, health: health, hooks: map[string][]*http.Handler{}, paths: map[string]http.Handler{}}
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

// Serve serves l, to so many connections at a time, until ctx ends; then it
// lets requests that are under way finish, until limit ends or they have had
// more time than any should take. Several listeners may be served.
func (s *Server) Serve(ctx, limit context.Context, l net.Listener, connections int) error {
	mux := http.NewServeMux()
	mux.HandleFunc(HooksPath, s.hook)
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /readyz", s.readyz)
	mux.HandleFunc("/", s.path)
	server := &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       readTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          debugLog(s.log),
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-ctx.Done()
		limit, cancel := context.WithTimeout(limit, longest)
		defer cancel()
		if server.Shutdown(limit) != nil {
			_ = server.Close()
		}
	}()
	err := server.Serve(netutil.LimitListener(l, connections))
	if errors.Is(err, http.ErrServerClosed) {
		<-stopped
		return nil
	}
	return err
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
