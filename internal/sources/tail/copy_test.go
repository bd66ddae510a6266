package tail_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"event2mqtt/internal/sources/tail"
)

// This file is about copies: what copytruncate makes, and what looks like it.

// hundredLines follows a file, a.log, until its hundred lines have come; copies
// of it may take any time.
func hundredLines(t *testing.T) (a string, o *output, want []string) {
	t.Helper()
	a, o = filepath.Join(t.TempDir(), "a.log"), newOutput()
	for i := range 100 {
		want = append(want, fmt.Sprint("line ", i))
	}
	write(t, a, line(want...))
	t.Cleanup(run(t, o, filepath.Dir(a), func(c *tail.Config) { c.RotateWait = time.Hour }))
	o.expect(t, want...)
	return a, o, want
}

// TestCopytruncateLosesNothingWhenTheCopyMatches: logrotate copies the file,
// then empties it; lines that were not read yet are in the copy alone.
func TestCopytruncateLosesNothingWhenTheCopyMatches(t *testing.T) {
	a, o, _ := hundredLines(t)
	// The copy has a line more than was read: written just before.
	text, err := os.ReadFile(a)
	must(t, err)
	write(t, strings.Replace(a, "a.log", "a.1.log", 1), string(text)+line("unread"))
	time.Sleep(60 * time.Millisecond) // it is seen, and waits
	must(t, os.Truncate(a, 0))
	write(t, a, line("after"))
	for deadline := time.Now().Add(30 * time.Second); len(o.got()) < 102 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	got := o.got()[100:]
	slices.Sort(got)
	if !slices.Equal(got, []string{"after", "unread"}) {
		t.Errorf("got %v", got)
	}
}

// TestACopyIsKnownWhileItIsMade: it is seen empty, and in parts, before it is
// whole. None of its lines comes twice.
func TestACopyIsKnownWhileItIsMade(t *testing.T) {
	a, o, want := hundredLines(t)
	b := strings.Replace(a, "a.log", "a.1.log", 1)
	text, err := os.ReadFile(a)
	must(t, err)
	text = append(text, line("unread")...)
	for _, part := range [][]byte{nil, text[:10], text[10:700], text[700:]} {
		write(t, b, string(part))
		o.quiet(t, want...)
	}
	must(t, os.Truncate(a, 0))
	o.expect(t, append(want, "unread")...)
	write(t, a, line("after"))
	o.expect(t, append(want, "unread", "after")...)
}

// TestCopytruncateAtAnyMoment: the file is copied and emptied again and again,
// whatever the source is doing. Each line comes once.
func TestCopytruncateAtAnyMoment(t *testing.T) {
	dir, o := t.TempDir(), newOutput()
	a := filepath.Join(dir, "a.log")
	write(t, a, "")
	defer run(t, o, dir, func(c *tail.Config) { c.RotateWait = time.Hour })()
	var want []string
	add := func(n int) {
		for range n {
			want = append(want, fmt.Sprintf("line %03d %0300d", len(want), 0))
			write(t, a, line(want[len(want)-1]))
		}
	}
	random := rand.New(rand.NewPCG(1, 2))
	pause := func() { time.Sleep(time.Duration(random.IntN(3)) * time.Millisecond) }
	for generation := range 30 {
		add(1) // it is known by this one
		for deadline := time.Now().Add(30 * time.Second); !slices.Contains(o.got(), want[len(want)-1]); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("a line does not come")
			}
		}
		add(random.IntN(20))
		pause()
		text, err := os.ReadFile(a)
		must(t, err)
		for part := range slices.Chunk(text, 2000) {
			write(t, filepath.Join(dir, fmt.Sprintf("a.%d.log", generation)), string(part))
			pause()
		}
		must(t, os.Truncate(a, 0))
		pause()
	}
	for deadline := time.Now().Add(30 * time.Second); len(o.got()) < len(want) && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	got := o.got()
	slices.Sort(got)
	if !slices.Equal(got, want) {
		for _, l := range want {
			if n := len(slices.DeleteFunc(slices.Clone(got), func(g string) bool { return g != l })); n != 1 {
				t.Errorf("%.8s came %d times", l, n)
			}
		}
	}
}

// TestASuccessorThatSaysTheSameIsRead at once: it is where the other was, not
// a copy of it.
func TestASuccessorThatSaysTheSameIsRead(t *testing.T) {
	dir, o := t.TempDir(), newOutput()
	a := filepath.Join(dir, "a.log")
	same := slices.Repeat([]string{"the door was opened"}, 200)
	write(t, a, line(same...))
	defer run(t, o, dir, func(c *tail.Config) { c.RotateWait = time.Hour })()
	o.expect(t, same...)
	for generation := range 3 {
		must(t, os.Rename(a, filepath.Join(dir, fmt.Sprintf("a.%d.log", generation))))
		write(t, a, "")
		o.quiet(t, same...)
		write(t, a, line(same[:30]...))
		same = append(same, same[:30]...)
		o.expect(t, same...)
	}
}

