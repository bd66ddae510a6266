package config

import (
	"fmt"
	"reflect"
	"slices"
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
	secrets  bool  // there are some below Fields
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
	o.secrets = slices.ContainsFunc(o.Fields, func(f Option) bool { return f.Secret || f.secrets })
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
