// Package config loads configuration: defaults, then a YAML file, then the
// environment. It is strict, and its errors name the file, the line, the key,
// what was found and what is allowed, all of them in one go. It knows no
// component's options; those are structs with koanf tags that live with the
// component.
package config

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/v2"
	"go.yaml.in/yaml/v3"
)

// EnvPrefix begins the names of environment variables that set options:
// E2M_MQTT_URL sets mqtt.url.
const EnvPrefix = "E2M_"

// maxFile bounds the file; nobody writes more by hand.
const maxFile = 4 << 20

// delimiter joins key paths inside koanf; no YAML key that is allowed holds it.
const delimiter = "\x1f"

// Problem is one thing that is wrong with a configuration.
type Problem struct {
	// Where is the file and line, or the environment variable.
	Where string
	// Key is the path of the option, such as mqtt.tls.ca or sources[0].type.
	Key string
	// Text says what was found and what is allowed.
	Text string

	line int
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

// Sort orders problems by line.
func (p Problems) Sort() {
	slices.SortStableFunc(p, func(a, b Problem) int { return a.line - b.line })
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
	Key string // relative to the component
	Err error
}

func (e *KeyError) Error() string { return e.Key + ": " + e.Err.Error() }
func (e *KeyError) Unwrap() error { return e.Err }

// Errorf returns a KeyError.
func Errorf(key, format string, args ...any) error {
	return &KeyError{key, fmt.Errorf(format, args...)}
}

// Document is a configuration as it was written, not yet decoded.
type Document struct {
	k     *koanf.Koanf
	file  string
	lines map[string]int // by key path
	envs  map[string]string
	sum   Sum
}

// Sum is that of the file's content.
func (d *Document) Sum() Sum { return d.sum }

// Load reads file, if it is not empty, and those of the variables in environ
// that begin with EnvPrefix. schema is a pointer to the struct that the whole
// will be decoded into; it tells which variables there can be.
func Load(file string, environ []string, schema any) (*Document, error) {
	d := &Document{k: koanf.New(delimiter), file: file, lines: map[string]int{}, envs: map[string]string{}}
	if file != "" {
		if err := d.loadFile(); err != nil {
			return nil, err
		}
	}
	return d, d.loadEnv(environ, reflect.TypeOf(schema).Elem())
}

func (d *Document) loadFile() error {
	info, err := os.Stat(d.file)
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	if info.Size() > maxFile {
		return Problems{{Where: d.file, Text: fmt.Sprintf("the file has %d bytes; at most %d are allowed", info.Size(), maxFile)}}
	}
	text, err := os.ReadFile(d.file)
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	d.sum = sha256.Sum256(text)
	if len(text) == 0 {
		return Problems{{Where: d.file, Text: "the file is empty; a file with nothing but a comment means the defaults"}}
	}
	var root yaml.Node
	if err := yaml.Unmarshal(text, &root); err != nil {
		return d.syntaxProblems(err)
	}
	if len(root.Content) == 0 {
		return nil // nothing but comments
	}
	if root.Content[0].Kind != yaml.MappingNode {
		return Problems{{Where: fmt.Sprintf("%s:%d", d.file, root.Content[0].Line), Text: "the file must hold options such as \"mqtt:\" at its top level"}}
	}
	d.index("", root.Content[0])
	values := map[string]any{}
	if err := root.Content[0].Decode(&values); err != nil { // such as a key that is there twice
		return d.syntaxProblems(err)
	}
	return d.k.Load(tree(values), nil)
}

// tree is a provider of what was parsed already.
type tree map[string]any

func (t tree) Read() (map[string]any, error) { return t, nil }
func (t tree) ReadBytes() ([]byte, error)    { return nil, errors.ErrUnsupported }

var yamlLine = regexp.MustCompile(`^(?:yaml: )?line (\d+): (.*)$`)

// syntaxProblems makes problems of the YAML parser's error, which may name
// several lines.
func (d *Document) syntaxProblems(err error) (all Problems) {
	for text := range strings.SplitSeq(err.Error(), "\n") {
		if m := yamlLine.FindStringSubmatch(strings.TrimSpace(text)); m != nil {
			all = append(all, Problem{Where: d.file + ":" + m[1], Text: m[2]})
		}
	}
	if all == nil {
		all = Problems{{Where: d.file, Text: strings.TrimPrefix(err.Error(), "yaml: ")}}
	}
	return all
}

// index notes the line of every key.
func (d *Document) index(path string, n *yaml.Node) {
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := n.Content[i].Value
			if path != "" {
				key = path + "." + key
			}
			d.lines[key] = n.Content[i].Line
			d.index(key, n.Content[i+1])
		}
	case yaml.SequenceNode:
		for i, item := range n.Content {
			key := fmt.Sprintf("%s[%d]", path, i)
			d.lines[key] = item.Line
			d.index(key, item)
		}
	case yaml.AliasNode:
		d.index(path, n.Alias)
	}
}

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
			d.envs[strings.Join(o.path, ".")] = name
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