// TestACopyThatIsRemovedLeavesNothing behind: it is not read as one line.
func TestACopyThatIsRemovedLeavesNothing(t *testing.T) {
	dir, o := t.TempDir(), newOutput()
	a, b := filepath.Join(dir, "a.log"), filepath.Join(dir, "b.log")
	const text = "the door was opened\n"
	want := slices.Repeat([]string{"line"}, 200)
	write(t, a, strings.Repeat(text, len(want)))
	defer run(t, o, dir, func(c *tail.Config) {
		c.Format, c.Event.Default, c.RotateWait = "text", "line", 20*time.Millisecond
	})()
	o.expect(t, want...)
	write(t, b, strings.Repeat(text, len(want)))
	o.quiet(t, want...)
	must(t, os.Remove(b))
	o.quiet(t, want...)
	write(t, a, text)
	o.expect(t, append(want, "line")...)
}

// TestAnOldCopyIsNotReadAgain when its original is truncated, long after it
// was made and with more in it.
func TestAnOldCopyIsNotReadAgain(t *testing.T) {
	a, o, want := hundredLines(t)
	b := strings.Replace(a, "a.log", "b.log", 1)
	write(t, b, line(want...))
	o.quiet(t, want...)
	want = append(want, "more", "and more")
	write(t, a, line(want[100:]...))
	o.expect(t, want...)
	must(t, os.Truncate(a, 0))
	o.quiet(t, want...)
	want = append(want, "after")
	write(t, a, line("after"))
	o.expect(t, want...)
	want = append(want, "of its own")
	write(t, b, line("of its own"))
	o.expect(t, want...)
}

// TestWhatGrowsByItselfIsNoCopy, though it held what another did when it came.
func TestWhatGrowsByItselfIsNoCopy(t *testing.T) {
	dir, o := t.TempDir(), newOutput()
	same := slices.Repeat([]string{"the door was opened"}, 200)
	write(t, filepath.Join(dir, "a.log"), line(same...))
	defer run(t, o, dir, func(c *tail.Config) { c.RotateWait = 50 * time.Millisecond })()
	o.expect(t, same...)
	write(t, filepath.Join(dir, "b.log"), line(same...))
	o.quiet(t, same...)
	write(t, filepath.Join(dir, "b.log"), line("of its own"))
	o.expect(t, slices.Concat(same, same, []string{"of its own"})...)
}

func TestFilesWithTheSameBeginningAreTwoFiles(t *testing.T) {
	dir, o := t.TempDir(), newOutput()
	header := strings.Repeat("\n", 2000)
	write(t, filepath.Join(dir, "a.log"), header+line("1"))
	defer run(t, o, dir, nil)()
	o.expect(t, "1")
	write(t, filepath.Join(dir, "b.log"), header+line("2", "3", "4"))
	o.expect(t, "1", "2", "3", "4")
}

// TestCopytruncateOfAFileThatWasShortAtFirst: a copy is known by all that was
// read, however little the file held when it was first seen.
func TestCopytruncateOfAFileThatWasShortAtFirst(t *testing.T) {
	for _, start := range []string{"end", "beginning"} {
		for _, restart := range []bool{false, true} {
			for _, held := range []int{1, 2, 5, 10, 15, 16, 20} {
				t.Run(fmt.Sprint(start, " restart ", restart, " held ", held), func(t *testing.T) {
					t.Parallel()
					dir, o := t.TempDir(), newOutput()
					a := filepath.Join(dir, "app.log")
					change := func(c *tail.Config) {
						c.Paths, c.Format, c.Event.Default, c.Start, c.RotateWait = []string{a + "*"}, "text", "L", start, time.Hour
					}
					first := strings.Repeat("x", held-1) + "\n"
					write(t, a, first)
					stop := run(t, o, dir, change)
					defer func() { stop() }()
					want := 0
					if start == "beginning" && held > 1 {
						want = 1
					}
					o.count(t, want)
					o.begun(t, 1)
					if restart {
						stop()
						stop = run(t, o, dir, change)
						o.begun(t, 2)
					}
					write(t, a, "A live\n")
					want++
					o.count(t, want)
					write(t, a+".1", first+"A live\n")
					o.stays(t, want)
					must(t, os.Truncate(a, 0))
					write(t, a, "E after\n")
					want++
					o.count(t, want)
					o.stays(t, want)
				})
			}
		}
	}
}
