package octoprint_test

import (
	"bytes"
	"context"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"event2mqtt/internal/config"
	"event2mqtt/internal/health"
	"event2mqtt/internal/sources"
	"event2mqtt/internal/sources/octoprint"
	"event2mqtt/internal/testkit"
)

// TestTheConnectionIsMadeAsOctoPrintWantsIt: no Origin, which OctoPrint would
// refuse, the subscription before authentication, and both at once.
func TestTheConnectionIsMadeAsOctoPrintWantsIt(t *testing.T) {
	s, out := newServer(t), newOutput()
	s.set(func() { s.prefix = "/printer" })
	run(t, options(s.url()+"/printer/", func(o *octoprint.Options) {
		o.Username, o.Password = "proxy", "secret"
		o.Headers = map[string]config.Secret{"X-Gate": "open"}
	}), out)
	p := s.next()
	p.send(snapshot("history", "Operational", "", 1000))
	until(t, "it is up", func() bool {
		return out.status().Level == health.Up && out.status().Detail == "connected to OctoPrint 1.11.8"
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.sent) != 2 || !strings.Contains(s.sent[0], `"events":true,"plugins":false,"state":{"logs":"^(Recv:|\u003c\u003c\u003c) echo:busy: paused for user","messages":false}`) ||
		!strings.Contains(s.sent[1], `{"auth":"admin:aa11"}`) {
		t.Errorf("sent %q", s.sent)
	}
	for _, h := range s.headers {
		if h.Get("X-Api-Key") != key || h.Get("X-Gate") != "open" || h.Get("Origin") != "" || !strings.HasPrefix(h.Get("Authorization"), "Basic ") {
			t.Errorf("headers %v", h)
		}
	}
	if out.begun() != 1 {
		t.Errorf("%d times ready", out.begun())
	}
}

// TestACertificateOfOnesOwnIsTrustedWhenToldSo, and not else.
func TestACertificateOfOnesOwnIsTrustedWhenToldSo(t *testing.T) {
	s := newServer(t, func(s *server) { s.tls = true })
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.http.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, trust := range map[string]func(*octoprint.Options){
		"ca": func(o *octoprint.Options) { o.TLS.CA = ca }, "insecure": func(o *octoprint.Options) { o.TLS.Insecure = true },
	} {
		out := newOutput()
		run(t, options(s.url(), trust), out)
		s.next().send(snapshot("history", "Operational", "", 1000))
		until(t, name, func() bool { return out.status().Level == health.Up })
	}
	out := newOutput()
	run(t, options(s.url()), out)
	until(t, "it says so", func() bool {
		return strings.Contains(out.status().Detail, "cannot be trusted") && strings.Contains(out.status().Detail, "set tls.ca")
	})
}

// TestAnAbsentOctoPrintIsWaitedForAndSaidOnceInWords: whatever stands in the
// way, the source runs, says what to do, and logs it once.
func TestAnAbsentOctoPrintIsWaitedForAndSaidOnceInWords(t *testing.T) {
	answer := func(status int, kind, body string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Content-Type", kind)
			if status == http.StatusFound {
				w.Header().Set("Location", "https://octo.example/login?secret=1")
			}
			w.WriteHeader(status)
			fmt.Fprint(w, body)
			return true
		}
	}
	for name, c := range map[string]struct {
		login func(http.ResponseWriter, *http.Request) bool
		says  string
	}{
		"a wrong key, as OctoPrint says it": {answer(400, "application/json", `{"error":"CSRF validation failed"}`), "refuses the API key (status 400): it is wrong or was revoked; get a new one: event2mqtt connect octoprint http://"},
		"a wrong key":                       {answer(403, "application/json", `{}`), "refuses the API key (status 403)"},
		"it boots":                          {answer(501, "text/html", `<!DOCTYPE HTML>`), "is starting, or is not there behind its proxy (status 501); event2mqtt connects when it is"},
		"it boots, with a page":             {answer(200, "text/html", `<!DOCTYPE HTML>`), "is starting"},
		"a proxy without OctoPrint":         {answer(502, "text/html", `<html>`), "behind its proxy (status 502)"},
		"a proxy with a password":           {answer(401, "text/html", `<html>`), "asks for a user name and a password (status 401); set username and password"},
		"another program":                   {answer(404, "text/plain", `not found`), "does not answer as OctoPrint does: it answers /api/login with status 404; is url right, the path included?"},
		"another program that says yes":     {answer(200, "application/json", `{}`), "does not answer as OctoPrint does: the login's answer holds no session"},
		"a redirect":                        {answer(302, "text/plain", ""), "it sends elsewhere, to https://octo.example/login; write that address as url"},
		"too often":                         {answer(429, "text/plain", ""), "was asked too often"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, out, log := newServer(t), newOutput(), &bytes.Buffer{}
			s.set(func() { s.login = c.login })
			stop := run(t, options(s.url()), out, log)
			until(t, "it says so", func() bool { return strings.Contains(out.status().Detail, c.says) })
			if out.status().Level != health.Waiting {
				t.Errorf("%+v", out.status())
			}
			stop()
			if n := strings.Count(log.String(), `"level":"warn"`); n != 1 || strings.Contains(log.String(), key) {
				t.Errorf("logged %d times: %s", n, log)
			}
		})
	}
}

