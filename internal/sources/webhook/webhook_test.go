package webhook_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"event2mqtt/internal/device"
	"event2mqtt/internal/event"
	"event2mqtt/internal/health"
	"event2mqtt/internal/journal"
	"event2mqtt/internal/sources"
	"event2mqtt/internal/sources/webhook"
)

// output collects what a source emits, normalised as the bridge does it.
type output struct {
	mu        sync.Mutex
	events    []event.Event
	err       error
	delivered chan struct{} // closed when the broker has acknowledged
	outcome   error         // of the delivery
}

func (o *output) Ready() {}

func (o *output) Emit(_ context.Context, events ...event.Event) (sources.Receipt, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return nil, o.err
	}
	for _, e := range events {
		if err := (event.Normaliser{}).Normalise(&e); err != nil {
			return nil, err
		}
		o.events = append(o.events, e)
	}
	return o, nil
}

func (o *output) Delivered(ctx context.Context) error {
	select {
	case <-o.delivered:
		return o.outcome
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (o *output) Mark(context.Context, ...event.Position) error { return nil }
func (o *output) Report(...event.State)                         {}
func (o *output) Remove(...string)                              {}
func (o *output) Tell(health.Status)                            {}
func (o *output) Describe(device.Device)                        {}
func (o *output) Positions() map[string][]byte                  { return nil }
func (o *output) Forget(string)                                 {}

type source struct {
	*httptest.Server
	out *output
	*webhook.Source
}

func start(t *testing.T, change func(*webhook.Config)) *source {
	t.Helper()
	return startLogged(t, change, zerolog.Nop())
}

func startLogged(t *testing.T, change func(*webhook.Config), log zerolog.Logger) *source {
	t.Helper()
	c := webhook.Defaults()
	c.Name = "test"
	if change != nil {
		change(&c)
	}
	s, err := webhook.New(c, nil, log)
	if err != nil {
		t.Fatal(err)
	}
	out := &output{delivered: make(chan struct{})}
	server := httptest.NewServer(s.Handler(out))
	t.Cleanup(server.Close)
	return &source{server, out, s}
}

// post sends a body to a path below /hooks/test.
func (s *source) post(t *testing.T, path, contentType, body string, headers ...string) (int, string) {
	t.Helper()
	r, err := http.NewRequest(http.MethodPost, s.URL+"/hooks/test"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(response.Body)
	if response.StatusCode/100 != 2 {
		var p struct {
			Status        int
			Title, Detail string
		}
		if response.Header.Get("Content-Type") != "application/problem+json" || json.Unmarshal(text, &p) != nil || p.Status != response.StatusCode || p.Title == "" || p.Detail == "" {
			t.Errorf("status %d is not told as a problem: %s", response.StatusCode, text)
		}
		if response.StatusCode == 429 || response.StatusCode == 503 {
			if response.Header.Get("Retry-After") == "" {
				t.Errorf("status %d without Retry-After", response.StatusCode)
			}
		}
	}
	return response.StatusCode, string(text)
}

const (
	asJSON = "application/json"
	asForm = "application/x-www-form-urlencoded"
)

func octoprint(c *webhook.Config) { c.Preset = "octoprint" }

func TestBodiesBecomeEvents(t *testing.T) {
	for _, c := range []struct {
		name, path, contentType, body string
		change                        func(*webhook.Config)
		want                          string // name and payload behind the added fields, one a line
	}{
		{"object", "", asJSON, `{"event":"PrintStarted","file":"a.gcode"}`, nil, `PrintStarted "event":"PrintStarted","file":"a.gcode"`},
		{"as curl -d sends it", "", asForm, `{"event":"E"}`, nil, `E "event":"E"`},
		{"array", "", asJSON, `[{"type":"A"}, {"type":"B","n":12345678901234567890}]`, nil, "A \"type\":\"A\"\nB \"type\":\"B\",\"n\":12345678901234567890"},
		{"empty array", "", asJSON, ` [ ] `, nil, ""},
		{"name in URL", "/PrintDone", asJSON, `{"a":1}`, nil, `PrintDone "a":1`},
		{"name in URL, no body", "/PrintDone", "", ``, nil, `PrintDone`},
		{"name in URL, escaped", "/a%2Fb%20c", asJSON, `{}`, nil, `a/b c`},
		{"URL wins over body", "/X", asJSON, `{"event":"Y"}`, nil, `X "event":"Y"`},
		{"number as name", "", asJSON, `{"type":7}`, nil, `7 "type":7`},
		{"first key that holds a name", "", asJSON, `{"event":{"x":1},"type":null,"topic":"T"}`, nil, `T "event":{"x":1},"type":null,"topic":"T"`},
		{"default name, not an object", "", asJSON, `"hello"`, func(c *webhook.Config) { c.Event.Default = "D" }, `D "value":"hello"`},
		{"mapped name", "", asJSON, `{"event":"print began"}`, func(c *webhook.Config) { c.Event.Names = map[string]string{"print began": "Began"} }, `Began "event":"print began"`},
		{"form", "", asForm, `event=E&b=2&a=x+y&a=z&nested=%7B%22k%22%3A1%7D`, nil, `E "event":"E","b":"2","a":["x y","z"],"nested":{"k":1}`},
		{"text", "", "text/plain", `{"event":"E"}`, nil, `E "event":"E"`},
		{"own +json type", "", "application/cloudevents+json; charset=utf-8", `{"type":"E"}`, nil, `E "type":"E"`},
		{"octoprint: label and secret", "", asJSON, `{"deviceIdentifier":"P","apiSecret":"s3cret","topic":"Print Started","extra":{"name":"a"}}`, octoprint, `PrintStarted "deviceIdentifier":"P","topic":"Print Started","extra":{"name":"a"}`},
		{"octoprint: every label", "", asJSON, `[{"topic":"Print Done"},{"topic":"Print Failed"},{"topic":"Print Paused"},{"topic":"User Action Needed"},{"topic":"Print Progress"},{"topic":"Error"}]`, octoprint,
			"PrintDone \"topic\":\"Print Done\"\nPrintFailed \"topic\":\"Print Failed\"\nPrintPaused \"topic\":\"Print Paused\"\nplugin_webhooks_notify \"topic\":\"User Action Needed\"\nplugin_webhooks_progress \"topic\":\"Print Progress\"\nError \"topic\":\"Error\""},
		{"octoprint: event hook", "/ZChange", asJSON, `{"new": 0.4, "old": null}`, octoprint, `ZChange "new": 0.4,"old": null`},
		{"octoprint: push API", "", asJSON, `{"event":{"type":"PrintPaused","payload":{"name":"a","position":{"x":1}}}}`, octoprint, `PrintPaused "name":"a","position":{"x":1}`},
		{"octoprint: push API, null", "", asJSON, `{"event":{"type":"Home","payload":null}}`, octoprint, `Home`},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := start(t, c.change)
			if status, text := s.post(t, c.path, c.contentType, c.body); status != http.StatusAccepted {
				t.Fatalf("status %d: %s", status, text)
			}
			var got []string
			for _, e := range s.out.events {
				payload := string(e.Payload)
				_, rest, _ := strings.Cut(payload, `"_timestamp":`)
				_, rest, _ = strings.Cut(strings.TrimSuffix(rest, "}"), ",")
				got = append(got, strings.TrimSpace(e.Name+" "+rest))
			}
			if text := strings.Join(got, "\n"); text != c.want {
				t.Errorf("got\n%s\nwant\n%s", text, c.want)
			}
		})
	}
}

// TestOctoPrintWebhooksAsTheyCome is the plugin's default request: multipart,
// nested values as JSON text, the snapshot as a file.
func TestOctoPrintWebhooksAsTheyCome(t *testing.T) {
	s := start(t, func(c *webhook.Config) {
		octoprint(c)
		c.Auth.BodySecret = "s3cret"
	})
	send := func(secret string) int {
		var b bytes.Buffer
		w := multipart.NewWriter(&b)
		for _, f := range [][2]string{
			{"deviceIdentifier", "Prusa1"}, {"apiSecret", secret}, {"topic", "Print Started"}, {"message", "Your print has started."},
			{"extra", `{"name": "example.gcode", "size": 242038}`}, {"currentZ", ""}, {"currentTime", "1600000000"}, {"meta", "{broken"},
		} {
			_ = w.WriteField(f[0], f[1])
		}
		part, _ := w.CreateFormFile("snapshot", "snapshot.jpg")
		_, _ = part.Write([]byte("\xff\xd8\x00"))
		w.Close()
		status, _ := s.post(t, "", w.FormDataContentType(), b.String())
		return status
	}
	if status := send("wrong"); status != http.StatusUnauthorized {
		t.Errorf("wrong secret: %d", status)
	}
	if status := send("s3cret"); status != http.StatusAccepted {
		t.Fatalf("status %d", status)
	}
	want := `{"_event":"PrintStarted","_timestamp":1600000000,"deviceIdentifier":"Prusa1","topic":"Print Started","message":"Your print has started.",` +
		`"extra":{"name": "example.gcode", "size": 242038},"currentZ":"","currentTime":"1600000000","meta":"{broken"}`
	if got := string(s.out.events[0].Payload); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if n := s.FilesDropped(); n != 2 {
		t.Errorf("%d files counted", n)
	}
}

func TestRefusalsSayWhatToChange(t *testing.T) {
	for _, c := range []struct {
		name, path, contentType, body string
		status                        int
		says                          string
	}{
		{"no name", "", asJSON, `{"a":1}`, 400, "/hooks/test/NAME"},
		{"not JSON", "", asJSON, `{"event":"E",}`, 400, "at byte 14"},
		{"quotes lost in a shell", "/E", asJSON, `{name: a.gcode}`, 400, "taken by a shell"},
		{"item without a name", "", asJSON, `[{"event":"E"},{"a":1}]`, 400, "item 1: "},
		{"too deep", "", asJSON, `{"event":"E","a":` + strings.Repeat("[", 70) + strings.Repeat("]", 70) + `}`, 400, "71 levels"},
		{"not UTF-8 as declared", "", asJSON + "; charset=utf-8", "{\"event\":\"\xff\"}", 400, "UTF-8"},
		{"type unknown", "", "image/png", `x`, 415, `Content-Type \"image/png\" are not known; send application/json`},
		{"type malformed", "", "a/b/c", `x`, 415, `\"a/b/c\" is malformed`},
		{"type endless", "", "a/" + strings.Repeat("b", 5000), `x`, 415, strings.Repeat("b", 62) + `\"…`},
		{"form without a boundary", "", "multipart/form-data", `x`, 415, "no boundary"},
		{"XML malformed", "", "application/xml", `<a></b>`, 400, "</b> closes nothing"},
		{"form malformed", "", asForm, `event=%zz`, 400, "form is malformed"},
		{"multipart malformed", "", "multipart/form-data; boundary=x", `--x`, 400, "multipart"},
		{"two levels", "/a/b", asJSON, `{}`, 404, "%2F"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := start(t, nil)
			status, text := s.post(t, c.path, c.contentType, c.body)
			if status != c.status || !strings.Contains(text, c.says) {
				t.Errorf("status %d: %s\nwant %d with %q", status, text, c.status, c.says)
			}
			if len(s.out.events) != 0 {
				t.Error("something was kept")
			}
		})
	}
	s := start(t, nil)
	r, err := http.Get(s.URL + "/hooks/test")
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	if r.StatusCode != 405 || r.Header.Get("Allow") != "POST, PUT, HEAD, OPTIONS" {
		t.Errorf("GET: %d, Allow %q", r.StatusCode, r.Header.Get("Allow"))
	}
	for _, c := range []struct {
		method, header, says string
		methods              []string
	}{
		{"PATCH", "", "to accept PATCH, add it to the source's methods", []string{"POST"}},
		{"POST", "", "to accept POST, add it to the source's methods", []string{"GET"}},
		{"GET", "", "set methods: [GET, POST]", []string{"POST"}},
		{"DELETE", "", `events are sent with POST"`, []string{"POST"}},
		{"GET", "Sec-Fetch-Site: cross-site", "call it with a program", []string{"GET"}},
		{"GET", "Cookie: a=b", "call the URL with a program", []string{"GET"}},
		{"GET", "Sec-Purpose: prefetch", "open the URL itself", []string{"GET"}},
	} {
		s := start(t, func(w *webhook.Config) { w.Methods = c.methods })
		r, _ := http.NewRequest(c.method, s.URL+"/hooks/test/E", nil)
		if key, value, ok := strings.Cut(c.header, ": "); ok {
			r.Header.Set(key, value)
		}
		response, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(response.Body)
		response.Body.Close()
		if !strings.Contains(string(text), c.says) {
			t.Errorf("%s %s: %d %s; want %s", c.method, c.header, response.StatusCode, text, c.says)
		}
	}
}

