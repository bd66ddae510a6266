package bridge

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"event2mqtt/internal/commands"
	"event2mqtt/internal/config"
	"event2mqtt/internal/event"
	"event2mqtt/internal/sinks"
	"event2mqtt/internal/sinks/file"
	httpsink "event2mqtt/internal/sinks/http"
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
var sinkTypes = []sinks.Type{file.Type, httpsink.Type, mqtt.Type}

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
	// valueHinter does so for what is written as the values of its own keys.
	valueHinter interface {
		HintsOf(written map[string]any) map[string]string
	}
	// trier tells how people can send an event, if anybody can, over HTTP at
	// an address.
	trier interface{ Try(address string) string }
	// clasher tells, as a KeyError, that another of the list, which is named,
	// cannot run beside it, such as one that writes to the same file.
	clasher[O any] interface {
		Clash(other O, name string) error
	}
	// warner tells, as KeyErrors, what is allowed and may be otherwise than it is
	// meant, such as a folder that is not there yet.
	warner interface{ Warn() error }
	// neighbour tells, as a KeyError, what is allowed and most likely not meant of a
	// source beside another that is named, such as that both watch one thing.
	neighbour interface {
		WarnBeside(other sources.Options, name string) error
	}
	// writer tells which files a sink writes, and reader which a source reads.
	writer interface{ Writes() []string }
	reader interface{ Reads(path string) bool }
	// keeper tells whether a newer version wrote what a sink keeps in a state
	// folder, and changes nothing there.
	keeper interface{ CheckState(stateDir string) error }
	// differ names the options in which a sink differs from what it was, by their
	// whole keys.
	differ interface {
		Changed(before sinks.Options) []string
	}
	// opener reports whether the source takes events from whoever reaches it.
	opener interface{ Open() bool }
)

// kinds are what a list of the configuration can hold.
type kinds[O options] struct {
	what  string // such as source
	name  func(O) string
	names []string
	make  map[string]func() O
	// settle tells options what others say that matters to them, before Check;
	// nil is nothing.
	settle func(doc *config.Document, path string, written map[string]any, o O)
}

// options are those of any source or sink.
type options interface{ Check() error }

// decodeAll reads a list, and notes what is wrong with it.
func decodeAll[O options](doc *config.Document, key string, items []any, k kinds[O], note func(path string, err error), checkName func(string) error) (all []O) {
	note("", atMost(key, len(items), maxParts))
	names, places := map[string]int{}, []string{}
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
		note(path, config.CheckName(name))
		note(path, checkName(name))
		names[name] = i
		if c, ok := any(options).(clasher[O]); ok {
			for j, other := range all {
				if err := c.Clash(other, places[j]); err != nil {
					note(path, err)
					break // the others clash with that, too
				}
			}
		}
		all, places = append(all, options), append(places, path)
	}
	return all
}

// checkSourceName returns what refuses names whose topics would be those of
// others: whether the source's thing is there is published below {base}/NAME, its
// states where publish.state_topic says.
func (p *Plan) checkSourceName() func(name string) error {
	levels, topics := map[string]string{}, map[string]string{}
	states, _ := topic.ParseState(p.Publish.StateTopic, p.Publish.BaseTopic) // what is wrong with it is told of there
	return func(name string) error {
		if name == event.DiscoverySource {
			return config.Errorf("name", "%q is the program's own; choose another name", name)
		}
		level := topic.Safe(name)
		for _, taken := range event.OwnLevels {
			if strings.EqualFold(level, taken) { // publish.state_topic may change the case
				return config.Errorf("name", "%q is taken: topics below {base}/%s are the program's own; choose another name", name, taken)
			}
		}
		other, taken := levels[level]
		if taken && other != name && name != "" {
			return config.Errorf("name", "%q is %s in topics, as is %q; choose another name", name, level, other)
		}
		levels[level] = name
		at, err := states.Render(topic.Values{Source: name, Key: "key"})
		if err != nil {
			return nil
		}
		if other, taken = topics[at]; taken && other != name && name != "" {
			return config.Errorf("name", "%q has the topics of %q: publish.state_topic is %q, which gives both the same; choose another name, or another filter there", name, other, p.Publish.StateTopic)
		}
		topics[at] = name
		return nil
	}
}

