// Package config loads configuration: defaults, then a YAML file, then the
// environment. It is strict, and its errors name the file, the line, the key,
// what was found and what is allowed, all of them in one go. It knows no
// component's options; those are structs with koanf tags that live with the
// component.
package config

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
	"github.com/knadh/koanf/providers/env/v2"
	"go.yaml.in/yaml/v3"
)

// EnvPrefix begins the names of environment variables that set options:
// E2M_MQTT_URL sets mqtt.url.
const EnvPrefix = "E2M_"

// delimiter joins key paths inside koanf; no YAML key that is allowed holds it.
const delimiter = "\x1f"

// Problem is one thing that is wrong with a configuration.
type Problem struct {
	// Where is the file, line and column, or the environment variable.
	Where string
	// Key is the path of the option, such as mqtt.tls.ca or sources[0].type.
	Key string
	// Text says what was found and what is allowed.
	Text string

	at place
	// unread is that the value was of no use: what else is said of the option
	// is about its default. other is an option that the problem is about, too.
	unread bool
	other  string
}

func (p Problem) String() string {
	s := p.Text
	if p.Key != "" {
		s = p.Key + ": " + s
	}
	if p.Where != "" {
		s = p.Where + ": " + s
	}
	return s
}

// Problems is the error for a configuration that cannot be used.
type Problems []Problem

// Sort orders problems by their place, and drops those that say the same, and
// what nobody would read to the end.
// What follows from an option that could not be read is not told.
func (p *Problems) Sort() {
	slices.SortStableFunc(*p, func(a, b Problem) int {
		return cmp.Or(strings.Compare(a.at.file, b.at.file), a.at.line-b.at.line, a.at.column-b.at.column)
	})
	if n := len(*p); n > maxProblems {
		*p = append((*p)[:maxProblems:maxProblems], Problem{Text: fmt.Sprintf("and %d more like these", n-maxProblems)})
	}
	var unread []string
	for _, problem := range *p {
		if problem.unread {
			unread = append(unread, problem.Key)
		}
	}
	*p = slices.DeleteFunc(*p, func(a Problem) bool {
		return !a.unread && slices.ContainsFunc(unread, func(key string) bool { return follows(a.Key, key) || a.other != "" && follows(a.other, key) })
	})
	*p = slices.CompactFunc(*p, func(a, b Problem) bool { return a.String() == b.String() })
}

// follows reports whether a problem at key may be there only since the option
// unread was not read: which is key itself, or above it, or a part of it where
// key is a list or an item of one.
func follows(key, unread string) bool {
	return key == unread || parent(unread) == key && (strings.HasSuffix(key, "]") || strings.HasSuffix(unread, "]")) ||
		strings.HasPrefix(key, unread) && strings.IndexAny(key[len(unread):], ".[") == 0
}

func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, problem := range p {
		lines[i] = problem.String()
	}
	return strings.Join(lines, "\n")
}

// KeyError is how a component says which of its options is wrong.
type KeyError struct {
	Key   string // relative to the component
	Other string // with which Key does not go together; as a rule ""
	Err   error
}

func (e *KeyError) Error() string { return e.Key + ": " + e.Err.Error() }
func (e *KeyError) Unwrap() error { return e.Err }

// Errorf returns a KeyError.
func Errorf(key, format string, args ...any) error {
	return &KeyError{Key: key, Err: fmt.Errorf(format, args...)}
}

// Relation returns a KeyError for an option that does not go together with
// another.
func Relation(key, other, format string, args ...any) error {
	return &KeyError{key, other, fmt.Errorf(format, args...)}
}

// Errors gathers what a component finds wrong with its options.
type Errors []error

// Bad adds a KeyError.
func (e *Errors) Bad(key, format string, args ...any) { *e = append(*e, Errorf(key, format, args...)) }

// Relation adds a KeyError for two options that do not go together.
func (e *Errors) Relation(key, other, format string, args ...any) {
	*e = append(*e, Relation(key, other, format, args...))
}

// Add adds what another check found; nil is nothing.
func (e *Errors) Add(err error) {
	if err != nil {
		*e = append(*e, err)
	}
}

// Err returns all of them, or nil.
func (e Errors) Err() error { return errors.Join(e...) }

