package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"event2mqtt/internal/event"
	"event2mqtt/internal/web/problem"
)

// Headers of the signature schemes: GitHub's, and those of the Standard
// Webhooks specification.
const (
	headerGitHub            = "X-Hub-Signature-256"
	headerStandardID        = "Webhook-Id"
	headerStandardTime      = "Webhook-Timestamp"
	headerStandardSignature = "Webhook-Signature"
)

// authenticator checks who a sender is. All comparisons take the same time
// wherever the difference is; answers do not tell what was wrong beyond which
// proof is missing or does not hold.
type authenticator struct {
	config AuthConfig
	key    []byte // of the HMAC
}

func newAuthenticator(c AuthConfig) authenticator {
	a := authenticator{config: c, key: []byte(c.HMAC.Secret)}
	if c.HMAC.Scheme == schemeStandard {
		a.key, _ = standardKey(c.HMAC.Secret) // was checked
	}
	return a
}

func unauthorized() *problem.Details {
	return problem.New(http.StatusUnauthorized, "the request does not carry the credentials that this source wants")
}

// same compares secrets without telling their length by the time it takes.
func same(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

// challenge is what a sender without credentials is told to use.
func (a authenticator) challenge() string {
	if a.config.Username != "" {
		return `Basic realm="event2mqtt"`
	}
	return "Bearer"
}

// header checks the Authorization header.
func (a authenticator) header(r *http.Request) *problem.Details {
	if a.config.Token != "" {
		scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		if ok := same(token, string(a.config.Token)); !ok || !strings.EqualFold(scheme, "Bearer") {
			return unauthorized()
		}
	}
	if a.config.Username != "" {
		user, password, _ := r.BasicAuth()
		userOK, passwordOK := same(user, a.config.Username), same(password, string(a.config.Password))
		if !userOK || !passwordOK {
			return unauthorized()
		}
	}
	return nil
}

// signature checks the signature over the body as it came.
func (a authenticator) signature(r *http.Request, raw []byte, now time.Time) *problem.Details {
	switch a.config.HMAC.Scheme {
	case schemeGitHub:
		sent, err := hex.DecodeString(strings.TrimPrefix(r.Header.Get(headerGitHub), "sha256="))
		if err != nil || !hmac.Equal(sent, a.sum(raw)) {
			return problem.New(http.StatusUnauthorized, "the signature in "+headerGitHub+" is missing or does not match")
		}
	case schemeStandard:
		return a.standard(r, raw, now)
	}
	return nil
}

// standard checks a signature as the Standard Webhooks specification has it:
// over id, time and body, any of several, within a window of time.
func (a authenticator) standard(r *http.Request, raw []byte, now time.Time) *problem.Details {
	id, stamp := r.Header.Get(headerStandardID), r.Header.Get(headerStandardTime)
	seconds, err := strconv.ParseInt(stamp, 10, 64)
	if id == "" || err != nil || len(id) > 256 {
		return problem.New(http.StatusUnauthorized, "the headers webhook-id and webhook-timestamp are missing or malformed")
	}
	if age := now.Sub(time.Unix(seconds, 0)).Abs(); age > a.config.HMAC.Tolerance {
		return problem.New(http.StatusUnauthorized, "the time in webhook-timestamp is too far from now; is the sender's clock right?")
	}
	want := a.sum([]byte(id+"."+stamp+"."), raw)
	for candidate := range strings.FieldsSeq(r.Header.Get(headerStandardSignature)) {
		version, text, _ := strings.Cut(candidate, ",")
		sent, err := base64.StdEncoding.DecodeString(text)
		if version == "v1" && err == nil && hmac.Equal(sent, want) {
			return nil
		}
	}
	return problem.New(http.StatusUnauthorized, "no signature in webhook-signature matches")
}

func (a authenticator) sum(parts ...[]byte) []byte {
	h := hmac.New(sha256.New, a.key)
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

// body checks a secret that travels in the payload, and takes it out: it must
// not be published, checked or not.
func (a authenticator) body(payload *[]byte) *problem.Details {
	key := a.config.BodyKey
	if key == "" {
		return nil
	}
	sent := event.Text(event.Member(*payload, key))
	if a.config.BodySecret != "" && !same(sent, string(a.config.BodySecret)) {
		return unauthorized()
	}
	*payload = event.Without(*payload, key)
	return nil
}

// limiter bounds the requests of each address.
type limiter struct {
	limit rate.Limit
	burst int

	mu      sync.Mutex
	clients map[string]*rate.Limiter
}

// maxClients bounds the addresses that are remembered. When it is reached all
// are forgotten, which lets some send a burst more.
const maxClients = 4096

func newLimiter(perSecond float64, burst int) *limiter {
	return &limiter{limit: rate.Limit(perSecond), burst: burst, clients: map[string]*rate.Limiter{}}
}

// wait returns 0 if a request is allowed now, else when one may be.
func (l *limiter) wait(remote string, now time.Time) time.Duration {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		host = remote
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.clients[host]
	if c == nil {
		if len(l.clients) >= maxClients {
			clear(l.clients)
		}
		c = rate.NewLimiter(l.limit, l.burst)
		l.clients[host] = c
	}
	if c.AllowN(now, 1) {
		return 0
	}
	missing := 1 - c.TokensAt(now)
	return max(time.Millisecond, time.Duration(missing/float64(l.limit)*float64(time.Second)))
}

// seen remembers the ids of signed messages for as long as their signature
// holds, so that one sent again is stored once.
type seen struct {
	keep time.Duration

	mu    sync.Mutex
	ids   map[string]bool // true once stored
	order []seenAt
}

type seenAt struct {
	id string
	at time.Time
}

type seenState int

const (
	fresh seenState = iota
	underWay
	stored
)

// maxSeen bounds the ids; beyond it the oldest are forgotten early.
const maxSeen = 65536

func newSeen(keep time.Duration) *seen { return &seen{keep: keep, ids: map[string]bool{}} }

func (s *seen) begin(id string, now time.Time) seenState {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.order) > 0 && (now.Sub(s.order[0].at) > s.keep || len(s.order) >= maxSeen) {
		delete(s.ids, s.order[0].id)
		s.order = s.order[1:]
	}
	if done, known := s.ids[id]; known {
		if done {
			return stored
		}
		return underWay
	}
	s.ids[id] = false
	s.order = append(s.order, seenAt{id, now})
	return fresh
}

// end says whether the message was stored; if not, it may come again.
func (s *seen) end(id string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.ids[id]; !known {
		return
	}
	if ok {
		s.ids[id] = true
	} else {
		delete(s.ids, id)
	}
}
