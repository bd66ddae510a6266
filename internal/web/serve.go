package web

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"event2mqtt/internal/metrics"
	"event2mqtt/internal/web/origin"
	"event2mqtt/internal/web/peer"
	"event2mqtt/internal/web/problem"
)

// This file is what becomes of a request.

// HooksPath is where webhook sources hang in.
const HooksPath = "/hooks/"

const (
	healthPath = "/healthz"
	readyPath  = "/readyz"
	healthy    = "ok\n"
)

// serve notes who sends a request, keeps strangers' pages out, and finds who
// answers it. Nothing is redirected: most senders of events do not follow.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	counted := &answer{ResponseWriter: w, counts: &s.counts}
	defer counted.done()
	w = counted
	r = tidied(s.guard.Load().WithTrust(peer.With(r, s.Sender(r))))
	path := route(r.URL)
	if path == healthPath {
		s.healthz(w, r)
		return
	}
	if err := s.Check(r); err != nil {
		s.refuse(w, r, err)
		return
	}
	if s.preflight(w, r) {
		return
	}
	s.mu.RLock()
	h := s.paths[path]
	s.mu.RUnlock()
	switch {
	case h != nil:
		h.ServeHTTP(w, r)
	case path == readyPath:
		s.readyz(w, r)
	case strings.HasPrefix(path, HooksPath) || path+"/" == HooksPath:
		s.hook(w, r, strings.TrimPrefix(path+"/", HooksPath))
	default:
		if h := s.tree(path); h != nil {
			h.ServeHTTP(w, r)
			return
		}
		s.Warn("path").Str("path", short(r.URL.Path)).Stringer("from", peer.Addr(r)).Msg("http: a request is for a path where nothing is; events are posted to " + HooksPath + "SOURCE")
		problem.New(http.StatusNotFound, "nothing is here; events are posted to "+HooksPath+"SOURCE").Write(w)
	}
}

// hook finds the source by the first level below HooksPath.
func (s *Server) hook(w http.ResponseWriter, r *http.Request, below string) {
	name, _, _ := strings.Cut(below, "/")
	s.mu.RLock()
	var h http.Handler
	if mounted := s.hooks[name]; len(mounted) > 0 {
		h = *mounted[len(mounted)-1]
	}
	s.mu.RUnlock()
	if h == nil {
		s.Warn("source "+short(name)).Str("name", short(name)).Stringer("from", peer.Addr(r)).Str("sources", s.sources()).
			Msg("http: an event was refused: no webhook source has this name; correct the sender's URL, or add such a source")
		problem.New(http.StatusNotFound, "no webhook source has this name; the path is "+HooksPath+"SOURCE or "+HooksPath+"SOURCE/EVENT").Write(w)
		return
	}
	h.ServeHTTP(w, r)
}

// sources names those that there are, some of them.
func (s *Server) sources() string {
	const most = 10
	s.mu.RLock()
	names := slices.Sorted(maps.Keys(s.hooks))
	s.mu.RUnlock()
	if len(names) > most {
		names = append(names[:most], "…")
	}
	return strings.Join(names, ", ")
}

// refuse answers a page that may not do what it asks for.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, err error) {
	refused, ok := errors.AsType[*origin.Refused](err)
	if !ok {
		refused = &origin.Refused{Status: http.StatusForbidden, Detail: err.Error()}
	}
	s.Warn(refused.Cause+" "+refused.Value).Str(refused.Cause, refused.Value).Stringer("from", peer.Addr(r)).Str("path", short(r.URL.Path)).
		Msg("http: a request was refused: " + refused.Detail)
	problem.New(refused.Status, refused.Detail).Write(w)
}

