// Package api is the program's HTTP API, version 1, for its page, its command
// line and other programs: what happens, as it happens and in the past, how all
// parts are, and what can be asked of them. What is asked for is done by the
// Program; who may ask is decided in package access. While nobody asks it holds
// no memory, and no goroutine runs.
//
// docs/api.md says what each path answers; it is made from openapi.json, which
// every answer is checked against in tests.
package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/rs/zerolog"

	"event2mqtt/internal/journal"
	"event2mqtt/internal/trace"
	"event2mqtt/internal/web/access"
	"event2mqtt/internal/web/peer"
	"event2mqtt/internal/web/problem"
)

// Prefix begins all paths.
const Prefix = "/api/v1/"

// Options are what an API needs.
type Options struct {
	Program Program
	Journal *journal.Journal
	Trace   *trace.Ring
	Access  *access.Access
	// Warn begins a line of the log about what was refused, or returns nil if
	// its like was written not long ago.
	Warn func(key string) *zerolog.Event
	Log  zerolog.Logger
}

// API serves. Make it with New, and Close it.
type API struct {
	o       Options
	mux     func() *http.ServeMux // made when somebody asks first
	hub     hub
	streams streams
	replays replays

	ending context.Context // ends with Close
	end    context.CancelFunc
	wg     sync.WaitGroup // of what goes on without a request
}

// call is a request of somebody who may send it.
type call struct {
	*http.Request
	who access.Caller
}

// param is the first value of a parameter in the address. Unlike FormValue it
// does not look at the body, which FormValue would read whole, and write to the
// disk, if it said that it is multipart.
func (c *call) param(name string) string { return c.URL.Query().Get(name) }

// handler answers a request. An error is answered as a problem.
type handler func(a *API, w http.ResponseWriter, c call) error

// methods are the handlers of one path.
type methods map[string]handler

// paths is what is served below Prefix.
func paths() map[string]methods {
	return map[string]methods{
		"state":                     {"GET": (*API).getState},
		"stream":                    {"GET": (*API).getStream},
		"subscribe":                 {"GET": (*API).getSubscribe},
		"events":                    {"GET": (*API).getEvents, "POST": (*API).postEvent},
		"events/{seq}":              {"GET": (*API).getEvent},
		"publish":                   {"POST": (*API).postPublish},
		"publish/{topic...}":        {"POST": (*API).postPublishTopic},
		"replay":                    {"GET": (*API).getReplay, "POST": (*API).postReplay, "DELETE": (*API).deleteReplay},
		"devices":                   {"GET": (*API).getDevices},
		"devices/{device}/picture":  {"GET": (*API).getPicture},
		"devices/{device}/{action}": {"POST": (*API).postCommand},
		"topics":                    {"GET": (*API).getTopics},
		"retained/{topic...}":       {"GET": (*API).getRetained, "DELETE": (*API).deleteRetained},
		"clients":                   {"GET": (*API).getClients},
		"clients/{client...}":       {"DELETE": (*API).deleteClient},
		"config":                    {"GET": (*API).getConfig},
		"schema":                    {"GET": (*API).getSchema},
		"openapi.json":              {"GET": (*API).getOpenAPI},
		"reload":                    {"POST": (*API).postReload},
		"refused":                   {"GET": (*API).getRefused, "POST": (*API).postRefused},
		"octoprint-homeassistant":   {"POST": (*API).postLeftover},
		"session":                   {"POST": (*API).postSession, "DELETE": (*API).deleteSession},
	}
}

// forAccounts are the paths that accounts of the bundled broker may use.
var forAccounts = map[string]bool{"publish": true, "publish/{topic...}": true, "subscribe": true}

// open are the paths that serve those who have no right yet.
var open = map[string]bool{"session": true}

// New returns an API that serves nothing yet.
func New(o Options) *API {
	a := &API{o: o}
	a.mux = sync.OnceValue(a.routes)
	a.hub.a = a
	a.ending, a.end = context.WithCancel(context.Background())
	return a
}

// routes makes what finds the handler of a path.
func (a *API) routes() *http.ServeMux {
	mux := http.NewServeMux()
	for path, m := range paths() {
		mux.HandleFunc(Prefix+path, func(w http.ResponseWriter, r *http.Request) { a.serve(w, r, m, path) })
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		a.fail(w, r, problem.New(http.StatusNotFound, "there is nothing at this path; "+Prefix+"openapi.json says what there is"))
	})
	return mux
}

