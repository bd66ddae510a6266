package httpsink_test

import (
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"event2mqtt/internal/config"
	"event2mqtt/internal/health"
	"event2mqtt/internal/sinks"
	httpsink "event2mqtt/internal/sinks/http"
	"event2mqtt/internal/testkit"
)

// TestWhatIsWrongIsTold with its key, and without what may be secret.
func TestWhatIsWrongIsTold(t *testing.T) {
	for want, change := range map[string]func(*httpsink.Options){
		"url: it does not begin with http":        func(o *httpsink.Options) { o.URL = "ftp://x/secret-part" },
		"url: a placeholder must be behind":       func(o *httpsink.Options) { o.URL = "https://{event}.x/secret-part" },
		"url: it holds a user":                    func(o *httpsink.Options) { o.URL = "https://u:secret-part@x/" },
		"url: it names no host":                   func(o *httpsink.Options) { o.URL = "https:///secret-part" },
		"url: it names port 70000":                func(o *httpsink.Options) { o.URL = "https://x:70000/secret-part" },
		"url: it has a #":                         func(o *httpsink.Options) { o.URL = "https://x/secret-part#a" },
		"url: it holds white space":               func(o *httpsink.Options) { o.URL = "https://x/secret-part a" },
		"url: its path goes up":                   func(o *httpsink.Options) { o.URL = "https://x/secret-part/%2e./a" },
		"url: what is behind the host":            func(o *httpsink.Options) { o.URL = "https://x/secret-part%zz" },
		"url: there is no placeholder {evnt}":     func(o *httpsink.Options) { o.URL = "https://x/secret-part/{evnt}" },
		"url: its path is not that of preset":     func(o *httpsink.Options) { o.Preset, o.URL = "homeassistant", "http://x/secret-part" },
		"url: its path is missing":                func(o *httpsink.Options) { o.Preset, o.URL = "ntfy", "http://x" },
		"headers: A b: \"A b\" is not the name":   func(o *httpsink.Options) { o.Headers = headers{"A b": "secret-part"} },
		"Content-Length is set by the program":    func(o *httpsink.Options) { o.Headers = headers{"content-length": "secret-part"} },
		"headers: X: there is no placeholder {y}": func(o *httpsink.Options) { o.Headers = headers{"X": "{y}"} },
		"template: is needed":                     func(o *httpsink.Options) { o.Body = "template" },
		"template: needs body: template":          func(o *httpsink.Options) { o.Template = "x" },
		"template: it does not make JSON": func(o *httpsink.Options) {
			o.Body, o.Template, o.ContentType = "template", `{"a": {event}`, "application/json"
		},
		"form: is needed":                         func(o *httpsink.Options) { o.Body = "form" },
		"form: needs body: form":                  func(o *httpsink.Options) { o.Form = headers{"a": "secret-part"} },
		"body: a GET has none":                    func(o *httpsink.Options) { o.Method, o.Body = "GET", "json" },
		"username: ":                              func(o *httpsink.Options) { o.Password = "secret-part" },
		"token: username, token and the header":   func(o *httpsink.Options) { o.Token, o.Username = "secret-part", "u" },
		"token: it holds characters":              func(o *httpsink.Options) { o.Token = "secret-part\n" },
		"signing: secret 2 is not whsec_":         func(o *httpsink.Options) { o.Signing = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw secret-part!" },
		"signing: secret 1 stands for 3 bytes":    func(o *httpsink.Options) { o.Signing = "whsec_AAAA" },
		"rate: \"fast\" is not a rate":            func(o *httpsink.Options) { o.Rate = "fast" },
		"rate: \"1/0s\" is beyond":                func(o *httpsink.Options) { o.Rate = "1/0s" },
		"batch.events: only bodies of json":       func(o *httpsink.Options) { o.Batch.Events, o.Body = 2, "cloudevents" },
		"url: it has placeholders, and a request": func(o *httpsink.Options) { o.Batch.Events, o.URL = 2, "http://x/{event}" },
		"headers: X has placeholders, and":        func(o *httpsink.Options) { o.Batch.Events, o.Headers = 2, headers{"X": "{event}"} },
		"cloudevents.source: ":                    func(o *httpsink.Options) { o.Cloud.Source = "" },
		"cloudevents.type: is empty":              func(o *httpsink.Options) { o.Cloud.Type = "" },
		"ping.fail: only preset":                  func(o *httpsink.Options) { o.Ping.Fail = []string{"x"} },
		"tls.ca: ":                                func(o *httpsink.Options) { o.TLS.CA = "/nowhere/ca.pem" },
		"tls.key: cert and key":                   func(o *httpsink.Options) { o.TLS.Cert = "/nowhere/c.pem" },
	} {
		o := options("https://host.example/")
		change(o)
		err := o.Check()
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret-part") {
			t.Errorf("%s: got %v", want, err)
		}
		if _, err := o.Build(sinks.Deps{}); err == nil {
			t.Errorf("%s: it is built", want)
		}
	}
}

