// Package webhook is the source that takes events over HTTP: requests to
// /hooks/SOURCE and /hooks/SOURCE/EVENT. It answers 2xx when the events are
// durable, not before; any other answer means that nothing was kept. Every
// sender may be hostile: what it sends is bounded in bytes and in number before
// anything is made of it. See docs/webhooks.md for what is taken.
package webhook

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/semaphore"

	"event2mqtt/internal/config"
	"event2mqtt/internal/decode"
	"event2mqtt/internal/event"
	"event2mqtt/internal/sources"
	"event2mqtt/internal/web/origin"
	"event2mqtt/internal/web/peer"
)

// Type is this kind of source.
var Type = sources.Type{Name: "webhook", Options: func() sources.Options { return &Config{} }}

// Exclusive implements sources.Options: of two webhooks with one name, the newer
// gets the requests.
func (c *Config) Exclusive() bool { return false }

// Open reports whether anybody who reaches the source may send it events:
// no option of auth holds a secret.
func (c *Config) Open() bool { return !config.HasSecret(c.Auth) }

// Try tells how to send an event to the source at an address of HTTP; empty if
// that takes more than a line.
func (c *Config) Try(address string) string {
	if !c.Open() || !slices.Contains(c.Methods, http.MethodPost) {
		return ""
	}
	return `curl -d '{"file":"a.gcode"}' ` + address + "/hooks/" + c.Name + "/PrintStarted"
}

// Build implements sources.Options.
func (c *Config) Build(d sources.Deps) (sources.Source, error) { return New(*c, d.Mux, d.Log) }

// Source is a webhook source.
type Source struct {
	config  Config
	mux     sources.Mux
	log     zerolog.Logger
	auth    authenticator
	charset decode.Charset // configured
	clock   *sources.Clock
	limit   *limiter // nil is off
	seen    *seen
	tally   *tally
	notes   sync.Map            // of decode.Note: those that were logged
	dropped atomic.Uint64       // file parts
	budget  *semaphore.Weighted // bytes of bodies that are not small, while they are worked on
	intake  *intake             // memory of bodies that are not small, from when they come
	trouble atomic.Int32        // what is known to be wrong with storing
}

// What can be wrong with storing.
const (
	storing int32 = iota
	full
	failing
)

// New makes a source; the error is that of Check.
func New(c Config, mux sources.Mux, log zerolog.Logger) (*Source, error) {
	c.Prepare()
	if err := c.Check(); err != nil {
		return nil, err
	}
	s := &Source{
		config: c, mux: mux, log: log, auth: newAuthenticator(c.Auth), clock: sources.NewClock(c.Timing, log), tally: newTally(log),
		budget: semaphore.NewWeighted(int64(c.MaxUnpacked)), intake: newIntake(c.MaxBody),
	}
	s.charset, _ = decode.Lookup(c.Encoding) // was checked
	if c.RateLimit > 0 {
		s.limit = newLimiter(c.RateLimit, c.RateBurst)
	}
	if c.Auth.HMAC.Scheme == schemeStandard {
		s.seen = newSeen(2 * c.Auth.HMAC.Tolerance)
	}
	return s, nil
}

// Run implements sources.Source.
func (s *Source) Run(ctx context.Context, out sources.Output) error {
	defer s.mux.Mount(s.config.Name, s.Handler(out))()
	out.Ready()
	<-ctx.Done()
	return nil
}

// FilesDropped counts the file parts of multipart bodies, which are not
// carried.
func (s *Source) FilesDropped() uint64 { return s.dropped.Load() }

// UnreadTimes counts the times that could not be read; their events got the
// time of their arrival.
func (s *Source) UnreadTimes() uint64 { return s.clock.Failed() }

