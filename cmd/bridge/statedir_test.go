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