// TestNothingTellsASecret, whatever happens: the log, the health, what is kept of
// refused events, and the options as they are printed.
func TestNothingTellsASecret(t *testing.T) {
	secrets := []string{"777:path-secret", "query-secret", "token-secret", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "header-secret"}
	var n atomic.Int32
	r := newRig(t, func(o *httpsink.Options) {
		quick(o)
		o.Timeout = 200 * time.Millisecond
		o.URL += "/bot777:path-secret/{event}?key=query-secret"
		o.Token, o.Signing = config.Secret(secrets[2]), config.Secret(secrets[3])
		o.Headers = headers{"X-Key": "header-secret"}
	}, func(w http.ResponseWriter, q *http.Request, _ int) {
		echo := fmt.Sprintf("not %s %v 777:path-secret", q.RequestURI, q.Header)
		switch n.Add(1) {
		case 1:
			w.WriteHeader(500)
		case 2:
			http.Redirect(w, q, "http://query-secret.example"+q.RequestURI, http.StatusFound)
		case 3:
			w.WriteHeader(404)
		case 4:
			conn, _, _ := w.(http.Hijacker).Hijack()
			_ = conn.Close()
			return
		case 5:
			<-q.Context().Done()
		case 6:
			conn, buf, _ := w.(http.Hijacker).Hijack()
			_, _ = buf.WriteString("HTTP/1.1 " + echo + "\r\n\r\n")
			_ = buf.Flush()
			_ = conn.Close()
			return
		default:
			w.WriteHeader(400)
		}
		fmt.Fprint(w, echo)
	})
	var told strings.Builder
	r.emit("E", "{}")
	for r.cursor.Lag() > 0 {
		fmt.Fprintf(&told, "%+v\n", r.health.Report())
		time.Sleep(time.Millisecond)
	}
	fmt.Fprintf(&told, "%s %+v %+v %+v", &r.log, r.kept(), r.health.Report(), *r.options)
	if len(r.kept()) != 1 || n.Load() < 7 {
		t.Errorf("%d attempts, %d events refused", n.Load(), len(r.kept()))
	}
	for _, secret := range secrets {
		if strings.Contains(told.String(), secret) {
			t.Errorf("%s is told: %s", secret, &told)
		}
	}
	if !strings.Contains(r.log.String(), r.server.URL) {
		t.Errorf("the log does not tell where: %s", &r.log)
	}
}

// TestAProxyOfTheEnvironmentIsUsed.
func TestAProxyOfTheEnvironmentIsUsed(t *testing.T) {
	var asked atomic.Pointer[string]
	proxy := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) { asked.Store(&q.RequestURI) }))
	defer proxy.Close()
	t.Setenv("HTTP_PROXY", proxy.URL)
	t.Setenv("NO_PROXY", "")
	r := newRig(t, func(o *httpsink.Options) { o.URL = "http://printer.invalid/x" }, nil)
	r.numbered(1)
	r.delivered()
	if got := asked.Load(); got == nil || *got != "http://printer.invalid/x" {
		t.Errorf("the proxy was asked for %v", got)
	}
}

// TestTLS: the certificate is checked against the file, a client shows its own,
// and a probe tells what is wrong without a request.
func TestTLS(t *testing.T) {
	var requests atomic.Int32
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) { requests.Add(1) }))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	testkit.OK(t, os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600))

	probe := func(o *httpsink.Options) (string, error) {
		s, err := o.Build(sinks.Deps{Log: zerolog.Nop()})
		testkit.OK(t, err)
		return s.(sinks.Prober).Probe(t.Context())
	}
	stranger := options(server.URL + "/secret-path")
	if _, err := probe(stranger); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a certificate that nobody knows: %v", err)
	}
	r := newRig(t, func(o *httpsink.Options) { quick(o); o.URL = stranger.URL }, nil)
	r.numbered(1)
	testkit.Eventually(t, "it waits", func() bool { return r.level() == health.Waiting })
	if requests.Load() > 0 {
		t.Error("a server with another certificate got a request")
	}
	known := options(server.URL + "/secret-path")
	known.TLS.CA = ca
	if detail, err := probe(known); err != nil || requests.Load() > 0 || strings.Contains(detail, "secret-path") {
		t.Errorf("%s (%v), %d requests", detail, err, requests.Load())
	}
	r = newRig(t, func(o *httpsink.Options) { o.URL, o.TLS.CA = known.URL, ca }, nil)
	r.numbered(3)
	r.delivered()
	if requests.Load() != 3 {
		t.Errorf("%d requests", requests.Load())
	}
	before := known.Fingerprint()
	testkit.OK(t, os.WriteFile(ca, append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), '\n'), 0o600))
	if reflect.DeepEqual(before, known.Fingerprint()) {
		t.Error("a certificate that was replaced asks for the same sink")
	}
}

