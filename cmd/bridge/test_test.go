package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestTheExampleOfTestPasses with the rules beside it, and with those of the
// manual.
func TestTheExampleOfTestPasses(t *testing.T) {
	help, _, err := execute(t, "test", "--help")
	if err != nil {
		t.Fatal(err)
	}
	manual, err := os.ReadFile("../../docs/configuring.md")
	if err != nil {
		t.Fatal(err)
	}
	// block is what stands between two texts, with the first.
	block := func(text, begin, end string) string {
		_, after, found := strings.Cut(text, "\n"+begin)
		inner, _, closed := strings.Cut(after, end)
		if !found || !closed {
			t.Fatalf("there is no %s in %s", begin, text)
		}
		return begin + inner + "\n"
	}
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	tests := write("tests.yaml", block(help, "  tests:", "\n\n"))
	for name, rules := range map[string]string{"help": block(help, "  rules:", "\n\n"), "manual": block(string(manual), "rules:", "\n```")} {
		out, _, err := execute(t, "test", tests, "--config", write(name+".yaml", rules), "--state-dir", dir)
		if err != nil || !strings.Contains(out, "2 passed, 0 failed") {
			t.Errorf("with the rules of the %s: %v\n%s", name, err, out)
		}
	}
}

// TestATestThatFailsNamesTheRuleThatDecided, and one that passes does if it is
// asked to.
func TestATestThatFailsNamesTheRuleThatDecided(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	config := write("config.yaml", "rules:\n  - {name: no chatter, match: Client*, drop: true}\n")
	fails := write("fails.yaml", "tests: [{name: x, events: [{event: ClientOpened}], expect: [{}]}]\n")
	passes := write("passes.yaml", "tests: [{name: x, events: [{event: ClientOpened}]}]\n")
	decision := `      event 1 ClientOpened: dropped by rules[0] "no chatter" (` + config + ":2)\n"
	for _, c := range []struct {
		args  []string
		fails bool
		want  string
	}{
		{[]string{fails}, true, "FAIL  x\n      - missing:    (any topic)\n" + decision + "0 passed, 1 failed\n"},
		{[]string{passes}, false, "ok    x\n1 passed, 0 failed\n"},
		{[]string{passes, "--verbose"}, false, "ok    x\n" + decision + "1 passed, 0 failed\n"},
	} {
		out, _, err := execute(t, append([]string{"test", "--config", config, "--state-dir", dir}, c.args...)...)
		if (err != nil) != c.fails || out != c.want {
			t.Errorf("%q: %v\n%s\nwant\n%s", c.args, err, out, c.want)
		}
	}
}
