// Package access decides who may use the API and the page: programs and people
// on this machine, who knows http.token, who has logged in with it, and who
// comes through Home Assistant's ingress. It slows down and locks out who
// guesses. Which web pages a browser may be used by is package origin's, which is
// asked before; what a request asks for is not looked at here.
package access

import (
	"crypto/subtle"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"event2mqtt/internal/web/origin"
	"event2mqtt/internal/web/peer"
	"event2mqtt/internal/web/problem"
)

// Options are what an Access needs.
type Options struct {
	// Configured is http.token as it is now; empty is none.
	Configured func() string
	// Guard says which web pages may do what, as it is configured now.
	Guard func() *origin.Guard
	// Hosts are the names by which browsers on this machine may call the program
	// without a token, beside localhost and the addresses of this machine.
	Hosts func() []string
	// Delay is how long a wrong token is answered later. Zero is 1 s.
	Delay time.Duration
}

// Access decides. Make it with New. It is safe for concurrent use.
type Access struct {
	opt      Options
	sessions sessions
	lockOut  lockOut
	slow     chan struct{} // has room for the answers that are delayed

	// Own is the token of this run of the program, for its own commands; empty
	// is none. It is set before the first request.
	Own string
	// Account returns what an account of the bundled broker may do, for who
	// knows its password. It counts failures, and answers them late. Nil is that
	// there are no accounts. It is set before the first request.
	Account func(r *http.Request, user, password string) (Rights, error)
}

// Rights are what an account may do with topics.
type Rights interface {
	MayRead(topic string) bool
	MayWrite(topic string) bool
	// MayReadSome reports whether a subscription to a filter could ever
	// receive anything.
	MayReadSome(filter string) bool
}

// maxSlow is how many wrong answers are delayed at a time. More are answered at
// once, so that they hold no connections.
const maxSlow = 8

// New returns an Access without sessions.
func New(o Options) *Access {
	if o.Delay == 0 {
		o.Delay = time.Second
	}
	return &Access{opt: o, slow: make(chan struct{}, maxSlow)}
}

// Caller is who may use the API.
type Caller struct {
	// Name says who it is, for the log: how it got in, and the user that Home
	// Assistant names.
	Name string
	// Rights are those of an account of the bundled broker, which may publish
	// and subscribe, and nothing else. Nil is everything.
	Rights Rights
	// Still reports whether who was let in would be let in now: http.token may
	// have changed, or they have logged out. Answers that go on for long ask it
	// before they write. Nil is always.
	Still func() bool
}

// Refusal says who may do what is refused while no http.token is set.
const Refusal = "only programs on this machine may do this, or such as send http.token as a bearer token; it is not set: set it in the configuration to use this from elsewhere"

// Admit returns who sent a request, or why it is refused. A wrong token is
// answered late.
func (a *Access) Admit(r *http.Request) (Caller, *problem.Details) {
	if user, password, ok := r.BasicAuth(); ok {
		return a.account(r, user, password)
	}
	if header := r.Header.Get("Authorization"); header != "" {
		token, _ := bearer(header)
		if why := a.try(r, token); why != nil {
			return Caller{}, why
		}
		return Caller{Name: "token", Still: func() bool { return a.right(token) }}, nil
	}
	switch {
	case a.opt.Guard().Ingress(r):
		return Caller{Name: "Home Assistant, " + printable(r.Header.Get("X-Remote-User-Name"))}, nil
	case a.local(r):
		return Caller{Name: "this machine"}, nil
	case sameOrigin(r) && a.sessions.has(r, a.opt.Configured()):
		return Caller{Name: "login", Still: func() bool { return a.sessions.has(r, a.opt.Configured()) }}, nil
	case a.opt.Configured() == "":
		return Caller{}, problem.New(http.StatusForbidden, Refusal)
	}
	return Caller{}, problem.New(http.StatusUnauthorized, "this needs http.token: send it as a bearer token, or log in")
}

