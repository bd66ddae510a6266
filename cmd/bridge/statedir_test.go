package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestTheStateFolderIsFound: that of the service first, also behind a link as
// systemd makes it, then that of a program which runs by hand, and none is made.
func TestTheStateFolderIsFound(t *testing.T) {
	for _, c := range []struct {
		name       string
		make       []string // folders, and files with .json
		linked     bool     // the service's
		want, says string
	}{
		{"the service's", []string{"service", "user"}, false, "service", "of the service"},
		{"the service's behind a link", []string{"private", "user"}, true, "service", "of the service"},
		{"a program that runs by hand", []string{"user", "user/control.json"}, false, "user", "that this user runs"},
		{"a program that ran by hand", []string{"user"}, false, "user", "of this user"},
		{"none", nil, false, "", "there is no state folder yet"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			at := func(name string) string { return filepath.Join(dir, name) }
			for _, name := range c.make {
				if strings.HasSuffix(name, ".json") {
					if err := os.WriteFile(at(name), []byte("{}"), 0o600); err != nil {
						t.Fatal(err)
					}
				} else if err := os.Mkdir(at(name), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			if c.linked {
				if err := os.Symlink("private", at("service")); err != nil {
					t.Fatal(err)
				}
			}
			f, err := finder{at("service"), func() (string, error) { return at("user"), nil }}.find()
			if c.want == "" {
				if none, ok := errors.AsType[*noStateDir](err); !ok || !strings.Contains(none.text, c.says) || !strings.Contains(none.text, "--state-dir") {
					t.Errorf("%+v, %v", f, err)
				}
				if entries, _ := os.ReadDir(dir); len(entries) > 0 {
					t.Errorf("it has made %v", entries)
				}
				return
			}
			var says bytes.Buffer
			f.tell(&says)
			if err != nil || f.dir != at(c.want) || !strings.Contains(says.String(), f.dir) || !strings.Contains(says.String(), c.says) {
				t.Errorf("%+v, %v; it says %s", f, err, says.String())
			}
		})
	}
}

// TestAStateFolderOfAnotherUserIsSaidToBe.
func TestAStateFolderOfAnotherUserIsSaidToBe(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may read every folder")
	}
	dir := t.TempDir()
	service, user := filepath.Join(dir, "service"), filepath.Join(dir, "user")
	if err := errors.Join(os.Mkdir(service, 0), os.Mkdir(user, 0o700)); err != nil {
		t.Fatal(err)
	}
	find := finder{service, func() (string, error) { return user, nil }}.find
	if f, err := find(); err == nil || !strings.Contains(err.Error(), "sudo") || !strings.Contains(err.Error(), service) {
		t.Errorf("%+v, %v", f, err)
	}
	if err := os.WriteFile(filepath.Join(user, "control.json"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if f, err := find(); err != nil || f.dir != user {
		t.Errorf("one that runs: %+v, %v", f, err)
	}
}

// TestOnlyANamedStateFolderIsMade, and only to keep something in it.
func TestOnlyANamedStateFolderIsMade(t *testing.T) {
	t.Setenv("STATE_DIRECTORY", "")
	dir := filepath.Join(t.TempDir(), "new")
	if got, err := stateDir(dir, os.Stderr, false); err == nil {
		t.Errorf("to look at: %s", got)
	}
	if got, err := stateDir(dir, os.Stderr, true); err != nil || got != dir {
		t.Errorf("to keep something: %s, %v", got, err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info, err)
	}
	t.Setenv("STATE_DIRECTORY", dir+":/elsewhere")
	if got, err := stateDir("", os.Stderr, false); err != nil || got != dir {
		t.Errorf("$STATE_DIRECTORY: %s, %v", got, err)
	}
}

// TestNoCommandChangesAFolderOfANewerVersion: each says which version to install.
func TestNoCommandChangesAFolderOfANewerVersion(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "format"), []byte(`{"format":99,"min_reader":99,"written_by":"9.9.0"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	hashes := filepath.Join(t.TempDir(), "passwd")
	if err := os.WriteFile(hashes, []byte("ann:$7$101$AAAA$AAAA\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"user", "add", "ann"}, {"user", "passwd", "ann"}, {"user", "allow", "ann"}, {"user", "rm", "ann"}, {"user", "list"}, {"user", "import", hashes},
		{"device", "add", "lamp", "--allow", "x:rw"}, {"device", "reset", "lamp"}, {"device", "rm", "lamp"}, {"device", "list"},
		{"refused"}, {"refused", "send", "--all"}, {"refused", "drop", "--all"}, {"reload"}, {"run"},
	} {
		_, _, err := execute(t, append(args, "--state-dir", dir)...)
		if err == nil || !strings.Contains(err.Error(), "was written by event2mqtt 9.9.0") {
			t.Errorf("%v: %v", args, err)
		}
	}
	out, _, err := execute(t, "check", "--probe", "--state-dir", dir, "--set", "http.listen=127.0.0.1:22001", "--set", "broker.listen=127.0.0.1:22002")
	if err == nil || !strings.Contains(out, "FAIL  state folder "+dir+": ") || !strings.Contains(out, "event2mqtt 9.9.0") {
		t.Errorf("check --probe: %s %v", out, err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("the folder holds %v", entries)
	}
}
