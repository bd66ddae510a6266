package sourcetest_test

import (
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestTheExampleOfTheDocsRuns: the source that docs/adding-a-source.md shows, and
// its test, compile as a package of this module, which is nowhere on disk; the
// source keeps the contract, and in a bridge its events reach a subscriber.
func TestTheExampleOfTheDocsRuns(t *testing.T) {
	text, err := os.ReadFile("../../../docs/adding-a-source.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Split(string(text), "```go\n")[1:]
	if len(blocks) != 2 {
		t.Fatalf("the page has %d blocks of Go, want the source and its test", len(blocks))
	}
	inBridge, err := os.ReadFile("testdata/in_a_bridge.go.txt")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	module, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	look(t, filepath.Join(module, "internal"))
	replace := map[string]string{}
	for name, code := range map[string]string{"tcplines.go": blocks[0], "contract_test.go": blocks[1], "bridge_test.go": string(inBridge)} {
		code, _, _ = strings.Cut(code, "```")
		replace[filepath.Join(module, "internal/sources/tcplines", name)] = filepath.Join(dir, name)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(code), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "overlay.json"), overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "gofmt", "-l", dir).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("it is not formatted: %v %s", err, out)
	}
	program := filepath.Join(dir, "example.test")
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-vet=off", "-ldflags=-s -w", "-o", program, "-overlay", filepath.Join(dir, "overlay.json"), "./internal/sources/tcplines")
	build.Dir = module // vet would need a folder
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	run := exec.CommandContext(t.Context(), program, "-test.v")
	run.Dir = dir
	out, err := run.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, test := range []string{"TestTheContractOfSources", "TestItsEventsReachASubscriber"} {
		if !strings.Contains(string(out), "--- PASS: "+test) {
			t.Errorf("%s has not run:\n%s", test, out)
		}
	}
}

// look looks at all files of Go below a folder, so that the go command runs the
// test again when one has changed: it is built into another program.
func look(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err == nil && filepath.Ext(path) == ".go" {
			_, err = os.Stat(path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
