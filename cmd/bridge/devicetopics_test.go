package main

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"event2mqtt/internal/testkit"
	"event2mqtt/internal/wire"
	"event2mqtt/test/mqttest"
)

// TestNamesThatReachTopicsOfOthersAreRefused: rules that are made for a name must
// not cover what event2mqtt, Home Assistant or all devices publish.
func TestNamesThatReachTopicsOfOthersAreRefused(t *testing.T) {
	state := t.TempDir()
	for line, want := range map[string]string{
		"homeassistant|--for|esphome":                                                                  "may write homeassistant/#: these topics are those of Home Assistant; choose another name, such as my-homeassistant",
		"event2mqtt|--for|esphome":                                                                     "those of event2mqtt; choose another name",
		"event2mqtt|--for|esphome|--set|publish.base_topic=home":                                       "those of event2mqtt; choose another name", // another one's
		"zigbee2mqtt|--for|esphome":                                                                    "those of Zigbee2MQTT; choose another name",
		"tasmota|--for|esphome":                                                                        "those of Tasmota devices",
		"tele|--for|esphome":                                                                           "those of Tasmota devices",
		"stat|--for|esphome":                                                                           "those of Tasmota devices",
		"cmnd|--for|esphome":                                                                           "those of Tasmota devices",
		"esphome|--for|esphome":                                                                        "those of all ESPHome devices",
		"home|--for|esphome|--set|publish.base_topic=home":                                             `it may write home/#, and publish.base_topic is home, so that it could speak for event2mqtt or Home Assistant; choose another name, such as my-home`,
		"home|--for|esphome|--set|publish.base_topic=home/e2m":                                         "publish.base_topic is home/e2m",
		"ha|--for|esphome|--set|home_assistant.prefix=ha":                                              "it may write ha/#, and home_assistant.prefix is ha",
		"ha|--for|esphome|--set|home_assistant.prefix=ha/found":                                        "home_assistant.prefix is ha/found",
		"born|--for|esphome|--set|home_assistant.birth_topic=born/status":                              "home_assistant.birth_topic is born/status",
		"shop|--for|esphome|--set|publish.event_topic=shop/{source}/{event}":                           "publish.event_topic is shop/{source}/{event}, so that",
		"shop|--for|esphome|--set|publish.state_topic=shop/{source}/{key}":                             "publish.state_topic is shop/{source}/{key}, so that",
		"any|--for|esphome|--set|publish.base_topic=esphome":                                           "set another publish.base_topic first",
		"workshop|--for|esphome|--set|home_assistant.node=workshop":                                    "it is home_assistant.node, so that the device could write what event2mqtt announces to Home Assistant; choose another name, such as my-workshop",
		"kitchen|--for|tasmota|--set|publish.base_topic=tele/kitchen":                                  "it may write tele/kitchen/#, and publish.base_topic is tele/kitchen, so that it could speak for event2mqtt or Home Assistant; choose another name, such as my-kitchen",
		"kitchen|--for|tasmota|--set|publish.base_topic=tele":                                          "set another publish.base_topic first",
		"found|--for|tasmota|--set|home_assistant.prefix=cmnd/found":                                   "home_assistant.prefix is cmnd/found",
		strings.Repeat("x", 31) + "|--for|esphome|--set|publish.base_topic=" + strings.Repeat("x", 31): "such as my-" + strings.Repeat("x", 28),
	} {
		out, _, err := execute(t, append([]string{"device", "add", "--state-dir", state}, strings.Split(line, "|")...)...)
		if err == nil || !strings.Contains(err.Error(), want) || out != "" {
			t.Errorf("%s: %v; want %s; it prints %s", line, err, want, out)
		}
	}
	if out, _, err := execute(t, "device", "list", "--state-dir", state); err != nil || out != "there are no devices\n" {
		t.Errorf("stored: %s, %v", out, err)
	}
	for _, line := range []string{ // what is none of these
		"homeassistant|--for|tasmota", "porch|--for|esphome|--set|publish.base_topic=home/porch", "ha|--for|esphome", "workshop|--for|esphome|--set|home_assistant.node=Workshop",
		"event2mqtt|--allow|x/#:rw", // rules of one's own
	} {
		if _, _, err := execute(t, append([]string{"device", "add", "--state-dir", state}, strings.Split(line, "|")...)...); err != nil {
			t.Errorf("%s: %v", line, err)
		}
	}
}