func TestBodiesAreBounded(t *testing.T) {
	s := start(t, func(c *webhook.Config) { c.MaxBody, c.MaxUnpacked = 1000, 5000 })
	large := `{"event":"E","x":"` + strings.Repeat("x", 1000) + `"}`
	if status, _ := s.post(t, "", asJSON, large); status != 413 {
		t.Errorf("large: %d", status)
	}
	r, _ := http.NewRequest(http.MethodPost, s.URL+"/hooks/test", io.MultiReader(strings.NewReader(large))) // no length told
	response, err := http.DefaultClient.Do(r)
	if err != nil || response.StatusCode != 413 {
		t.Errorf("large, chunked: %v, %v", response, err)
	}
	zip := func(text string) string {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		_, _ = w.Write([]byte(text))
		w.Close()
		return b.String()
	}
	if status, text := s.post(t, "", asJSON, zip(large), "Content-Encoding", "gzip"); status != 202 {
		t.Errorf("packed: %d %s", status, text)
	}
	if status, _ := s.post(t, "", asJSON, zip(strings.Repeat(" ", 100000)+"{}"), "Content-Encoding", "gzip"); status != 413 {
		t.Errorf("bomb: %d", status)
	}
	if status, _ := s.post(t, "", asJSON, `{"event":"E"}`, "Content-Encoding", "gzip"); status != 400 {
		t.Errorf("not gzip: %d", status)
	}
	if status, text := s.post(t, "", asJSON, `{"event":"E"}`, "Content-Encoding", "br"); status != 415 || !strings.Contains(text, `Content-Encoding \"br\"`) {
		t.Errorf("br: %d %s", status, text)
	}
	fields := strings.Repeat("a=1&", 10)
	for i := range 1100 {
		fields += fmt.Sprintf("f%d=1&", i)
	}
	s = start(t, nil)
	if status, _ := s.post(t, "/E", asForm, fields+"z=1"); status != 400 {
		t.Errorf("many fields: %d", status)
	}
}

