package config

import (
	"encoding/json"
	"reflect"
	"strconv"
)

// This file writes options as a JSON Schema.

// Schema returns the JSON Schema (2020-12) of options. Whoever knows more of
// one replaces it by its path, such as sources. An editor completes keys with
// it, and marks what is wrong; references to variables are always allowed.
func Schema(options []Option, replace map[string]any) map[string]any {
	s := group(options, "", replace)
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	return s
}

func group(options []Option, path string, replace map[string]any) map[string]any {
	properties := map[string]any{}
	var required []any
	for i := range options {
		o := &options[i]
		key := join(path, o.Name)
		if o.Required != "" {
			required = append(required, o.Name)
		}
		if replace[key] != nil {
			properties[o.Name] = replace[key]
			continue
		}
		properties[o.Name] = o.schema(key, replace)
	}
	s := map[string]any{"type": "object", "properties": properties, "additionalProperties": false}
	if required != nil {
		s["required"] = required
	}
	return s
}

// reference is a text with a variable in it.
var reference = map[string]any{"type": "string", "pattern": `\$\{[^}]*\}`}

func (o *Option) schema(key string, replace map[string]any) map[string]any {
	s := o.value(key, replace)
	if doc := o.Doc; doc != "" {
		if bounds := o.bounds(); bounds != "" { // of texts with units a schema cannot tell
			doc += " (" + bounds + ")"
		}
		s["description"] = doc
	}
	if o.Default != "" {
		s["default"] = o.jsonDefault()
	}
	if o.Example != "" {
		s["examples"] = []any{o.Example}
	}
	return s
}

func (o *Option) value(key string, replace map[string]any) map[string]any {
	t := o.kind
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	or := func(s map[string]any) map[string]any { return map[string]any{"anyOf": []any{s, reference}} }
	switch {
	case o.List:
		return map[string]any{"type": []any{"array", "null"}, "items": group(o.Fields, key+"[]", replace)}
	case o.Fields != nil:
		s := group(o.Fields, key, replace)
		s["type"] = []any{"object", "null"}
		return s
	case o.OneOf != nil && t.Kind() == reflect.Int:
		var values []any
		for _, v := range o.OneOf {
			n, _ := strconv.Atoi(v)
			values = append(values, n)
		}
		return or(map[string]any{"enum": values})
	case o.OneOf != nil:
		var values []any
		for _, v := range o.OneOf {
			values = append(values, v)
		}
		return or(map[string]any{"enum": values})
	case o.Secret:
		text := func(name string) map[string]any {
			return map[string]any{"type": "object", "properties": map[string]any{name: map[string]any{"type": "string"}}, "required": []any{name}, "additionalProperties": false}
		}
		return map[string]any{"anyOf": []any{map[string]any{"type": "string"}, text("file"), text("credential")}}
	case t == durationType:
		return or(map[string]any{"anyOf": []any{map[string]any{"type": "string", "pattern": `^([0-9.]+d)?([0-9.]+(h|m|s|ms|us|µs|ns))*$`}, map[string]any{"const": 0}}})
	case t == sizeType:
		return or(map[string]any{"anyOf": []any{map[string]any{"type": "string", "pattern": `^[0-9.]+ ?([KMGT]iB|[kKMGT]B|B)$`}, map[string]any{"const": 0}}})
	case t.Kind() == reflect.Bool:
		return or(map[string]any{"type": "boolean"})
	case t.Kind() == reflect.Int:
		return or(o.number("integer"))
	case t.Kind() == reflect.Float64:
		return or(o.number("number"))
	case o.Format == formatAddress:
		return map[string]any{"type": []any{"string", "null"}, "pattern": o.addressPattern()}
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.String:
		return map[string]any{"anyOf": []any{map[string]any{"type": "string"}, map[string]any{"type": "array", "items": map[string]any{"type": "string"}}}}
	case t.Kind() == reflect.Slice:
		return map[string]any{"type": []any{"array", "null"}}
	case t.Kind() == reflect.Map:
		return map[string]any{"type": []any{"object", "null"}}
	}
	return map[string]any{"type": []any{"string", "null"}}
}

// number is the schema of a number within its bounds.
func (o *Option) number(kind string) map[string]any {
	s := map[string]any{"type": kind}
	for keyword, bound := range map[string]string{"minimum": o.Min, "maximum": o.Max} {
		if bound != "" {
			s[keyword] = json.Number(bound)
		}
	}
	return s
}

// addressPattern is that of what is listened on.
func (o *Option) addressPattern() string {
	pattern := `:[0-9]{1,5}$|\$\{`
	if o.Off != "" {
		pattern += "|^" + o.Off + "$"
	}
	if o.Default == "" {
		pattern += "|^$"
	}
	return pattern
}

// jsonDefault is the default as JSON has it.
func (o *Option) jsonDefault() any {
	v := reflect.New(o.kind).Elem()
	if o.kind.Kind() == reflect.Pointer || o.kind == durationType || o.kind == sizeType || setText(v, o.Default) != nil {
		return o.Default
	}
	return v.Interface()
}

// JSON writes a schema.
func JSON(schema map[string]any) []byte {
	text, err := json.MarshalIndent(schema, "", "  ")
	if err != nil {
		panic(err) // maps, texts and numbers
	}
	return append(text, '\n')
}
