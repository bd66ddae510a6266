package access_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"event2mqtt/internal/web/access"
	"event2mqtt/internal/web/origin"
	"event2mqtt/internal/web/peer"
)

// gate is an Access with a token that can change.
type gate struct {
	*access.Access
	token string
	guard *origin.Guard
}

func newGate(t *testing.T, token string, o origin.Options) *gate {
	g := &gate{token: token, guard: origin.New(o)}
	g.Access = access.New(access.Options{
		Configured: func() string { return g.token }, Guard: func() *origin.Guard { return g.guard },
		Hosts: func() []string { return []string{"printer.example"} }, Delay: time.Microsecond,
	})
	g.Own = "own"
	return g
}

const (
	local  = "127.0.0.1:5000"
	remote = "192.0.2.7:5000"
	agent  = "Mozilla/5.0 (X11) Firefox/140.0"
)

// request is one from an address, with headers.
func (g *gate) request(method, from, host string, headers ...string) *http.Request {
	r := httptest.NewRequest(method, "http://"+host+"/api/v1/state", nil)
	r.RemoteAddr, r.Host = from, host
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Proto" {
			r.Proto, r.ProtoMajor, r.ProtoMinor = headers[i+1], 1, 0
		} else {
			r.Header.Set(headers[i], headers[i+1])
		}
	}
	return peer.With(r, g.guard.Sender(r))
}

// status is what a request is answered: as in the server, the guard of pages is
// asked first. 200 is let in.
func (g *gate) status(r *http.Request) int {
	if g.guard.Check(r) != nil && !g.Knows(r) {
		return -1
	}
	if _, why := g.Admit(r); why != nil {
		return why.Status
	}
	return http.StatusOK
}

