package bridge

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestNoPathLetsStrangersIn: every method of every path of the description is
// tried as by a program elsewhere, by a page of another origin, by one without an
// origin, by a page whose name was made to point here, and with forged headers of
// ingress. Nothing may be answered or done.
func TestNoPathLetsStrangersIn(t *testing.T) {
	h := newAPIRig(t, strings.Replace(withAPI, "HTTP}", "HTTP, token: right}", 1))
	parameter := regexp.MustCompile(`\{[^}]+\}`)
	before := h.journal.Stats().Last
	for path, operations := range described().Paths {
		for method := range operations {
			for what, headers := range map[string][]string{
				"a program elsewhere":          {"X-Forwarded-For", "192.0.2.1"},
				"forged headers of ingress":    {"X-Forwarded-For", "172.30.32.2", "X-Ingress-Path", "/x", "X-Remote-User-Name", "admin"},
				"a rebound name":               {"Host", "evil.example", "User-Agent", "Mozilla/5.0", "Origin", "http://evil.example"},
				"a rebound name without a dot": {"Host", "wpad", "User-Agent", "Mozilla/5.0", "Origin", "http://wpad"},
				"a page of another origin":     {"Origin", "http://evil.example", "Sec-Fetch-Site", "cross-site"},
				"a page without an origin":     {"Origin", "null", "Sec-Fetch-Site", "cross-site"},
				"a page of another port":       {"Origin", "http://127.0.0.1:1", "Sec-Fetch-Site", "same-site"},
				"the cookie of another":        {"X-Forwarded-For", "192.0.2.1", "Cookie", "event2mqtt_session=x"},
			} {
				if path == "/session" && (strings.HasPrefix(what, "a program") || strings.HasPrefix(what, "forged") || strings.Contains(what, "dot") || strings.HasPrefix(what, "the cookie")) {
					continue // which is where they log in
				}
				got, text := h.call(strings.ToUpper(method), parameter.ReplaceAllString(path, "x"), `{"event":"A","topic":"a","payload":1}`, headers...)
				if got != 401 && got != 403 && got != 421 {
					t.Errorf("%s: %s %s: %d %s", what, method, path, got, text)
				}
			}
		}
	}
	if after := h.journal.Stats().Last; after != before {
		t.Errorf("%d events were stored", after-before)
	}
}

// TestLoggingInWithABrowser: a form leads back to the page and sets a cookie,
// which lets in until the token changes. From another site it is refused.
func TestLoggingInWithABrowser(t *testing.T) {
	withToken := strings.Replace(plain, "HTTP}", "HTTP, token: right}", 1)
	h := newAPIRig(t, withToken)
	jar, _ := cookiejar.New(nil)
	client := http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	ask := func(method, path, body string, headers ...string) *http.Response {
		t.Helper()
		r, _ := http.NewRequestWithContext(t.Context(), method, "http://"+h.http+"/api/v1"+path, strings.NewReader(body))
		r.Header.Set("X-Forwarded-For", "192.0.2.1") // as through a proxy here
		for i := 0; i < len(headers); i += 2 {
			r.Header.Set(headers[i], headers[i+1])
		}
		answer, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
		return answer
	}
	if got := ask("GET", "/state", ""); got.StatusCode != http.StatusUnauthorized || got.Header.Get("WWW-Authenticate") == "" {
		t.Errorf("before: %d", got.StatusCode)
	}
	form := url.Values{"token": {"right"}}.Encode()
	const kind = "application/x-www-form-urlencoded"
	if got := ask("POST", "/session", form, "Content-Type", kind, "Origin", "http://evil.example"); got.StatusCode != http.StatusForbidden || len(got.Cookies()) > 0 {
		t.Errorf("from another site: %d", got.StatusCode)
	}
	if got := ask("POST", "/session", "token=wrong", "Content-Type", kind); got.StatusCode != http.StatusUnauthorized || len(got.Cookies()) > 0 {
		t.Errorf("a wrong token: %d", got.StatusCode)
	}
	if got := ask("POST", "/session", form, "Content-Type", kind, "Origin", "http://"+h.http); got.StatusCode != http.StatusSeeOther || got.Header.Get("Location") != "../../" || len(got.Cookies()) != 1 {
		t.Errorf("the form: %d %v", got.StatusCode, got.Header)
	}
	if got := ask("GET", "/state", ""); got.StatusCode != http.StatusOK {
		t.Errorf("with the cookie: %d", got.StatusCode)
	}
	if got := ask("POST", "/reload", "", "Origin", "http://evil.example"); got.StatusCode != http.StatusForbidden {
		t.Errorf("another site with the cookie: %d", got.StatusCode)
	}
	for header, want := range map[string]string{
		"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cross-Origin-Resource-Policy": "same-origin", "Cache-Control": "no-store",
	} {
		if got := ask("GET", "/state", "").Header.Get(header); got != want {
			t.Errorf("%s: %q", header, got)
		}
	}
	if got := ask("GET", "/state", "").Header; !strings.Contains(got.Get("Content-Security-Policy"), "default-src 'none'") || got.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("%v", got)
	}
	if o := h.reload(strings.Replace(withToken, "token: right", "token: other", 1)); !o.OK {
		t.Fatal(o)
	}
	if got := ask("GET", "/state", ""); got.StatusCode != http.StatusUnauthorized {
		t.Errorf("after the token has changed: %d", got.StatusCode)
	}
}

