//go:build unix

package bridge

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"event2mqtt/internal/testkit"
)

// TestProbeTellsWhatIsNoFile: it ends, and says of a pipe, a folder and a path that
// does not match itself what they are.
func TestProbeTellsWhatIsNoFile(t *testing.T) {
	dir := t.TempDir()
	pipe, brackets, good := filepath.Join(dir, "pipe"), filepath.Join(dir, "a[b].log"), filepath.Join(dir, "good.log")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{brackets, good} {
		if err := os.WriteFile(path, []byte("x\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h := &rig{t: t, file: filepath.Join(dir, "c.yaml"), http: testkit.FreeAddress(t), mqtt: testkit.FreeAddress(t)}
	yaml := "http: {listen: HTTP}\nbroker: {listen: MQTT}\nsources:\n"
	for name, path := range map[string]string{"pipe": pipe, "folder": dir, "brackets": brackets, "good": good, "escaped": strings.Replace(brackets, "[", `\[`, 1), "none": dir + "/none"} {
		yaml += fmt.Sprintf("  - {name: %s, type: tail, paths: ['%s']}\n", name, path)
	}
	h.write(yaml)
	plan, err := Load(h.file, nil, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	told := map[string]string{}
	if err := plan.Probe(t.Context(), t.TempDir(), func(p Probed) {
		told[p.What] = "ok: " + p.Detail
		if p.Err != nil {
			told[p.What] = p.Err.Error()
		}
	}); err != nil {
		t.Fatal(err)
	}
	for what, want := range map[string]string{
		"pipe": pipe + " is a named pipe, not a file", "folder": dir + " is a folder, not a file; write " + dir + "/*",
		"good": "ok: 1 file can be read", "escaped": "ok: 1 file can be read", "none": "ok: no file is there yet",
	} {
		if got := told["source "+what]; !strings.Contains(got, want) {
			t.Errorf("%s: %s; want %s", what, got, want)
		}
	}
	if got := told["source brackets"]; !strings.Contains(got, `a\[b].log`) && got != "ok: 1 file can be read" {
		t.Errorf("brackets: %s", got)
	}
}
