package journal_test

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"event2mqtt/internal/journal"
	"event2mqtt/internal/testkit"
)

// killed is what a process that is killed now leaves behind: all that was
// written, whether it was synced or not.
func killed(t testing.TB, m *memFS) *memFS {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	left := newMemFS(1)
	for name, node := range m.names {
		left.names[name] = &inode{data: slices.Clone(node.data), synced: slices.Clone(node.data), dirty: map[int]bool{}}
	}
	left.durable = maps.Clone(left.names)
	return left
}

// mark returns what is known of a cursor.
func mark(j *journal.Journal, name string) (journal.Mark, bool) {
	for _, m := range j.Marks() {
		if m.Name == name {
			return m, true
		}
	}
	return journal.Mark{}, false
}

func TestAClosedCursorKeepsItsEventsUntilItIsDropped(t *testing.T) {
	m := newMemFS(1)
	opt := journal.Options{FS: m, SegmentSize: 4 << 10, MaxAge: 1}
	j := open(t, opt)
	sink, removed := cursor(t, j, "sink"), cursor(t, j, "removed")
	appendN(t, j, 1, 100)
	removed.Ack(take(t, removed, 10)[9].Seq)
	sink.Ack(take(t, sink, 100)[99].Seq)
	if err := j.DropCursor("removed"); !errors.Is(err, journal.ErrOpen) {
		t.Fatalf("an open cursor was dropped: %v", err)
	}
	before := time.Now()
	removed.Close()
	j.Retire()
	appendN(t, j, 101, 50)
	check := func(j *journal.Journal) {
		t.Helper()
		got, known := mark(j, "removed")
		if !known || got.Open || got.Lag != 140 || got.Lost != 0 || got.WhenFull != journal.Refuse {
			t.Fatalf("the closed cursor is %+v, known %v", got, known)
		}
		if got.Used.Before(before.Add(-time.Millisecond)) || got.Used.After(time.Now()) {
			t.Fatalf("it was closed at %v, and is said to be used at %v", before, got.Used)
		}
	}
	check(j)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	closedAt, _ := mark(j, "removed")
	j = open(t, opt)
	check(j)
	if got, _ := mark(j, "removed"); got.Used.UnixMilli() != closedAt.Used.UnixMilli() {
		t.Errorf("the time of use moved from %v to %v over a restart", closedAt.Used, got.Used)
	}
	// Put back, it goes on where it was.
	removed = cursor(t, j, "removed")
	if got := names(take(t, removed, 140)); !slices.Equal(got, counting(11, 140)) {
		t.Fatalf("put back, it got %v", got)
	}
	removed.Close()

	sink = cursor(t, j, "sink")
	sink.Ack(j.Stats().Last)
	if err := j.DropCursor("removed"); err != nil {
		t.Fatal(err)
	}
	if n := j.Stats().Segments; n != 1 {
		t.Errorf("with the cursor gone, %d segments are still held", n)
	}
	if err := j.DropCursor("never was"); err != nil {
		t.Errorf("dropping what is not known: %v", err)
	}
	// Gone means gone, also for who is killed at once.
	j = open(t, journal.Options{FS: killed(t, m)})
	if got, known := mark(j, "removed"); known {
		t.Fatalf("the dropped cursor came back: %+v", got)
	}
	c := cursor(t, j, "removed")
	if lag := c.Lag(); lag != 0 {
		t.Errorf("opened again after it was dropped, it has %d events before it", lag)
	}
}

func TestTheLastCursorMayBeDropped(t *testing.T) {
	m := newMemFS(1)
	opt := journal.Options{FS: m}
	j := open(t, opt)
	c := cursor(t, j, "only")
	appendN(t, j, 1, 10)
	c.Close()
	if err := j.DropCursor("only"); err != nil {
		t.Fatal(err)
	}
	j, log := logged(t, journal.Options{FS: killed(t, m)})
	if c := cursor(t, j, "only"); c.Lag() != 0 {
		t.Errorf("%d events are sent again", c.Lag())
	}
	if got := log.errors(t); len(got) > 0 {
		t.Errorf("a journal without cursors is reported: %v", got)
	}
}

func TestACursorWhoseMarkCannotBeForgottenIsStillKnown(t *testing.T) {
	m := newMemFS(1)
	j := open(t, journal.Options{FS: m})
	c := cursor(t, j, "sink")
	appendN(t, j, 1, 10)
	c.Close()
	failing := func(op, name string) error {
		if op == "rename" {
			return errIO
		}
		return nil
	}
	m.failWith(failing)
	if err := j.DropCursor("sink"); err == nil {
		t.Fatal("no error")
	}
	m.failWith(nil)
	if got, known := mark(j, "sink"); !known || got.Lag != 10 {
		t.Fatalf("known %v: %+v", known, got)
	}
}