// TestStreamsEndWhenTheTokenChanges: who came with the old one gets nothing that
// happens later, whichever way they came; who needs none gets all.
func TestStreamsEndWhenTheTokenChanges(t *testing.T) {
	withToken := strings.Replace(plain, "HTTP}", "HTTP, token: right}", 1)
	h := newAPIRig(t, withToken)
	login, err := http.Post("http://"+h.http+"/api/v1/session", "application/json", strings.NewReader(`{"token":"right"}`))
	if err != nil {
		t.Fatal(err)
	}
	_ = login.Body.Close()
	cookie := login.Cookies()[0].String()
	stranger := []string{"X-Forwarded-For", "192.0.2.1"}
	streams := map[string]*feed{}
	for _, path := range []string{"/stream", "/stream?format=sse", "/subscribe?topic=x"} {
		streams[path+" with the token"] = h.stream(path, append(stranger, "Authorization", "Bearer right")...)
		streams[path+" with the cookie"] = h.stream(path, append(stranger, "Cookie", cookie)...)
	}
	local := h.stream("/stream?event=Publish")
	if o := h.reload(strings.Replace(withToken, "token: right", "token: other", 1)); !o.OK {
		t.Fatal(o)
	}
	h.want(202, "POST", "/publish/x?retain=1", "later")
	for what, f := range streams {
		for line, ok := f.line(); ok; line, ok = f.line() {
			if strings.Contains(line, "later") {
				t.Errorf("%s: %s", what, line)
			}
		}
	}
	local.until(func(one toldItem) bool { return one.Topic == "x" })
}

// TestThePageIsForThoseWhoMayUseTheAPI: others see its login page, or how to
// have one; what another site sends logs nobody in.
func TestThePageIsForThoseWhoMayUseTheAPI(t *testing.T) {
	withToken := strings.Replace(plain, "HTTP}", "HTTP, token: right}", 1)
	h := newAPIRig(t, withToken)
	jar, _ := cookiejar.New(nil)
	client := http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	ask := func(want int, says, method, path, body string, headers ...string) {
		t.Helper()
		r, _ := http.NewRequestWithContext(t.Context(), method, "http://"+h.http+path, strings.NewReader(body))
		for i := 0; i < len(headers); i += 2 {
			if r.Header.Set(headers[i], headers[i+1]); headers[i] == "Host" {
				r.Host = headers[i+1]
			}
		}
		answer, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		if text, _ := io.ReadAll(answer.Body); answer.StatusCode != want || !strings.Contains(string(text), says) {
			t.Errorf("%s %s %q: %d %s", method, path, headers, answer.StatusCode, text)
		}
	}
	const app, login, kind = "app.js", `action="login"`, "application/x-www-form-urlencoded"
	stranger := []string{"X-Forwarded-For", "192.0.2.1"}
	ask(200, app, "GET", "/", "")
	ask(421, "", "GET", "/", "", "Sec-Fetch-Site", "none", "Host", "rebound.example")
	ask(401, login, "GET", "/", "", stranger...)
	ask(401, "", "GET", "/", "", append(stranger, "Authorization", "Basic YTpi")...)
	ask(401, "The token is not right", "POST", "/login", "token=wrong", append(stranger, "Content-Type", kind)...)
	ask(403, "", "POST", "/login", "token=right", append(stranger, "Content-Type", kind, "Origin", "http://evil.example")...)
	ask(401, login, "GET", "/", "", stranger...)
	ask(303, "", "POST", "/login", "token=right", append(stranger, "Content-Type", kind, "Origin", "http://"+h.http)...)
	ask(200, app, "GET", "/", "", stranger...)
	ask(200, "", "GET", "/app.js", "")
	h.reload(plain)
	ask(403, "http.token", "GET", "/", "", stranger...)
}

// TestTheAPIShowsNoSecret, of whatever option has one.
func TestTheAPIShowsNoSecret(t *testing.T) {
	const secret = "a-very-long-secret"
	h := newAPIRig(t, `
http: {listen: HTTP, token: `+secret+`}
broker: {listen: MQTT, users: [{name: anna, password: `+secret+`}]}
sources:
  - {name: hooks, type: webhook}
  - {name: other, type: webhook, auth: {token: `+secret+`, hmac: {scheme: github, secret: `+secret+`}}}
`)
	for path, operations := range described().Paths {
		if _, ok := operations["get"]; ok && !strings.Contains(path, "{") && path != "/stream" && path != "/subscribe" {
			if _, text := h.call("GET", path, ""); strings.Contains(string(text), secret) {
				t.Errorf("%s: %s", path, text)
			}
		}
	}
	for _, line := range []string{`"key":"http.token","value":"***"`, `"value":"***"`} {
		h.want(200, "GET", "/config", "", line)
	}
	if strings.Contains(h.log.String(), secret) {
		t.Error("the log has it")
	}
}

