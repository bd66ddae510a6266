package config

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/go-viper/mapstructure/v2"
	"github.com/knadh/koanf/v2"
	"go.yaml.in/yaml/v3"

	"event2mqtt/internal/config/file"
)

// This file reads what was written: a file or a folder of files, with what it
// refers to.

// Document is a configuration as it was written, not yet decoded.
type Document struct {
	k      *koanf.Koanf
	path   string
	env    map[string]string // all variables
	places map[string]place  // by key path
	// origins are flags and variables that set an option, by key path.
	origins map[string]string
	// described holds the options of each struct that was decoded; there may
	// be hundreds of sources of one type.
	described map[reflect.Type][]Option
	hook      mapstructure.DecodeHookFunc
	sum       Sum
	// filled are options whose values come from others, by key path.
	filled   map[string]string
	items    int // of all files so far, at most
	expanded int // bytes of variables' values so far
	// Warnings are what is not wrong, and should be otherwise.
	Warnings []string
}

// describe is Describe, once for each type.
func (d *Document) describe(options any) []Option {
	t := reflect.TypeOf(options)
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if d.described[t] == nil {
		d.described[t] = Describe(options)
	}
	return d.described[t]
}

// place is where something stands in a file.
type place struct {
	file         string
	line, column int
}

func (p place) String() string { return fmt.Sprintf("%s:%d:%d", p.file, p.line, p.column) }

// Sum is that of the content of all files.
func (d *Document) Sum() Sum { return d.sum }

// Load reads path, a file or a folder, if it is not empty, those of the
// variables in environ that begin with EnvPrefix, and settings KEY=VALUE. schema
// is a pointer to the struct that the whole will be decoded into; it tells
// which options there can be.
func Load(path string, environ []string, schema any, settings ...string) (*Document, error) {
	d := &Document{
		k: koanf.New(delimiter), path: path, places: map[string]place{}, origins: map[string]string{}, env: map[string]string{},
		described: map[reflect.Type][]Option{}, filled: map[string]string{},
	}
	d.hook = mapstructure.ComposeDecodeHookFunc(d.decodeSecret, decodeText, wholeNumber, oneIsAList)
	for _, variable := range environ {
		name, value, _ := strings.Cut(variable, "=")
		d.env[name] = value
	}
	if path != "" {
		if err := d.loadFiles(); err != nil {
			return nil, err
		}
	}
	t := reflect.TypeOf(schema).Elem()
	if err := d.loadEnv(environ, t); err != nil {
		return nil, err
	}
	return d, d.loadFlags(settings, t)
}

// files are those that a path stands for: itself, or what a folder holds, by
// name.
func files(path string) ([]string, error) {
	info, err := file.Stat(path)
	if err != nil || !info.IsDir() {
		return []string{path}, err
	}
	entries, err := file.List(path, maxFiles)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	var out []string
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); (ext == ".yaml" || ext == ".yml") && !strings.HasPrefix(e.Name(), ".") {
			out = append(out, filepath.Join(path, e.Name()))
		}
	}
	if out == nil {
		return nil, errNoFiles
	}
	return out, nil
}

// errNoFiles is for a folder that holds no configuration, which may be about to
// be filled.
var errNoFiles = fmt.Errorf("the folder has no *.yaml or *.yml: %w", fs.ErrNotExist)

// SumOf is the Sum of the content of a file or a folder.
func SumOf(path string) (sum Sum, err error) {
	names, err := files(path)
	if err != nil {
		return sum, err
	}
	h, total := sha256.New(), 0
	for _, name := range names {
		text, err := file.Read(name, maxFile)
		if err != nil {
			return sum, err
		}
		if total += len(text); total > maxTotal {
			return sum, fmt.Errorf("the files in %s have more than %d bytes together", path, maxTotal)
		}
		fmt.Fprintf(h, "%s %d\n%s", name, len(text), text)
	}
	return Sum(h.Sum(nil)), nil
}

