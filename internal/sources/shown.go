package sources

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"event2mqtt/internal/config"
	"event2mqtt/internal/device"
	"event2mqtt/internal/event"
	"event2mqtt/internal/homeassistant/schema"
)

// This file makes a device of a source that knows nothing of what it watches:
// people say what its events tell.

// Shown are the options of a source that may be shown as a device. Embed and
// squash them.
type Shown struct {
	Device   bool           `koanf:"device" default:"false" doc:"Whether the source is shown as a device, such as in Home Assistant, with its last event."`
	DeviceID string         `koanf:"device_id" example:"washer-1" doc:"An identifier of the device that stays when the source is renamed, so that Home Assistant keeps the device with its history; left out, the source's name."`
	Entities []EntityConfig `koanf:"entities" doc:"Values in the payloads of events that are kept as states and shown with the device; with any, the source is shown as one."`
}

// EntityConfig is one such value.
type EntityConfig struct {
	Name   string   `koanf:"name" example:"Door" doc:"The name of the value for people, from which the key of its state is made."`
	Key    string   `koanf:"key" example:"temperature" doc:"The key of the state, in small letters, digits and _; left out, it is made of the name, and stays for as long as that does."`
	Kind   string   `koanf:"kind" oneof:"text,number,binary,timestamp" doc:"What the value is: text, number, binary for one of two states, or timestamp; left out, text."`
	From   string   `koanf:"from" required:"it is where the value is found" example:"payload.open" doc:"Where the value is found in the payload; a path such as payload.door.open leads inside. Events that do not have it change nothing."`
	Events []string `koanf:"events" example:"[DoorChanged]" doc:"The names of the events that the value is taken from; left out, all."`
	Unit   string   `koanf:"unit" example:"°C" doc:"The unit of a number, as Home Assistant writes it; some classes allow only certain units."`
	Class  string   `koanf:"class" example:"door" doc:"What is measured, as a device class of Home Assistant such as temperature, or door for a binary value."`
	Adds   string   `koanf:"state_class" oneof:"measurement,total,total_increasing,none" doc:"How a number adds up, for Home Assistant's statistics: measurement, total, which may also fall, total_increasing, which is a meter that may begin again at 0, or none; left out, total_increasing for the classes energy, gas and water, none for monetary and volume, and measurement for all others."`
	On     string   `koanf:"on" doc:"The value that means on, for kind binary; left out, what usually does, such as true, on, yes and 1, or all but off."`
	Off    string   `koanf:"off" doc:"The value that means off, for kind binary; left out, what usually does, or all but on."`
}

// Bounds of what is shown.
const (
	maxShown     = 100
	maxShownText = 1 << 10 // bytes of a value
	// keyLast is the state with the newest event.
	keyLast = "last_event"
)

// key is that of the state.
func (e *EntityConfig) key() string {
	if e.Key != "" {
		return e.Key
	}
	key, _ := device.Slug(e.Name)
	return strings.TrimRight(key[:min(len(key), device.MaxKey)], "_")
}

// unit is that of the number. Keyboards have two signs for millionths.
func (e *EntityConfig) unit() string { return strings.ReplaceAll(e.Unit, "\u03bc", "\u00b5") }

// path is where the value is found.
func (e *EntityConfig) path() string { return strings.TrimPrefix(e.From, "payload.") }

func (e *EntityConfig) kind() device.Kind {
	if e.Kind == "" { // in a list there are no defaults
		return device.Text
	}
	return device.Kind(e.Kind)
}

// CheckShown tells what is wrong with the options, as KeyErrors.
func (s *Shown) CheckShown() error {
	var errs config.Errors
	if n := len(s.Entities); n > maxShown {
		errs.Bad("entities", "there are %d; at most %d are allowed", n, maxShown)
		return errs.Err()
	}
	if s.DeviceID != "" && (len(s.DeviceID) > device.MaxKey || strings.Trim(s.DeviceID, idLetters) != "") {
		errs.Bad("device_id", "%q cannot be an identifier; letters, digits, _ and - are allowed, %d at most", s.DeviceID, device.MaxKey)
	}
	if s.DeviceID != "" && !s.shown() {
		errs.Relation("device_id", "device", "is for a source that is shown as a device; write device: true, or entities")
	}
	unknown, keys := false, map[string]string{keyLast: "Last event"}
	for i := range s.Entities {
		e := &s.Entities[i]
		at := func(key string) string { return fmt.Sprintf("entities[%d].%s", i, key) }
		e.checkKey(&errs, at, keys)
		keys[e.key()] = e.Name
		if !slices.Contains(kinds, e.kind()) { // which is said elsewhere
			unknown = true
			continue
		}
		e.checkValue(&errs, at)
		e.checkClass(&errs, at)
	}
	if d, _ := s.ThingOf("x", nil); errs.Err() == nil && !unknown {
		if err := d.Check(); err != nil {
			errs.Bad("entities", "%w", err)
		}
	}
	return errs.Err()
}

