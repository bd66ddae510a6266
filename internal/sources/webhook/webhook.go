// Package webhook is the source that takes events over HTTP:
// POST /hooks/SOURCE and POST /hooks/SOURCE/EVENT. It answers 2xx when the
// events are durable, not before; any other answer means that nothing was
// kept. Every sender may be hostile.
package webhook

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"event2mqtt/internal/event"
	"event2mqtt/internal/journal"
	"event2mqtt/internal/sources"
	"event2mqtt/internal/web/problem"
)

// Mux is where the source hangs its handler in.
type Mux interface {
	Mount(name string, h http.Handler) (unmount func())
}

// Source is a webhook source.
type Source struct {
	config  Config
	mux     Mux
	log     zerolog.Logger
	auth    authenticator
	limit   *limiter // nil is off
	seen    *seen
	dropped atomic.Uint64 // file parts
}

// New makes a source; the error is that of Check.
func New(c Config, mux Mux, log zerolog.Logger) (*Source, error) {
	c.Prepare()
	if err := c.Check(); err != nil {
		return nil, err
	}
	s := &Source{config: c, mux: mux, log: log, auth: newAuthenticator(c.Auth)}
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

// Handler returns the handler of this source, delivering to out.
func (s *Source) Handler(out sources.Output) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status, n, p := s.take(w, r, out)
		if p != nil {
			if p.Status != http.StatusTooManyRequests && p.Status != http.StatusServiceUnavailable {
				s.log.Debug().Int("status", p.Status).Str("from", r.RemoteAddr).Msg("webhook: refused: " + p.Detail)
			}
			p.Write(w)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, `{"accepted":`+strconv.Itoa(n)+"}\n")
	})
}

// take handles one request and returns the status and number of events, or
// what was wrong.
func (s *Source) take(w http.ResponseWriter, r *http.Request, out sources.Output) (int, int, *problem.Details) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return 0, 0, problem.New(http.StatusMethodNotAllowed, "events are sent with POST")
	}
	if s.limit != nil {
		if wait := s.limit.wait(r.RemoteAddr, time.Now()); wait > 0 {
			return 0, 0, tryLater(http.StatusTooManyRequests, wait, "this address sends more events than are allowed")
		}
	}
	if p := s.auth.header(r); p != nil {
		w.Header().Set("WWW-Authenticate", s.auth.challenge())
		return 0, 0, p
	}
	raw, body, p := s.readBody(w, r)
	if p != nil {
		return 0, 0, p
	}
	if p := s.auth.signature(r, raw, time.Now()); p != nil {
		return 0, 0, p
	}
	events, p := s.events(r, body)
	if p != nil {
		return 0, 0, p
	}
	if s.seen != nil {
		id := r.Header.Get(headerStandardID)
		switch s.seen.begin(id, time.Now()) {
		case stored:
			return http.StatusAccepted, 0, nil // sent again; it is here already
		case underWay:
			return 0, 0, tryLater(http.StatusServiceUnavailable, time.Second, "the same message is being stored")
		}
		status, n, p := s.emit(r.Context(), out, events)
		s.seen.end(id, p == nil || p.Status == http.StatusGatewayTimeout)
		return status, n, p
	}
	return s.emit(r.Context(), out, events)
}

func tryLater(status int, wait time.Duration, detail string) *problem.Details {
	p := problem.New(status, detail)
	p.RetryAfter = wait
	return p
}

