//go:build unix

package main

import (
	"os"
	"path/filepath"
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