// Handler returns the handler of this source, delivering to out.
func (s *Source) Handler(out sources.Output) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodHead || r.Method == http.MethodOptions { // probes
			w.Header().Set("Allow", s.allowed())
			w.WriteHeader(http.StatusOK)
			s.tally.count(http.StatusOK)
			return
		}
		status, n, p := s.take(w, r, out)
		if p != nil {
			s.tally.count(p.Status)
			s.tally.refused(p, r.Method, peer.Addr(r), time.Now())
			p.Write(w)
			return
		}
		if status == http.StatusAccepted {
			status = s.config.RespondStatus
		}
		s.tally.count(status)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, `{"accepted":`+strconv.Itoa(n)+"}\n")
	})
}

// request is what is known of a request while it is handled.
type request struct {
	s        *Source
	ctx      context.Context
	from     netip.Prefix
	now      time.Time
	query    *object // its parameters, nil if nobody wants them
	reserved int64   // of the intake
	held     int64   // of the budget
}

// acquire waits for a share of the source's budget, in bytes, unless it is
// small. A request acquires once.
func (q *request) acquire(n int64) *refusal {
	if n <= small || q.held > 0 {
		return nil
	}
	n = min(n, int64(q.s.config.MaxUnpacked))
	ctx, cancel := context.WithTimeout(q.ctx, patience)
	defer cancel()
	if err := q.s.budget.Acquire(ctx, n); err != nil {
		return later(http.StatusServiceUnavailable, patience, "other large bodies are in work; nothing was kept of this request")
	}
	q.held = n
	return nil
}

func (q *request) release() {
	q.s.budget.Release(q.held)
	q.held = 0
	if q.reserved > 0 {
		q.s.intake.release(q.from, q.reserved)
		q.reserved = 0
	}
}

// take handles one request and returns the status and number of events, or
// what was wrong.
func (s *Source) take(w http.ResponseWriter, r *http.Request, out sources.Output) (int, int, *refusal) {
	if p := s.method(w, r); p != nil {
		return 0, 0, p
	}
	q := &request{s: s, ctx: r.Context(), from: network(r), now: time.Now()}
	defer q.release()
	if s.limit != nil {
		if wait := s.limit.wait(peer.Addr(r), q.now); wait > 0 {
			return 0, 0, later(http.StatusTooManyRequests, wait, "this address sends more requests than are allowed; see rate_limit and rate_burst")
		}
	}
	if s.config.Query || s.config.TimeQuery != "" || s.config.Auth.SecretQuery.Name != "" || r.Method == http.MethodGet {
		var p *refusal
		if q.query, p = s.query(r); p != nil {
			return 0, 0, p
		}
	}
	if p := s.auth.request(r, q.query); p != nil {
		w.Header().Set("WWW-Authenticate", s.auth.challenge())
		return 0, 0, p
	}
	var body content
	if r.Method != http.MethodGet {
		var p *refusal
		if body, p = s.read(w, r, q); p != nil {
			return 0, 0, p
		}
	} // GET has no signature: Check refuses it together with hmac
	events, p := s.events(r, q, body)
	if p != nil {
		return 0, 0, p
	}
	if s.seen != nil {
		id := r.Header.Get(headerStandardID)
		switch s.seen.begin(id, time.Now()) {
		case stored:
			return http.StatusAccepted, 0, nil // sent again; it is here already
		case underWay:
			return 0, 0, later(http.StatusServiceUnavailable, time.Second, "the same message is being stored")
		}
		status, n, p := s.emit(q, out, events)
		s.seen.end(id, p == nil || p.Status == http.StatusGatewayTimeout)
		return status, n, p
	}
	return s.emit(q, out, events)
}

func (s *Source) allowed() string {
	return strings.Join(append(slices.Clone(s.config.Methods), http.MethodHead, http.MethodOptions), ", ")
}

