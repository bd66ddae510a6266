package bridge

import (
	"strings"

	"event2mqtt/internal/config"
)

// This file tells what can be configured, from the tags of the options.

// Schema returns the JSON Schema of the configuration, for editors.
func Schema() []byte {
	var kinds, names []any
	for _, t := range sourceTypes {
		s := config.Schema(config.Describe(t.options()), nil)
		delete(s, "$schema")
		s["properties"].(map[string]any)["type"] = map[string]any{"const": t.name}
		kinds = append(kinds, map[string]any{
			"if":   map[string]any{"properties": map[string]any{"type": map[string]any{"const": t.name}}, "required": []any{"type"}},
			"then": s,
		})
		names = append(names, t.name)
	}
	s := config.Schema(config.Describe(Config{}), map[string]any{"sources": map[string]any{
		"type": []any{"array", "null"}, "description": "Where events come from. Without any there is a webhook, default.",
		"items": map[string]any{
			"type": "object", "required": []any{"name", "type"},
			"properties": map[string]any{"type": map[string]any{"enum": names}},
			"allOf":      kinds,
		},
	}})
	s["title"] = "event2mqtt"
	return config.JSON(s)
}

// Reference writes every option as a page of tables, in Markdown.
func Reference() string {
	var b strings.Builder
	b.WriteString(`# Every option

Made from the program's own tables: ` + "`go test ./internal/bridge -run Reference -update`" + `. How they work together is in
[configuring.md](configuring.md), and a file with all of them is [config.example.yaml](../config.example.yaml).
A duration has a unit (500ms, 60s, 10m, 24h, 7d), and so has a size (64KiB, 10MB). A secret may also be ` + "`{file: PATH}` or `{credential: NAME}`" + `.

`)
	b.WriteString(config.Markdown("", config.Describe(Config{})))
	for _, t := range sourceTypes {
		b.WriteString("\n## Sources of type " + t.name + "\n\n")
		b.WriteString(config.Markdown("sources[]", config.Describe(t.options())))
	}
	return b.String()
}
