package file_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"event2mqtt/internal/event"
	"event2mqtt/internal/health"
	"event2mqtt/internal/journal"
	"event2mqtt/internal/sinks"
	"event2mqtt/internal/sinks/file"
	"event2mqtt/internal/sinks/sinktest"
	"event2mqtt/internal/testkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// folder is a destination: the file events.jsonl in a folder.
type folder struct {
	t    *testing.T
	path string
}

func (f folder) Options() sinks.Options {
	o := file.Type.Options().(*file.Options)
	o.Name, o.Type, o.Path, o.MaxSize, o.Keep = "log", "file", f.path, 8<<10, 1000
	return o
}

func (folder) Deps(*sinks.Deps) {}

func (f folder) Got() [][]byte { return whole(f.t, lines(f.t, f.path)) }

// Break puts another folder in the place of the file's, in which it cannot be
// made: root may write everywhere.
func (f folder) Break() {
	dir := filepath.Dir(f.path)
	testkit.OK(f.t, os.Rename(dir, dir+".away"))
	testkit.OK(f.t, os.WriteFile(dir, nil, 0o600))
}

func (f folder) Mend() {
	dir := filepath.Dir(f.path)
	testkit.OK(f.t, os.Remove(dir))
	testkit.OK(f.t, os.Rename(dir+".away", dir))
}

func (folder) Never() (event.Event, bool) {
	return event.Event{Name: "Long", Source: "s", Payload: fmt.Appendf(nil, `{"contract":"long.","x":%q}`, strings.Repeat("x", 8<<10))}, true
}

func TestContract(t *testing.T) {
	sinktest.Run(t, func(t *testing.T) sinktest.Destination {
		dir := filepath.Join(t.TempDir(), "logs")
		testkit.OK(t, os.Mkdir(dir, 0o700))
		return folder{t, filepath.Join(dir, "events.jsonl")}
	})
}

// lines are what the rotated files and the file hold, oldest first. It looks
// again if they are rotated meanwhile.
func lines(t testing.TB, path string) []byte {
	t.Helper()
	for {
		names, before := files(path)
		var all []byte
		for _, name := range names {
			text, err := os.ReadFile(name)
			if err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
			all = append(all, text...)
		}
		if now, after := files(path); slices.Equal(names, now) && slices.EqualFunc(before, after, os.SameFile) {
			return all
		}
	}
}

// files are the file and what was rotated, oldest first.
func files(path string) (names []string, infos []os.FileInfo) {
	if info, err := os.Lstat(path); err == nil {
		names, infos = append(names, path), append(infos, info)
	}
	for n := range 100 { // one number is free for a moment while files are renamed
		name := fmt.Sprintf("%s.%d", path, n+1)
		info, err := os.Lstat(name)
		if err != nil {
			continue
		}
		names, infos = append(names, name), append(infos, info)
	}
	slices.Reverse(names)
	slices.Reverse(infos)
	return names, infos
}

// whole splits lines; all but the last must have an end.
func whole(t testing.TB, text []byte) (all [][]byte) {
	for line := range bytes.Lines(text) {
		if bytes.HasSuffix(line, []byte("\n")) {
			all = append(all, line)
		}
	}
	return all
}

// rig is a sink that runs, with a journal in front.
type rig struct {
	t       *testing.T
	dir     string
	options *file.Options
	journal *journal.Journal
	cursor  *journal.Cursor
	health  health.Record
	log     testkit.Log
	stop    func()
	n       int
}

func newRig(t *testing.T, dir string, change func(*file.Options)) *rig {
	t.Helper()
	r := &rig{t: t, dir: dir, options: file.Type.Options().(*file.Options)}
	r.options.Name, r.options.Type, r.options.Path = "log", "file", filepath.Join(dir, "events.jsonl")
	if change != nil {
		change(r.options)
	}
	var err error
	r.journal, err = journal.Open(journal.Options{FS: journal.DirFS(t.TempDir()), Sync: journal.SyncNever, Log: zerolog.Nop()})
	testkit.OK(t, err)
	r.cursor, err = r.journal.Cursor("log")
	testkit.OK(t, err)
	t.Cleanup(func() {
		if r.stop != nil {
			r.stop()
		}
		testkit.OK(t, r.journal.Close())
		if t.Failed() {
			t.Logf("its log:\n%s", &r.log)
		}
	})
	r.run()
	return r
}

