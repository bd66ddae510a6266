package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"event2mqtt/internal/bridge"
	"event2mqtt/internal/broker/accounts"
	"event2mqtt/internal/config/file"
	"event2mqtt/internal/control"
)

// This file keeps devices off topics that are not theirs: a name that rules are
// made for must not make them reach those of the program, or of all devices.

// ownTopics are where the program publishes itself, as it is configured.
type ownTopics struct {
	base   string // publish.base_topic
	prefix string // home_assistant.prefix
	node   string // home_assistant.node; may be empty
	birth  string // home_assistant.birth_topic; may be empty
	events string // publish.event_topic
	states string // publish.state_topic
}

// defaultPrefix is that of Home Assistant, and of what announces itself to it.
const defaultPrefix = "homeassistant"

// loadOwnTopics reads them from the configuration that is named, else that of the
// program which runs, else that of the service.
func loadOwnTopics(f *flags) (own ownTopics, err error) {
	dir, err := lookedAt(f.stateDir, io.Discard)
	if err != nil {
		return own, err
	}
	path := f.config
	if path == "" {
		running, err := control.Read(dir)
		_, missing := file.Stat(serviceConfig)
		switch {
		case err == nil:
			path = running.Config
		case dir == serviceDir && missing == nil:
			path = serviceConfig
		}
	}
	plan, err := bridge.Load(path, os.Environ(), dir, f.set...)
	if err != nil {
		return own, fmt.Errorf("%w\nno account was changed: which topics a device may have depends on the configuration; correct it first", explain(err))
	}
	h := &plan.HomeAssistant
	return ownTopics{plan.Publish.BaseTopic, h.Prefix, h.Node, h.BirthTopic, plan.Publish.EventTopic, plan.Publish.StateTopic}, nil
}

// roots are first levels of topics that others than one device have, and whose
// they are.
var roots = map[string]string{
	"cmnd": "those of Tasmota devices", "stat": "those of Tasmota devices", "tele": "those of Tasmota devices", "tasmota": "those of Tasmota devices",
	"esphome": "those of all ESPHome devices", "event2mqtt": "those of event2mqtt", defaultPrefix: "those of Home Assistant",
	"zigbee2mqtt": "those of Zigbee2MQTT", "zwave": "those of Z-Wave JS", "frigate": "those of Frigate", "homie": "those of all Homie devices",
	"owntracks": "those of OwnTracks", "shellies": "those of all Shelly devices", "wled": "those of all WLED devices",
}

// check refuses a name whose rules would let it write topics of the program. what
// is such as "the name of an ESPHome device". Those of discovery, which all share,
// are left out of rules.
func (own *ownTopics) check(name, what string, rules func(name string) []string) error {
	for _, root := range []struct{ key, topic, filter string }{
		{"publish.base_topic", own.base, own.base + "/#"},
		{"home_assistant.prefix", own.prefix, own.prefix + "/#"},
		{"home_assistant.birth_topic", own.birth, own.birth},
		{"publish.event_topic", own.events, beginning(own.events)},
		{"publish.state_topic", own.states, beginning(own.states)},
	} {
		filter := reaches(rules(name), root.filter)
		switch {
		case root.filter == "" || filter == "":
		case reaches(rules("another-"+name), root.filter) != "": // no name would do
			return fmt.Errorf("%q cannot be %s: it may write %s, and %s is %s, so that it could speak for event2mqtt or Home Assistant; set another %s first", name, what, filter, root.key, root.topic, root.key)
		default:
			return fmt.Errorf("%q cannot be %s: it may write %s, and %s is %s, so that it could speak for event2mqtt or Home Assistant; choose another name, such as %s", name, what, filter, root.key, root.topic, instead(name))
		}
	}
	return nil
}

// beginning is a filter for the topics of a template, as far as it begins with
// whole levels of text; empty if it does not, as behind {base}.
func beginning(template string) string {
	text, _, _ := strings.Cut(template, "{")
	if i := strings.LastIndexByte(text, '/'); i > 0 {
		return text[:i] + "/#"
	}
	return ""
}

// checkRoot refuses a name that is the first level of topics which others have.
func checkRoot(name, what string) error {
	if whose, taken := roots[name]; taken {
		return fmt.Errorf("%q cannot be %s, which may write %s/#: these topics are %s; choose another name, such as %s", name, what, name, whose, instead(name))
	}
	return nil
}

// instead is a name that is like one which cannot be had.
func instead(name string) string { return strings.Trim(("my-" + name)[:min(len(name)+3, 31)], "-") }

// reaches returns the first filter of rules that lets anybody write what another
// filter matches, or "".
func reaches(rules []string, other string) string {
	parsed, _ := accounts.ParseRules(rules) // they are checked before they are used
	for _, r := range parsed {
		if r.Write && (accounts.Rules{{Filter: r.Filter, Read: true}}).MayReadSome(other) {
			return r.Filter
		}
	}
	return ""
}
