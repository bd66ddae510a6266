package migrate

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// This file reads the plugin's settings, as Python would: a number may be
// written as a text, and so may true and false.

// maxItems bounds the lines and items of a file; OctoPrint's own has some hundred.
const maxItems = 50_000

// maxShown bounds a value that a note shows, in bytes.
const maxShown = 80

// groups are the plugin's groups of settings, by path.
var groups = []string{"", "broker", "broker.tls", "client", "publish", "publish.events"}

// known are the plugin's settings.
var known = []string{
	"broker.url", "broker.port", "broker.username", "broker.password", "broker.keepalive", "broker.tls_active",
	"broker.tls.ca_certs", "broker.tls.certfile", "broker.tls.keyfile", "broker.tls.ciphers", "broker.tls_insecure",
	"broker.protocol", "broker.retain", "broker.lwRetain", "broker.clean_session", "client.client_id",
	"publish.baseTopic", "publish.eventTopic", "publish.eventActive", "publish.printerData",
	"publish.events.server", "publish.events.comm", "publish.events.files", "publish.events.printjob", "publish.events.gcode",
	"publish.events.position", "publish.events.timelapse", "publish.events.slicing", "publish.events.settings", "publish.events.unclassified",
	"publish.progressTopic", "publish.progressActive", "publish.temperatureTopic", "publish.temperatureActive", "publish.temperatureThreshold",
	"publish.metadataTopic", "publish.metadataActive", "publish.metadataKeys", "publish.lwTopic", "publish.lwActive", "timestamp_fieldname",
}

// reader holds the plugin's settings.
type reader struct {
	values map[string]*yaml.Node // by path, those that are set
	notes  []Note
}

// note says something about a setting.
func (r *reader) note(key, format string, args ...any) {
	n := Note{key, r.show(key), fmt.Sprintf(format, args...)}
	if !slices.Contains(r.notes, n) { // a setting may be looked at twice
		r.notes = append(r.notes, n)
	}
}

// show is a setting as a note shows it. What may be secret is hidden.
func (r *reader) show(key string) string {
	n := r.values[key]
	switch {
	case n == nil:
		return ""
	case key == "broker.password", key == "broker.url" && strings.Contains(n.Value, "@"), !slices.Contains(known, key):
		return "***"
	case n.Kind == yaml.MappingNode:
		return "a group"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	}
	text := n.Value
	if len(text) > maxShown {
		text = strings.ToValidUTF8(text[:maxShown], "") + "…"
	}
	if q := fmt.Sprintf("%+q", text); text == "" || q != `"`+text+`"` {
		return q
	}
	return text
}

// entry is the value of a key, the last one as in Python. Nodes behind an alias
// are looked up, never copied.
func entry(group *yaml.Node, key string) (found *yaml.Node) {
	if group == nil || group.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(group.Content); i += 2 {
		if group.Content[i].Value == key {
			found = behind(group.Content[i+1])
		}
	}
	return found
}

func behind(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

// collect notes the settings below a group. What is not known is said.
func (r *reader) collect(path string, group *yaml.Node) {
	const most = 20 // unknown ones that are said
	unknown := 0
	for i := 0; i+1 < len(group.Content); i += 2 {
		key, value := group.Content[i].Value, behind(group.Content[i+1])
		full := strings.TrimPrefix(path+"."+key, ".")
		switch {
		case slices.Contains(groups, full) && value.Kind == yaml.MappingNode:
			r.collect(full, value)
		case slices.Contains(groups, full) && value.Tag == "!!null":
		case slices.Contains(known, full):
			r.values[full] = value
		case slices.Contains(groups, full):
			r.values[full] = value
			r.notes = append(r.notes, Note{full, "", "is no group of settings, and is left out; correct it in OctoPrint's file"})
		case key != "_config_version" && unknown < most:
			unknown++
			name := full
			if q := fmt.Sprintf("%+q", full[:min(len(full), maxShown)]); q != `"`+full+`"` {
				name = q
			}
			r.notes = append(r.notes, Note{name, "***", "is no setting of OctoPrint-MQTT that event2mqtt knows, and is left out; nothing to do, unless a newer version of the plugin has it"})
		}
	}
}

// scalar is a setting that is set, and no list or group.
func (r *reader) scalar(key, wanted string) (text string, ok bool) {
	n := r.values[key]
	switch {
	case n == nil, n.Tag == "!!null":
		return "", false
	case n.Kind != yaml.ScalarNode:
		r.note(key, "must be %s, and is left out; correct it in OctoPrint's file, and import again", wanted)
		return "", false
	}
	return n.Value, true
}

func (r *reader) text(key string) (string, bool) { return r.scalar(key, "a text") }

// topic is as text, but null is an empty one, which switches off.
func (r *reader) topic(key, fallback string) string {
	if n := r.values[key]; n != nil && n.Tag == "!!null" {
		return ""
	}
	if text, ok := r.text(key); ok {
		return text
	}
	return fallback
}

// number is a setting that lies between two bounds.
func (r *reader) number(key string, low, high, fallback float64) (v float64, ok bool) {
	text, ok := r.scalar(key, "a number")
	if !ok {
		return fallback, false
	}
	v, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
	if err != nil || math.IsNaN(v) || v < low || v > high {
		r.note(key, "must be a number from %v to %v; %v is used", low, high, fallback)
		return fallback, false
	}
	return v, true
}

// truth is a setting that is true or false.
func (r *reader) truth(key string, fallback bool) bool {
	text, ok := r.scalar(key, "true or false")
	if !ok {
		return fallback
	}
	switch strings.ToLower(strings.TrimSpace(text)) {
	case "true", "yes", "y", "on", "1":
		return true
	case "false", "no", "n", "off", "0", "":
		return false
	}
	r.note(key, "must be true or false; %v is used", fallback)
	return fallback
}
