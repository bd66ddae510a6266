package httpsink_test

import (
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"strings"
	"testing"
	"unicode/utf8"

	"event2mqtt/internal/config"
	"event2mqtt/internal/health"
	httpsink "event2mqtt/internal/sinks/http"
	"event2mqtt/internal/testkit"
)

// asked has a sink with a preset send events to a stand-in for its service.
func asked(t *testing.T, preset, path string, answer func(http.ResponseWriter, *http.Request, int), change func(*httpsink.Options), names ...string) *rig {
	t.Helper()
	r := newRig(t, func(o *httpsink.Options) {
		quick(o)
		o.Preset, o.URL = preset, config.Secret(strings.TrimSuffix(string(o.URL), "/hook")+path)
		o.Rate = "off"
		if change != nil {
			change(o)
		}
	}, answer)
	for _, name := range names {
		r.emit(name, `{"name":"größer <!channel> & @everyone.gcode","time":3712}`)
	}
	r.delivered()
	return r
}

// TestHomeAssistant gets the payload as MQTT has it, at the path of a webhook.
func TestHomeAssistant(t *testing.T) {
	r := asked(t, "homeassistant", "/api/webhook/abc", nil, nil, "PrintDone")
	if q := r.requests()[0]; q.URL.Path != "/api/webhook/abc" || q.Header.Get("Content-Type") != "application/json" || !strings.HasPrefix(q.body, `{"_event":"PrintDone"`) {
		t.Errorf("%s %s", q.URL, q.body)
	}
}

// TestNtfy gets a title, tags and a text; what is set goes before what the preset
// has; and its limit is kept.
func TestNtfy(t *testing.T) {
	r := asked(t, "ntfy", "/printer", nil, func(o *httpsink.Options) { o.Headers = headers{"priority": "4", "title": "{event}: ü"} }, "PrintDone")
	q := r.requests()[0]
	title, _ := new(mime.WordDecoder).DecodeHeader(q.Header.Get("Title"))
	if title != "PrintDone: ü" || q.Header.Get("Priority") != "4" || q.Header.Get("Tags") != "press" || q.body != "name: größer <!channel> & @everyone.gcode\ntime: 3712" {
		t.Errorf("%v %s", q.Header, q.body)
	}
	o := options("https://ntfy.example/printer")
	o.Preset = "ntfy"
	o.Prepare()
	testkit.OK(t, o.Check())
	if o.Rate != "10/min" || o.Burst != 50 {
		t.Errorf("rate %s, burst %d", o.Rate, o.Burst)
	}
}

// TestHealthchecks is told of start, failure and success at its own paths, and
// believed what it says behind a 200.
func TestHealthchecks(t *testing.T) {
	r := asked(t, "healthchecks", "/uuid/?create=0", nil, func(o *httpsink.Options) { o.Ping.Log = []string{"Z*"} }, "PrintStarted", "ZChange", "PrintFailed", "Error", "PrintDone")
	var paths []string
	for _, q := range r.requests() {
		paths = append(paths, q.RequestURI)
	}
	if got := strings.Join(paths, " "); got != "/uuid/start?create=0 /uuid/log?create=0 /uuid/fail?create=0 /uuid/fail?create=0 /uuid?create=0" {
		t.Error(got)
	}
	for said, level := range map[string]string{"OK (not found)": "error", "OK (rate limited)": ""} {
		after := ""
		r := newRig(t, func(o *httpsink.Options) { quick(o); o.Preset = "healthchecks" }, func(w http.ResponseWriter, _ *http.Request, n int) {
			fmt.Fprint(w, said)
		})
		r.emit("PrintDone", "{}")
		testkit.Eventually(t, said, func() bool { return r.level() == health.Waiting })
		if after = r.log.String(); level != "" && !strings.Contains(after, level) || r.cursor.Lag() != 1 {
			t.Errorf("%s: told %s", said, after)
		}
	}
	r = newRig(t, func(o *httpsink.Options) { quick(o); o.Preset = "healthchecks" }, func(w http.ResponseWriter, _ *http.Request, n int) {
		if n == 0 {
			w.WriteHeader(http.StatusConflict) // the slug is that of two checks
		}
	})
	r.emit("PrintDone", "{}")
	r.delivered()
	if len(r.kept()) > 0 || len(r.requests()) != 2 {
		t.Errorf("a slug that is not unique: %d requests", len(r.requests()))
	}
}

// TestDiscord gets at most 2,000 characters, and mentions nobody.
func TestDiscord(t *testing.T) {
	r := asked(t, "discord", "/api/webhooks/1/token-of-it", func(w http.ResponseWriter, _ *http.Request, _ int) { w.WriteHeader(204) }, nil, "PrintDone")
	r.emit("Long", fmt.Sprintf(`{"message":%q}`, strings.Repeat("ü\"", 5000)))
	r.delivered()
	for _, q := range r.requests() {
		var m struct {
			Content string
			Allowed struct{ Parse []string } `json:"allowed_mentions"`
		}
		testkit.OK(t, json.Unmarshal([]byte(q.body), &m))
		if n := utf8.RuneCountInString(m.Content); n == 0 || n > 2000 || !utf8.ValidString(m.Content) || m.Allowed.Parse == nil || q.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%d characters, %s", n, q.body)
		}
	}
}

// TestSlack gets a text in which nothing is a mention.
func TestSlack(t *testing.T) {
	r := asked(t, "slack", "/services/T0/B0/secret-of-it", nil, nil, "PrintDone")
	var m struct{ Text string }
	testkit.OK(t, json.Unmarshal([]byte(r.requests()[0].body), &m))
	if want := "*PrintDone*\nname: größer &lt;!channel&gt; &amp; @everyone.gcode\ntime: 3712"; m.Text != want {
		t.Errorf("%q, want %q", m.Text, want)
	}
}

// TestTelegram gets a form, with a chat that is configured.
func TestTelegram(t *testing.T) {
	r := asked(t, "telegram", "/bot12345:secret-of-it/sendMessage", nil, func(o *httpsink.Options) { o.Form = headers{"chat_id": "-100"} }, "PrintDone")
	if q := r.requests()[0]; q.body != "chat_id=-100&text=PrintDone%0Aname%3A+gr%C3%B6%C3%9Fer+%3C%21channel%3E+%26+%40everyone.gcode%0Atime%3A+3712" {
		t.Error(q.body)
	}
}