func (r *rig) run() {
	r.t.Helper()
	testkit.OK(r.t, r.options.Check())
	s, err := r.options.Build(sinks.Deps{ID: r.journal.ID, Log: zerolog.New(&r.log)})
	testkit.OK(r.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		ok := s.Run(ctx, r.cursor, event.NewStates(), r.health.Tell)
		if ok != nil {
			r.t.Error(ok)
		}
	}()
	r.stop = sync.OnceFunc(func() { cancel(); <-done })
}

func (r *rig) emit(n int) {
	r.t.Helper()
	for range n {
		r.n++
		e := event.Event{Name: "E", Source: "s", Time: time.Now(), Payload: fmt.Appendf(nil, `{"n":%d}`, r.n)}
		testkit.OK(r.t, event.Normaliser{}.Normalise(&e))
		_, err := r.journal.Append(r.t.Context(), e)
		testkit.OK(r.t, err)
	}
}

func (r *rig) delivered() {
	r.t.Helper()
	testkit.Eventually(r.t, "all is acknowledged", func() bool { return r.cursor.Lag() == 0 })
}

// numbers are the events in some text, in its order, without repetitions.
func numbers(t testing.TB, text []byte) (all []int) {
	t.Helper()
	seen := map[int]bool{}
	for _, line := range whole(t, text) {
		_, number, _ := bytes.Cut(line, []byte(`"n":`))
		var n int
		if _, err := fmt.Sscanf(string(number), "%d", &n); err != nil {
			t.Errorf("a line is not of this test: %q", line)
		}
		if !seen[n] {
			all = append(all, n)
		}
		seen[n] = true
	}
	return all
}

// expect checks that the events are in a text, in order.
func (r *rig) expect(text []byte) {
	r.t.Helper()
	for i, n := range numbers(r.t, text) {
		if n != i+1 {
			r.t.Fatalf("event %d comes at %d:\n%.600s", n, i+1, text)
		}
	}
	if got := len(numbers(r.t, text)); got != r.n {
		r.t.Fatalf("%d of %d events are there", got, r.n)
	}
}

func (r *rig) file() []byte {
	text, err := os.ReadFile(r.options.Path)
	testkit.OK(r.t, err)
	return text
}

func TestEventsAreLinesInAFile(t *testing.T) {
	r := newRig(t, t.TempDir(), nil)
	r.emit(300)
	r.delivered()
	r.expect(r.file())
	info, err := os.Stat(r.options.Path)
	testkit.OK(t, err)
	if mode := info.Mode().Perm(); mode&^0o640 != 0 {
		t.Errorf("the file can be used by others: %v", mode)
	}
	if report := r.health.Report(); report.Level != health.Up || !strings.Contains(report.Detail, r.options.Path) {
		t.Errorf("it tells %+v", report)
	}
}

// TestTheFileIsRotatedBySize: no file has more than max_size, keep of them are
// kept, and what they hold is the newest, in order.
func TestTheFileIsRotatedBySize(t *testing.T) {
	dir := t.TempDir()
	testkit.OK(t, os.WriteFile(filepath.Join(dir, "events.jsonl.4"), []byte("of a time when more were kept\n"), 0o600))
	r := newRig(t, dir, func(o *file.Options) { o.MaxSize, o.Keep = 4<<10, 3 })
	r.emit(700)
	r.delivered()
	all := numbers(t, lines(t, r.options.Path))
	for i, n := range all {
		if n != r.n-len(all)+i+1 {
			t.Fatalf("event %d comes at %d of %d", n, i, len(all))
		}
	}
	files, err := os.ReadDir(dir)
	testkit.OK(t, err)
	if len(files) != 4 || len(all) < 150 {
		t.Errorf("%d files with %d events: %v", len(files), len(all), files)
	}
	for _, f := range files {
		if info, err := f.Info(); err != nil || info.Size() > 4<<10 || info.Size() < 3<<10 && f.Name() != "events.jsonl" {
			t.Errorf("%s: %d bytes (%v)", f.Name(), info.Size(), err)
		}
	}
}

// TestARotationThatEndedHalfwayGoesOn: a name that is missing is filled, and
// nothing behind it is renamed.
func TestARotationThatEndedHalfwayGoesOn(t *testing.T) {
	dir := t.TempDir()
	for _, n := range []string{"1", "3"} {
		testkit.OK(t, os.WriteFile(filepath.Join(dir, "events.jsonl."+n), []byte("was "+n), 0o600))
	}
	testkit.OK(t, os.WriteFile(filepath.Join(dir, "events.jsonl"), []byte(strings.Repeat("x", 4095)+"\n"), 0o600))
	r := newRig(t, dir, func(o *file.Options) { o.MaxSize, o.Keep = 4<<10, 3 })
	r.emit(1)
	r.delivered()
	for n, want := range map[string]string{"1": "xxxxx", "2": "was 1", "3": "was 3"} {
		if text, err := os.ReadFile(filepath.Join(dir, "events.jsonl."+n)); err != nil || string(text[:5]) != want {
			t.Errorf("%s: %.5s, want %s (%v)", n, text, want, err)
		}
	}
	r.expect(r.file())
}

