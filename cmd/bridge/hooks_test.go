package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"event2mqtt/internal/testkit"
)

// TestTheHooksOfTheManualAreSafe: each runs in a shell that it asks for, quotes
// nothing by itself that OctoPrint quotes, and shows what a refusal says. One
// that appends to a file writes what a tail reads, whatever a file is called.
func TestTheHooksOfTheManualAreSafe(t *testing.T) {
	manuals, err := filepath.Glob("../../docs/*.md")
	testkit.OK(t, err)
	hooks := 0
	for _, manual := range append(manuals, "../../README.md") {
		text, err := os.ReadFile(manual)
		testkit.OK(t, err)
		for _, block := range regexp.MustCompile("(?s)```yaml\n(events:\n.*?)```").FindAllStringSubmatch(string(text), -1) {
			var config struct {
				Events struct {
					Subscriptions []struct {
						Type, Command string
						Shell         bool
					}
				}
			}
			testkit.OK(t, yaml.Unmarshal([]byte(block[1]), &config))
			for _, hook := range config.Events.Subscriptions {
				hooks++
				command := hook.Command
				switch {
				case hook.Type != "system", !hook.Shell, strings.Contains(command, "'{__json}'"), strings.Contains(command, "curl") && !strings.Contains(command, "--fail-with-body"):
					t.Errorf("%s: %+v", manual, hook)
				case strings.Contains(command, ">>"):
					appends(t, command)
				}
			}
			if before, _, _ := strings.Cut(string(text), block[0]); !strings.Contains(before+string(text), "1.11.3 or newer") {
				t.Errorf("%s does not say which OctoPrint a hook needs", manual)
			}
		}
	}
	if hooks < 3 {
		t.Errorf("there are %d hooks", hooks)
	}
}

// appends runs a hook as OctoPrint from 1.11.3 on does: it puts quotes around
// what it fills in.
func appends(t *testing.T, command string) {
	t.Helper()
	const payload = `{"name": "it's $(touch x) %s \\n \"q\" ` + "`touch y`" + ` ä.gcode", "size": null}`
	dir := t.TempDir()
	quoted := "'" + strings.ReplaceAll(payload, "'", `'"'"'`) + "'"
	command = strings.ReplaceAll(command, "/var/spool/event2mqtt", dir)
	command = strings.NewReplacer("{{", "{", "}}", "}", "{__eventname}", "PrintDone", "{__json}", quoted, "{__now}", "2026-11-26T03:35:05.231430").Replace(command)
	for range 2 {
		run := exec.Command("sh", "-c", command)
		run.Dir = dir
		if out, err := run.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, "octoprint.jsonl"))
	testkit.OK(t, err)
	lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	var line struct {
		Time  string
		Event struct {
			Type    string
			Payload json.RawMessage
		}
	}
	if err := json.Unmarshal([]byte(lines[0]), &line); err != nil || len(lines) != 2 || line.Event.Type != "PrintDone" || string(line.Event.Payload) != payload || line.Time == "" {
		t.Errorf("%v: %s", err, text)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("the name of a file has run a command: %v", entries)
	}
}
