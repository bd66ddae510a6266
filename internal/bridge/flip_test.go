package bridge

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"event2mqtt/internal/config"
	"event2mqtt/test/certtest"
)

// TestAReloadTellsOfEveryOption: whichever option is changed, a reload names
// what it changed, or refuses because that cannot change while the program
// runs. An option that nobody compares would be ignored in silence.
func TestAReloadTellsOfEveryOption(t *testing.T) {
	ca := certtest.New(t)
	cert, key := ca.Issue("localhost", nil)
	pair := fmt.Sprintf("cert: %s, key: %s", cert, key)
	inBroker := func(options string) string {
		return strings.Replace(plain, "listen: MQTT", "listen: MQTT, "+options, 1)
	}
	ping := map[string]any{"preset": "healthchecks", "url": "https://host.example/x"}
	plot := map[string]any{"preset": "thingspeak", "channel": "1", "fields": map[string]any{"1": "payload.before"}, "password": "p"}
	shown := map[string]any{"tls": map[string]any{"cert": cert, "key": key}}
	f := flipper{rig: newRig(t, plain), cert: cert, key: key, beside: map[string]map[string]any{
		"sinks[http].template":     {"body": "template", "template": "before"},
		"sinks[http].form":         {"body": "form", "form": map[string]any{"before": "yes"}},
		"sinks[http].password":     {"username": "u"},
		"sinks[http].batch.events": {"url": "https://host.example/x"},
		"sinks[http].ping.start":   ping, "sinks[http].ping.fail": ping, "sinks[http].ping.log": ping,
		"sinks[mqtt].channel": plot, "sinks[mqtt].fields": plot, "sinks[mqtt].credentials_file": {"username": ""},
		"sinks[http].tls.cert": shown, "sinks[http].tls.key": shown,
	}, special: map[string]any{
		"sinks[mqtt].channel": "2", "sinks[mqtt].fields": map[string]any{"1": "payload.after"}, "mqtt.credentials_file": "/x",
		"sinks[http].tls.ca": ca.CAFile, "sinks[http].tls.cert": copyOf(t, cert), "sinks[http].tls.key": copyOf(t, key),
		"mqtt.url":     "mqtt://127.0.0.1:1",
		"mqtt.tls.ca":  ca.CAFile,
		"mqtt.tls.key": copyOf(t, key), "mqtt.tls.cert": copyOf(t, cert), "broker.tls.key": copyOf(t, key), "broker.tls.cert": copyOf(t, cert),
		"mqtt.tls.ciphers": []any{"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"},
		"mqtt.tls.pin":     []any{"sha256:" + strings.Repeat("ab", 32)}, "mqtt.max_qos": 1,
		"mqtt.will.qos": 2, "publish.qos": 2, "rules[].qos": 2, // which are numbers
		"broker.unix":                  filepath.Join(t.TempDir(), "socket"),
		"broker.tls.client_ca":         copyOf(t, ca.CAFile),
		"broker.tls.listen":            "localhost:0",
		"broker.max_keepalive":         "1m",
		"broker.users[].hash":          "$2a$10$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy",
		"broker.users[].allow":         []any{"#:r"},
		"rules[].when":                 "payload.a > 1",
		"journal.path":                 t.TempDir(),
		"http.trusted_proxies":         []any{"192.0.2.1"},
		"sources[tail].multiline.json": false, // which true follows from the format
		"sources[octoprint].url":       "http://other.local",
		"sources[octoprint].api_key":   "another",
	}, bases: []struct{ below, yaml string }{
		{"mqtt.url", plain},
		{"mqtt.credentials_file", plain + "mqtt: {url: mqtts://127.0.0.1:1}\n"},
		{"mqtt.", plain + fmt.Sprintf("mqtt: {url: mqtts://127.0.0.1:1, username: u, tls: {%s}}\n", pair)},
		{"broker.tls.", inBroker("tls: {listen: '127.0.0.1:0', client_ca: " + ca.CAFile + ", " + pair + "}")},
		{"broker.websocket.", inBroker("tls: {" + pair + "}")},
		{"broker.users[].hash", inBroker("users: [{name: u, hash: $2a$10$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWa}]")},
		{"broker.users[].", inBroker("users: [{name: u, password: p}]")},
		{"rules[].dedupe", plain + "rules: [{match: X, min_interval: 5s}]\n"},
		{"rules[].", plain + "rules: [{match: X, min_interval: 5s, dedupe: true}]\n"},
		{"", plain},
	}}
	for key, value := range f.special {
		if strings.HasPrefix(key, "mqtt.") {
			f.special["sinks[mqtt]."+strings.TrimPrefix(key, "mqtt.")] = value
		}
	}
	f.special["sinks[mqtt].publish.qos"] = 2
	f.walk("", nil, config.Describe(Config{}))
	for _, t := range sourceTypes {
		f.walkPart("sources", t.Name, config.Describe(t.Options()))
	}
	for _, t := range sinkTypes {
		f.walkPart("sinks", t.Name, config.Describe(t.Options()))
	}
	if f.flipped < 140 {
		t.Errorf("only %d options were changed", f.flipped)
	}
}

type flipper struct {
	*rig
	special map[string]any                 // values, where the tags of the option tell none that is good
	bases   []struct{ below, yaml string } // configurations in which the options below a key can be changed alone
	beside  map[string]map[string]any      // options of a part that a key cannot be without
	flipped int
	// cert and key are a pair, of which special has copies.
	cert, key string
}