// kinds are those of EntityConfig.
var kinds = []device.Kind{device.Text, device.Number, device.Binary, device.Timestamp}

// Letters of which keys and identifiers are made.
const (
	keyLetters = "abcdefghijklmnopqrstuvwxyz0123456789_"
	idLetters  = keyLetters + "-ABCDEFGHIJKLMNOPQRSTUVWXYZ"
)

// checkKey checks the key of the state, beside those of the entities before.
func (e *EntityConfig) checkKey(errs *config.Errors, at func(string) string, taken map[string]string) {
	key, option, other := e.key(), "name", "choose another name, or write a key"
	if e.Key != "" {
		option, other = "key", "choose another"
	}
	switch before, is := taken[key]; {
	case e.Key != "" && (len(e.Key) > device.MaxKey || strings.Trim(e.Key, keyLetters) != "" || strings.Trim(e.Key, "_") == ""):
		errs.Bad(at("key"), "%q cannot be a key; small letters, digits and _ are allowed, %d at most", e.Key, device.MaxKey)
	case e.Name == "":
		errs.Bad(at("name"), "is needed: what people call the value; write for example Door")
	case key == "":
		errs.Bad(at("name"), "%q has no letters of which the key of its state can be made; add one, such as key: temperature", e.Name)
	case event.CheckStateKey(key) != nil:
		errs.Bad(at(option), "%q makes the key %s, which is the program's own; %s", cmp.Or(e.Key, e.Name), key, other)
	case is:
		errs.Bad(at(option), "%q has the key %s, as has %q; %s", cmp.Or(e.Key, e.Name), key, before, other)
	}
}

// checkValue checks where the value is found, and what is only for some kinds.
func (e *EntityConfig) checkValue(errs *config.Errors, at func(string) string) {
	if err := event.CheckPath(e.path()); err != nil && e.From != "" { // that it is needed is said elsewhere
		errs.Bad(at("from"), "%q is no path of the payload; write for example payload.open", e.From)
	}
	if e.Unit != "" && e.kind() != device.Number {
		errs.Relation(at("unit"), at("kind"), "is for kind: number")
	}
	if e.Adds != "" && e.kind() != device.Number {
		errs.Relation(at("state_class"), at("kind"), "is for kind: number")
	}
	if (e.On != "" || e.Off != "") && e.kind() != device.Binary {
		errs.Relation(at("on"), at("kind"), "on and off are for kind: binary")
	}
	if e.On != "" && e.On == e.Off {
		errs.Relation(at("off"), at("on"), "on and off are both %q", e.On)
	}
}

// checkClass checks what is measured, which Home Assistant would otherwise drop,
// or warn of.
func (e *EntityConfig) checkClass(errs *config.Errors, at func(string) string) {
	classes, units := schema.SensorClasses(), schema.Units(e.Class)
	if e.kind() == device.Binary {
		classes = schema.BinaryClasses()
	}
	switch {
	case e.Class == "":
	case e.kind() != device.Number && e.kind() != device.Binary:
		errs.Relation(at("class"), at("kind"), "is for kind: number or kind: binary")
		return
	case !slices.Contains(classes, e.Class):
		text := "there are " + strings.Join(classes, ", ")
		if near := config.Near(e.Class, classes...); near != "" {
			text = "did you mean " + near + "?"
		}
		errs.Bad(at("class"), "%q is no class of kind: %s; %s", e.Class, e.kind(), text)
		return
	case e.kind() == device.Number && !schema.Sensor(e.Class, e.unit()):
		text := "write " + strings.Join(slices.DeleteFunc(units, func(unit string) bool { return unit == "" }), ", or ")
		if text == "write " {
			text = "leave it out"
		}
		if e.Unit == "" {
			errs.Relation(at("unit"), at("class"), "is needed with class: %s; %s", e.Class, text)
		} else {
			errs.Relation(at("unit"), at("class"), "%q is no unit of class: %s; %s", e.Unit, e.Class, text)
		}
	}
	all := schema.StateClasses(e.Class)
	if e.kind() == device.Number && slices.Contains(schema.StateClasses(""), e.Adds) && !slices.Contains(all, e.Adds) {
		errs.Relation(at("state_class"), at("class"), "%q is not for class: %s; write %s", e.Adds, e.Class, strings.Join(append(all, "none"), ", or "))
	}
}