// Close ends all streams and what goes on without a request, and waits for the
// latter.
func (a *API) Close() {
	a.end()
	a.wg.Wait()
}

// contentPolicy lets nothing run that the program does not serve itself.
const contentPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'self'"

// Harden sets the headers of all answers that a browser may show.
func Harden(h http.Header) {
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Content-Security-Policy", contentPolicy)
}

// ServeHTTP implements http.Handler for all paths below Prefix.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	Harden(w.Header())
	w.Header().Set("Cache-Control", "no-store")
	if r.Header.Get("Origin") != "" && w.Header().Get("Access-Control-Allow-Origin") != "" {
		w.Header().Set("Cross-Origin-Resource-Policy", "cross-origin") // the configuration allows its page
	}
	a.mux().ServeHTTP(w, r)
}

func (a *API) serve(w http.ResponseWriter, r *http.Request, m methods, path string) {
	c := call{Request: r}
	if !open[path] {
		who, why := a.o.Access.Admit(r)
		if why != nil {
			a.fail(w, r, why)
			return
		}
		if who.Rights != nil && !forAccounts[path] {
			a.fail(w, r, problem.New(http.StatusForbidden, "an account of the broker may publish and subscribe; this needs http.token"))
			return
		}
		c.who = who
	}
	h := m[r.Method]
	if r.Method == http.MethodHead && h == nil {
		h = m[http.MethodGet]
	}
	if h == nil {
		var allowed []string
		for _, method := range []string{"GET", "POST", "DELETE"} {
			if m[method] != nil {
				allowed = append(allowed, method)
			}
		}
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		a.fail(w, r, problem.New(http.StatusMethodNotAllowed, "this path is for "+strings.Join(allowed, ", ")))
		return
	}
	if err := h(a, w, c); err != nil {
		a.fail(w, r, err)
	}
}

// fail answers an error.
func (a *API) fail(w http.ResponseWriter, r *http.Request, err error) {
	var p *problem.Details
	switch {
	case errors.As(err, &p):
	case r.Context().Err() != nil:
		return // nobody is left to tell
	case a.ending.Err() != nil:
		p = problem.New(http.StatusServiceUnavailable, "the program is stopping")
	default:
		p = problem.New(http.StatusInternalServerError, err.Error())
	}
	switch p.Status {
	case http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", "Bearer")
		fallthrough
	case http.StatusForbidden, http.StatusTooManyRequests:
		a.o.Warn(fmt.Sprintf("api %d %s", p.Status, peer.Network(peer.Addr(r)))).Str("path", short(r.URL.Path)).Stringer("from", peer.Addr(r)).
			Msg("http: a request to the API was refused: " + p.Detail)
	}
	p.Write(w)
}

// done logs what somebody has changed.
func (a *API) done(c call, what string) {
	a.o.Log.Info().Str("by", c.who.Name).Stringer("from", peer.Addr(c.Request)).Msg("api: " + what)
}

// answer writes JSON.
func answer(w http.ResponseWriter, status int, v any) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // the sender may be gone
	return nil
}

// body reads a request's body, at most so many bytes.
func body(w http.ResponseWriter, c call, most int) ([]byte, error) {
	text, err := io.ReadAll(http.MaxBytesReader(w, c.Body, int64(most)))
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		return nil, problem.New(http.StatusRequestEntityTooLarge, fmt.Sprintf("the body has more than %d bytes", most))
	}
	if err != nil {
		return nil, problem.New(http.StatusBadRequest, "the body could not be read: "+err.Error())
	}
	return text, nil
}

// decode reads a body of JSON, in which no key is unknown.
func decode(text []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	err := d.Decode(into)
	if err == nil && d.More() {
		err = errors.New("something follows the JSON")
	}
	if err != nil {
		return invalid("the body cannot be used: " + err.Error())
	}
	return nil
}

// invalid is the problem of a request that says what cannot be.
func invalid(detail string) *problem.Details {
	return problem.New(http.StatusUnprocessableEntity, detail)
}

func notFound(detail string) *problem.Details { return problem.New(http.StatusNotFound, detail) }

// short bounds what somebody sent, for the log.
func short(text string) string {
	const most = 64
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}
