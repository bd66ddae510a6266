package ui

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"event2mqtt/internal/api"
	"event2mqtt/test/ui/standin"
)

// This file compares the page, and the stand-in that most tests show it, with the
// program's API as it is described.

// operation is what the description says of one method of a path.
type operation struct {
	Parameters []struct{ Name, In string }
	Responses  map[string]struct{ Content map[string]any }
}

var described = sync.OnceValue(func() (d struct {
	Paths map[string]map[string]operation
}) {
	if err := json.Unmarshal(api.OpenAPI, &d); err != nil {
		panic(err)
	}
	return d
})

// find returns the template of a path, as it is written in the description, and
// what is said of one method of it.
func find(method, path string) (template string, o operation, ok bool) {
	levels := strings.Split(path, "/")
	for _, template := range slices.Sorted(maps.Keys(described().Paths)) { // no { before letters
		want := strings.Split(template[1:], "/")
		fits := len(want) == len(levels)
		for i := range min(len(want), len(levels)) {
			fits = fits && (want[i] == levels[i] || strings.HasPrefix(want[i], "{") && levels[i] != "")
		}
		if o, ok = described().Paths[template][strings.ToLower(method)]; fits && ok {
			return template, o, true
		}
	}
	return "", o, false
}

// asked are the requests to the API that the page made in any test, each once.
type asked struct {
	mu  sync.Mutex
	all map[string]bool // method and address
}

func (a *asked) see(r *http.Request) {
	_, call, ok := strings.Cut(r.URL.EscapedPath(), "/api/v1/")
	if !ok {
		return
	}
	names := slices.Sorted(maps.Keys(r.URL.Query()))
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.all == nil {
		a.all = map[string]bool{}
	}
	a.all[r.Method+" "+call+" "+strings.Join(names, ",")] = true
}

// undescribed are those of the requests that the description does not have.
func (a *asked) undescribed() (all []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, request := range slices.Sorted(maps.Keys(a.all)) {
		parts := strings.Split(request, " ")
		_, o, ok := find(parts[0], parts[1])
		for _, name := range strings.FieldsFunc(parts[2], func(c rune) bool { return c == ',' }) {
			known := name == "t" && strings.HasSuffix(parts[1], "/picture") // it only makes another address
			for _, p := range o.Parameters {
				known = known || p.In == "query" && p.Name == name
			}
			ok = ok && known
		}
		if !ok {
			all = append(all, request)
		}
	}
	return all
}

// schemas is the description, ready to check JSON by it. Objects have no members
// but those that it names.
var schemas = sync.OnceValue(func() *jsonschema.Compiler {
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(api.OpenAPI))
	if err != nil {
		panic(err)
	}
	var strict func(any)
	strict = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			if _, ok := v["properties"].(map[string]any); ok && v["type"] == "object" {
				v["additionalProperties"] = false
			}
			for _, inner := range v {
				strict(inner)
			}
		case []any:
			for _, inner := range v {
				strict(inner)
			}
		}
	}
	strict(document.(map[string]any)["components"])
	c := jsonschema.NewCompiler()
	if err := c.AddResource("openapi.json", document); err != nil {
		panic(err)
	}
	return c
})

func fits(t *testing.T, what, pointer string, text []byte) {
	t.Helper()
	s, err := schemas().Compile("openapi.json" + pointer)
	if err != nil {
		t.Fatal(err)
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err == nil {
		err = s.Validate(v)
	}
	if err != nil {
		t.Errorf("%s: %v", what, err)
	}
}

// TestTheStandInAnswersAsIsDescribed: what the page is shown in tests is what the
// program would say.
func TestTheStandInAnswersAsIsDescribed(t *testing.T) {
	calls := []struct{ method, call, body string }{
		{"GET", "state", ""}, {"GET", "events?limit=100&q=&from=0&to=9000000000", ""}, {"GET", "events/4200", ""}, {"GET", "events?limit=1&topic=a&before=4200", ""},
		{"GET", "topics?q=", ""}, {"GET", "topics?depth=1&prefix=event2mqtt%2F", ""}, {"GET", "clients", ""},
		{"POST", "events", `{"source":"hooks","event":"ClientOpened","payload":{}}`}, {"POST", "events", `{"source":"hooks","event":"A","payload":{"n":1}}`},
		{"POST", "events?dry_run=1", `{"source":"hooks","event":"ClientOpened","payload":{}}`}, {"POST", "events?dry_run=1", `{"source":"hooks","event":"ZChange","payload":{}}`},
		{"POST", "replay", `{"from":0,"to":9000000000,"q":"","dry_run":true}`}, {"POST", "replay", `{"seqs":[4200]}`},
		{"POST", "devices/printer/pause", ""}, {"DELETE", "retained/tele%2Fkitchen%2FLWT", ""}, {"DELETE", "clients/ha-core?user=homeassistant", ""},
	}
	for _, kind := range standin.Scenarios {
		if kind == "login" || kind == "hostile" { // the second has texts where only some words can be
			continue
		}
		sim := scenarios.Sim(kind + "-described")
		for _, c := range calls {
			what := kind + ": " + c.method + " " + c.call
			r, err := http.NewRequestWithContext(t.Context(), c.method, scenariosBase+kind+"-described/api/v1/"+c.call, strings.NewReader(c.body))
			if err != nil {
				t.Fatal(err)
			}
			answer, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			text, _ := io.ReadAll(answer.Body)
			_ = answer.Body.Close()
			path, _, _ := strings.Cut(c.call, "?")
			template, o, ok := find(c.method, path)
			status, media := fmt.Sprint(answer.StatusCode), answer.Header.Get("Content-Type")
			if _, there := o.Responses[status]; !there {
				status = "default"
			}
			if _, there := o.Responses[status].Content[media]; !ok || !there {
				t.Errorf("%s: %d %s is not described: %s", what, answer.StatusCode, media, text)
				continue
			}
			fits(t, what, "#/paths/"+pointed(template)+"/"+strings.ToLower(c.method)+"/responses/"+status+"/content/"+pointed(media)+"/schema", text)
		}
		text, _ := json.Marshal(sim.Whole())
		fits(t, kind+": the stream", "#/components/schemas/StateChange", text)
	}
}

func pointed(s string) string {
	return url.PathEscape(strings.NewReplacer("~", "~0", "/", "~1").Replace(s))
}
