package migrate

import (
	"cmp"
	"errors"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"event2mqtt/internal/topic"
)

// HomeAssistant is where the plugin OctoPrint-HomeAssistant publishes, which does
// so through OctoPrint-MQTT.
type HomeAssistant struct {
	Nodes  []string // the ids that its device may have
	Prefix string   // of what it announces
	// What topics begin with: all of them, its states, commands to it, and
	// temperatures. Will is the whole topic of OctoPrint-MQTT's last will.
	Base, Hass, Control, Temperature, Will string
}

// ReadHomeAssistant reads the settings of OctoPrint-HomeAssistant out of
// OctoPrint's config.yaml.
func ReadHomeAssistant(text []byte) (*HomeAssistant, error) {
	root, err := settings(text)
	if err != nil {
		return nil, err
	}
	plugins := entry(root, "plugins")
	own := entry(plugins, "homeassistant")
	if own == nil || own.Kind != yaml.MappingNode {
		return nil, errors.New("it has no settings of OctoPrint-HomeAssistant (plugins, homeassistant); name the config.yaml of the OctoPrint that has the plugin, or leave out the file to go by the messages alone")
	}
	h := &HomeAssistant{Prefix: cmp.Or(plain(own, "discovery_topic"), "homeassistant")}
	add := func(node string) {
		if topic.Check(node) == nil && !slices.Contains(h.Nodes, node) {
			h.Nodes = append(h.Nodes, node)
		}
	}
	add(plain(own, "node_id"))
	const short = 6 // characters of it are the id before version 3, and stay it
	if id := plain(own, "unique_id"); len(id) >= short {
		add(strings.ToUpper(id[:short]))
	}
	if len(h.Nodes) == 0 {
		return nil, errors.New("it has no id of OctoPrint-HomeAssistant's device (plugins, homeassistant, node_id); leave out the file to go by the messages alone")
	}
	publish := entry(entry(plugins, "mqtt"), "publish")
	part := func(key, usual string) string {
		if n := entry(publish, key); n == nil || n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
			return usual
		}
		return placeholder.ReplaceAllString(plain(publish, key), "")
	}
	h.Base = part("baseTopic", "octoPrint/")
	h.Hass = h.Base + part("hassTopic", "hass/")
	h.Control = h.Base + part("controlTopic", "hassControl/")
	h.Temperature = h.Base + part("temperatureTopic", "temperature/")
	if will := part("lwTopic", "mqtt"); will != "" {
		h.Will = h.Base + will
	}
	for _, at := range []string{h.Prefix, h.Base + "x", h.Hass + "x", h.Control + "x", h.Temperature + "x", h.Will + "x"} {
		if topic.Check(at) != nil {
			return nil, errors.New("it names topics for OctoPrint-HomeAssistant that nothing can be published to; leave out the file to go by the messages alone")
		}
	}
	return h, nil
}

// placeholder is what the plugin takes out of topics.
var placeholder = regexp.MustCompile(`\{.+\}`)

// plain is the text of a key; empty if it has none.
func plain(group *yaml.Node, key string) string {
	if n := entry(group, key); n != nil && n.Kind == yaml.ScalarNode && n.Tag != "!!null" {
		return n.Value
	}
	return ""
}
