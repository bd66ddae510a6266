package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"event2mqtt/internal/testkit"
)

// TestTheYAMLOfTheHomeAssistantManualIsRight: what goes into the configuration
// passes check, automations have what Home Assistant asks for, and each id of the
// washing machine is one that is announced.
func TestTheYAMLOfTheHomeAssistantManualIsRight(t *testing.T) {
	text, err := os.ReadFile("../../docs/home-assistant.md")
	testkit.OK(t, err)
	manual := string(text)
	state, file := t.TempDir(), filepath.Join(t.TempDir(), "config.yaml")
	// The manual makes this account before anything else, and the broker may
	// listen for other machines only with it.
	if _, _, err := execute(t, "device", "add", "homeassistant", "--for", "homeassistant", "--state-dir", state); err != nil {
		t.Fatal(err)
	}
	check := func(config string, args ...string) string {
		t.Helper()
		testkit.OK(t, os.WriteFile(file, []byte(config), 0o600))
		out, _, err := execute(t, append([]string{"check", "--config", file, "--state-dir", state}, args...)...)
		if err != nil {
			t.Errorf("%v\n%s", err, config)
		}
		return out
	}
	configs, automations, announced := 0, 0, ""
	for _, block := range indented(manual) {
		if first, _, _ := strings.Cut(block, " "); first == "event2mqtt" || first == "curl" {
			continue // a command
		}
		for _, part := range alternatives(t, block) {
			switch key, _, _ := strings.Cut(part, ":"); key {
			case "alias":
				automations++
				isAutomation(t, part)
			case "mqtt": // of Home Assistant's own configuration
			default:
				configs++
				check(part)
				if key == "sources" || strings.Contains(part, "\nsources:") {
					announced += check(part, "--home-assistant")
				}
			}
		}
	}
	for _, inline := range regexp.MustCompile("`((?:home_assistant|publish|broker): \\{.*?\\})`").FindAllStringSubmatch(manual, -1) {
		configs++
		check(inline[1])
	}
	if configs < 4 || automations < 3 {
		t.Errorf("there are %d configurations and %d automations", configs, automations)
	}
	ids := regexp.MustCompile(`\b[a-z_]+\.washer_\w+`).FindAllString(manual, -1)
	for _, id := range ids {
		if !slices.Contains(strings.Fields(announced), id) {
			t.Errorf("%s is not announced:\n%s", id, announced)
		}
	}
	if len(ids) < 2 {
		t.Errorf("the washing machine has the ids %q", ids)
	}
}

// indented are the blocks of a Markdown text that are indented as code is, without
// the indentation.
func indented(text string) (blocks []string) {
	for _, block := range regexp.MustCompile(`(?m)(?:^ {4,}\S.*\n)+`).FindAllString(text, -1) {
		indent := block[:len(block)-len(strings.TrimLeft(block, " "))]
		blocks = append(blocks, strings.TrimPrefix(strings.ReplaceAll(block, "\n"+indent, "\n"), indent))
	}
	return blocks
}

// alternatives are the documents in a block: one for each of its lines if they
// set the same key, else the block as it is.
func alternatives(t *testing.T, block string) []string {
	t.Helper()
	var document yaml.Node
	if err := yaml.Unmarshal([]byte(block), &document); err != nil || document.Content[0].Kind != yaml.MappingNode {
		t.Fatalf("this is neither a command nor a mapping (%v):\n%s", err, block)
	}
	if pairs := document.Content[0].Content; len(pairs) > 2 && pairs[0].Value == pairs[2].Value {
		return strings.Split(strings.TrimSuffix(block, "\n"), "\n")
	}
	return []string{block}
}

// isAutomation checks an automation in the form that Home Assistant has had since
// 2024.10.
func isAutomation(t *testing.T, text string) {
	t.Helper()
	var automation struct {
		Alias      string
		Triggers   []map[string]any
		Conditions []any
		Actions    []map[string]any
	}
	decoder := yaml.NewDecoder(strings.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(&automation); err != nil {
		t.Fatalf("%v:\n%s", err, text)
	}
	if len(automation.Triggers) == 0 || len(automation.Actions) == 0 {
		t.Errorf("it has no triggers or no actions:\n%s", text)
	}
	for _, trigger := range automation.Triggers {
		if trigger["trigger"] == nil {
			t.Errorf("%v does not say what it is", trigger)
		}
	}
}
