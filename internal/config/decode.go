package config

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
)

// This file fills structs with what a document says.

// fields yields a struct type's options, those of squashed structs among them.
// Options are told apart by their own names: a field of a squashed struct is
// one also where Go's field of the same name hides it.
func fields(t reflect.Type) func(func(reflect.StructField) bool) {
	return func(yield func(reflect.StructField) bool) {
		for i := range t.NumField() {
			f := t.Field(i)
			switch f.Tag.Get("koanf") {
			case "":
			case ",squash":
				for inner := range fields(f.Type) {
					inner.Index = append([]int{i}, inner.Index...)
					if !yield(inner) {
						return
					}
				}
			default:
				if !yield(f) {
					return
				}
			}
		}
	}
}

// Decode fills into, a pointer to a struct, with the defaults and what the
// document says. The error is Problems.
func (d *Document) Decode(into any) error { return d.DecodeValue("", d.k.Raw(), into) }

// DecodeValue is Decode for a value that was taken out of the document, where
// it stands at path.
func (d *Document) DecodeValue(path string, value map[string]any, into any) error {
	options, v := d.describe(into), reflect.ValueOf(into).Elem()
	setDefaults(v, options)
	problems := d.decodeGroup(path, value, v, options)
	for _, err := range checkGroup("", v, options) {
		problems = append(problems, d.Explain(path, err)...)
	}
	if len(problems) == 0 {
		return nil
	}
	return problems
}

// decodeGroup decodes what is written of a group, and nothing else: of the
// dozens of options that a source has, few are.
func (d *Document) decodeGroup(path string, group map[string]any, v reflect.Value, options []Option) (problems Problems) {
	for _, name := range slices.Sorted(maps.Keys(group)) {
		o, key := optionOf(options, name), join(path, name)
		if o == nil {
			text := "there is no such option"
			if near := nearest(name, named(options)); near != "" {
				text += "; did you mean " + near + "?"
				if meant := optionOf(options, near); meant.Required != "" && meant.Fields == nil && group[near] == nil {
					d.decodeLeaf(key, group[name], v.FieldByIndex(meant.index)) // so that it is not said to be missing, too
				}
			}
			problems = append(problems, d.Problem(key, text))
			continue
		}
		field := v.FieldByIndex(o.index)
		inner, isGroup := group[name].(map[string]any)
		items, isList := group[name].([]any)
		switch {
		case o.Fields != nil && !o.List && isGroup:
			problems = append(problems, d.decodeGroup(key, inner, field, o.Fields)...)
		case o.Fields != nil && o.List && isList:
			list := reflect.MakeSlice(field.Type(), len(items), len(items))
			for i, item := range items {
				at := fmt.Sprintf("%s[%d]", key, i)
				if inner, ok := item.(map[string]any); ok {
					problems = append(problems, d.decodeGroup(at, inner, list.Index(i), o.Fields)...)
				} else {
					problems = append(problems, d.decodeLeaf(at, item, list.Index(i))...)
				}
			}
			field.Set(list)
		default:
			problems = append(problems, d.decodeLeaf(key, group[name], field)...)
		}
	}
	return problems
}

// decodeLeaf decodes a value that is no group of options, or should be none.
func (d *Document) decodeLeaf(path string, value any, into reflect.Value) Problems {
	decoder, err := mapstructure.NewDecoder(&mapstructure.DecoderConfig{Result: into.Addr().Interface(), DecodeHook: d.hook})
	if err == nil {
		err = decoder.Decode(value)
	}
	if err != nil {
		return d.typeProblems(path, err)
	}
	return nil
}

// optionOf finds an option by its name, in whichever case that is written.
func optionOf(options []Option, name string) (found *Option) {
	for i := range options {
		if options[i].Name == name {
			return &options[i]
		}
		if strings.EqualFold(options[i].Name, name) {
			found = &options[i]
		}
	}
	return found
}

