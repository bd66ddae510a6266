package access

import (
	"crypto/rand"
	"crypto/sha256"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"event2mqtt/internal/web/problem"
)

// This file is logging in with a browser.

// Bounds of sessions.
const (
	maxSessions = 32 // the oldest ends for one more
	lifetime    = 30 * 24 * time.Hour
)

// sessions are those who have logged in. They are in memory, and end with the
// program, or when http.token changes. The zero value is ready.
type sessions struct {
	mu   sync.Mutex
	open map[[sha256.Size]byte]session // by the hash of the id: what is kept lets nobody in
}

type session struct {
	until time.Time
	token [sha256.Size]byte // the hash of http.token then
}

// Login opens a session for who sends the right token: the answer sets its
// cookie. The caller checks that no other page has sent the request.
func (a *Access) Login(w http.ResponseWriter, r *http.Request, token string) *problem.Details {
	configured := a.opt.Configured()
	if configured == "" {
		return problem.New(http.StatusForbidden, Refusal)
	}
	if why := a.try(r, token); why != nil {
		return why
	}
	id := rand.Text()
	a.sessions.add(id, configured)
	http.SetCookie(w, a.cookie(r, id, int(lifetime/time.Second)))
	return nil
}

// Logout ends the session of a request, if it has one.
func (a *Access) Logout(w http.ResponseWriter, r *http.Request) {
	if c, err := r.Cookie(cookieName(r)); err == nil {
		a.sessions.remove(c.Value)
	}
	http.SetCookie(w, a.cookie(r, "", -1))
}

// cookie is the one of a session. A proxy that is trusted may say below which
// path it serves this program, and that it does so over TLS.
func (a *Access) cookie(r *http.Request, id string, age int) *http.Cookie {
	c := &http.Cookie{Name: cookieName(r), Value: id, Path: "/", MaxAge: age, HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: r.TLS != nil}
	if !a.opt.Guard().Proxied(r) {
		return c
	}
	if prefix := r.Header.Get("X-Forwarded-Prefix"); strings.HasPrefix(prefix, "/") && !strings.ContainsAny(prefix, ";,\"\\ ") {
		c.Path = strings.TrimSuffix(prefix, "/") + "/"
	}
	c.Secure = c.Secure || r.Header.Get("X-Forwarded-Proto") == "https"
	return c
}

// cookieName has the port in it: browsers do not tell the cookies of one port
// of a host from those of another.
func cookieName(r *http.Request) string {
	const name = "event2mqtt_session"
	if _, port, err := net.SplitHostPort(r.Host); err == nil {
		if n, err := strconv.ParseUint(port, 10, 16); err == nil {
			return name + "_" + strconv.FormatUint(n, 10)
		}
	}
	return name
}

func (s *sessions) add(id, token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		s.open = map[[sha256.Size]byte]session{}
	}
	if len(s.open) >= maxSessions {
		var oldest [sha256.Size]byte
		var until time.Time
		for key, other := range s.open {
			if until.IsZero() || other.until.Before(until) {
				oldest, until = key, other.until
			}
		}
		delete(s.open, oldest)
	}
	s.open[sha256.Sum256([]byte(id))] = session{time.Now().Add(lifetime), sha256.Sum256([]byte(token))}
}

// has reports whether a request has the cookie of an open session.
func (s *sessions) has(r *http.Request, token string) bool {
	c, err := r.Cookie(cookieName(r))
	if err != nil || token == "" {
		return false
	}
	key := sha256.Sum256([]byte(c.Value))
	s.mu.Lock()
	defer s.mu.Unlock()
	found, ok := s.open[key]
	if ok && (time.Now().After(found.until) || found.token != sha256.Sum256([]byte(token))) {
		delete(s.open, key)
		return false
	}
	return ok
}

func (s *sessions) remove(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, sha256.Sum256([]byte(id)))
}
