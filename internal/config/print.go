package config

import (
	"fmt"
	"reflect"
	"strings"
	"time"
)

// Value is an option as it is in use.
type Value struct {
	Key, Text, Origin string
	Secret            bool // and Text is masked, if it is not empty
}

// Values lists all options of a struct below path, in the order of its fields,
// with where each comes from. Secrets are masked.
func (d *Document) Values(path string, options any) []Value {
	v := reflect.ValueOf(options)
	for v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	return d.values(nil, path, v, d.describe(options))
}

// values appends the options that v has below path to out.
func (d *Document) values(out []Value, path string, v reflect.Value, options []Option) []Value {
	for i := range options {
		o := &options[i]
		key, field := join(path, o.Name), v.FieldByIndex(o.index)
		switch {
		case field.Kind() == reflect.Struct:
			out = d.values(out, key, field, o.Fields)
		case o.List && field.Len() > 0:
			for i := range field.Len() {
				out = d.values(out, fmt.Sprintf("%s[%d]", key, i), field.Index(i), o.Fields)
			}
		case field.Kind() == reflect.Interface || field.Kind() == reflect.Slice && field.Type().Elem().Kind() == reflect.Interface:
			// Of several types: whoever knows them lists them.
		default:
			out = append(out, Value{key, show(field), d.Origin(key), o.Secret})
		}
	}
	return out
}

// show writes a value as it would be written in a file.
func show(v reflect.Value) string {
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return "none"
		}
		v = v.Elem()
	}
	switch x := v.Interface().(type) {
	case Secret:
		return x.String()
	case time.Duration:
		return x.String()
	case Size:
		return x.String()
	}
	switch v.Kind() {
	case reflect.String:
		return v.String()
	case reflect.Slice:
		parts := make([]string, v.Len())
		for i := range parts {
			parts[i] = show(v.Index(i))
		}
		return "[" + strings.Join(parts, ", ") + "]"
	case reflect.Map:
		if v.Len() == 0 {
			return "{}"
		}
	}
	return fmt.Sprint(v.Interface())
}
