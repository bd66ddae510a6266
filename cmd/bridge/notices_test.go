package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the third-party notices anew")

// notices is where the licenses stand that come with the program.
const notices = "../../THIRD_PARTY_NOTICES.md"

// TestEveryLibrarysLicenseIsInTheNotices, for all that is linked on Linux, and
// nothing else.
func TestEveryLibrarysLicenseIsInTheNotices(t *testing.T) {
	want := renderNotices(t)
	if *update {
		if err := os.WriteFile(notices, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(notices); string(got) != want {
		t.Errorf("%s is stale: run go test ./cmd/bridge -run Notices -update (%v)", notices, err)
	}
}

func renderNotices(t *testing.T) string {
	command := exec.Command("go", "list", "-deps", "-json=Module", ".")
	command.Env = append(os.Environ(), "GOOS=linux", "GOARCH=arm64", "CGO_ENABLED=0")
	command.Stderr = os.Stderr
	output, err := command.Output()
	if err != nil {
		t.Fatal(err)
	}
	users := map[string][]string{} // by the license's text
	for decoder := json.NewDecoder(strings.NewReader(string(output))); decoder.More(); {
		var p struct {
			Module *struct {
				Path, Dir string
				Main      bool
			}
		}
		if err := decoder.Decode(&p); err != nil {
			t.Fatal(err)
		}
		if m := p.Module; m != nil && !m.Main {
			// Of Paho's two licenses, the Eclipse Distribution License is chosen.
			text := licenseOf(t, m.Path, m.Dir, regexp.MustCompile(`^(LICENSE|NOTICE|COPYING)(\.txt|\.md)?$|^edl-v10$`))
			if slices.Contains(users[text], m.Path) {
				continue
			}
			users[text] = append(users[text], m.Path)
			if m.Path == "golang.org/x/sys" { // not every installation of Go has its license
				users[text] = append(users[text], "the Go standard library")
			}
		}
	}
	var sections []string
	for text, names := range users {
		slices.Sort(names)
		sections = append(sections, fmt.Sprintf("## %s\n\n%s", strings.Join(names, ", "), text))
	}
	slices.Sort(sections)
	return "# Third-party notices\n\nevent2mqtt contains the following, under the licenses given.\n\n" + strings.Join(sections, "\n")
}

// licenseOf is what a module says of its license, each line indented, so that
// it is shown as it is.
func licenseOf(t *testing.T, module, dir string, names *regexp.Regexp) string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, e := range entries {
		if !names.MatchString(e.Name()) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(strings.ReplaceAll(string(text), "\r\n", "\n")) {
			b.WriteString(strings.TrimRight("    "+line, " \n") + "\n")
		}
	}
	if b.Len() == 0 {
		t.Errorf("%s has no license", module)
	}
	return b.String()
}
