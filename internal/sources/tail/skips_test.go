package tail_test

import (
	"path/filepath"
	"strings"
	"testing"

	"event2mqtt/internal/sources/tail"
)

// TestEachCauseOfSkippedLinesIsLogged: one cause does not hide another, and
// lines that quote themselves do not fill the log.
func TestEachCauseOfSkippedLinesIsLogged(t *testing.T) {
	dir, o := t.TempDir(), newOutput()
	o.refuse = "refused"
	s, log := runLogged(t, o, dir, nil)
	a := filepath.Join(dir, "a.log")
	write(t, a, strings.Repeat("no json\n", 50)+strings.Repeat(`{"a":1}`+"\n", 50)+line("refused", "refused", "good"))
	o.expect(t, "good")
	if n := s.Skipped(); n != 102 {
		t.Errorf("%d lines are counted", n)
	}
	if n := strings.Count(log.String(), "a line is skipped: "); n != 3 {
		t.Errorf("said %d times: %s", n, log)
	}
	if n := strings.Count(log.String(), "too large"); n != 1 {
		t.Errorf("the refusal was said %d times", n)
	}
}

func TestTimesThatCannotBeReadAreCounted(t *testing.T) {
	dir, o := t.TempDir(), newOutput()
	s, _ := runLogged(t, o, dir, func(c *tail.Config) { c.Timing.Key = "at" })
	write(t, filepath.Join(dir, "a.log"), `{"event":"1","at":"soon"}`+"\n"+line("2"))
	o.expect(t, "1", "2")
	if n := s.UnreadTimes(); n != 1 {
		t.Errorf("%d times are counted", n)
	}
}
