// Package peer tells who sent an HTTP request: the address it came from, or,
// behind a proxy that is trusted, the one that the proxy names. It does not
// decide what that address may do.
package peer

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// Bounds of what a proxy says: hops that are looked at, from the right, and
// bytes of one.
const (
	maxHops = 32
	maxHop  = 128
)

// somebody is a client whose proxy does not name it: somewhere else.
var somebody = netip.IPv4Unspecified()

// Proxies are the proxies that are believed, beside those of this machine,
// which always are. The zero value has no others. It is not changed.
type Proxies struct{ networks []netip.Prefix }

// ParseProxies reads addresses and networks (CIDR). The error names the index
// of the one that is neither.
func ParseProxies(list []string) (p Proxies, err error) {
	for i, text := range list {
		network, err := netip.ParsePrefix(text)
		if err != nil {
			addr, addrErr := netip.ParseAddr(text)
			if addrErr != nil {
				return Proxies{}, &ProxyError{i, text}
			}
			addr = plain(addr)
			network = netip.PrefixFrom(addr, addr.BitLen())
		}
		p.networks = append(p.networks, network.Masked())
	}
	return p, nil
}

// ProxyError is what ParseProxies cannot read.
type ProxyError struct {
	Index int
	Text  string
}

func (e *ProxyError) Error() string {
	return fmt.Sprintf("%q is neither an address nor a network; write for example 192.168.1.5 or 172.16.0.0/12", e.Text)
}

// Listed reports whether a proxy is one of the list: those of this machine are
// not, unless they were named.
func (p Proxies) Listed(addr netip.Addr) bool {
	for _, network := range p.networks {
		if network.Contains(addr) {
			return true
		}
	}
	return false
}

func (p Proxies) trusts(addr netip.Addr) bool { return addr.IsLoopback() || p.Listed(addr) }

// Resolve returns who sent a request. What the peer says of others counts only
// if it is trusted: then it is the right-most address that is not itself a
// trusted proxy's, of X-Forwarded-For, or without one of Forwarded (RFC 7239),
// or of X-Real-IP. A client whose proxy does not give its address is 0.0.0.0,
// which is nobody's. The result is invalid only if r.RemoteAddr is no address.
func (p Proxies) Resolve(r *http.Request) netip.Addr {
	addr := Connected(r)
	if !addr.IsValid() || !p.trusts(addr) {
		return addr
	}
	next := hops(r.Header)
	for range maxHops {
		hop, more := next()
		if !more {
			return addr // of trusted ones alone
		}
		named, ok := parseHop(hop)
		switch {
		case !ok:
			return somebody
		case named.IsLoopback() && !addr.IsLoopback():
			return addr // another machine's loopback is not ours
		case !p.trusts(named):
			return named
		}
		addr = named
	}
	return somebody
}

// Forwarded reports whether a request says that it came through a proxy. Any
// sender can say so.
func Forwarded(r *http.Request) bool {
	for _, key := range []string{"X-Forwarded-For", "Forwarded", "X-Real-Ip"} {
		if len(r.Header[key]) > 0 {
			return true
		}
	}
	return false
}

// Through reports whether a request came through a proxy that is trusted.
func (p Proxies) Through(r *http.Request) bool {
	return Forwarded(r) && p.trusts(Connected(r))
}

// Local reports whether a program on this machine sent a request, itself.
func Local(r *http.Request) bool { return Connected(r).IsLoopback() && !Forwarded(r) }

// Connected is the address that the connection is from, without its port and
// zone. It is invalid for peers that have none, as those of unix sockets.
func Connected(r *http.Request) netip.Addr {
	addr, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return plain(addr.Addr())
}

type key struct{}

// With returns the request with its sender noted for Addr.
func With(r *http.Request, addr netip.Addr) *http.Request {
	return r.WithContext(context.WithValue(r.Context(), key{}, addr))
}

// Addr returns who sent a request, as the server has noted it; without that,
// the address the connection is from. This is what rate limits, logs and
// limits for each address go by.
func Addr(r *http.Request) netip.Addr {
	if addr, ok := r.Context().Value(key{}).(netip.Addr); ok {
		return addr
	}
	return Connected(r)
}

// Network is whose connections are counted together: an IPv4 address, or the
// /64 of IPv6 that one customer has.
func Network(addr netip.Addr) netip.Prefix {
	bits := addr.BitLen()
	if addr.Is6() {
		bits = 64
	}
	network, _ := addr.Prefix(bits) // the zero value of an invalid one
	return network
}

func plain(addr netip.Addr) netip.Addr { return addr.Unmap().WithZone("") }

// hops returns an iterator over what proxies say, the last to say something
// first. Each adds to the end of a line, or a line.
func hops(h http.Header) func() (string, bool) {
	lines, element := h["X-Forwarded-For"], func(text string) string { return text }
	if len(lines) == 0 {
		if lines = h["Forwarded"]; len(lines) > 0 {
			element = forwardedFor
		} else {
			lines = h["X-Real-Ip"]
		}
	}
	rest, open := "", false
	return func() (string, bool) {
		if !open {
			if len(lines) == 0 {
				return "", false
			}
			rest, lines, open = lines[len(lines)-1], lines[:len(lines)-1], true
		}
		i := strings.LastIndexByte(rest, ',')
		hop := strings.TrimSpace(rest[i+1:])
		if open = i >= 0; open {
			rest = rest[:i]
		}
		return element(hop), true
	}
}

// forwardedFor is the value of "for" in an element of Forwarded, or empty.
func forwardedFor(element string) string {
	if len(element) > maxHop {
		return ""
	}
	for pair := range strings.SplitSeq(element, ";") {
		name, value, _ := strings.Cut(pair, "=")
		if strings.EqualFold(strings.TrimSpace(name), "for") {
			return strings.Trim(strings.TrimSpace(value), `"`)
		}
	}
	return ""
}

// parseHop reads an address: 192.0.2.1, 192.0.2.1:80, 2001:db8::1,
// [2001:db8::1], [2001:db8::1]:80.
func parseHop(text string) (netip.Addr, bool) {
	if len(text) > maxHop {
		return netip.Addr{}, false
	}
	if host, _, err := net.SplitHostPort(text); err == nil {
		text = host
	}
	text = strings.TrimSuffix(strings.TrimPrefix(text, "["), "]")
	addr, err := netip.ParseAddr(text)
	return plain(addr), err == nil
}
