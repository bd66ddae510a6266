package bridge

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"event2mqtt/internal/api"
	"event2mqtt/internal/device"
	"event2mqtt/internal/event"
	"event2mqtt/internal/health"
	"event2mqtt/internal/sources"
)

// This file is what tests of the API begin with: a bridge that runs, and the
// description that each answer is checked against.

// description is the OpenAPI document, ready to check answers.
type description struct {
	Paths map[string]map[string]struct {
		Responses map[string]struct {
			Content map[string]any `json:"content"`
		} `json:"responses"`
	} `json:"paths"`
	compiler *jsonschema.Compiler

	mu   sync.Mutex
	seen map[string]bool // method, path and status
}

// described reads the document once. Objects have no members but those that it
// names.
var described = sync.OnceValue(func() *description {
	d := &description{compiler: jsonschema.NewCompiler(), seen: map[string]bool{}}
	if err := json.Unmarshal(api.OpenAPI, d); err != nil {
		panic(err)
	}
	document, err := jsonschema.UnmarshalJSON(bytes.NewReader(api.OpenAPI))
	if err != nil {
		panic(err)
	}
	close := func(v any) {}
	close = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			if _, ok := v["properties"].(map[string]any); ok && v["type"] == "object" {
				v["additionalProperties"] = false
			}
			for _, inner := range v {
				close(inner)
			}
		case []any:
			for _, inner := range v {
				close(inner)
			}
		}
	}
	close(document.(map[string]any)["components"])
	if err := d.compiler.AddResource("openapi.json", document); err != nil {
		panic(err)
	}
	return d
})

// check validates an answer's JSON by the path's template.
func (d *description) check(t testing.TB, method, path string, status int, kind string, text []byte) {
	t.Helper()
	method = strings.ToLower(method)
	operation, ok := d.Paths[path][method]
	if !ok && (status == http.StatusMethodNotAllowed || status == http.StatusNotFound) {
		d.validate(t, "#/components/schemas/Problem", text)
		return
	}
	if !ok {
		t.Fatalf("%s %s is not described", method, path)
	}
	key := strconv.Itoa(status)
	d.mu.Lock()
	d.seen[method+" "+path+" "+key] = true
	d.mu.Unlock()
	answer, ok := operation.Responses[key]
	if !ok {
		key = "default"
		answer = operation.Responses[key]
	}
	media, _, _ := mime.ParseMediaType(kind)
	if _, ok := answer.Content[media]; !ok {
		if _, any := answer.Content["image/*"]; !(any && strings.HasPrefix(media, "image/")) && (len(answer.Content) > 0 || len(text) > 0) {
			t.Errorf("%s %s %d: %s is not described", method, path, status, kind)
		}
		return
	}
	if strings.HasSuffix(media, "json") && !strings.Contains(media, "ndjson") {
		pointer := "#/paths/" + escaped(path) + "/" + method + "/responses/" + key + "/content/" + escaped(media) + "/schema"
		d.validate(t, pointer, text)
	}
}

func escaped(s string) string {
	return url.PathEscape(strings.NewReplacer("~", "~0", "/", "~1").Replace(s))
}

// validate validates JSON by a part of the document.
func (d *description) validate(t testing.TB, pointer string, text []byte) {
	t.Helper()
	d.mu.Lock()
	schema, err := d.compiler.Compile("openapi.json" + pointer)
	d.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Errorf("%s: %v: %.200s", pointer, err, text)
		return
	}
	if err := schema.Validate(value); err != nil {
		t.Errorf("%v\nin %.1000s", err, text)
	}
}

// apiRig is a bridge whose API is called.
type apiRig struct{ *rig }

// panelOptions are those of a source that describes a device.
type panelOptions struct {
	sources.Common   `koanf:",squash"`
	sources.Commands `koanf:",squash"`
}

func (*panelOptions) Check() error                                 { return nil }
func (*panelOptions) Exclusive() bool                              { return false }
func (o *panelOptions) Build(sources.Deps) (sources.Source, error) { return panel{o}, nil }

// picture is the smallest GIF that there is.
const picture = "GIF89a\x01\x00\x01\x00\x00\x00\x00;"

type panel struct{ o *panelOptions }