// TestAnAccountOfTheBrokerPublishesAndSubscribes as far as its rules go, and does
// nothing else.
func TestAnAccountOfTheBrokerPublishesAndSubscribes(t *testing.T) {
	h := newAPIRig(t, strings.Replace(plain, "listen: MQTT", "listen: MQTT, users: [{name: anna, password: 'pass word 1', allow: ['home/#:rw', 'home/secret:deny', 'read/+:r']}]", 1))
	anna := func(password string) string {
		return "Basic " + base64.StdEncoding.EncodeToString([]byte("anna:"+password))
	}
	call := func(want int, method, path, body, password string) {
		t.Helper()
		if got, text := h.call(method, path, body, "Authorization", anna(password)); got != want {
			t.Errorf("%s %s: %d, want %d: %s", method, path, got, want, text)
		}
	}
	const right = "pass word 1"
	call(202, "POST", "/publish/home/lamp?retain=1", "ON", right)
	call(403, "POST", "/publish/home/secret", "ON", right)
	call(403, "POST", "/publish/read/a", "ON", right)
	call(403, "POST", "/publish", `{"topic":"other","payload":1}`, right)
	call(403, "GET", "/subscribe?topic=other/%23", "", right)
	for _, path := range []string{"/state", "/events", "/config", "/clients", "/topics", "/stream"} {
		call(403, "GET", path, "", right)
	}
	call(403, "POST", "/reload", "", right)
	call(401, "POST", "/publish/home/lamp", "ON", "wrong")
	call(401, "GET", "/state", "", "")

	f := h.stream("/subscribe?topic=%23", "Authorization", anna(right))
	f.until(func(one toldItem) bool { return one.Type == "open" })
	for _, topic := range []string{"other/x", "home/secret", "home/lamp"} {
		h.want(202, "POST", "/publish/"+topic, "1")
	}
	f.until(func(one toldItem) bool {
		if one.Type == "message" && !strings.HasPrefix(one.Topic, "home/lamp") {
			t.Errorf("got %s", one.Topic)
		}
		return string(one.Payload) == "1"
	})
}

// TestAnAccountLeavesStreamsToOthers: it may have four of the sixteen.
func TestAnAccountLeavesStreamsToOthers(t *testing.T) {
	h := newAPIRig(t, strings.Replace(plain, "listen: MQTT", "listen: MQTT, users: [{name: anna, password: 'pass word 1', allow: ['#:rw']}, {name: otto, password: 'pass word 2', allow: ['#:rw']}]", 1))
	login := func(user, password string) []string {
		return []string{"Authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))}
	}
	anna := login("anna", "pass word 1")
	for range 4 {
		h.stream("/subscribe?topic=%23", anna...)
	}
	if got, text := h.call("GET", "/subscribe?topic=%23", "", anna...); got != 429 || !strings.Contains(string(text), "4 streams") {
		t.Errorf("a fifth: %d %s", got, text)
	}
	h.stream("/subscribe?topic=%23", login("otto", "pass word 2")...)
	for range 11 {
		h.stream("/stream")
	}
	if got, text := h.call("GET", "/stream", ""); got != 429 || !strings.Contains(string(text), "16 streams") {
		t.Errorf("a seventeenth: %d %s", got, text)
	}
}

// TestABodyIsReadOnlyWhereThereIsOne: a body that calls itself multipart is not
// read, nor written to the disk, for a request that takes its parameters from its
// address.
func TestABodyIsReadOnlyWhereThereIsOne(t *testing.T) {
	folder := t.TempDir()
	t.Setenv("TMPDIR", folder)
	h := newAPIRig(t, plain)
	const part = "--X\r\nContent-Disposition: form-data; name=%q%s\r\n\r\n"
	form := fmt.Sprintf(part, "topic", "") + "a\r\n" + fmt.Sprintf(part, "count", "") + "none\r\n" +
		fmt.Sprintf(part, "f", `; filename="f"`) + strings.Repeat("x", 48<<20) + "\r\n--X--\r\n" // beyond what FormValue keeps in memory
	kind := []string{"Content-Type", "multipart/form-data; boundary=X"}
	for path, want := range map[string]int{"/stream?poll=1": 200, "/topics": 200, "/subscribe": 422} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		r, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+h.http+"/api/v1"+path, strings.NewReader(form))
		r.Header.Set(kind[0], kind[1])
		r.Header.Set("Expect", "100-continue") // who does not want the body answers without it
		answer, err := (&http.Client{Transport: &http.Transport{ExpectContinueTimeout: time.Minute}}).Do(r)
		if err != nil {
			t.Fatal(err)
		}
		if _ = answer.Body.Close(); answer.StatusCode != want {
			t.Errorf("%s: %d", path, answer.StatusCode)
		}
		cancel()
	}
	left, err := os.ReadDir(folder)
	left = slices.DeleteFunc(left, func(e os.DirEntry) bool { return strings.HasPrefix(e.Name(), ".") }) // a file of the state folder, being written
	if err != nil || len(left) > 0 {
		t.Errorf("%v: %v", err, left)
	}
}
