// Package migrate reads the configuration of the plugin OctoPrint-MQTT out of
// OctoPrint's config.yaml, and says the same in options of event2mqtt: the
// broker, the topics, what is retained, which events. What has no counterpart
// it names. It reads text alone: files, and asking OctoPrint, are not its
// business.
package migrate

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"event2mqtt/internal/config/edit"
	"event2mqtt/internal/topic"
)

// MaxFile bounds OctoPrint's config.yaml, in bytes.
const MaxFile = 1 << 20

// Note is what people must know of a setting.
type Note struct {
	Key   string // of the plugin, such as broker.clean_session
	Value string // what it is set to; secrets are hidden; empty if it is not set
	Text  string // why it has no counterpart, and what to do
}

func (n Note) String() string {
	if n.Value == "" {
		return n.Key + " " + n.Text
	}
	return n.Key + ": " + n.Value + " " + n.Text
}

// Result is the plugin's configuration as event2mqtt has it.
type Result struct {
	// MQTT and Publish are options of these sections. The password is not among
	// them.
	MQTT, Publish edit.Group
	// Password is that of the broker; empty if there is none.
	Password string
	// Source are the options of the source, without name, type, url and api_key.
	Source edit.Group
	// Rules are for the events of the source alone.
	Rules []edit.Group
	// Notes are what is not as it was, in the order of the settings.
	Notes []Note
	// Topics is what the plugin's topics begin with.
	Topics string
	// Port is where OctoPrint itself listens, as far as its file says so.
	Port int
}

