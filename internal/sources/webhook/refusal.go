package webhook

import (
	"fmt"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"event2mqtt/internal/web/problem"
)

// refusal is why nothing was kept of a request.
type refusal struct {
	problem.Details
	cause string // the same for all that are refused for the same reason; from this package's own texts, so that there are few
	quiet bool   // it is logged elsewhere
}

// refusef returns a refusal whose cause is the format.
func refusef(status int, format string, args ...any) *refusal {
	return &refusal{Details: *problem.New(status, fmt.Sprintf(format, args...)), cause: format}
}

// later returns a refusal that may pass.
func later(status int, wait time.Duration, detail string) *refusal {
	p := refusef(status, "%s", detail)
	p.RetryAfter, p.cause = wait, detail
	return p
}

// sayEvery is how often the log tells of refusals that have one cause.
const sayEvery = time.Minute

// tally counts a source's answers and tells the log of refusals: most senders
// show nobody what they were answered. It is safe for concurrent use.
type tally struct {
	log     zerolog.Logger
	answers [600]atomic.Uint64 // by status

	mu   sync.Mutex
	said map[string]*saying // by cause
}

type saying struct {
	next   time.Time
	silent uint64 // refusals since the last line
}

func newTally(log zerolog.Logger) *tally { return &tally{log: log, said: map[string]*saying{}} }

func (t *tally) count(status int) { t.answers[status].Add(1) }

// refused logs a refusal unless one of the same cause was logged within the
// last minute.
func (t *tally) refused(p *refusal, method string, from netip.Addr, now time.Time) {
	if p.quiet {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.said[p.cause]
	if s == nil {
		s = &saying{}
		t.said[p.cause] = s
	}
	if now.Before(s.next) {
		s.silent++
		return
	}
	line := t.log.Warn().Int("status", p.Status).Str("method", method).Stringer("from", from)
	if s.silent > 0 {
		line = line.Uint64("not_logged_before", s.silent)
	}
	text := "a webhook was refused: "
	if p.Status == http.StatusGatewayTimeout { // its events are stored
		text = "a webhook was answered late: "
	}
	line.Msg(text + p.Detail)
	s.next, s.silent = now.Add(sayEvery), 0
}

// Answers counts the source's answers by their HTTP status.
func (s *Source) Answers() map[int]uint64 {
	counts := map[int]uint64{}
	for status := range s.tally.answers {
		if n := s.tally.answers[status].Load(); n > 0 {
			counts[status] = n
		}
	}
	return counts
}
