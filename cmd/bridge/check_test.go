package main

import (
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