func (p panel) Run(ctx context.Context, out sources.Output) error {
	out.Ready()
	number := func(key, state, value, unit string) device.Entity {
		return device.Entity{Key: key, Name: key, State: state, Value: value, Kind: device.Number, Unit: unit}
	}
	out.Describe(device.Device{
		ID: "mk4", Name: "Prusa <b>MK4</b>",
		Entities: []device.Entity{
			{Key: "status", Name: "Status", State: "state", Value: "text", Kind: device.Text},
			number("progress", "job", "percent", "%"), number("print_time_left", "job", "left", "s"),
			number("tool0_target", "temp", "target", "°C"), number("tool0", "temp", "actual", "°C"),
			number("temperature_bed", "bed", "actual", "°C"), number("target_bed", "bed", "target", "°C"),
			number("nothing", "none", "x", ""), {Key: "file", State: "job", Value: "file", Kind: device.Text},
			{Key: "camera", State: "camera", Kind: device.Image},
		},
		Commands: []device.Command{{Key: "pause", Name: "Pause"}, {Key: "cancel", Name: "Cancel print"},
			{
				Key: "temperature_tool0", Name: "Nozzle target", Call: "temperature", Kind: device.Setting, Payload: `{"tool0":{value}}`,
				Min: 0, Max: 300, Step: 1, Unit: "°C", State: "temp", Value: "target",
			}},
	})
	out.Report(
		event.State{Key: "state", Payload: []byte(`{"text":"Printing"}`)}, event.State{Key: "job", Payload: []byte(`{"percent":42.5,"left":600,"file":"a.gcode"}`)},
		event.State{Key: "temp", Payload: []byte(`{"actual":214.8,"target":215}`)}, event.State{Key: "bed", Payload: []byte(`{"actual":59.9,"target":60}`)}, event.State{Key: "camera", Payload: []byte(picture)},
	)
	<-ctx.Done()
	return nil
}

func (p panel) Do(_ context.Context, c event.Command) ([]byte, error) {
	if c.Name == "cancel" {
		return nil, &event.Refused{Reason: "nothing is printed"}
	}
	if c.Name == "temperature" {
		return c.Payload, nil
	}
	return []byte(`{"paused":true}`), nil
}

func panelTypes() Types {
	t := BuiltIn()
	t.Sources = append(t.Sources, sources.Type{Name: "panel", Options: func() sources.Options { return &panelOptions{} }})
	return t
}

const withAPI = plain + `  - {name: octo, type: panel, commands: [pause, cancel, temperature]}
rules:
  - {name: web clients, match: Client*, drop: true}
  - {match: Z, min_interval: 1h}
  - {match: Same, dedupe: true}
  - {match: Edit, add: {room: cellar}}
`

func newAPIRig(t *testing.T, yaml string) *apiRig {
	h := &apiRig{newRigOf(t, panelTypes(), yaml, t.TempDir())}
	return h
}

// template finds the path of the description that a path belongs to.
func (d *description) template(path string) string {
	path, _, _ = strings.Cut(path, "?")
	if _, ok := d.Paths[path]; ok {
		return path
	}
	for template := range d.Paths {
		pattern := regexp.MustCompile(`\{[^}]+\}`).ReplaceAllString(template, "[^/]+")
		if strings.HasPrefix(template, "/publish/") || strings.HasPrefix(template, "/retained/") || strings.HasPrefix(template, "/clients/") {
			pattern = strings.TrimSuffix(pattern, "[^/]+") + ".+"
		}
		if ok, _ := regexp.MatchString("^"+pattern+"$", path); ok && !(strings.HasSuffix(path, "/picture") && strings.HasSuffix(template, "{command}")) {
			return template
		}
	}
	return path
}

