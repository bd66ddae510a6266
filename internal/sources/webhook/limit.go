package webhook

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"event2mqtt/internal/web/peer"
)

// limiter bounds the requests of each address.
type limiter struct {
	limit rate.Limit
	burst int

	mu      sync.Mutex
	clients map[netip.Prefix]*rate.Limiter
}

// maxClients bounds the addresses that are remembered. When it is reached all
// are forgotten, which lets some send a burst more.
const maxClients = 4096

func newLimiter(perSecond float64, burst int) *limiter {
	return &limiter{limit: rate.Limit(perSecond), burst: burst, clients: map[netip.Prefix]*rate.Limiter{}}
}

// wait returns 0 if a request from an address is allowed now, else when one may
// be. The addresses of one customer's IPv6 network count as one.
func (l *limiter) wait(from netip.Addr, now time.Time) time.Duration {
	client := peer.Network(from)
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.clients[client]
	if c == nil {
		if len(l.clients) >= maxClients {
			clear(l.clients)
		}
		c = rate.NewLimiter(l.limit, l.burst)
		l.clients[client] = c
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
