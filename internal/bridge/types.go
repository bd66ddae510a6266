package bridge

import (
	"errors"
	"fmt"
	"maps"
	"strings"

	"event2mqtt/internal/config"
	"event2mqtt/internal/sinks"
	"event2mqtt/internal/sinks/mqtt"
	"event2mqtt/internal/sources"
	"event2mqtt/internal/sources/octoprint"
	"event2mqtt/internal/sources/tail"
	"event2mqtt/internal/sources/webhook"
	"event2mqtt/internal/topic"
)

// sourceTypes are the kinds of source that exist. A new one is one folder and
// one line here.
var sourceTypes = []sources.Type{webhook.Type, tail.Type, octoprint.Type}

// sinkTypes are the kinds of sink that can stand below sinks. A new one is one
// folder and one line here.
var sinkTypes = []sinks.Type{}

// mainSink is the name of the sink that the sections mqtt and publish describe,
// and of its cursor. It stays when that moves from one broker to another.
const mainSink = "mqtt"

// Options of a source may have these methods, too.
type (
	// preparer fills in what one option implies for others, such as a preset.
	// It is called before Check, so that check, --print and run see the same.
	preparer interface{ Prepare() }
	// hinter knows keys that belong elsewhere, and what to write instead.
	hinter interface{ Hints() map[string]string }
	// trier tells how people can send an event, if anybody can, over HTTP at
	// an address.
	trier interface{ Try(address string) string }
	// opener reports whether the source takes events from whoever reaches it.
	opener interface{ Open() bool }
)

// kinds are what a list of the configuration can hold.
type kinds[O options] struct {
	what  string // such as source
	name  func(O) string
	names []string
	make  map[string]func() O
}

// options are those of any source or sink.
type options interface{ Check() error }

// decodeAll reads a list, and notes what is wrong with it.
func decodeAll[O options](doc *config.Document, key string, items []any, k kinds[O], note func(path string, err error), checkName func(string) error) (all []O) {
	note("", atMost(key, len(items), maxParts))
	names := map[string]int{}
	for i, item := range items[:min(len(items), maxParts)] {
		path := fmt.Sprintf("%s[%d]", key, i)
		options, ok, err := k.decode(doc, path, item)
		note(path, err)
		if !ok {
			continue
		}
		name := k.name(options)
		if first, taken := names[name]; taken && name != "" {
			note(path, config.Errorf("name", "%q is the name of %s[%d] already", name, key, first))
		}
		note(path, checkName(name))
		names[name] = i
		all = append(all, options)
	}
	return all
}

// checkSourceName refuses names whose topics would be those of others: states
// are published below {base}/NAME.
func checkSourceName(name string) error {
	for _, taken := range []string{"event", mainSink, stateSource} {
		if topic.SafePath(name) == taken {
			return config.Errorf("name", "%q is taken: topics below {base}/%s are the program's own; choose another name", name, taken)
		}
	}
	return nil
}

func checkSinkName(name string) error {
	if name == mainSink {
		return config.Errorf("name", "%q is the sink of the section mqtt; choose another name", name)
	}
	return nil
}

// stateSource is the source of the program's own states.
const stateSource = "bridge"

func sourceKinds() kinds[sources.Options] {
	k := kinds[sources.Options]{what: "source", name: func(o sources.Options) string { return o.Base().Name }, make: map[string]func() sources.Options{}}
	for _, t := range sourceTypes {
		k.names, k.make[t.Name] = append(k.names, t.Name), t.Options
	}
	return k
}

func sinkKinds() kinds[sinks.Options] {
	k := kinds[sinks.Options]{what: "sink", name: func(o sinks.Options) string { return o.Base().Name }, make: map[string]func() sinks.Options{}}
	for _, t := range sinkTypes {
		k.names, k.make[t.Name] = append(k.names, t.Name), t.Options
	}
	return k
}

// decode reads one item of the list. It returns options also with an error, if
// it is known what kind they are.
func (k kinds[O]) decode(doc *config.Document, path string, item any) (options O, ok bool, err error) {
	raw, isGroup := item.(map[string]any)
	if !isGroup {
		return options, false, config.Errorf("", "a group of options is needed here")
	}
	kind, _ := raw["type"].(string)
	make, known := k.make[kind]
	if !known {
		return options, false, k.unknown(kind, raw["type"] == nil)
	}
	options = make()
	var misplaced []error
	if h, ok := any(options).(hinter); ok {
		for key, hint := range h.Hints() {
			if raw[key] != nil {
				misplaced = append(misplaced, config.Errorf(key, "%s", hint))
				raw = maps.Clone(raw) // without what is told of already
				delete(raw, key)
			}
		}
	}
	err = doc.DecodeValue(path, raw, options)
	if p, ok := any(options).(preparer); ok {
		doc.Fill(path, "preset", options, p.Prepare)
	}
	return options, true, errors.Join(append(misplaced, err, options.Check())...)
}

// unknown is the error for a type that does not exist, or is missing.
func (k kinds[O]) unknown(kind string, missing bool) error {
	if missing {
		return config.Errorf("type", "is missing; write type: %s", strings.Join(k.names, ", or type: "))
	}
	text := fmt.Sprintf("%q is not a type of %s; there are %s", kind, k.what, strings.Join(k.names, ", "))
	if near := config.Near(kind, k.names...); near != "" && kind != "" {
		text += fmt.Sprintf("; did you mean %s?", near)
	}
	return config.Errorf("type", "%s", text)
}

// mainOptions are those of the sections mqtt and publish.
func (p *Plan) mainOptions() *mqtt.Options {
	return &mqtt.Options{
		Common: sinks.Common{Name: mainSink, Type: "mqtt", Required: true},
		Config: p.MQTT, Publish: p.Publish,
	}
}
