package homeassistant

import (
	"cmp"
	"encoding/json"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"event2mqtt/internal/device"
	"event2mqtt/internal/homeassistant/schema"
)

// This file makes components of what a device has.

// Component keys. They are kept for ever: an entity whose key changes is another
// one for Home Assistant.
const (
	keyEvent     = "event"
	keyConnected = "connected"
	keyCommand   = "command_" // and the command's
	keyTrigger   = "trigger_" // and an id of the event
	keyEntity    = "entity_"  // and the entity's, if that would be one of the above
)

// TriggerType is the type of all device triggers; the subtype is the event.
const TriggerType = "event"

// component is one of the things that a device has.
type component struct {
	Platform    string    `json:"platform"`
	UniqueID    string    `json:"unique_id,omitempty"`
	EntityID    string    `json:"default_entity_id,omitempty"`
	Name        string    `json:"name,omitempty"`
	Class       string    `json:"device_class,omitempty"`
	Category    string    `json:"entity_category,omitempty"`
	Icon        string    `json:"icon,omitempty"`
	State       string    `json:"state_topic,omitempty"`
	Value       string    `json:"value_template,omitempty"`
	Attributes  string    `json:"json_attributes_topic,omitempty"`
	AttributesT string    `json:"json_attributes_template,omitempty"`
	Command     string    `json:"command_topic,omitempty"`
	CommandWith string    `json:"command_template,omitempty"`
	Press       *string   `json:"payload_press,omitempty"`
	EventTypes  []string  `json:"event_types,omitempty"`
	Options     []string  `json:"options,omitempty"`
	Unit        string    `json:"unit_of_measurement,omitempty"`
	StateClass  string    `json:"state_class,omitempty"`
	Precision   *int      `json:"suggested_display_precision,omitempty"`
	On          string    `json:"payload_on,omitempty"`
	Off         string    `json:"payload_off,omitempty"`
	Image       string    `json:"image_topic,omitempty"`
	Min         *float64  `json:"min,omitempty"`
	Max         *float64  `json:"max,omitempty"`
	Step        float64   `json:"step,omitempty"`
	Mode        string    `json:"mode,omitempty"`
	Optimistic  *bool     `json:"optimistic,omitempty"`
	There       *[]listed `json:"availability,omitempty"`
	QoS         *int      `json:"qos,omitempty"`

	// Of triggers alone.
	Automation string `json:"automation_type,omitempty"`
	Type       string `json:"type,omitempty"`
	Subtype    string `json:"subtype,omitempty"`
	Topic      string `json:"topic,omitempty"`
	Payload    string `json:"payload,omitempty"`
}

type builder struct {
	setup      *Setup
	thing      *Thing
	name, slug string // of the device
	all        map[string]json.RawMessage
	ids        map[string]bool // of entities, as they are suggested
}

func (b *builder) build() {
	t := b.thing
	b.connected()
	b.events()
	for i := range t.Device.Entities {
		b.entity(&t.Device.Entities[i])
	}
	for i := range t.Device.Commands {
		b.command(&t.Device.Commands[i])
	}
	for _, name := range t.Device.Triggers {
		b.trigger(name)
	}
}

// add adds an entity under a key. The id that is suggested is made of the name,
// as versions of Home Assistant that heed no suggestion (2025.4) make it; of the
// key, if the name cannot be spelled here.
func (b *builder) add(key, name string, c component) {
	c.UniqueID = b.setup.identifier(b.thing.ID) + "." + key
	c.Name = b.short(name)
	end, whole := device.Slug(c.Name)
	if !whole {
		end = slug(key)
	}
	at := c.Platform + "." + b.slug + "_" + cmp.Or(end, slug(key), c.Platform)
	if b.ids[at] {
		at += "_" + slug(key)
	}
	b.ids[at] = true
	c.EntityID = at
	b.all[key] = encode(c)
}

// short is the name of an entity without that of its device, which Home
// Assistant puts before it.
func (b *builder) short(name string) string {
	const between = " -:_"
	rest := name[min(len(name), len(b.name)):]
	switch {
	case !strings.EqualFold(name[:len(name)-len(rest)], b.name):
		return name
	case strings.Trim(rest, between) == "":
		return "Value of " + name
	case !strings.ContainsRune(between, rune(rest[0])): // another word
		return name
	}
	rest = strings.TrimLeft(rest, between)
	first, size := utf8.DecodeRuneInString(rest)
	return string(unicode.ToUpper(first)) + rest[size:]
}