// TestDevicesFollowTheConfigurationThatRuns, or that is named; without one that
// can be read no rules are made by guess.
func TestDevicesFollowTheConfigurationThatRuns(t *testing.T) {
	state := t.TempDir()
	runs := testkit.Write(t, filepath.Join(t.TempDir(), "c.yaml"), "publish: {base_topic: home}\n")
	testkit.Write(t, filepath.Join(state, "control.json"), `{"url":"http://127.0.0.1:1","token":"t","config":"`+runs+`"}`)
	if _, _, err := execute(t, "device", "add", "home", "--for", "esphome", "--state-dir", state); err == nil || !strings.Contains(err.Error(), "publish.base_topic is home") {
		t.Errorf("the base topic of the program that runs: %v", err)
	}
	named := testkit.Write(t, filepath.Join(t.TempDir(), "c.yaml"), "publish: {base_topic: other}\n")
	_, _, err := execute(t, "device", "add", "home", "--for", "esphome", "--state-dir", state, "--config", named)
	testkit.OK(t, err)
	testkit.Write(t, runs, "publish: [\n")
	if _, _, err := execute(t, "device", "add", "porch", "--for", "esphome", "--state-dir", state); err == nil || !strings.Contains(err.Error(), "no account was changed") {
		t.Errorf("a configuration that cannot be read: %v", err)
	}
	_, _, err = execute(t, "device", "add", "lamp", "--for", "tasmota", "--allow", "x:rw", "--state-dir", state) // nothing depends on it
	testkit.OK(t, err)
}

// TestAnESPHomeIsFoundBelowAnotherPrefix, the one that Home Assistant and
// event2mqtt use; the snippet names it.
func TestAnESPHomeIsFoundBelowAnotherPrefix(t *testing.T) {
	h := newHome(t)
	out := h.add("porch", "--for", "esphome", "--set", "home_assistant.prefix=ha/found")
	if !strings.HasSuffix(out, "  topic_prefix: \"porch\"\n  discovery_prefix: \"ha/found\"\n") || !strings.HasPrefix(out, "# The name") {
		t.Errorf("it prints\n%s", out)
	}
	again, _, err := execute(t, "device", "reset", "porch", "--for", "esphome", "--json", "--state-dir", h.state)
	testkit.OK(t, err)
	_, err = h.file.Reload()
	testkit.OK(t, err)
	var is credentials
	testkit.OK(t, json.Unmarshal([]byte(again), &is))
	device := h.dial(mqttest.Options{Version: wire.V5, ID: is.ClientID, User: is.Username, Password: is.Password})
	for at, want := range map[string]bool{"ha/found/switch/porch/relay/config": true, "homeassistant/switch/porch/relay/config": false, "ha/found/switch/bedroom/relay/config": false} {
		if code := publishes(t, device, at); (code < 0x80) != want {
			t.Errorf("publish %s: 0x%02x", at, byte(code))
		}
	}
	for prefix, want := range map[string]bool{"ha/found": true, "another": false} {
		out, _, err := execute(t, "device", "reset", "porch", "--for", "esphome", "--state-dir", h.state, "--set", "home_assistant.prefix="+prefix)
		if err != nil || strings.Contains(out, "discovery_prefix: \""+prefix) != want || strings.Contains(out, "# The name") != want {
			t.Errorf("reset with %s: %v\n%s", prefix, err, out)
		}
	}
}

// TestATasmotaWhoseAddressIsKnownAnnouncesNoOther.
func TestATasmotaWhoseAddressIsKnownAnnouncesNoOther(t *testing.T) {
	h := newHome(t)
	var is credentials
	testkit.OK(t, json.Unmarshal([]byte(h.add("hall", "--for", "tasmota", "--mac", "a4-cf-12-dd-ee-01", "--json")), &is))
	if !slices.Contains(is.Allow, "tasmota/discovery/A4CF12DDEE01/#:w") {
		t.Errorf("its rules are %v", is.Allow)
	}
	device := h.dial(mqttest.Options{Version: wire.V5, ID: is.ClientID, User: is.Username, Password: is.Password})
	for at, want := range map[string]bool{
		"tasmota/discovery/A4CF12DDEE01/config": true, "tasmota/discovery/A4CF12DDEE01/sensors": true,
		"tasmota/discovery/A4CF12DDEE02/config": false, "tasmota/discovery/x": false, "tasmota/discovery": false,
	} {
		if code := publishes(t, device, at); (code < 0x80) != want {
			t.Errorf("publish %s: 0x%02x", at, byte(code))
		}
	}
}

// publishes publishes to a topic, and returns what the broker says of it.
func publishes(t *testing.T, c *mqttest.Client, topic string) wire.Code {
	t.Helper()
	testkit.OK(t, c.Send(wire.Publish{Topic: topic, QoS: 1, PacketID: 7}))
	body, err := c.Expect(wire.PUBACK)
	testkit.OK(t, err)
	if len(body) < 3 {
		return 0
	}
	return wire.Code(body[2])
}