// TestAProbeTellsThatNothingListens.
func TestAProbeTellsThatNothingListens(t *testing.T) {
	s, err := options("http://" + testkit.FreeAddress(t) + "/secret-path").Build(sinks.Deps{Log: zerolog.Nop()})
	testkit.OK(t, err)
	if _, err := s.(sinks.Prober).Probe(t.Context()); err == nil || strings.Contains(err.Error(), "secret-path") {
		t.Errorf("%v", err)
	}
}

// TestSeveralInFlight are on their way at once, and acknowledged in their order:
// what is behind one that fails is not.
func TestSeveralInFlight(t *testing.T) {
	var most, now atomic.Int32
	release := make(chan struct{})
	r := newRig(t, func(o *httpsink.Options) { quick(o); o.InFlight, o.Headers = 4, headers{"X-Name": "{event}"} }, func(w http.ResponseWriter, q *http.Request, n int) {
		if n := now.Add(1); n > most.Load() {
			most.Store(n)
		}
		defer now.Add(-1)
		if q.Header.Get("X-Name") == "E0" {
			<-release
		}
	})
	r.numbered(40)
	testkit.Eventually(t, "others go on", func() bool { return len(r.requests()) == 4 })
	if acked := r.cursor.Acked(); acked > 0 {
		t.Errorf("%d events are acknowledged, and the first has no answer", acked)
	}
	close(release)
	r.delivered()
	if len(r.requests()) != 40 || most.Load() > 4 {
		t.Errorf("%d requests, %d at once", len(r.requests()), most.Load())
	}
}

// TestWhatIsOnItsWayIsAwaitedAtTheEnd, so that it need not come twice; and for
// not longer than two seconds.
func TestWhatIsOnItsWayIsAwaitedAtTheEnd(t *testing.T) {
	arrived, release := make(chan struct{}, 10), make(chan struct{})
	r := newRig(t, quick, func(_ http.ResponseWriter, q *http.Request, n int) {
		arrived <- struct{}{}
		select {
		case <-release:
		case <-q.Context().Done():
		}
	})
	r.numbered(2)
	<-arrived
	go func() { time.Sleep(50 * time.Millisecond); close(release) }()
	r.stop()
	if acked := r.cursor.Acked(); acked != 1 || len(r.requests()) != 1 {
		t.Errorf("acknowledged up to %d with %d requests", acked, len(r.requests()))
	}
	release = make(chan struct{})
	r.run()
	<-arrived
	r.stop() // hangs if it does not end
	r.run()
	<-arrived
	close(release)
	r.delivered()
	key := func(n int) string { return r.requests()[n].Header.Get("Idempotency-Key") }
	if len(r.requests()) != 3 || key(1) != key(2) || key(0) == key(1) {
		t.Errorf("%d requests", len(r.requests()))
	}
}

// TestABatchWaitsForMore, and is no larger than it may.
func TestABatchWaitsForMore(t *testing.T) {
	r := newRig(t, func(o *httpsink.Options) { o.Batch = httpsink.BatchConfig{Events: 10, Bytes: 2 << 10, Wait: time.Hour} }, nil)
	r.numbered(7)
	time.Sleep(20 * time.Millisecond)
	r.numbered(3) // full
	r.delivered()
	for range 3 {
		r.emit("L", fmt.Sprintf(`{"x":%q}`, strings.Repeat("x", 900)))
	}
	testkit.Eventually(t, "what is too many bytes is sent", func() bool { return r.cursor.Lag() == 1 })
	all := r.requests()
	if len(all) != 2 || strings.Count(all[0].body, `"_event"`) != 10 || strings.Count(all[1].body, `"_event"`) != 2 {
		t.Errorf("%d requests", len(all))
	}
}
