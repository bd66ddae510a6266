// Package origin keeps web pages from using this program through the browser
// of somebody who may reach it: pages of other origins (cross-site request
// forgery), and pages whose name was made to point here (DNS rebinding). It is
// the one place where that is decided, for webhooks, the API and MQTT over
// WebSocket. It does not say who a program is; see docs/decisions/0015.
package origin

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"strings"

	"event2mqtt/internal/web/peer"
)

// Options say what is allowed beside the usual.
type Options struct {
	// Origins are of pages that may do what programs may: see CheckOrigin.
	Origins []string
	// SocketOrigins are of pages that may open WebSockets, too.
	SocketOrigins []string
	// Hosts are names that this program is reached by: see CheckHost.
	Hosts []string
	// Proxies are believed about who sends.
	Proxies peer.Proxies
	// Machine is this machine's own name. May be empty.
	Machine string
	// Supervisor is set where Home Assistant's Supervisor runs this program:
	// then its ingress proxy is believed about who asks.
	Supervisor bool
}

// supervisor is where Home Assistant's ingress comes from, in each installation
// (https://developers.home-assistant.io/docs/add-ons/presentation#ingress).
var supervisor = netip.AddrFrom4([4]byte{172, 30, 32, 2})

// Guard decides. It is not changed, and safe for concurrent use.
type Guard struct {
	opt   Options
	own   []string // names of this machine
	cross http.CrossOriginProtection
}

// New returns a guard. What CheckOrigin and CheckHost find wrong matches
// nothing.
func New(o Options) *Guard {
	g := &Guard{opt: o}
	if name := normal(o.Machine); name != "" {
		label, _, _ := strings.Cut(name, ".")
		g.own = []string{name, label + ".local"}
	}
	return g
}

// Refused is why a request is refused, and what its owner may change.
type Refused struct {
	Status int
	Cause  string // "origin" or "host": what is not allowed
	Value  string // which; what the sender sent, shortened
	Option string // where it can be allowed
	Detail string // for the sender
}

func (e *Refused) Error() string { return e.Detail }

// Check returns a *Refused if a request may be that of a page that must not
// send it. Programs, which send no Origin, are refused only for a Host that a
// page could have sent, too.
func (g *Guard) Check(r *http.Request) error {
	if g.Ingress(r) {
		return g.checkIngress(r)
	}
	socket, origin := IsWebSocket(r), r.Header.Get("Origin")
	if socket && origin == "" {
		return nil // each browser sends it with these (RFC 6455, section 4.1)
	}
	if !g.knows(r.Host) && (FromBrowser(r) || !g.opt.Proxies.Through(r)) {
		name := short(normal(hostname(r.Host))) // as http.hosts has it
		return &Refused{
			Status: http.StatusMisdirectedRequest, Cause: "host", Value: name, Option: "http.hosts",
			Detail: fmt.Sprintf("this program does not know itself by the name %q; if it is one of its names, add it to http.hosts, or use an address", name),
		}
	}
	if g.allowed(origin, socket) {
		return nil
	}
	if socket && !sameHost(origin, r.Host) || !socket && g.cross.Check(r) != nil {
		option := "http.origins"
		if socket {
			option = "broker.websocket.origins"
		}
		if origin == "" {
			origin = "another site"
		}
		return &Refused{
			Status: http.StatusForbidden, Cause: "origin", Value: short(origin), Option: option,
			Detail: fmt.Sprintf("web pages of %s may not do this; if they are to, add the origin to %s", short(origin), option),
		}
	}
	return nil
}

// Ingress reports whether a request came through Home Assistant's ingress, which
// lets in only who has logged in there. Nobody else's headers are believed.
func (g *Guard) Ingress(r *http.Request) bool {
	return g.opt.Supervisor && peer.Connected(r) == supervisor
}

// checkIngress is Check for what came through ingress: its Host is this
// program's address within Docker, and the page's host is in X-Forwarded-Host.
func (g *Guard) checkIngress(r *http.Request) error {
	origin, site := r.Header.Get("Origin"), r.Header.Get("Sec-Fetch-Site")
	switch {
	case site == "same-origin", site == "none":
		return nil
	case site == "" && (origin == "" || sameHost(origin, r.Header.Get("X-Forwarded-Host"))):
		return nil
	case !IsWebSocket(r) && (r.Method == http.MethodGet || r.Method == http.MethodHead):
		return nil // it changes nothing, and what it answers stays with the browser
	}
	return &Refused{
		Status: http.StatusForbidden, Cause: "origin", Value: short(origin), Option: "http.origins",
		Detail: "only Home Assistant's own page may do this through ingress",
	}
}

// Allowed returns the origin of a page that Origins name, and whether a
// request is of one.
func (g *Guard) Allowed(r *http.Request) (string, bool) {
	origin := r.Header.Get("Origin")
	return origin, g.allowed(origin, false)
}

// trusted is the key of a request's context that WithTrust sets.
type trusted struct{}

// WithTrust returns the request, marked for Trusted if it is of a page that
// Origins name.
func (g *Guard) WithTrust(r *http.Request) *http.Request {
	if _, ok := g.Allowed(r); !ok {
		return r
	}
	return r.WithContext(context.WithValue(r.Context(), trusted{}, true))
}

// Trusted reports whether a guard has found that a request is of a page that
// may do what programs may.
func Trusted(r *http.Request) bool { return r.Context().Value(trusted{}) != nil }

