//go:build unix

package file

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// TestWhatIsNoFileIsRefusedAtOnce: none of these may block, or fill the memory.
func TestWhatIsNoFileIsRefusedAtOnce(t *testing.T) {
	dir := t.TempDir()
	pipe, big, link := filepath.Join(dir, "pipe"), filepath.Join(dir, "big"), filepath.Join(dir, "link")
	if err := errors.Join(syscall.Mkfifo(pipe, 0o600), os.WriteFile(big, make([]byte, 101), 0o600), os.Symlink(pipe, link)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		pipe: "a named pipe, not a file", link: "a named pipe, not a file", dir: "a folder, not a file",
		"/dev/zero": "a device, not a file", big: "has 101 bytes; at most 100 are allowed",
		filepath.Join(dir, "none"): "no such file",
	} {
		text, err := Read(path, 100)
		if err == nil || text != nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v; want %s", path, err, want)
		}
	}
	if _, err := Read(filepath.Join(dir, "none"), 1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
	if _, err := KeyPair(pipe, pipe); err == nil || !strings.Contains(err.Error(), "named pipe") {
		t.Errorf("a key pair: %v", err)
	}
}

// TestAFileMayBeAsLongAsItsLimit, also one that tells no size, as in /proc.
func TestAFileMayBeAsLongAsItsLimit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte("12345"), 0o600); err != nil {
		t.Fatal(err)
	}
	if text, err := Read(path, 5); err != nil || string(text) != "12345" {
		t.Errorf("%q, %v", text, err)
	}
	if _, err := os.Stat("/proc/self/status"); err == nil {
		if _, err := Read("/proc/self/status", 5); err == nil || !strings.Contains(err.Error(), "more than 5 bytes") {
			t.Errorf("a file without a size: %v", err)
		}
	}
}

func TestAFolderHasALimitToo(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a", "b", "c"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if entries, err := List(dir, 3); err != nil || len(entries) != 3 {
		t.Errorf("%d entries, %v", len(entries), err)
	}
	if _, err := List(dir, 2); err == nil || !strings.Contains(err.Error(), "more than 2") {
		t.Errorf("too many: %v", err)
	}
}

// TestAFileSystemThatDoesNotAnswerIsGivenUp: by the first call after a while, by
// the next ones at once, with one goroutine left in all; and it works again when
// the file system does.
func TestAFileSystemThatDoesNotAnswerIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		back, calls := make(chan struct{}), atomic.Int32{}
		dead := func() (int, error) {
			calls.Add(1)
			<-back
			return 1, nil
		}
		began := time.Now()
		if _, err := within("/mnt/x", Patience, dead); !errors.Is(err, ErrNoAnswer) || !strings.Contains(err.Error(), "/mnt/x") || time.Since(began) != Patience {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
		began = time.Now()
		for range 100 {
			if _, err := within("/mnt/x", Patience, dead); !errors.Is(err, ErrNoAnswer) {
				t.Errorf("again: %v", err)
			}
		}
		if time.Since(began) != 0 || calls.Load() != 1 {
			t.Errorf("%d calls in %s", calls.Load(), time.Since(began))
		}
		if n, err := within("/mnt/y", Patience, func() (int, error) { return 2, nil }); n != 2 || err != nil {
			t.Errorf("another path: %d, %v", n, err)
		}
		close(back)
		synctest.Wait()
		if n, err := within("/mnt/x", Patience, dead); n != 1 || err != nil {
			t.Errorf("once it is back: %d, %v", n, err)
		}
	})
}
