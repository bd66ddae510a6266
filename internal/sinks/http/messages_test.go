package httpsink_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"event2mqtt/internal/config"
	httpsink "event2mqtt/internal/sinks/http"
	"event2mqtt/internal/testkit"
)

type headers = map[string]config.Secret

// send has a sink of the options send one event, and returns the request.
func send(t *testing.T, change func(*httpsink.Options), name, payload string) request {
	t.Helper()
	r := newRig(t, func(o *httpsink.Options) { quick(o); change(o) }, nil)
	r.emit(name, payload)
	r.delivered()
	all := r.requests()
	if len(all) != 1 {
		t.Fatalf("%d requests; refused %v", len(all), r.kept())
	}
	return all[0]
}

const job = `{"name":"cube \"1\".gcode","time":3712,"tags":["a","b"],"ok":true,"none":null,"ü":"größer"}`

// TestBodies, each with its content type.
func TestBodies(t *testing.T) {
	asMQTT := `{"_event":"PrintDone","_timestamp":1772362800,` + job[1:]
	for _, c := range []struct {
		name   string
		change func(*httpsink.Options)
		kind   string
		body   string
	}{
		{"json", func(*httpsink.Options) {}, "application/json", asMQTT},
		{"template", func(o *httpsink.Options) {
			o.Body, o.Template = "template", "{event|snake} {source} {time}: {payload.name} {payload.tags.1} {payload.gone} {payload.name|json}"
		}, "text/plain; charset=utf-8", `print_done press 2026-03-01T11:00:00.005Z: cube "1".gcode b unknown "cube \"1\".gcode"`},
		{"template of JSON", func(o *httpsink.Options) {
			o.Body, o.ContentType = "template", "application/json"
			o.Template = `{"t": "a \" {payload.name}", "n": {payload.time}, "s": {payload.name}, "l": {payload.tags}, "no": {payload.gone}, "all": {payload}, "q": "{payload.tags}"}`
		}, "application/json", `{"t": "a \" cube \"1\".gcode", "n": 3712, "s": "cube \"1\".gcode", "l": ["a","b"], "no": null, "all": ` + asMQTT + `, "q": "[\"a\",\"b\"]"}`},
		{"text of a payload", func(o *httpsink.Options) { o.Body, o.Template = "template", "{text}" }, "text/plain; charset=utf-8", "name: cube \"1\".gcode\ntime: 3712\nok: true\nü: größer"},
		{"form", func(o *httpsink.Options) {
			o.Body, o.Form = "form", headers{"a b": "{payload.name}&x=1", "gone": "{payload.gone}", "key": "fixed"}
		}, "application/x-www-form-urlencoded", "a+b=cube+%221%22.gcode%26x%3D1&key=fixed"},
		{"structured", func(o *httpsink.Options) { o.Body = "cloudevents_structured" }, "application/cloudevents+json; charset=utf-8",
			`{"specversion":"1.0","id":"ID","source":"/event2mqtt/press","type":"event2mqtt.PrintDone","time":"2026-03-01T11:00:00.005Z","datacontenttype":"application/json","data":` + asMQTT + `}`},
		{"batch", func(o *httpsink.Options) { o.Body, o.Batch.Events = "cloudevents_structured", 5 }, "application/cloudevents-batch+json; charset=utf-8",
			`[{"specversion":"1.0","id":"ID","source":"/event2mqtt/press","type":"event2mqtt.PrintDone","time":"2026-03-01T11:00:00.005Z","datacontenttype":"application/json","data":` + asMQTT + `}]`},
		{"none", func(o *httpsink.Options) { o.Body = "none" }, "", ""},
		{"GET", func(o *httpsink.Options) { o.Method = "GET" }, "", ""},
	} {
		q := send(t, c.change, "PrintDone", job)
		body := strings.ReplaceAll(q.body, q.Header.Get("Idempotency-Key"), "ID")
		if body != c.body || q.Header.Get("Content-Type") != c.kind {
			t.Errorf("%s: %s\ngot  %s\nwant %s", c.name, q.Header.Get("Content-Type"), body, c.body)
		}
		if strings.Contains(c.kind, "json") && !json.Valid([]byte(q.body)) {
			t.Errorf("%s is no JSON: %s", c.name, q.body)
		}
	}
}