func TestWhoeverIsNotAllowedIsRefused(t *testing.T) {
	now := time.Now().Unix()
	body := `{"event":"E"}`
	key := []byte("0123456789abcdef")
	mac := func(key []byte, text string) []byte {
		h := hmac.New(sha256.New, key)
		h.Write([]byte(text))
		return h.Sum(nil)
	}
	standard := func(id string, at int64, text string) []string {
		signature := base64.StdEncoding.EncodeToString(mac(key, fmt.Sprintf("%s.%d.%s", id, at, text)))
		return []string{"Webhook-Id", id, "Webhook-Timestamp", fmt.Sprint(at), "Webhook-Signature", "v1,AAAA v1a,xyz v1," + signature}
	}
	basic := func(text string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(text)) }
	token := func(c *webhook.Config) { c.Auth.Token = "t0ken" }
	user := func(c *webhook.Config) { c.Auth.Username, c.Auth.Password = "u", "p" }
	github := func(c *webhook.Config) { c.Auth.HMAC.Scheme, c.Auth.HMAC.Secret = "github", "key" }
	signed := func(c *webhook.Config) {
		c.Auth.HMAC.Scheme, c.Auth.HMAC.Secret = "standard", "whsec_MDEyMzQ1Njc4OWFiY2RlZg=="
	}
	for _, c := range []struct {
		name    string
		change  func(*webhook.Config)
		headers []string
		status  int
	}{
		{"token", token, []string{"Authorization", "Bearer t0ken"}, 202},
		{"token, other case", token, []string{"Authorization", "bearer t0ken"}, 202},
		{"no token", token, nil, 401},
		{"wrong token", token, []string{"Authorization", "Bearer t0kem"}, 401},
		{"longer token", token, []string{"Authorization", "Bearer t0ken2"}, 401},
		{"token as basic", token, []string{"Authorization", "Basic t0ken"}, 401},
		{"basic", user, []string{"Authorization", basic("u:p")}, 202},
		{"basic, wrong password", user, []string{"Authorization", basic("u:x")}, 401},
		{"basic, wrong user", user, []string{"Authorization", basic("x:p")}, 401},
		{"basic, none", user, nil, 401},
		{"github", github, []string{"X-Hub-Signature-256", "sha256=" + hex.EncodeToString(mac([]byte("key"), body))}, 202},
		{"github, other body", github, []string{"X-Hub-Signature-256", "sha256=" + hex.EncodeToString(mac([]byte("key"), body+" "))}, 401},
		{"github, none", github, nil, 401},
		{"standard", signed, standard("1", now, body), 202},
		{"standard, within the window", signed, standard("1", now-290, body), 202},
		{"standard, too old", signed, standard("1", now-310, body), 401},
		{"standard, from the future", signed, standard("1", now+310, body), 401},
		{"standard, other body", signed, standard("1", now, "{}"), 401},
		{"standard, other id", signed, append(standard("1", now, body), "Webhook-Id", "2"), 401},
		{"standard, none", signed, nil, 401},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := start(t, c.change)
			status, text := s.post(t, "", asJSON, body, c.headers...)
			if status != c.status {
				t.Errorf("status %d: %s", status, text)
			}
			if kept := len(s.out.events); kept != map[int]int{202: 1, 401: 0}[c.status] {
				t.Errorf("%d events kept", kept)
			}
			for _, secret := range []string{"t0ken", "whsec", "key\""} {
				if strings.Contains(text, secret) {
					t.Errorf("the answer tells a secret: %s", text)
				}
			}
		})
	}

	// The id makes it idempotent, once it was stored.
	s := start(t, signed)
	s.out.err = errors.New("disk on fire")
	if status, _ := s.post(t, "", asJSON, body, standard("same", now, body)...); status != 503 {
		t.Errorf("while it cannot be stored: %d", status)
	}
	s.out.err = nil
	for range 3 {
		if status, _ := s.post(t, "", asJSON, body, standard("same", now, body)...); status != 202 {
			t.Errorf("sent again: %d", status)
		}
	}
	if n := len(s.out.events); n != 1 {
		t.Errorf("stored %d times", n)
	}
}

