package origin_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"event2mqtt/internal/web/origin"
	"event2mqtt/internal/web/peer"
)

func request(method, host string, headers ...string) *http.Request {
	r := httptest.NewRequest(method, "/hooks/default", nil)
	r.Host, r.RemoteAddr = host, "192.0.2.1:5"
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	return r
}

// TestPagesOfOtherOriginsAreRefused, and programs, which have none, are not.
func TestPagesOfOtherOriginsAreRefused(t *testing.T) {
	g := origin.New(origin.Options{Origins: []string{"https://panel.example", "*.trusted.example:8080"}, SocketOrigins: []string{"*.sockets.example"}})
	const ours = "192.168.1.7:8127"
	for _, c := range []struct {
		name    string
		method  string
		headers []string
		status  int
	}{
		{"a program", "POST", nil, 0},
		{"a simple request", "POST", []string{"Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site"}, 403},
		{"an old browser", "POST", []string{"Origin", "https://evil.example"}, 403},
		{"without an origin", "POST", []string{"Sec-Fetch-Site", "cross-site"}, 403},
		{"a page of another port here", "POST", []string{"Origin", "http://192.168.1.7:3000", "Sec-Fetch-Site", "same-site"}, 403},
		{"a sandboxed page", "POST", []string{"Origin", "null"}, 403},
		{"PUT", "PUT", []string{"Origin", "https://evil.example"}, 403},
		{"a page of ours", "POST", []string{"Origin", "http://" + ours, "Sec-Fetch-Site", "same-origin"}, 0},
		{"typed in", "POST", []string{"Sec-Fetch-Site", "none"}, 0},
		{"a link", "GET", []string{"Sec-Fetch-Site", "cross-site"}, 0},
		{"an exception", "POST", []string{"Origin", "https://panel.example", "Sec-Fetch-Site", "cross-site"}, 0},
		{"an exception's other scheme", "POST", []string{"Origin", "http://panel.example"}, 403},
		{"a pattern", "POST", []string{"Origin", "http://a.trusted.example:8080"}, 0},
		{"a pattern's other port", "POST", []string{"Origin", "http://a.trusted.example"}, 403},
		{"a path that looks like it", "POST", []string{"Origin", "https://evil.example/panel.example"}, 403},
		{"a WebSocket of a program", "GET", []string{"Upgrade", "websocket"}, 0},
		{"of a page of ours", "GET", []string{"Upgrade", "websocket", "Origin", "http://" + ours}, 0},
		{"of another page", "GET", []string{"Upgrade", "websocket", "Origin", "https://evil.example", "Sec-Fetch-Site", "same-origin"}, 403},
		{"of an exception", "GET", []string{"Upgrade", "websocket", "Origin", "https://a.sockets.example"}, 0},
		{"of an exception of all", "GET", []string{"Upgrade", "WebSocket", "Origin", "https://panel.example"}, 0},
		{"an exception of WebSockets alone", "POST", []string{"Origin", "https://a.sockets.example"}, 403},
	} {
		expect(t, c.name, g.Check(request(c.method, ours, c.headers...)), c.status)
	}
}

func expect(t *testing.T, name string, err error, status int) {
	t.Helper()
	refused, ok := errors.AsType[*origin.Refused](err)
	if err != nil && !ok {
		t.Fatal(err)
	}
	if got := 0; ok {
		if got = refused.Status; got != status || refused.Option == "" || refused.Detail == "" {
			t.Errorf("%s: %+v, want %d", name, refused, status)
		}
	} else if status != 0 {
		t.Errorf("%s: not refused", name)
	}
}