// method checks that a request's method makes events. A GET must not come from
// a web page, which can make a browser send one with no more than an image, nor
// from a browser that fetches what its user may want to see next.
func (s *Source) method(w http.ResponseWriter, r *http.Request) *refusal {
	if !slices.Contains(s.config.Methods, r.Method) {
		w.Header().Set("Allow", s.allowed())
		text := "events are sent with " + strings.Join(s.config.Methods, " or ")
		switch {
		case r.Method == http.MethodGet:
			text += "; for a sender that can only call a URL, set methods: [GET, POST]"
		case slices.Contains(methods, r.Method):
			text += "; to accept " + r.Method + ", add it to the source's methods"
		}
		p := refusef(http.StatusMethodNotAllowed, "%s", text)
		p.cause = text // one for each of the known methods, and one for all others
		return p
	}
	if r.Method != http.MethodGet || origin.Trusted(r) {
		return nil
	}
	h := r.Header
	site := h.Get("Sec-Fetch-Site")
	switch {
	case site != "" && site != "none" && site != "same-origin":
		return refusef(http.StatusForbidden, "a web page of another site made this GET request, and such make no events; open the URL itself, or call it with a program such as curl")
	case len(h["Cookie"]) > 0:
		return refusef(http.StatusForbidden, "GET with a cookie comes from a browser and makes no event; call the URL with a program such as curl, or with POST")
	case h.Get("Sec-Purpose") != "" || h.Get("Purpose") != "" || h.Get("X-Moz") != "":
		return refusef(http.StatusForbidden, "a browser only fetches this in advance, which makes no event; open the URL itself, or call it with a program such as curl")
	}
	return ofBrowser(r)
}

// emit stores the events and, where that is asked for, waits until they are
// delivered.
func (s *Source) emit(q *request, out sources.Output, events []event.Event) (int, int, *refusal) {
	if len(events) == 0 {
		return http.StatusAccepted, 0, nil
	}
	size := 0
	for i := range events {
		size += len(events[i].Payload)
	}
	receipt, err := out.Emit(q.ctx, events...)
	if err == nil {
		settle(q.ctx, receipt, size)
	}
	q.release()
	if err != nil {
		return 0, 0, s.notStored(q.ctx, err)
	}
	if s.trouble.Load() != storing && s.trouble.Swap(storing) != storing {
		s.log.Info().Msg("the events of webhooks are stored again")
	}
	if s.config.Respond != respondDelivered {
		return http.StatusAccepted, len(events), nil
	}
	ctx, cancel := context.WithTimeout(q.ctx, s.config.RespondTimeout)
	defer cancel()
	switch err := receipt.Delivered(ctx); {
	case errors.Is(err, sources.ErrHeld):
		return http.StatusAccepted, len(events), nil
	case errors.Is(err, sources.ErrDropped):
		return 0, 0, later(http.StatusServiceUnavailable, 10*time.Second, "the events were dropped before they could be delivered, to make room for newer ones")
	case err != nil:
		who := "a destination has"
		if late, ok := errors.AsType[*sources.Undelivered](err); ok {
			who = late.Who()
		}
		return 0, 0, refusef(http.StatusGatewayTimeout, "the events are stored and will be delivered, but %s not acknowledged them within %s; do not send them again", who, config.DurationText(s.config.RespondTimeout))
	}
	return http.StatusOK, len(events), nil
}

// notStored says why events were not stored: to the sender each time, to the
// log when it begins.
func (s *Source) notStored(ctx context.Context, err error) *refusal {
	if refused, ok := errors.AsType[*event.Refused](err); ok {
		return invalid(refused)
	}
	p := later(http.StatusServiceUnavailable, 10*time.Second, "the events could not be stored; nothing was kept of this request")
	p.quiet = true
	now := failing
	if errors.Is(err, sources.ErrFull) {
		p.Detail, now = "no room is left to store events until some are delivered; nothing was kept of this request", full
	}
	if ctx.Err() == nil && s.trouble.Swap(now) != now {
		s.log.Error().Err(err).Msg("the events of webhooks cannot be stored; their senders are told to try again")
	}
	return p
}
