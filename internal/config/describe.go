package config

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// This file is what the tags of an options struct say of it:
//
//	koanf     the option's name
//	default   its value where none is configured
//	oneof     the values that there are, with commas between
//	min, max  the least and the highest value
//	off       a value beyond these that turns off what the option is for
//	required  why it must be configured
//	format    what a text must be: address, which is [HOST]:PORT
//	example   a value that could be configured
//	doc       what it is for
//
// Whether it is a secret is in its type. Values are written as in a file.

// SetDefaults gives the fields of a struct the values of their default tags.
// It panics where a tag does not fit its field: that is a bug, which every
// test finds.
func SetDefaults(options any) { setDefaults(reflect.ValueOf(options).Elem(), Describe(options)) }

func setDefaults(v reflect.Value, options []Option) {
	for i := range options {
		o := &options[i]
		field := v.FieldByIndex(o.index)
		switch {
		case o.Fields != nil && !o.List:
			setDefaults(field, o.Fields)
		case o.Default != "":
			if err := setText(field, o.Default); err != nil {
				panic(fmt.Sprintf("default of %s of %s: %v", o.Name, v.Type(), err))
			}
		}
	}
}

// setText sets a field to a value that is written as in a file.
func setText(field reflect.Value, text string) (err error) {
	var n int64
	switch field.Type() {
	case durationType:
		var d time.Duration
		d, err = ParseDuration(text)
		n = int64(d)
	case sizeType:
		var s Size
		s, err = ParseSize(text)
		n = int64(s)
	default:
		switch field.Kind() {
		case reflect.String:
			field.SetString(text)
			return nil
		case reflect.Bool:
			b, err := strconv.ParseBool(text)
			field.SetBool(b)
			return err
		case reflect.Float64:
			f, err := strconv.ParseFloat(text, 64)
			field.SetFloat(f)
			return err
		case reflect.Slice:
			field.Set(reflect.ValueOf(strings.Split(text, ",")))
			return nil
		}
		n, err = strconv.ParseInt(text, 10, 64)
	}
	if err == nil {
		field.SetInt(n)
	}
	return err
}

// Option describes an option.
type Option struct {
	Name     string
	Type     string // for people
	Default  string
	OneOf    []string
	Min, Max string
	Off      string
	Required string
	Format   string
	Example  string
	Doc      string
	Secret   bool
	List     bool     // several of Fields
	Fields   []Option // of a group
	kind     reflect.Type
	index    []int // of the field
}

// formatAddress is the Format of what is listened on.
const formatAddress = "address"

// Describe lists the options of a struct, in its order.
func Describe(options any) []Option {
	t := reflect.TypeOf(options)
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return describeStruct(t)
}

func describeStruct(t reflect.Type) (out []Option) {
	for f := range fields(t) {
		out = append(out, describeField(f))
	}
	return out
}

func describeField(f reflect.StructField) Option {
	name, _, _ := strings.Cut(f.Tag.Get("koanf"), ",")
	o := Option{
		Name: name, Default: f.Tag.Get("default"), Min: f.Tag.Get("min"), Max: f.Tag.Get("max"), Off: f.Tag.Get("off"), Required: f.Tag.Get("required"),
		Format: f.Tag.Get("format"), Example: f.Tag.Get("example"), Doc: f.Tag.Get("doc"), Secret: f.Type == secretType, kind: f.Type, index: f.Index,
	}
	if oneOf := f.Tag.Get("oneof"); oneOf != "" {
		o.OneOf = strings.Split(oneOf, ",")
	}
	switch t := f.Type; {
	case t.Kind() == reflect.Struct:
		o.Fields = describeStruct(t)
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct:
		o.Fields, o.List = describeStruct(t.Elem()), true
	}
	if o.Format == formatAddress && o.Default+o.Example == "" {
		panic(fmt.Sprintf("address %s: a default or an example tag is needed, for error messages", f.Name))
	}
	o.Type = typeName(&o)
	return o
}

func typeName(o *Option) string {
	t := o.kind
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case o.List, t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Interface:
		return "list"
	case o.Fields != nil || t.Kind() == reflect.Map:
		return "group"
	case o.OneOf != nil:
		return "one of"
	case o.Secret:
		return "secret"
	case t == durationType:
		return "duration"
	case t == sizeType:
		return "size"
	case o.Format != "":
		return o.Format
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() == reflect.Float64, t.Kind() == reflect.Int:
		return "number"
	case t.Kind() == reflect.Slice:
		return "texts"
	}
	return "text"
}

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

// bounds are those of an option, for people.
func (o *Option) bounds() string {
	bounds := o.Min + " to " + o.Max
	switch {
	case o.Min == "" && o.Max == "":
		return ""
	case o.Max == "":
		bounds = "from " + o.Min
	case o.Min == "":
		bounds = "up to " + o.Max
	}
	if o.Off != "" {
		bounds = o.Off + ", or " + bounds
	}
	return bounds
}

// jsonDefault is the default as JSON has it.
func (o *Option) jsonDefault() any {
	v := reflect.New(o.kind).Elem()
	if o.kind.Kind() == reflect.Pointer || o.kind == durationType || o.kind == sizeType || setText(v, o.Default) != nil {
		return o.Default
	}
	return v.Interface()
}

// Markdown writes the options below path as tables, one for each group.
func Markdown(path string, options []Option) string {
	var b strings.Builder
	markdown(&b, path, options)
	return b.String()
}

func markdown(b *strings.Builder, path string, options []Option) {
	title := "at the top"
	if path != "" {
		title = "`" + path + "`"
	}
	fmt.Fprintf(b, "| %s | | default | |\n| --- | --- | --- | --- |\n", title)
	for i := range options {
		o := &options[i]
		kind := o.Type
		if o.OneOf != nil {
			kind = strings.Join(o.OneOf, ", ")
		}
		if bounds := o.bounds(); bounds != "" {
			kind += ", " + bounds
		}
		if o.Required != "" {
			kind += ", needed"
		}
		value := ""
		if o.Default != "" {
			value = "`" + strings.ReplaceAll(o.Default, ",", ", ") + "`"
		}
		doc := o.Doc
		if o.Example != "" {
			doc += " Example: `" + o.Example + "`"
		}
		fmt.Fprintf(b, "| `%s` | %s | %s | %s |\n", o.Name, kind, value, strings.ReplaceAll(doc, "|", `\|`))
	}
	for i := range options {
		if o := &options[i]; len(o.Fields) > 0 {
			below := join(path, o.Name)
			if o.List {
				below += "[]"
			}
			fmt.Fprintln(b)
			markdown(b, below, o.Fields)
		}
	}
}

// JSON writes a schema.
func JSON(schema map[string]any) []byte {
	text, err := json.MarshalIndent(schema, "", "  ")
	if err != nil {
		panic(err) // maps, texts and numbers
	}
	return append(text, '\n')
}
