package httpsink

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http/httpproxy"
	"golang.org/x/time/rate"

	"event2mqtt/internal/config"
	"event2mqtt/internal/event"
	"event2mqtt/internal/health"
	"event2mqtt/internal/journal"
	"event2mqtt/internal/refused"
	"event2mqtt/internal/retry"
	"event2mqtt/internal/sinks"
)

const (
	// maxPause bounds the pause before the next attempt.
	maxPause = 5 * time.Minute
	// keepPause bounds the pause before an event that is to be skipped is kept again.
	keepPause = 10 * time.Second
	// closeTimeout is how long what is on its way may take when the sink ends.
	closeTimeout = 2 * time.Second
	// steady is how long nothing must have failed for a failure to be news again.
	steady = 10 * time.Minute
)

// Sink sends to one destination.
type Sink struct {
	opt  Options
	deps sinks.Deps
	settings
	host   string // for messages: scheme and authority, no more
	redact *strings.Replacer
	client *http.Client
	limit  *rate.Limiter // nil is as fast as can be
	pauses pauses
	tell   func(health.Status) // of Run

	mu      sync.Mutex // guards what follows
	skipped uint64     // events that the destination will never take
	until   time.Time  // no attempt begins before
	failed  time.Time  // when the last attempt failed
	back    retry.Loop // the pauses
	news    retry.Loop // which failures are news
	trouble error      // why nothing gets there; nil if it does
	told    bool       // the log says that something fails
	unkept  error      // why an event cannot be kept
}

func newSink(o *Options, d sinks.Deps) (*Sink, error) {
	own := *o
	set, err := own.settings()
	if err != nil {
		return nil, err
	}
	security, err := own.TLS.build()
	if err != nil {
		return nil, err
	}
	s := &Sink{opt: own, deps: d, settings: set, host: set.url.base.String(), pauses: own.pauses}
	s.pauses.max, s.pauses.wrong, s.pauses.grace = cmp.Or(s.pauses.max, maxPause), cmp.Or(s.pauses.wrong, maxPause), cmp.Or(s.pauses.grace, closeTimeout)
	s.back = retry.Loop{Min: s.pauses.min, Max: s.pauses.max, Steady: 1 << 62}
	s.news = retry.Loop{Steady: steady}
	s.redact = own.redactor(&set.url)
	if set.every > 0 {
		s.limit = rate.NewLimiter(rate.Every(set.every), own.Burst)
	}
	s.client = newClient(&own, security)
	return s, nil
}

