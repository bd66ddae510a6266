package bridge_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"event2mqtt/internal/bridge"
	"event2mqtt/internal/config"
	"event2mqtt/internal/sinks/file"
	httpsink "event2mqtt/internal/sinks/http"
	"event2mqtt/internal/sources/octoprint"
	"event2mqtt/internal/sources/tail"
	"event2mqtt/internal/sources/webhook"
)

const example = "../../config.example.yaml"

func TestTheExampleIsGoodAndHoldsTheDefaults(t *testing.T) {
	plan, err := bridge.Load(example, nil, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	got := plan.Config
	got.Sources = nil
	if want := bridge.Defaults(); !reflect.DeepEqual(got, want) {
		t.Errorf("the example does not show the defaults:\n got %+v\nwant %+v", got, want)
	}
}

// TestTheExampleShowsEveryOption takes the comment signs off the example's
// options and loads it: each must exist. And it counts that none is left out.
func TestTheExampleShowsEveryOption(t *testing.T) {
	text, err := os.ReadFile(example)
	if err != nil {
		t.Fatal(err)
	}
	sections := map[string]string{} // by the key at the top
	top := ""
	for line := range strings.Lines(string(text)) {
		if m := regexp.MustCompile(`^(?:# ?)?(\w+):`).FindStringSubmatch(line); m != nil {
			top = m[1]
		}
		sections[top] += line
	}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[bridge.Config]()) {
		section := f.Tag.Get("koanf")
		if sections[section] == "" {
			t.Errorf("config.example.yaml does not show %q", section)
		}
		if f.Type.Kind() != reflect.Struct {
			continue
		}
		for _, key := range keys(f.Type) {
			if !regexp.MustCompile(`(?m)^[ #-]*` + key + `:|[{,] *` + key + `:`).MatchString(sections[section]) {
				t.Errorf("config.example.yaml does not show %s.%s", section, key)
			}
		}
	}
}

// TestTheExamplesRulesAreGood takes their comment signs off.
func TestTheExamplesRulesAreGood(t *testing.T) {
	text, err := os.ReadFile(example)
	if err != nil {
		t.Fatal(err)
	}
	_, rules, _ := strings.Cut(string(text), "# rules:\n")
	rules, _, found := strings.Cut(rules, "\n\n")
	file := filepath.Join(t.TempDir(), "config.yaml")
	yaml := "rules:\n" + regexp.MustCompile(`(?m)^# `).ReplaceAllString(rules, "")
	if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	plan, err := bridge.Load(file, nil, t.TempDir())
	if err != nil || !found || len(plan.Rules) < 4 {
		t.Errorf("%v in\n%s", err, yaml)
	}
}

// TestTheExamplesOctoPrintIsGood takes its comment signs off: it shows every
// option.
func TestTheExamplesOctoPrintIsGood(t *testing.T) {
	text, err := os.ReadFile(example)
	if err != nil {
		t.Fatal(err)
	}
	_, part, _ := strings.Cut(string(text), "  # - name: octoprint\n")
	part, _, found := strings.Cut(part, "\n\n")
	yaml := "sources:\n- name: octoprint\n" + regexp.MustCompile(`(?m)^  # `).ReplaceAllString(part, "")
	file := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := bridge.Load(file, nil, t.TempDir()); err != nil || !found {
		t.Fatalf("%v in\n%s", err, yaml)
	}
	for _, o := range config.Describe(octoprint.Type.Options()) {
		if !regexp.MustCompile(`(?m)^[ #-]*` + o.Name + `:`).MatchString("name: " + yaml) {
			t.Errorf("config.example.yaml does not show %q", o.Name)
		}
		for _, inner := range o.Fields {
			if !regexp.MustCompile(`(?m)^[ #]*` + inner.Name + `:`).MatchString(yaml) {
				t.Errorf("config.example.yaml does not show %s.%s", o.Name, inner.Name)
			}
		}
	}
}

