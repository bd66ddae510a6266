package tail_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"event2mqtt/internal/sources/tail"
	"event2mqtt/internal/testkit"
)

func gzipped(t *testing.T, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := w.Write([]byte(text))
	must(t, err)
	must(t, w.Close())
	return b.Bytes()
}

func names(n int) (all []string) {
	for i := range n {
		all = append(all, fmt.Sprint("line ", i))
	}
	return all
}

// TestARotatedFileThatIsCompressedIsReadOnce, as logrotate does it, in a moment
// or slowly.
func TestARotatedFileThatIsCompressedIsReadOnce(t *testing.T) {
	for _, slow := range []bool{false, true} {
		dir, o := t.TempDir(), newOutput()
		a := filepath.Join(dir, "app.log")
		want := names(300)
		write(t, a, line(want...))
		stop := run(t, o, dir, func(c *tail.Config) { c.Paths, c.RotateWait = []string{a + "*"}, 300*time.Millisecond })
		o.expect(t, want...)
		must(t, os.Rename(a, a+".1"))
		write(t, a, "")
		packed := gzipped(t, line(want...))
		for part := range slices.Chunk(packed, len(packed)/3+1) {
			write(t, a+".1.gz", string(part))
			if slow {
				o.quiet(t, want...)
			}
		}
		must(t, os.Remove(a+".1"))
		write(t, a, line("after"))
		want = append(want, "after")
		o.expect(t, want...)
		time.Sleep(400 * time.Millisecond)
		o.quiet(t, want...)
		must(t, os.Rename(a+".1.gz", a+".2.gz")) // the next rotation
		o.quiet(t, want...)
		stop()
	}
}

// TestACompressedFileIsReadWhole: line by line as it was written, although it
// is longer than what is read and stored at a time.
func TestACompressedFileIsReadWhole(t *testing.T) {
	dir, o := t.TempDir(), newOutput()
	var lines []string
	for i := range 5000 {
		lines = append(lines, fmt.Sprintf(`{"event":"line %d","padding":%q}`, i, strings.Repeat("x", i%200)))
	}
	write(t, filepath.Join(dir, "a.log.gz"), string(gzipped(t, strings.Join(lines, "\n")+"\n")))
	defer run(t, o, dir, func(c *tail.Config) { c.Paths, c.Start = []string{dir + "/*"}, "beginning" })()
	o.count(t, len(lines))
	o.mu.Lock()
	defer o.mu.Unlock()
	if !slices.Equal(o.payloads, lines) {
		t.Error("not each line as it was written")
	}
}

// TestACompressedFileThatArrivesSlowlyIsRead once it is whole, however long it
// was not; until then it is what cannot be read.
func TestACompressedFileThatArrivesSlowlyIsRead(t *testing.T) {
	dir, o := t.TempDir(), newOutput()
	path := filepath.Join(dir, "a.log.gz")
	packed := gzipped(t, line(names(100)...))
	defer run(t, o, dir, func(c *tail.Config) { c.Paths, c.RotateWait = []string{dir + "/*"}, 50*time.Millisecond })()
	write(t, path, string(packed[:len(packed)/2]))
	time.Sleep(1500 * time.Millisecond) // longer than it is waited for
	write(t, path, string(packed[len(packed)/2:]))
	o.expect(t, names(100)...)
}

// TestWhatWasCompressedWhileTheProgramWasDown is read from where it was.
func TestWhatWasCompressedWhileTheProgramWasDown(t *testing.T) {
	dir, o := t.TempDir(), newOutput()
	a := filepath.Join(dir, "app.log")
	all := func(c *tail.Config) { c.Paths = []string{a + "*"} }
	want := names(20_000) // which is more than a buffer holds
	write(t, a, line(want[:300]...))
	stop := run(t, o, dir, all)
	o.expect(t, want[:300]...)
	stop()
	must(t, os.WriteFile(a+".1.gz", gzipped(t, line(want...)), 0o600))
	must(t, os.Remove(a))
	time.Sleep(10 * time.Millisecond)
	write(t, a, line("after"))
	want = append(want, "after")
	whole := func(when string) {
		t.Helper()
		o.count(t, len(want))
		if o.stays(t, len(want)); !slices.Equal(o.got(), want) {
			t.Fatal(when + ": not each line once, in order")
		}
	}
	stop = run(t, o, dir, all)
	whole("after the start")
	stop()
	defer run(t, o, dir, all)()
	whole("after another")
}

// TestCompressedFilesAreNeverText: what cannot be read is left out.
func TestCompressedFilesAreNeverText(t *testing.T) {
	dir, o := t.TempDir(), newOutput()
	for name, text := range map[string]string{
		"a.log": "\x28\xb5\x2f\xfd" + strings.Repeat("x\n", 100), "b.log": "\xfd7zXZ\x00" + strings.Repeat("x\n", 100),
		"c.log": string(gzipped(t, strings.Repeat("x\n", 10_000))[:40]), "d.log": "PK\x03\x04" + strings.Repeat("x\n", 100),
	} {
		write(t, filepath.Join(dir, name), text)
	}
	_, log := runLogged(t, o, dir, func(c *tail.Config) { c.Format, c.Event.Default = "text", "L" })
	testkit.Eventually(t, "said", func() bool { return strings.Count(log.String(), "is not read") == 4 })
	o.quiet(t)
}
