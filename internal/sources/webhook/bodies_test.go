package webhook_test

import (
	"bytes"
	"fmt"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"event2mqtt/internal/journal"
	"event2mqtt/internal/sources/webhook"
	"event2mqtt/internal/web/origin"
)

// payloads are the events, one a line, as name and what stands in the payload
// behind the added fields.
func (s *source) payloads() string {
	var lines []string
	for _, e := range s.out.events {
		_, rest, _ := strings.Cut(string(e.Payload), `"_timestamp":`)
		_, rest, _ = strings.Cut(strings.TrimSuffix(rest, "}"), ",")
		lines = append(lines, strings.TrimSpace(e.Name+" "+rest))
	}
	return strings.Join(lines, "\n")
}

// do makes any request.
func (s *source) do(t *testing.T, method, path string, headers ...string) *http.Response {
	t.Helper()
	r, err := http.NewRequest(method, s.URL+"/hooks/test"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	return response
}

const alerts = `{"receiver":"r","status":"firing","alerts":[{"event":"A","status":"resolved"},{"event":"B"}],"groupKey":{"k":[1]}}`

func TestBodiesAreTakenAsTheyAreSent(t *testing.T) {
	plain := "text/plain"
	split := func(c *webhook.Config) { c.Split = "alerts" }
	for _, c := range []struct {
		name, path, contentType, body string
		change                        func(*webhook.Config)
		want                          string
	}{
		{"JSON under another label", "", "application/octet-stream", `{"event":"E"}`, nil, `E "event":"E"`},
		{"JSON under an image's label", "", "image/png", `{"event":"E"}`, nil, `E "event":"E"`},
		{"JSON, charset without value", "", "application/json; charset", `{"event":"E"}`, nil, `E "event":"E"`},
		{"JSON under a malformed label", "", "a/b/c", `{"event":"E"}`, nil, `E "event":"E"`},
		{"byte order mark", "", asJSON, "\xef\xbb\xbf{\"event\":\"E\"}", nil, `E "event":"E"`},
		{"UTF-16", "", asJSON, "\xff\xfe{\x00\"\x00e\x00v\x00e\x00n\x00t\x00\"\x00:\x00\"\x00\xe9\x00\"\x00}\x00", nil, `é "event":"é"`},
		{"declared charset", "", "application/json; charset=iso-8859-1", "{\"event\":\"K\xfcche\"}", nil, `Küche "event":"Küche"`},
		{"charset of nobody", "", "application/json; charset=klingon", `{"event":"E"}`, nil, `E "event":"E"`},
		{"no charset, not UTF-8", "", asJSON, "{\"event\":\"K\xfcche\"}", nil, `Küche "event":"Küche"`},
		{"configured encoding", "", asJSON + "; charset=utf-8", "{\"event\":\"\xcf\xf0\xe8\"}", func(c *webhook.Config) { c.Encoding = "windows-1251" }, `При "event":"При"`},
		{"form, declared charset", "", asForm + "; charset=iso-8859-1", "event=E&n=K%FCche", nil, `E "event":"E","n":"Küche"`},
		{"form, no charset", "", asForm, "event=E&n=K%FCche&m=K%C3%BCche", nil, `E "event":"E","n":"Küche","m":"Küche"`},
		{"form, empty pairs", "", asForm, "&event=E&&x=1&", nil, `E "event":"E","x":"1"`},
		{"form, GitHub's", "/E", asForm, "payload=%7B%22a%22%3A1%7D", nil, `E "a":1`},
		{"form, GitHub's and more", "/E", asForm, "payload=%7B%22a%22%3A1%7D&b=2", nil, `E "payload":{"a":1},"b":"2"`},
		{"form without HTML escapes", "/E", asForm, "a=%3Cb%3E", nil, `E "a":"<b>"`},
		{"lines of JSON", "", "application/x-ndjson", "{\"event\":\"A\"}\n{\"event\":\"B\"}\n", nil, "A \"event\":\"A\"\nB \"event\":\"B\""},
		{"JSON one behind another", "", asJSON, `{"event":"A","x":"}{"} {"event":"B"}[{"event":"C"},{"event":"D"}]`, nil, "A \"event\":\"A\",\"x\":\"}{\"\nB \"event\":\"B\"\nC \"event\":\"C\"\nD \"event\":\"D\""},
		{"JSON text sequence", "", "application/json-seq", "\x1e{\"event\":\"A\"}\n\x1e{\"event\":\"B\"}\n", nil, "A \"event\":\"A\"\nB \"event\":\"B\""},
		{"lines of JSON from curl -d", "", asForm, `{"event":"A"}{"event":"B"}`, nil, "A \"event\":\"A\"\nB \"event\":\"B\""},
		{"text", "/E", plain, "Backup done: 3 files\n", nil, `E "value":"Backup done: 3 files"`},
		{"text that begins as an array does", "/E", plain, "[12:00] done", nil, `E "value":"[12:00] done"`},
		{"a number as text", "/E", plain, "42", nil, `E "value":42`},
		{"text without a type", "/E", "", "ON", nil, `E "value":"ON"`},
		{"text from curl -d", "/E", asForm, "Backup done", nil, `E "value":"Backup done"`},
		{"text in Latin-1", "/E", plain + "; charset=iso-8859-1", "K\xfcche", nil, `E "value":"Küche"`},
		{"XML", "", "text/xml", `<?xml version="1.0"?><!-- x --><a id="1" xmlns="u"><event>E</event><b>1</b><b k="v">2</b><c/></a>`, func(c *webhook.Config) { c.Event.Keys = []string{"a.event"} },
			`E "a":{"@id":"1","event":"E","b":["1",{"@k":"v","#text":"2"}],"c":""}`},
		{"XML that says its encoding", "/E", "application/xml", "<?xml version='1.0' encoding='ISO-8859-1'?><n>K\xfcche</n>", nil, `E "n":"Küche"`},
		{"split", "", asJSON, alerts, split, "A \"event\":\"A\",\"status\":\"resolved\",\"receiver\":\"r\",\"groupKey\":{\"k\":[1]}\nB \"event\":\"B\",\"receiver\":\"r\",\"status\":\"firing\",\"groupKey\":{\"k\":[1]}"},
		{"split inside", "/E", asJSON, `{"x":1,"data":{"list":[1,{"a":2}],"y":3}}`, func(c *webhook.Config) { c.Split = "data.list" }, "E \"value\":1,\"x\":1\nE \"a\":2,\"x\":1"},
		{"split of none", "/E", asJSON, `{"alerts":[]}`, split, ""},
		{"split without the array", "/E", asJSON, `{"alerts":1}`, split, `E "alerts":1`},
		{"parse", "", asJSON, `{"m":"{\"event\":\"E\"}","n":{"o":"[1]"}}`, func(c *webhook.Config) { c.Parse, c.Event.Keys = []string{"m", "n.o"}, []string{"m.event"} }, `E "m":{"event":"E"},"n":{"o":[1]}`},
		{"the query is not published", "/E?token=t", asJSON, `{"a":1}`, nil, `E "a":1`},
		{"query", "/E?a=2&b=x&b=y&key=s", asJSON, `{"a":1}`, func(c *webhook.Config) {
			c.Query, c.Auth.SecretQuery = true, webhook.NamedSecret{Name: "key", Value: "s"}
		}, `E "a":1,"b":["x","y"]`},
		{"query beside a text", "/E?b=x", plain, `ON`, func(c *webhook.Config) { c.Query = true }, `E "value":"ON","b":"x"`},
		{"query beside an array", "?b=x", asJSON, `[{"event":"A"},{"event":"B","b":1}]`, func(c *webhook.Config) { c.Query = true }, "A \"event\":\"A\",\"b\":\"x\"\nB \"event\":\"B\",\"b\":1"},
		{"query beside nothing", "/E?b=x", "", ``, func(c *webhook.Config) { c.Query = true }, `E "b":"x"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := start(t, c.change)
			if status, text := s.post(t, c.path, c.contentType, c.body); status != http.StatusAccepted {
				t.Fatalf("status %d: %s", status, text)
			}
			if got := s.payloads(); got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
		})
	}
}

func TestPartsHaveCharsetsOfTheirOwn(t *testing.T) {
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	part, _ := w.CreatePart(textproto.MIMEHeader{"Content-Disposition": {`form-data; name="n"`}, "Content-Type": {"text/plain; charset=iso-8859-5"}})
	_, _ = part.Write([]byte("\xbf"))
	_ = w.WriteField("event", "E")
	w.Close()
	s := start(t, nil)
	if status, text := s.post(t, "", w.FormDataContentType(), b.String()); status != 202 {
		t.Fatalf("%d %s", status, text)
	}
	if got := s.payloads(); got != `E "n":"П","event":"E"` {
		t.Errorf("got %s", got)
	}
}

// TestFilesOfFormsDoNotCount: neither their size towards max_body nor what is
// in them, as long as the whole fits into max_upload.
func TestFilesOfFormsDoNotCount(t *testing.T) {
	form := func(size int) (string, string) {
		var b bytes.Buffer
		w := multipart.NewWriter(&b)
		part, _ := w.CreateFormFile("snapshot", "s.jpg")
		_, _ = part.Write(make([]byte, size))
		_ = w.WriteField("event", "Snap")
		w.Close()
		return w.FormDataContentType(), b.String()
	}
	s := start(t, func(c *webhook.Config) { c.MaxBody, c.MaxUpload = 1000, 300000 })
	contentType, body := form(200000)
	if status, text := s.post(t, "", contentType, body); status != 202 || s.FilesDropped() != 1 {
		t.Errorf("%d %s, %d files", status, text, s.FilesDropped())
	}
	contentType, body = form(400000)
	if status, text := s.post(t, "", contentType, body); status != 413 || !strings.Contains(text, "max_upload") {
		t.Errorf("%d %s", status, text)
	}
}

func TestGETMakesEventsOnlyWhereItIsAllowed(t *testing.T) {
	s := start(t, func(c *webhook.Config) { c.Preset = "shelly" })
	for _, c := range []struct {
		name, path string
		status     int
		headers    []string
	}{
		{"device", "/door?temp=21.5&id=input:0", 202, nil},
		{"typed into a browser", "/door?n=1", 202, []string{"Sec-Fetch-Site", "none"}},
		{"own page", "/door?n=2", 202, []string{"Sec-Fetch-Site", "same-origin"}},
		{"another page", "/door", 403, []string{"Sec-Fetch-Site", "cross-site"}},
		{"another page of the site", "/door", 403, []string{"Sec-Fetch-Site", "same-site"}},
		{"cookie", "/door", 403, []string{"Cookie", "a=b"}},
		{"in advance", "/door", 403, []string{"Sec-Purpose", "prefetch"}},
		{"malformed", "/door?%zz", 400, nil},
		{"too many parameters", "/door?" + strings.Repeat("a=1&", 101), 400, nil},
	} {
		if r := s.do(t, http.MethodGet, c.path, c.headers...); r.StatusCode != c.status {
			t.Errorf("%s: %d", c.name, r.StatusCode)
		}
	}
	if got, want := s.payloads(), "door \"temp\":\"21.5\",\"id\":\"input:0\"\ndoor \"n\":\"1\"\ndoor \"n\":\"2\""; got != want {
		t.Errorf("got\n%s", got)
	}
	s = start(t, nil)
	if r := s.do(t, http.MethodGet, "/door"); r.StatusCode != 405 {
		t.Errorf("by default: %d", r.StatusCode)
	}
	for _, method := range []string{http.MethodHead, http.MethodOptions} {
		if r := s.do(t, method, "/door"); r.StatusCode != 200 {
			t.Errorf("%s: %d", method, r.StatusCode)
		}
	}
	if r := s.do(t, http.MethodPut, "/door"); r.StatusCode != 202 || s.payloads() != "door" {
		t.Errorf("PUT: %d, %s", r.StatusCode, s.payloads())
	}
}

// TestGETOfABrowserMakesNoEvent, though over plain HTTP it does not say which
// site is behind it. Devices and programs send GET as they always do.
func TestGETOfABrowserMakesNoEvent(t *testing.T) {
	firefox := []string{"User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"}
	with := func(more ...string) []string { return append(slices.Clone(firefox), more...) }
	for _, c := range []struct {
		name    string
		status  int
		headers []string
	}{
		{"an image in a page", 403, with("Accept", "image/avif,image/webp,*/*", "Accept-Language", "de", "Referer", "https://evil.example/")},
		{"an image without a referrer", 403, with("Accept", "image/avif,image/webp,*/*", "Accept-Language", "de")},
		{"a page's fetch", 403, with("Accept", "*/*", "Origin", "https://evil.example")},
		{"a link, or typed in over plain HTTP", 403, with("Accept", "text/html,*/*;q=0.8", "Accept-Language", "de", "Upgrade-Insecure-Requests", "1")},
		{"an agent that was changed", 403, []string{"User-Agent", "x", "Accept-Language", "de"}},
		{"a page's fetch that says node", 403, []string{"User-Agent", "node", "Accept-Language", "*", "Referer", "http://a.example/"}},
		{"typed in to localhost", 202, with("Accept-Language", "de", "Sec-Fetch-Site", "none", "Sec-Fetch-Mode", "navigate")},
		{"Shelly Gen 1", 202, []string{"User-Agent", "Shelly/20230913-112003/v1.14.0 (SHDW-2)"}},
		{"Shelly Gen 2", 202, []string{"User-Agent", "Shelly/1.0 (ShellyPlus1)"}},
		{"Tasmota", 202, []string{"User-Agent", "Tasmota/13.4.0 (ESP8266)"}},
		{"UniFi Protect", 202, []string{"User-Agent", "axios/1.6.8", "Accept", "application/json, text/plain, */*", "Accept-Encoding", "gzip, compress, deflate, br"}},
		{"Node's fetch", 202, []string{"User-Agent", "node", "Accept", "*/*", "Accept-Language", "*", "Sec-Fetch-Mode", "cors"}},
		{"ESP32's HTTPClient", 202, []string{"User-Agent", "ESP32HTTPClient", "Connection", "close"}},
		{"curl", 202, []string{"User-Agent", "curl/8.5.0", "Accept", "*/*"}},
		{"Home Assistant", 202, []string{"User-Agent", "HomeAssistant/2024.5.0 aiohttp/3.9.5 Python/3.12", "Accept", "*/*"}},
		{"Java", 202, []string{"User-Agent", "Java/17.0.2", "Accept", "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2"}},
		{"PowerShell", 202, []string{"User-Agent", "Mozilla/5.0 (Windows NT; Windows NT 10.0; de-DE) WindowsPowerShell/5.1.19041.4412"}},
	} {
		for _, preset := range []string{"shelly", "unifi", ""} {
			s := start(t, func(c *webhook.Config) { c.Preset, c.Methods = preset, []string{"GET", "POST"} })
			if r := s.do(t, http.MethodGet, "/door?n=1", c.headers...); r.StatusCode != c.status {
				t.Errorf("%s, preset %q: %d", c.name, preset, r.StatusCode)
			}
			if n := len(s.out.events); (n == 1) != (c.status == 202) {
				t.Errorf("%s, preset %q: %d events", c.name, preset, n)
			}
		}
	}
}

// TestGETOfATrustedPageMakesEvents: pages of http.origins may do what programs
// may.
func TestGETOfATrustedPageMakesEvents(t *testing.T) {
	c := webhook.Defaults()
	c.Name, c.Methods = "test", []string{"GET"}
	s, err := webhook.New(c, nil, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	guard := origin.New(origin.Options{Origins: []string{"https://panel.example"}})
	for from, status := range map[string]int{"https://panel.example": 202, "https://evil.example": 403} {
		r := httptest.NewRequest(http.MethodGet, "/hooks/test/door", nil)
		for key, value := range map[string]string{"Origin": from, "Sec-Fetch-Site": "cross-site", "User-Agent": "Mozilla/5.0"} {
			r.Header.Set(key, value)
		}
		w := httptest.NewRecorder()
		s.Handler(&output{}).ServeHTTP(w, guard.WithTrust(r))
		if w.Code != status {
			t.Errorf("%s: %d", from, w.Code)
		}
	}
}

// TestGETIsNotSigned: the signature of nothing would sign any name and query.
func TestGETIsNotSigned(t *testing.T) {
	for options, ok := range map[string]bool{
		"methods: [POST, GET], auth: {hmac: {scheme: github, secret: s3cret}}":           false,
		"methods: [GET], auth: {hmac: {header: X-Sig, secret: s3cret}}":                  false,
		"preset: github, methods: [GET], auth: {secret: s3cret}":                         false,
		"preset: shelly, auth: {hmac: {header: X-Sig, secret: s3cret}}":                  false,
		"preset: shelly, methods: [POST], auth: {hmac: {header: X-Sig, secret: s3cret}}": true,
		"methods: [GET], auth: {secret_query: {name: key, value: s3cret}}":               true,
		"auth: {hmac: {header: X-Sig, secret: s3cret}}":                                  true,
	} {
		c := read(t, options)
		c.Prepare()
		if err := c.Check(); (err == nil) != ok || !ok && !strings.Contains(err.Error(), "GET goes not with hmac") {
			t.Errorf("%s: %v", options, err)
		}
	}
}

func TestSecretsHavePlacesOfTheirOwn(t *testing.T) {
	query := func(c *webhook.Config) {
		c.Methods, c.Auth.SecretQuery = []string{"GET", "POST"}, webhook.NamedSecret{Name: "key", Value: "s3cret"}
	}
	header := func(c *webhook.Config) {
		c.Methods, c.Auth.SecretHeader = []string{"GET"}, webhook.NamedSecret{Name: "X-Key", Value: "s3cret"}
	}
	for _, c := range []struct {
		path    string
		change  func(*webhook.Config)
		status  int
		headers []string
	}{
		{"/E?key=s3cret&a=1", query, 202, nil},
		{"/E?key=wrong", query, 401, nil},
		{"/E", query, 401, nil},
		{"/E?key=wrong&key=s3cret", query, 401, nil},
		{"/E?a=1", header, 202, []string{"X-Key", "s3cret"}},
		{"/E", header, 401, []string{"X-Key", "wrong"}},
		{"/E", header, 401, nil},
	} {
		s := start(t, c.change)
		if r := s.do(t, http.MethodGet, c.path, c.headers...); r.StatusCode != c.status {
			t.Errorf("%s %v: %d", c.path, c.headers, r.StatusCode)
		}
		if got := s.payloads(); c.status == 202 && got != `E "a":"1"` {
			t.Errorf("got %s", got)
		}
	}
}

func TestTimesComeFromWhereTheyAreSaidToBe(t *testing.T) {
	s := start(t, func(c *webhook.Config) {
		c.Timing.Key, c.TimeHeader, c.TimeQuery = "alert.at", "X-Time", "t"
	})
	for i, c := range []struct {
		path, body, header string
		want               int64 // 0 is now
	}{
		{"/E", `{"alert":{"at":"2024-05-01 12:00:00+02:00"}}`, "1700000000", 1714557600},
		{"/E?t=1600000000", `{}`, "1700000000", 1700000000},
		{"/E?t=1600000000", `{}`, "", 1600000000},
		{"/E", `{}`, "", 0},
		{"/E", `{"alert":{"at":"soon"}}`, "1700000000", 1700000000},
		{"/E", `{}`, "soon", 0},
	} {
		before := time.Now().Add(-time.Second)
		if status, text := s.post(t, c.path, asJSON, c.body, "X-Time", c.header); status != 202 {
			t.Fatalf("%d %s", status, text)
		}
		got := s.out.events[i].Time
		if c.want != 0 && got.Unix() != c.want || c.want == 0 && got.Before(before) {
			t.Errorf("%+v: %s", c, got)
		}
	}
	s = start(t, func(c *webhook.Config) { c.Timing.Key, c.Timing.Format = "at", "%d.%m.%Y %H:%M" })
	if _, _ = s.post(t, "/E", asJSON, `{"at":"01.05.2024 12:00"}`); s.out.events[0].Time.Format("2006-01-02 15:04") != "2024-05-01 12:00" {
		t.Errorf("got %s", s.out.events[0].Time)
	}
}

// TestTheLogTellsOfRefusals: once a minute for each cause, at the default
// level, and of what decoding had to assume, and of a store that fails, once.
func TestTheLogTellsOfRefusals(t *testing.T) {
	var log bytes.Buffer
	s := startLogged(t, nil, zerolog.New(&log).Level(zerolog.InfoLevel))
	for range 3 {
		s.post(t, "", asJSON, `{"eventType":"Download"}`)
		s.post(t, "/E", asJSON, `{`)
		s.post(t, "/E", asJSON, "{\"a\":\"\xfc\"}")
	}
	s.out.err = fmt.Errorf("append: %w", journal.ErrFull)
	for range 3 {
		s.post(t, "/E", asJSON, `{}`)
	}
	s.out.err = nil
	s.post(t, "/E", asJSON, `{}`)
	text := log.String()
	for want, times := range map[string]int{
		"a webhook was refused: the event has no name; put it into the URL": 1, "a webhook was refused: the payload is not JSON": 1,
		"set encoding to what it is": 1, "cannot be stored": 1, "are stored again": 1, `"from":"127.0.0.1"`: 2,
	} {
		if n := strings.Count(text, want); n != times {
			t.Errorf("%q stands in the log %d times, want %d:\n%s", want, n, times, text)
		}
	}
	if got, want := fmt.Sprint(s.Answers()), "map[202:4 400:6 503:3]"; got != want {
		t.Errorf("answers %s, want %s", got, want)
	}
}
