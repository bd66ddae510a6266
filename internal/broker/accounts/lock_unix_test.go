//go:build unix

package accounts_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"event2mqtt/internal/broker/accounts"
	"event2mqtt/internal/testkit"
)

// TestRootFollowsNoLinks: in the folder of a service's user, root neither
// writes to nor gives away what a link there points to.
func TestRootFollowsNoLinks(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not root")
	}
	dir, victim := t.TempDir(), filepath.Join(t.TempDir(), "victim")
	testkit.OK(t, os.WriteFile(victim, []byte("{}"), 0o600))
	testkit.OK(t, os.Chown(dir, 65534, 65534))
	file := accounts.File(filepath.Join(dir, "accounts.json"))
	keep := func(u []accounts.User) ([]accounts.User, error) { return users("ann"), nil }
	untouched := func(name string) {
		t.Helper()
		content, err := os.ReadFile(victim)
		testkit.OK(t, err)
		info, err := os.Lstat(victim)
		testkit.OK(t, err)
		if owner := info.Sys().(*syscall.Stat_t).Uid; owner != 0 || string(content) != "{}" {
			t.Errorf("a link %s: the victim is of %d and holds %s", name, owner, content)
		}
	}
	for _, name := range []string{"accounts.json.lock", "accounts.json"} {
		link := filepath.Join(dir, name)
		testkit.OK(t, os.Symlink(victim, link))
		_ = file.Update(keep) // may fail
		untouched(name)
		testkit.OK(t, os.RemoveAll(link))
	}
	testkit.OK(t, file.Update(keep))
	info, err := os.Stat(string(file))
	testkit.OK(t, err)
	if owner := info.Sys().(*syscall.Stat_t).Uid; owner != 65534 {
		t.Errorf("the file is of %d: the service cannot read it", owner)
	}
}