// loadEnv lays the variables over the file.
func (d *Document) loadEnv(environ []string, schema reflect.Type) error {
	known := map[string]option{}
	for _, o := range options(schema, nil) {
		known[EnvPrefix+strings.ToUpper(strings.Join(o.path, "_"))] = o
	}
	var problems Problems
	provider := env.Provider(delimiter, env.Opt{
		Prefix:      EnvPrefix,
		EnvironFunc: func() []string { return environ },
		TransformFunc: func(name, value string) (string, any) {
			o, ok := known[name]
			if !ok {
				text := "there is no such option"
				if near := nearest(name, known); near != "" {
					text += "; did you mean " + near + "?"
				}
				problems = append(problems, Problem{Where: "environment variable " + name, Text: text})
				return "", nil
			}
			d.origins[strings.Join(o.path, ".")] = "environment variable " + name
			return strings.Join(o.path, delimiter), o.parse(value)
		},
	})
	if err := d.k.Load(provider, nil); err != nil {
		return fmt.Errorf("read environment: %w", err)
	}
	if len(problems) > 0 {
		return problems
	}
	return nil
}

// loadFlags lays KEY=VALUE settings of the command line over everything else.
func (d *Document) loadFlags(settings []string, schema reflect.Type) error {
	known := map[string]option{}
	for _, o := range options(schema, nil) {
		known[strings.Join(o.path, ".")] = o
	}
	var problems Problems
	for _, setting := range settings {
		key, value, found := strings.Cut(setting, "=")
		o, exists := known[key]
		if !found || !exists {
			text := "there is no such option; write for example --set log.level=debug"
			if near := nearest(key, known); near != "" {
				text = "there is no such option; did you mean " + near + "?"
			}
			if exists {
				text = "a value is needed; write " + key + "=VALUE"
			}
			problems = append(problems, Problem{Where: "flag --set " + key, Text: text})
			continue
		}
		d.origins[key] = "flag --set " + key
		if err := d.k.Set(strings.Join(o.path, delimiter), o.parse(value)); err != nil {
			return fmt.Errorf("set %s: %w", key, err)
		}
	}
	if problems != nil {
		return problems
	}
	return nil
}

// option is a leaf of the schema.
type option struct {
	path []string
	kind reflect.Type
}

// parse reads an environment variable's value as YAML would, unless it is
// text that the option wants.
func (o option) parse(value string) any {
	switch o.kind.Kind() {
	case reflect.String, reflect.Int64: // also durations and sizes
		return value
	case reflect.Slice:
		if o.kind.Elem().Kind() == reflect.String {
			return strings.Split(value, ",")
		}
	}
	var v any
	if yaml.Unmarshal([]byte(value), &v) != nil {
		return value
	}
	return v
}

// options lists the leaves of a struct type.
func options(t reflect.Type, path []string) []option {
	var out []option
	for f := range fields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("koanf"), ",")
		p := append(slices.Clone(path), name)
		if f.Type.Kind() == reflect.Struct {
			out = append(out, options(f.Type, p)...)
		} else {
			out = append(out, option{p, f.Type})
		}
	}
	return out
}

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
	var meta mapstructure.Metadata
	decoder, err := mapstructure.NewDecoder(&mapstructure.DecoderConfig{
		Result: into, Metadata: &meta, TagName: "koanf", Squash: true,
		DecodeHook: mapstructure.ComposeDecodeHookFunc(d.decodeSecret, decodeText, wholeNumber, oneIsAList),
	})
	if err != nil {
		return err
	}
	var problems Problems
	if err := decoder.Decode(value); err != nil {
		problems = append(problems, d.typeProblems(path, err)...)
	}
	for _, key := range meta.Unused {
		text := "there is no such option"
		if near := nearest(last(key), siblings(reflect.TypeOf(into).Elem(), key)); near != "" {
			text += "; did you mean " + near + "?"
		}
		problems = append(problems, d.Problem(join(path, key), text))
	}
	for _, err := range checkGroup("", v, options) {
		problems = append(problems, d.Explain(path, err)...)
	}
	if len(problems) == 0 {
		return nil
	}
	return problems
}