func (b *builder) connected() {
	c := component{Platform: "binary_sensor", Class: "connectivity", Category: "diagnostic"}
	there := b.thing.Available
	if b.thing.ID == "" {
		there = b.setup.Bridge
		c.There = &[]listed{} // it tells when the bridge is not there
	} else {
		list := b.setup.Bridge.list()
		c.There = &list
	}
	if there.Topic == "" {
		return
	}
	c.State, c.On, c.Off = there.Topic, there.Available, there.NotThere
	b.add(keyConnected, "Connected", c)
}

func (b *builder) events() {
	d, e := &b.thing.Device, &b.thing.Events
	names := d.Notable
	if len(names) == 0 {
		names = d.Events
	}
	if len(names) == 0 || e.Filter == "" {
		return
	}
	names = slices.Sorted(slices.Values(names))
	b.add(keyEvent, "Event", component{Platform: "event", State: e.Filter, EventTypes: names, Value: e.event(names)})
}

func (b *builder) trigger(name string) {
	e := &b.thing.Events
	if e.Filter == "" {
		return
	}
	c := component{Platform: "device_automation", Automation: "trigger", Type: TriggerType, Subtype: name}
	if e.Topic != nil && e.Key == "" {
		c.Topic = e.Topic(name)
	}
	if c.Topic == "" {
		c.Topic, c.Payload, c.Value = e.Filter, name, e.trigger(name)
	}
	b.all[keyTrigger+ID(name)] = encode(c)
}

// key is under which an entity is announced.
func (b *builder) key(of string) string {
	if of == keyEvent || of == keyConnected || strings.HasPrefix(of, keyCommand) || strings.HasPrefix(of, keyTrigger) || strings.HasPrefix(of, keyEntity) {
		return keyEntity + of
	}
	return of
}

// entity adds a value of the device. What is hidden is left out: an entity that
// is disabled at first has Home Assistant empty the topic of the whole device
// when that entity is deleted, and warn of that when the device goes.
func (b *builder) entity(e *device.Entity) {
	if e.Hidden {
		return
	}
	c := component{State: b.thing.State(e.State)}
	if e.Diagnostic {
		c.Category = "diagnostic"
	}
	switch e.Kind {
	case device.Number:
		b.number(e, &c)
	case device.Text:
		c.Platform, c.Value = "sensor", words(e.Value)
	case device.Enum:
		c.Platform, c.Class, c.Options, c.Value = "sensor", "enum", e.Options, oneOf(e.Value, e.Options)
	case device.Timestamp:
		c.Platform, c.Class, c.Value = "sensor", "timestamp", moment(e.Value)
	case device.Binary:
		c.Platform, c.Value = "binary_sensor", onOff(e.Value, e.On, e.Off)
		if schema.Binary(e.Class) {
			c.Class = e.Class
		}
	case device.Image:
		c.Platform, c.Image, c.State = "image", c.State, ""
	default:
		return // it was checked
	}
	if e.Attributes {
		c.Attributes, c.AttributesT = b.thing.State(e.State), object+"{{ e|to_json }}"
	}
	b.add(b.key(e.Key), cmp.Or(e.Name, e.Key), c)
}

func (b *builder) number(e *device.Entity, c *component) {
	c.Platform, c.Unit, c.Value, c.StateClass = "sensor", e.Unit, number(e.Value), e.Statistics
	if schema.Sensor(e.Class, e.Unit) {
		c.Class = e.Class
	}
	if all := schema.StateClasses(c.Class); c.StateClass == "" {
		c.StateClass = schema.StateClass(c.Class)
	} else if !slices.Contains(all, c.StateClass) {
		c.StateClass = "" // none
	}
	if c.Class == "temperature" || e.Unit == "%" {
		one := 1
		c.Precision = &one
	}
}

func (b *builder) command(d *device.Command) {
	never, zero := false, 0
	c := component{Command: b.thing.Command(d.Called()), QoS: &zero} // with more, one that waits is given late
	switch d.Kind {
	case device.Setting:
		least, most := d.Min, d.Max
		c.Platform, c.Unit, c.Min, c.Max, c.Step, c.Mode, c.Optimistic = "number", d.Unit, &least, &most, d.Step, "box", &never
		c.CommandWith = command(d.Payload)
		if schema.Sensor(d.Class, d.Unit) {
			c.Class = d.Class
		}
		if d.State != "" {
			c.State, c.Value = b.thing.State(d.State), within(d.Value, least, most)
		}
	default:
		payload := d.Payload
		c.Platform, c.Press = "button", &payload
	}
	b.add(keyCommand+d.Key, cmp.Or(d.Name, d.Key), c)
}
