package tail_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"pgregory.net/rapid"

	"event2mqtt/internal/device"
	"event2mqtt/internal/event"
	"event2mqtt/internal/health"
	"event2mqtt/internal/journal"
	"event2mqtt/internal/sources"
	"event2mqtt/internal/sources/tail"
	"event2mqtt/internal/testkit"
)

// output keeps events and positions as the journal does.
type output struct {
	mu        sync.Mutex
	names     []string
	payloads  []string
	positions map[string][]byte
	full      bool
	refuse    string // name of an event that is refused
	attempts  int
	ready     int // how often a source was
	health    health.Status
}

func newOutput() *output { return &output{positions: map[string][]byte{}} }

func (o *output) Ready() { o.set(func() { o.ready++ }) }

func (o *output) Emit(_ context.Context, events ...event.Event) (sources.Receipt, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.attempts++
	if o.full {
		return nil, journal.ErrFull
	}
	for _, e := range events {
		if e.Name == o.refuse {
			return nil, &event.Refused{Reason: "too large"}
		}
	}
	for _, e := range events {
		o.names = append(o.names, e.Name)
		o.payloads = append(o.payloads, string(e.Payload))
		o.positions[e.Position.Key] = bytes.Clone(e.Position.Value)
	}
	return nil, nil
}

func (o *output) Mark(_ context.Context, positions ...event.Position) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.full {
		return journal.ErrFull
	}
	for _, p := range positions {
		o.positions[p.Key] = bytes.Clone(p.Value)
	}
	return nil
}

func (o *output) Tell(h health.Status) { o.set(func() { o.health = h }) }

func (o *output) Describe(device.Device) {}

func (o *output) Report(...event.State) {}

func (o *output) Remove(...string) {}

func (o *output) Positions() map[string][]byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	return maps.Clone(o.positions)
}

func (o *output) Forget(key string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.positions, key)
}

func (o *output) set(change func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	change()
}

func (o *output) told() (h health.Status) {
	o.set(func() { h = o.health })
	return h
}

// begun waits until a source was ready so many times.
func (o *output) begun(t *testing.T, times int) {
	t.Helper()
	testkit.Eventually(t, "ready", func() (is bool) { o.set(func() { is = o.ready >= times }); return is })
}

func (o *output) got() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.names)
}

// run runs a source until the test or the returned function ends it, as
// suddenly as a kill would as far as the files are concerned.
func run(t fataler, o *output, dir string, change func(*tail.Config)) (stop func()) {
	c := tail.Defaults()
	c.Name, c.Paths, c.Start = "test", []string{filepath.Join(dir, "*.log")}, "beginning"
	c.Poll, c.RotateWait = 20*time.Millisecond, 100*time.Millisecond
	if change != nil {
		change(&c)
	}
	s, err := tail.New(c, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Run(ctx, o); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	return sync.OnceFunc(func() { cancel(); wg.Wait() })
}

type fataler interface {
	Fatal(...any)
	Errorf(string, ...any)
	Fatalf(string, ...any)
	Helper()
}

func (o *output) expect(t fataler, want ...string) {
	t.Helper()
	var got []string
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if got = o.got(); len(got) >= len(want) {
			break
		}
	}
	if !slices.Equal(got, want) {
		t.Fatalf("got  %v\nwant %v", got, want)
	}
}

// quiet waits long enough for a few polls: nothing more may come.
func (o *output) quiet(t fataler, want ...string) {
	t.Helper()
	time.Sleep(100 * time.Millisecond)
	o.expect(t, want...)
}

