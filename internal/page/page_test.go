package page_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"event2mqtt/internal/page"
	"event2mqtt/internal/web/problem"
)

// served is a page that lets in who has the cookie, and logs in who knows the token.
func served(t *testing.T, refusal *problem.Details) *httptest.Server {
	t.Helper()
	p := page.New(page.Options{
		Admit: func(r *http.Request) *problem.Details {
			if _, err := r.Cookie("session"); err == nil {
				return nil
			}
			return refusal
		},
		Login: func(w http.ResponseWriter, _ *http.Request, token string) *problem.Details {
			if token != "right" {
				return problem.New(http.StatusUnauthorized, `the token is <b>not</b> right`)
			}
			http.SetCookie(w, &http.Cookie{Name: "session", Value: "1"})
			return nil
		},
	})
	s := httptest.NewServer(p)
	t.Cleanup(s.Close)
	return s
}

func get(t *testing.T, method, address string, header http.Header) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequest(method, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, values := range header {
		r.Header[name] = values
	}
	a, err := (&http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	text, err := io.ReadAll(a.Body)
	if err != nil {
		t.Fatal(err)
	}
	return a, string(text)
}

func TestAllThatABrowserLoadsIsUnder64KB(t *testing.T) {
	s := served(t, nil)
	total := 0
	for _, path := range page.New(page.Options{}).Paths() {
		if path == "/login" {
			continue
		}
		a, text := get(t, "GET", s.URL+path, nil)
		if a.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", path, a.Status)
		}
		total += len(text)
	}
	t.Logf("%d bytes", total)
	if total >= 64<<10 {
		t.Errorf("the page has %d bytes", total)
	}
}

// Lines of scripts are joined, so that a comment that is left would hide what follows it.
func TestScriptsAreServedWithoutComments(t *testing.T) {
	s := served(t, nil)
	for _, path := range page.New(page.Options{}).Paths() {
		if !strings.HasSuffix(path, ".js") {
			continue
		}
		_, text := get(t, "GET", s.URL+path, nil)
		if found := regexp.MustCompile(`(?:^|[^:])//.*|/\*.*`).FindString(text); found != "" {
			t.Errorf("%s has %q", path, found)
		}
	}
}

func TestTheHeadersLetNothingElseRun(t *testing.T) {
	s := served(t, nil)
	for _, path := range append(page.New(page.Options{}).Paths(), "/nothing") {
		a, _ := get(t, "GET", s.URL+path, nil)
		for name, want := range map[string]string{
			"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cross-Origin-Resource-Policy": "same-origin",
		} {
			if got := a.Header.Get(name); got != want {
				t.Errorf("%s: %s is %q", path, name, got)
			}
		}
		policy := a.Header.Get("Content-Security-Policy")
		for _, part := range []string{"default-src 'none'", "script-src 'self'", "frame-ancestors 'self'", "base-uri 'none'", "require-trusted-types-for 'script'"} {
			if !strings.Contains(policy, part) {
				t.Errorf("%s: the policy lacks %s", path, part)
			}
		}
		if strings.Contains(policy, "unsafe") || a.Header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s: %v", path, a.Header)
		}
	}
}

// Each file is named with the version, so that no cache mixes two of them, and
// asked for again with what the browser has.
func TestFilesHaveAVersionAndAStrongETag(t *testing.T) {
	s := served(t, nil)
	_, text := get(t, "GET", s.URL+"/", nil)
	names := regexp.MustCompile(`(?:href|src)="([a-z]+\.(?:js|css)[^"]*)"`).FindAllStringSubmatch(text, -1)
	_, app := get(t, "GET", s.URL+"/app.js", nil)
	names = append(names, regexp.MustCompile(`from '\./([^']*)'`).FindAllStringSubmatch(app, -1)...)
	if len(names) < 10 {
		t.Fatalf("the page names %v", names)
	}
	for _, name := range names {
		if !regexp.MustCompile(`\?v=[0-9a-f]{8}$`).MatchString(name[1]) {
			t.Errorf("%s has no version", name[1])
		}
		a, script := get(t, "GET", s.URL+"/"+name[1], nil)
		tag := a.Header.Get("ETag")
		if !regexp.MustCompile(`^"[0-9a-f]{24}"$`).MatchString(tag) || a.Header.Get("Cache-Control") != "no-cache" {
			t.Errorf("%s: ETag %q, Cache-Control %q", name[1], tag, a.Header.Get("Cache-Control"))
		}
		for _, line := range regexp.MustCompile(`from '[^']*'`).FindAllString(script, -1) {
			if !strings.Contains(line, ".js?v=") {
				t.Errorf("%s: %s", name[1], line)
			}
		}
		if again, body := get(t, "GET", s.URL+"/"+name[1], http.Header{"If-None-Match": {`"other", W/` + tag}}); again.StatusCode != http.StatusNotModified || body != "" {
			t.Errorf("%s: asked again: %s", name[1], again.Status)
		}
		if head, body := get(t, "HEAD", s.URL+"/"+name[1], nil); head.StatusCode != http.StatusOK || body != "" {
			t.Errorf("%s: HEAD: %s", name[1], head.Status)
		}
	}
	if a, _ := get(t, "POST", s.URL+"/", nil); a.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %s", a.Status)
	}
}