// TestAFullJournalHoldsOrLosesByCursor: one loses its oldest, counted; nobody
// else loses anything by that, and one that holds still holds.
func TestAFullJournalHoldsOrLosesByCursor(t *testing.T) {
	const n = 400 // several times what fits
	for name, c := range map[string]struct {
		policy journal.FullPolicy
		closed bool
	}{
		"loses":       {journal.DropOldest, false},
		"loses, away": {journal.DropOldest, true},
		"holds":       {journal.Refuse, false},
		"holds, away": {journal.Refuse, true},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMemFS(1)
			opt := journal.Options{FS: m, MaxSize: 32 << 10, SegmentSize: 4 << 10}
			j := open(t, opt)
			sink, slow := cursor(t, j, "sink"), cursor(t, j, "slow")
			slow.SetWhenFull(c.policy)
			if c.closed {
				slow.Close()
				if err := j.Close(); err != nil {
					t.Fatal(err)
				}
				j = open(t, opt) // the policy stays
				sink = cursor(t, j, "sink")
			}
			var err error
			stored := 0
			for i := 1; i <= n && err == nil; i++ {
				if _, err = j.Append(context.Background(), numbered(i)); err == nil {
					stored++
					got := take(t, sink, 1)
					if got[0].Name != numbered(i).Name {
						t.Fatalf("the other cursor got %s, want %d", got[0].Name, i)
					}
					sink.Ack(got[0].Seq)
				}
			}
			j.Stats()
			if c.policy == journal.Refuse {
				if !errors.Is(err, journal.ErrFull) {
					t.Fatalf("stored %d, error %v", stored, err)
				}
				if got, _ := mark(j, "slow"); got.Lag != uint64(stored) || got.Lost != 0 {
					t.Fatalf("it lost what it holds: %+v of %d", got, stored)
				}
				j.SetWhenFull("slow", journal.DropOldest)
				if _, err := j.Append(context.Background(), numbered(stored+1)); err != nil {
					t.Fatalf("after it may lose: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatalf("after %d: %v", stored, err)
			}
			check := func(j *journal.Journal) {
				t.Helper()
				got, _ := mark(j, "slow")
				if got.Lost == 0 || got.Lost+got.Lag != n || got.WhenFull != journal.DropOldest || j.Stats().LostBy["slow"] != got.Lost {
					t.Fatalf("of %d events %+v, %v", n, got, j.Stats().LostBy)
				}
				if other, _ := mark(j, "sink"); other.Lost != 0 || j.Stats().LostBy["sink"] != 0 {
					t.Fatalf("the other lost some: %+v", other)
				}
			}
			check(j)
			j = open(t, journal.Options{FS: killed(t, m), MaxSize: 32 << 10, SegmentSize: 4 << 10})
			check(j)
			got, _ := mark(j, "slow")
			slow = cursor(t, j, "slow")
			if got := names(take(t, slow, int(got.Lag))); !slices.Equal(got, counting(n-len(got)+1, len(got))) {
				t.Fatalf("it goes on with %v", got)
			}
		})
	}
}

// TestDeliveredTellsWhatACursorLost: who waits for it is not left waiting.
func TestDeliveredTellsWhatACursorLost(t *testing.T) {
	j := open(t, journal.Options{FS: newMemFS(1), MaxSize: 32 << 10, SegmentSize: 4 << 10})
	sink, slow := cursor(t, j, "sink"), cursor(t, j, "slow")
	slow.SetWhenFull(journal.DropOldest)
	ended := make(chan error, 1)
	go func() { ended <- slow.Delivered(context.Background(), 1) }()
	for i := range 400 {
		appendN(t, j, i+1, 1)
		sink.Ack(j.Stats().Last)
	}
	if err := <-ended; !errors.Is(err, journal.ErrDropped) {
		t.Fatalf("got %v", err)
	}
}

// TestAKillTakesTheMarkBackByMoments: what was acknowledged a little while ago
// is not sent again, however little that is and however the process ended.
func TestAKillTakesTheMarkBackByMoments(t *testing.T) {
	m := newMemFS(1)
	j := open(t, journal.Options{FS: m})
	c := cursor(t, j, "sink")
	appendN(t, j, 1, 100)
	got := take(t, c, 100)
	for _, e := range got[:60] {
		c.Ack(e.Seq)
		time.Sleep(time.Millisecond / 4)
	}
	testkit.Eventually(t, "the mark is noted", func() bool {
		left, err := journal.Open(journal.Options{FS: killed(t, m)})
		if err != nil {
			t.Fatal(err)
		}
		defer left.Close()
		mark, _ := mark(left, "sink")
		return mark.Lag == 40
	})
}

// TestNotesGoOnWhereTheirFileWasRemoved, though it was open.
func TestNotesGoOnWhereTheirFileWasRemoved(t *testing.T) {
	dir := t.TempDir()
	note := filepath.Join(dir, "cursors.now")
	j := open(t, journal.Options{FS: journal.DirFS(dir)})
	c := cursor(t, j, "sink")
	for i := range 3 {
		appendN(t, j, 1+i, 1)
		c.Ack(take(t, c, 1)[0].Seq)
		testkit.Eventually(t, "the mark is noted", func() bool {
			_, err := os.Stat(note)
			return err == nil
		})
		testkit.OK(t, os.Remove(note))
	}
}