func (d *Document) loadFiles() error {
	names, err := files(d.path)
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	if d.sum, err = SumOf(d.path); err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	values := map[string]any{}
	var problems Problems
	for _, name := range names {
		one, err := d.loadFile(name, values)
		if found, ok := errors.AsType[Problems](err); ok {
			problems = append(problems, found...)
		} else if err != nil {
			return err
		}
		merge(values, one)
	}
	if problems != nil {
		return problems
	}
	return d.k.Load(tree(values), nil)
}

// loadFile reads one file. before are the values of those before it.
func (d *Document) loadFile(name string, before map[string]any) (map[string]any, error) {
	text, err := file.Read(name, maxFile)
	switch {
	case err != nil:
		return nil, fmt.Errorf("read configuration: %w", err)
	case len(text) == 0:
		return nil, Problems{{Where: name, Text: "the file is empty; a file with nothing but a comment means the defaults"}}
	case !utf8.Valid(text):
		at := 1
		for line := range bytes.Lines(text) {
			if !utf8.Valid(line) {
				break
			}
			at++
		}
		return nil, Problems{{Where: fmt.Sprintf("%s:%d", name, at), Text: "the file is not UTF-8 text; save it as such"}}
	}
	if d.items += countItems(text); d.items > maxItems {
		return nil, Problems{{Where: name, Text: fmt.Sprintf("there are more than %d lines and items, which is all that is allowed", maxItems)}}
	}
	var root, more yaml.Node
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	if err := decoder.Decode(&root); err != nil && !errors.Is(err, io.EOF) {
		return nil, syntaxProblems(name, text, err)
	}
	if err := decoder.Decode(&more); err == nil {
		return nil, Problems{{Where: place{name, more.Line, more.Column}.String(), Text: "a second document begins here; put everything into one, without ---"}}
	}
	if len(root.Content) == 0 {
		return nil, nil // nothing but comments
	}
	top := root.Content[0]
	if top.Kind != yaml.MappingNode {
		return nil, Problems{{Where: place{name, top.Line, top.Column}.String(), Text: "the file must hold options such as \"mqtt:\" at its top level"}}
	}
	if text := checkExtent(top); text != "" {
		return nil, Problems{{Where: name, Text: text}}
	}
	problems := d.expand(name, top)
	values := map[string]any{}
	// Before anything that follows aliases: they may lead in a circle, or
	// multiply, which Decode knows how to refuse. Also a key that is there twice.
	if err := top.Decode(&values); err != nil {
		return nil, append(problems, syntaxProblems(name, text, err)...)
	}
	d.index(name, "", top, before)
	if problems != nil {
		return nil, problems
	}
	return values, nil
}

// merge lays the values of a later file over those of earlier ones: groups are
// merged, lists go on, and of a single value the later counts.
func merge(into, values map[string]any) {
	for key, value := range values {
		switch old := into[key].(type) {
		case map[string]any:
			if group, ok := value.(map[string]any); ok {
				merge(old, group)
				continue
			}
		case []any:
			if list, ok := value.([]any); ok {
				into[key] = append(old, list...)
				continue
			}
		}
		into[key] = value
	}
}

// tree is a provider of what was parsed already.
type tree map[string]any

func (t tree) Read() (map[string]any, error) { return t, nil }
func (t tree) ReadBytes() ([]byte, error)    { return nil, errors.ErrUnsupported }

var yamlLine = regexp.MustCompile(`^(?:yaml: )?line (\d+): (.*)$`)

var unknownAnchor = regexp.MustCompile(`unknown anchor '([^']*)' referenced`)

// syntaxProblems makes problems of the YAML parser's error, which may name
// several lines.
func syntaxProblems(file string, text []byte, err error) (all Problems) {
	if m := unknownAnchor.FindStringSubmatch(err.Error()); m != nil { // the parser tells no line
		before, _, _ := bytes.Cut(text, []byte("*"+m[1]))
		return Problems{{Where: fmt.Sprintf("%s:%d", file, 1+bytes.Count(before, []byte("\n"))), Text: "an alias (*NAME) stands here for an anchor (&NAME) that is not there before it; put a text that begins with * between quotes"}}
	}
	if problem, ok := tabProblem(file, text, err); ok {
		return Problems{problem}
	}
	for text := range strings.SplitSeq(err.Error(), "\n") {
		if m := yamlLine.FindStringSubmatch(strings.TrimSpace(text)); m != nil {
			all = append(all, Problem{Where: file + ":" + m[1], Text: m[2]})
		}
	}
	if all == nil {
		all = Problems{{Where: file, Text: strings.TrimPrefix(err.Error(), "yaml: ")}}
	}
	return all
}