// TestWhoGetsIn tries each way in, and what somebody would try to get in by it.
func TestWhoGetsIn(t *testing.T) {
	g := newGate(t, "right", origin.Options{Hosts: []string{"printer.example"}})
	for _, c := range []struct {
		what string
		want int
		r    *http.Request
	}{
		{"a program on this machine", 200, g.request("POST", local, "127.0.0.1:8127")},
		{"over IPv6", 200, g.request("POST", "[::1]:5000", "[::1]:8127")},
		{"a browser on this machine, the page itself", 200, g.request("GET", local, "localhost:8127", "User-Agent", agent)},
		{"its own page posts", 200, g.request("POST", local, "localhost:8127", "User-Agent", agent, "Origin", "http://localhost:8127", "Sec-Fetch-Site", "same-origin")},
		{"by the name of http.listen or http.hosts", 200, g.request("GET", local, "printer.example:8127", "User-Agent", agent)},
		{"a rebound name", -1, g.request("GET", local, "evil.example", "User-Agent", agent)},
		{"a rebound name without a dot", 401, g.request("GET", local, "wpad:8127", "User-Agent", agent)},
		{"a rebound name in a private domain", 401, g.request("GET", local, "evil.lan:8127", "User-Agent", agent)},
		{"a name that begins like this machine's", 401, g.request("GET", local, "localhost.lan:8127", "User-Agent", agent)},
		{"an address that is not this machine's", 401, g.request("GET", local, "192.168.1.5:8127", "User-Agent", agent)},
		{"a page of another origin posts", -1, g.request("POST", local, "localhost:8127", "Origin", "http://evil.example")},
		{"a page without an origin, as in a sandbox, posts", -1, g.request("POST", local, "localhost:8127", "Origin", "null")},
		{"a page of another port posts", -1, g.request("POST", local, "localhost:8127", "Origin", "http://localhost:9000")},
		{"a page of another port reads", 401, g.request("GET", local, "localhost:8127", "Sec-Fetch-Site", "same-site", "User-Agent", agent)},
		{"another site reads", 401, g.request("GET", local, "localhost:8127", "Sec-Fetch-Site", "cross-site", "User-Agent", agent)},
		{"behind a proxy on this machine", 401, g.request("GET", local, "localhost:8127", "X-Forwarded-For", "192.0.2.1")},
		{"that forges this machine's address", 401, g.request("GET", local, "localhost:8127", "X-Forwarded-For", "127.0.0.1")},
		{"a proxy that says nothing of whom it speaks for", 401, g.request("GET", local, "127.0.0.1:8127", "User-Agent", agent, "Proto", "HTTP/1.0")},
		{"a proxy that names itself", 401, g.request("GET", local, "127.0.0.1:8127", "Via", "1.1 proxy")},
		{"a program elsewhere", 401, g.request("GET", remote, "192.0.2.1:8127")},
		{"that claims to be here", 401, g.request("GET", remote, "localhost:8127", "X-Forwarded-For", "127.0.0.1", "X-Real-Ip", "127.0.0.1")},
		{"with the token", 200, g.request("GET", remote, "192.0.2.1:8127", "Authorization", "Bearer right")},
		{"with the scheme in small letters", 200, g.request("GET", remote, "192.0.2.1:8127", "Authorization", "bearer right")},
		{"with the token by another scheme", 401, g.request("GET", remote, "192.0.2.1:8127", "Authorization", "Negotiate right")},
		{"with the token of this run", 200, g.request("GET", remote, "192.0.2.1:8127", "Authorization", "Bearer own")},
		{"with another token", 401, g.request("GET", remote, "192.0.2.1:8127", "Authorization", "Bearer wrong")},
		{"with a part of it", 401, g.request("GET", remote, "192.0.2.1:8127", "Authorization", "Bearer righ")},
		{"with none", 401, g.request("GET", remote, "192.0.2.1:8127", "Authorization", "Bearer ")},
		{"a wrong token from this machine", 401, g.request("GET", local, "localhost:8127", "Authorization", "Bearer wrong")},
		{"forged headers of ingress", 401, g.request("GET", remote, "192.0.2.1:8127", "X-Ingress-Path", "/api/hassio_ingress/x", "X-Remote-User-Name", "admin", "X-Remote-User-Id", "1")},
		{"the address of ingress, where no Supervisor runs", 401, g.request("GET", "172.30.32.2:5000", "172.30.33.1:8127", "X-Ingress-Path", "/x", "X-Remote-User-Name", "admin")},
	} {
		if got := g.status(c.r); got != c.want {
			t.Errorf("%s: %d, want %d", c.what, got, c.want)
		}
		g.Access = newGate(t, "right", origin.Options{}).Access // nobody is locked out for another
	}
}

// TestIngressIsTheSupervisorsAlone.
func TestIngressIsTheSupervisorsAlone(t *testing.T) {
	g := newGate(t, "", origin.Options{Supervisor: true})
	const supervisor, host = "172.30.32.2:5000", "172.30.33.5:8127"
	for _, c := range []struct {
		what string
		want int
		r    *http.Request
	}{
		{"a person reads", 200, g.request("GET", supervisor, host, "X-Remote-User-Name", "anna", "X-Forwarded-For", "192.0.2.1", "User-Agent", agent)},
		{"a person changes something", 200, g.request("POST", supervisor, host, "Origin", "http://ha.local:8123", "X-Forwarded-Host", "ha.local:8123")},
		{"over HTTPS", 200, g.request("POST", supervisor, host, "Origin", "https://ha.example", "X-Forwarded-Host", "ha.example", "Sec-Fetch-Site", "same-origin")},
		{"another site changes something", -1, g.request("POST", supervisor, host, "Origin", "http://evil.example", "X-Forwarded-Host", "ha.local:8123")},
		{"another site, which the browser names", -1, g.request("POST", supervisor, host, "Origin", "http://ha.local:8123", "X-Forwarded-Host", "ha.local:8123", "Sec-Fetch-Site", "cross-site")},
		{"a page without an origin", -1, g.request("POST", supervisor, host, "Origin", "null", "X-Forwarded-Host", "ha.local:8123")},
		{"another container", 403, g.request("GET", "172.30.32.3:5000", host, "X-Remote-User-Name", "anna", "X-Ingress-Path", "/x")},
		{"who forges the Supervisor's address", 403, g.request("GET", "172.30.33.9:5000", host, "X-Forwarded-For", "172.30.32.2", "X-Real-Ip", "172.30.32.2")},
		{"the same through a proxy here", 403, g.request("GET", local, "localhost:8127", "X-Forwarded-For", "172.30.32.2")},
	} {
		if got := g.status(c.r); got != c.want {
			t.Errorf("%s: %d, want %d", c.what, got, c.want)
		}
	}
	who, _ := g.Admit(g.request("GET", supervisor, host, "X-Remote-User-Name", "anna\n\x1b[31m"+strings.Repeat("x", 500)))
	if !strings.HasPrefix(who.Name, "Home Assistant, anna??[31m") || len(who.Name) > 100 {
		t.Errorf("the log says %q", who.Name)
	}
}