// Sender is who sent a request, as peer.Proxies.Resolve says.
func (g *Guard) Sender(r *http.Request) netip.Addr { return g.opt.Proxies.Resolve(r) }

// Proxied reports whether a request came through a proxy that is trusted.
func (g *Guard) Proxied(r *http.Request) bool { return g.opt.Proxies.Through(r) }

// FromPage reports whether a request says that a web page sent it, whichever:
// where no page has any business.
func FromPage(r *http.Request) bool {
	return r.Header.Get("Origin") != "" || r.Header.Get("Sec-Fetch-Site") != ""
}

// IsWebSocket reports whether a request asks for a WebSocket. No page can
// write Upgrade into another request.
func IsWebSocket(r *http.Request) bool {
	return r.Method == http.MethodGet && strings.EqualFold(r.Header.Get("Upgrade"), "websocket")
}

// FromBrowser reports whether a browser may have sent a request. With methods
// that change something, and with GET to other sites, all send Origin; of the
// rest a page cannot take away all (Fetch, sections 3.2 and 4.5).
func FromBrowser(r *http.Request) bool {
	h := r.Header
	if FromPage(r) {
		return true
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead && r.Method != http.MethodOptions {
		return false
	}
	for _, key := range []string{"Cookie", "Accept-Language", "Referer", "Upgrade-Insecure-Requests", "Sec-Fetch-Mode", "Sec-Fetch-Dest"} {
		if len(h[key]) > 0 {
			return true
		}
	}
	return strings.HasPrefix(h.Get("User-Agent"), "Mozilla/") || strings.Contains(h.Get("Accept"), "text/html")
}

// private are the top-level domains that nobody can have a name in for the
// whole Internet: RFC 6762, appendix G, RFC 8375 and RFC 6761. Names in .local
// are anybody's in the same network.
var private = []string{".localhost", ".internal", ".intranet", ".private", ".corp", ".home", ".lan", ".home.arpa"}

// knows reports whether a page of a host cannot be a stranger's whose name was
// made to point here.
func (g *Guard) knows(hostport string) bool {
	host := normal(hostname(hostport))
	if _, err := netip.ParseAddr(host); err == nil || host == "" {
		return true // HTTP/1.0 has none, browsers always do
	}
	if !strings.Contains(host, ".") {
		return host != "local"
	}
	for _, suffix := range private {
		if strings.HasSuffix(host, suffix) {
			return true
		}
	}
	for _, own := range g.own {
		if host == own {
			return true
		}
	}
	for _, pattern := range g.opt.Hosts {
		if match(normal(pattern), host) {
			return true
		}
	}
	for _, list := range [][]string{g.opt.Origins, g.opt.SocketOrigins} { // who trusts a page there trusts the name
		for _, pattern := range list {
			_, pattern = split(pattern)
			if match(normal(hostname(pattern)), host) {
				return true
			}
		}
	}
	return false
}

// allowed reports whether the options name an origin.
func (g *Guard) allowed(origin string, socket bool) bool {
	u, err := url.Parse(origin)
	if err != nil || u.Host == "" {
		return false
	}
	lists := [][]string{g.opt.Origins}
	if socket {
		lists = append(lists, g.opt.SocketOrigins)
	}
	for _, list := range lists {
		for _, pattern := range list {
			scheme, host := split(pattern)
			if (scheme == "" || strings.EqualFold(scheme, u.Scheme)) && match(strings.ToLower(host), strings.ToLower(u.Host)) {
				return true
			}
		}
	}
	return false
}

// CheckOrigin reports what is wrong with a pattern of origins: a host and port
// as the browser shows them, with * for any letters, after a scheme or without.
func CheckOrigin(pattern string) error {
	scheme, host := split(pattern)
	if _, err := path.Match(host, ""); err != nil || host == "" || strings.Contains(host, "/") || strings.Contains(pattern, "://") && scheme == "" {
		return fmt.Errorf("%q is not a host; write for example example.org, *.example.org or example.org:8080", pattern)
	}
	return nil
}

// CheckHost reports what is wrong with a pattern of hosts: a name without
// scheme and port, with * for any letters.
func CheckHost(pattern string) error {
	if _, err := path.Match(pattern, ""); err != nil || pattern == "" || strings.ContainsAny(pattern, "/:") {
		return fmt.Errorf("%q is not the name of a host; write for example hooks.example.org or *.example.org, without a port", pattern)
	}
	return nil
}

func split(pattern string) (scheme, host string) {
	if scheme, host, ok := strings.Cut(pattern, "://"); ok {
		return scheme, host
	}
	return "", pattern
}

func match(pattern, text string) bool {
	ok, err := path.Match(pattern, text)
	return ok && err == nil
}

func sameHost(origin, host string) bool {
	u, err := url.Parse(origin)
	return err == nil && u.Host != "" && strings.EqualFold(u.Host, host)
}

// hostname takes the port off, and the brackets.
func hostname(hostport string) string {
	if host, _, err := net.SplitHostPort(hostport); err == nil {
		return host
	}
	return strings.TrimSuffix(strings.TrimPrefix(hostport, "["), "]")
}

// normal is a name as it is compared.
func normal(host string) string { return strings.ToLower(strings.TrimSuffix(host, ".")) }

// short bounds what somebody sent.
func short(text string) string {
	const most = 100
	return text[:min(len(text), most)]
}
