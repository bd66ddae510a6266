//go:build unix

package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"event2mqtt/internal/sources/octoprint/octotest"
	"event2mqtt/internal/testkit"
)

// TestTheKeyIsOfWhoHasToReadIt when root connects: of the configuration's owner,
// or of the user whom the program with this configuration runs as. The
// configuration keeps its owner.
func TestTheKeyIsOfWhoHasToReadIt(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("root alone gives files away")
	}
	const owner, runs = 12345, 23456
	of := func(path string) uint32 {
		t.Helper()
		info, err := os.Stat(path)
		testkit.OK(t, err)
		return info.Sys().(*syscall.Stat_t).Uid
	}
	octo := octotest.New(t, octotest.Options{})
	s := newSetup(t, "# mine\n")
	testkit.OK(t, os.Chown(s.config, owner, owner))
	if _, says, err := s.run("connect", "octoprint", octo.URL); err != nil {
		t.Fatalf("%v %s", err, says)
	}
	key := filepath.Join(filepath.Dir(s.config), "octoprint.key")
	if of(key) != owner || of(s.config) != owner {
		t.Errorf("the key is of %d, the configuration of %d", of(key), of(s.config))
	}
	fresh := newSetup(t, "")
	testkit.OK(t, os.Chown(filepath.Dir(fresh.config), owner, owner))
	if _, says, err := fresh.run("connect", "octoprint", octo.URL); err != nil || of(filepath.Join(filepath.Dir(fresh.config), "octoprint.key")) != owner {
		t.Errorf("%v %s", err, says)
	}
	run := newSetup(t, "# of root, as with DynamicUser\n")
	testkit.Write(t, filepath.Join(run.state, "control.json"), `{"url":"http://127.0.0.1:1","config":"`+run.config+`"}`)
	testkit.OK(t, os.Chown(run.state, runs, runs))
	if _, says, err := run.run("connect", "octoprint", octo.URL); err != nil || of(filepath.Join(filepath.Dir(run.config), "octoprint.key")) != runs || of(run.config) != 0 {
		t.Errorf("%v %s", err, says)
	}
}

// TestRootFollowsNoLinkOfAnotherUser to a file that is not that user's, on any
// part of the way; it follows its own, and those of the file's owner.
func TestRootFollowsNoLinkOfAnotherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("root alone may more than others")
	}
	const another = 12345
	octo := octotest.New(t, octotest.Options{})
	for name, c := range map[string]struct {
		folder, link, target int
		inFolder, refused    bool
	}{
		"its own":                   {},
		"in the folder of another":  {folder: another, refused: true},
		"of another":                {link: another, refused: true},
		"all of another":            {folder: another, link: another, target: another},
		"the folder":                {inFolder: true},
		"the folder, of another":    {folder: another, link: another, inFolder: true, refused: true},
		"the target alone":          {target: another},
		"a link of a third to them": {link: another + 1, target: another, refused: true},
	} {
		t.Run(name, func(t *testing.T) {
			real := filepath.Join(t.TempDir(), "secret")
			testkit.Write(t, real, "OLD")
			testkit.OK(t, os.Chown(real, c.target, c.target))
			folder := filepath.Join(t.TempDir(), "theirs")
			testkit.OK(t, os.Mkdir(folder, 0o755))
			link, to := filepath.Join(folder, "link"), real
			named := link
			if c.inFolder {
				to = filepath.Dir(real)
				named = filepath.Join(link, "secret")
			}
			testkit.OK(t, os.Symlink(to, link))
			testkit.OK(t, os.Lchown(link, c.link, c.link))
			testkit.OK(t, os.Chown(folder, c.folder, c.folder))
			s := newSetup(t, "sources: [{name: o, type: octoprint, url: '"+octo.URL+"', api_key: {file: '"+named+"'}}]\n")
			_, says, err := s.run("connect", "octoprint", octo.URL, "--renew")
			text, _ := os.ReadFile(real)
			if c.refused && (err == nil || !strings.Contains(err.Error(), link+" is a link that the user 1234") || !strings.Contains(err.Error(), "name the file itself, "+real) || string(text) != "OLD") {
				t.Errorf("%v: %s", err, text)
			}
			if !c.refused && (err != nil || string(text) != octotest.Key+"\n") {
				t.Errorf("%v: %s\n%s", err, text, says)
			}
		})
	}
}