func newClient(o *Options, security *tls.Config) *http.Client {
	proxy := httpproxy.FromEnvironment().ProxyFunc()
	return &http.Client{
		Transport: &http.Transport{
			Proxy:                  func(r *http.Request) (*url.URL, error) { return proxy(r.URL) },
			DialContext:            (&net.Dialer{Timeout: o.Timeout}).DialContext,
			TLSClientConfig:        security,
			ForceAttemptHTTP2:      true,
			MaxIdleConnsPerHost:    o.InFlight,
			MaxConnsPerHost:        o.InFlight,
			IdleConnTimeout:        90 * time.Second,
			MaxResponseHeaderBytes: maxAnswerHeader,
			DisableCompression:     true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// redactor takes secrets out of what others say.
func (o *Options) redactor(a *address) *strings.Replacer {
	all := append(a.secrets(), string(o.Password), string(o.Token))
	all = append(all, strings.Fields(string(o.Signing))...)
	for _, values := range []map[string]config.Secret{o.Headers, o.Form} {
		for _, v := range values {
			if len(v) >= minSecret && !strings.Contains(string(v), "{") {
				all = append(all, string(v))
			}
		}
	}
	slices.SortFunc(all, func(a, b string) int { return len(b) - len(a) }) // the whole goes before its parts
	var pairs []string
	for _, secret := range all {
		if len(secret) > 1 {
			pairs = append(pairs, secret, "***")
		}
	}
	return strings.NewReplacer(pairs...)
}

// Skipped implements sinks.Counter.
func (s *Sink) Skipped() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.skipped
}

func (s *Sink) batches() bool { return s.opt.Batch.Events > 1 }

// unit is what one request has.
type unit struct {
	entries []journal.Entry
	done    chan error // cap 1
}

// Run implements sinks.Sink. What is on its way when ctx ends has two seconds to be
// answered.
func (s *Sink) Run(ctx context.Context, in *journal.Cursor, _ *event.States, tell func(health.Status)) error {
	s.tell = tell
	s.tellHealth()
	defer s.client.CloseIdleConnections()
	in.Rewind() // what was read and not acknowledged comes first
	window := make(chan unit, s.opt.InFlight)
	slots := make(chan struct{}, s.opt.InFlight) // one for each unit that is not acknowledged
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	wg.Go(func() { s.acknowledge(in, window, slots, cancel) })
	c := collector{in: in, opt: s.opt.Batch}
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
		entries, err := c.next(ctx)
		if err != nil {
			break
		}
		u := unit{entries, make(chan error, 1)}
		window <- u // has room for each slot
		wg.Go(func() { u.done <- s.send(ctx, in, u.entries) })
	}
	close(window)
	wg.Wait()
	return nil
}

// acknowledge moves the cursor when events have got there, in their order.
func (s *Sink) acknowledge(in *journal.Cursor, window <-chan unit, slots <-chan struct{}, end func(error)) {
	failed := false
	for u := range window {
		err := <-u.done
		if failed = failed || err != nil; failed {
			end(err) // it has ended already, or no event behind may be acknowledged
			continue
		}
		in.Ack(u.entries[len(u.entries)-1].Seq)
		<-slots
	}
}

// send returns nil when events have got there, or were skipped. The error is that
// of ctx.
func (s *Sink) send(ctx context.Context, in *journal.Cursor, entries []journal.Entry) error {
	m, err := s.message(entries)
	if err != nil {
		return s.refuse(ctx, in, entries, err.Error())
	}
	for {
		if err := s.wait(ctx); err != nil {
			return err
		}
		a := s.attempt(ctx, m)
		switch {
		case a.verdict == done:
			s.works()
			s.progress(in, entries)
			return nil
		case a.verdict != never:
			if ctx.Err() != nil {
				return ctx.Err() // it may be that which has failed
			}
			s.fails(&a)
		case len(entries) > 1: // one of them, or some
			s.works()
			half := len(entries) / 2
			if err := s.send(ctx, in, entries[:half]); err != nil {
				return err
			}
			return s.send(ctx, in, entries[half:])
		default:
			s.works()
			return s.refuse(ctx, in, entries, a.Error())
		}
	}
}

// refuse skips one event.
func (s *Sink) refuse(ctx context.Context, in *journal.Cursor, entries []journal.Entry, reason string) error {
	err := s.skip(ctx, &entries[0], reason)
	if err == nil {
		s.progress(in, entries)
	}
	return err
}

// progress acknowledges a part of a request at once, where no other can be on its
// way before it.
func (s *Sink) progress(in *journal.Cursor, entries []journal.Entry) {
	if s.opt.InFlight == 1 {
		in.Ack(entries[len(entries)-1].Seq)
	}
}

// wait waits until the next attempt may begin. The error is that of ctx.
func (s *Sink) wait(ctx context.Context) error {
	for {
		s.mu.Lock()
		left := time.Until(s.until)
		s.mu.Unlock()
		if left <= 0 {
			break
		}
		if !retry.Sleep(ctx, left) {
			return ctx.Err()
		}
	}
	if s.limit == nil {
		return ctx.Err()
	}
	return s.limit.Wait(ctx)
}

// works notes that the destination answers, and says so once.
func (s *Sink) works() {
	s.mu.Lock()
	news := s.told
	changed := s.trouble != nil || s.failed.IsZero()
	s.trouble, s.told, s.until = nil, false, time.Time{}
	s.back.Reset()
	s.mu.Unlock()
	if changed {
		s.tellHealth()
	}
	if news {
		s.deps.Log.Info().Msgf("http: %s takes events again", s.host)
	}
}

// fails notes a failure, says it if it is news, and when the next attempt is.
func (s *Sink) fails(a *answer) {
	s.mu.Lock()
	late := a.began.Before(s.failed) // another that was on its way has told it
	lasted := time.Since(s.failed)
	pause := time.Duration(0)
	if !late {
		s.failed = time.Now()
		pause, _ = s.back.Next(nil, 0)
	}
	_, fresh := s.news.Next(errors.New(a.cause), lasted)
	what := "events wait in the journal, and are sent when it works again"
	switch {
	case a.verdict == wrong:
		pause = s.pauses.wrong - rand.N(s.pauses.wrong/10+1)
		what = fmt.Sprintf("%s; events wait in the journal, and one is tried each %s", a.advice, s.pauses.wrong)
	case a.after > 0:
		pause = a.after + rand.N(a.after/20+1) // not all programs at once
	}
	if until := time.Now().Add(pause); until.After(s.until) {
		s.until = until
	}
	s.trouble = fmt.Errorf("%w; %s", a, what)
	s.told = s.told || fresh
	trouble := s.trouble
	s.mu.Unlock()
	s.tellHealth()
	switch {
	case fresh && a.verdict == wrong:
		s.deps.Log.Error().Msgf("http: %s", trouble)
	case fresh:
		s.deps.Log.Warn().Msgf("http: %s", trouble)
	}
}

// tellHealth tells what is to be told now. What cannot be kept comes first.
func (s *Sink) tellHealth() {
	s.mu.Lock()
	defer s.mu.Unlock() // so that the newest is told last
	h := health.Running("sending to " + s.host)
	switch {
	case s.unkept != nil:
		h = health.Trouble(s.unkept)
	case s.trouble != nil:
		h = health.Trouble(s.trouble)
	}
	if s.skipped > 0 {
		h.Detail += fmt.Sprintf("; %d events were refused and skipped since the start", s.skipped)
	}
	s.tell(h)
}

// skip keeps an event that the destination will never take, counts it, and says
// so. One that cannot be kept is not skipped: it is tried until ctx ends.
func (s *Sink) skip(ctx context.Context, e *journal.Entry, reason string) error {
	id := s.deps.ID(e.Seq)
	loop := retry.Loop{Max: keepPause}
	for s.deps.Refused != nil {
		err := s.deps.Refused.Keep(refused.Event{
			ID: id, Sink: s.opt.Name, Refused: time.Now(), Reason: reason,
			Name: e.Name, Source: e.Source, Time: e.Time, Route: e.Route, Payload: e.Payload,
		})
		if err == nil {
			break
		}
		pause, fresh := loop.Next(err, 0)
		s.setUnkept(fmt.Errorf("an event that the destination refuses cannot be kept, so it is not skipped, and no event behind it is sent: %w", err))
		if fresh {
			s.deps.Log.Error().Err(err).Str("event", strings.ToValidUTF8(e.Name, "")).Str("id", id).Str("reason", reason).
				Msg("http: this event is refused and cannot be kept, so it is not skipped; events behind it wait until it can")
		}
		if !retry.Sleep(ctx, pause) {
			return ctx.Err()
		}
	}
	s.mu.Lock()
	s.skipped++
	s.mu.Unlock()
	s.setUnkept(nil)
	s.deps.Log.Error().Str("event", strings.ToValidUTF8(e.Name, "")).Str("source", e.Source).Str("id", id).Int("bytes", len(e.Payload)).Str("reason", reason).
		Msg("http: this event is refused and skipped; \"event2mqtt refused\" lists what was skipped, and sends it again")
	return nil
}

func (s *Sink) setUnkept(err error) {
	s.mu.Lock()
	s.unkept = err
	s.mu.Unlock()
	s.tellHealth()
}

// collector puts events together for requests. It is used by one goroutine.
type collector struct {
	in   *journal.Cursor
	opt  BatchConfig
	rest []journal.Entry // read, and not in a request yet
}

// next returns the events of the next request. The error is that of ctx.
func (c *collector) next(ctx context.Context) ([]journal.Entry, error) {
	if len(c.rest) == 0 {
		if err := c.read(ctx); err != nil {
			return nil, err
		}
	}
	waiting, cancel := context.WithTimeout(ctx, c.opt.Wait)
	defer cancel()
	for {
		n, full := c.fits()
		if !full && c.read(waiting) == nil {
			continue
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		taken := c.rest[:n:n]
		c.rest = c.rest[n:]
		return taken, nil
	}
}

// fits is how many of the rest go into one request, and whether no more would.
func (c *collector) fits() (n int, full bool) {
	size := 0
	for n < len(c.rest) && n < c.opt.Events {
		size += len(c.rest[n].Payload)
		if n > 0 && size > int(c.opt.Bytes) {
			return n, true
		}
		n++
	}
	return n, n == c.opt.Events
}

// read waits for more events.
func (c *collector) read(ctx context.Context) error {
	entries, err := c.in.Next(ctx, make([]journal.Entry, 0, 64))
	if err == nil {
		c.rest = append(c.rest, entries...)
	}
	return err
}