// emit stores the events and, where that is asked for, waits until they are
// delivered.
func (s *Source) emit(ctx context.Context, out sources.Output, events []event.Event) (int, int, *problem.Details) {
	if len(events) == 0 {
		return http.StatusAccepted, 0, nil
	}
	receipt, err := out.Emit(ctx, events...)
	if err != nil {
		if refused, ok := errors.AsType[*event.Refused](err); ok {
			status := http.StatusBadRequest
			if refused.TooLarge {
				status = http.StatusRequestEntityTooLarge
			}
			return 0, 0, problem.New(status, refused.Reason)
		}
		if errors.Is(err, journal.ErrFull) {
			return 0, 0, tryLater(http.StatusServiceUnavailable, 10*time.Second, "no room is left to store events until some are delivered; nothing was kept of this request")
		}
		if ctx.Err() == nil {
			s.log.Error().Err(err).Msg("webhook: an event could not be stored; its sender was told to try again")
		}
		return 0, 0, tryLater(http.StatusServiceUnavailable, 10*time.Second, "the events could not be stored; nothing was kept of this request")
	}
	if s.config.Respond != respondDelivered {
		return http.StatusAccepted, len(events), nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.config.RespondTimeout)
	defer cancel()
	switch err := receipt.Delivered(ctx); {
	case errors.Is(err, sources.ErrHeld):
		return http.StatusAccepted, len(events), nil
	case errors.Is(err, journal.ErrDropped):
		return 0, 0, tryLater(http.StatusServiceUnavailable, 10*time.Second, "the events were dropped before they could be delivered, to make room for newer ones")
	case err != nil:
		return 0, 0, problem.New(http.StatusGatewayTimeout, fmt.Sprintf("the events are stored and will be delivered, but the broker has not acknowledged them within %s; do not send them again", s.config.RespondTimeout))
	}
	return http.StatusOK, len(events), nil
}

// events makes events of a request.
func (s *Source) events(r *http.Request, body []byte) ([]event.Event, *problem.Details) {
	urlName, p := s.nameInURL(r)
	if p != nil {
		return nil, p
	}
	payload, p := s.payload(r, body)
	if p != nil {
		return nil, p
	}
	name := urlName
	if name == "" && s.config.Event.Header != "" {
		name = r.Header.Get(s.config.Event.Header)
	}
	now := time.Now()
	if len(payload) == 0 || payload[0] != '[' {
		e, p := s.event(name, payload, now)
		if p != nil {
			return nil, p
		}
		return []event.Event{e}, nil
	}
	var events []event.Event
	for item := range event.Items(payload) {
		e, p := s.event(name, item, now)
		if p != nil {
			p.Detail = fmt.Sprintf("item %d: %s", len(events), p.Detail)
			return nil, p
		}
		events = append(events, e)
	}
	return events, nil
}

// nameInURL returns what stands behind /hooks/SOURCE/.
func (s *Source) nameInURL(r *http.Request) (string, *problem.Details) {
	path := strings.TrimPrefix(r.URL.EscapedPath(), "/")
	parts := strings.SplitN(path, "/", 3) // hooks, SOURCE, EVENT
	if len(parts) < 3 || parts[2] == "" {
		return "", nil
	}
	name, err := url.PathUnescape(parts[2])
	if err != nil || strings.Contains(parts[2], "/") {
		return "", problem.New(http.StatusNotFound, "the path is /hooks/SOURCE or /hooks/SOURCE/EVENT; write %2F for a slash in an event's name")
	}
	return name, nil
}

// event makes one event of a JSON value.
func (s *Source) event(name string, payload []byte, now time.Time) (event.Event, *problem.Details) {
	e := event.Event{Source: s.config.Name, Time: now, Payload: payload, Checked: true}
	isObject := len(payload) > 0 && payload[0] == '{'
	if isObject && s.config.Preset == "octoprint" && name == "" {
		if inner := event.Member(payload, "event"); len(inner) > 0 && inner[0] == '{' { // the push API's form
			name = event.Text(event.Member(inner, "type"))
			e.Payload = event.Member(inner, "payload")
			isObject = len(e.Payload) > 0 && e.Payload[0] == '{'
		}
	}
	if isObject {
		if p := s.auth.body(&e.Payload); p != nil {
			return e, p
		}
		if s.config.TimeKey != "" {
			if t, ok := event.ParseTime(event.Text(event.Member(e.Payload, s.config.TimeKey)), time.Now()); ok {
				e.Time = t
			}
		}
		name = s.config.Event.Name(name, e.Payload)
	} else {
		if s.config.Auth.BodySecret != "" {
			return e, unauthorized()
		}
		name = s.config.Event.Name(name, nil)
	}
	if name == "" {
		return e, problem.New(http.StatusBadRequest, fmt.Sprintf("the event has no name; put it into the URL (/hooks/%s/NAME), the header %s, or one of the keys %s",
			s.config.Name, s.config.Event.Header, strings.Join(s.config.Event.Keys, ", ")))
	}
	e.Name = name
	return e, nil
}
