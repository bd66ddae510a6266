package migrate_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"event2mqtt/internal/sources/octoprint/migrate"
)

var update = flag.Bool("update", false, "write the files of testdata anew")

// text is all of a result, as a person would read it.
func text(r *migrate.Result) string {
	var b strings.Builder
	fmt.Fprintf(&b, "mqtt:\n%spublish:\n%ssource:\n%s", r.MQTT, r.Publish, r.Source)
	for _, rule := range r.Rules {
		fmt.Fprintf(&b, "rule:\n%s", rule)
	}
	fmt.Fprintf(&b, "topics: %s\nport: %d\n", r.Topics, r.Port)
	for _, n := range r.Notes {
		fmt.Fprintf(&b, "note: %s\n", n)
	}
	return b.String()
}

func read(t *testing.T, config string) *migrate.Result {
	t.Helper()
	r, err := migrate.Read([]byte(config), "octoprint")
	if err != nil {
		t.Fatalf("%v\n%s", err, config)
	}
	return r
}

// TestEveryKeyIsConvertedOrSaid: a configuration with all of them, compared with
// what is to come of it.
func TestEveryKeyIsConvertedOrSaid(t *testing.T) {
	config, err := os.ReadFile("testdata/every-key.yaml")
	if err != nil {
		t.Fatal(err)
	}
	r := read(t, string(config))
	const golden = "testdata/every-key.golden"
	if *update {
		if err := os.WriteFile(golden, []byte(text(r)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil || text(r) != string(want) {
		t.Errorf("%v; got\n%s", err, text(r))
	}
	if r.Password != "s3cret" || strings.Contains(text(r), "s3cret") {
		t.Error("the password is not where it belongs, and nowhere else")
	}
}

// setting is a line of keys.txt.
type setting struct{ key, normal, other string }

func settings(t *testing.T) (all []setting) {
	t.Helper()
	file, err := os.ReadFile("testdata/keys.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(file)) {
		if f := strings.Fields(line); !strings.HasPrefix(line, "#") {
			all = append(all, setting{f[0], f[1], strings.Join(f[2:], " ")})
		}
	}
	return all
}

// with is a configuration of the plugin with some settings.
func with(values map[string]string) string {
	tree := map[string]any{}
	for key, value := range values {
		at := tree
		levels := strings.Split(key, ".")
		for _, level := range levels[:len(levels)-1] {
			if at[level] == nil {
				at[level] = map[string]any{}
			}
			at = at[level].(map[string]any)
		}
		var v any
		if yaml.Unmarshal([]byte(value), &v) != nil {
			v = value
		}
		if strings.Contains(value, "{") {
			v = value
		}
		at[levels[len(levels)-1]] = v
	}
	out, err := yaml.Marshal(map[string]any{"plugins": map[string]any{"mqtt": tree}})
	if err != nil {
		panic(err)
	}
	return string(out)
}

// TestEachKeyByItselfIsConvertedOrSaid: one that is set, to another value than
// its default, changes what comes of it, or has a note. One at its default
// changes nothing and needs none.
func TestEachKeyByItselfIsConvertedOrSaid(t *testing.T) {
	all := settings(t)
	if len(all) != 41 {
		t.Errorf("there are %d settings", len(all))
	}
	for _, useful := range []map[string]string{
		{"broker.url": "h"},
		{"broker.url": "h", "broker.tls_active": "true", "broker.username": "u", "publish.metadataActive": "true", "publish.metadataKeys": "hash"},
		{},
	} {
		plain := read(t, with(useful))
		for _, s := range all {
			values := map[string]string{s.key: s.other}
			for k, v := range useful {
				if k != s.key {
					values[k] = v
				} else if v == s.other {
					values[k] = s.normal
				}
			}
			got := read(t, with(values))
			if text(got) == text(plain) && got.Password == plain.Password {
				t.Errorf("%s: %s changes nothing beside %v, and nothing is said\n%s", s.key, s.other, useful, text(got))
			}
			if _, set := useful[s.key]; set {
				continue
			}
			if useful["broker.url"] == "" {
				continue // all of the broker's are said then
			}
			values[s.key] = s.normal
			if got := read(t, with(values)); text(got) != text(plain) && s.key != "broker.protocol" && s.key != "broker.keepalive" {
				t.Errorf("%s: its default changes what comes of it:\n%s\nwithout it\n%s", s.key, text(got), text(plain))
			}
		}
	}
}

// TestWhatHasNoCounterpartIsSaid with the key, and what to do.
func TestWhatHasNoCounterpartIsSaid(t *testing.T) {
	for _, c := range []struct {
		key, value, note, result string
	}{
		{"broker.url", "mqtt://h", "broker.url: mqtt://h is no name or address", ""},
		{"broker.url", "me:pw@h", "broker.url: *** is no name", ""},
		{"broker.url", "'::1'", "", "mqtt://[::1]:1883"},
		{"broker.port", "70000", "must be a number from 1 to 65535; 1883 is used", "mqtt://h:1883"},
		{"broker.port", "[1]", "broker.port: a list must be a number", "mqtt://h:1883"},
		{"broker.keepalive", "0", "broker.keepalive: 0 must be a number from 1", ""},
		{"broker.tls_active", "{a: b}", "must be true or false, and is left out", "mqtt://h"},
		{"broker.tls_active", "'yes'", "", "mqtts://h"},
		{"broker.protocol", "MQTTv5", "took MQTT 3.1 then", ""},
		{"broker.protocol", "MQTTv31", "", `protocol: "3.1"`},
		{"broker.tls", "[a]", "broker.tls is no group", ""},
		{"publish.baseTopic", "/octo/", "begins with a slash", "base_topic: octo/"},
		{"publish.baseTopic", "octo", "", "base_topic: octo\n"},
		{"publish.baseTopic", "'octo/#/'", "cannot be published to", "base_topic: octoPrint"},
		{"publish.baseTopic", "''", "", `base_topic: ""`},
		{"publish.eventTopic", "ev/{event}/{source}", "holds braces of another placeholder", "drop: true"},
		{"publish.eventTopic", "null", "", "name: 'octoprint: events off'\nsource: octoprint\ndrop: true"},
		{"publish.progressTopic", "progress", "holds no {progress}", `progress_topic: ""`},
		{"publish.lwTopic", "''", "", "will: {enabled: false}"},
		{"publish.lwTopic", "a//b", "cannot be published to", "will: {enabled: false}"},
		{"publish.metadataKeys", "hash", "publish.metadataActive is false", ""},
		{"publish.surprise", "7", "publish.surprise: *** is no setting", ""},
		{`"a\e[31m"`, "7", "is no setting", ""},
		{"timestamp_fieldname", "_event", "cannot name the time", ""},
		{"publish.temperatureThreshold", ".nan", "must be a number", ""},
	} {
		values := map[string]string{"broker.url": "h", c.key: c.value}
		config := with(values)
		if c.value == "null" || strings.HasPrefix(c.value, "'") || strings.HasPrefix(c.key, `"`) || strings.HasPrefix(c.value, "{") {
			var b strings.Builder // as it is written
			b.WriteString("plugins:\n  mqtt:\n")
			group, key, deep := strings.Cut(c.key, ".")
			if group != "broker" {
				b.WriteString("    broker: {url: h}\n")
			}
			switch {
			case !deep:
				fmt.Fprintf(&b, "    %s: %s\n", group, c.value)
			case group == "broker" && key != "url":
				fmt.Fprintf(&b, "    broker: {url: h, %s: %s}\n", key, c.value)
			default:
				fmt.Fprintf(&b, "    %s: {%s: %s}\n", group, key, c.value)
			}
			config = b.String()
		}
		got := text(read(t, config))
		if !strings.Contains(got, c.result) || c.note == "" && strings.Contains(got, "note: "+c.key) || c.note != "" && !strings.Contains(got, c.note) || strings.Contains(got, "\x1b") {
			t.Errorf("%s: %s; want %q and %q\n%s", c.key, c.value, c.note, c.result, got)
		}
	}
}

// TestFilesThatAreNoneOfOctoPrintsAreRefused, whatever is in them.
func TestFilesThatAreNoneOfOctoPrintsAreRefused(t *testing.T) {
	bomb := "a: &a [x,x,x,x,x,x,x,x,x]\n"
	for i := 'b'; i < 'k'; i++ {
		bomb += fmt.Sprintf("%c: &%c [*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c]\n", i, i, i-1, i-1, i-1, i-1, i-1, i-1, i-1, i-1, i-1)
	}
	for config, want := range map[string]string{
		"": "holds no settings", "# nothing": "holds no settings", "[a]": "holds no settings", "text": "holds no settings", "a: [": "is no YAML",
		"plugins: {}": "no settings of OctoPrint-MQTT", "plugins: [mqtt]": "no settings of OctoPrint-MQTT", "plugins: {mqtt: 7}": "no settings of OctoPrint-MQTT",
		strings.Repeat("[", 20_000): "is no YAML", strings.Repeat("- a\n", 60_000): "has more than", strings.Repeat("x", 2<<20): "has more than",
		bomb: "no settings of OctoPrint-MQTT", "plugins: &p {mqtt: *p}\n": "",
	} {
		r, err := migrate.Read([]byte(config), "octoprint")
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v; want %s", config, err, want)
		}
		if err == nil {
			_ = text(r)
		}
	}
	r := read(t, bomb+"plugins: {mqtt: {broker: {url: *j, tls: *j}, publish: *j, timestamp_fieldname: *j}}\n")
	if got := text(r); len(got) > 4000 || !strings.Contains(got, "broker.url: a list must be a text") {
		t.Error(got)
	}
}

func FuzzRead(f *testing.F) {
	f.Add("plugins: {mqtt: {broker: {url: h}}}")
	f.Add(with(map[string]string{"broker.url": "h", "publish.baseTopic": "/x"}))
	f.Fuzz(func(t *testing.T, config string) {
		r, err := migrate.Read([]byte(config), "octoprint")
		if err != nil {
			return
		}
		for _, g := range []fmt.Stringer{r.MQTT, r.Publish, r.Source} {
			var v any
			if err := yaml.Unmarshal([]byte(g.String()), &v); err != nil {
				t.Errorf("%v: %s", err, g)
			}
		}
	})
}