// Below any path of a proxy: no address begins with a slash.
func TestAllAddressesAreRelative(t *testing.T) {
	s := served(t, nil)
	for _, path := range page.New(page.Options{}).Paths() {
		_, text := get(t, "GET", s.URL+path, nil)
		text = strings.ReplaceAll(text, "http://www.w3.org/2000/svg", "")
		if found := regexp.MustCompile(`(?:href|src|action)=["']?/|fetch\(['"]/|EventSource\(['"]/|https?://`).FindString(text); found != "" {
			t.Errorf("%s has %s", path, found)
		}
	}
}

func TestNothingIsMarkupAndNothingIsInline(t *testing.T) {
	s := served(t, nil)
	for _, path := range page.New(page.Options{}).Paths() {
		_, text := get(t, "GET", s.URL+path, nil)
		if found := regexp.MustCompile(`innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function| style=| on[a-z]+="|<script>`).FindString(text); found != "" {
			t.Errorf("%s has %q", path, found)
		}
	}
}

func TestLogin(t *testing.T) {
	s := served(t, problem.New(http.StatusUnauthorized, "this needs http.token"))
	a, text := get(t, "GET", s.URL+"/", nil)
	if a.StatusCode != http.StatusUnauthorized || !strings.Contains(text, `action="login"`) || strings.Contains(text, "{{") || a.Header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%s\n%s", a.Status, text)
	}
	post := func(token string) (*http.Response, string) {
		c := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
		a, err := c.PostForm(s.URL+"/login", url.Values{"token": {token}})
		if err != nil {
			t.Fatal(err)
		}
		defer a.Body.Close()
		text, _ := io.ReadAll(a.Body)
		return a, string(text)
	}
	if a, text := post("wrong"); a.StatusCode != http.StatusUnauthorized || !strings.Contains(text, "The token is &lt;b&gt;not&lt;/b&gt; right.") {
		t.Errorf("a wrong token: %s\n%s", a.Status, text)
	}
	if a, _ := post(strings.Repeat("x", 1<<16)); a.StatusCode != http.StatusBadRequest {
		t.Errorf("a form that is too large: %s", a.Status)
	}
	a, _ = post("right")
	if a.StatusCode != http.StatusSeeOther || a.Header.Get("Location") != "./" || len(a.Cookies()) != 1 {
		t.Errorf("the right token: %s %v", a.Status, a.Header)
	}
	if a, text := get(t, "GET", s.URL+"/", http.Header{"Cookie": {"session=1"}}); a.StatusCode != http.StatusOK || !strings.Contains(text, "app.js") {
		t.Errorf("logged in: %s", a.Status)
	}
}

func TestWhoCannotLogInIsToldWhy(t *testing.T) {
	s := served(t, problem.New(http.StatusForbidden, "http.token is not set"))
	if a, text := get(t, "GET", s.URL+"/", nil); a.StatusCode != http.StatusForbidden || !strings.Contains(text, "Http.token is not set.") || !strings.Contains(text, `action="login" hidden`) {
		t.Errorf("%s\n%s", a.Status, text)
	}
	slow := served(t, &problem.Details{Status: http.StatusTooManyRequests, Detail: "too many", RetryAfter: 3 * time.Second})
	if a, _ := get(t, "GET", slow.URL+"/", nil); a.StatusCode != http.StatusTooManyRequests || a.Header.Get("Retry-After") == "" {
		t.Errorf("%s %v", a.Status, a.Header)
	}
}