// tabProblem makes a problem of the parser's error if a tab in a line's
// indentation caused it. The parser calls that a character that starts nothing
// or a tab, and names the line or the one before it, or none if it is the first.
func tabProblem(file string, text []byte, err error) (Problem, bool) {
	if !strings.Contains(err.Error(), "cannot start any token") && !strings.Contains(err.Error(), "tab character") {
		return Problem{}, false
	}
	first := 1
	if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
		first, _ = strconv.Atoi(m[1])
	}
	number := 0
	for line := range bytes.Lines(text) {
		if number++; number < first || number > first+1 {
			continue
		}
		indent := line[:len(line)-len(bytes.TrimLeft(line, " \t"))]
		if tab := bytes.IndexByte(indent, '\t'); tab >= 0 {
			return Problem{Where: place{file, number, tab + 1}.String(), Text: "a tab is in the indentation of this line; indent with spaces, not tabs"}, true
		}
	}
	return Problem{}, false
}

// index notes the place of every key. before are the values of earlier files:
// a list goes on where theirs ends.
func (d *Document) index(file, path string, n *yaml.Node, before any) {
	switch n.Kind {
	case yaml.MappingNode:
		group, _ := before.(map[string]any)
		for i := 0; i+1 < len(n.Content); i += 2 {
			name := n.Content[i].Value
			key := join(path, name)
			d.places[key] = place{file, n.Content[i].Line, n.Content[i].Column}
			d.index(file, key, n.Content[i+1], group[name])
		}
	case yaml.SequenceNode:
		list, _ := before.([]any)
		for i, item := range n.Content {
			key := fmt.Sprintf("%s[%d]", path, len(list)+i)
			d.places[key] = place{file, item.Line, item.Column}
			d.index(file, key, item, nil)
		}
	case yaml.AliasNode:
		if len(d.places) < maxKeys {
			d.index(file, path, n.Alias, nil)
		}
	}
}

var variable = regexp.MustCompile(`\$\$\{|\$\{([^{}]*)\}`)
var variableName = regexp.MustCompile(`^([A-Za-z_][A-Za-z0-9_]*)(:-(.*))?$`)

// octal looks like a number, and is read as another one.
var octal = regexp.MustCompile(`^[-+]?0[0-9_]+$`)

const quoted = yaml.SingleQuotedStyle | yaml.DoubleQuotedStyle | yaml.LiteralStyle | yaml.FoldedStyle

// expand puts the values of variables in place of ${NAME} and
// ${NAME:-default}; $${ stands for ${ itself. And it has plain texts mean what
// they look like: a key is a name as it is written, also 010 or on, and a date
// is a text.
func (d *Document) expand(name string, n *yaml.Node) (problems Problems) {
	for i, child := range n.Content {
		if len(problems) > maxProblems {
			return problems
		}
		problems = append(problems, d.expand(name, child)...)
		if n.Kind == yaml.MappingNode && i%2 == 0 && child.Kind == yaml.ScalarNode && child.Tag != "!!merge" && child.Style&yaml.TaggedStyle == 0 {
			child.Tag = "!!str"
		} else if octal.MatchString(child.Value) && child.Kind == yaml.ScalarNode && child.Style&(quoted|yaml.TaggedStyle) == 0 {
			at := place{name, child.Line, child.Column}
			problems = append(problems, Problem{Where: at.String(), at: at, Text: "a number that begins with 0 is octal in YAML; put it between quotes if it is a text, and leave out the 0 if it is a number"})
		}
	}
	if n.Kind != yaml.ScalarNode {
		return problems
	}
	if strings.Contains(n.Value, "${") {
		return append(problems, d.expandScalar(name, n)...)
	}
	if n.Tag == "!!timestamp" && n.Style&yaml.TaggedStyle == 0 {
		n.Tag = "!!str"
	}
	return problems
}