// TestItComesBackByItself: refused connections, then a boot, then OctoPrint.
func TestItComesBackByItself(t *testing.T) {
	t.Parallel()
	s, out, log := newServer(t), newOutput(), &bytes.Buffer{}
	s.stop()
	stop := run(t, options(s.url()), out, log)
	until(t, "it waits", func() bool {
		return strings.Contains(out.status().Detail, "cannot be reached (connection refused); is it switched on, and url right? event2mqtt connects when it is there")
	})
	s.mu.Lock()
	s.stale = 1 // OctoPrint was restarted between login and authentication
	s.mu.Unlock()
	s.start()
	p := s.next()
	p.send(snapshot("history", "Operational", "", 1000))
	until(t, "it is up", func() bool { return out.status().Level == health.Up })
	stop()
	if n := strings.Count(log.String(), "connection refused"); n != 1 {
		t.Errorf("said %d times: %s", n, log)
	}
	if !strings.Contains(log.String(), "connected to OctoPrint 1.11.8 at "+s.url()) {
		t.Errorf("its return is not logged: %s", log)
	}
	if names := out.names(); len(names) != 0 {
		t.Errorf("events %v of an OctoPrint that was never seen before", names)
	}
}

// TestALoginThatGivesNothingIsNotTakenForOne: the user of the key may see
// nothing, or the session is not known.
func TestALoginThatGivesNothingIsNotTakenForOne(t *testing.T) {
	t.Parallel()
	s, out := newServer(t), newOutput()
	s.set(func() { s.silent = true })
	run(t, options(s.url()), out)
	until(t, "it says so", func() bool {
		return strings.Contains(out.status().Detail, "takes the login and then tells nothing; the user admin of the API key needs the permission Status")
	})
}

// TestANewLoginIsMadeOnTheSameConnection when OctoPrint wants one.
func TestANewLoginIsMadeOnTheSameConnection(t *testing.T) {
	t.Parallel()
	s, out := newServer(t), newOutput()
	run(t, options(s.url()), out)
	p := s.next()
	p.send(snapshot("history", "Operational", "", 1000))
	until(t, "it is up", func() bool { return out.status().Level == health.Up })
	s.mu.Lock()
	s.session = "bb22"
	s.mu.Unlock()
	until(t, "it logs in again", func() bool { // what comes too soon is taken for an echo of the last
		p.send(`{"reauthRequired":{"reason":"stale"}}`)
		return len(s.conns) > 0
	})
	if again := s.next(); again != p {
		t.Error("another connection was made")
	}
	p.send(happened("Alert", "null"))
	wantNames(t, out, "Alert")
	if n := len(s.logins); n != 2 {
		t.Errorf("%d logins", n)
	}
}

// TestOurOwnClientEventsAreDropped, and those of others are not.
func TestOurOwnClientEventsAreDropped(t *testing.T) {
	s, out := newServer(t), newOutput()
	run(t, options(s.url()), out)
	p := s.next()
	p.send(snapshot("history", "Operational", "", 1000))
	for range 2 {
		p.send(happened("ClientOpened", `{"remoteAddress":"127.0.0.1"}`))
		p.send(happened("UserLoggedIn", `{"username":"guest"}`))
		p.send(happened("ClientAuthed", `{"username":"admin","remoteAddress":"127.0.0.1"}`))
	}
	wantNames(t, out, "UserLoggedIn", "ClientOpened", "UserLoggedIn", "ClientAuthed")
}

// TestAFullJournalStopsTheReadingAndLosesNothing: the events come in order when
// there is room again.
func TestAFullJournalStopsTheReadingAndLosesNothing(t *testing.T) {
	t.Parallel()
	s, out, log := newServer(t), newOutput(), &bytes.Buffer{}
	stop := run(t, options(s.url()), out, log)
	p := s.next()
	p.send(snapshot("history", "Operational", "", 1000))
	until(t, "it is up", func() bool { return out.status().Level == health.Up })
	out.set(func() { out.full = true })
	var want []string
	for i := range 1000 {
		name := fmt.Sprintf("E%d", i)
		p.send(happened(name, `{"text":"`+strings.Repeat("x", 1000)+`"}`))
		want = append(want, name)
	}
	until(t, "it was tried again", func() bool { return out.status().Level == health.Waiting && out.tried() > 2 })
	out.set(func() { out.full = false })
	wantNames(t, out, want...)
	until(t, "it is up", func() bool { return out.status().Level == health.Up })
	stop()
	if n := strings.Count(log.String(), "events cannot be stored"); n != 1 {
		t.Errorf("said %d times", n)
	}
}

