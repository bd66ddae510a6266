package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"event2mqtt/internal/homeassistant/schema"
	"event2mqtt/internal/testkit"
)

// classesOf prints what Home Assistant itself knows of classes. It writes units
// with another sign for millionths since 2025.11, and takes the old one for it.
const classesOf = `
import json
from homeassistant.components.binary_sensor import BinarySensorDeviceClass
from homeassistant.components.sensor import const
print(json.dumps({
    "units": {k.value: [str(u or "").replace("\u03bc", "\u00b5") for u in v] for k, v in const.DEVICE_CLASS_UNITS.items()},
    "states": {k.value: [str(s.value) for s in v] for k, v in const.DEVICE_CLASS_STATE_CLASSES.items()},
    "binary": [c.value for c in BinarySensorDeviceClass],
}))`

type classes struct {
	Units  map[string][]string `json:"units"`
	States map[string][]string `json:"states"`
	Binary []string            `json:"binary"`
}

// TestClassesAreThoseOfHomeAssistant, with their units: check refuses others. What
// an old and a new version know is not refused.
func TestClassesAreThoseOfHomeAssistant(t *testing.T) {
	var common map[string][]string
	asked := 0
	withHomeAssistant(t, func(t *testing.T, program string) {
		python := []string{filepath.Join(filepath.Dir(program), "python")}
		if _, err := os.Stat(python[0]); err != nil { // it is in a system of its own
			python = []string{filepath.Join(filepath.Dir(program), "in"), "/opt/homeassistant/bin/python"}
		}
		cmd := exec.Command(python[0], append(python[1:], "-")...)
		cmd.Stdin = strings.NewReader(classesOf)
		text, err := cmd.Output()
		testkit.OK(t, err)
		var theirs classes
		testkit.OK(t, json.Unmarshal(text, &theirs))
		for _, class := range schema.SensorClasses() {
			for _, unit := range schema.Units(class) {
				if !slices.Contains(theirs.Units[class], unit) {
					t.Errorf("it has no unit %q of %s", unit, class)
				}
			}
			for _, state := range schema.StateClasses(class) {
				if all := theirs.States[class]; all != nil && !slices.Contains(all, state) {
					t.Errorf("it has no state class %s of %s", state, class)
				}
			}
		}
		for _, class := range schema.BinaryClasses() {
			if !slices.Contains(theirs.Binary, class) {
				t.Errorf("it has no binary class %s", class)
			}
		}
		if asked++; asked == 1 {
			common = theirs.Units
			return
		}
		for class, units := range common {
			common[class] = slices.DeleteFunc(units, func(unit string) bool { return !slices.Contains(theirs.Units[class], unit) })
		}
	})
	if asked < len(homeAssistantVersions) {
		return // a new one alone knows more
	}
	for class, units := range common {
		for _, unit := range units {
			if !schema.Sensor(class, unit) {
				t.Errorf("%q is refused for %s, which all versions know", unit, class)
			}
		}
	}
}