func (d *Document) expandScalar(name string, n *yaml.Node) (problems Problems) {
	at := place{name, n.Line, n.Column}
	bad := func(text string) { problems = append(problems, Problem{Where: at.String(), at: at, Text: text}) }
	n.Value = variable.ReplaceAllStringFunc(n.Value, func(found string) string {
		if found == "$${" {
			return "${"
		}
		if len(problems) > maxProblems {
			return found
		}
		m := variableName.FindStringSubmatch(found[2 : len(found)-1])
		if m == nil {
			bad("${...} holds no name of a variable here; write ${NAME} or ${NAME:-default}, and $${ for the text itself")
			return found
		}
		value, set := d.env[m[1]]
		switch {
		case m[2] != "" && value == "": // as shells do
			return m[3]
		case !set:
			text := fmt.Sprintf("the environment variable %s is not set; set it, or write ${%s:-default}", m[1], m[1])
			if near := Near(m[1], slices.Collect(maps.Keys(d.env))...); near != "" && len(near) > 3 && distance(m[1], near) <= 2 {
				text += "; did you mean " + near + "?"
			}
			bad(text)
		}
		if d.expanded += len(value); d.expanded > maxExpanded {
			if d.expanded-len(value) <= maxExpanded { // said once
				bad(fmt.Sprintf("the values of variables have more than %d bytes together", maxExpanded))
			}
			return ""
		}
		return value
	})
	if n.Style&quoted == 0 {
		n.Tag = "" // what it is shows now: a number, true or false, a text
	}
	return problems
}

var secretType = reflect.TypeFor[Secret]()

// decodeSecret reads what {file: PATH} and {credential: NAME} refer to, the
// latter in the folder that systemd's LoadCredential= makes.
func (d *Document) decodeSecret(from, to reflect.Type, v any) (any, error) {
	ref, ok := v.(map[string]any)
	if to != secretType || !ok {
		return v, nil
	}
	wrong := errors.New("a text is needed here, or {file: PATH}, or {credential: NAME}")
	if len(ref) != 1 {
		return nil, wrong
	}
	if path, ok := ref["file"].(string); ok {
		return d.readSecret(path, true)
	}
	name, ok := ref["credential"].(string)
	switch dir := d.env["CREDENTIALS_DIRECTORY"]; {
	case !ok:
		return nil, wrong
	case name == "" || name != filepath.Base(name) || name == "..":
		return nil, fmt.Errorf("%q is not the name of a credential", name)
	case dir == "":
		return nil, fmt.Errorf("the credential %q was not passed on: the service manager sets no $CREDENTIALS_DIRECTORY; write LoadCredential=%s:PATH into the unit", name, name)
	default:
		return d.readSecret(filepath.Join(dir, name), false)
	}
}

func (d *Document) readSecret(path string, private bool) (any, error) {
	info, err := file.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read the secret: %w", err)
	}
	text, err := file.Read(path, file.MaxSecret)
	if err != nil {
		return nil, fmt.Errorf("read the secret: %w", err)
	}
	if private {
		d.warnIfShared(path, info)
	}
	return strings.TrimRight(string(text), "\r\n"), nil
}

// WarnIfShared warns of a file with a secret that other users of this machine
// can read.
func (d *Document) WarnIfShared(path string) {
	if info, err := file.Stat(path); err == nil {
		d.warnIfShared(path, info)
	}
}

func (d *Document) warnIfShared(path string, info fs.FileInfo) {
	if info.Mode().Perm()&0o007 != 0 && info.Mode()&fs.ModeType == 0 {
		text := fmt.Sprintf("%s can be read by every user of this machine (mode %04o); chmod 600 it", path, info.Mode().Perm())
		if !slices.Contains(d.Warnings, text) {
			d.Warnings = append(d.Warnings, text)
		}
	}
}
