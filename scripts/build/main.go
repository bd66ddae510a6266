// Command build makes the program as it is released: static, stripped, and without
// what the linker keeps for nothing:
//
//	go run ./scripts/build -for linux/arm64 -o event2mqtt
//
// The library of the rules' expressions looks methods up by names that it reads in
// an expression. The linker then has to keep every exported method of every type in
// the program, a sixth of the binary, though expressions see no values but maps,
// lists, texts, numbers and times. This build uses a copy of that library, in the
// folder .build, which looks up methods of times alone (methods.go.txt). The copy is
// made anew each time from the version that go.mod names.
//
// HTTP/2 is left out: no server of the program's has TLS, and no client needs it.
// Where little is done for an event, no function is put into another, which makes
// code that is faster and larger.
// See docs/decisions/0025.
package main

import (
	_ "embed"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

func main() {
	out := flag.String("o", "event2mqtt", "where the binary goes")
	target := flag.String("for", "", "where the binary is to run, such as linux/arm64, linux/arm/7 or linux/arm/6; left out, a machine as this one")
	version := flag.String("version", "", "what the binary says of its version; left out, what git knows")
	prepare := flag.Bool("prepare", false, "only make .build/go.mod, for go build -modfile and go test -modfile")
	flag.Parse()
	err := copyLibrary()
	if err == nil && !*prepare {
		err = build(*out, *target, *version)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "build: "+err.Error())
		os.Exit(1)
	}
}

func build(out, target, version string) error {
	flags := "-s -w"
	if version != "" {
		flags += " -X main.version=" + version
	}
	args := []string{"build", "-modfile", filepath.Join(folder, "go.mod"), "-tags", "nethttpomithttp2", "-trimpath", "-ldflags=" + flags, "-o", out}
	for _, packages := range seldom {
		args = append(args, "-gcflags="+packages+"=-l")
	}
	c := exec.Command("go", append(args, "./cmd/bridge")...)
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if target != "" {
		parts := append(strings.SplitN(target, "/", 3), "", "")
		c.Env = append(c.Env, "GOOS="+parts[0], "GOARCH="+parts[1], "GOARM="+parts[2])
	}
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	return c.Run()
}

// seldom are packages in which little is done for an event that comes by MQTT, a
// webhook or a file: what is said of the configuration, of commands, of
// connections, and of slow peers.
var seldom = []string{
	"event2mqtt/cmd/bridge", "event2mqtt/internal/config/...", "event2mqtt/internal/web/...", "event2mqtt/internal/homeassistant/...",
	"event2mqtt/internal/learned", "event2mqtt/internal/metrics", "event2mqtt/internal/broker/accounts", "event2mqtt/internal/sinks/http",
	"event2mqtt/internal/sources/octoprint/...", "event2mqtt/internal/commands", "event2mqtt/internal/device", "event2mqtt/internal/ruletest",
	"event2mqtt/internal/refused", "event2mqtt/internal/page", "event2mqtt/internal/apiclient",
	library, library + "/ast", library + "/builtin", library + "/checker/...", library + "/compiler", library + "/conf", library + "/file", library + "/optimizer", library + "/parser/...",
	"github.com/go-viper/...", "github.com/knadh/...", "github.com/spf13/...", "github.com/itchyny/...", "go.yaml.in/...",
	"golang.org/x/text/language", "golang.org/x/text/internal/...",
	"crypto/tls", "crypto/x509", "encoding/asn1", "encoding/xml", "math/big", "mime/...", "regexp/syntax", "text/...",
}

const (
	folder  = ".build"
	library = "github.com/expr-lang/expr"
)

// methods looks up methods by name, of times alone.
//
//go:embed methods.go.txt
var methods string

// change is a text of the library that is replaced by another, once in a file.
type change struct{ file, old, new string }

var changes = []change{
	{"builtin/lib.go", "method := v.MethodByName(methodName)", "method := deref.Method(v, methodName)"},
	{"vm/runtime/runtime.go", "method := v.MethodByName(methodName)", "method := deref.Method(v, methodName)"},
	{"vm/runtime/runtime.go", "method := v.Method(method.Index)", "method := deref.Method(v, method.Name)"},
	{"checker/nature/utils.go", "rm := s.rType.Method(s.idx)\n\t\tif !rm.IsExported() {", "rm, is := deref.MethodAt(s.rType, s.idx)\n\t\tif !is {"},
	{"checker/nature/nature.go", "method := n.Type.Method(i)", "method, is := deref.MethodAt(n.Type, i)\n\t\tif !is {\n\t\t\tcontinue\n\t\t}"},
	{"checker/info.go", "m, ok := base.MethodByName(name.Value)", "m, ok := deref.TypeMethod(base, name.Value)"},
	{"compiler/compiler.go", "_, ok = callee.Node.Type().MethodByName(prop.Value)", "_, ok = deref.TypeMethod(callee.Node.Type(), prop.Value)"},
}

// copyLibrary makes the copy, and the go.mod that names it.
func copyLibrary() error {
	if text, err := exec.Command("go", "mod", "download", library).CombinedOutput(); err != nil {
		return fmt.Errorf("download %s: %w\n%s", library, err, text)
	}
	found, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", library).Output()
	if err != nil {
		return fmt.Errorf("look for %s: %w", library, err)
	}
	from, to := strings.TrimSpace(string(found)), filepath.Join(folder, "expr")
	if err := os.RemoveAll(folder); err != nil {
		return err
	}
	if err := copySources(from, to); err != nil {
		return err
	}
	for _, c := range changes {
		if err := c.apply(to); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(to, "internal/deref/methods.go"), []byte(methods), 0o644); err != nil {
		return err
	}
	for _, name := range []string{"go.mod", "go.sum"} {
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if name == "go.mod" {
			text = fmt.Appendf(text, "\nreplace %s => ./%s\n", library, filepath.ToSlash(to))
		}
		if err := os.WriteFile(filepath.Join(folder, name), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// copySources copies what is compiled.
func copySources(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, name), 0o755)
		}
		if name != "go.mod" && (filepath.Ext(name) != ".go" || strings.HasSuffix(name, "_test.go")) {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, name), text, 0o644)
	})
}

// apply makes the change in a copy of the library.
func (c *change) apply(to string) error {
	path := filepath.Join(to, c.file)
	read, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	text := string(read)
	if n := strings.Count(text, c.old); n != 1 {
		return fmt.Errorf("%s of %s has %q %d times, not once: this version looks methods up in another way, so scripts/build has to be written anew for it", c.file, library, c.old, n)
	}
	text = strings.Replace(text, c.old, c.new, 1)
	if used := "\"" + library + "/internal/deref\""; !strings.Contains(text, used) {
		text = strings.Replace(text, "import (", "import (\n\t"+used, 1)
	}
	return os.WriteFile(path, []byte(text), 0o644)
}