func TestFullAndFailingStoresAskToTryLater(t *testing.T) {
	for _, err := range []error{fmt.Errorf("append: %w", journal.ErrFull), errors.New("input/output error at /secret/path")} {
		s := start(t, nil)
		s.out.err = err
		status, text := s.post(t, "", asJSON, `{"event":"E"}`)
		if status != 503 || strings.Contains(text, "/secret/path") {
			t.Errorf("status %d: %s", status, text)
		}
	}
}

func TestDeliveredMeansTheBrokerHasIt(t *testing.T) {
	s := start(t, func(c *webhook.Config) { c.Respond, c.RespondTimeout = "delivered", 50*time.Millisecond })
	if status, text := s.post(t, "", asJSON, `{"event":"E"}`); status != 504 || !strings.Contains(text, "do not send them again") {
		t.Errorf("status %d: %s", status, text)
	}
	close(s.out.delivered)
	for outcome, want := range map[error]int{nil: 200, sources.ErrHeld: 202, journal.ErrDropped: 503} {
		s.out.outcome = outcome
		if status, text := s.post(t, "", asJSON, `{"event":"E"}`); status != want {
			t.Errorf("%v: status %d: %s", outcome, status, text)
		}
	}
}

func TestRateLimitIsForEachAddress(t *testing.T) {
	s := start(t, func(c *webhook.Config) { c.RateLimit, c.RateBurst = 0.001, 3 })
	for i := range 5 {
		want := map[bool]int{true: 202, false: 429}[i < 3]
		if status, _ := s.post(t, "", asJSON, `{"event":"E"}`); status != want {
			t.Errorf("request %d: %d, want %d", i, status, want)
		}
	}
}

