package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/knadh/koanf/providers/env/v2"
	"go.yaml.in/yaml/v3"
)

// This file lays the environment and the command line over the files.

// EnvPrefix begins the names of environment variables that set options:
// E2M_MQTT_URL sets mqtt.url.
const EnvPrefix = "E2M_"

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
