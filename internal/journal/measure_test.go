package journal

import (
	"context"
	"testing"
	"time"

	"event2mqtt/internal/event"
)

// TestACursorTellsWhatWaitsAndForHowLong.
func TestACursorTellsWhatWaitsAndForHowLong(t *testing.T) {
	j, err := Open(Options{FS: DirFS(t.TempDir())})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	c, err := j.Cursor("c")
	if err != nil {
		t.Fatal(err)
	}
	var last uint64
	for range 3 {
		if last, err = j.Append(context.Background(), event.Event{Name: "E", Source: "s", Time: time.Unix(1, 0), Payload: []byte("{}")}); err != nil {
			t.Fatal(err)
		}
	}
	if s := c.Stats(); s.Waiting != 3 || s.Delivered != 0 || s.Oldest <= 0 || s.Oldest > time.Hour { // the event's own time does not count
		t.Errorf("before: %+v", s)
	}
	c.Ack(last)
	if s := c.Stats(); s != (CursorStats{Delivered: 3}) {
		t.Errorf("after: %+v", s)
	}
}

// TestNumbersWithoutAnEventDoNotCount, such as those that a crash has skipped.
func TestNumbersWithoutAnEventDoNotCount(t *testing.T) {
	var g gaps
	g.note(5, 5)
	g.note(10, 10+skipAhead)
	for _, c := range [][3]uint64{{0, 10, 10}, {0, 11 + skipAhead, 11}, {10, 11 + skipAhead, 1}, {12 + skipAhead, 13 + skipAhead, 1}, {20, 30, 0}} {
		if n := g.events(c[0], c[1]); n != c[2] {
			t.Errorf("above %d up to %d: %d, want %d", c[0], c[1], n, c[2])
		}
	}
	for i := range uint64(1000) {
		g.note(3*i, 3*i+1)
	}
	if len(g) != maxGaps {
		t.Errorf("%d gaps are kept", len(g))
	}
}

// TestAgesAreBounded, and stay in order however many events come.
func TestAgesAreBounded(t *testing.T) {
	var a ages
	start := time.Unix(1000, 0)
	for i := range 10 * maxAges {
		a.note(uint64(2*i+1), start.Add(time.Duration(i)*500*time.Millisecond))
	}
	if len(a) > maxAges || !a.of(0).IsZero() {
		t.Errorf("%d ages", len(a))
	}
	last := start.Add(time.Duration(10*maxAges-1) * 500 * time.Millisecond)
	if d := last.Sub(a.of(20 * maxAges)); d < 0 || d > time.Second {
		t.Errorf("the newest is off by %s", d)
	}
	for i := 1; i < len(a); i++ {
		if a[i].first <= a[i-1].first || a[i].at.Before(a[i-1].at) {
			t.Fatalf("%v is before %v", a[i-1], a[i])
		}
	}
}