// FuzzBodies: whatever the body and its type, the answer is one of those that
// are meant, and what was accepted is valid JSON.
func FuzzBodies(f *testing.F) {
	f.Add(asJSON, []byte(`[{"event":"E"},1]`))
	f.Add(asForm, []byte(`event=E&a=%7B%7D`))
	f.Add("multipart/form-data; boundary=x", []byte("--x\r\nContent-Disposition: form-data; name=\"event\"\r\n\r\nE\r\n--x--"))
	f.Add("application/x-ndjson", []byte("{\"event\":\"A\"}\n[{},1] \"x\"3{"))
	f.Add("text/xml", []byte(`<?xml version="1.0" encoding="latin1"?><a b="c"><!-- --><d>e</d><d/></a>`))
	f.Add("text/plain; charset=utf-16le", []byte("[\x001\x00"))
	f.Add(asJSON, []byte(`{"alerts":[{"a":1},2],"m":"[{}]","a":{}}`))
	c := webhook.Defaults()
	c.Name, c.Preset, c.Event.Default = "test", "octoprint", "D"
	c.Split, c.Parse, c.Query, c.Headers, c.Timing.Key = "alerts", []string{"m", "m.0"}, true, []string{"Content-Type"}, "m.at"
	s, err := webhook.New(c, nil, zerolog.Nop())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, contentType string, body []byte) {
		out := &output{}
		r := httptest.NewRequest(http.MethodPost, "/hooks/test?a=1&q=%5B1%5D", bytes.NewReader(body))
		r.Header.Set("Content-Type", contentType)
		w := httptest.NewRecorder()
		s.Handler(out).ServeHTTP(w, r)
		switch w.Code {
		case 202, 400, 413, 415:
		default:
			t.Fatalf("status %d: %s", w.Code, w.Body)
		}
		for _, e := range out.events {
			if !json.Valid(e.Payload) || e.Name == "" {
				t.Fatalf("accepted %q as %q", body, e.Payload)
			}
		}
	})
}
