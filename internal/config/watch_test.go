package config_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"event2mqtt/internal/config"
	"event2mqtt/internal/testkit"
)

// watched is a file that is watched, with what was seen in it.
type watched struct {
	t    *testing.T
	path string
	mu   sync.Mutex
	seen []string
}

func watch(t *testing.T, path string) *watched {
	t.Helper()
	seen, err := config.SumOf(path)
	testkit.OK(t, err)
	w := &watched{t: t, path: path}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		config.Watch(ctx, path, seen, w.note, zerolog.Nop())
	}()
	t.Cleanup(func() { cancel(); <-done })
	return w
}

func (w *watched) note(config.Sum) {
	text, err := os.ReadFile(w.path)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen = append(w.seen, fmt.Sprint(string(text), err))
}

// expect waits until the newest thing seen is text.
func (w *watched) expect(what, text string) {
	w.t.Helper()
	want := fmt.Sprint(text, error(nil))
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		w.mu.Lock()
		n := len(w.seen)
		found := n > 0 && w.seen[n-1] == want
		w.mu.Unlock()
		if found {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("%s: not seen; seen were %q", what, w.seen)
		}
	}
}

// TestEveryWayToSaveAFileIsSeen, one after the other, so that each must leave
// the watch as good as it was.
func TestEveryWayToSaveAFileIsSeen(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "config.yaml")
	write := func(path, text string) { t.Helper(); testkit.OK(t, os.WriteFile(path, []byte(text), 0o600)) }
	write(path, "first")
	w := watch(t, path)
	for _, way := range []struct {
		name string
		save func(text string)
	}{
		{"nano, VS Code: truncated and written", func(text string) { write(path, text) }},
		{"vim: the old one renamed, a new one written, the old one removed", func(text string) {
			testkit.OK(t, os.Rename(path, path+"~"))
			write(path, text)
			testkit.OK(t, os.Remove(path+"~"))
		}},
		{"vim, GNOME: a new one renamed over it", func(text string) {
			write(filepath.Join(dir, ".new"), text)
			testkit.OK(t, os.Rename(filepath.Join(dir, ".new"), path))
		}},
		{"sed -i", func(text string) {
			if out, err := exec.Command("sed", "-i", "s/.*/"+text+"/", path).CombinedOutput(); err != nil {
				t.Fatalf("sed: %v: %s", err, out)
			}
		}},
		{"gone and back", func(text string) {
			testkit.OK(t, os.Remove(path))
			time.Sleep(600 * time.Millisecond) // it is noticed, or not: either way nothing changes
			write(path, text)
		}},
		{"the folder gone and back", func(text string) {
			testkit.OK(t, os.RemoveAll(dir))
			testkit.OK(t, os.Mkdir(dir, 0o700))
			write(path, text)
		}},
		{"after that, again", func(text string) { write(path, text) }},
	} {
		way.save(way.name[:4] + "x")
		w.expect(way.name, way.name[:4]+"x")
	}
}

// TestSwappedFoldersAreSeen: Kubernetes and others let a link point to another
// folder; the file's own path never changes.
func TestSwappedFoldersAreSeen(t *testing.T) {
	dir := t.TempDir()
	install := func(version, text string) {
		testkit.OK(t, os.Mkdir(filepath.Join(dir, version), 0o700))
		testkit.OK(t, os.WriteFile(filepath.Join(dir, version, "config.yaml"), []byte(text), 0o600))
		testkit.OK(t, os.Symlink(version, filepath.Join(dir, "..data_tmp")))
		testkit.OK(t, os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
	}
	install("..v1", "one")
	path := filepath.Join(dir, "config.yaml")
	testkit.OK(t, os.Symlink(filepath.Join("..data", "config.yaml"), path))
	w := watch(t, path)
	for i := 2; i < 5; i++ {
		install(fmt.Sprint("..v", i), fmt.Sprint("text ", i))
		testkit.OK(t, os.RemoveAll(filepath.Join(dir, fmt.Sprint("..v", i-1))))
		w.expect("a swap", fmt.Sprint("text ", i))
	}
}

// TestASlowCopyIsSeenWhole: what is half written is not looked at, as long as
// the writer does not rest.
func TestASlowCopyIsSeenWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.yaml")
	testkit.OK(t, os.WriteFile(path, []byte("old"), 0o600))
	w := watch(t, path)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	testkit.OK(t, err)
	defer f.Close()
	whole := ""
	began := time.Now()
	rested := false
	for i := range 20 {
		part := fmt.Sprint("part ", i, "\n")
		whole += part
		_, err := f.WriteString(part)
		testkit.OK(t, err)
		rested = rested || time.Since(began) > time.Duration(i+1)*50*time.Millisecond+150*time.Millisecond
		time.Sleep(50 * time.Millisecond)
	}
	w.expect("the whole", whole)
	if len(w.seen) > 1 && !rested { // a slow machine may rest
		t.Errorf("seen: %q", w.seen)
	}
}