func write(t fataler, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

func line(names ...string) (text string) {
	for _, n := range names {
		text += fmt.Sprintf("{\"event\":%q}\n", n)
	}
	return text
}

func TestLinesPartialLinesAndNewFiles(t *testing.T) {
	dir, o := t.TempDir(), newOutput()
	a := filepath.Join(dir, "a.log")
	write(t, a, line("1", "2")+`{"event":`)
	defer run(t, o, dir, nil)()
	o.expect(t, "1", "2")
	write(t, a, `"3"}`)
	o.quiet(t, "1", "2") // the line is not finished
	write(t, a, "\r\n\n  \n"+line("4"))
	o.expect(t, "1", "2", "3", "4")
	write(t, filepath.Join(dir, "b.log"), line("5"))
	write(t, filepath.Join(dir, "other.txt"), line("no"))
	o.expect(t, "1", "2", "3", "4", "5")
}

func TestStartAtTheEndIsRememberedBeforeTheFirstLine(t *testing.T) {
	dir, o := t.TempDir(), newOutput()
	a := filepath.Join(dir, "a.log")
	end := func(c *tail.Config) { c.Start = "end" }
	write(t, a, line("old")+strings.Repeat("x", 200_000)+"\n"+`{"event":"half`)
	stop := run(t, o, dir, end)
	o.quiet(t)
	stop()
	write(t, a, ` done"}`+"\n")
	write(t, filepath.Join(dir, "b.log"), line("new"))
	defer run(t, o, dir, end)()
	o.expect(t, "half done", "new")
}

func TestGoesOnAtTheExactByteAfterARestart(t *testing.T) {
	dir, o := t.TempDir(), newOutput()
	a := filepath.Join(dir, "a.log")
	write(t, a, line("1", "2"))
	stop := run(t, o, dir, nil)
	o.expect(t, "1", "2")
	stop()
	write(t, a, line("3"))
	stop = run(t, o, dir, nil)
	o.expect(t, "1", "2", "3")
	stop()
	// Rotated while nobody looked, to a name that no path matches, twice.
	write(t, a, line("4"))
	must(t, os.Rename(a, filepath.Join(dir, "a.1")))
	write(t, a, line("5"))
	defer run(t, o, dir, nil)()
	o.quiet(t, "1", "2", "3", "4", "5")
}

// TestAFileThatWasSeenIsKnownAgain, though nothing was read of it: it was
// empty then, and was written to and renamed while nobody looked.
func TestAFileThatWasSeenIsKnownAgain(t *testing.T) {
	dir, o := t.TempDir(), newOutput()
	a := filepath.Join(dir, "a.log")
	stop := run(t, o, dir, nil)
	write(t, a, "")
	for deadline := time.Now().Add(30 * time.Second); len(o.Positions()) < 2; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not seen")
		}
	}
	stop()
	write(t, a, line("1"))
	must(t, os.Rename(a, filepath.Join(dir, "a.1")))
	write(t, a, line("2"))
	defer run(t, o, dir, nil)()
	o.expect(t, "1", "2")
}

func must(t fataler, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestRenamedFilesAreReadToTheirEnd(t *testing.T) {
	dir, o := t.TempDir(), newOutput()
	a := filepath.Join(dir, "a.log")
	write(t, a, line("1"))
	defer run(t, o, dir, nil)()
	o.expect(t, "1")
	moved := filepath.Join(dir, "a.1")
	must(t, os.Rename(a, moved))
	write(t, moved, line("2")) // its writer has not noticed yet
	o.expect(t, "1", "2")
	write(t, a, line("3"))
	o.expect(t, "1", "2", "3")
	write(t, moved, `{"event":"4"}`) // and ends without a line end
	o.expect(t, "1", "2", "3", "4")
	// Its position goes with it: only the living file's is left, and the mark.
	for deadline := time.Now().Add(30 * time.Second); len(o.Positions()) != 2; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("positions: %v", o.Positions())
		}
	}
}

