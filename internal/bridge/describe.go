package bridge

import (
	"strings"

	"event2mqtt/internal/config"
)

// This file tells what can be configured, from the tags of the options.

// Schema returns the JSON Schema of the configuration, for editors.
func Schema() []byte {
	s := config.Schema(config.Describe(Config{}), map[string]any{
		"sources": listSchema(sourceKinds(sourceTypes), "Where events come from. Without any there is a webhook, default."),
		"sinks":   listSchema(sinkKinds(), "Where events go beside the broker of mqtt, each with its own place in the journal."),
	})
	s["title"] = "event2mqtt"
	return config.JSON(s)
}

// listSchema is the schema of a list whose items' options depend on their type.
func listSchema[O options](k kinds[O], description string) map[string]any {
	var all, names []any
	for _, name := range k.names {
		s := config.Schema(config.Describe(k.make[name]()), nil)
		delete(s, "$schema")
		s["properties"].(map[string]any)["type"] = map[string]any{"const": name}
		all = append(all, map[string]any{
			"if":   map[string]any{"properties": map[string]any{"type": map[string]any{"const": name}}, "required": []any{"type"}},
			"then": s,
		})
		names = append(names, name)
	}
	return map[string]any{
		"type": []any{"array", "null"}, "description": description,
		"items": map[string]any{
			"type": "object", "required": []any{"name", "type"},
			"properties": map[string]any{"type": map[string]any{"enum": names}},
			"allOf":      all,
		},
	}
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
		b.WriteString("\n## Sources of type " + t.Name + "\n\n")
		b.WriteString(config.Markdown("sources[]", config.Describe(t.Options())))
	}
	for _, t := range sinkTypes {
		b.WriteString("\n## Sinks of type " + t.Name + "\n\n")
		b.WriteString(config.Markdown("sinks[]", config.Describe(t.Options())))
	}
	return b.String()
}