// walk changes options one after the other.
func (f *flipper) walk(key string, path []any, options []config.Option) {
	for _, o := range options {
		key, path := key+o.Name, append(slices.Clone(path), o.Name)
		switch {
		case o.Type == "list" && o.Fields == nil: // of several types
		case o.List:
			f.walk(key+"[].", append(path, 0), o.Fields)
		case o.Fields != nil:
			f.walk(key+".", path, o.Fields)
		case key == "rules[].keep", key == "rules[].drop", strings.HasSuffix(key, "].type"): // none can change alone
		default:
			f.flip(key, path, o)
		}
	}
}

// walkPart changes the options of a source or a sink, which begins with no
// others than those that it must have.
func (f *flipper) walkPart(list, kind string, options []config.Option) {
	key := list + "[" + kind + "]."
	part := map[string]any{"name": "part", "type": kind}
	if kind == "mqtt" { // without what some of its options cannot change alone
		part["url"], part["username"] = "mqtts://127.0.0.1:1", "u"
		part["tls"] = map[string]any{"cert": f.cert, "key": f.key}
		part["publish"] = map[string]any{"base_topic": "copy"}
	}
	for _, o := range options {
		if o.Required != "" && part[o.Name] == nil {
			part[o.Name] = o.Example
			f.special[key+o.Name] = o.Example + "2"
		}
	}
	var doc map[string]any
	if err := yaml.Unmarshal([]byte(plain), &doc); err != nil {
		f.t.Fatal(err)
	}
	rest, _ := doc[list].([]any)
	doc[list] = append([]any{part}, rest...)
	base, err := yaml.Marshal(doc)
	if err != nil {
		f.t.Fatal(err)
	}
	f.bases = append([]struct{ below, yaml string }{{key, string(base)}}, f.bases...)
	f.walk(key, []any{list, 0}, options)
}

func (f *flipper) flip(key string, path []any, o config.Option) {
	f.flipped++
	base := f.bases[slices.IndexFunc(f.bases, func(b struct{ below, yaml string }) bool { return strings.HasPrefix(key, b.below) })].yaml
	for name, value := range f.beside[key] {
		var doc any
		if err := yaml.Unmarshal([]byte(base), &doc); err != nil {
			f.t.Fatal(err)
		}
		text, err := yaml.Marshal(put(doc, append(slices.Clone(path[:2]), name), value))
		if err != nil {
			f.t.Fatal(err)
		}
		base = string(text)
	}
	if now := f.reload(base); !now.OK {
		f.t.Fatalf("%s: %+v", key, now)
	}
	values := flips(o)
	if v, ok := f.special[key]; ok {
		values = []any{v}
	}
	var refused []string
	for _, value := range values {
		var doc any
		if err := yaml.Unmarshal([]byte(base), &doc); err != nil {
			f.t.Fatal(err)
		}
		file, err := yaml.Marshal(put(doc, path, value))
		if err != nil {
			f.t.Fatal(err)
		}
		outcome := f.reload(string(file))
		if !outcome.OK {
			refused = append(refused, outcome.Problems...)
			continue
		}
		if len(outcome.Changed) == 0 {
			f.t.Errorf("%s: %v: the reload says that nothing has changed", key, value)
		}
		if back := f.reload(base); !back.OK || len(back.Changed) == 0 {
			f.t.Errorf("%s: back from %v: %+v", key, value, back)
		}
		return
	}
	if strings.Contains(strings.Join(refused, "\n"), "cannot change while the program runs") {
		return
	}
	if strings.HasPrefix(key, "sources[") { // they are compared as a whole; few of their options go alone
		f.flipped--
	} else {
		f.t.Errorf("%s, %s: no value was accepted:\n%s", key, o.Type, strings.Join(refused, "\n"))
	}
}

func copyOf(t *testing.T, file string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), filepath.Base(file))
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// flips are values that an option may have instead of its default.
func flips(o config.Option) (all []any) {
	switch o.Type {
	case "true or false":
		return []any{o.Default != "true"}
	case "one of":
		for _, v := range o.OneOf {
			if v != o.Default {
				all = append(all, v)
			}
		}
		return all
	case "number":
		n, _ := strconv.Atoi(o.Default)
		return []any{n + 1, n - 1}
	case "duration":
		d, _ := config.ParseDuration(o.Default)
		return []any{(d + time.Second).String(), (d / 2).String()}
	case "size":
		s, _ := config.ParseSize(o.Default)
		return []any{fmt.Sprintf("%dB", s+1024), fmt.Sprintf("%dB", s/2)}
	case "texts", "list":
		return []any{[]any{"flipped"}}
	case "address":
		return []any{"127.0.0.1:0"}
	case "group":
		return []any{map[string]any{"flipped": "yes"}}
	}
	if o.Example != "" {
		all = append(all, o.Example)
	}
	if strings.Contains(o.Default, "}") { // a topic
		all = append(all, o.Default+"/flipped")
	}
	return append(all, "flipped")
}

// put sets a value in what YAML was decoded to.
func put(doc any, path []any, value any) any {
	if len(path) == 0 {
		return value
	}
	if i, ok := path[0].(int); ok {
		list, _ := doc.([]any)
		list = slices.Clone(list)
		for len(list) <= i {
			list = append(list, nil)
		}
		list[i] = put(list[i], path[1:], value)
		return list
	}
	group, _ := doc.(map[string]any)
	if group = maps.Clone(group); group == nil {
		group = map[string]any{}
	}
	name := path[0].(string)
	group[name] = put(group[name], path[1:], value)
	return group
}