// TestWithoutATokenNobodyElsewhereGetsIn, and is told what to set.
func TestWithoutATokenNobodyElsewhereGetsIn(t *testing.T) {
	g := newGate(t, "", origin.Options{})
	for _, header := range []string{"", "Bearer ", "Bearer x"} {
		r := g.request("GET", remote, "192.0.2.1:8127")
		if header != "" {
			r.Header.Set("Authorization", header)
		}
		if _, why := g.Admit(r); why == nil || header == "" && (why.Status != http.StatusForbidden || !strings.Contains(why.Detail, "http.token")) {
			t.Errorf("%q: %v", header, why)
		}
	}
	if why := g.Login(httptest.NewRecorder(), g.request("POST", remote, "192.0.2.1:8127"), ""); why == nil || why.Status != http.StatusForbidden {
		t.Errorf("an empty token logs in: %v", why)
	}
}

// TestGuessersAreLockedOut by their network, for all tokens; who has sent the
// right one from there before is let in.
func TestGuessersAreLockedOut(t *testing.T) {
	g := newGate(t, "right", origin.Options{})
	try := func(from, token string) int {
		return g.status(g.request("GET", from, "192.0.2.1:8127", "Authorization", "Bearer "+token))
	}
	for range 5 {
		if got := try(remote, "guess"); got != http.StatusUnauthorized {
			t.Fatalf("a guess: %d", got)
		}
	}
	if got := try(remote, "right"); got != http.StatusTooManyRequests {
		t.Errorf("the right one while locked out: %d", got)
	}
	if got := try("192.0.2.8:1", "right"); got != http.StatusOK {
		t.Errorf("from elsewhere: %d", got)
	}
	for range 20 {
		try("192.0.2.8:2", "guess")
	}
	if got := try("192.0.2.8:1", "right"); got != http.StatusOK {
		t.Errorf("who is known: %d", got)
	}
	if got := try("192.0.2.8:1", "guess"); got != http.StatusTooManyRequests {
		t.Errorf("a guess from there: %d", got)
	}
	for i := range 6 { // one subscriber's IPv6 addresses count together
		try("[2001:db8::"+string(rune('1'+i))+"]:1", "guess")
	}
	if got := try("[2001:db8::ff]:1", "right"); got != http.StatusTooManyRequests {
		t.Errorf("another address of the network: %d", got)
	}
	// Neither by logging in, nor by a host that is refused, can more be tried.
	if why := g.Login(httptest.NewRecorder(), g.request("POST", remote, "192.0.2.1:8127"), "right"); why == nil || why.Status != http.StatusTooManyRequests {
		t.Errorf("logging in while locked out: %v", why)
	}
	if g.Knows(g.request("GET", remote, "evil.example", "Authorization", "Bearer right")) {
		t.Error("a host that is refused tells whether a token is right")
	}
	r := g.request("GET", remote, "192.0.2.1:8127", "Authorization", "Bearer right")
	if _, why := g.Admit(r); why.RetryAfter < 50*time.Second || why.RetryAfter > time.Minute {
		t.Errorf("the first lock-out: %s", why.RetryAfter)
	}
}

