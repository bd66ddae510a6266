package web_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"event2mqtt/internal/metrics"
	"event2mqtt/internal/web"
	"event2mqtt/internal/web/origin"
	"event2mqtt/internal/web/peer"
)

// ask sends a request without following redirects.
func ask(t *testing.T, method, url, path string, headers ...string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(context.Background(), method, url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			r.Host = headers[i+1]
		}
		r.Header.Set(headers[i], headers[i+1])
	}
	answer, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer, string(text)
}

// TestNothingIsRedirected: what proxies make of a path is taken as it was meant.
func TestNothingIsRedirected(t *testing.T) {
	s, url := serve(t, web.Defaults(), func() (bool, []web.Component) { return true, nil })
	s.Mount("w", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.URL.EscapedPath()) }))
	for path, want := range map[string]string{
		"/hooks/w": "/hooks/w", "//hooks/w": "/hooks/w", "/hooks//w": "/hooks/w", "///hooks///w///": "/hooks/w", "/hooks/w/": "/hooks/w", "/hooks/w//x": "/hooks/w/x",
		"/hooks/w/a%2F%2Fb": "/hooks/w/a%2F%2Fb", "//hooks/w/a%2Fb/": "/hooks/w/a%2Fb", "/hooks/w/..": "/hooks/w/..", "//hooks/w?x=//": "/hooks/w",
		"//healthz": "ok\n", "/healthz/": "ok\n",
		"/hooks/../readyz": "404", "/hooks/": "404", "/hooks": "404", "//": "404", "/Hooks/w": "404", "/hooks%2fw": "404", "/hooks/w%2Fx": "404", "/%2Freadyz": "404",
	} {
		answer, text := ask(t, "POST", url, path)
		if strings.HasSuffix(strings.TrimSuffix(path, "/"), "healthz") {
			answer, text = ask(t, "GET", url, path)
		}
		if got := text; answer.StatusCode == 404 && want == "404" {
			continue
		} else if answer.StatusCode != 200 || got != want {
			t.Errorf("%s: %d %s, want %s", path, answer.StatusCode, got, want)
		}
	}
}

func TestChecksAnswerHeadAndNothingThatWrites(t *testing.T) {
	_, url := serve(t, web.Defaults(), func() (bool, []web.Component) { return true, nil })
	for _, path := range []string{"/healthz", "/readyz"} {
		if answer, text := ask(t, "HEAD", url, path); answer.StatusCode != 200 || text != "" || answer.ContentLength <= 0 {
			t.Errorf("HEAD %s: %d, %d bytes", path, answer.StatusCode, answer.ContentLength)
		}
		if answer, _ := ask(t, "POST", url, path); answer.StatusCode != 405 || answer.Header.Get("Allow") != "GET, HEAD" {
			t.Errorf("POST %s: %d %v", path, answer.StatusCode, answer.Header)
		}
	}
}

// TestWhatTheServerRefusesIsInTheLogOnce, with what to change, and counted;
// somebody who makes names up does not fill it.
func TestWhatTheServerRefusesIsInTheLogOnce(t *testing.T) {
	log := &text{}
	s := web.New(nil, zerolog.New(log))
	url := serveWith(t, s, web.Defaults())
	s.Mount("sonarr", http.NotFoundHandler())
	for range 3 {
		ask(t, "POST", url, "/hooks/sonar")
		ask(t, "POST", url, "/hooks/radarr")
		ask(t, "POST", url, "/healthz")
		ask(t, "GET", url, "/wp-login.php")
		ask(t, "GET", url, "/.env")
		ask(t, "POST", url, "/hooks/sonarr", "Origin", "https://evil.example")
		ask(t, "POST", url, "/hooks/sonarr", "Host", "evil.example")
	}
	for what, want := range map[string]int{
		`"name":"sonar","from":"127.0.0.1","sources":"sonarr"`: 1, `"name":"radarr"`: 1, `"method":"POST"`: 1, "where nothing is": 1,
		`"origin":"https://evil.example"`: 1, "add the origin to http.origins": 1, `"host":"evil.example"`: 1, "add it to http.hosts": 1, `"level":"warn"`: 6,
	} {
		if n := log.lines(what); n != want {
			t.Errorf("%d lines with %s, want %d", n, what, want)
		}
	}
	for i := range 600 {
		ask(t, "POST", url, fmt.Sprintf("/hooks/x%d%s", i, strings.Repeat("y", 300)))
	}
	if n := log.lines(`"level":"warn"`); n > 260 {
		t.Errorf("%d lines", n)
	}
	shown := measured(s)
	for _, want := range []string{`{code="403"} 3`, `{code="404"} 612`, `{code="405"} 3`, `{code="421"} 3`} {
		if !strings.Contains(shown, "\nevent2mqtt_http_responses_total"+want+"\n") {
			t.Errorf("want %s in\n%s", want, shown)
		}
	}
}