// account admits who knows the password of an account of the bundled broker.
func (a *Access) account(r *http.Request, user, password string) (Caller, *problem.Details) {
	if a.Account == nil {
		return Caller{}, problem.New(http.StatusUnauthorized, "there are no accounts here; send http.token as a bearer token")
	}
	rights, err := a.Account(r, user, password)
	if err != nil {
		return Caller{}, problem.New(http.StatusUnauthorized, err.Error())
	}
	return Caller{Name: "account " + printable(user), Rights: rights}, nil
}

// Inside reports whether the sender of a request may see addresses and paths.
// Who sends a token that is wrong is answered as any stranger, and counted.
func (a *Access) Inside(r *http.Request) bool {
	who, why := a.Admit(r)
	return why == nil && who.Rights == nil
}

// Knows reports whether a request has a token, and it is the right one. A wrong
// token is counted, and answered late.
func (a *Access) Knows(r *http.Request) bool {
	token, ok := bearer(r.Header.Get("Authorization"))
	return ok && a.try(r, token) == nil
}

// bearer is the token in an Authorization header, whose scheme is in letters of
// any case (RFC 9110, section 11.1). ok is false if it has none.
func bearer(header string) (token string, ok bool) {
	scheme, token, found := strings.Cut(header, " ")
	if !found || !strings.EqualFold(scheme, "Bearer") {
		return header, false
	}
	return token, true
}

// try compares a token, unless its sender has to wait. nil is the right one.
func (a *Access) try(r *http.Request, token string) *problem.Details {
	network := peer.Network(peer.Addr(r))
	right := a.right(token)
	if wait := a.lockOut.wait(network, right); wait > 0 {
		return &problem.Details{
			Status: http.StatusTooManyRequests, Title: http.StatusText(http.StatusTooManyRequests), RetryAfter: wait,
			Detail: fmt.Sprintf("too many wrong tokens from this address; try again in %s", wait.Round(time.Second)),
		}
	}
	if right {
		a.lockOut.passed(network)
		return nil
	}
	a.lockOut.failed(network)
	select {
	case a.slow <- struct{}{}:
		timer := time.NewTimer(a.opt.Delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-r.Context().Done():
		}
		<-a.slow
	default:
	}
	return problem.New(http.StatusUnauthorized, "the token is not right; it is http.token of the configuration")
}

// right reports whether a token is one of those that there are.
func (a *Access) right(token string) bool {
	found := 0
	for _, t := range []string{a.Own, a.opt.Configured()} {
		if t != "" {
			found |= subtle.ConstantTimeCompare([]byte(token), []byte(t))
		}
	}
	return found == 1
}

// local reports whether a request is from a program on this machine, or from a
// browser there that shows this program's own page.
func (a *Access) local(r *http.Request) bool {
	if !peer.Local(r) || r.Header.Get("Via") != "" {
		return false
	}
	if !origin.FromBrowser(r) {
		return true
	}
	// No browser speaks HTTP/1.0; proxies that say nothing of whom they speak
	// for do. A page whose name was made to point here has that name as Host.
	return r.ProtoAtLeast(1, 1) && a.ownHost(r.Host) && sameOrigin(r)
}

// ownHost reports whether a browser on this machine means this program by a host.
func (a *Access) ownHost(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
	if addr, err := netip.ParseAddr(host); err == nil {
		return addr.IsLoopback()
	}
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	for _, own := range a.opt.Hosts() {
		if strings.EqualFold(host, own) {
			return true
		}
	}
	return false
}

// sameOrigin reports whether a browser sent a request for a page of this
// program, or because somebody typed the address: not for a page of another
// port of the same host, which a browser sends cookies for, too.
func sameOrigin(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "same-origin", "none":
	default:
		return false
	}
	o := r.Header.Get("Origin")
	if o == "" {
		return true
	}
	u, err := url.Parse(o)
	return err == nil && u.Host != "" && strings.EqualFold(u.Host, r.Host)
}

// printable is what a name may write into the log.
func printable(name string) string {
	const most = 64
	if len(name) > most {
		name = name[:most]
	}
	return strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return '?'
		}
		return c
	}, strings.ToValidUTF8(name, "?"))
}
