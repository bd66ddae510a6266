package webhook_test

import (
	"bytes"
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"event2mqtt/internal/config"
	"event2mqtt/internal/sources/webhook"
)

const manual = "../../../docs/webhooks.md"

// sender is a row of the table in docs/webhooks.md.
type sender struct {
	name, options string
	events        []string
}

var quoted = regexp.MustCompile("`([^`]*)`")

func senders(t *testing.T) (all []sender) {
	t.Helper()
	text, err := os.ReadFile(manual)
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(text), "| Sender | The source needs | Event |\n")
	if !found {
		t.Fatal("the table of senders is not there")
	}
	for line := range strings.Lines(table) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 3 {
			break
		}
		if strings.Contains(cells[0], "---") {
			continue
		}
		s := sender{name: strings.TrimSpace(cells[0])}
		if m := quoted.FindStringSubmatch(cells[1]); m != nil {
			s.options = m[1]
		}
		for _, m := range quoted.FindAllStringSubmatch(cells[2], -1) {
			s.events = append(s.events, m[1])
		}
		all = append(all, s)
	}
	return all
}

// read decodes options as a configuration file has them.
func read(t *testing.T, options string) webhook.Config {
	t.Helper()
	file := filepath.Join(t.TempDir(), "c.yaml")
	if options != "" {
		options = ", " + options
	}
	if err := os.WriteFile(file, []byte("source: {name: test, type: webhook"+options+"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var c struct {
		Source webhook.Config `koanf:"source"`
	}
	doc, err := config.Load(file, nil, &c)
	if err == nil {
		err = doc.Decode(&c)
	}
	if err != nil {
		t.Fatal(err)
	}
	return c.Source
}

// send sends the request that a file of testdata/senders holds.
func (s *source) send(t *testing.T, name string) (int, string) {
	t.Helper()
	file, err := os.ReadFile(filepath.Join("testdata", "senders", name+".http"))
	if err != nil {
		t.Fatal(err)
	}
	head, body, _ := bytes.Cut(file, []byte("\n\n"))
	lines := strings.Split(string(head), "\n")
	method, target, _ := strings.Cut(lines[0], " ")
	multipart := strings.Contains(string(head), "multipart/")
	if multipart {
		body = bytes.ReplaceAll(body, []byte("\n"), []byte("\r\n"))
	}
	r, err := http.NewRequest(method, s.URL+target, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range lines[1:] {
		key, value, _ := strings.Cut(line, ": ")
		if value == "{stripe}" {
			now := fmt.Sprint(time.Now().Unix())
			mac := hmac.New(sha256.New, []byte("s3cret"))
			mac.Write([]byte(now + "." + string(body)))
			value = "t=" + now + ",v1=" + hex.EncodeToString(mac.Sum(nil)) + ",v0=6ffbb59b2300aae63f272406069a9788598b792a944a07aba816edb039989a39"
		}
		r.Header.Set(key, value)
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(response.Body)
	return response.StatusCode, string(text)
}

func slug(name string) string { return strings.ReplaceAll(strings.ToLower(name), " ", "-") }

// TestTheSendersOfTheManual sends the real body of each sender in the table of
// docs/webhooks.md to a source with the options that stand beside it; the
// events are those that the table names.
func TestTheSendersOfTheManual(t *testing.T) {
	all := senders(t)
	if len(all) < 30 {
		t.Errorf("the table has %d rows", len(all))
	}
	seen := map[string]bool{}
	for _, sender := range all {
		seen[slug(sender.name)] = true
		t.Run(slug(sender.name), func(t *testing.T) {
			s := start(t, func(c *webhook.Config) { *c = read(t, sender.options) })
			if status, text := s.send(t, slug(sender.name)); status/100 != 2 {
				t.Fatalf("status %d: %s", status, text)
			}
			var got []string
			for _, e := range s.out.events {
				got = append(got, e.Name)
				if bytes.Contains(e.Payload, []byte("s3cret")) {
					t.Errorf("a secret is published: %s", e.Payload)
				}
			}
			if !slices.Equal(got, sender.events) {
				t.Errorf("events %q, want %q", got, sender.events)
			}
			if strings.Contains(sender.options, "s3cret") { // another secret is refused
				s := start(t, func(c *webhook.Config) { *c = read(t, strings.ReplaceAll(sender.options, "s3cret", "other")) })
				if status, _ := s.send(t, slug(sender.name)); status != http.StatusUnauthorized {
					t.Errorf("with another secret: %d", status)
				}
			}
		})
	}
	files, _ := filepath.Glob("testdata/senders/*.http")
	for _, file := range files {
		if name := strings.TrimSuffix(filepath.Base(file), ".http"); !seen[name] {
			t.Errorf("%s has no row in the table", name)
		}
	}
}

// TestARefusalNamesTheOptionThatIsSet: auth.secret where the preset says where
// the secret comes, and the option itself where that is set.
func TestARefusalNamesTheOptionThatIsSet(t *testing.T) {
	for _, c := range []struct {
		preset string
		change func(*webhook.AuthConfig)
		want   string
	}{
		{"alertmanager", func(a *webhook.AuthConfig) { a.Secret = "s3cret" }, "Bearer and auth.secret"},
		{"alertmanager", func(a *webhook.AuthConfig) { a.Token = "s3cret" }, "Bearer and auth.token"},
		{"alertmanager", func(a *webhook.AuthConfig) { a.Secret, a.Token = "s3cret", "other" }, "Bearer and auth.token"},
		{"gitlab", func(a *webhook.AuthConfig) { a.Secret = "s3cret" }, "X-Gitlab-Token with what auth.secret says"},
		{"", func(a *webhook.AuthConfig) { a.SecretHeader = webhook.NamedSecret{Name: "X-A", Value: "s3cret"} }, "X-A with what auth.secret_header says"},
		{"octoprint", func(a *webhook.AuthConfig) { a.Secret = "s3cret" }, "apiSecret of the body, with auth.secret"},
		{"octoprint", func(a *webhook.AuthConfig) { a.BodySecret = "s3cret" }, "apiSecret of the body, with auth.body_secret"},
	} {
		s := start(t, func(w *webhook.Config) {
			w.Preset = c.preset
			c.change(&w.Auth)
		})
		if status, text := s.post(t, "", asJSON, `{"topic":"Print Started"}`); status != http.StatusUnauthorized || !strings.Contains(text, c.want) {
			t.Errorf("%s: %d %s; want %s", c.preset, status, text, c.want)
		}
	}
}

// TestEachPresetIsInTheManual: with at least one sender whose body is tested,
// and the presets of the schema are those that there are.
func TestEachPresetIsInTheManual(t *testing.T) {
	all := senders(t)
	for _, o := range config.Describe(webhook.Config{}) {
		if o.Name != "preset" {
			continue
		}
		for _, name := range o.OneOf {
			if !slices.ContainsFunc(all, func(s sender) bool { return strings.Contains(s.options+",", "preset: "+name+",") }) {
				t.Errorf("no sender of the table uses preset %s", name)
			}
		}
		if names := webhook.PresetNames(); !slices.Equal(names, o.OneOf) {
			t.Errorf("there are the presets %q, and options %q", names, o.OneOf)
		}
	}
}

// TestPresetsFillInOnce: doing so again changes nothing, and what is set stays.
func TestPresetsFillInOnce(t *testing.T) {
	for _, name := range webhook.PresetNames() {
		for _, secret := range []config.Secret{"", "s3cret"} {
			c := webhook.Defaults()
			c.Name, c.Preset, c.Auth.Secret = "test", name, secret
			c.Event.Names, c.TimeQuery = map[string]string{"Print Started": "Mine", "7": "Seven"}, "t"
			c.Prepare()
			before := c
			before.Event.Names = map[string]string{}
			for k, v := range c.Event.Names {
				before.Event.Names[k] = v
			}
			c.Prepare()
			if !reflect.DeepEqual(c, before) {
				t.Errorf("%s: got\n%+v\nthen\n%+v", name, before, c)
			}
			if c.Event.Names["Print Started"] != "Mine" || c.TimeQuery != "t" {
				t.Errorf("%s: what was set is gone: %+v", name, c)
			}
			if err := c.Check(); err != nil && secret == "" {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	c := read(t, "preset: stripe, time_key: other, event: {header: X-Mine}")
	c.Prepare()
	if c.Timing.Key != "other" || c.Event.Header != "X-Mine" || c.Event.Keys[0] != "type" {
		t.Errorf("got %+v", c)
	}
}

// TestTimesOfSenders: where a preset knows them they are the event's.
func TestTimesOfSenders(t *testing.T) {
	for name, want := range map[string]string{
		"octoprint-webhooks octoprint": "2020-09-13T12:26:40Z", "stripe stripe": "2023-06-06T22:19:30Z", "unifi-protect unifi": "2024-08-01T15:39:53.954Z",
		"jellyfin jellyfin": "2024-05-01T10:00:00Z", "frigate frigate": "2020-12-04T23:19:22.082975Z",
	} {
		file, preset, _ := strings.Cut(name, " ")
		s := start(t, func(c *webhook.Config) { c.Preset = preset })
		if status, text := s.send(t, file); status/100 != 2 {
			t.Fatalf("%s: status %d: %s", name, status, text)
		}
		if got := s.out.events[0].Time.UTC().Format(time.RFC3339Nano); cmp.Compare(got[:19], want[:19]) != 0 {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}