// preflight answers a browser that asks what a page may send (CORS, Fetch
// section 3.3), and lets the pages of http.origins read answers.
func (s *Server) preflight(w http.ResponseWriter, r *http.Request) bool {
	from, ok := s.guard.Load().Allowed(r)
	if !ok {
		return false
	}
	h := w.Header()
	h.Set("Access-Control-Allow-Origin", from)
	h.Add("Vary", "Origin")
	if r.Method != http.MethodOptions || r.Header.Get("Access-Control-Request-Method") == "" {
		return false
	}
	h.Set("Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, DELETE")
	if headers := r.Header.Get("Access-Control-Request-Headers"); headers != "" {
		h.Set("Access-Control-Allow-Headers", headers)
	}
	w.WriteHeader(http.StatusNoContent)
	return true
}

// healthz says that the process lives.
func (s *Server) healthz(w http.ResponseWriter, r *http.Request) {
	if !s.reads(w, r) {
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = io.WriteString(w, healthy)
}

// readyz says whether events are accepted. A broker that is away is no reason
// not to accept them; it is seen in the parts. Strangers learn how the parts
// are, and not what they are connected to.
func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	if !s.reads(w, r) {
		return
	}
	ready, parts := s.health()
	if !s.Access.Inside(r) {
		for i := range parts {
			parts[i].Detail, parts[i].LastError = "", ""
		}
	}
	w.Header().Set("Content-Type", "application/json")
	if !ready {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"ready": ready, "components": parts})
}

// reads reports whether a request only reads; others are refused.
func (s *Server) reads(w http.ResponseWriter, r *http.Request) bool {
	if r.Method == http.MethodGet || r.Method == http.MethodHead {
		return true
	}
	s.Warn("method "+r.URL.Path).Str("path", r.URL.Path).Str("method", short(r.Method)).Stringer("from", peer.Addr(r)).
		Msg("http: a request was refused: this path is read with GET; events are posted to " + HooksPath + "SOURCE")
	w.Header().Set("Allow", "GET, HEAD")
	problem.New(http.StatusMethodNotAllowed, "this is read with GET").Write(w)
	return false
}

// tidied is a request whose path has no empty levels: proxies and forms double
// slashes, or leave one at the end.
func tidied(r *http.Request) *http.Request {
	path := r.URL.EscapedPath()
	if !strings.Contains(path, "//") && (len(path) < 2 || path[len(path)-1] != '/') {
		return r
	}
	levels := strings.FieldsFunc(path, func(c rune) bool { return c == '/' })
	escaped := "/" + strings.Join(levels, "/")
	plain, err := url.PathUnescape(escaped)
	if err != nil {
		return r
	}
	tidy, u := *r, *r.URL
	u.Path, u.RawPath = plain, escaped
	tidy.URL = &u
	return &tidy
}

// route is the path that decides who answers. A slash that is written %2F
// divides no levels.
func route(u *url.URL) string {
	if escaped := u.EscapedPath(); strings.Contains(strings.ToUpper(escaped), "%2F") {
		return escaped
	}
	return u.Path
}

// short bounds what somebody sent, for the log.
func short(text string) string {
	const most = 64
	if len(text) <= most {
		return text
	}
	return text[:most] + "…"
}

// counts are how many answers there were, by status.
type counts [600]atomic.Uint64

func (c *counts) add(status int) {
	if status >= 100 && status < len(c) {
		c[status].Add(1)
	}
}

func (c *counts) measure(p *metrics.Page) {
	for status := range c {
		if n := c[status].Load(); n > 0 {
			p.Add(metrics.HTTPResponses, float64(n), strconv.Itoa(status))
		}
	}
}

// answer counts the status of an answer.
type answer struct {
	http.ResponseWriter
	counts *counts
	status int
}

func (a *answer) WriteHeader(status int) {
	if a.status == 0 && status >= 200 {
		a.status = status
	}
	a.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// Hijack is for WebSockets.
func (a *answer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	a.status = http.StatusSwitchingProtocols
	return http.NewResponseController(a.ResponseWriter).Hijack()
}

func (a *answer) done() {
	if a.status == 0 {
		a.status = http.StatusOK
	}
	a.counts.add(a.status)
}