// TestALastLineThatIsNotWholeIsMended: one of a crash is cut off, and its event
// comes again; anybody else's is kept.
func TestALastLineThatIsNotWholeIsMended(t *testing.T) {
	long := strings.Repeat("y", 200<<10)
	for before, want := range map[string]string{
		"":                               "",
		"whole\n":                        "whole\n",
		"whole\n{\"_event\":\"E\",\"_ti": "whole\n",
		"whole\n{\"_e":                   "whole\n",
		"{":                              "",
		`{"_event":"` + long:             "",
		"w\n{\"_event\":\"" + long:       "w\n",
		"whole\n\x00\x00\x00":            "whole\n",
		"whole\n{\"_event\":1\x00\x00":   "whole\n",
		"somebody's":                     "somebody's\n",
		`{"a": "file of another"}`:       `{"a": "file of another"}` + "\n",
		"whole\nsomebody's " + long:      "whole\nsomebody's " + long + "\n",
	} {
		dir := t.TempDir()
		testkit.OK(t, os.WriteFile(filepath.Join(dir, "events.jsonl"), []byte(before), 0o600))
		r := newRig(t, dir, nil)
		r.emit(2)
		r.delivered()
		after, found := strings.CutPrefix(string(r.file()), want)
		if !found {
			t.Errorf("%.40q became %.40q", before, r.file())
		}
		r.expect([]byte(after))
		if told := strings.Contains(r.log.String(), "last line"); told != (before != want) {
			t.Errorf("%.40q: told %s", before, &r.log)
		}
	}
}

// TestAFileThatOthersMoveIsBegunAgain, as logrotate does in its two ways, or
// somebody who removes it: nothing that comes then is missing.
func TestAFileThatOthersMoveIsBegunAgain(t *testing.T) {
	r := newRig(t, t.TempDir(), nil)
	path := r.options.Path
	var before []byte
	for _, move := range []func(){
		func() { testkit.OK(t, os.Rename(path, path+".old")) },
		func() { testkit.OK(t, os.Truncate(path, 0)) },
		func() { testkit.OK(t, os.Remove(path)) },
		func() {
			testkit.OK(t, os.WriteFile(path+".new", nil, 0o600))
			testkit.OK(t, os.Rename(path+".new", path))
		},
		func() {},
	} {
		r.emit(10)
		r.delivered()
		before = append(before, r.file()...)
		move()
	}
	r.expect(before)
}

// TestWhatIsNoFileIsRefused by check, with what to do.
func TestWhatIsNoFileIsRefused(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	testkit.OK(t, syscall.Mkfifo(at("pipe"), 0o600))
	testkit.OK(t, os.WriteFile(at("file"), nil, 0o600))
	testkit.OK(t, os.Symlink(at("file"), at("link")))
	for path, want := range map[string]string{
		at("pipe"): "is a named pipe, not a file", dir: "is a folder, not a file", dir + "/": "write the name of a file", "/dev/full": "/dev/full is a device, not a file",
		at("link"): "is a symbolic link; write the path that it leads to", "events.jsonl": "must begin with /",
		at("file/events.jsonl"):      "is no folder",
		at(strings.Repeat("x", 241)): "241 bytes; at most 240", at("file"): "", at("new"): "", at("none/events.jsonl"): "",
	} {
		o := file.Type.Options().(*file.Options)
		o.Path = path
		err := o.Check()
		if want == "" && err != nil || want != "" && (err == nil || !strings.HasPrefix(err.Error(), "path: ") || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v; want %s", path, err, want)
		}
	}
	if _, err := os.Lstat(at("new")); err == nil {
		t.Error("check makes the file")
	}
}

