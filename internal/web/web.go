// Package web is the program's HTTP server: the place where webhook sources
// hang in, and the health checks. It knows nothing of events.
package web

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"event2mqtt/internal/config"
	"event2mqtt/internal/health"
	"event2mqtt/internal/metrics"
	"event2mqtt/internal/web/access"
	"event2mqtt/internal/web/origin"
	"event2mqtt/internal/web/peer"
)

// Config are the options of the http section.
type Config struct {
	Listen         string `koanf:"listen" default:"localhost:8127" format:"address" doc:"Where HTTP is served: webhooks, health, metrics, the API; localhost is 127.0.0.1 and ::1."`
	MaxConnections int    `koanf:"max_connections" default:"256" min:"1" max:"65535" doc:"How many connections there may be at a time; one address may have a quarter of them, and at least 8."`
	// Token lets programs elsewhere use the API.
	Token          config.Secret `koanf:"token" doc:"The bearer token with which programs on other machines may use the API."`
	Origins        []string      `koanf:"origins" example:"https://panel.example.org" doc:"Web pages of these origins may send events and use the API, as programs may."`
	Hosts          []string      `koanf:"hosts" example:"hooks.example.org" doc:"Names that this program is reached by, beside addresses, names without a dot, private domains such as .lan, and this machine's own name."`
	TrustedProxies []string      `koanf:"trusted_proxies" example:"172.16.0.0/12" doc:"Proxies, addresses or networks, whose X-Forwarded-For or Forwarded header is believed; those on this machine always are. They have no share of connections."`
}

// Defaults returns the options that hold where nothing is configured.
func Defaults() (c Config) {
	config.SetDefaults(&c)
	return c
}

// Check tells what is wrong that tags do not, as config.KeyErrors.
func (c Config) Check() error {
	var errs []error
	for i, pattern := range c.Origins {
		if err := origin.CheckOrigin(pattern); err != nil {
			errs = append(errs, config.Errorf(fmt.Sprintf("origins[%d]", i), "%v", err))
		}
	}
	for i, pattern := range c.Hosts {
		if err := origin.CheckHost(pattern); err != nil {
			errs = append(errs, config.Errorf(fmt.Sprintf("hosts[%d]", i), "%v", err))
		}
	}
	_, err := peer.ParseProxies(c.TrustedProxies)
	if bad, ok := errors.AsType[*peer.ProxyError](err); ok {
		errs = append(errs, config.Errorf(fmt.Sprintf("trusted_proxies[%d]", bad.Index), "%v", bad))
	}
	return errors.Join(errs...)
}

// Time-outs against slow and idle peers.
const (
	headerTimeout = 5 * time.Second
	readTimeout   = 30 * time.Second
	idleTimeout   = 2 * time.Minute
	maxHeader     = 16 << 10
	longest       = 5 * time.Minute // of a request
)

// times are those that tests shorten.
type times struct {
	write  time.Duration // of each write of an answer
	answer time.Duration // of all writes of one answer
	wait   time.Duration // for room
}

// Component is how one part of the program is.
type Component struct {
	Name string `json:"name"`
	OK   bool   `json:"ok"` // its level is up
	health.Report
	// Started is when it was started, zero for what runs always.
	Started time.Time `json:"started,omitzero"`
}

// Server serves HTTP. It is safe for concurrent use.
type Server struct {
	log    zerolog.Logger
	health func() (ready bool, parts []Component)
	// Access says who may use the API, and see addresses and paths.
	Access *access.Access
	times  times

	room    *room
	waiting waiting
	guard   atomic.Pointer[origin.Guard]
	token   atomic.Pointer[string]   // http.token
	hosts   atomic.Pointer[[]string] // names that the configuration has for this program
	counts  counts
	notices notices

	mu    sync.RWMutex
	hooks map[string][]*http.Handler // by name of the source; the last serves
	paths map[string]http.Handler    // by whole path
	trees map[string]http.Handler    // by the path that all of theirs begin with, which ends with a slash
}