// call sends a request, checks its answer against the description, and returns
// it.
func (h *apiRig) call(method, path, body string, headers ...string) (int, []byte) {
	h.t.Helper()
	r, err := http.NewRequestWithContext(h.t.Context(), method, "http://"+h.http+"/api/v1"+path, strings.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	if host := r.Header.Get("Host"); host != "" {
		r.Host = host
	}
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	answer, err := client.Do(r)
	if err != nil {
		h.t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	d := described()
	d.check(h.t, method, d.template(path), answer.StatusCode, answer.Header.Get("Content-Type"), text)
	return answer.StatusCode, text
}

// want is call, and checks the status and what is in the answer.
func (h *apiRig) want(status int, method, path, body string, contains ...string) []byte {
	h.t.Helper()
	got, text := h.call(method, path, body)
	if got != status {
		h.t.Errorf("%s %s: %d, want %d: %s", method, path, got, status, text)
	}
	for _, part := range contains {
		if !strings.Contains(string(text), part) {
			h.t.Errorf("%s %s: no %s in %s", method, path, part, text)
		}
	}
	return text
}

// get decodes an answer.
func (h *apiRig) get(path string, into any) {
	h.t.Helper()
	if err := json.Unmarshal(h.want(http.StatusOK, "GET", path, ""), into); err != nil {
		h.t.Fatal(err)
	}
}

// feed is a stream that a test reads.
type feed struct {
	t     testing.TB
	body  io.ReadCloser
	lines chan string
	end   context.CancelFunc
}

// stream opens a stream, and reads its lines.
func (h *apiRig) stream(path string, headers ...string) *feed {
	h.t.Helper()
	ctx, cancel := context.WithCancel(h.t.Context())
	r, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+h.http+"/api/v1"+path, nil)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	answer, err := (&http.Client{Transport: &http.Transport{}}).Do(r)
	if err != nil {
		h.t.Fatal(err)
	}
	if answer.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(answer.Body)
		h.t.Fatalf("%s: %d %s", path, answer.StatusCode, text)
	}
	d := described()
	d.check(h.t, "GET", d.template(path), answer.StatusCode, answer.Header.Get("Content-Type"), nil)
	f := &feed{h.t, answer.Body, readLines(answer.Body), cancel}
	h.t.Cleanup(f.close)
	return f
}

// readLines reads lines until the body ends.
func readLines(body io.Reader) chan string {
	lines := make(chan string, 1<<16)
	go func() {
		defer close(lines)
		scanner := bufio.NewScanner(body)
		scanner.Buffer(nil, 64<<20)
		for scanner.Scan() {
			lines <- scanner.Text()
		}
	}()
	return lines
}

func (f *feed) close() { f.end(); _ = f.body.Close() }

// line returns the next line; ok is false at the end of the stream.
func (f *feed) line() (line string, ok bool) {
	f.t.Helper()
	select {
	case line, ok = <-f.lines:
		return line, ok
	case <-time.After(30 * time.Second):
		f.t.Fatal("the stream says nothing")
		return "", false
	}
}

// toldItem is an item of a stream.
type toldItem struct {
	Type    string          `json:"type"`
	ID      string          `json:"id"`
	Seq     *uint64         `json:"seq"`
	Source  string          `json:"source"`
	Event   string          `json:"event"`
	Topic   string          `json:"topic"`
	Payload json.RawMessage `json:"payload"`
	CameIn  json.RawMessage `json:"came_in"`
	Fate    api.Fate        `json:"fate"`
	LeftOut int             `json:"left_out"`
}

// item returns the next item of a stream of lines.
func (f *feed) item() toldItem {
	f.t.Helper()
	line, ok := f.line()
	if !ok {
		f.t.Fatal("the stream has ended")
	}
	var one toldItem
	if err := json.Unmarshal([]byte(line), &one); err != nil {
		f.t.Fatalf("%v: %s", err, line)
	}
	for kind, schema := range map[string]string{"event": "Event", "fate": "FateChange", "gap": "Gap", "ping": "Ping", "message": "Message", "open": "Open"} {
		if kind == one.Type {
			described().validate(f.t, "#/components/schemas/"+schema, []byte(line))
		}
	}
	return one
}

// until returns the next item that holds.
func (f *feed) until(holds func(toldItem) bool) toldItem {
	f.t.Helper()
	for {
		if one := f.item(); holds(one) {
			return one
		}
	}
}

// sync waits until the stream tells what happens.
func (h *apiRig) sync(f *feed) {
	h.t.Helper()
	h.send("ready")
	f.until(func(one toldItem) bool { return one.Event == "ready" })
}

// send sends an event to the webhook.
func (h *apiRig) send(name string) {
	h.t.Helper()
	r, err := http.Post("http://"+h.http+"/hooks/hooks/"+name, "application/json", strings.NewReader(`{}`))
	if err != nil {
		h.t.Fatal(err)
	}
	_ = r.Body.Close()
	if r.StatusCode != http.StatusAccepted {
		h.t.Fatalf("%s: %d", name, r.StatusCode)
	}
}

func failure(text string) health.Status { return health.Failure(errors.New(text)) }
