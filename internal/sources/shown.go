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
	Entities []EntityConfig `koanf:"entities" doc:"Values in the payloads of events that are kept as states and shown with the device; with any, the source is shown as one."`
}

// EntityConfig is one such value.
type EntityConfig struct {
	Name   string   `koanf:"name" example:"Door" doc:"The name of the value for people."`
	Key    string   `koanf:"key" example:"door" doc:"The key of the value's state, of a to z, digits and _; left out, the name spelled so."`
	Kind   string   `koanf:"kind" oneof:"text,number,binary,timestamp" doc:"What the value is: text, number, binary for one of two states, or timestamp; left out, text."`
	From   string   `koanf:"from" example:"payload.open" doc:"Where the value is found in the payload; a path such as payload.door.open leads inside. Events that do not have it change nothing."`
	Events []string `koanf:"events" example:"[DoorChanged]" doc:"The names of the events that the value is taken from; left out, all."`
	Unit   string   `koanf:"unit" example:"°C" doc:"The unit of a number."`
	Class  string   `koanf:"class" example:"door" doc:"What is measured, as a device class of Home Assistant such as temperature, or door for a binary value. Numbers of energy, gas and water are meters, which count up and may begin again at 0."`
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
	key := cmp.Or(e.Key, device.Slug(e.Name))
	return key[:min(len(key), device.MaxKey)]
}

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
	keys := map[string]string{keyLast: "Last event"}
	for i := range s.Entities {
		e := &s.Entities[i]
		at := func(key string) string { return fmt.Sprintf("entities[%d].%s", i, key) }
		key := e.key()
		other, taken := keys[key]
		switch {
		case e.Name == "":
			errs.Bad(at("name"), "is missing; write what people call the value, such as Door")
		case e.Key != "" && device.Slug(e.Key) != e.Key:
			errs.Bad(at("key"), "%q holds more than a to z, digits and _; write for example %s", e.Key, cmp.Or(device.Slug(e.Key), "door"))
		case key == "":
			errs.Bad(at("name"), "%q has no Latin letters and no digits, of which the key of its state could be made; set key beside it, such as key: door", e.Name)
		case event.CheckStateKey(key) != nil:
			errs.Bad(at("name"), "%q makes the key %s, which is the program's own; set key beside it", e.Name, key)
		case taken:
			errs.Bad(at("name"), "%q has the key %s, as has %q; set key beside it", e.Name, key, other)
		}
		keys[key] = e.Name
		if e.From == "" {
			errs.Bad(at("from"), "is missing; write where the value is in the payload, such as payload.open")
		} else if err := event.CheckPath(e.path()); err != nil {
			errs.Bad(at("from"), "%q is no path of the payload; write for example payload.open", e.From)
		}
		e.checkClass(&errs, at)
		if e.Unit != "" && e.kind() != device.Number {
			errs.Relation(at("unit"), at("kind"), "is for kind: number")
		}
		if (e.On != "" || e.Off != "") && e.kind() != device.Binary {
			errs.Relation(at("on"), at("kind"), "on and off are for kind: binary")
		}
		if e.On != "" && e.On == e.Off {
			errs.Relation(at("off"), at("on"), "on and off are both %q", e.On)
		}
	}
	if d, _ := s.ThingOf("x", nil); errs.Err() == nil {
		if err := d.Check(); err != nil {
			errs.Bad("entities", "%w", err)
		}
	}
	return errs.Err()
}

// checkClass tells what Home Assistant would not take for a class.
func (e *EntityConfig) checkClass(errs *config.Errors, at func(key string) string) {
	known := schema.Numbers()
	switch {
	case e.Class == "":
		return
	case e.kind() == device.Binary:
		known = schema.Binaries()
	case e.kind() != device.Number:
		errs.Relation(at("class"), at("kind"), "is for kind: number and kind: binary")
		return
	}
	if !slices.Contains(known, e.Class) {
		text := fmt.Sprintf("there is no class %q for kind: %s; ", e.Class, e.kind())
		if near := config.Near(e.Class, known...); near != "" {
			text += "did you mean " + near + "?"
		} else {
			text += "there are " + strings.Join(known, ", ")
		}
		errs.Bad(at("class"), "%s", text)
		return
	}
	units := schema.Units(e.Class)
	if e.kind() == device.Binary || units == nil || slices.Contains(units, e.Unit) {
		return
	}
	switch {
	case slices.Equal(units, []string{""}):
		errs.Relation(at("unit"), at("class"), "%s has no unit; leave it out", e.Class)
	case e.Unit == "":
		errs.Relation(at("unit"), at("class"), "is missing; %s has one of %s", e.Class, strings.Join(units, ", "))
	default:
		errs.Relation(at("unit"), at("class"), "%q is no unit of %s; write one of %s", e.Unit, e.Class, strings.Join(units, ", "))
	}
}

// ThingOf is for Describer: a device with a name, and the names of events that
// the configuration has.
func (s *Shown) ThingOf(name string, listed []string) (device.Device, bool) {
	d := device.Device{Name: name, Triggers: listed, Entities: []device.Entity{
		{Key: keyLast, Name: "Last event", State: keyLast, Value: "event", Kind: device.Text, Attributes: true},
	}}
	for i := range s.Entities {
		e := &s.Entities[i]
		d.Entities = append(d.Entities, device.Entity{Key: e.key(), Name: e.Name, State: e.key(), Kind: e.kind(), Unit: e.Unit, Class: e.Class})
	}
	return d, s.Device || len(s.Entities) > 0
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
	if e.Name == "" || !s.Device && len(s.Entities) == 0 {
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