// TestTheReferenceIsUpToDate: docs/configuration.md, and the schema that
// editors use.
func TestTheReferenceIsUpToDate(t *testing.T) {
	for file, want := range map[string]string{"../../docs/configuration.md": bridge.Reference(), "../../docs/config.schema.json": string(bridge.Schema())} {
		if *update {
			if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(file)
		if err != nil || string(got) != want {
			t.Errorf("%s is stale: run go test ./internal/bridge -run Reference -update (%v)", file, err)
		}
	}
}

// standsAlone is a description that can be read without those around it: a
// whole sentence that does not lean on the option before it.
var standsAlone = regexp.MustCompile(`^\p{Lu}\S*( \S+){3,}\.$`)
var leans = regexp.MustCompile(`^(And|Or|Its|Their|They|It|Of)\b`)

// TestEveryOptionIsDescribed by its tags, in a whole sentence: an editor shows
// it without its neighbours.
func TestEveryOptionIsDescribed(t *testing.T) {
	var walk func(path string, options []config.Option)
	walk = func(path string, options []config.Option) {
		for _, o := range options {
			if !standsAlone.MatchString(o.Doc) || leans.MatchString(o.Doc) {
				t.Errorf("%s%s: its doc tag is no sentence that stands alone: %q", path, o.Name, o.Doc)
			}
			walk(path+o.Name+".", o.Fields)
		}
	}
	walk("", config.Describe(bridge.Config{}))
	walk("webhook: ", config.Describe(webhook.Config{}))
	walk("tail: ", config.Describe(tail.Config{}))
	walk("file: ", config.Describe(file.Options{}))
	walk("http: ", config.Describe(httpsink.Options{}))
	if strings.Count(bridge.Reference(), "|  |\n") > 0 {
		t.Error("an option of a source has no doc tag")
	}
}

// TestNoTagIsMistyped: a bound that nobody reads would bound nothing.
func TestNoTagIsMistyped(t *testing.T) {
	known := []string{"koanf", "default", "oneof", "min", "max", "off", "required", "format", "example", "doc"}
	seen := 0
	var walk func(typ reflect.Type)
	walk = func(typ reflect.Type) {
		for typ.Kind() == reflect.Slice || typ.Kind() == reflect.Pointer {
			typ = typ.Elem()
		}
		if typ.Kind() != reflect.Struct {
			return
		}
		for i := range typ.NumField() {
			f := typ.Field(i)
			for _, m := range regexp.MustCompile(`(\w+):"(?:[^"\\]|\\.)*"`).FindAllStringSubmatch(string(f.Tag), -1) {
				if seen++; !slices.Contains(known, m[1]) {
					t.Errorf("%s.%s: nobody reads the tag %s", typ, f.Name, m[1])
				}
			}
			walk(f.Type)
		}
	}
	for _, options := range []any{bridge.Config{}, webhook.Config{}, tail.Config{}, file.Options{}} {
		walk(reflect.TypeOf(options))
	}
	if seen < 300 {
		t.Errorf("only %d tags were looked at", seen)
	}
}

// schemaOf compiles the schema, and returns what validates a file with it.
func schemaOf(t *testing.T) func(text string) error {
	compiler := jsonschema.NewCompiler()
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(bridge.Schema()))
	if err != nil {
		t.Fatal(err)
	}
	if err := compiler.AddResource("schema.json", document); err != nil {
		t.Fatal(err)
	}
	schema, err := compiler.Compile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return func(text string) error {
		var value any
		if err := yaml.Unmarshal([]byte(text), &value); err != nil {
			t.Fatal(err)
		}
		encoded, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		value, _ = jsonschema.UnmarshalJSON(bytes.NewReader(encoded))
		return schema.Validate(value)
	}
}