// login returns the cookie that logging in sets.
func (g *gate) login(t *testing.T, r *http.Request, token string) *http.Cookie {
	t.Helper()
	w := httptest.NewRecorder()
	if why := g.Login(w, r, token); why != nil {
		t.Fatal(why)
	}
	return w.Result().Cookies()[0]
}

// TestALoginIsACookie that no script reads and no other site sends, and that is
// of use nowhere else.
func TestALoginIsACookie(t *testing.T) {
	g := newGate(t, "right", origin.Options{})
	const host = "printer.example:8127"
	c := g.login(t, g.request("POST", remote, host), "right")
	if !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Path != "/" || c.Secure || c.Name != "event2mqtt_session_8127" || c.MaxAge != 30*24*3600 {
		t.Errorf("%+v", c)
	}
	with := func(from, host, value string, headers ...string) int {
		r := g.request("GET", from, host, headers...)
		r.AddCookie(&http.Cookie{Name: "event2mqtt_session_8127", Value: value})
		_, why := g.Admit(r)
		if why == nil {
			return http.StatusOK
		}
		return why.Status
	}
	for _, try := range []struct {
		what string
		want int
		got  int
	}{
		{"the browser", 200, with(remote, host, c.Value, "User-Agent", agent)},
		{"its own page", 200, with(remote, host, c.Value, "Origin", "http://"+host, "Sec-Fetch-Site", "same-origin")},
		{"another site", 401, with(remote, host, c.Value, "Sec-Fetch-Site", "cross-site")},
		{"a page of another port, for which browsers send it", 401, with(remote, host, c.Value, "Sec-Fetch-Site", "same-site")},
		{"the same in a browser that does not say so", 401, with(remote, host, c.Value, "Origin", "http://printer.example:9000")},
		{"a page without an origin", 401, with(remote, host, c.Value, "Origin", "null")},
		{"a guess", 401, with(remote, host, strings.Repeat("A", 26))},
		{"an empty one", 401, with(remote, host, "")},
	} {
		if try.got != try.want {
			t.Errorf("%s: %d, want %d", try.what, try.got, try.want)
		}
	}
	g.token = "other"
	if got := with(remote, host, c.Value); got != 401 {
		t.Errorf("when the token has changed: %d", got)
	}
	g.token = "right"
	if got := with(remote, host, c.Value); got != 401 {
		t.Errorf("when it has changed back: %d", got)
	}
	c = g.login(t, g.request("POST", remote, host), "right")
	r := g.request("DELETE", remote, host)
	r.AddCookie(&http.Cookie{Name: c.Name, Value: c.Value})
	g.Logout(httptest.NewRecorder(), r)
	if got := with(remote, host, c.Value); got != 401 {
		t.Errorf("after logging out: %d", got)
	}
	first := g.login(t, g.request("POST", remote, host), "right")
	for range 32 {
		g.login(t, g.request("POST", remote, host), "right")
	}
	if got := with(remote, host, first.Value); got != 401 {
		t.Errorf("the oldest of 33 sessions: %d", got)
	}
}

// TestTheCookieKnowsTheProxy only if the proxy is trusted.
func TestTheCookieKnowsTheProxy(t *testing.T) {
	g := newGate(t, "right", origin.Options{})
	for from, want := range map[string]string{local: "/e2m/ true", remote: "/ false"} {
		c := g.login(t, g.request("POST", from, "printer.example", "X-Forwarded-For", "192.0.2.9", "X-Forwarded-Prefix", "/e2m", "X-Forwarded-Proto", "https"), "right")
		secure := " false"
		if c.Secure {
			secure = " true"
		}
		if got := c.Path + secure; got != want {
			t.Errorf("from %s: %s, want %s", from, got, want)
		}
	}
}