// TestARefusedEventIsSkippedAndTheOthersGoOn.
func TestARefusedEventIsSkippedAndTheOthersGoOn(t *testing.T) {
	s, out, log := newServer(t), newOutput(), &bytes.Buffer{}
	out.set(func() { out.refuse = "PrintStarted" })
	stop := run(t, options(s.url()), out, log)
	p := s.next()
	p.send(snapshot("history", "Operational", "", 1000))
	p.send(happened("Alert", "null"))
	p.send(happened("PrintStarted", `{"path":"a.gcode"}`))
	p.send(happened("Home", "null"))
	wantNames(t, out, "Alert", "Home")
	if !strings.Contains(string(out.Positions()["octoprint"]), "a.gcode") {
		t.Error("the refused event's position is not kept")
	}
	stop()
	if !strings.Contains(log.String(), "is skipped") {
		t.Error(log)
	}
}

// TestHostileFramesAreSkippedOrEndTheConnection: each is followed by an event
// that must come.
func TestHostileFramesAreSkippedOrEndTheConnection(t *testing.T) {
	t.Parallel()
	s, out := newServer(t), newOutput()
	run(t, options(s.url()), out)
	p := s.next()
	p.send(snapshot("history", "Operational", "", 1000))
	for i, frame := range []string{
		``, `{`, `null`, `[]`, `"x"`, `{"event":null}`, `{"event":{"type":7}}`, `{"event":{"type":""}}`, `{"current":[]}`, `{"current":{"temps":{},"markings":7,"logs":"x"}}`,
		strings.Repeat("[", 1000), `{"event":{"type":"` + strings.Repeat("x", 600) + `","payload":null}}`, "{\"event\":{\"type\":\"\xff\"}}",
		`{"current":{"temps":[` + strings.Repeat(`{},`, 200000) + `{}]}}`,
	} {
		p.send(frame)
		p.send(happened(fmt.Sprintf("E%d", i), "null"))
	}
	until(t, "all came", func() bool { return slices.Contains(out.names(), "E13") })
	if n := len(out.names()); n != 14 {
		t.Errorf("%v", out.names())
	}
	p.send(`{"x":"` + strings.Repeat("x", 1<<20) + `"}`)
	s.next().send(snapshot("history", "Operational", "", 1000)) // it has connected again
	until(t, "it says why", func() bool {
		out.mu.Lock()
		defer out.mu.Unlock()
		return slices.ContainsFunc(out.statuses, func(s health.Status) bool { return strings.Contains(s.Detail, "a frame has more than 1048576 bytes") })
	})
}

// TestProbeLogsIn and says what it found.
func TestProbeLogsIn(t *testing.T) {
	s := newServer(t)
	for _, c := range []struct{ key, detail, err string }{
		{key, "OctoPrint 1.11.8; the key is of user admin", ""},
		{"wrong", "", "refuses the API key"},
	} {
		source, err := options(s.url(), func(o *octoprint.Options) { o.APIKey = config.Secret(c.key) }).Build(sources.Deps{Log: zerolog.Nop()})
		if err != nil {
			t.Fatal(err)
		}
		detail, err := source.(sources.Prober).Probe(context.Background())
		if detail != c.detail || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%q, %v", detail, err)
		}
	}
}