func TestDeletedFilesAreReadToTheirEnd(t *testing.T) {
	dir, o := t.TempDir(), newOutput()
	a := filepath.Join(dir, "a.log")
	write(t, a, line("1"))
	defer run(t, o, dir, func(c *tail.Config) { c.RotateWait = time.Hour })()
	o.expect(t, "1")
	f, err := os.OpenFile(a, os.O_APPEND|os.O_WRONLY, 0)
	must(t, err)
	defer f.Close()
	must(t, os.Remove(a))
	_, err = f.WriteString(line("2"))
	must(t, err)
	o.expect(t, "1", "2")
}

func TestTruncationIsNoticed(t *testing.T) {
	for name, truncate := range map[string]func(a string) error{
		"to nothing, then shorter":        func(a string) error { return os.WriteFile(a, []byte(line("3")), 0o600) },
		"and grown to the very same size": func(a string) error { return os.WriteFile(a, []byte(line("3", "4")), 0o600) },
		"and grown beyond the old size": func(a string) error {
			return os.WriteFile(a, []byte(line("3")+strings.Repeat("\n", 500)), 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, o := t.TempDir(), newOutput()
			a := filepath.Join(dir, "a.log")
			write(t, a, line("1", "2"))
			defer run(t, o, dir, nil)()
			o.expect(t, "1", "2")
			must(t, truncate(a))
			want := []string{"1", "2", "3"}
			if strings.Contains(name, "same size") {
				want = append(want, "4")
			}
			o.quiet(t, want...)
		})
	}
}

func TestTooLongALineIsCut(t *testing.T) {
	dir, o := t.TempDir(), newOutput()
	a := filepath.Join(dir, "a.log")
	text := func(c *tail.Config) { c.Format, c.Event.Default, c.MaxLine = "text", "L", 1000 }
	defer run(t, o, dir, text)()
	for i, size := range []int{10, 1000, 1001, 70_000, 300_000, 10} {
		write(t, a, strings.Repeat("x", size/2))
		time.Sleep(30 * time.Millisecond) // the rest comes later
		write(t, a, strings.Repeat("x", size-size/2)+"\n")
		o.expect(t, slices.Repeat([]string{"L"}, i+1)...)
		if got, want := len(o.payloads[i])-len(`{"line":""}`), min(size, 1000); got != want {
			t.Errorf("line of %d became one of %d", size, got)
		}
	}
}

func TestPlainLinesByPattern(t *testing.T) {
	dir, o := t.TempDir(), newOutput()
	a := filepath.Join(dir, "a.log")
	write(t, a, "noise\n12:01 PrintStarted \"a b\".gcode\n12:02 PrintDone\n12:03 Odd \xff\n")
	defer run(t, o, dir, func(c *tail.Config) {
		c.Format, c.Pattern = "regexp", `^(?P<at>[\d:]+) (?P<event>\w+)(?: (?P<file>.*))?$`
		c.Event.Names = map[string]string{"PrintDone": "Done"}
	})()
	o.expect(t, "PrintStarted", "Done", "Odd")
	want := []string{`{"at":"12:01","event":"PrintStarted","file":"\"a b\".gcode"}`, `{"at":"12:02","event":"PrintDone"}`, `{"at":"12:03","event":"Odd","file":"ÿ"}`}
	if !slices.Equal(o.payloads, want) {
		t.Errorf("got %q", o.payloads)
	}
}

func TestAFullJournalPausesTheSource(t *testing.T) {
	dir, o := t.TempDir(), newOutput()
	a := filepath.Join(dir, "a.log")
	write(t, a, line("1"))
	defer run(t, o, dir, nil)()
	o.expect(t, "1")
	o.set(func() { o.full = true })
	write(t, a, line("2", "3"))
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		o.mu.Lock()
		tried := o.attempts
		o.mu.Unlock()
		if tried >= 3 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("it does not try again")
		}
	}
	must(t, os.Rename(a, filepath.Join(dir, "a.1"))) // even rotated meanwhile
	write(t, a, line("4"))
	o.set(func() { o.full = false })
	o.expect(t, "1", "2", "3", "4")
}