// typeProblems makes problems of mapstructure's error, which is a tree.
func (d *Document) typeProblems(path string, err error) (all Problems) {
	switch e := err.(type) {
	case interface{ Unwrap() []error }:
		for _, e := range e.Unwrap() {
			all = append(all, d.typeProblems(path, e)...)
		}
		return all
	case *mapstructure.DecodeError:
		cause := e.Unwrap()
		if _, deeper := errors.AsType[*mapstructure.DecodeError](cause); deeper {
			return d.typeProblems(path, cause)
		}
		text := cause.Error()
		if wrong, ok := errors.AsType[*mapstructure.UnconvertibleTypeError](cause); ok {
			text = fmt.Sprintf("%s is needed here, not %s", describe(wrong.Expected.Type()), found(wrong.Value))
			if wrong.Expected.Type() == secretType { // it may be the secret
				text = "a text is needed here, between quotes if it looks like something else; or {file: PATH}, or {credential: NAME}"
			}
		}
		switch {
		case strings.HasPrefix(text, "expected a map"):
			text = "a group of options is needed here"
		case strings.HasPrefix(text, "source data must be an array"):
			text = "a list is needed here, with a \"-\" before each item"
		}
		p := d.Problem(join(path, e.Name()), text)
		p.unread = true
		return Problems{p}
	}
	if inner := errors.Unwrap(err); inner != nil {
		return d.typeProblems(path, inner)
	}
	return Problems{d.Problem(path, err.Error())}
}

var (
	durationType = reflect.TypeFor[time.Duration]()
	sizeType     = reflect.TypeFor[Size]()
)

func describe(t reflect.Type) string {
	switch {
	case t == durationType:
		return "a duration such as 60s"
	case t == sizeType:
		return "a size such as 64KiB"
	}
	switch t.Kind() {
	case reflect.String:
		return "a text"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice:
		return "a list"
	case reflect.Map, reflect.Struct:
		return "a group of options"
	}
	return "a number"
}

func found(v any) string {
	switch v := v.(type) {
	case nil:
		return "nothing"
	case string:
		return fmt.Sprintf("the text %q", v)
	case bool, int, int64, uint64, float64:
		return fmt.Sprintf("the %s %v", map[bool]string{true: "value", false: "number"}[reflect.TypeOf(v).Kind() == reflect.Bool], v)
	case []any:
		return "a list"
	}
	return "a group of options"
}

// decodeText reads durations and sizes.
func decodeText(from, to reflect.Type, v any) (any, error) {
	if to != durationType && to != sizeType {
		return v, nil
	}
	text, ok := v.(string)
	if !ok {
		if n, isInt := v.(int); isInt && n != 0 {
			switch {
			case to == sizeType && n >= 1<<10: // it may well be bytes
				return nil, fmt.Errorf("the number %d needs a unit; as bytes it is %s", n, Size(n))
			case to == sizeType:
				return nil, fmt.Errorf("the number %d needs a unit, such as %dKiB or %dMiB", n, n, n)
			}
			return nil, fmt.Errorf("the number %d needs a unit, such as %ds", n, n)
		}
		return v, nil
	}
	if to == durationType {
		return ParseDuration(text)
	}
	return ParseSize(text)
}

// wholeNumber refuses what would lose its fraction, or does not fit.
func wholeNumber(_, to reflect.Type, v any) (any, error) {
	f, ok := v.(float64)
	if !ok || to.Kind() < reflect.Int || to.Kind() > reflect.Uint64 || f == math.Trunc(f) && math.Abs(f) < 1<<53 {
		return v, nil
	}
	return nil, fmt.Errorf("a whole number is needed here, not %v", f)
}

// oneIsAList lets a single text stand for a list of one.
func oneIsAList(from, to reflect.Type, v any) (any, error) {
	if from.Kind() == reflect.String && to.Kind() == reflect.Slice && to.Elem().Kind() == reflect.String {
		return []any{v}, nil
	}
	return v, nil
}
