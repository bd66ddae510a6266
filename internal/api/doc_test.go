package api

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write docs/api.md")

// document is the description, as far as the docs need it.
type document struct {
	Info struct{ Description string }
	Keys []string `json:"-"` // of Paths, in their order

	Paths      map[string]map[string]operation
	Components struct{ Schemas map[string]schema }
}

type operation struct {
	Summary, Description string
	Parameters           []struct {
		Name, In, Description string
		Schema                schema
	}
	RequestBody struct {
		Content map[string]struct{ Schema schema }
	}
	Responses map[string]struct {
		Description string
		Content     map[string]struct{ Schema schema }
	}
}

type schema struct {
	Ref         string `json:"$ref"`
	Type        any
	Const       string
	Enum        []string
	Description string
	Required    []string
	Properties  map[string]schema
	Items       *schema
	OneOf       []schema
	Minimum     *float64
	Maximum     *float64
	Default     any
}

func readDocument(t *testing.T) (d document) {
	t.Helper()
	if err := json.Unmarshal(OpenAPI, &d); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(OpenAPI)) { // a line begins each path
		if path, ok := strings.CutPrefix(line, `  "/`); ok {
			path, _, _ = strings.Cut(path, `"`)
			d.Keys = append(d.Keys, "/"+path)
		}
	}
	return d
}

// TestTheDescriptionHasEachPath that is served, and no other.
func TestTheDescriptionHasEachPath(t *testing.T) {
	d := readDocument(t)
	served := map[string]bool{}
	for path, m := range paths() {
		for method := range m {
			served["/"+strings.NewReplacer("...", "", "{action}", "{command}").Replace(path)+" "+strings.ToLower(method)] = true
		}
	}
	for path, operations := range d.Paths {
		for method := range operations {
			if !served[path+" "+method] {
				t.Errorf("%s %s is described, and not served", method, path)
			}
			delete(served, path+" "+method)
		}
	}
	for left := range served {
		t.Errorf("%s is served, and not described", left)
	}
	if len(d.Keys) != len(d.Paths) {
		t.Errorf("%d paths have a line of their own, of %d", len(d.Keys), len(d.Paths))
	}
}

// TestTheDocsAreOfThisDescription: docs/api.md is made from openapi.json.
func TestTheDocsAreOfThisDescription(t *testing.T) {
	const file = "../../docs/api.md"
	d := readDocument(t)
	want := d.markdown()
	if *update {
		if err := os.WriteFile(file, want, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s is old: run go test ./internal/api -update (%v)", file, err)
	}
}

const introduction = `# The HTTP API

This file is generated from internal/api/openapi.json, which the program serves at ` + "`/api/v1/openapi.json`" + `; change it there and run ` + "`go test ./internal/api -update`" + `.

All paths begin with ` + "`/api/v1`" + ` at ` + "`http.listen`" + ` (127.0.0.1:8127). Answers are JSON. %s

` + "```sh" + `
curl -d '{"event":"Hello","payload":{"from":"me"}}' localhost:8127/api/v1/events      # through the rules
curl -d ON 'localhost:8127/api/v1/publish/lamp/set?retain=1&wait=5s'                  # as it is, to any topic
curl -N 'localhost:8127/api/v1/stream?event=Print*'                                   # what happens
curl -N 'localhost:8127/api/v1/subscribe?topic=a/%%2B/c'                               # a/+/c
curl -H 'Authorization: Bearer TOKEN' http://printer.lan:8127/api/v1/state             # from elsewhere
` + "```" + `

## Who may use it

- Programs on the same machine, and a browser there that shows this program's page by the name localhost, by an address of this machine, or by a name of ` + "`http.listen` or `http.hosts`" + `.
- Who sends ` + "`http.token`" + ` as a bearer token, and browsers that have logged in with it. After five wrong tokens an address has to wait for a minute, then for longer; who has sent the right one from there before does not.
- Accounts of the bundled broker, with HTTP basic authentication: they may publish and subscribe, as far as their rules go, and nothing else.
- Home Assistant's ingress, where the Supervisor runs this program.

Everybody else is answered 401, or 403 while no ` + "`http.token`" + ` is set. What is behind a proxy counts as elsewhere. Web pages of other origins are refused, unless ` + "`http.origins`" + ` names
them; they need the token as well. Whoever else gets in may do everything. No answer holds a secret of the configuration.

Errors are problem details (RFC 9457) with ` + "`status`, `title` and `detail`" + `, which says what would be right. Times are seconds since 1970, with milliseconds.
`

func (d *document) markdown() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, introduction, d.Info.Description)
	for _, path := range d.Keys {
		for _, method := range []string{"get", "post", "delete"} {
			if o, ok := d.Paths[path][method]; ok {
				o.markdown(&b, strings.ToUpper(method), path)
			}
		}
	}
	b.WriteString("\n## What the answers hold\n")
	for _, name := range slices.Sorted(maps.Keys(d.Components.Schemas)) {
		s := d.Components.Schemas[name]
		if len(s.Properties) == 0 {
			continue
		}
		fmt.Fprintf(&b, "\n### %s\n\n", name)
		if s.Description != "" {
			fmt.Fprintf(&b, "%s\n\n", s.Description)
		}
		b.WriteString("| Member | Type | Meaning |\n|---|---|---|\n")
		s.members(&b, "")
	}
	return b.Bytes()
}

