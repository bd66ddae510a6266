package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
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
