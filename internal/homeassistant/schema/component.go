package schema

import (
	"cmp"
	"slices"
	"strings"
)

// This file is what Home Assistant takes of each platform. Keys that it does not
// know it drops without a word, so they are complained of here.

// entityKeys are those that every entity may have.
var entityKeys = []string{
	"platform", "unique_id", "name", "icon", "entity_category", "default_entity_id", "availability", "availability_mode",
	"availability_topic", "availability_template", "payload_available", "payload_not_available", "json_attributes_topic", "json_attributes_template",
	"qos", "encoding", "entity_picture",
}

// platform is what one platform wants.
type platform struct {
	needs, may []string
	classes    []string // nil: it has no device_class, or Check looks after it
}

var platforms = map[string]platform{
	"event": {needs: []string{"state_topic", "event_types"}, may: []string{"value_template"}, classes: events},
	"sensor": {needs: []string{"state_topic"}, may: []string{
		"value_template", "unit_of_measurement", "state_class", "suggested_display_precision", "expire_after", "force_update", "options", "last_reset_value_template",
	}},
	"binary_sensor": {needs: []string{"state_topic"}, may: []string{"value_template", "payload_on", "payload_off", "off_delay", "expire_after", "force_update"}, classes: binaries},
	"button":        {needs: []string{"command_topic"}, may: []string{"payload_press", "command_template", "retain"}, classes: buttons},
	"switch": {needs: []string{"command_topic"}, may: []string{
		"state_topic", "value_template", "payload_on", "payload_off", "state_on", "state_off", "optimistic", "retain", "command_template",
	}, classes: []string{"outlet", "switch"}},
	"number": {needs: []string{"command_topic", "min", "max"}, may: []string{
		"state_topic", "value_template", "command_template", "step", "mode", "unit_of_measurement", "optimistic", "retain", "payload_reset",
	}},
	"select": {needs: []string{"command_topic", "options"}, may: []string{"state_topic", "value_template", "command_template", "optimistic", "retain"}},
	"image":  {may: []string{"image_topic", "url_topic", "url_template", "content_type", "image_encoding"}},
	"camera": {needs: []string{"topic"}, may: []string{"image_encoding"}},
	"update": {needs: []string{"state_topic"}, may: []string{"value_template", "latest_version_topic", "latest_version_template", "title", "release_url", "release_summary"}, classes: []string{"firmware"}},
}

func (c *checker) component(of map[string]any, deviceName string) {
	name := text(of["platform"])
	if name == "device_automation" {
		c.trigger(of)
		return
	}
	p, known := platforms[name]
	if !known {
		c.add("platform %q is not one that is announced", name)
		return
	}
	if len(of) == 1 {
		return // it is being taken away
	}
	for _, key := range append([]string{"unique_id", "default_entity_id"}, p.needs...) {
		if of[key] == nil {
			c.add("%s is missing; %s needs it", key, name)
		}
	}
	for key := range of {
		if !slices.Contains(entityKeys, key) && !slices.Contains(p.needs, key) && !slices.Contains(p.may, key) && key != "device_class" {
			c.add("%s is not a key of %s, and is dropped", key, name)
		}
	}
	if domain, _, _ := strings.Cut(text(of["default_entity_id"]), "."); domain != name {
		c.add("default_entity_id %q does not begin with %s.", text(of["default_entity_id"]), name)
	}
	c.name(of, deviceName)
	c.class(name, p, of)
	c.topics(of)
	c.templates(of)
	c.optimistic(name, of)
	if list, there := of["availability"]; there {
		c.availability(list)
	}
	if category, there := of["entity_category"]; there && category != "diagnostic" && category != "config" {
		c.add("entity_category %v does not exist", category)
	}
	if name == "image" && (of["image_topic"] == nil) == (of["url_topic"] == nil) {
		c.add("image needs image_topic or url_topic, one of them")
	}
	if types, there := of["event_types"].([]any); there && len(types) == 0 {
		c.add("event_types is empty")
	}
}

// name checks what people read: names that begin with the device's stand there
// twice.
func (c *checker) name(of map[string]any, deviceName string) {
	value, there := of["name"]
	if !there {
		c.add("name is missing; Home Assistant would call it %s", text(of["platform"]))
	}
	name := text(value)
	if deviceName != "" && strings.HasPrefix(strings.ToLower(name), strings.ToLower(deviceName)) {
		c.add("name %q begins with the device's name, which then stands there twice", name)
	}
}

// class checks what is measured, in which unit, and how.
func (c *checker) class(name string, p platform, of map[string]any) {
	class, unit := text(of["device_class"]), text(of["unit_of_measurement"])
	switch {
	case class == "":
	case name == "sensor" || name == "number":
		units, known := sensors[class]
		if !known || name == "number" && slices.Contains(worded, class) {
			c.add("device_class %q is not one of %s", class, name)
		} else if units != nil && !slices.Contains(units, unit) {
			c.add("unit_of_measurement %q is not one of device_class %s", unit, class)
		}
	case !slices.Contains(p.classes, class):
		c.add("device_class %q is not one of %s", class, name)
	}
	if name != "sensor" {
		return
	}
	_, options := of["options"]
	if options != (class == "enum") {
		c.add("options go with device_class enum, and it with them")
	}
	state := text(of["state_class"])
	if state != "" && !slices.Contains(StateClasses(class), state) {
		c.add("state_class %s is not for device_class %s", state, cmp.Or(class, "none"))
	}
}

func (c *checker) topics(of map[string]any) {
	for key, value := range of {
		if strings.HasSuffix(key, "_topic") || key == "topic" {
			c.topicOf(key, value, key != "command_topic")
		}
	}
}

// templates checks that none fails on {}, on null, and on what is no JSON: each
// looks whether value_json is what it should be before it goes inside.
func (c *checker) templates(of map[string]any) {
	for key, value := range of {
		template := text(value)
		if !strings.HasSuffix(key, "_template") || key == "command_template" {
			continue
		}
		rest := template
		for _, safe := range []string{"value_json|default(", "value_json if value_json is mapping"} {
			rest = strings.ReplaceAll(rest, safe, "")
		}
		if strings.Contains(rest, "value_json") {
			c.add("%s %q uses value_json without a default", key, template)
		}
		if strings.Count(template, "{{") != strings.Count(template, "}}") || strings.Count(template, "{%") != strings.Count(template, "%}") {
			c.add("%s %q is not balanced", key, template)
		}
	}
}

// optimistic checks that nothing shows what was asked for in place of what is.
func (c *checker) optimistic(name string, of map[string]any) {
	if name != "switch" && name != "number" && name != "select" {
		return
	}
	if of["optimistic"] != false {
		c.add("optimistic is not false; the state is to follow the device")
	}
	if of["retain"] == true {
		c.add("retain is true; a command that is retained is given again on each connection")
	}
}

func (c *checker) trigger(of map[string]any) {
	if len(of) == 1 {
		return
	}
	for key := range of {
		if !slices.Contains([]string{"platform", "automation_type", "type", "subtype", "topic", "payload", "value_template", "qos"}, key) {
			c.add("%s is not a key of a trigger", key)
		}
	}
	for _, key := range []string{"type", "subtype", "topic"} {
		if text(of[key]) == "" {
			c.add("%s is missing; a trigger needs it", key)
		}
	}
	if of["automation_type"] != "trigger" {
		c.add("automation_type is not trigger")
	}
	c.topics(of)
	c.templates(of)
}