// TestAFolderThatIsMissingIsWaitedFor: check accepts it with a warning, the sink
// waits, the log has one line about it at the level of a peer that is away, and
// the sink goes on by itself.
func TestAFolderThatIsMissingIsWaitedFor(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "later")
	o := file.Type.Options().(*file.Options)
	o.Path = filepath.Join(dir, "events.jsonl")
	if err := o.Warn(); err == nil || !strings.Contains(err.Error(), "path: the folder "+dir+" does not exist; make it") {
		t.Errorf("the warning is %v", err)
	}
	r := newRig(t, dir, nil) // which calls Check
	r.emit(3)
	testkit.Eventually(t, "it waits", func() bool {
		h := r.health.Report()
		return h.Level == health.Waiting && h.Restarts == 0 && strings.Contains(h.Detail, "the folder "+dir+" does not exist")
	})
	testkit.OK(t, os.Mkdir(dir, 0o700))
	if err := o.Warn(); err != nil {
		t.Errorf("with the folder there: %v", err)
	}
	r.delivered()
	r.expect(r.file())
	testkit.Eventually(t, "it is up", func() bool { return r.health.Report().Level == health.Up })
	log := r.log.String()
	if strings.Contains(log, `"level":"error"`) || strings.Count(log, "does not exist") != 1 || strings.Count(log, `"level":"warn"`) != 1 {
		t.Errorf("the log: %s", log)
	}
}

// TestProbesTellWhetherTheFileCanBeWritten, and how much room there is, and leave
// nothing behind.
func TestProbesTellWhetherTheFileCanBeWritten(t *testing.T) {
	dir := t.TempDir()
	probe := func(path string) (string, error) {
		o := file.Type.Options().(*file.Options)
		o.Name, o.Type, o.Path = "log", "file", path
		s, err := o.Build(sinks.Deps{Log: zerolog.Nop()})
		testkit.OK(t, err)
		return s.(sinks.Prober).Probe(t.Context())
	}
	if got, err := probe(filepath.Join(dir, "new")); err != nil || !strings.HasPrefix(got, "can be written; ") || !strings.HasSuffix(got, " MiB are free there") {
		t.Errorf("a new file: %q, %v", got, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("the probe left %v, %v", left, err)
	}
	testkit.OK(t, os.WriteFile(filepath.Join(dir, "there"), []byte("x\n"), 0o600))
	if _, err := probe(filepath.Join(dir, "there")); err != nil {
		t.Error(err)
	}
	if _, err := probe(filepath.Join(dir, "none", "new")); err == nil || !strings.Contains(err.Error(), "none does not exist; make it") {
		t.Errorf("without its folder: %v", err)
	}
	if os.Getuid() != 0 { // who may write everywhere
		testkit.OK(t, os.Chmod(filepath.Join(dir, "there"), 0o400))
		if _, err := probe(filepath.Join(dir, "there")); err == nil {
			t.Error("a file that may not be written passes")
		}
		testkit.OK(t, os.Chmod(dir, 0o500))
		if _, err := probe(filepath.Join(dir, "new")); err == nil {
			t.Error("a folder that may not be written passes")
		}
	} else if _, err := probe("/proc/new"); err == nil {
		t.Error("a folder in which no file can be made passes")
	}
}

// TestWhatTakesTheFilesPlaceIsWaitedFor: a pipe does not block, a link is not
// followed, and it goes on when the file can be there again.
func TestWhatTakesTheFilesPlaceIsWaitedFor(t *testing.T) {
	for what, put := range map[string]func(path string) error{
		"named pipe":    func(path string) error { return syscall.Mkfifo(path, 0o600) },
		"symbolic link": func(path string) error { return os.Symlink("/dev/null", path) },
		"folder":        func(path string) error { return os.Mkdir(path, 0o700) },
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, t.TempDir(), nil)
			r.emit(5)
			r.delivered()
			before := r.file()
			testkit.OK(t, os.Remove(r.options.Path))
			testkit.OK(t, put(r.options.Path))
			r.emit(5)
			testkit.Eventually(t, "it waits", func() bool {
				return r.health.Report().Level == health.Waiting && strings.Contains(r.health.Report().Detail, what)
			})
			if lag := r.cursor.Lag(); lag != 5 {
				t.Errorf("%d events wait", lag)
			}
			testkit.OK(t, os.Remove(r.options.Path))
			r.delivered()
			r.expect(append(before, r.file()...))
			if n := strings.Count(r.log.String(), " is a "+what); n != 1 {
				t.Errorf("it is told %d times", n)
			}
		})
	}
}