// TestANameThatWasMadeToPointHereIsRefused, with or without the marks of a
// browser; names that no stranger can have are not.
func TestANameThatWasMadeToPointHereIsRefused(t *testing.T) {
	g := origin.New(origin.Options{Machine: "Workshop.fritz.box", Hosts: []string{"hooks.example.org", "*.tail1234.ts.net"}, Origins: []string{"https://panel.example:8443"}, SocketOrigins: []string{"*.sockets.example"}})
	for host, known := range map[string]bool{
		"": true, "192.168.1.7": true, "192.168.1.7:8127": true, "[::1]:8127": true, "[fe80::1]:8127": true, "localhost:8127": true, "LOCALHOST.": true, "a.localhost": true,
		"event2mqtt:8127": true, "host.docker.internal:8127": true, "nas.lan": true, "nas.home.arpa:1": true, "workshop": true,
		"workshop.fritz.box:8127": true, "workshop.local": true, "workshop.local.": true, "hooks.example.org:443": true, "a.tail1234.ts.net": true,
		"panel.example": true, "a.sockets.example:1": true,
		"evil.example": false, "evil.example:8127": false, "printer.local": false, "local": false, "workshop.evil.example": false, "lan.evil.example": false,
		"127.0.0.1.nip.io": false, "localhost.evil.example": false, "evillan": true, "a.b.evil.example.": false, "fritz.box": false, "a.internal.evil.example": false,
	} {
		status := 0
		if !known {
			status = 421
		}
		for _, r := range []*http.Request{
			request("GET", host), request("POST", host), request("POST", host, "Origin", "http://"+host), request("POST", host, "X-Forwarded-For", "192.0.2.1"),
		} {
			if host == "" && r.Header.Get("Origin") != "" {
				continue // no browser
			}
			expect(t, r.Method+" "+host, g.Check(r), status)
		}
	}
	refused, _ := errors.AsType[*origin.Refused](g.Check(request("POST", "Evil.example.:8127")))
	if refused == nil || origin.CheckHost(refused.Value) != nil || refused.Value != "evil.example" {
		t.Errorf("what is to be added: %+v", refused)
	}
	expect(t, "a WebSocket of a program", g.Check(request("GET", "mqtt.example", "Upgrade", "websocket")), 0)
	expect(t, "a WebSocket of a page", g.Check(request("GET", "evil.example", "Upgrade", "websocket", "Origin", "http://evil.example")), 421)
}

// TestWhatAProxyHandsOnMayHaveItsName: the sender is a program elsewhere, which
// a rebound page on this machine could not be.
func TestWhatAProxyHandsOnMayHaveItsName(t *testing.T) {
	proxies, err := peer.ParseProxies([]string{"192.0.2.1"})
	if err != nil {
		t.Fatal(err)
	}
	g := origin.New(origin.Options{Proxies: proxies})
	for _, c := range []struct {
		name, method string
		headers      []string
		status       int
	}{
		{"a webhook", "POST", nil, 0},
		{"a probe", "GET", []string{"User-Agent", "curl/8"}, 0},
		{"a page", "POST", []string{"Origin", "https://hooks.example.org"}, 421},
		{"a page's GET", "GET", []string{"User-Agent", "Mozilla/5.0", "Accept-Language", "de"}, 421},
		{"a page's GET without its language", "GET", []string{"User-Agent", "Mozilla/5.0"}, 421},
		{"a page's GET without its name", "GET", []string{"Accept-Language", ""}, 421},
	} {
		expect(t, c.name, g.Check(request(c.method, "hooks.example.org", append(c.headers, "X-Forwarded-For", "198.51.100.1")...)), c.status)
	}
}

func TestWhatIsNoOriginNorHostIsNamed(t *testing.T) {
	for pattern, ok := range map[string]bool{"example.org": true, "*.example.org:8080": true, "https://example.org": true, "https://example.org/": false, "": false, "[": false, "://x": false} {
		if err := origin.CheckOrigin(pattern); (err == nil) != ok {
			t.Errorf("origin %q: %v", pattern, err)
		}
	}
	for pattern, ok := range map[string]bool{"example.org": true, "*.example.org": true, "example.org:80": false, "https://example.org": false, "": false, "[": false} {
		if err := origin.CheckHost(pattern); (err == nil) != ok {
			t.Errorf("host %q: %v", pattern, err)
		}
	}
}
