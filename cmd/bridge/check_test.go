package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCheckListsWhatHomeAssistantIsTold, changes nothing, and shows the messages.
func TestCheckListsWhatHomeAssistantIsTold(t *testing.T) {
	state, file := t.TempDir(), filepath.Join(t.TempDir(), "config.yaml")
	run := func(yaml string, args ...string) string {
		t.Helper()
		if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		cmd := newCommand("event2mqtt")
		cmd.SetOut(&out)
		cmd.SetErr(&out)
		cmd.SetArgs(append([]string{"check", "--config", file, "--state-dir", state, "--home-assistant"}, args...))
		if err := cmd.Execute(); err != nil {
			t.Errorf("%v: %v", args, err)
		}
		if left, _ := os.ReadDir(state); len(left) > 0 {
			t.Errorf("the state folder has %v", left)
		}
		return out.String()
	}
	const washer = "sources: [{name: washer, type: webhook, entities: [{name: Door, kind: binary, from: open}]}]\n"
	for _, want := range []string{"event2mqtt (this program, event2mqtt_0a1b2c3d4e)", "washer (source washer, ", "binary_sensor.washer_door", "the id of this installation is made at the first start"} {
		if text := run(washer); !strings.Contains(text, want) {
			t.Errorf("it does not say %q:\n%s", want, text)
		}
	}
	if text := run(washer, "--print"); !strings.Contains(text, "homeassistant/device/event2mqtt_0a1b2c3d4e_washer/config\n{") || !strings.Contains(text, `"default_entity_id": "binary_sensor.washer_door"`) {
		t.Errorf("the messages are:\n%s", text)
	}
	if text := run("home_assistant: {discovery: false}\n"); !strings.Contains(text, "nothing is announced") {
		t.Errorf("without discovery:\n%s", text)
	}
}