// TestCloudEventsInHeaders are encoded as section 3.1.3.2 of its HTTP binding says.
func TestCloudEventsInHeaders(t *testing.T) {
	q := send(t, func(o *httpsink.Options) { o.Body = "cloudevents" }, "Grüße \"100 %\"\r\nX: y", `{"a":1}`)
	for name, want := range map[string]string{
		"Ce-Specversion": "1.0", "Ce-Id": q.Header.Get("Idempotency-Key"), "Ce-Source": "/event2mqtt/press", "Ce-Time": "2026-03-01T11:00:00.005Z",
		"Ce-Type": "event2mqtt.Gr%C3%BC%C3%9Fe%20%22100%20%25%22%0D%0AX:%20y", "Content-Type": "application/json", "X": "",
	} {
		if got := q.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

// TestAnEventChoosesNoPlace: whatever it is called and holds, the host, the levels
// of the path, the query's keys and the headers are those that are configured.
func TestAnEventChoosesNoPlace(t *testing.T) {
	for _, hostile := range []string{
		"a/b", "..", ".", "../..", `..\..`, "%2e%2e", "%2F", "a?b=c", "a#b", "a&k=v", "@other.example", "//other.example/x", "http://other.example",
		"a\r\nX-Injected: yes\r\n\r\nGET / HTTP/1.1", "a\nb", "\x00", "ü ö", "{payload.x}", " ", "a;b", "a+b", `"`, "<script>", "\u2028",
	} {
		payload, err := json.Marshal(map[string]string{"v": hostile, "empty": ""})
		testkit.OK(t, err)
		q := send(t, func(o *httpsink.Options) {
			o.URL += "/{event}/x{payload.v}/{payload.v}{payload.empty}/end?a={event}&b={payload.v}"
			o.Headers = headers{"X-Name": "{event}", "X-Value": "is {payload.v}"}
		}, hostile, string(payload))
		u, err := url.ParseRequestURI(q.RequestURI)
		testkit.OK(t, err)
		levels := strings.Split(u.Path, "/")
		if len(levels) != 6 || levels[1] != "hook" || levels[5] != "end" || levels[2] == ".." || levels[2] == "." || levels[4] == ".." || !strings.HasPrefix(levels[3], "x") {
			t.Errorf("%q: the path is %q", hostile, u.Path)
		}
		if len(u.Query()) != 2 || strings.ToValidUTF8(u.Query().Get("b"), "?") == "" {
			t.Errorf("%q: the query is %q", hostile, u.RawQuery)
		}
		if want, _ := url.Parse("http://" + q.Host); q.Host != want.Host || !strings.HasPrefix(q.Host, "127.0.0.1:") {
			t.Errorf("%q: the host is %q", hostile, q.Host)
		}
		for name, values := range q.Header {
			if len(values) != 1 || strings.ContainsAny(values[0], "\r\n\x00") || name == "X-Injected" {
				t.Errorf("%q: header %s: %q", hostile, name, values)
			}
		}
	}
}

// TestHeadersOutsideASCIIAreRFC2047, and others as they are.
func TestHeadersOutsideASCIIAreRFC2047(t *testing.T) {
	long := strings.Repeat("schöne Grüße ", 30) + "Ende"
	q := send(t, func(o *httpsink.Options) {
		o.Headers = headers{"Title": "{payload.t}", "Plain": "{event}: done", "Gone": "{payload.gone}", "User-Agent": "own", "X": "{payload.t|lower}"}
	}, "PrintDone", fmt.Sprintf(`{"t":%q}`, long))
	if got, err := new(mime.WordDecoder).DecodeHeader(q.Header.Get("Title")); err != nil || got != long {
		t.Errorf("%q (%v)", got, err)
	}
	if q.Header.Get("Plain") != "PrintDone: done" || q.Header.Get("User-Agent") != "own" || q.Header["Gone"] != nil {
		t.Errorf("%v", q.Header)
	}
}

// TestAuthentication is sent as configured.
func TestAuthentication(t *testing.T) {
	for want, change := range map[string]func(*httpsink.Options){
		"Bearer abc":         func(o *httpsink.Options) { o.Token = "abc" },
		"Basic dXNlcjpwYXNz": func(o *httpsink.Options) { o.Username, o.Password = "user", "pass" },
		"Custom x":           func(o *httpsink.Options) { o.Headers = headers{"authorization": "Custom x"} },
	} {
		if got := send(t, change, "E", "{}").Header.Get("Authorization"); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// TestSignatureOfThePublishedExample: that of Standard Webhooks' own tests.
func TestSignatureOfThePublishedExample(t *testing.T) {
	h := http.Header{}
	testkit.OK(t, httpsink.Sign(h, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`)))
	if got := h.Get("webhook-signature"); got != "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=" {
		t.Error(got)
	}
}

// TestEachAttemptIsSigned with all secrets, at its own time and with the same id.
func TestEachAttemptIsSigned(t *testing.T) {
	secrets := []string{"whsec_" + base64.StdEncoding.EncodeToString([]byte(strings.Repeat("n", 24))), "whsec_" + base64.StdEncoding.EncodeToString([]byte(strings.Repeat("o", 64)))}
	r := newRig(t, func(o *httpsink.Options) { o.Signing = config.Secret(strings.Join(secrets, " ")) }, func(w http.ResponseWriter, _ *http.Request, n int) {
		if n == 0 {
			w.Header().Set("Retry-After", "1.1")
			w.WriteHeader(503)
		}
	})
	r.emit("E", `{"a":"ü"}`)
	r.delivered()
	all := r.requests()
	for _, q := range all {
		id, at := q.Header.Get("webhook-id"), q.Header.Get("webhook-timestamp")
		signatures := strings.Split(q.Header.Get("webhook-signature"), " ")
		if len(signatures) != 2 || id != all[0].Header.Get("webhook-id") || id != q.Header.Get("Idempotency-Key") || strings.Contains(id, ".") {
			t.Fatalf("%v", q.Header)
		}
		for i, secret := range []string{strings.Repeat("n", 24), strings.Repeat("o", 64)} {
			mac := hmac.New(sha256.New, []byte(secret))
			fmt.Fprintf(mac, "%s.%s.%s", id, at, q.body)
			if want := "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil)); signatures[i] != want {
				t.Errorf("signature %d is %s, want %s", i, signatures[i], want)
			}
		}
	}
	if len(all) != 2 || all[0].Header.Get("webhook-timestamp") == all[1].Header.Get("webhook-timestamp") {
		t.Errorf("%d attempts, both at one time", len(all))
	}
}