// TestWrongOptionsSayWhatWouldBeRight.
func TestWrongOptionsSayWhatWouldBeRight(t *testing.T) {
	for _, c := range []struct {
		change func(*octoprint.Options)
		says   string
	}{
		{func(*octoprint.Options) {}, ""},
		{func(o *octoprint.Options) { o.URL = "octopi.local" }, "url: \"octopi.local\" must begin with http:// or https://; write for example http://octopi.local"},
		{func(o *octoprint.Options) { o.URL = "http://admin:pw@octopi.local" }, "holds a user; set username and password instead"},
		{func(o *octoprint.Options) { o.URL = "http://" }, "names no host"},
		{func(o *octoprint.Options) { o.URL = "http://octopi.local/?x=1" }, "has a part behind ?"},
		{func(o *octoprint.Options) { o.Username = "x" }, "username and password must be given together"},
		{func(o *octoprint.Options) { o.APIKey = " abc\n" }, "api_key: begins or ends with a space"},
		{func(o *octoprint.Options) { o.TLS.CA = "/nowhere" }, "tls.ca: "},
		{func(o *octoprint.Options) { o.TLS.Cert = "/nowhere" }, "cert and key must be given together"},
		{func(o *octoprint.Options) { o.Headers = map[string]config.Secret{"a b": "c"} }, "headers.a b: is not a header"},
		{func(o *octoprint.Options) { o.Headers = map[string]config.Secret{"origin": "c"} }, "Origin is set by event2mqtt itself"},
		{func(o *octoprint.Options) { o.Headers = map[string]config.Secret{"Connection": "c"} }, "Connection is set by event2mqtt itself"},
		{func(o *octoprint.Options) { o.Headers = map[string]config.Secret{"upgrade": "c"} }, "Upgrade is set by event2mqtt itself"},
		{func(o *octoprint.Options) { o.Headers = map[string]config.Secret{"Sec-WebSocket-Version": "c"} }, "Sec-Websocket-Version is set by event2mqtt itself"},
		{func(o *octoprint.Options) { o.Headers = map[string]config.Secret{"Content-Length": "c"} }, "Content-Length is set by event2mqtt itself"},
		{func(o *octoprint.Options) { o.Headers = map[string]config.Secret{"Host": "c"} }, "Host is set by event2mqtt itself"},
		{func(o *octoprint.Options) { o.Headers = map[string]config.Secret{"Transfer-Encoding": "c"} }, "Transfer-Encoding is set by event2mqtt itself"},
		{func(o *octoprint.Options) { o.Headers = map[string]config.Secret{"Accept-Encoding": "c"} }, "Accept-Encoding is set by event2mqtt itself"},
		{func(o *octoprint.Options) { o.Headers = map[string]config.Secret{"Authorization": "Bearer a\tb"} }, ""},
		{func(o *octoprint.Options) { o.Headers = map[string]config.Secret{"X-A": "a\x1bb"} }, "headers.X-A: is not a header, or holds a line end"},
		{func(o *octoprint.Options) { o.APIKey = "a\x00b" }, "api_key: begins or ends with a space, or holds a line end or another control character"},
		{func(o *octoprint.Options) { o.APIKey = "a\nb" }, "api_key: begins or ends with a space, or holds a line end or another control character"},
		{func(o *octoprint.Options) { o.DeviceID = "printer 1" }, "device_id: \"printer 1\" cannot be an identifier; letters, digits, _ and - are allowed"},
		{func(o *octoprint.Options) { o.Plugin.MetadataKeys = []string{"hash"} }, "is of use only with compat: octoprint-mqtt"},
		{func(o *octoprint.Options) { o.Compat, o.Plugin.TemperatureTopic = "octoprint-mqtt", "temperature" }, "plugin.temperature_topic: \"temperature\" must hold {temp}"},
		{func(o *octoprint.Options) { o.Compat, o.Plugin.EventTopic = "octoprint-mqtt", "event/{name}" }, "plugin.event_topic: "},
		{func(o *octoprint.Options) { o.Compat, o.Plugin.BaseTopic = "octoprint-mqtt", "a/#/" }, "plugin."},
		{func(o *octoprint.Options) {
			o.Compat, o.Plugin.MetadataKeys = "octoprint-mqtt", []string{"a+b"}
		}, "plugin.metadata_keys[0]: \"a+b\" cannot stand in a topic"},
	} {
		err := options("http://octopi.local", c.change).Check()
		if text := fmt.Sprint(err); (err == nil) != (c.says == "") || err != nil && !strings.Contains(text, c.says) {
			t.Errorf("%v, want %q", err, c.says)
		}
	}
}

// TestAProbeNamesThePermissionsThatAreMissing, so that nobody learns of them by
// the first command that fails.
func TestAProbeNamesThePermissionsThatAreMissing(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ user, want string }{
		{`"admin":true,"needs":{"role":["admin"]}`, ""},
		{`"admin":false`, ""}, // it does not say
		{`"admin":false,"needs":{"role":["status","print","webcam"]}`, ""},
		{`"admin":false,"needs":{"role":["status"]}`, "the user ann of the API key lacks permissions: Print for the command pause, Webcam for snapshots; they are given in OctoPrint under Settings, Access Control"},
		{`"admin":false,"needs":{"role":[]}`, "the user ann of the API key needs the permission Status"},
	} {
		s := newServer(t)
		s.set(func() {
			s.login = func(w http.ResponseWriter, _ *http.Request) bool {
				fmt.Fprintf(w, `{"name":"ann","session":"aa",%s}`, c.user)
				return true
			}
		})
		o := options(s.url())
		o.Commands.Commands, o.Snapshot.Every = []string{"pause"}, time.Minute
		source, err := o.Build(sources.Deps{Log: zerolog.Nop()})
		testkit.OK(t, err)
		_, err = source.(sources.Prober).Probe(t.Context())
		if got := fmt.Sprint(err); c.want == "" && err != nil || !strings.Contains(got, c.want) {
			t.Errorf("%s: %s", c.user, got)
		}
	}
}
