// Package schema knows what Home Assistant accepts of a device's discovery
// message without a warning in its log: what was seen with 2025.4 and 2026.11,
// and what stands in their sources. It is stricter than Home Assistant where
// that is silent, but drops what it does not know. It makes no messages.
package schema

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// MaxState is how many characters the state of an entity may have.
const MaxState = 255

// Payload is a device's discovery message.
type Payload struct {
	Device     map[string]any
	Origin     map[string]any
	Components map[string]map[string]any
	root       map[string]any
}

// Parse reads a discovery message.
func Parse(payload []byte) (*Payload, error) {
	d := json.NewDecoder(bytes.NewReader(payload))
	p := &Payload{}
	if err := d.Decode(&p.root); err != nil {
		return nil, fmt.Errorf("read a discovery message: %w", err)
	}
	p.Device, _ = p.root["device"].(map[string]any)
	p.Origin, _ = p.root["origin"].(map[string]any)
	p.Components = map[string]map[string]any{}
	all, _ := p.root["components"].(map[string]any)
	for key, value := range all {
		p.Components[key], _ = value.(map[string]any)
	}
	return p, nil
}

// Keys that Home Assistant takes, all others are refused with the whole device.
var (
	rootKeys = []string{
		"device", "origin", "components", "availability", "availability_mode", "availability_topic", "availability_template",
		"payload_available", "payload_not_available", "state_topic", "command_topic", "qos", "encoding",
	}
	deviceKeys = []string{
		"identifiers", "connections", "name", "manufacturer", "model", "model_id", "hw_version", "sw_version", "serial_number", "configuration_url", "via_device",
	}
	originKeys = []string{"name", "sw_version", "support_url"}
)

// Check tells everything that Home Assistant would complain of in one device's
// message, and what this program promises not to send.
func Check(prefix, topic string, payload []byte) []string {
	c := &checker{}
	c.topic(prefix, topic)
	p, err := Parse(payload)
	if err != nil {
		c.add("%v", err)
		return c.said
	}
	c.root(p)
	c.device(p)
	seen := map[string]string{}
	for _, key := range slices.Sorted(maps.Keys(p.Components)) {
		component := p.Components[key]
		if component == nil {
			c.add("components.%s is not a group", key)
			continue
		}
		c.at = "components." + key + ": "
		c.component(component, text(p.Device["name"]))
		for _, id := range ids(component) {
			if other, taken := seen[id]; taken {
				c.add("has the same %s as %s", id, other)
			}
			seen[id] = key
		}
		c.at = ""
	}
	return c.said
}

// CheckAll tells what is wrong with messages beside each other, by topic: two
// devices with one identifier, two entities with one id.
func CheckAll(messages map[string][]byte) (said []string) {
	seen := map[string]string{}
	for _, topic := range slices.Sorted(maps.Keys(messages)) {
		p, err := Parse(messages[topic])
		if err != nil {
			continue // Check says so
		}
		all := []string{}
		identifiers, _ := p.Device["identifiers"].([]any)
		for _, id := range identifiers {
			all = append(all, "identifier "+text(id))
		}
		for _, component := range p.Components {
			if component["platform"] != "device_automation" {
				all = append(all, ids(component)...)
			}
		}
		slices.Sort(all)
		for _, id := range all {
			if other, taken := seen[id]; taken && other != topic {
				said = append(said, fmt.Sprintf("%s: has the same %s as %s", topic, id, other))
			}
			seen[id] = topic
		}
	}
	return said
}

// ids are what must not be there twice of a component.
func ids(component map[string]any) (all []string) {
	platform := text(component["platform"])
	if platform == "device_automation" {
		return []string{"trigger " + text(component["type"]) + " " + text(component["subtype"])}
	}
	if id := text(component["unique_id"]); id != "" {
		all = append(all, "unique_id "+id+" on "+platform)
	}
	if id := text(component["default_entity_id"]); id != "" {
		all = append(all, "default_entity_id "+id)
	}
	return all
}

type checker struct {
	at   string
	said []string
}

func (c *checker) add(format string, args ...any) {
	c.said = append(c.said, c.at+fmt.Sprintf(format, args...))
}

var id = regexp.MustCompile(`^[a-zA-Z0-9_-]+$`)

// topic checks where a message goes: Home Assistant warns of others, such as
// of dots in an id.
func (c *checker) topic(prefix, topic string) {
	rest, ok := strings.CutPrefix(topic, prefix+"/device/")
	rest, ends := strings.CutSuffix(rest, "/config")
	levels := strings.Split(rest, "/")
	if !ok || !ends || len(levels) > 2 {
		c.add("the topic %q is not %s/device/[NODE/]ID/config", topic, prefix)
		return
	}
	for _, level := range levels {
		if !id.MatchString(level) {
			c.add("the topic %q holds %q; letters, digits, _ and - are allowed", topic, level)
		}
	}
}

func (c *checker) keys(of string, group map[string]any, known []string) {
	for _, key := range slices.Sorted(maps.Keys(group)) {
		if !slices.Contains(known, key) {
			c.add("%s has the key %q, for which the whole device is refused", of, key)
		}
	}
}

func (c *checker) root(p *Payload) {
	c.keys("the message", p.root, rootKeys)
	_, list := p.root["availability"]
	if _, one := p.root["availability_topic"]; list && one {
		c.add("availability and availability_topic exclude each other")
	}
	if mode, there := p.root["availability_mode"]; there && mode != "all" && mode != "any" && mode != "latest" {
		c.add("availability_mode %v does not exist", mode)
	}
	if list {
		c.availability(p.root["availability"])
	}
	if len(p.Components) == 0 {
		c.add("there are no components")
	}
}

func (c *checker) availability(value any) {
	all, ok := value.([]any)
	if !ok {
		c.add("availability is not a list")
		return
	}
	for _, each := range all {
		entry, _ := each.(map[string]any)
		c.keys("availability", entry, []string{"topic", "payload_available", "payload_not_available", "value_template"})
		c.topicOf("availability.topic", entry["topic"], false)
	}
}

func (c *checker) device(p *Payload) {
	c.keys("device", p.Device, deviceKeys)
	c.keys("origin", p.Origin, originKeys)
	if text(p.Origin["name"]) == "" {
		c.add("origin has no name")
	}
	identifiers, _ := p.Device["identifiers"].([]any)
	if len(identifiers) == 0 && p.Device["connections"] == nil {
		c.add("device has no identifiers")
	}
	if text(p.Device["name"]) == "" {
		c.add("device has no name")
	}
	if link, there := p.Device["configuration_url"]; there {
		u, err := url.Parse(text(link))
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "homeassistant" {
			c.add("device.configuration_url %v is not one of http:// or https://", link)
		}
	}
}

// topicOf checks a topic in a message. Only what is subscribed to may have
// wildcards.
func (c *checker) topicOf(key string, value any, wildcards bool) {
	topic, ok := value.(string)
	switch {
	case !ok || topic == "":
		c.add("%s is missing", key)
	case len(topic) > 65535 || strings.ContainsRune(topic, 0) || !utf8.ValidString(topic):
		c.add("%s is not a topic", key)
	case !wildcards && strings.ContainsAny(topic, "+#"):
		c.add("%s %q holds a wildcard", key, topic)
	}
	for level := range strings.SplitSeq(topic, "/") {
		if strings.ContainsAny(level, "+#") && len(level) > 1 {
			c.add("%s %q holds a wildcard beside other text", key, topic)
		}
	}
}

func text(value any) string {
	s, _ := value.(string)
	return s
}