// New returns a server that reports what health says.
func New(health func() (bool, []Component), log zerolog.Logger) *Server {
	s := &Server{
		log: log, health: health, hooks: map[string][]*http.Handler{}, paths: map[string]http.Handler{}, trees: map[string]http.Handler{}, room: newRoom(1),
		times: times{write: 30 * time.Second, answer: longest, wait: 2 * time.Second},
	}
	s.Configure(Defaults(), nil)
	s.Access = access.New(access.Options{Configured: func() string { return *s.token.Load() }, Guard: s.Guard, Hosts: func() []string { return *s.hosts.Load() }})
	return s
}

// Configure has what is served from now on follow c, which was checked; where
// it listens is not the server's. Pages of socketOrigins may open WebSockets,
// beside those of c.Origins. Connections that there are stay.
func (s *Server) Configure(c Config, socketOrigins []string) {
	proxies, _ := peer.ParseProxies(c.TrustedProxies)
	s.room.set(c.MaxConnections, proxies)
	o := origin.Options{Origins: c.Origins, SocketOrigins: socketOrigins, Hosts: c.Hosts, Proxies: proxies}
	if host, _, err := net.SplitHostPort(c.Listen); err == nil && host != "" {
		o.Hosts = append([]string{host}, o.Hosts...)
	}
	s.hosts.Store(&o.Hosts)
	o.Machine, _ = os.Hostname()
	o.Supervisor = os.Getenv("SUPERVISOR_TOKEN") != ""
	s.guard.Store(origin.New(o))
	token := string(c.Token)
	s.token.Store(&token)
}

// Check returns why a request is refused for the page that it may be of: an
// *origin.Refused. No strange page knows http.token.
func (s *Server) Check(r *http.Request) error {
	err := s.guard.Load().Check(r)
	if err != nil && s.Access.Knows(r) {
		return nil
	}
	return err
}

// Sender returns who sent a request, also behind a proxy that is trusted.
func (s *Server) Sender(r *http.Request) netip.Addr { return s.guard.Load().Sender(r) }

// Handle serves a path by h from now on, or no more if h is nil.
func (s *Server) Handle(path string, h http.Handler) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.paths[path] = h; h == nil {
		delete(s.paths, path)
	}
}

// HandleTree serves all paths below prefix, which ends with a slash, by h from
// now on, or no more if h is nil. Paths of their own, and longer prefixes, go first.
func (s *Server) HandleTree(prefix string, h http.Handler) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.trees[prefix] = h; h == nil {
		delete(s.trees, prefix)
	}
}

// tree returns who serves a path below a prefix, or nil.
func (s *Server) tree(path string) (h http.Handler) {
	longest := 0
	s.mu.RLock()
	defer s.mu.RUnlock()
	for prefix, tree := range s.trees {
		if len(prefix) > longest && strings.HasPrefix(path, prefix) {
			longest, h = len(prefix), tree
		}
	}
	return h
}

// Guard returns what says which web pages may do what, as it is configured now.
func (s *Server) Guard() *origin.Guard { return s.guard.Load() }

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

// Measure adds the counters to what is shown of the program.
func (s *Server) Measure(p *metrics.Page) { s.counts.measure(p) }

// Serve serves l until ctx ends. Several listeners may be served. At the end
// clients have time to go by themselves, until linger ends, and requests that
// are under way then to finish, until patience ends; no longer than they should
// ever take.
func (s *Server) Serve(ctx, linger, patience context.Context, l net.Listener) error {
	bye := farewell{none: make(chan struct{}, 1)}
	server := &http.Server{
		Handler:           bye.handler(http.HandlerFunc(s.serve)),
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       readTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          debugLog(s.log),
		ConnState:         bye.state, // writes have deadlines of their own: see conn
	}
	defer server.Close()
	door := newDoor(l, s)
	defer door.leave()
	defer context.AfterFunc(ctx, func() {
		bye.begun.Store(true)
		_ = door.Close()
	})()
	err := server.Serve(door)
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
