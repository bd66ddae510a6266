package homeassistant_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"event2mqtt/internal/device"
	"event2mqtt/internal/homeassistant"
	"event2mqtt/internal/homeassistant/schema"
)

var update = flag.Bool("update", false, "write the golden files")

var setup = homeassistant.Setup{
	Prefix: "homeassistant", Installation: "event2mqtt_0a1b2c3d4e", Version: "1.2.3", QoS: 1,
	Bridge: homeassistant.Availability{Topic: "event2mqtt/mqtt", Available: "connected", NotThere: "disconnected"},
}

// thing is one of a source, with topics as they are by default.
func thing(source string, d device.Device) *homeassistant.Thing {
	below := "event2mqtt/" + source + "/"
	return &homeassistant.Thing{
		ID: homeassistant.ID(source), Device: d,
		Available: homeassistant.Availability{Topic: below + "available", Available: "online", NotThere: "offline"},
		State:     func(key string) string { return below + key },
		Command:   func(call string) string { return below + "set/" + call },
		Events: homeassistant.Events{Filter: below + "event/+", Topic: func(name string) string {
			if strings.ContainsAny(name, " '") {
				return ""
			}
			return below + "event/" + name
		}},
	}
}

// printer has everything that a device may have.
func printer() device.Device {
	return device.Device{
		ID: "octoprint-1", Name: "Prusa MK4", Manufacturer: "OctoPrint", Model: "MK4S", Version: "1.11.3", URL: "http://octopi.local/",
		Events: []string{"PrintStarted", "PrintDone", "ClientOpened"}, Notable: []string{"PrintStarted", "PrintDone"}, Triggers: []string{"PrintDone"},
		Entities: []device.Entity{
			{Key: "status", Name: "Status", State: "state", Value: "text", Kind: device.Text},
			{Key: "printing", Name: "Printing", State: "state", Value: "flags.printing", Kind: device.Binary, Class: "running"},
			{Key: "octoprint", Name: "OctoPrint", State: "mqtt", Kind: device.Binary, On: "connected", Off: "disconnected", Class: "connectivity", Diagnostic: true},
			{Key: "connection", Name: "Prusa MK4 connection", State: "connection", Value: "state", Kind: device.Enum, Options: []string{"connected", "error"}, Diagnostic: true},
			{Key: "progress", Name: "Progress", State: "progress", Value: "completion", Kind: device.Number, Unit: "%"},
			{Key: "left", Name: "Time left", State: "progress", Value: "printTimeLeft", Kind: device.Number, Unit: "s", Class: "duration"},
			{Key: "eta", Name: "Print ends", State: "progress", Value: "eta", Kind: device.Timestamp, Class: "timestamp"},
			{Key: "tool0", Name: "Tool 0", State: "temperature/tool0", Value: "actual", Kind: device.Number, Unit: "°C", Class: "temperature"},
			{Key: "odd", Name: "Odd", State: "odd", Kind: device.Number, Unit: "furlong", Class: "distance"},
			{Key: "z", Name: "Z", State: "position", Value: "z", Kind: device.Number, Unit: "mm", Hidden: true},
			{Key: "used", Name: "Used", State: "used", Kind: device.Number, Unit: "kWh", Class: "energy"},
			{Key: "event", Name: "An entity called event", State: "event", Kind: device.Text},
			{Key: "snapshot", Name: "Snapshot", State: "snapshot", Kind: device.Image},
		},
		Commands: []device.Command{
			{Key: "pause", Name: "Pause"},
			{Key: "home", Call: "gcode", Kind: device.Button, Payload: "home"},
			{Key: "bed_set", Call: "temperature", Name: "Bed target", Kind: device.Setting, Payload: `{"bed":{value}}`, Max: 120, Step: 1, Unit: "°C", Class: "temperature", State: "temperature/bed", Value: "target"},
		},
	}
}

// things are of every kind.
func things() map[string]*homeassistant.Thing {
	bridge := &homeassistant.Thing{
		Device: device.Device{
			Name: "event2mqtt", Model: "Event to MQTT bridge", Version: "1.2.3",
			Entities: []device.Entity{{Key: "problem", Name: "Problem", State: "status", Value: "problem", Kind: device.Binary, Class: "problem", Attributes: true}},
			Commands: []device.Command{{Key: "reload", Name: "Reload configuration"}},
		},
		State:   func(key string) string { return "event2mqtt/bridge/" + key },
		Command: func(call string) string { return "event2mqtt/bridge/set/" + call },
	}
	washer := thing("washer", device.Device{
		ID: "washer", Name: "washer", Triggers: []string{"Finished"}, Events: []string{"Finished", "Started", `O'Brien {{ 1 }} %} \ "x" ü 🖨`},
		Entities: []device.Entity{
			{Key: "last_event", Name: "Last event", State: "last_event", Value: "event", Kind: device.Text, Attributes: true},
			{Key: "door", Name: "Door", State: "door", Kind: device.Binary, Class: "door"},
			{Key: "power", Name: "Power", State: "power", Kind: device.Number, Unit: "W", Class: "power"},
			{Key: "energy", Name: "Energy", State: "energy", Kind: device.Number, Unit: "kWh", Class: "energy"},
			{Key: "water", Name: "Water", State: "water", Kind: device.Number, Unit: "L", Class: "water", Statistics: "total"},
			{Key: "gas", Name: "Gas of the last time", State: "gas", Kind: device.Number, Unit: "m³", Class: "gas", Statistics: "none"},
			{Key: "turns", Name: "Turns", State: "turns", Kind: device.Number, Statistics: "total_increasing"},
			{Key: "price", Name: "Price", State: "price", Kind: device.Number, Unit: "EUR", Class: "monetary"},
			{Key: "temperature", Name: "温度", State: "temperature", Kind: device.Number, Unit: "°C", Class: "temperature"},
			{Key: "program", Name: "Program", State: "program", Kind: device.Text},
		},
	})
	shared := thing("log file", device.Device{ID: "log", Name: "Büro", Triggers: []string{"Fail it"}, Events: []string{"Fail it"}})
	shared.Events = homeassistant.Events{Filter: "event2mqtt/event/+", Key: "_source", Source: "log file"}
	return map[string]*homeassistant.Thing{"bridge": bridge, "printer": thing("mk4", printer()), "webhook": washer, "shared": shared}
}

// TestPayloadsAreAsBefore, and Home Assistant would not complain of any.
func TestPayloadsAreAsBefore(t *testing.T) {
	all := map[string][]byte{}
	for name, of := range things() {
		m := setup.Announce(of)
		all[m.Topic] = m.Payload()
		for _, text := range schema.Check("homeassistant", m.Topic, m.Payload()) {
			t.Errorf("%s: %s", name, text)
		}
		var pretty bytes.Buffer
		if err := json.Indent(&pretty, m.Payload(), "", "  "); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join("testdata", name+".json")
		content := m.Topic + "\n" + pretty.String() + "\n"
		if *update {
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		before, err := os.ReadFile(path)
		if err != nil || string(before) != content {
			t.Errorf("%s is another (%v); if that is meant: go test ./internal/homeassistant -update\n%s", path, err, content)
		}
	}
	for _, text := range schema.CheckAll(all) {
		t.Error(text)
	}
}