func (o *operation) markdown(b *bytes.Buffer, method, path string) {
	fmt.Fprintf(b, "\n## %s %s\n\n%s.", method, path, o.Summary)
	if o.Description != "" {
		fmt.Fprintf(b, " %s", o.Description)
	}
	b.WriteString("\n")
	if len(o.Parameters) > 0 {
		b.WriteString("\n| Parameter | Type | Meaning |\n|---|---|---|\n")
		for _, p := range o.Parameters {
			fmt.Fprintf(b, "| `%s` | %s | %s |\n", p.Name, p.Schema.words(), p.Description)
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(o.RequestBody.Content)) {
		s := o.RequestBody.Content[kind].Schema
		fmt.Fprintf(b, "\nBody: %s%s.\n", kind, prefixed(", ", s.words()))
	}
	b.WriteString("\n")
	for _, status := range slices.Sorted(maps.Keys(o.Responses)) {
		r := o.Responses[status]
		if status == "default" {
			continue
		}
		var kinds []string
		for _, kind := range slices.Sorted(maps.Keys(r.Content)) {
			s := r.Content[kind].Schema
			text := s.words()
			if kind != "application/json" {
				text = kind + prefixed(": ", strings.TrimSuffix(strings.TrimSpace(s.Description+" "+text), "."))
			}
			kinds = append(kinds, text)
		}
		fmt.Fprintf(b, "- **%s** %s%s\n", status, r.Description, prefixed(" ", strings.Join(kinds, "; ")))
	}
}

func prefixed(prefix, text string) string {
	if text == "" {
		return ""
	}
	return prefix + text
}

// words is the type of a schema, with a link if it has a name.
func (s *schema) words() string {
	switch {
	case s.Ref != "":
		name := s.Ref[strings.LastIndexByte(s.Ref, '/')+1:]
		return "[" + name + "](#" + strings.ToLower(name) + ")"
	case len(s.OneOf) > 0:
		var all []string
		for _, one := range s.OneOf {
			all = append(all, one.words())
		}
		return strings.Join(all, " or ")
	case s.Const != "":
		return "`" + s.Const + "`"
	case len(s.Enum) > 0:
		return "`" + strings.Join(s.Enum, "`, `") + "`"
	case s.Items != nil:
		return "list of " + s.Items.words()
	}
	text := ""
	switch t := s.Type.(type) {
	case string:
		text = t
	case []any:
		var all []string
		for _, one := range t {
			all = append(all, fmt.Sprint(one))
		}
		text = strings.Join(all, " or ")
	}
	if s.Minimum != nil && s.Maximum != nil {
		text += fmt.Sprintf(", %v to %v", *s.Minimum, *s.Maximum)
	}
	if s.Default != nil {
		text += fmt.Sprintf(" (%v)", s.Default)
	}
	return text
}

// members writes the rows of an object, and of those in it.
func (s *schema) members(b *bytes.Buffer, prefix string) {
	names := slices.Clone(s.Required)
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for _, name := range names {
		p, ok := s.Properties[name]
		if !ok {
			continue
		}
		words := p.words()
		if !slices.Contains(s.Required, name) {
			words += ", optional"
		}
		fmt.Fprintf(b, "| `%s%s` | %s | %s |\n", prefix, name, strings.TrimPrefix(words, ", "), p.Description)
		inner := p
		if p.Items != nil {
			inner, name = *p.Items, name+"[]"
		}
		if inner.Ref == "" && len(inner.Properties) > 0 {
			inner.members(b, prefix+name+".")
		}
	}
}
