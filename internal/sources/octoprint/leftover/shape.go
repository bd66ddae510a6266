package leftover

import (
	"bytes"
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"time"

	"event2mqtt/internal/topic"
)

// This file knows the plugin's messages.

const (
	maker = "Clifford Roche"
	model = "HomeAssistant Discovery for OctoPrint"
	// connected is what OctoPrint-MQTT says of itself, unless it is configured
	// otherwise; event2mqtt says the same in its place.
	connected = "connected"
	// recent is how old a sign of the plugin may be for it to be running: it
	// publishes the temperature of its machine every 30 s, and clocks differ.
	recent = 75 * time.Second
	// maxPayload bounds what is parsed, in bytes. The largest of the plugin's is
	// that of hass/printing, with some KiB.
	maxPayload = 64 << 10
)

// keys are what the plugin's entities end in.
var keys = regexp.MustCompile(`^(?:CONNECTED|EVENT|PRINTING(?:_(?:S|P|F|T|E|ETA|C|Z))?|SLICING_[PF]|TOOL[0-9]{1,2}(?:_TARGET)?|TOOL_TARGET[0-9]{1,2}|BED(?:_TARGET)?|CHAMBER(?:_TARGET)?|SOC|` +
	`CONNECT|PAUSE|PSU|CAMERA_SNAPSHOT|STOP|CANCEL|SHUTDOWN|REBOOT|RESTART)$`)

// optional are the keys of entities that not every OctoPrint has.
var optional = regexp.MustCompile(`^(?:CHAMBER(?:_TARGET)?|SOC|PSU|CAMERA_SNAPSHOT|SHUTDOWN|REBOOT|RESTART)$`)

var components = []string{"binary_sensor", "sensor", "switch", "button"}

// entity is what the plugin announced.
type entity struct {
	node, key    string // its unique id is both, with _ between
	name, device string
	base         string // what ~ stands for
	placed       bool   // something can be published there
	state        string // its topic
	command      string // likewise
	there        string // the topic that says whether OctoPrint-MQTT is connected
}

// payload is what an entity is announced with. Keys are as the plugin shortens
// them.
type payload struct {
	Base         *string         `json:"~"`
	Unique       string          `json:"uniq_id"`
	Name         string          `json:"name"`
	State        string          `json:"stat_t"`
	Command      string          `json:"cmd_t"`
	There        string          `json:"avty_t"` // before version 2
	Availability json.RawMessage `json:"avty"`
	Device       struct {
		IDs      json.RawMessage `json:"ids"`
		Name     string          `json:"name"`
		Maker    string          `json:"mf"`
		Model    string          `json:"mdl"`
		Software string          `json:"sw"`
	} `json:"device"`
}

// recognise reports whether a message announces an entity of the plugin: its
// topic, its ids and the program that its device names must all be the plugin's.
func recognise(at string, text []byte) (*entity, bool) {
	levels := strings.Split(at, "/")
	n := len(levels)
	var p payload
	if n < 4 || len(text) > maxPayload || levels[n-1] != "config" || !slices.Contains(components, levels[n-3]) || json.Unmarshal(text, &p) != nil {
		return nil, false
	}
	node := only(p.Device.IDs)
	key, ok := strings.CutPrefix(levels[n-2], node+"_")
	byName := p.Device.Maker == maker && p.Device.Model == model // both can be configured since version 3
	if !ok || node == "" || !keys.MatchString(key) || p.Unique != levels[n-2] || p.Base == nil || !byName && !strings.HasPrefix(p.Device.Software, model+" ") {
		return nil, false
	}
	e := &entity{node: node, key: key, name: p.Name, device: p.Device.Name, base: *p.Base, placed: topic.Check(*p.Base+camera) == nil}
	for _, each := range []struct {
		to   *string
		text string
	}{{&e.state, p.State}, {&e.command, p.Command}, {&e.there, p.there()}} {
		if whole := p.expand(each.text); topic.Check(whole) == nil {
			*each.to = whole
		}
	}
	return e, true
}

