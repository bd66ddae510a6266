package tail_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"event2mqtt/internal/health"
	"event2mqtt/internal/sources/tail"
	"event2mqtt/internal/testkit"
)

// openUnder counts the descriptors of this program that lead below dir.
func openUnder(t *testing.T, dir string) (n int) {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("this system does not tell which files are open")
	}
	for _, e := range entries {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && strings.HasPrefix(to, dir+"/") {
			n++
		}
	}
	return n
}

// TestManyFilesNeedFewDescriptors: of many files some are written to, again and
// again; every line comes, in the order of its file, and only a few files are
// open at any time.
func TestManyFilesNeedFewDescriptors(t *testing.T) {
	const files, busy, rounds, open = 600, 30, 5, 8
	dir, o := t.TempDir(), newOutput()
	path := func(i int) string { return filepath.Join(dir, fmt.Sprintf("%d.log", i)) }
	for i := range files {
		write(t, path(i), line(fmt.Sprintf("%d-old", i)))
	}
	stop := run(t, o, dir, func(c *tail.Config) { c.MaxOpen = open })
	o.count(t, files)
	want := files
	for round := range rounds {
		for i := range busy {
			write(t, path(i*files/busy), line(fmt.Sprintf("%d-%d", i, round)))
		}
		want += busy
		o.count(t, want)
		if n := openUnder(t, dir); n > open {
			t.Errorf("%d files are open", n)
		}
	}
	stop()
	next := make([]int, busy)
	for _, name := range o.got()[files:] {
		var i, round int
		if _, err := fmt.Sscanf(name, "%d-%d", &i, &round); err != nil || next[i] != round {
			t.Fatalf("%s came when %d was due", name, next[i])
		}
		next[i]++
	}
	if n := len(o.Positions()); n != files+1 {
		t.Errorf("%d positions", n)
	}
	// After a restart each file is known, and nothing comes twice.
	write(t, path(1), line("after"))
	defer run(t, o, dir, func(c *tail.Config) { c.MaxOpen = open })()
	o.count(t, want+1)
	o.stays(t, want+1)
}

// count waits for so many events.
func (o *output) count(t fataler, want int) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); len(o.got()) < want; time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("got %d events, want %d", len(o.got()), want)
		}
	}
}

func (o *output) stays(t fataler, want int) {
	t.Helper()
	time.Sleep(100 * time.Millisecond)
	if n := len(o.got()); n != want {
		t.Fatalf("got %d events, want %d", n, want)
	}
}

// TestAClosedFileIsFoundAgain when it was renamed to a name that no path
// matches, and then written to.
func TestAClosedFileIsFoundAgain(t *testing.T) {
	dir, o := t.TempDir(), newOutput()
	var want []string
	for i := range 20 {
		write(t, filepath.Join(dir, fmt.Sprintf("%d.log", i)), line("old"))
		want = append(want, "old")
	}
	defer run(t, o, dir, func(c *tail.Config) { c.MaxOpen, c.RotateWait = 4, time.Hour })()
	o.expect(t, want...)
	for i := range 20 {
		path := filepath.Join(dir, fmt.Sprintf("%d.log", i))
		must(t, os.Rename(path, path+".1"))
		write(t, path+".1", line("late"))
		want = append(want, "late")
	}
	o.expect(t, want...)
}

// TestMoreFilesThanAllowed: those written to last are read, and what is left
// out is said.
func TestMoreFilesThanAllowed(t *testing.T) {
	dir, o := t.TempDir(), newOutput()
	for i := range 10 {
		path := filepath.Join(dir, fmt.Sprintf("%d.log", i))
		write(t, path, line(fmt.Sprint(i)))
		at := time.Now().Add(time.Duration(i-20) * time.Minute)
		must(t, os.Chtimes(path, at, at))
	}
	_, log := runLogged(t, o, dir, func(c *tail.Config) { c.MaxFiles = 3 })
	o.quiet(t, "7", "8", "9")
	if h := o.told(); h.Level != health.Waiting || !strings.Contains(h.Detail, "max_files") {
		t.Errorf("health: %+v", h)
	}
	if n := strings.Count(log.String(), "max_files allows"); n != 1 {
		t.Errorf("said %d times: %s", n, log)
	}
}