// TestTwoSinksDoNotWriteToOneFile, even if their paths do not show that it is
// one: the second waits for the first to end.
func TestTwoSinksDoNotWriteToOneFile(t *testing.T) {
	dir, link := t.TempDir(), filepath.Join(t.TempDir(), "link")
	testkit.OK(t, os.Symlink(dir, link))
	first := newRig(t, dir, nil)
	first.emit(1)
	first.delivered()
	second := newRig(t, link, nil)
	second.emit(1)
	testkit.Eventually(t, "the second waits", func() bool {
		return strings.Contains(second.health.Report().Detail, "is written to by another program or sink")
	})
	first.emit(10)
	first.delivered()
	first.expect(first.file())
	first.stop()
	second.delivered()
}

// TestOptionsThatClash are refused before anything is written.
func TestOptionsThatClash(t *testing.T) {
	make := func(path string) *file.Options { return &file.Options{Path: path} }
	for _, c := range []struct {
		a, b  string
		clash bool
	}{
		{"/a/x", "/a/x", true}, {"/a/x", "/a/../a//x", true}, {"/a/x", "/a/x.1", true}, {"/a/x.12", "/a/x", true},
		{"/a/x", "/a/y", false}, {"/a/x", "/a/x.log", false}, {"/a/x", "/b/x", false}, {"", "", false},
	} {
		if err := make(c.a).Clash(make(c.b), "sinks[0]"); (err != nil) != c.clash || err != nil && !strings.Contains(err.Error(), "sinks[0]") {
			t.Errorf("%s and %s: %v", c.a, c.b, err)
		}
	}
}

// smallDisk mounts a file system of a size.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("mount a small disk: %v", err)
		}
		t.Skipf("mount a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// TestAFullDiskIsWaitedFor: told once, and when there is room everything is
// there, in order and once; no line is torn meanwhile.
func TestAFullDiskIsWaitedFor(t *testing.T) {
	dir := smallDisk(t, "128k")
	r := newRig(t, dir, nil)
	testkit.OK(t, os.WriteFile(filepath.Join(dir, "other"), make([]byte, 100<<10), 0o600))
	r.emit(1000) // some 50 KiB
	testkit.Eventually(t, "it waits", func() bool {
		return r.health.Report().Level == health.Waiting && strings.Contains(r.health.Report().Detail, "no space left")
	})
	if acked := r.n - int(r.cursor.Lag()); len(numbers(t, r.file())) < acked {
		t.Errorf("%d events are acknowledged, and %d are there", acked, len(numbers(t, r.file())))
	}
	time.Sleep(2 * time.Second) // some attempts
	testkit.OK(t, os.Remove(filepath.Join(dir, "other")))
	r.delivered()
	r.expect(r.file())
	if n := len(whole(t, r.file())); n != r.n {
		t.Errorf("%d lines for %d events", n, r.n)
	}
	if n := strings.Count(r.log.String(), "no space left"); n != 1 || !strings.Contains(r.log.String(), "is written to again") {
		t.Errorf("it is told %d times", n)
	}
	testkit.Eventually(t, "it tells that it works", func() bool { return r.health.Report().Level == health.Up })
}

// BenchmarkDelivery is how many events a second go into the file, each on the
// disk before it is acknowledged.
func BenchmarkDelivery(b *testing.B) {
	j, err := journal.Open(journal.Options{FS: journal.DirFS(b.TempDir()), Sync: journal.SyncNever, Log: zerolog.Nop()})
	testkit.OK(b, err)
	defer j.Close()
	c, err := j.Cursor("log")
	testkit.OK(b, err)
	o := file.Type.Options().(*file.Options)
	o.Name, o.Path = "log", filepath.Join(b.TempDir(), "events.jsonl")
	s, err := o.Build(sinks.Deps{ID: j.ID, Log: zerolog.Nop()})
	testkit.OK(b, err)
	e := event.Event{Name: "E", Source: "s", Time: time.Now(), Payload: fmt.Appendf(nil, `{"p":%q}`, strings.Repeat("x", 200))}
	testkit.OK(b, event.Normaliser{}.Normalise(&e))
	events := make([]event.Event, 100)
	for i := range events {
		events[i] = e
	}
	for b.Loop() {
		_, err := j.Append(b.Context(), events...)
		testkit.OK(b, err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	var wg sync.WaitGroup
	began := time.Now()
	wg.Go(func() { _ = s.Run(ctx, c, event.NewStates(), func(health.Status) {}) })
	for c.Lag() > 0 {
		time.Sleep(time.Millisecond)
	}
	b.ReportMetric(float64(100*b.N)/time.Since(began).Seconds(), "events/s")
	cancel()
	wg.Wait()
}
