package bridge

import (
	"net/http"
	"strings"
	"testing"

	"event2mqtt/internal/control"
	"event2mqtt/internal/sources/octoprint/leftover"
	"event2mqtt/internal/testkit"
)

// TestOnlyWhoMayClearsWhatAPluginHasLeft, and only what is named rightly.
func TestOnlyWhoMayClearsWhatAPluginHasLeft(t *testing.T) {
	h := newRig(t, "http: {listen: HTTP, token: a-secret-token}\nbroker: {listen: MQTT}\n")
	const good = `{"prefixes":["homeassistant"],"look_only":true}`
	for name, c := range map[string]struct {
		method, token, origin, body string
		status                      int
	}{
		"a program on this machine": {"POST", "", "", good, 200},
		"with the token":            {"POST", "a-secret-token", "", good, 200},
		"with another":              {"POST", "another", "", good, 401},
		"a page":                    {"POST", "", "http://evil.example", good, 403},
		"another method":            {"GET", "", "", "", 405},
		"no JSON":                   {"POST", "", "", "x", 400},
		"too long":                  {"POST", "", "", `{"nodes":["` + strings.Repeat("x", 70_000) + `"]}`, 413},
		"a wildcard":                {"POST", "", "", `{"prefixes":["#"]}`, 422},
		"a long watch":              {"POST", "", "", `{"prefixes":["a"],"watch":3600000000000}`, 422},
	} {
		r, err := http.NewRequest(c.method, "http://"+h.http+control.LeftoverPath, strings.NewReader(c.body))
		testkit.OK(t, err)
		r.Header.Set("Content-Type", "application/json")
		if c.token != "" {
			r.Header.Set("Authorization", "Bearer "+c.token)
		}
		if c.origin != "" {
			r.Header.Set("Origin", c.origin)
		}
		answer, err := http.DefaultClient.Do(r)
		testkit.OK(t, err)
		answer.Body.Close()
		if answer.StatusCode != c.status {
			t.Errorf("%s: status %d, want %d", name, answer.StatusCode, c.status)
		}
	}
	report, err := control.ClearLeftover(t.Context(), h.stateDir, leftover.Request{Prefixes: []string{"+"}})
	if err != nil || !strings.Contains(report.Problem, `"+" cannot be a part of a topic`) {
		t.Errorf("%v %+v", err, report)
	}
}