func TestALineThatIsRefusedHoldsUpNoOther(t *testing.T) {
	dir, o := t.TempDir(), newOutput()
	o.refuse = "bad"
	a := filepath.Join(dir, "a.log")
	write(t, a, line("1", "bad", "2")+"not JSON\n"+line("3", "bad"))
	stop := run(t, o, dir, nil)
	o.expect(t, "1", "2", "3")
	o.quiet(t, "1", "2", "3")
	stop()
	o.set(func() { o.refuse = "" })
	defer run(t, o, dir, nil)()
	write(t, a, line("4"))
	o.expect(t, "1", "2", "3", "4") // what was refused is not tried again
}

// TestAnyRotationAnyRestart does what writers, logrotate and crashes do, in
// any order: every line comes once, in the order it was written.
func TestAnyRotationAnyRestart(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "tail")
		must(t, err)
		defer os.RemoveAll(dir)
		a, o := filepath.Join(dir, "a.log"), newOutput()
		var want []string
		var stop func()
		rotations, partial := 0, ""
		ensure := func() {
			if stop == nil {
				stop = run(t, o, dir, func(c *tail.Config) { c.Paths = []string{a + "*"} })
			}
		}
		write(t, a, "")
		t.Repeat(map[string]func(*rapid.T){
			"write": func(t *rapid.T) {
				for range rapid.IntRange(1, 5).Draw(t, "lines") {
					name := fmt.Sprint(len(want))
					want = append(want, name)
					write(t, a, partial+line(name))
					partial = ""
				}
			},
			"write a part": func(t *rapid.T) {
				if partial == "" {
					name := fmt.Sprint(len(want))
					want = append(want, name)
					text := line(name)
					cut := rapid.IntRange(1, len(text)-1).Draw(t, "cut")
					write(t, a, text[:cut])
					partial = text[cut:]
				}
			},
			"rename": func(t *rapid.T) {
				if partial != "" {
					write(t, a, partial)
					partial = ""
				}
				rotations++
				awaitNewer(t, dir, a)
				must(t, os.Rename(a, fmt.Sprintf("%s.%d", a, rotations)))
				write(t, a, "")
			},
			"truncate": func(t *rapid.T) {
				if partial == "" {
					ensure()
					ensureSeen(t, o, want) // else copytruncate itself loses lines
					must(t, os.Truncate(a, 0))
				}
			},
			"kill": func(*rapid.T) {
				if stop != nil {
					stop()
					stop = nil
				}
			},
			"start": func(*rapid.T) { ensure() },
		})
		if partial != "" {
			write(t, a, partial)
		}
		ensure()
		o.expect(t, want...)
		stop()
	})
}

// awaitNewer waits until what is written now is newer than a file: which of two
// unknown files is older is told by when they were written to, and the clock for
// that may stand still for some milliseconds, or more on a busy machine.
func awaitNewer(t fataler, dir, file string) {
	t.Helper()
	old, err := os.Stat(file)
	must(t, err)
	probe := filepath.Join(dir, "clock")
	defer os.Remove(probe)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		must(t, os.WriteFile(probe, []byte("x"), 0o600))
		if now, err := os.Stat(probe); err == nil && now.ModTime().After(old.ModTime()) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the clock of the file system stands still")
		}
	}
}

// ensureSeen waits until all whole lines were read.
func ensureSeen(t fataler, o *output, want []string) {
	for deadline := time.Now().Add(10 * time.Second); len(o.got()) < len(want); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("got %v, want %v", o.got(), want)
		}
	}
}

// TestBadOptions is about what only this package can know; the messages are
// seen in the bridge's tests.
func TestBadOptions(t *testing.T) {
	c := tail.Defaults()
	c.Paths = []string{"printer.log"}
	err := c.Check()
	if err == nil || !strings.Contains(err.Error(), "paths") {
		t.Errorf("got %v", err)
	}
	if errors.Unwrap(err) != nil {
		t.Errorf("want a joined error, got %T", err)
	}
}
