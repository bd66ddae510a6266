package bridge

import (
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestImportsRunOneWay, down the floors that docs/architecture.md lists.
func TestImportsRunOneWay(t *testing.T) {
	text, err := os.ReadFile("../../docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	floors := map[string]string{}
	for _, row := range regexp.MustCompile(`(?m)^\| (\d) \| (.*) \|$`).FindAllStringSubmatch(string(text), -1) {
		for _, name := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row[2], -1) {
			floors[name[1]] = row[1]
		}
	}
	floor := func(name string) string {
		for _, key := range []string{name, path.Dir(name) + "/*", path.Dir(path.Dir(name)) + "/*"} {
			if f := floors[key]; f != "" {
				return f
			}
		}
		t.Errorf("package %s is on no floor of docs/architecture.md", name)
		return ""
	}
	command := exec.Command("go", "list", "-json=ImportPath,Imports", "../../internal/...", "../../cmd/...")
	command.Stderr = os.Stderr
	output, err := command.Output()
	if err != nil {
		t.Fatal(err)
	}
	const module = "event2mqtt/"
	short := func(importPath string) string {
		return strings.TrimPrefix(strings.TrimPrefix(importPath, module), "internal/")
	}
	seen := 0
	for decoder := json.NewDecoder(strings.NewReader(string(output))); ; seen++ {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := decoder.Decode(&p); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		name := short(p.ImportPath)
		for _, imported := range slices.DeleteFunc(p.Imports, func(s string) bool { return !strings.HasPrefix(s, module) }) {
			other := short(imported)
			if floor(other) >= floor(name) && !strings.HasPrefix(other, name+"/") {
				t.Errorf("%s, on floor %s, imports %s, on floor %s", name, floor(name), other, floor(other))
			}
		}
	}
	if seen < 20 {
		t.Errorf("only %d packages were looked at", seen)
	}
}
