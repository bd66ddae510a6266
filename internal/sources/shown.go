package sources

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"event2mqtt/internal/config"
	"event2mqtt/internal/device"
	"event2mqtt/internal/event"
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
	Name   string   `koanf:"name" example:"Door" doc:"The name of the value for people, from which the key of its state is made."`
	Kind   string   `koanf:"kind" oneof:"text,number,binary,timestamp" doc:"What the value is: text, number, binary for one of two states, or timestamp; left out, text."`
	From   string   `koanf:"from" example:"payload.open" doc:"Where the value is found in the payload; a path such as payload.door.open leads inside. Events that do not have it change nothing."`
	Events []string `koanf:"events" example:"[DoorChanged]" doc:"The names of the events that the value is taken from; left out, all."`
	Unit   string   `koanf:"unit" example:"°C" doc:"The unit of a number."`
	Class  string   `koanf:"class" example:"door" doc:"What is measured, as a device class of Home Assistant such as temperature, or door for a binary value."`
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
	key := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return '_'
	}, e.Name)
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
		case strings.Trim(key, "_") == "":
			errs.Bad(at("name"), "%q has no letters a to z and no digits, of which the key of its state is made", e.Name)
		case event.CheckStateKey(key) != nil:
			errs.Bad(at("name"), "%q makes the key %s, which is the program's own; choose another name", e.Name, key)
		case taken:
			errs.Bad(at("name"), "%q has the key %s, as has %q; choose another name", e.Name, key, other)
		}
		keys[key] = e.Name
		if err := event.CheckPath(e.path()); err != nil || e.From == "" {
			errs.Bad(at("from"), "%q is no path of the payload; write for example payload.open", e.From)
		}
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