// TestTheSchemaKnowsGoodFromBad: what check refuses for its shape, an editor
// marks, and nothing that is good.
func TestTheSchemaKnowsGoodFromBad(t *testing.T) {
	validate := schemaOf(t)
	text, err := os.ReadFile(example)
	if err != nil {
		t.Fatal(err)
	}
	for _, good := range []string{
		string(text), "mqtt: {url: [a, b], password: {file: /x}}", "mqtt: {keepalive: \"${K}\", in_flight: \"${N}\"}", "sources: [{name: a, type: tail, paths: /x}]",
		"rules: [{match: X, qos: 2, add: {a: [1]}}]", "mqtt:\nbroker: {listen: off, save_interval: 0}",
	} {
		if err := validate(good); err != nil {
			t.Errorf("%.60s: %v", good, err)
		}
	}
	for _, bad := range []string{
		"unknown_key", "unknown_deep", "unknown_section", "wrong_types", "bool_word", "duration_no_unit", "size_unknown_unit", "number_text", "number_float", "group_for_list",
		"source_type_mistyped", "source_no_name", "source_option_of_another_type", "rules_mistyped", "secret_wrong_key", "list_for_text",
	} {
		text, err := os.ReadFile("testdata/bad/" + bad + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		if validate(string(text)) == nil {
			t.Errorf("%s is good to the schema", bad)
		}
	}
}

// TestTheTagsBoundWhatIsChecked goes to the edges of every option that has
// some: within them, check and the schema take it, and beyond neither does.
func TestTheTagsBoundWhatIsChecked(t *testing.T) {
	validate, edges := schemaOf(t), 0
	try := func(key, file string, good, unitless bool) {
		edges++
		path := filepath.Join(t.TempDir(), "c.yaml")
		if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := bridge.Load(path, nil, t.TempDir())
		problems, _ := errors.AsType[config.Problems](err)
		refused := slices.ContainsFunc(problems, func(p config.Problem) bool {
			return p.Key == key && regexp.MustCompile(`between|is less than [0-9]|is not one of|is not known|is not an address`).MatchString(p.Text)
		})
		if refused == good {
			t.Errorf("%s: check says %v", file, err)
		}
		// Of texts with a unit, a schema cannot tell which is more.
		if err := validate(file); (err == nil) != good && (good || unitless) {
			t.Errorf("%s: the schema says %v", file, err)
		}
	}
	number := regexp.MustCompile(`^(\d+)(\D*)$`)
	var walk func(key, file string, options []config.Option)
	walk = func(key, file string, options []config.Option) {
		for _, o := range options {
			key := strings.TrimPrefix(key+"."+o.Name, ".")
			file := func(value string) string { return strings.Replace(file, "HERE", o.Name+": "+value, 1) }
			switch {
			case o.List:
				needed := ""
				for _, inner := range o.Fields {
					if inner.Required != "" {
						needed += inner.Name + ": " + inner.Example + ", "
					}
				}
				walk(key+"[0]", file("[{"+needed+"HERE}]"), o.Fields)
			case o.Fields != nil:
				walk(key, file("{HERE}"), o.Fields)
			}
			if o.OneOf != nil {
				quote := "'"
				if _, err := strconv.Atoi(o.OneOf[0]); err == nil {
					quote = ""
				}
				for _, value := range o.OneOf {
					try(key, file(quote+value+quote), true, true)
				}
				try(key, file(quote+"77"+quote), false, true)
			}
			if o.Type == "address" {
				try(key, file(`""`), o.Default == "", true)
				try(key, file("nowhere"), false, true)
			}
			for _, value := range []string{o.Off, o.Min, o.Max} {
				if value != "" {
					try(key, file(value), true, true)
				}
			}
			for bound, step := range map[string]int{o.Min: -1, o.Max: 1} {
				m := number.FindStringSubmatch(bound)
				if m == nil {
					continue
				}
				n, _ := strconv.Atoi(m[1])
				if beyond := strconv.Itoa(n+step) + m[2]; beyond != o.Off && (n+step >= 0 || m[2] == "") {
					try(key, file(beyond), false, m[2] == "")
				}
			}
		}
	}
	walk("", "HERE", config.Describe(bridge.Config{}))
	walk("sources[0]", "sources: [{name: a, type: webhook, HERE}]", config.Describe(webhook.Config{}))
	walk("sources[0]", "sources: [{name: a, type: tail, paths: /x, HERE}]", config.Describe(tail.Config{}))
	if edges < 150 {
		t.Errorf("only %d edges were tried", edges)
	}
}

func keys(t reflect.Type) (out []string) {
	for _, f := range reflect.VisibleFields(t) {
		if tag := f.Tag.Get("koanf"); tag != "" && !strings.HasPrefix(tag, ",") {
			out = append(out, tag)
			if f.Type.Kind() == reflect.Struct {
				out = append(out, keys(f.Type)...)
			}
		}
	}
	return out
}

var update = flag.Bool("update", false, "write the messages that are given now; read them before you commit them")

// TestBadFilesSayWhatIsWrong loads every file in testdata/bad; beside each
// stands the exact text that it must give.
func TestBadFilesSayWhatIsWrong(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			_, err := bridge.Load(file, []string{"SOME_TEST_VALUE=x"}, t.TempDir())
			if err == nil {
				t.Fatal("nothing is wrong with it")
			}
			got := strings.ReplaceAll(err.Error(), file, "FILE") + "\n"
			golden := strings.TrimSuffix(file, ".yaml") + ".txt"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func TestTheEnvironmentOverridesTheFile(t *testing.T) {
	plan, err := bridge.Load(example, []string{
		"E2M_MQTT_URL=mqtt://a:1,mqtt://b:2", "E2M_MQTT_USERNAME=u", "E2M_MQTT_PASSWORD=12345", "E2M_PUBLISH_QOS=2", "E2M_MQTT_WILL_RETAIN=false",
		"E2M_JOURNAL_MAX_SIZE=8MiB", "E2M_JOURNAL_MAX_AGE=2d", "OTHER=x",
	}, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if len(plan.MQTT.URL) != 2 || plan.MQTT.Password != "12345" || plan.Publish.QoS != 2 || plan.MQTT.Will.Retain || plan.Journal.MaxSize != 8<<20 || plan.Journal.MaxAge.Hours() != 48 {
		t.Errorf("got %+v", plan.Config)
	}
	for env, want := range map[string]string{
		"E2M_MQTT_URLL=x":      "environment variable E2M_MQTT_URLL: there is no such option; did you mean E2M_MQTT_URL?",
		"E2M_PUBLISH_QOS=five": "environment variable E2M_PUBLISH_QOS: publish.qos: a number is needed here, not the text \"five\"",
	} {
		if _, err := bridge.Load("", []string{env}, t.TempDir()); err == nil || err.Error() != want {
			t.Errorf("%s: got %v\nwant %s", env, err, want)
		}
	}
}

// TestSecretsAreNeverPrinted prints a configuration full of secrets in every
// way that a careless hand might.
func TestSecretsAreNeverPrinted(t *testing.T) {
	const secret = "hunter2hunter2"
	file := filepath.Join(t.TempDir(), "c.yaml")
	text := "mqtt: {username: u, password: " + secret + ", url: 'mqtt://h', websocket: {headers: {A: " + secret + "}}}\n" +
		"broker: {users: [{name: u, password: " + secret + "}, {name: v, hash: $6$" + secret + "AA==$" + strings.Repeat("A", 22) + "==}]}\n" +
		"sources: [{name: w, type: webhook, auth: {token: " + secret + ", body_secret: " + secret + ", body_key: k, hmac: {scheme: github, secret: " + secret + "}}}]\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	plan, err := bridge.Load(file, nil, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	plan.Sources = nil // the raw document
	for _, s := range dump(plan) {
		if strings.Contains(s, secret) {
			t.Errorf("printed: %s", s)
		}
	}
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	if err := os.WriteFile(bad, []byte("mqtt: {url: ['mqtt://u:"+secret+"@h', 'mqtt://u:"+secret+"@h:x y'], password: ["+secret+"]}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := bridge.Load(bad, nil, t.TempDir()); err == nil || strings.Contains(err.Error(), secret) {
		t.Errorf("got %v", err)
	}
}

func dump(v any) []string {
	encoded, _ := json.Marshal(v)
	return []string{fmt.Sprint(v), fmt.Sprintf("%+v", v), fmt.Sprintf("%#v", v), string(encoded)}
}