func checkSinkName(name string) error {
	if name == mainSink {
		return config.Errorf("name", "%q is the sink of the section mqtt; choose another name", name)
	}
	return nil
}

// stateSource is the source of the program's own states.
const stateSource = event.OwnSource

// Types are the kinds of source and sink that a configuration may name. Those of
// the program are BuiltIn; tests bring some of their own.
type Types struct {
	Sources []sources.Type
	Sinks   []sinks.Type
}

// BuiltIn returns the types that the program has.
func BuiltIn() Types { return Types{slices.Clone(sourceTypes), slices.Clone(sinkTypes)} }

// names are those of all types.
func (t Types) names() []string {
	return append(sourceKinds(t.Sources).names, sinkKinds(t.Sinks).names...)
}

func sourceKinds(types []sources.Type) kinds[sources.Options] {
	k := kinds[sources.Options]{what: "source", name: func(o sources.Options) string { return o.Base().Name }, make: map[string]func() sources.Options{}}
	for _, t := range types {
		k.names, k.make[t.Name] = append(k.names, t.Name), t.Options
	}
	return k
}

func sinkKinds(types []sinks.Type) kinds[sinks.Options] {
	k := kinds[sinks.Options]{what: "sink", name: func(o sinks.Options) string { return o.Base().Name }, make: map[string]func() sinks.Options{}}
	for _, t := range types {
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
	hints := map[string]string{}
	if h, ok := any(options).(hinter); ok {
		maps.Copy(hints, h.Hints())
	}
	if h, ok := any(options).(valueHinter); ok {
		maps.Copy(hints, h.HintsOf(raw))
	}
	for key, hint := range hints {
		if raw[key] != nil {
			misplaced = append(misplaced, config.Errorf(key, "%s", hint))
			raw = maps.Clone(raw) // without what is told of already
			delete(raw, key)
		}
	}
	err = doc.DecodeValue(path, raw, options)
	if p, ok := any(options).(preparer); ok {
		doc.Fill(path, "preset", options, p.Prepare)
	}
	if k.settle != nil {
		k.settle(doc, path, raw, options)
	}
	if c, ok := any(options).(commanded); ok {
		misplaced = append(misplaced, commands.CheckNames(c.Allowed()))
	}
	return options, true, errors.Join(append(misplaced, err, options.Check())...)
}

// unknown is the error for a type that does not exist, or is missing.
func (k kinds[O]) unknown(kind string, missing bool) error {
	if missing {
		return config.Errorf("type", "is missing; write type: %s", strings.Join(k.names, ", or type: "))
	}
	verb := "are"
	if len(k.names) == 1 {
		verb = "is"
	}
	text := fmt.Sprintf("%q is not a type of %s; there %s %s", kind, k.what, verb, strings.Join(k.names, ", "))
	if near := config.Near(kind, k.names...); near != "" && kind != "" {
		text += fmt.Sprintf("; did you mean %s?", near)
	}
	return config.Errorf("type", "%s", text)
}

// settleSink tells a sink that is like the main one what that is.
func (p *Plan) settleSink(doc *config.Document, path string, written map[string]any, o sinks.Options) {
	if extra, ok := o.(*mqtt.Extra); ok {
		doc.Fill(path, "publish", extra, func() { extra.Settle(path, written, p.mainOptions()) })
		doc.Fill(path, "preset", extra, func() { extra.Lay(doc.IsSet) })
	}
}

// mainOptions are those of the sections mqtt and publish.
func (p *Plan) mainOptions() *mqtt.Options {
	return &mqtt.Options{
		Common: sinks.Common{Name: mainSink, Type: "mqtt", Required: true},
		Config: p.MQTT, Publish: p.Publish,
	}
}