// TestWhatWasChangedBeforeTheWatchIsSeen: between the reading of the file and
// the first look.
func TestWhatWasChangedBeforeTheWatchIsSeen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.yaml")
	testkit.OK(t, os.WriteFile(path, []byte("new"), 0o600))
	w := &watched{t: t, path: path}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		config.Watch(ctx, path, config.Sum{}, w.note, zerolog.Nop())
	}()
	w.expect("the new", "new")
	cancel()
	<-done
}

// TestMountedFilesAreSeen: a single file that is mounted, as containers do, is
// written through another path, in another folder.
func TestMountedFilesAreSeen(t *testing.T) {
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		t.Skip("mounting takes root on Linux")
	}
	inside, outside := filepath.Join(t.TempDir(), "config.yaml"), filepath.Join(t.TempDir(), "config.yaml")
	testkit.OK(t, os.WriteFile(outside, []byte("one"), 0o600))
	testkit.OK(t, os.WriteFile(inside, nil, 0o600))
	if out, err := exec.Command("mount", "--bind", outside, inside).CombinedOutput(); err != nil {
		t.Skipf("cannot mount here: %s", out)
	}
	t.Cleanup(func() { _ = exec.Command("umount", inside).Run() })
	w := watch(t, inside)
	testkit.OK(t, os.WriteFile(outside, []byte("two, by another path"), 0o600))
	w.expect("the new", "two, by another path")
}

// TestFilesThatSayTheSameAreNoChange: a touch, and neighbours that are busy.
func TestFilesThatSayTheSameAreNoChange(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "config.yaml")
	testkit.OK(t, os.WriteFile(path, []byte("same"), 0o600))
	w := watch(t, path)
	for i := range 30 {
		testkit.OK(t, os.WriteFile(filepath.Join(dir, "busy.log"), fmt.Append(nil, i), 0o600))
		testkit.OK(t, os.Chtimes(path, time.Now(), time.Now()))
		time.Sleep(5 * time.Millisecond)
	}
	testkit.OK(t, os.WriteFile(path, []byte("other"), 0o600))
	w.expect("the change", "other")
	if len(w.seen) != 1 {
		t.Errorf("seen: %q", w.seen)
	}
}

func TestFilesInAWatchedFolderAreSeen(t *testing.T) {
	dir := t.TempDir()
	testkit.OK(t, os.WriteFile(filepath.Join(dir, "a.yaml"), []byte("a"), 0o600))
	seen, err := config.SumOf(dir)
	testkit.OK(t, err)
	changes := make(chan struct{}, 10)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		config.Watch(ctx, dir, seen, func(config.Sum) { changes <- struct{}{} }, zerolog.Nop())
	}()
	defer func() { cancel(); <-done }()
	for _, change := range []func() error{
		func() error { return os.WriteFile(filepath.Join(dir, "b.yaml"), []byte("b"), 0o600) },
		func() error { return os.WriteFile(filepath.Join(dir, "a.yaml"), []byte("c"), 0o600) },
		func() error { return os.Remove(filepath.Join(dir, "b.yaml")) },
	} {
		testkit.OK(t, change())
		select {
		case <-changes:
		case <-time.After(30 * time.Second):
			t.Fatal("not seen")
		}
	}
}