// buffer is a log that may be read while it is written.
type buffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func source(t *testing.T, dir string, log *buffer, change func(*tail.Config)) *tail.Source {
	t.Helper()
	c := tail.Defaults()
	c.Name, c.Paths, c.Start = "test", []string{filepath.Join(dir, "*.log")}, "beginning"
	c.Poll, c.RotateWait = 20*time.Millisecond, 100*time.Millisecond
	if change != nil {
		change(&c)
	}
	s, err := tail.New(c, zerolog.New(log))
	must(t, err)
	return s
}

// runLogged runs a source until the test ends.
func runLogged(t *testing.T, o *output, dir string, change func(*tail.Config)) (*tail.Source, *buffer) {
	t.Helper()
	log := &buffer{}
	s := source(t, dir, log, change)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Run(ctx, o); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return s, log
}

func TestWhatMayNotBeReadIsSaidOnce(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root may read everything")
	}
	dir, o := t.TempDir(), newOutput()
	a := filepath.Join(dir, "a.log")
	write(t, a, line("1"))
	must(t, os.Chmod(a, 0))
	s, log := runLogged(t, o, dir, nil)
	testkit.Eventually(t, "unhealthy", func() bool { return o.told().Level == health.Waiting })
	time.Sleep(100 * time.Millisecond)
	if n := strings.Count(log.String(), "permission denied"); n != 1 {
		t.Errorf("said %d times: %s", n, log)
	}
	if _, err := s.Probe(t.Context()); err == nil || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("probe: %v", err)
	}
	must(t, os.Chmod(a, 0o600))
	o.expect(t, "1")
	testkit.Eventually(t, "healthy again", func() bool { return o.told().Level == health.Up })
}

// TestProbeTellsWhatIsNoFile, and a path that exists as it is written is that
// file, whatever its brackets would mean.
func TestProbeTellsWhatIsNoFile(t *testing.T) {
	dir := t.TempDir()
	brackets := filepath.Join(dir, "Printer [MK3] {a}")
	must(t, os.Mkdir(brackets, 0o700))
	write(t, filepath.Join(brackets, "a[1].log"), line("1"))
	write(t, filepath.Join(dir, "b.log"), line("1"))
	must(t, os.Mkdir(filepath.Join(dir, "folder.log"), 0o700))
	for _, c := range []struct {
		path  string
		files int
		err   string
	}{
		{dir, 0, "is a folder, not a file"},
		{filepath.Join(brackets, "a[1].log"), 1, ""},
		{filepath.Join(brackets, "*.log"), 1, ""},
		{filepath.Join(dir, "[ab].log"), 1, ""},
		{filepath.Join(dir, "*.log"), 1, ""}, // and a folder that the glob means not
		{filepath.Join(dir, "none.log"), 0, ""},
		{"/dev/null", 0, "is a device, not a file"},
	} {
		s := source(t, dir, &buffer{}, func(config *tail.Config) { config.Paths = []string{c.path} })
		detail, err := s.Probe(t.Context())
		files := 0
		_, _ = fmt.Sscan(detail, &files)
		if files != c.files || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %d files, %v", c.path, files, err)
		}
	}
}

func TestExcludedFilesAreNotRead(t *testing.T) {
	dir, o := t.TempDir(), newOutput()
	for _, name := range []string{"a.log", "b.old.log", "debug/c.log", "d.log"} {
		path := filepath.Join(dir, name)
		must(t, os.MkdirAll(filepath.Dir(path), 0o700))
		write(t, path, line(name))
		time.Sleep(10 * time.Millisecond) // file systems tell times in ticks
	}
	defer run(t, o, dir, func(c *tail.Config) {
		c.Paths, c.Exclude = []string{filepath.Join(dir, "**/*.log")}, []string{"*.old.log", filepath.Join(dir, "debug/**")}
	})()
	o.quiet(t, "a.log", "d.log")
	c := tail.Defaults()
	c.Paths, c.Exclude = []string{"/a"}, []string{"[", "a/b"}
	if err := c.Check(); err == nil || strings.Count(err.Error(), "exclude") != 2 {
		t.Errorf("got %v", err)
	}
}

