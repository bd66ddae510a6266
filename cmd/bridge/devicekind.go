package main

import (
	"encoding/hex"
	"fmt"
	"io"
	"strings"

	"event2mqtt/internal/broker/accounts"
)

// This file is what is known of the devices that --for names.

// kind is a device that --for names. Those without rules and snippet are any.
type kind struct {
	// checkName tells why topics cannot have a name that rules are made for.
	checkName func(name string) error
	// rules are what a device of that name needs. %c is its client id.
	rules func(name string) []string
	// user is that it gets no client id that nobody else may use.
	user bool
	// show prints what is entered on the device, in its own words.
	show func(w io.Writer, c credentials) error
}

// kinds are the values of --for, and what each stands for.
var kinds = map[string]kind{
	"tasmota":       {checkName: checkTasmotaName, rules: tasmotaRules, show: showTasmota},
	"esphome":       {checkName: checkESPHomeName, rules: espHomeRules, show: showESPHome},
	"homeassistant": {rules: func(string) []string { return accounts.Everything().Strings() }, user: true, show: showHomeAssistant},
}

// kindNames are the keys of kinds as people are told of them.
var kindNames = []string{"tasmota", "esphome", "homeassistant"}

// tasmotaRules are for Tasmota's default FullTopic, %prefix%/%topic%/: what it
// reports, its answers, its commands (it empties one itself when it connects),
// those to all devices, those to its fallback topic, which has its client id, and
// what Home Assistant finds it by.
func tasmotaRules(name string) []string {
	return []string{"tele/" + name + "/#:rw", "stat/" + name + "/#:w", "cmnd/" + name + "/#:rw", "cmnd/tasmotas/#:r", "cmnd/%c_fb/#:r", "tasmota/discovery/#:w"}
}

// espHomeRules are for topics below the device's name: its values, commands and
// log, what Home Assistant finds it by, and how ESPHome's tools ask for its
// address (discover_ip).
func espHomeRules(name string) []string {
	return []string{name + "/#:rw", "homeassistant/+/" + name + "/#:w", "esphome/discover:r", "esphome/ping/" + name + ":r", "esphome/discover/" + name + ":w"}
}

func checkTasmotaName(name string) error {
	switch {
	case strings.Contains(name, "tasmotas"):
		return fmt.Errorf("%q cannot be the topic of one Tasmota device: tasmotas is that of all; choose another name", name)
	case name == "0" || name == "1" || name == "2":
		return fmt.Errorf("%q cannot be the topic of a Tasmota device, to which it means that of its firmware; choose another name, such as plug%s", name, name)
	}
	return checkTopic(name, "the topic of a Tasmota device", "letters without accents, digits, - and _", 32, func(r rune) bool {
		return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_'
	})
}

// checkESPHomeName asks for what ESPHome takes as the name of a device.
func checkESPHomeName(name string) error {
	return checkTopic(name, "the name of an ESPHome device", "small letters without accents, digits and -", 31, func(r rune) bool {
		return 'a' <= r && r <= 'z' || '0' <= r && r <= '9' || r == '-'
	})
}

// checkTopic tells what keeps a name from being what, and which one would do.
func checkTopic(name, what, allowed string, longest int, good func(r rune) bool) error {
	wrong := ""
	fits := strings.Map(func(r rune) rune {
		if good(r) {
			return r
		}
		if wrong == "" {
			wrong = string(r)
		}
		if lower := r | 0x20; good(lower) && 'A' <= r && r <= 'Z' {
			return lower
		}
		return '-'
	}, name)
	fits = strings.Trim(fits[:min(len(fits), longest)], "-")
	switch {
	case fits == name && name != "":
		return nil
	case fits == "":
		return fmt.Errorf("%q cannot be %s; use up to %d %s", name, what, longest, allowed)
	case wrong == "":
		return fmt.Errorf("%q cannot be %s; use up to %d %s, such as %s", name, what, longest, allowed, fits)
	}
	return fmt.Errorf("%q cannot be %s because of %q; use up to %d %s, such as %s", name, what, wrong, longest, allowed, fits)
}

// tasmotaClient is the client id that a Tasmota device has by default: that of
// the last three bytes of its MAC address.
func tasmotaClient(mac string) (string, error) {
	digits := strings.NewReplacer(":", "", "-", "").Replace(mac)
	if raw, err := hex.DecodeString(digits); err != nil || len(raw) != 6 {
		return "", fmt.Errorf("--mac %s: that is not a MAC address; it has twelve digits, such as A4:CF:12:DD:EE:01, and is on the device's page Information", mac)
	}
	return "DVES_" + strings.ToUpper(digits[6:]), nil
}

// showTasmota prints what is entered in the console, as one line: it restarts at
// its end.
func showTasmota(w io.Writer, c credentials) error {
	topic := ""
	if c.mayWrite("tele/" + c.Username + "/LWT") { // else its rules are for another
		topic = "Topic " + c.Username + "; FullTopic %prefix%/%topic%/; SetOption19 0; "
	}
	_, err := fmt.Fprintf(w, "Backlog %sMqttHost %s; MqttPort %d; MqttClient %s; MqttUser %s; MqttPassword %s\n", topic, c.Host, c.Port, c.ClientID, c.Username, c.Password)
	return err
}

func showESPHome(w io.Writer, c credentials) error {
	topic, name := "", ""
	if c.mayWrite(c.Username + "/status") {
		topic = fmt.Sprintf("  topic_prefix: %q\n", c.Username)
	}
	if c.mayWrite("homeassistant/switch/" + c.Username + "/relay/config") {
		name = "# The name under \"esphome:\" must be " + c.Username + ", or Home Assistant does not find the device.\n"
	}
	_, err := fmt.Fprintf(w, "%smqtt:\n  broker: %s\n  port: %d\n  client_id: %q\n  username: %q\n  password: %q\n%s", name, c.Host, c.Port, c.ClientID, c.Username, c.Password, topic)
	return err
}

// showHomeAssistant prints what its form asks for, in its order. Versions before
// 2026.6 ask for less.
func showHomeAssistant(w io.Writer, c credentials) error {
	rest := `Leave "Other settings" as they are; the client ID there stays empty. Older versions call them "Advanced
options" and do not ask for the protocol; leave all that as it is, too.
`
	if c.ClientID != "" {
		rest = fmt.Sprintf(`Under "Other settings" (in older versions "Advanced options", of which the client ID is only shown to users with
advanced mode, and the protocol may stay as it is):

  Client ID         %s
`, c.ClientID)
	}
	_, err := fmt.Fprintf(w, `In Home Assistant: Settings, Devices & services, Add integration, MQTT. Enter

  Broker            %s
  Port              %d
  Username          %s
  Password          %s
  MQTT protocol     5

%s
`, c.Host, c.Port, c.Username, c.Password, strings.TrimSuffix(rest, "\n"))
	return err
}