// TestPagesAreKeptOutOfTheWholeServer, but for those of http.origins, which
// their browsers ask for; the health check is for everybody.
func TestPagesAreKeptOutOfTheWholeServer(t *testing.T) {
	s, url := serve(t, web.Config{MaxConnections: 9, Token: "right", Origins: []string{"https://panel.example"}, Listen: "printer.example:8127"}, func() (bool, []web.Component) { return true, nil })
	s.Mount("w", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(202) }))
	s.Handle("/api", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(202) }))
	for _, path := range []string{"/hooks/w", "/api"} {
		for _, c := range []struct {
			want    int
			headers []string
		}{
			{202, nil}, {403, []string{"Sec-Fetch-Site", "cross-site"}}, {403, []string{"Origin", "https://evil.example"}}, {421, []string{"Host", "evil.example"}},
			{202, []string{"Host", "evil.example", "Authorization", "Bearer right"}}, {421, []string{"Host", "evil.example", "Authorization", "Bearer wrong"}},
			{202, []string{"Host", "printer.example:8127"}}, {202, []string{"Origin", "https://panel.example", "Sec-Fetch-Site", "cross-site"}},
		} {
			if answer, _ := ask(t, "POST", url, path, c.headers...); answer.StatusCode != c.want {
				t.Errorf("%s %v: %d, want %d", path, c.headers, answer.StatusCode, c.want)
			}
		}
	}
	if answer, _ := ask(t, "GET", url, "/readyz", "Host", "evil.example"); answer.StatusCode != 421 {
		t.Errorf("readyz for a rebound name: %d", answer.StatusCode)
	}
	if answer, _ := ask(t, "GET", url, "/healthz", "Host", "lb.example"); answer.StatusCode != 200 {
		t.Errorf("healthz: %d", answer.StatusCode)
	}
	preflight := []string{"Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "content-type", "Origin"}
	answer, _ := ask(t, "OPTIONS", url, "/hooks/w", append(preflight, "https://panel.example")...)
	if h := answer.Header; answer.StatusCode != 204 || h.Get("Access-Control-Allow-Origin") != "https://panel.example" || h.Get("Access-Control-Allow-Headers") != "content-type" {
		t.Errorf("preflight: %d %v", answer.StatusCode, h)
	}
	answer, _ = ask(t, "OPTIONS", url, "/hooks/w", append(preflight, "https://evil.example")...)
	if answer.Header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("a stranger's preflight: %d %v", answer.StatusCode, answer.Header)
	}
	s.Mount("trust", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, origin.Trusted(r)) }))
	for from, want := range map[string]string{"https://panel.example": "true", "https://evil.example": "false"} {
		if _, text := ask(t, "GET", url, "/hooks/trust", "Origin", from); text != want {
			t.Errorf("GET of a page of %s is trusted: %s", from, text)
		}
	}
}

// TestSourcesSeeWhoSendsBehindAProxy.
func TestSourcesSeeWhoSendsBehindAProxy(t *testing.T) {
	s, url := serve(t, web.Defaults(), nil)
	s.Mount("w", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, peer.Addr(r)) }))
	for forwarded, want := range map[string]string{"192.0.2.1": "192.0.2.1", "127.0.0.1, 192.0.2.1": "192.0.2.1", "192.0.2.7, 192.168.1.5": "192.168.1.5"} {
		if _, got := ask(t, "POST", url, "/hooks/w", "X-Forwarded-For", forwarded); got != want {
			t.Errorf("%s: %s", forwarded, got)
		}
	}
	s.Configure(web.Config{MaxConnections: 9, TrustedProxies: []string{"192.168.0.0/16"}}, nil)
	if _, got := ask(t, "POST", url, "/hooks/w", "X-Forwarded-For", "192.0.2.7, 192.168.1.5"); got != "192.0.2.7" {
		t.Errorf("with the list: %s", got)
	}
}

// measured is what a server shows of itself.
func measured(s *web.Server) string {
	var p metrics.Page
	s.Measure(&p)
	var text strings.Builder
	_, _ = p.WriteTo(&text)
	return text.String()
}
