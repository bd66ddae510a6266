package schema_test

import (
	"encoding/json"
	"maps"
	"strings"
	"testing"

	"event2mqtt/internal/homeassistant/schema"
)

type group = map[string]any

// good is a message that nobody complains of.
func good() group {
	return group{
		"device":            group{"identifiers": []any{"x"}, "name": "Case", "configuration_url": "http://h/"},
		"origin":            group{"name": "event2mqtt"},
		"availability":      []any{group{"topic": "a", "payload_available": "on", "payload_not_available": "off"}},
		"availability_mode": "all",
		"components": group{
			"s": group{"platform": "sensor", "unique_id": "s", "default_entity_id": "sensor.s", "name": "Some", "state_topic": "a/+", "value_template": "{{ (value_json|default({}, true))['a'] }}"},
			"n": group{"platform": "number", "unique_id": "n", "default_entity_id": "number.n", "name": "Number", "command_topic": "c", "min": 0, "max": 1, "optimistic": false},
			"i": group{"platform": "image", "unique_id": "i", "default_entity_id": "image.i", "name": "Image", "image_topic": "i"},
			"e": group{"platform": "event", "unique_id": "e", "default_entity_id": "event.e", "name": "Event", "state_topic": "a", "event_types": []any{"A"}},
			"t": group{"platform": "device_automation", "automation_type": "trigger", "type": "event", "subtype": "A", "topic": "t"},
			"g": group{"platform": "sensor"},
			"f": group{"platform": "device_automation"},
		},
	}
}

// TestEachTrapIsSeen: whatever Home Assistant was seen to warn of, to refuse, or
// to drop without a word.
func TestEachTrapIsSeen(t *testing.T) {
	const topic = "homeassistant/device/n/x/config"
	root := func(key string, value any) func(group) { return func(m group) { m[key] = value } }
	in := func(key, field string, value any) func(group) {
		return func(m group) {
			of, there := m[key].(group)
			if !there {
				of = m["components"].(group)[key].(group)
			}
			if of[field] = value; value == nil {
				delete(of, field)
			}
		}
	}
	for _, c := range []struct {
		name   string
		change func(group)
		want   string // "" is good
	}{
		{"as it is", func(group) {}, ""},
		{"an unknown key at the root", root("foo", 1), `has the key "foo"`},
		{"retain at the root", root("retain", true), `has the key "retain"`},
		{"an unknown key in device", in("device", "foo", 1), `device has the key "foo"`},
		{"an area", in("device", "suggested_area", "Cellar"), `device has the key "suggested_area"`},
		{"devices of a device", root("child_devices", group{}), `has the key "child_devices"`},
		{"an unknown key in origin", in("origin", "foo", 1), `origin has the key "foo"`},
		{"no origin", func(m group) { delete(m, "origin") }, "origin has no name"},
		{"no identifiers", in("device", "identifiers", nil), "no identifiers"},
		{"a link that is none", in("device", "configuration_url", "x"), "configuration_url"},
		{"availability twice", root("availability_topic", "a"), "exclude each other"},
		{"a mode that does not exist", root("availability_mode", "some"), "availability_mode"},
		{"no components", root("components", group{}), "no components"},
		{"an entity without an id", in("s", "unique_id", nil), "unique_id is missing"},
		{"an entity that is disabled at first", in("s", "enabled_by_default", false), "enabled_by_default is not a key"},
		{"object_id", in("s", "object_id", "s"), "object_id is not a key"},
		{"an id of another domain", in("s", "default_entity_id", "switch.s"), "does not begin with sensor."},
		{"a name that begins with the device's", in("s", "name", "Case some"), "begins with the device's name"},
		{"a template of a missing key", in("s", "value_template", "{{ value_json.a }}"), "without a default"},
		{"a template that does not end", in("s", "value_template", "{{ 1"), "not balanced"},
		{"options of what is no enum", in("s", "options", []any{"a"}), "options go with"},
		{"an enum without options", in("s", "device_class", "enum"), "options go with"},
		{"a unit of another class", func(m group) { in("s", "device_class", "temperature")(m); in("s", "unit_of_measurement", "%")(m) }, "is not one of device_class temperature"},
		{"a class that does not exist", in("s", "device_class", "mood"), `device_class "mood"`},
		{"a measurement that adds up", func(m group) {
			in("s", "device_class", "energy")(m)
			in("s", "unit_of_measurement", "Wh")(m)
			in("s", "state_class", "measurement")(m)
		}, "state_class measurement is not for"},
		{"a total of what does not add up", func(m group) {
			in("s", "device_class", "power")(m)
			in("s", "unit_of_measurement", "W")(m)
			in("s", "state_class", "total")(m)
		}, "state_class total is not for"},
		{"a state class that does not exist", in("s", "state_class", "sum"), "state_class sum is not for"},
		{"an event entity without types", in("e", "event_types", nil), "event_types is missing"},
		{"no types", in("e", "event_types", []any{}), "event_types is empty"},
		{"an image of nothing", in("i", "image_topic", nil), "image needs"},
		{"a command for all", in("n", "command_topic", "a/+"), "holds a wildcard"},
		{"a wildcard in a level", in("s", "state_topic", "a/b+"), "beside other text"},
		{"a number that shows what is asked for", in("n", "optimistic", nil), "optimistic is not false"},
		{"a command that is retained", in("n", "retain", true), "retain is true"},
		{"a trigger twice", func(m group) { m["components"].(group)["u"] = maps.Clone(m["components"].(group)["t"].(group)) }, "has the same trigger event A"},
		{"a trigger without a subtype", in("t", "subtype", nil), "subtype is missing"},
		{"an id twice", in("i", "default_entity_id", "image.i"), ""},
		{"a unique id twice", func(m group) {
			m["components"].(group)["u"] = maps.Clone(m["components"].(group)["s"].(group))
		}, "has the same unique_id s on sensor"},
		{"an unknown platform", in("g", "platform", "toaster"), `platform "toaster"`},
	} {
		m := good()
		c.change(m)
		text, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		said := strings.Join(schema.Check("homeassistant", topic, text), "\n")
		if c.want == "" && said != "" || !strings.Contains(said, c.want) {
			t.Errorf("%s: %q, want %q", c.name, said, c.want)
		}
	}
}

// TestTopicsAndIdsAreLookedAtToo.
func TestTopicsAndIdsAreLookedAtToo(t *testing.T) {
	text, _ := json.Marshal(good())
	for _, topic := range []string{"homeassistant/device/a.b/config", "homeassistant/sensor/a/config", "ha/device/a/config", "homeassistant/device/a/b/c/config", "homeassistant/device//config"} {
		if len(schema.Check("homeassistant", topic, text)) == 0 {
			t.Errorf("%s is good", topic)
		}
	}
	if said := schema.CheckAll(map[string][]byte{"a": text, "b": text}); len(said) == 0 {
		t.Error("two devices with one id are good")
	}
}
