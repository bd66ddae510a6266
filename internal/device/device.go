// Package device describes the thing that a source watches: a printer, with
// its temperatures, its events, and what it can be told to do. Home Assistant's
// discovery, the page and the API are drawn from it; it holds no word of theirs.
package device

import (
	"cmp"
	"slices"
)

// Device is one thing.
type Device struct {
	// ID stays the same for as long as it is the same thing. Empty is the
	// source's name.
	ID           string   `json:"id"`
	Name         string   `json:"name"` // for people
	Manufacturer string   `json:"manufacturer,omitempty"`
	Model        string   `json:"model,omitempty"`
	Version      string   `json:"version,omitempty"` // of its software
	URL          string   `json:"url,omitempty"`     // where people configure it
	Entities     []Entity `json:"entities,omitempty"`
	Events       []string `json:"events,omitempty"` // names that its events may have
	// Notable are those of Events that people care about; none means all.
	Notable []string `json:"notable,omitempty"`
	// Triggers are those of Events that people start automations with.
	Triggers []string  `json:"triggers,omitempty"`
	Commands []Command `json:"commands,omitempty"`
}

// Clone returns a copy that shares no memory with d.
func (d Device) Clone() Device {
	d.Entities = slices.Clone(d.Entities)
	for i := range d.Entities {
		d.Entities[i].Options = slices.Clone(d.Entities[i].Options)
	}
	d.Events, d.Commands = slices.Clone(d.Events), slices.Clone(d.Commands)
	d.Notable, d.Triggers = slices.Clone(d.Notable), slices.Clone(d.Triggers)
	return d
}

// Kind is what an entity's value is.
type Kind string

// Kinds of values.
const (
	Number    Kind = "number"
	Text      Kind = "text"
	Binary    Kind = "binary"    // one of the two values On and Off
	Enum      Kind = "enum"      // one of Options
	Timestamp Kind = "timestamp" // RFC 3339, or seconds since 1970
	Image     Kind = "image"     // the payload is the picture itself
)

// Entity is one value of a thing.
type Entity struct {
	// Key names the entity among those of the device, such as bed_target.
	Key  string `json:"key"`
	Name string `json:"name"` // for people
	// State is the key of the state that holds the value.
	State string `json:"state"`
	// Value is the path of the value in that state's payload, with dots; empty
	// is the whole payload.
	Value string `json:"value,omitempty"`
	Kind  Kind   `json:"kind"`
	// Unit is that of a number, such as °C, % or s.
	Unit string `json:"unit,omitempty"`
	// Class is what is measured, such as temperature or duration.
	Class string `json:"class,omitempty"`
	// Statistics says how a number adds up over time: measurement, total (it may
	// also fall), total_increasing (a meter, which may begin again at 0) or none;
	// empty is what is usual for its class.
	Statistics string `json:"statistics,omitempty"`
	// Options are the values of an Enum.
	Options []string `json:"options,omitempty"`
	// On and Off are the values of a Binary; empty are true and false.
	On  string `json:"on,omitempty"`
	Off string `json:"off,omitempty"`
	// Diagnostic is set for what is of use when something is wrong.
	Diagnostic bool `json:"diagnostic,omitempty"`
	// Attributes is set if all of that state, an object, is shown with the value.
	Attributes bool `json:"attributes,omitempty"`
	// Hidden is set for what few want to see, and can ask for.
	Hidden bool `json:"hidden,omitempty"`
}

// CommandKind is what people need to give a command.
type CommandKind string

// Kinds of commands.
const (
	Button  CommandKind = "button" // nothing
	Setting CommandKind = "number" // a number from Min to Max
)

// Command is something that the thing can be told to do.
type Command struct {
	// Key names the command among those of the device, such as pause or
	// temperature_bed.
	Key  string `json:"key"`
	Name string `json:"name"` // for people
	// Call is how the command is allowed and called, such as temperature, where
	// several have that in common; empty is Key.
	Call string `json:"call,omitempty"`
	// Kind is empty for a Button.
	Kind CommandKind `json:"kind,omitempty"`
	// Payload is what is published to give the command, with {value} where the
	// number of a Setting stands.
	Payload string `json:"payload,omitempty"`
	// Min, Max, Step, Unit and Class are those of the number.
	Min   float64 `json:"min,omitempty"`
	Max   float64 `json:"max,omitempty"`
	Step  float64 `json:"step,omitempty"`
	Unit  string  `json:"unit,omitempty"`
	Class string  `json:"class,omitempty"`
	// State and Value say where the number is read as it is set now, as those of
	// an Entity; an empty State is nowhere.
	State string `json:"state,omitempty"`
	Value string `json:"value,omitempty"`
}

// Called is how the command is allowed and called.
func (c *Command) Called() string { return cmp.Or(c.Call, c.Key) }
