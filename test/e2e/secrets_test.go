package e2e

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"

	"event2mqtt/internal/bridge"
	"event2mqtt/internal/config"
	"event2mqtt/internal/testkit"
	"event2mqtt/test/mqttest"
)

// secrets is a configuration with all of them: HTTP's address, what each secret
// begins with, a broker's address, and the URL of a server.
const secrets = `
http: {listen: %q, token: %[2]s-http}
log: {level: debug}
mqtt:
  url: ["mqtt://127.0.0.1:1", "ws://%[3]s/none", "mqtt://%[3]s"]
  username: u
  password: %[2]s-mqtt
  websocket: {headers: {Authorization: Bearer %[2]s-header}}
sources:
  - {name: default, type: webhook, auth: {token: %[2]s-token, body_key: k, body_secret: %[2]s-body, hmac: {scheme: github, secret: %[2]s-hmac}}}
  - {name: basic, type: webhook, auth: {username: u, password: %[2]s-basic}}
sinks:
  - {name: echo, type: http, url: "%[4]s/%[2]s-url/{event}?k=%[2]s-query", username: u, password: %[2]s-there, signing: whsec_%[2]s00000000000000000000000,
     headers: {X-Key: %[2]s-key}, body: form, form: {k: %[2]s-form, e: "{event}"}}
  - {name: bearer, type: http, url: "%[4]s/%[2]s-url", token: %[2]s-bearer}
  - {name: cloud, type: mqtt, url: "ws://%[3]s/none", client_id: cloud, username: u, password: %[2]s-cloud, websocket: {headers: {Authorization: Bearer %[2]s-cloud}}, publish: {base_topic: copy}}
`

// TestEverySecretIsLookedFor by TestSecretsAppearNowhere.
func TestEverySecretIsLookedFor(t *testing.T) {
	covered := []string{
		"http.token", "mqtt.password", "mqtt.websocket.headers", "broker.users.password", "broker.users.hash",
		"auth.token", "auth.password", "auth.body_secret", "auth.hmac.secret",
		"http: url", "http: headers", "http: form", "http: password", "http: token", "http: signing",
		"mqtt: password", "mqtt: websocket.headers",
	}
	for _, key := range secretOptions() {
		if !slices.Contains(covered, key) {
			t.Errorf("%s is a secret that this test does not cover", key)
		}
	}
}

// TestSecretsAppearNowhere: a marker is in every secret that there is; it must
// not be in the log at its most talkative, in errors, the API, topics, or what
// commands print.
func TestSecretsAppearNowhere(t *testing.T) {
	const marker = "swordfish"
	addr := ownBroker(t)
	bundled := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	p := configure(t, "")
	echo := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { // refuses, and says why at length
		body, _ := io.ReadAll(r.Body)
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintf(w, "%s %v %s", r.RequestURI, r.Header, body)
	}))
	defer echo.Close()
	text := fmt.Sprintf(secrets, p.http, marker, addr, echo.URL)
	inside := fmt.Sprintf("broker: {listen: %q, users: [{name: u, password: %[2]s-user}, {name: h, hash: \"$7$%[2]s\"}]}\n", bundled, marker)
	var seen strings.Builder
	note := func(what string, text any) { fmt.Fprintf(&seen, "%s: %v\n", what, text) }
	testkit.OK(t, os.WriteFile(p.config, []byte(text), 0o600))
	p.start()
	watcher, err := mqttest.Dial(addr, mqttest.Options{})
	testkit.OK(t, err)
	defer watcher.Close()
	_, err = watcher.Subscribe("#", 0)
	testkit.OK(t, err)
	get := func(path string, header ...string) {
		r, err := http.NewRequest(http.MethodGet, "http://"+p.http+path, nil)
		testkit.OK(t, err)
		if len(header) > 0 {
			r.Method = http.MethodPost
			r.Header.Set(header[0], header[1])
			r.Body = io.NopCloser(strings.NewReader(`{"event":"X","k":"` + marker + `-body"}`))
		}
		answer, err := http.DefaultClient.Do(r)
		testkit.OK(t, err)
		defer answer.Body.Close()
		body, _ := io.ReadAll(answer.Body)
		note(path, fmt.Sprint(answer.Status, answer.Header, string(body)))
	}
	for _, path := range []string{"/readyz", "/metrics", "/", "/hooks/none"} {
		get(path)
	}
	get("/hooks/default", "Authorization", "Bearer "+marker+"-token")
	get("/hooks/basic", "Authorization", "Basic "+marker)
	// Bad and good reloads, to the bundled broker and its users.
	for _, bad := range []string{
		text + "nonsense: " + marker + "x\n", strings.Replace(text, marker+"-mqtt", "["+marker+"-mqtt]", 1), strings.Replace(text, marker+"-hmac", "{"+marker+": x}", 1),
		strings.Replace(text, "scheme: github", "scheme: standard", 1), inside + "mqtt: {password: " + marker + "-alone}\n",
	} {
		testkit.OK(t, os.WriteFile(p.config, []byte(strings.Replace(bad, marker+"x", "x", 1)), 0o600))
		ok, answer := p.reload(t, "Bearer "+marker+"-http")
		if ok {
			t.Errorf("taken: %s", bad)
		}
		note("reload", answer)
	}
	status, stdout, stderr := runOnce(t, "check", "--print", "--config", p.config, "--state-dir", p.state)
	note("check of a bad file", fmt.Sprint(status, stdout, stderr))
	testkit.OK(t, os.WriteFile(p.config, []byte(text), 0o600))
	for _, args := range [][]string{{"check", "--print"}, {"check", "--probe"}, {"reload"}} {
		status, stdout, stderr := runOnce(t, append(args, "--config", p.config, "--state-dir", p.state)...)
		note(strings.Join(args, " "), fmt.Sprint(status, stdout, stderr))
	}
	_, err = watcher.Write([]byte{0xc0, 0}) // a ping: its answer comes last
	testkit.OK(t, err)
	for m, err := watcher.Next(); err == nil; m, err = watcher.Next() {
		note(m.Topic, string(m.Payload))
	}
	p.stop()
	note("the log", p.log.String())
	for line := range strings.Lines(seen.String()) {
		if strings.Contains(line, marker) {
			t.Errorf("seen: %s", line)
		}
	}
	if !strings.Contains(seen.String(), "event2mqtt/bridge/config") || !strings.Contains(seen.String(), "***") {
		t.Errorf("not everything was looked at:\n%s", seen.String())
	}
}

// secretOptions are the paths of all that are of the type for secrets.
func secretOptions() (out []string) {
	var walk func(path string, options []config.Option)
	walk = func(path string, options []config.Option) {
		for _, o := range options {
			if o.Secret {
				out = append(out, path+o.Name)
			}
			walk(path+o.Name+".", o.Fields)
		}
	}
	walk("", config.Describe(bridge.Config{}))
	for _, t := range bridge.BuiltIn().Sinks {
		walk(t.Name+": ", config.Describe(t.Options()))
	}
	return out
}