// fields yields a struct type's options, embedded ones among them.
func fields(t reflect.Type) func(func(reflect.StructField) bool) {
	return func(yield func(reflect.StructField) bool) {
		for _, f := range reflect.VisibleFields(t) {
			if tag := f.Tag.Get("koanf"); tag != "" && tag != ",squash" && !yield(f) {
				return
			}
		}
	}
}

// Decode fills into, a pointer to a struct that holds the defaults, from the
// part of the document at path ("" is all of it). The error is Problems.
func (d *Document) Decode(path string, into any) error {
	return d.decode(path, d.k.Raw(), into)
}

// DecodeValue is Decode for a part that was already taken out of the document.
func (d *Document) DecodeValue(path string, value map[string]any, into any) error {
	return d.decode(path, value, into)
}

func (d *Document) decode(path string, value map[string]any, into any) error {
	var meta mapstructure.Metadata
	decoder, err := mapstructure.NewDecoder(&mapstructure.DecoderConfig{
		Result: into, Metadata: &meta, TagName: "koanf", Squash: true,
		DecodeHook: mapstructure.ComposeDecodeHookFunc(decodeText, oneIsAList),
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
	if len(problems) == 0 {
		return nil
	}
	return problems
}

// Problem places a text at a key.
func (d *Document) Problem(key, text string) Problem {
	p := Problem{Key: key, Text: text}
	if name, ok := d.envs[key]; ok {
		p.Where = "environment variable " + name
		return p
	}
	for k := key; k != ""; k = parent(k) {
		if line, ok := d.lines[k]; ok {
			p.Where, p.line = fmt.Sprintf("%s:%d", d.file, line), line
			return p
		}
	}
	p.Where = d.file
	return p
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
		return Problems{d.Problem(join(path, key.Key), key.Err.Error())}
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
		}
		switch {
		case strings.HasPrefix(text, "expected a map"):
			text = "a group of options is needed here"
		case strings.HasPrefix(text, "source data must be an array"):
			text = "a list is needed here, with a \"-\" before each item"
		}
		return Problems{d.Problem(join(path, e.Name()), text)}
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
			unit := map[reflect.Type]string{durationType: "s", sizeType: "KiB"}[to]
			return nil, fmt.Errorf("the number %d needs a unit, such as %d%s", n, n, unit)
		}
		return v, nil
	}
	if to == durationType {
		return ParseDuration(text)
	}
	return ParseSize(text)
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

// OneOf checks an option that has a fixed list of values.
func OneOf[T ~string](key string, value T, allowed ...T) error {
	if slices.Contains(allowed, value) {
		return nil
	}
	names := make([]string, len(allowed))
	for i, a := range allowed {
		names[i] = string(a)
	}
	return Errorf(key, "%s is not one of %s", strconv.Quote(string(value)), strings.Join(names, ", "))
}
