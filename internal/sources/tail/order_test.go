package tail_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"event2mqtt/internal/sources/tail"
	"event2mqtt/internal/testkit"
)

// TestATruncatedFileIsReadBeforeItsSuccessor, also if it was rotated right after it
// was truncated and written to: that it was is noticed one look before it is read
// from its beginning.
func TestATruncatedFileIsReadBeforeItsSuccessor(t *testing.T) {
	dir, o := t.TempDir(), newOutput()
	a := filepath.Join(dir, "a.log")
	defer run(t, o, dir, func(c *tail.Config) { c.Paths = []string{a + "*"} })()
	var want []string
	next := func() string {
		want = append(want, strconv.Itoa(len(want)))
		return line(want[len(want)-1])
	}
	write(t, a+".other", next())
	o.expect(t, want...)
	for i := range 5 {
		write(t, a, next()+next())
		o.expect(t, want...)
		// All of it happens while an event of another file is taken.
		o.mu.Lock()
		write(t, a+".other", next())
		time.Sleep(20 * time.Millisecond) // without it, the test may see nothing
		must(t, os.Truncate(a, 0))
		write(t, a, next())
		awaitNewer(t, dir, a)
		must(t, os.Rename(a, fmt.Sprintf("%s.%d", a, i)))
		write(t, a, next())
		o.mu.Unlock()
		o.expect(t, want...)
	}
}

// TestAFileThatIsNotKnownAgainIsReadBeforeAYoungerOneThatIs after a restart.
func TestAFileThatIsNotKnownAgainIsReadBeforeAYoungerOneThatIs(t *testing.T) {
	dir, o := t.TempDir(), newOutput()
	a := filepath.Join(dir, "a.log")
	all := func(c *tail.Config) { c.Paths = []string{a + "*"} }
	stop := run(t, o, dir, all)
	write(t, a, line("1", "2"))
	o.expect(t, "1", "2")
	seen := len(o.Positions())
	must(t, os.Rename(a, a+".1"))
	write(t, a, "")
	testkit.Eventually(t, "the new file is seen", func() bool { return len(o.Positions()) > seen })
	stop()
	must(t, os.Truncate(a+".1", 0))
	write(t, a+".1", line("3"))
	awaitNewer(t, dir, a+".1")
	write(t, a, line("4"))
	defer run(t, o, dir, all)()
	o.expect(t, "1", "2", "3", "4")
}