// TestALastLineWithoutAnEnd is taken after a while, JSON only if it is whole.
func TestALastLineWithoutAnEnd(t *testing.T) {
	for format, want := range map[string][]string{"json": {"whole"}, "text": {"L", "L"}} {
		t.Run(format, func(t *testing.T) {
			dir, o := t.TempDir(), newOutput()
			flush := func(c *tail.Config) {
				c.Format, c.FlushAfter = format, 50*time.Millisecond
				if format == "text" {
					c.Event.Default = "L"
				}
			}
			a, b := filepath.Join(dir, "a.log"), filepath.Join(dir, "b.log")
			write(t, a, `{"event":"whole"}`)
			write(t, b, `{"event":"pa`)
			stop := run(t, o, dir, flush)
			o.quiet(t, want...)
			stop()
			defer run(t, o, dir, flush)()
			write(t, a, "\n")
			write(t, b, `rt"}`+"\n")
			if format == "json" {
				o.quiet(t, "whole", "part")
			} else {
				o.quiet(t, "L", "L", "L") // the rest of b's is a line
			}
		})
	}
}

// TestWrittenAnewWithTheSameText: each writing is an event; a touch is none.
func TestWrittenAnewWithTheSameText(t *testing.T) {
	dir, o := t.TempDir(), newOutput()
	a := filepath.Join(dir, "a.log")
	var want []string
	defer run(t, o, dir, func(c *tail.Config) { c.Poll = 50 * time.Millisecond })()
	for range 8 {
		must(t, os.WriteFile(a, []byte(line("door")), 0o600))
		want = append(want, "door")
		o.expect(t, want...)
		time.Sleep(20 * time.Millisecond) // the file system's clock moves on
	}
	for range 3 {
		now := time.Now()
		must(t, os.Chtimes(a, now, now))
		o.quiet(t, want...)
	}
	for i := range 50 { // what is added is no writing anew
		name := fmt.Sprint(i)
		write(t, a, line(name))
		want = append(want, name)
	}
	o.quiet(t, want...)
}

// TestAHoleBeforeALine: a file was truncated under a writer that does not append.
func TestAHoleBeforeALine(t *testing.T) {
	for _, size := range []int{100, 5000, 400_000, 3 << 20} {
		dir, o := t.TempDir(), newOutput()
		a := filepath.Join(dir, "a.log")
		f, err := os.Create(a)
		must(t, err)
		defer f.Close()
		put := func(text string) {
			_, err := f.WriteString(text)
			must(t, err)
		}
		put(line("1") + strings.Repeat("\n", size))
		stop := run(t, o, dir, nil)
		o.expect(t, "1")
		must(t, f.Truncate(0))
		put(line("2", "3"))
		o.expect(t, "1", "2", "3")
		put(line("4"))
		o.expect(t, "1", "2", "3", "4")
		stop()
		if slices.Contains(o.payloads, "\x00") {
			t.Error("NULs came with it")
		}
	}
}

func TestASmallCopyIsReadOnce(t *testing.T) {
	dir, o := t.TempDir(), newOutput()
	a := filepath.Join(dir, "a.log")
	write(t, a, line("1", "2"))
	defer run(t, o, dir, func(c *tail.Config) { c.Paths, c.RotateWait = []string{a + "*"}, 300*time.Millisecond })()
	o.expect(t, "1", "2")
	write(t, a+".1", line("1", "2", "unread"))
	must(t, os.Truncate(a, 0))
	o.expect(t, "1", "2", "unread")
	write(t, a, line("3"))
	o.expect(t, "1", "2", "unread", "3")
	time.Sleep(400 * time.Millisecond)
	o.quiet(t, "1", "2", "unread", "3")
	// What says the same by chance is read, if nothing was truncated.
	write(t, a+".b", line("3"))
	o.expect(t, "1", "2", "unread", "3", "3")
}

// TestFilesThatWereTooManyAtFirst begin at the ends that they had on the very
// first run when max_files allows them.
func TestFilesThatWereTooManyAtFirst(t *testing.T) {
	dir, o := t.TempDir(), newOutput()
	for i := range 6 {
		write(t, filepath.Join(dir, fmt.Sprintf("%d.log", i)), line("old"))
	}
	with := func(most int) func(*tail.Config) {
		return func(c *tail.Config) { c.Start, c.MaxFiles = "end", most }
	}
	stop := run(t, o, dir, with(2))
	o.begun(t, 1)
	stop()
	defer run(t, o, dir, with(10))()
	o.begun(t, 2)
	o.quiet(t)
	for i := range 6 {
		write(t, filepath.Join(dir, fmt.Sprintf("%d.log", i)), line("new"))
	}
	o.count(t, 6)
	if got := o.got(); slices.Contains(got, "old") {
		t.Errorf("got %v", got)
	}
}
