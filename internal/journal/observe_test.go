package journal_test

import (
	"fmt"
	"strings"
	"testing"

	"event2mqtt/internal/journal"
)

// observed notes what an observer is told.
type observed struct{ text []string }

func (o *observed) Read(entries []journal.Entry) {
	o.text = append(o.text, fmt.Sprintf("read %d to %d", entries[0].Seq, entries[len(entries)-1].Seq))
}

func (o *observed) Acked(seq uint64, err error) {
	o.text = append(o.text, fmt.Sprint("acked ", seq, " ", err))
}

// TestAnObserverIsToldHowFarACursorIs, also of what the journal gives up, until
// another takes its place.
func TestAnObserverIsToldHowFarACursorIs(t *testing.T) {
	j := open(t, journal.Options{FS: journal.DirFS(t.TempDir()), MaxSize: 16 << 10, SegmentSize: 4 << 10, WhenFull: journal.DropOldest})
	c := cursor(t, j, "mqtt")
	o := &observed{}
	c.Observe(o)
	appendN(t, j, 1, 3)
	take(t, c, 3)
	c.Ack(2)
	c.Ack(1) // is behind the mark
	c.Rewind()
	take(t, c, 1)
	if got := strings.Join(o.text, "; "); got != "read 1 to 3; acked 2 <nil>; read 3 to 3" {
		t.Errorf("told %s", got)
	}
	o.text = nil
	appendN(t, j, 4, 200)
	if len(o.text) == 0 || !strings.HasSuffix(o.text[0], journal.ErrDropped.Error()) {
		t.Errorf("told %q of what is given up", o.text)
	}
	c.Observe(nil)
	o.text = nil
	c.Ack(203)
	if o.text != nil {
		t.Errorf("told %q afterwards", o.text)
	}
}
