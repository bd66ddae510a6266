package peer_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"event2mqtt/internal/web/peer"
)

// TestARealAddressIsWhatATrustedProxyNames, and what others say of themselves
// counts for nothing.
func TestARealAddressIsWhatATrustedProxyNames(t *testing.T) {
	proxies, err := peer.ParseProxies([]string{"192.168.1.5", "172.16.0.0/12", "fd00::/8"})
	if err != nil {
		t.Fatal(err)
	}
	const local, proxy, stranger = "127.0.0.1:5", "192.168.1.5:5", "203.0.113.9:5"
	for _, c := range []struct {
		name, from string
		header     http.Header
		want       string
	}{
		{"nobody speaks for it", local, nil, "127.0.0.1"},
		{"this machine's proxy", local, http.Header{"X-Forwarded-For": {"192.0.2.1"}}, "192.0.2.1"},
		{"by IPv6", "[::1]:5", http.Header{"X-Forwarded-For": {"2001:db8::1"}}, "2001:db8::1"},
		{"mapped", "[::ffff:127.0.0.1]:5", http.Header{"X-Forwarded-For": {"::ffff:192.0.2.1"}}, "192.0.2.1"},
		{"a proxy of the list", proxy, http.Header{"X-Forwarded-For": {"192.0.2.1"}}, "192.0.2.1"},
		{"forged by a stranger", stranger, http.Header{"X-Forwarded-For": {"127.0.0.1"}, "Forwarded": {"for=127.0.0.1"}, "X-Real-Ip": {"127.0.0.1"}}, "203.0.113.9"},
		{"forged before the proxy", proxy, http.Header{"X-Forwarded-For": {"127.0.0.1, 192.0.2.1"}}, "192.0.2.1"},
		{"forged, a line each", local, http.Header{"X-Forwarded-For": {"127.0.0.1", "192.0.2.1"}}, "192.0.2.1"},
		{"several proxies", local, http.Header{"X-Forwarded-For": {"198.51.100.7, 192.0.2.1, 172.17.0.2", "192.168.1.5"}}, "192.0.2.1"},
		{"all are trusted", local, http.Header{"X-Forwarded-For": {"172.17.0.9, 192.168.1.5"}}, "172.17.0.9"},
		{"another machine's loopback", proxy, http.Header{"X-Forwarded-For": {"127.0.0.1, 172.17.0.9"}}, "172.17.0.9"},
		{"with a port", local, http.Header{"X-Forwarded-For": {"192.0.2.1:4711"}}, "192.0.2.1"},
		{"IPv6 with a port", local, http.Header{"X-Forwarded-For": {"[2001:db8::1]:4711"}}, "2001:db8::1"},
		{"nonsense", local, http.Header{"X-Forwarded-For": {"unknown"}}, "0.0.0.0"},
		{"empty", local, http.Header{"X-Forwarded-For": {""}}, "0.0.0.0"},
		{"an endless list", local, http.Header{"X-Forwarded-For": {"192.0.2.1" + strings.Repeat(", 127.0.0.1", 9999)}}, "0.0.0.0"},
		{"a long hop", local, http.Header{"X-Forwarded-For": {strings.Repeat("1", 9999)}}, "0.0.0.0"},
		{"RFC 7239", local, http.Header{"Forwarded": {`for=192.0.2.43, For="[2001:db8:cafe::17]:4711";proto=http;by=203.0.113.43`}}, "2001:db8:cafe::17"},
		{"RFC 7239, hidden", local, http.Header{"Forwarded": {`for=_gazonk`}}, "0.0.0.0"},
		{"X-Forwarded-For goes first", local, http.Header{"Forwarded": {"for=192.0.2.8"}, "X-Forwarded-For": {"192.0.2.1"}}, "192.0.2.1"},
		{"X-Real-IP alone", local, http.Header{"X-Real-Ip": {"192.0.2.1"}}, "192.0.2.1"},
		{"a unix socket", "@", nil, "invalid IP"},
	} {
		r := httptest.NewRequest(http.MethodPost, "/", nil)
		r.RemoteAddr, r.Header = c.from, c.header
		if got := proxies.Resolve(r).String(); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestWhatTheServerNotesIsTheAddress(t *testing.T) {
	r := httptest.NewRequest(http.MethodPost, "/", nil)
	r.RemoteAddr = "127.0.0.1:5"
	if got := peer.Addr(r); got.String() != "127.0.0.1" || !peer.Local(r) {
		t.Errorf("nothing noted: %s", got)
	}
	if got := peer.Addr(peer.With(r, netip.MustParseAddr("192.0.2.1"))); got.String() != "192.0.2.1" {
		t.Errorf("noted: %s", got)
	}
	r.Header.Set("X-Forwarded-For", "127.0.0.1")
	if peer.Local(r) {
		t.Error("what a proxy hands on passes for this machine's own")
	}
}

func TestWhatIsNoProxyIsNamed(t *testing.T) {
	_, err := peer.ParseProxies([]string{"10.0.0.0/8", "proxy.example"})
	if e, ok := errors.AsType[*peer.ProxyError](err); !ok || e.Index != 1 || !strings.Contains(e.Error(), `"proxy.example"`) {
		t.Errorf("got %v", err)
	}
}