// only is the one text that is written by itself, or in a list.
func only(text json.RawMessage) (s string) {
	var list []string
	if json.Unmarshal(text, &list) == nil && len(list) == 1 {
		return list[0]
	}
	if json.Unmarshal(text, &s) != nil {
		return ""
	}
	return s
}

// there is the topic of OctoPrint-MQTT's will, as it is written.
func (p *payload) there() string {
	var list []struct {
		Topic string `json:"t"`
		There string `json:"pl_avail"`
	}
	if json.Unmarshal(p.Availability, &list) == nil {
		for _, each := range list {
			if each.There == connected {
				return each.Topic
			}
		}
	}
	return p.There
}

// expand writes a topic out, as Home Assistant does.
func (p *payload) expand(text string) string {
	switch {
	case strings.HasPrefix(text, "~"):
		return *p.Base + text[1:]
	case strings.HasSuffix(text, "~"):
		return text[:len(text)-1] + *p.Base
	}
	return text
}

// The plugin's own topics: behind Hass, Control and Temperature of a place.
var (
	states   = []string{"Connected", "printing", "is_printing", "is_paused", "psu_on"}
	controls = []string{"connect", "stop", "cancel", "pause", "shutdown", "reboot", "restart", "psu", "camera_snapshot", "jog", "home", "commands"}
)

const (
	soc    = "soc"
	camera = "camera" // behind Base
)

// behind is what comes after start in a topic, if that is one of names.
func behind(at, start string, names ...string) string {
	if name, ok := strings.CutPrefix(at, start); ok && start != "" && slices.Contains(names, name) {
		return name
	}
	return ""
}

// isState reports whether the plugin publishes to a topic by itself, now and
// then, while it runs.
func (p Place) isState(at string) bool {
	return behind(at, p.Hass, states...) != "" || behind(at, p.Temperature, soc) != ""
}

// isOwn reports whether a topic is the plugin's, and nobody else's.
func (p Place) isOwn(at string) bool {
	return p.isState(at) || behind(at, p.Control, controls...) != "" || at == p.Base+camera
}

// looksRight reports whether one of the plugin's topics has what belongs there.
func (p Place) looksRight(at string, text []byte) bool {
	is := func(any ...string) bool { return slices.Contains(any, string(text)) }
	switch name := behind(at, p.Hass, states...); name {
	case "Connected":
		return is("Connected", "Disconnected")
	case "is_printing", "is_paused":
		return is("True", "False")
	case "psu_on":
		return is("True", "False", "None")
	case "printing":
		object := parse(text)
		return object["state"] != nil && object["job"] != nil && object["progress"] != nil
	}
	switch {
	case behind(at, p.Temperature, soc) != "":
		object := parse(text)
		return object["temperature"] != nil && object["actual"] == nil && len(object) <= 2 // and the time
	case behind(at, p.Control, controls...) != "":
		return is("PRESS", "True", "False")
	case at == p.Base+camera:
		return bytes.HasPrefix(text, []byte{0xff, 0xd8, 0xff}) // a JPEG
	}
	return false
}

// parse reads an object; nil if it is none.
func parse(text []byte) (object map[string]json.RawMessage) {
	if len(text) > maxPayload || json.Unmarshal(text, &object) != nil {
		return nil
	}
	return object
}

// stamp is the time that a payload has at its top, in seconds since 1970,
// whatever its key: OctoPrint-MQTT adds it under one that can be configured.
func stamp(text []byte, now time.Time) (newest time.Time, ok bool) {
	for _, value := range parse(text) {
		var seconds float64
		if json.Unmarshal(value, &seconds) != nil || seconds < 1e9 || seconds > float64(now.Add(recent).Unix()) {
			continue
		}
		if at := time.Unix(int64(seconds), 0); at.After(newest) {
			newest, ok = at, true
		}
	}
	return newest, ok
}