// settings reads OctoPrint's config.yaml.
func settings(text []byte) (*yaml.Node, error) {
	if len(text) > MaxFile || strings.Count(string(text), "\n")+strings.Count(string(text), ",")+strings.Count(string(text), "[")+strings.Count(string(text), "{")+strings.Count(string(text), "- ") > maxItems {
		return nil, fmt.Errorf("it has more than %d bytes or %d items, which OctoPrint's config.yaml never has", MaxFile, maxItems)
	}
	var root yaml.Node
	if err := yaml.Unmarshal(text, &root); err != nil {
		return nil, fmt.Errorf("it is no YAML (%s); name OctoPrint's config.yaml", strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if root.Kind != yaml.DocumentNode || root.Content[0].Kind != yaml.MappingNode {
		return nil, errors.New("it holds no settings; name OctoPrint's config.yaml")
	}
	return root.Content[0], nil
}

// Read reads OctoPrint's config.yaml. source is the name of the source to be.
func Read(text []byte, source string) (*Result, error) {
	root, err := settings(text)
	if err != nil {
		return nil, err
	}
	plugins := entry(root, "plugins")
	mqtt := entry(plugins, "mqtt")
	if mqtt == nil || mqtt.Kind != yaml.MappingNode {
		return nil, errors.New("it has no settings of OctoPrint-MQTT (plugins, mqtt); name the config.yaml of the OctoPrint that has the plugin, such as ~/.octoprint/config.yaml")
	}
	r := &reader{values: map[string]*yaml.Node{}}
	r.collect("", mqtt)
	c := &converter{reader: r, source: source}
	c.broker()
	c.publish()
	c.events()
	c.companions(plugins)
	c.finish()
	c.result.Notes = r.notes
	order := func(n Note) int {
		if i := slices.Index(known, n.Key); i >= 0 {
			return i
		}
		return len(known)
	}
	slices.SortStableFunc(c.result.Notes, func(a, b Note) int { return order(a) - order(b) })
	if server := entry(root, "server"); server != nil {
		if port := entry(server, "port"); port != nil {
			if n, err := strconv.Atoi(port.Value); err == nil && n > 0 && n < 65536 {
				c.result.Port = n
			}
		}
	}
	return &c.result, nil
}

// converter makes a result of settings.
type converter struct {
	*reader
	source string
	result Result
	plugin edit.Group // options of the source below plugin
}

func (c *converter) mqtt(key string, value any) {
	c.result.MQTT = append(c.result.MQTT, edit.Pair{Key: key, Value: value})
}

func (c *converter) set(key string, value any) {
	c.plugin = append(c.plugin, edit.Pair{Key: key, Value: value})
}

// broker converts where to, and as whom.
func (c *converter) broker() {
	host, _ := c.text("broker.url")
	secure := c.truth("broker.tls_active", false)
	port, _ := c.number("broker.port", 1, 65535, 1883)
	scheme := "mqtt"
	if secure {
		scheme = "mqtts"
	}
	address := url.URL{Scheme: scheme, Host: net.JoinHostPort(strings.Trim(host, "[]"), strconv.Itoa(int(port)))}
	again, err := url.Parse(address.String())
	switch {
	case host == "":
		c.note("broker.url", "is not set, so the plugin published nothing; event2mqtt is the broker itself, unless mqtt.url is set")
		for _, key := range known[1:16] {
			if n := c.values[key]; n != nil && n.Tag != "!!null" && (strings.HasPrefix(key, "broker.") || strings.HasPrefix(key, "client.")) && key != "broker.retain" && key != "broker.lwRetain" {
				c.note(key, "is left out: it is of no use without broker.url")
			}
		}
	case err != nil || again.Host != address.Host || strings.ContainsAny(host, "@/?# "):
		c.note("broker.url", "is no name or address of a host, and is left out; set mqtt.url, such as mqtt://192.168.1.10:1883")
	default:
		c.mqtt("url", address.String())
		c.identity()
		c.tls(secure)
	}
	if !c.truth("broker.retain", true) {
		c.set("retain", false)
		c.note("broker.retain", "holds for the events ZChange and FirmwareData; temperatures, the slicer's progress and metadata are retained all the same, as states always are here; nothing to do, unless a subscriber minds")
	}
}

// identity converts as whom, and how.
func (c *converter) identity() {
	user, hasUser := c.text("broker.username")
	password, hasPassword := c.text("broker.password")
	if hasUser && user != "" {
		c.mqtt("username", user)
		c.result.Password = password
	} else if hasPassword && password != "" {
		c.note("broker.password", "is left out: without a user name the plugin did not send it either")
	}
	if id, _ := c.text("client.client_id"); id != "" {
		c.mqtt("client_id", id)
	}
	if seconds, ok := c.number("broker.keepalive", 1, 64800, 60); ok {
		c.mqtt("keepalive", fmt.Sprintf("%ds", int(seconds)))
	}
	switch protocol, ok := c.text("broker.protocol"); {
	case !ok:
	case protocol == "MQTTv31":
		c.mqtt("protocol", "3.1")
	case protocol == "MQTTv311":
		c.mqtt("protocol", "3.1.1")
	default:
		c.note("broker.protocol", "is none that the plugin knows, which took MQTT 3.1 then; event2mqtt takes 3.1.1; set mqtt.protocol: \"3.1\" if the broker is that old")
	}
	if !c.truth("broker.clean_session", true) {
		c.note("broker.clean_session", "has no counterpart and needs none: what is published while the broker is away is kept on disk")
	}
}

// tls converts how the connection is protected.
func (c *converter) tls(secure bool) {
	var group edit.Group
	for _, each := range [][2]string{{"broker.tls.ca_certs", "ca"}, {"broker.tls.certfile", "cert"}, {"broker.tls.keyfile", "key"}} {
		if path, ok := c.text(each[0]); ok && path != "" && secure {
			group = append(group, edit.Pair{Key: each[1], Value: path})
		} else if ok && path != "" {
			c.note(each[0], "is left out: broker.tls_active is false, so the plugin did not use it")
		}
	}
	if ciphers, _ := c.text("broker.tls.ciphers"); ciphers != "" {
		c.note("broker.tls.ciphers", "is left out: these are OpenSSL's names, and Go chooses well by itself; set mqtt.tls.ciphers if the broker takes few only")
	}
	switch insecure := c.truth("broker.tls_insecure", false); {
	case insecure && secure:
		group = append(group, edit.Pair{Key: "insecure", Value: true})
		c.note("broker.tls_insecure", "is taken over: nothing checks who the broker is; better set mqtt.tls.ca, or mqtt.tls.server_name, and remove mqtt.tls.insecure")
	case insecure:
		c.note("broker.tls_insecure", "is left out: broker.tls_active is false, so the plugin did not use it")
	}
	if group != nil {
		c.mqtt("tls", group)
	}
}

// publish converts topics and what is published there.
func (c *converter) publish() {
	base := c.baseTopic()
	c.result.Topics = base
	if base != "octoPrint/" {
		c.set("base_topic", base)
	}
	own := strings.Trim(base, "/")
	if own != "" {
		c.result.Publish = append(c.result.Publish, edit.Pair{Key: "base_topic", Value: own})
	}
	for _, each := range []struct{ name, fallback, placeholder, option string }{
		{"progress", "progress/{progress}", "{progress}", "progress_topic"},
		{"temperature", "temperature/{temp}", "{temp}", "temperature_topic"},
		{"metadata", "metadata/{key}", "{key}", "metadata_topic"},
	} {
		key := "publish." + each.name + "Topic"
		text := c.topic(key, each.fallback)
		if !c.truth("publish."+each.name+"Active", each.name != "metadata") {
			text = ""
		}
		if text != "" && !strings.Contains(text, each.placeholder) {
			c.note(key, "holds no %s, so that all went to one topic; none of it is published; set plugin.%s of the source to one with it", each.placeholder, each.option)
			text = ""
		} else if text != "" {
			text = c.fits(key, base, text, each.placeholder)
		}
		if text != each.fallback && (each.name != "metadata" || text != "") {
			c.set(each.option, text)
		}
	}
	c.metadata()
	if c.truth("publish.printerData", false) {
		c.set("printer_data", true)
	}
	if v, ok := c.number("publish.temperatureThreshold", 0, 1000, 0.1); ok && v != 0.1 {
		c.result.Source = append(c.result.Source, edit.Pair{Key: "temperature_threshold", Value: v})
	}
	c.will(base, own)
	if name, ok := c.text("timestamp_fieldname"); ok && name != "_timestamp" {
		if name == "" || name == "_event" {
			c.note("timestamp_fieldname", "cannot name the time; _timestamp is used")
		} else {
			c.set("timestamp_field", name)
			c.result.Publish = append(c.result.Publish, edit.Pair{Key: "timestamp_field", Value: name})
		}
	}
}

// baseTopic is what all topics begin with.
func (c *converter) baseTopic() string {
	const key, fallback = "publish.baseTopic", "octoPrint/"
	base := c.topic(key, fallback)
	if short := strings.TrimLeft(base, "/"); short != base {
		c.note(key, "begins with a slash, which makes a first level without a name; event2mqtt publishes below %q instead; have subscribers follow", short)
		base = short
	}
	if err := topic.Check(base + "x"); err != nil {
		c.note(key, "cannot be published to (%s); %q is used", err, fallback)
		return fallback
	}
	return base
}

// fits returns a topic if it can be published to, else an empty one.
func (c *converter) fits(key, base, text, placeholder string) string {
	bare := strings.ReplaceAll(text, placeholder, "x")
	switch err := topic.Check(base + bare); {
	case strings.ContainsAny(bare, "{}"):
		c.note(key, "holds braces of another placeholder than the plugin fills in, so it published nothing there; nothing is; correct the topic in the source's options")
	case err != nil:
		c.note(key, "cannot be published to (%s); nothing is; correct the topic in the source's options", err)
	default:
		return text
	}
	return ""
}

// metadata converts which metadata are published.
func (c *converter) metadata() {
	text, _ := c.text("publish.metadataKeys")
	var keys []string
	for key := range strings.SplitSeq(text, ",") {
		if key = strings.TrimSpace(key); key == "" {
			continue
		}
		const most = 100
		switch {
		case topic.Check("x/"+key) != nil:
			c.note("publish.metadataKeys", "names %q, which cannot stand in a topic; that key is left out", key[:min(len(key), maxShown)])
		case len(keys) == most:
			c.note("publish.metadataKeys", "names more than %d keys; the others are left out", most)
			return
		default:
			keys = append(keys, key)
		}
	}
	switch {
	case len(keys) == 0:
	case c.truth("publish.metadataActive", false):
		c.set("metadata_keys", keys)
	default:
		c.note("publish.metadataKeys", "is left out: publish.metadataActive is false, so the plugin published none")
	}
	if len(keys) == 0 && c.truth("publish.metadataActive", false) {
		c.note("publish.metadataActive", "has no effect, as publish.metadataKeys names none; set plugin.metadata_keys of the source if metadata are wanted")
	}
	if n := c.values["publish.metadataTopic"]; n != nil && n.Value != "metadata/{key}" && !c.truth("publish.metadataActive", false) {
		c.note("publish.metadataTopic", "is left out: publish.metadataActive is false, so the plugin published none")
		c.plugin = slices.DeleteFunc(c.plugin, func(p edit.Pair) bool { return p.Key == "metadata_topic" })
	}
}

// will converts how others see that OctoPrint is there. event2mqtt says on the
// same topic that it is there itself, as the plugin did.
func (c *converter) will(base, own string) {
	text := c.topic("publish.lwTopic", "mqtt")
	retain := c.truth("broker.lwRetain", true)
	if text != "" && c.truth("publish.lwActive", true) {
		text = c.fits("publish.lwTopic", base, text, "\x00")
	} else {
		text = ""
	}
	if text != "mqtt" {
		c.set("will_topic", text)
	}
	var will edit.Group
	switch {
	case text == "":
		will = edit.Group{{Key: "enabled", Value: false}}
	case base+text != own+"/mqtt":
		will = edit.Group{{Key: "topic", Value: base + text}}
	}
	if !retain && text != "" {
		will = append(will, edit.Pair{Key: "retain", Value: false})
		c.note("broker.lwRetain", "holds for what event2mqtt says of itself; that OctoPrint is there or not is retained all the same, as states always are here; nothing to do, unless a subscriber minds")
	} else if !retain {
		c.note("broker.lwRetain", "has no effect, as there is no topic for it")
	}
	if will != nil {
		c.mqtt("will", will)
	}
}

// companions names the plugins that publish through OctoPrint-MQTT.
func (c *converter) companions(plugins *yaml.Node) {
	for _, each := range [][2]string{{"mqttpublish", "OctoPrint-MQTTPublish"}, {"mqttsubscribe", "OctoPrint-MQTTSubscribe"}} {
		if entry(plugins, each[0]) != nil {
			c.notes = append(c.notes, Note{"plugins." + each[0], "", fmt.Sprintf("has no counterpart: %s uses the connection of OctoPrint-MQTT; to keep it, leave OctoPrint-MQTT installed, and set its eventActive, progressActive, temperatureActive, metadataActive and lwActive to false", each[1])})
		}
	}
	if entry(plugins, "homeassistant") != nil {
		c.notes = append(c.notes, Note{"plugins.homeassistant", "", "needs no counterpart: event2mqtt announces the printer to Home Assistant itself; switch OctoPrint-HomeAssistant off in OctoPrint, and remove the device that it has announced: event2mqtt import octoprint FILE --clear-homeassistant"})
	}
	disabled := entry(plugins, "_disabled")
	if disabled == nil || disabled.Kind != yaml.SequenceNode {
		return
	}
	if slices.ContainsFunc(disabled.Content, func(n *yaml.Node) bool { return n.Value == "mqtt" }) {
		c.notes = append(c.notes, Note{"plugins._disabled", "", "has the plugin switched off in OctoPrint; its settings are taken over all the same"})
	}
}

// finish puts the source's options together.
func (c *converter) finish() {
	source := edit.Group{{Key: "compat", Value: "octoprint-mqtt"}}
	source = append(source, c.result.Source...)
	if len(c.plugin) > 0 {
		source = append(source, edit.Pair{Key: "plugin", Value: c.plugin})
	}
	c.result.Source = source
}
