package tail_test

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"

	"event2mqtt/internal/sources/tail"
)

// runAsOther runs a source to which file modes apply, also if the tests run as
// root.
func runAsOther(t *testing.T, o *output, dir string, change func(*tail.Config)) (stop func()) {
	t.Helper()
	s := source(t, dir, &buffer{}, change)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		runtime.LockOSThread() // and the thread ends with this
		if os.Getuid() == 0 {
			if err := syscall.Setfsuid(65534); err != nil {
				t.Errorf("setfsuid: %v", err)
			}
		}
		if err := s.Run(ctx, o); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	t.Cleanup(stop)
	return stop
}

// openFolder is one that anybody may look into.
func openFolder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	must(t, os.Chmod(filepath.Dir(dir), 0o755))
	must(t, os.Chmod(dir, 0o755))
	return dir
}

// TestALogThatCouldNotBeReadAtFirst begins where it ended on the very first
// run, whether it can be read while the source runs or after a restart.
func TestALogThatCouldNotBeReadAtFirst(t *testing.T) {
	for name, c := range map[string]struct {
		closed   string // what may not be looked at
		restarts int
		named    bool
	}{
		"a file, while it runs":                   {"sub/a.log", 0, false},
		"a file, after a restart":                 {"sub/a.log", 1, false},
		"a file, after two":                       {"sub/a.log", 2, false},
		"its folder, while it runs":               {"sub", 0, false},
		"its folder, after a restart":             {"sub", 2, false},
		"the folder of a named file":              {"sub", 0, true},
		"the folder of a named file, restarted":   {"sub", 1, true},
		"the folder and then the file":            {"both", 0, false},
		"the folder and then the file, restarted": {"both", 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, o := openFolder(t), newOutput()
			sub, a, b := filepath.Join(dir, "sub"), filepath.Join(dir, "sub", "a.log"), filepath.Join(dir, "b.log")
			must(t, os.Mkdir(sub, 0o755))
			write(t, a, line("old", "older")+`{"event":`)
			must(t, os.WriteFile(b, nil, 0o644))
			must(t, os.Chmod(a, 0o644)) // the umask may have left less
			closed := filepath.Join(dir, c.closed)
			if c.closed == "both" {
				must(t, os.Chmod(a, 0))
				closed = sub
			}
			must(t, os.Chmod(closed, 0))
			change := func(config *tail.Config) {
				config.Start, config.Paths = "end", []string{filepath.Join(dir, "**/*.log")}
				if c.named {
					config.Paths = []string{a, b}
				}
			}
			stop := runAsOther(t, o, dir, change)
			o.begun(t, 1)
			var want []string
			for i := range c.restarts {
				stop()
				stop = runAsOther(t, o, dir, change)
				o.begun(t, i+2)
			}
			next := func(path, name, text string) {
				write(t, path, text)
				want = append(want, name)
				o.expect(t, want...)
			}
			next(b, "first", line("first"))
			must(t, os.Chmod(closed, 0o755))
			if c.closed == "both" {
				next(b, "open", line("open"))
				o.quiet(t, want...)
				must(t, os.Chmod(a, 0o644))
			}
			o.quiet(t, want...)
			next(a, "half", `"half"}`+"\n")
			next(a, "new", line("new"))
			stop()
			write(t, a, line("while down"))
			want = append(want, "while down")
			runAsOther(t, o, dir, change)
			o.expect(t, want...)
			if n := len(o.Positions()); n != 3 {
				t.Errorf("%d positions are left", n)
			}
		})
	}
}

// TestWhatCouldNotBeReadAndIsNewIsRead: a log that was truncated or replaced
// before it could be read, or that came later.
func TestWhatCouldNotBeReadAndIsNewIsRead(t *testing.T) {
	dir, o := openFolder(t), newOutput()
	path := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"truncated.log", "replaced.log"} {
		write(t, path(name), line("old", "old", "old"))
		must(t, os.Chmod(path(name), 0))
	}
	runAsOther(t, o, dir, func(c *tail.Config) { c.Start = "end" })
	o.begun(t, 1)
	write(t, path("later.log"), line("later"))
	must(t, os.Truncate(path("truncated.log"), 0))
	write(t, path("truncated.log"), line("truncated"))
	must(t, os.Rename(path("replaced.log"), path("replaced.log.1"))) // and its inode stays in use
	write(t, path("replaced.log"), line("replaced"))
	for i, name := range []string{"truncated.log", "replaced.log", "later.log"} {
		must(t, os.Chmod(path(name), 0o644))
		o.count(t, i+1)
	}
	o.quiet(t, "truncated", "replaced", "later")
}

// TestALogThatWasReadAndCannotBeForAWhile is read on where it was read to.
func TestALogThatWasReadAndCannotBeForAWhile(t *testing.T) {
	dir, o := openFolder(t), newOutput()
	a := filepath.Join(dir, "a.log")
	write(t, a, line("1", "2"))
	must(t, os.Chmod(a, 0o644))
	stop := runAsOther(t, o, dir, nil)
	o.expect(t, "1", "2")
	stop()
	must(t, os.Chmod(a, 0))
	runAsOther(t, o, dir, nil)
	o.begun(t, 2)
	must(t, os.Chmod(a, 0o644))
	o.quiet(t, "1", "2")
	write(t, a, line("3"))
	o.expect(t, "1", "2", "3")
}
