package main

import (
	"bytes"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

func TestTheProgramUsesTheNameItWasCalledBy(t *testing.T) {
	for called, want := range map[string]string{
		"/usr/bin/event2mqtt": "event2mqtt", "e2m": "e2m", "/tmp/go-build1/exe/bridge": "event2mqtt",
		"./bridge": "event2mqtt", "event2mqtt.exe": "event2mqtt", "": "event2mqtt", "/": "event2mqtt",
	} {
		if got := programName([]string{called}); got != want {
			t.Errorf("%q is %q, not %q", called, got, want)
		}
	}
	if got := programName(nil); got != "event2mqtt" {
		t.Errorf("without a name it is %q", got)
	}
}

// TestHelpAndCompletionsNameTheProgram as it was called, in every command.
func TestHelpAndCompletionsNameTheProgram(t *testing.T) {
	run := func(args ...string) string {
		var out bytes.Buffer
		cmd := newCommand("e2m")
		cmd.SetOut(&out)
		cmd.SetErr(&out)
		cmd.SetArgs(args)
		if err := cmd.Execute(); err != nil {
			t.Errorf("%v: %v", args, err)
		}
		return out.String()
	}
	folder := regexp.MustCompile(`bridge (run|user|device|check|test|reload|schema|version|completion|\[)`)
	root := newCommand("e2m")
	root.InitDefaultHelpCmd()
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		path := strings.Fields(c.CommandPath())[1:]
		help := run(append(path, "--help")...)
		if !strings.Contains(help, "e2m") || folder.MatchString(help) {
			t.Errorf("%v:\n%s", path, help)
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(root)
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if text := run("completion", shell); !strings.Contains(text, "e2m") || strings.Contains(text, "bridge") {
			t.Errorf("%s: the completions are not those of e2m", shell)
		}
	}
}

// TestEachCommandThatAsksShowsAnExample in its help, can print JSON, and completes
// no file names.
func TestEachCommandThatAsksShowsAnExample(t *testing.T) {
	root := newCommand("event2mqtt")
	asks := map[string]bool{}
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Flags().Lookup("token-file") != nil || c.Name() == "token" || c.Name() == "healthcheck" {
			asks[c.CommandPath()] = true
			if !strings.Contains(c.Example, c.CommandPath()) || c.Flags().Lookup("json") == nil || c.ValidArgsFunction == nil && c.Name() != "token" {
				t.Errorf("%s: example %q", c.CommandPath(), c.Example)
			}
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(root)
	for _, name := range []string{"watch", "send", "publish", "replay", "replay stop", "replay status", "status", "healthcheck", "clients", "clients kick", "topics", "topics delete", "token"} {
		if !asks["event2mqtt "+name] {
			t.Errorf("there is no %s", name)
		}
	}
}
