package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"event2mqtt/internal/testkit"
)

// TestPrintShowsValuesAsTheyAreWritten: durations without zeros, and a tab as in
// a text between quotes, so that columns stay columns.
func TestPrintShowsValuesAsTheyAreWritten(t *testing.T) {
	dir := t.TempDir()
	config := filepath.Join(dir, "c.yaml")
	if err := os.WriteFile(config, []byte("sinks: [{name: log, type: file, path: "+dir+"/x, template: \"{time}\\t{event}\"}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, _, err := execute(t, "check", "--print", "--config", config, "--state-dir", dir)
	if err != nil {
		t.Fatal(err)
	}
	lines := map[string]string{}
	for line := range strings.Lines(out) {
		key, value, _ := strings.Cut(line, ":")
		value, _, _ = strings.Cut(value, "# ")
		lines[key] = strings.TrimSpace(value)
	}
	for key, want := range map[string]string{"sinks[0].template": `"{time}\t{event}"`, "journal.keep": "24h", "journal.max_age": "7d", "shutdown_timeout": "10s"} {
		if lines[key] != want {
			t.Errorf("%s is printed as %s, not %s", key, lines[key], want)
		}
	}
}

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

// TestTheProbeSpeaksForItself: not for a program that goes on trying, and one
// check that fails is one.
func TestTheProbeSpeaksForItself(t *testing.T) {
	s := newSetup(t, "http: {listen: '127.0.0.1:0'}\nbroker: {listen: '127.0.0.1:0'}\nsources: [{name: o, type: octoprint, url: 'http://"+testkit.FreeAddress(t)+"', api_key: K}]\n")
	out, _, err := s.run("check", "--probe")
	if err == nil || err.Error() != "1 check failed" || !strings.Contains(out, "cannot be reached (connection refused); is it switched on and started, and is its url right?\n") {
		t.Errorf("%v\n%s", err, out)
	}
	help, _, _ := execute(t, "check", "--help")
	if !strings.Contains(help, "OctoPrint (log in with the key)") {
		t.Error(help)
	}
	if _, _, err := execute(t, "check", "--config", "nofile"); err == nil || !strings.Contains(err.Error(), "open nofile: no such file") {
		t.Error(err)
	}
}
