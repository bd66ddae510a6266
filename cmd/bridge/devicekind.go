package main

import (
	"cmp"
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
	checkName func(name string, own *ownTopics) error
	// rules are what a device needs. %c is its client id.
	rules func(of ask) []string
	// user is that it gets no client id that nobody else may use.
	user bool
	// discovers is that it announces itself below home_assistant.prefix.
	discovers bool
	// show prints what is entered on the device, in its own words.
	show func(w io.Writer, c credentials) error
}

// ask is for whom rules are made.
type ask struct {
	name   string
	mac    string // twelve digits, with capitals; empty if it is not known
	prefix string // home_assistant.prefix
}

// kinds are the values of --for, and what each stands for.
var kinds = map[string]kind{
	"tasmota":       {checkName: checkTasmotaName, rules: tasmotaRules, show: showTasmota},
	"esphome":       {checkName: checkESPHomeName, rules: espHomeRules, discovers: true, show: showESPHome},
	"homeassistant": {rules: func(ask) []string { return accounts.Everything().Strings() }, user: true, show: showHomeAssistant},
}

// kindNames are the keys of kinds as people are told of them.
var kindNames = []string{"tasmota", "esphome", "homeassistant"}

// tasmotaRules are for Tasmota's default FullTopic, %prefix%/%topic%/: what it
// reports, its answers, its commands (it empties one itself when it connects),
// those to all devices, those to its fallback topic, which has its client id, and
// what Home Assistant finds it by: tasmota/discovery/MAC/config and sensors.
func tasmotaRules(of ask) []string {
	found := "tasmota/discovery/#:w"
	if of.mac != "" {
		found = "tasmota/discovery/" + of.mac + "/#:w"
	}
	return append(tasmotaTopics(of.name), "cmnd/tasmotas/#:r", "cmnd/%c_fb/#:r", found)
}

// tasmotaTopics are the rules for those of its own.
func tasmotaTopics(name string) []string {
	return []string{"tele/" + name + "/#:rw", "stat/" + name + "/#:w", "cmnd/" + name + "/#:rw"}
}

// espHomeRules are for topics below the device's name: its values, commands and
// log, what Home Assistant finds it by, and how ESPHome's tools ask for its
// address (discover_ip).
func espHomeRules(of ask) []string {
	return append(espHomeTopics(of.name), of.prefix+"/+/"+of.name+"/#:w", "esphome/discover:r", "esphome/ping/"+of.name+":r")
}

// espHomeTopics are the rules for those of its own.
func espHomeTopics(name string) []string {
	return []string{name + "/#:rw", "esphome/discover/" + name + ":w"}
}

const (
	aTasmota  = "the topic of a Tasmota device"
	anESPHome = "the name of an ESPHome device"
)

func checkTasmotaName(name string, own *ownTopics) error {
	switch {
	case strings.Contains(name, "tasmotas"):
		return fmt.Errorf("%q cannot be the topic of one Tasmota device: tasmotas is that of all; choose another name", name)
	case name == "0" || name == "1" || name == "2":
		return fmt.Errorf("%q cannot be the topic of a Tasmota device, to which it means that of its firmware; choose another name, such as plug%s", name, name)
	}
	err := checkTopic(name, aTasmota, "letters without accents, digits, - and _", 32, func(r rune) bool {
		return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_'
	})
	return cmp.Or(err, own.check(name, aTasmota, tasmotaTopics))
}

// checkESPHomeName asks for what ESPHome takes as the name of a device, and for
// one whose topics are nobody else's.
func checkESPHomeName(name string, own *ownTopics) error {
	err := checkTopic(name, anESPHome, "small letters without accents, digits and -", 31, func(r rune) bool {
		return 'a' <= r && r <= 'z' || '0' <= r && r <= '9' || r == '-'
	})
	if err = cmp.Or(err, checkRoot(name, anESPHome), own.check(name, anESPHome, espHomeTopics)); err == nil && name == own.node {
		err = fmt.Errorf("%q cannot be %s: it is home_assistant.node, so that the device could write what event2mqtt announces to Home Assistant; choose another name, such as %s", name, anESPHome, instead(name))
	}
	return err
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

// macDigits are the digits of a MAC address, as Tasmota writes them in topics.
func macDigits(mac string) (string, error) {
	digits := strings.NewReplacer(":", "", "-", "").Replace(mac)
	if raw, err := hex.DecodeString(digits); err != nil || len(raw) != 6 {
		return "", fmt.Errorf("--mac %s: that is not a MAC address; it has twelve digits, such as A4:CF:12:DD:EE:01, and is on the device's page Information", mac)
	}
	return strings.ToUpper(digits), nil
}

// tasmotaClient is the client id that a Tasmota device has by default: that of
// the last three bytes of its MAC address, which is given as macDigits.
func tasmotaClient(mac string) string { return "DVES_" + mac[6:] }

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
	if c.mayWrite(c.prefix + "/switch/" + c.Username + "/relay/config") {
		name = "# The name under \"esphome:\" must be " + c.Username + ", or Home Assistant does not find the device.\n"
		if c.prefix != defaultPrefix {
			topic += fmt.Sprintf("  discovery_prefix: %q\n", c.prefix)
		}
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
