// Package homeassistant makes of devices what Home Assistant's MQTT discovery
// wants to be told of them (its device-based form, since 2024.11), and decides
// what is to be published, and when, so that nothing of what was announced
// before is left behind (memory.go). It is pure: it knows no broker, no file and
// no clock; who uses it publishes what it says as retained messages.
package homeassistant

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strings"

	"event2mqtt/internal/device"
)

// Setup is what all devices have in common.
type Setup struct {
	// Prefix begins the topics of discovery, as is configured in Home Assistant.
	Prefix string
	// Node, if set, is one more level of these topics.
	Node string
	// Installation begins all ids, and is that of the program's own device. It
	// stays for as long as the state folder does.
	Installation string
	Version      string // of this program
	// Bridge is the topic that tells whether this program is there.
	Bridge Availability
	// QoS is what Home Assistant subscribes with.
	QoS int
}

// Availability is a topic that tells whether something is there. Without a
// topic it is nowhere to be seen.
type Availability struct {
	Topic               string
	Available, NotThere string // payloads
}

// Thing is a device, and where what belongs to it is found.
type Thing struct {
	// ID tells it from the others; "" is the program's own device. Letters,
	// digits, _ and - are allowed: see ID.
	ID        string
	Device    device.Device
	Available Availability
	// State returns the topic of a state of the device.
	State func(key string) string
	// Command returns the topic on which a command is given.
	Command func(call string) string
	Events  Events
}

// Events says where the events of a device are published, and how they are told
// from those of others.
type Events struct {
	Filter string // a subscription that has all of them; "" is no events
	// Topic, if set, returns the topic of the events with a name, if nothing but
	// these are published to it.
	Topic func(name string) string
	// Key is a key of the payload that holds Source; "" if the filter tells.
	Key, Source string
}

// Message is what is announced of a device, on a topic. The payload's parts are
// JSON.
type Message struct {
	Source string // of the device
	Thing  string // what it watches, as device.Device.ID
	// Device and Topics are what the source has described, if anything, for the
	// time when it has not done so yet.
	Device *device.Device
	Topics map[string]string

	Topic      string
	Head       json.RawMessage            // all but the components
	Components map[string]json.RawMessage // by key
}

// Payload is the message as it is published.
func (m *Message) Payload() []byte {
	all := map[string]json.RawMessage{}
	if err := json.Unmarshal(m.Head, &all); err != nil || all == nil {
		all = map[string]json.RawMessage{} // of a damaged memory
	}
	all["components"] = encode(m.Components)
	return encode(all)
}

// ID makes an id of any name. Equal names have equal ids, and others others.
func ID(name string) string {
	clean := clean(name)
	if clean == name && name != "" {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	return strings.Trim(clean+"_"+hex.EncodeToString(sum[:3]), "_")
}

// clean replaces what cannot stand in an id.
func clean(name string) string {
	return strings.Map(func(r rune) rune {
		if r != '_' && r != '-' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') {
			return '_'
		}
		return r
	}, name)
}

// slug spells a name as in the ids of entities.
func slug(name string) string {
	s, _ := device.Slug(name)
	return s
}

// identifier is how a device is known to Home Assistant.
func (s *Setup) identifier(id string) string {
	if id == "" {
		return s.Installation
	}
	return s.Installation + "_" + id
}

// Topic is where a device is announced.
func (s *Setup) Topic(id string) string {
	at := s.Prefix + "/device/"
	if s.Node != "" {
		at += s.Node + "/"
	}
	return at + s.identifier(id) + "/config"
}

// head is a message without its components.
type head struct {
	Device           about    `json:"device"`
	Origin           origin   `json:"origin"`
	Availability     []listed `json:"availability,omitempty"`
	AvailabilityMode string   `json:"availability_mode,omitempty"`
	QoS              int      `json:"qos"`
}

type about struct {
	Identifiers  []string `json:"identifiers"`
	Name         string   `json:"name"`
	Manufacturer string   `json:"manufacturer,omitempty"`
	Model        string   `json:"model,omitempty"`
	Version      string   `json:"sw_version,omitempty"`
	URL          string   `json:"configuration_url,omitempty"`
	Via          string   `json:"via_device,omitempty"`
}

type origin struct {
	Name    string `json:"name"`
	Version string `json:"sw_version,omitempty"`
}

type listed struct {
	Topic    string `json:"topic"`
	There    string `json:"payload_available"`
	NotThere string `json:"payload_not_available"`
}

// list is an availability as messages have it; none if it has no topic.
func (a Availability) list() []listed {
	if a.Topic == "" {
		return []listed{}
	}
	return []listed{{a.Topic, a.Available, a.NotThere}}
}

// Announce makes the message of a thing.
func (s *Setup) Announce(t *Thing) Message {
	d := &t.Device
	name := cmp.Or(strings.TrimSpace(d.Name), t.ID, "event2mqtt")
	h := head{
		Device: about{Identifiers: []string{s.identifier(t.ID)}, Name: name, Manufacturer: d.Manufacturer, Model: d.Model, Version: d.Version, URL: d.URL},
		Origin: origin{"event2mqtt", s.Version}, QoS: s.QoS,
		Availability: append(s.Bridge.list(), t.Available.list()...),
	}
	if t.ID != "" {
		h.Device.Via = s.Installation
	}
	if len(h.Availability) > 1 {
		h.AvailabilityMode = "all"
	}
	b := &builder{setup: s, thing: t, name: name, slug: cmp.Or(slug(name), slug(t.ID), "device"), all: map[string]json.RawMessage{}, ids: map[string]bool{}}
	b.build()
	return Message{Topic: s.Topic(t.ID), Head: encode(h), Components: b.all}
}

// encode writes JSON without making < and > unreadable.
func encode(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil { // all that is encoded here can be
		panic(err)
	}
	return bytes.Clone(bytes.TrimSpace(b.Bytes())) // it is kept, and the buffer is up to twice as large
}
