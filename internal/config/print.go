package config

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Value is an option as it is in use.
type Value struct{ Key, Text, Origin string }

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
			out = append(out, Value{key, show(field), d.Origin(key)})
		}
	}
	return out
}

// EmptySecrets lists the keys of a struct's secrets below path that are written
// somewhere, and empty, such as by a variable.
func (d *Document) EmptySecrets(path string, options any) []string {
	v := reflect.ValueOf(options)
	for v.Kind() == reflect.Pointer {
		v = v.Elem()
	}
	return d.emptySecrets(nil, path, v, d.describe(options))
}

func (d *Document) emptySecrets(out []string, path string, v reflect.Value, options []Option) []string {
	for i := range options {
		switch o := &options[i]; {
		case o.Secret:
			if key := join(path, o.Name); v.FieldByIndex(o.index).IsZero() && d.Origin(key) != fromDefault {
				out = append(out, key)
			}
		case o.secrets && o.List:
			list := v.FieldByIndex(o.index)
			for i := range list.Len() {
				out = d.emptySecrets(out, fmt.Sprintf("%s[%d]", join(path, o.Name), i), list.Index(i), o.Fields)
			}
		case o.secrets:
			out = d.emptySecrets(out, join(path, o.Name), v.FieldByIndex(o.index), o.Fields)
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
		return DurationText(x)
	case Size:
		return x.String()
	}
	switch v.Kind() {
	case reflect.String:
		text := v.String()
		if strings.ContainsFunc(text, unicode.IsControl) {
			text = strconv.Quote(text) // as in YAML, between double quotes
		}
		return text
	case reflect.Slice:
		parts := make([]string, v.Len())
		for i := range parts {
			parts[i] = show(v.Index(i))
		}
		return "[" + strings.Join(parts, ", ") + "]"
	case reflect.Map:
		parts := make([]string, 0, v.Len())
		for key, value := range v.Seq2() {
			parts = append(parts, show(key)+": "+show(value))
		}
		slices.Sort(parts)
		return "{" + strings.Join(parts, ", ") + "}"
	}
	return fmt.Sprint(v.Interface())
}