// Problem places a text at a key.
func (d *Document) Problem(key, text string) Problem {
	p := Problem{Key: key, Text: text}
	if origin, ok := d.origins[key]; ok {
		p.Where = origin
		return p
	}
	for k := key; k != ""; k = parent(k) {
		if at, ok := d.places[k]; ok {
			p.Where, p.at = at.String(), at
			return p
		}
	}
	p.Where = d.path
	return p
}

// Origin tells where an option's value comes from: a flag, a variable, a place
// in a file, what Fill noted, or "default".
func (d *Document) Origin(key string) string {
	if origin, ok := d.origins[key]; ok {
		return origin
	}
	filled := d.filled[key]
	if at, ok := d.places[key]; ok {
		if filled != "" {
			return at.String() + " and " + filled
		}
		return at.String()
	}
	return cmp.Or(filled, "default")
}

// Fill calls fill, which sets options of a struct below path by what others say,
// and notes origin as where those that it changes come from. It does not see
// what fill changes inside a list or a map.
func (d *Document) Fill(path, origin string, options any, fill func()) {
	v := reflect.ValueOf(options).Elem()
	before := reflect.New(v.Type())
	before.Elem().Set(v)
	fill()
	if reflect.DeepEqual(before.Interface(), options) {
		return // which saves most of the time that 500 sources take
	}
	text := map[string]string{}
	for _, v := range d.Values(path, before.Interface()) {
		text[v.Key] = v.Text
	}
	for _, v := range d.Values(path, options) {
		if v.Text != text[v.Key] {
			d.filled[v.Key] = origin
		}
	}
}

// Explain turns a component's error into problems: each KeyError in it is
// placed below path.
func (d *Document) Explain(path string, err error) Problems {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var all Problems
		for _, e := range joined.Unwrap() {
			all = append(all, d.Explain(path, e)...)
		}
		return all
	}
	if problems, ok := errors.AsType[Problems](err); ok {
		return problems
	}
	if key, ok := errors.AsType[*KeyError](err); ok {
		p := d.Problem(join(path, key.Key), key.Err.Error())
		if key.Other != "" {
			p.other = join(path, key.Other)
		}
		return Problems{p}
	}
	return Problems{d.Problem(path, err.Error())}
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
			if to == sizeType {
				return nil, fmt.Errorf("the number %d needs a unit; as bytes it is %s", n, Size(n))
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

func join(path, key string) string {
	if path == "" || key == "" {
		return path + key
	}
	if strings.HasPrefix(key, "[") {
		return path + key
	}
	return path + "." + key
}

func parent(key string) string {
	return key[:max(0, strings.LastIndexAny(key, ".["))]
}

func last(key string) string { return key[strings.LastIndexByte(key, '.')+1:] }

// siblings are the options that a key may have been meant for.
func siblings(t reflect.Type, key string) map[string]option {
	path := strings.Split(key, ".")
	for _, name := range path[:len(path)-1] {
		name, _, _ = strings.Cut(name, "[")
		var next reflect.Type
		for f := range fields(t) {
			if f.Tag.Get("koanf") == name {
				next = f.Type
			}
		}
		for next != nil && next.Kind() == reflect.Slice {
			next = next.Elem()
		}
		if next == nil || next.Kind() != reflect.Struct {
			return nil
		}
		t = next
	}
	out := map[string]option{}
	for f := range fields(t) {
		out[f.Tag.Get("koanf")] = option{}
	}
	return out
}

// nearest returns the candidate that a mistyped name was most likely meant
// for, or "".
func nearest(name string, candidates map[string]option) string {
	const longest = 64 // bytes; no option has as many
	if len(name) > longest {
		return ""
	}
	best, bestDistance := "", len(name)/2+1
	for c := range candidates {
		if d := distance(name, c); d < bestDistance || d == bestDistance && best != "" && c < best {
			best, bestDistance = c, d
		}
	}
	return best
}

// distance is the number of letters to change, add or take away.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for i := range row {
		row[i] = i
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for k := 1; k <= len(b); k++ {
			cost := diagonal
			if a[i-1] != b[k-1] {
				cost++
			}
			diagonal = row[k]
			row[k] = min(cost, row[k]+1, row[k-1]+1)
		}
	}
	return row[len(b)]
}

// Near is nearest for any list of names.
func Near(name string, candidates ...string) string {
	set := map[string]option{}
	for _, c := range candidates {
		set[c] = option{}
	}
	return nearest(name, set)
}