// shown reports whether the source is shown as a device.
func (s *Shown) shown() bool { return s.Device || len(s.Entities) > 0 }

// WarnBeside tells that another source, which has the name given, is taken for
// the same device.
func (s *Shown) WarnBeside(other Options, name string) error {
	if d, ok := other.(Describer); ok && s.DeviceID != "" {
		if thing, shown := d.Thing(); shown && cmp.Or(thing.ID, other.Base().Name) == s.DeviceID {
			return config.Errorf("device_id", "it is that of %s, too: both are taken for one device; choose another", name)
		}
	}
	return nil
}

// ThingOf is for Describer: a device with a name, and the names of events that
// the configuration has.
func (s *Shown) ThingOf(name string, listed []string) (device.Device, bool) {
	d := device.Device{ID: s.DeviceID, Name: name, Triggers: listed, Entities: []device.Entity{
		{Key: keyLast, Name: "Last event", State: keyLast, Value: "event", Kind: device.Text, Attributes: true},
	}}
	for i := range s.Entities {
		e := &s.Entities[i]
		d.Entities = append(d.Entities, device.Entity{Key: e.key(), Name: e.Name, State: e.key(), Kind: e.kind(), Unit: e.unit(), Class: e.Class, Statistics: e.Adds})
	}
	return d, s.shown()
}

// Mirrored implements Mirror.
func (s *Shown) Mirrored() (keys []string) {
	d, shown := s.ThingOf("", nil)
	if !shown {
		return nil
	}
	for _, e := range d.Entities {
		keys = append(keys, e.State)
	}
	return keys
}

// Mirror implements Mirror.
func (s *Shown) Mirror(e *event.Event) (states []event.State) {
	if e.Name == "" || !s.shown() {
		return nil
	}
	text, err := json.Marshal(struct {
		Event string `json:"event"`
		Time  string `json:"time"`
	}{e.Name, e.Time.UTC().Format(time.RFC3339)})
	if err == nil {
		states = append(states, event.State{Key: keyLast, Payload: text})
	}
	for i := range s.Entities {
		of := &s.Entities[i]
		if len(of.Events) > 0 && !slices.Contains(of.Events, e.Name) {
			continue
		}
		if found := event.Find(e.Payload, of.path()); found != nil {
			states = append(states, event.State{Key: of.key(), Payload: of.value(found)})
		}
	}
	return states
}

// value is the payload of a state: JSON, and null for what is not of the kind.
// A text is as it is.
func (e *EntityConfig) value(found []byte) []byte {
	unknown := []byte("null")
	text, scalar := event.Scalar(found)
	if !scalar {
		if e.kind() != device.Text || string(found) == "null" {
			return unknown
		}
		text = string(found)
	}
	switch e.kind() {
	case device.Number:
		if f, err := strconv.ParseFloat(strings.TrimSpace(text), 64); err == nil {
			if number, err := json.Marshal(f); err == nil { // it is finite
				return number
			}
		}
	case device.Binary:
		if on, known := e.isOn(text); known {
			return strconv.AppendBool(nil, on)
		}
	case device.Timestamp:
		if at, ok := event.ParseTime(text, time.Now()); ok {
			return []byte(strconv.Quote(at.UTC().Format(time.RFC3339)))
		}
	default:
		if text != "" {
			return []byte(strings.ToValidUTF8(text[:min(len(text), maxShownText)], ""))
		}
	}
	return unknown
}

// isOn reports which of the two states a value means.
func (e *EntityConfig) isOn(text string) (on, known bool) {
	switch {
	case e.On != "" && text == e.On:
		return true, true
	case e.Off != "" && text == e.Off:
		return false, true
	case e.On != "" && e.Off != "":
		return false, false
	case e.On != "" || e.Off != "":
		return e.On == "", true
	}
	switch strings.ToLower(text) {
	case "true", "on", "yes", "1", "open", "active":
		return true, true
	case "false", "off", "no", "0", "closed", "inactive":
		return false, true
	}
	return false, false
}
