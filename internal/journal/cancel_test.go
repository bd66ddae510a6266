package journal_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"event2mqtt/internal/journal"
)

// TestACancelledCursorLeavesNothing: one that was new is as if it had never been,
// also after a kill; one that was closed before is what it was.
func TestACancelledCursorLeavesNothing(t *testing.T) {
	m := newMemFS(1)
	j := open(t, journal.Options{FS: m})
	sink, away := cursor(t, j, "sink"), cursor(t, j, "away")
	appendN(t, j, 1, 10)
	away.Close()
	j.SetWhenFull("away", journal.DropOldest)
	before, _ := mark(j, "away")

	fresh, err := j.CursorWith("fresh", journal.Refuse)
	must(0, err)
	if got, _ := mark(j, "fresh"); !fresh.Fresh() || got.WhenFull != journal.Refuse || !got.Open {
		t.Errorf("the new cursor is %+v, fresh %v", got, fresh.Fresh())
	}
	again, err := j.CursorWith("away", journal.Refuse)
	must(0, err)
	if again.Fresh() {
		t.Error("one that was known counts as fresh")
	}
	for _, c := range []*journal.Cursor{fresh, again, again} { // a second time does nothing
		c.Cancel()
	}
	if got, _ := mark(j, "away"); got != before {
		t.Errorf("the cursor that was closed was %+v, and is %+v", before, got)
	}
	appendN(t, j, 11, 10)
	sink.Ack(20)
	left := open(t, journal.Options{FS: killed(t, m)})
	for name, j := range map[string]*journal.Journal{"at once": j, "after a kill": left} {
		if got, known := mark(j, "fresh"); known {
			t.Errorf("%s: the place of the cancelled cursor is kept: %+v", name, got)
		}
		if c := cursor(t, j, "fresh"); !c.Fresh() || c.Lag() != 0 {
			t.Errorf("%s: opened again, it has %d events before it", name, c.Lag())
		}
	}
}

// TestWhenNothingTellsTheMarksNoneIsForgotten: that cursor begins with the oldest
// event, and would begin at the end the next time.
func TestWhenNothingTellsTheMarksNoneIsForgotten(t *testing.T) {
	m := newMemFS(1)
	j := open(t, journal.Options{FS: m})
	appendN(t, j, 1, 10) // before there is any cursor
	must(0, j.Close())
	j = open(t, journal.Options{FS: m})
	c := cursor(t, j, "sink")
	c.Cancel()
	must(0, j.Close())
	j = open(t, journal.Options{FS: m})
	if c := cursor(t, j, "sink"); c.Fresh() || c.Lag() != 10 {
		t.Errorf("it begins with %d events before it, fresh %v", c.Lag(), c.Fresh())
	}
	appendN(t, j, 11, 1)
	if c := cursor(t, j, "later"); !c.Fresh() || c.Lag() != 0 {
		t.Errorf("one that is added later begins with %d events before it, fresh %v", c.Lag(), c.Fresh())
	}
}

// TestWhoWaitsForAClosedCursorIsTold, also who comes later.
func TestWhoWaitsForAClosedCursorIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := open(t, journal.Options{FS: newMemFS(1)})
		defer j.Close()
		c := cursor(t, j, "sink")
		appendN(t, j, 1, 3)
		c.Ack(1)
		ended := make(chan error, 1)
		go func() { ended <- c.Delivered(context.Background(), 3) }()
		synctest.Wait()
		c.Close()
		if err := <-ended; !errors.Is(err, journal.ErrCursorClosed) {
			t.Errorf("who waited got %v", err)
		}
		if err := c.Delivered(context.Background(), 2); !errors.Is(err, journal.ErrCursorClosed) {
			t.Errorf("who comes later got %v", err)
		}
		if err := c.Delivered(context.Background(), 1); err != nil {
			t.Errorf("what was acknowledged: %v", err)
		}
	})
}

// TestManyMarksAreSavedEachSecond where they do not fit a note.
func TestManyMarksAreSavedEachSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemFS(1)
		j := open(t, journal.Options{FS: m})
		defer j.Close()
		sinks := make([]*journal.Cursor, 80)
		for i := range sinks {
			sinks[i] = cursor(t, j, fmt.Sprintf("a sink with a name that is rather long %d", i))
			sinks[i].SetWhenFull(journal.DropOldest)
		}
		const n, every = 1000, 4 * time.Millisecond
		appendN(t, j, 1, n)
		for seq := range uint64(n) {
			for _, c := range sinks {
				c.Ack(seq + 1)
			}
			time.Sleep(every)
		}
		left := open(t, journal.Options{FS: killed(t, m)})
		defer left.Close()
		for _, mark := range left.Marks() {
			if behind := time.Duration(mark.Lag) * every; behind > 1100*time.Millisecond {
				t.Fatalf("after a kill %s is %v behind", mark.Name, behind)
			}
		}
	})
}

// reseal changes what is in the file of the marks.
func reseal(t *testing.T, m *memFS, change func(body map[string]any)) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	var sealed struct {
		Sum  uint32          `json:"crc32c"`
		Body json.RawMessage `json:"body"`
	}
	node := m.names["cursors.json"]
	must(0, json.Unmarshal(node.data, &sealed))
	var body map[string]any
	must(0, json.Unmarshal(sealed.Body, &body))
	change(body)
	text, err := json.Marshal(body)
	must(0, err)
	head := binary.LittleEndian.AppendUint32(make([]byte, 8), uint32(len(text)))
	sum := crc32.Checksum(append(head, text...), crc32.MakeTable(crc32.Castagnoli))
	node.data = fmt.Appendf(nil, `{"crc32c":%d,"body":%s}`, sum, text)
}

// TestWhatAnOlderVersionRemovedIsCountedAndSaid: it does not know the cursors that
// are not in its configuration, and removes events from behind them.
func TestWhatAnOlderVersionRemovedIsCountedAndSaid(t *testing.T) {
	m := newMemFS(1)
	opt := journal.Options{FS: m, SegmentSize: 4 << 10, MaxAge: 1}
	j := open(t, opt)
	sinks := []*journal.Cursor{cursor(t, j, "sink"), cursor(t, j, "log")}
	appendN(t, j, 1, 100)
	for _, c := range sinks {
		c.Ack(100)
	}
	j.Retire()
	must(0, j.Close())
	reseal(t, m, func(body map[string]any) { body["cursors"].(map[string]any)["log"] = 20 })

	j, log := logged(t, opt)
	got, _ := mark(j, "log")
	if got.Lost == 0 || got.Lost+got.Lag != 80 || j.Stats().Dropped != got.Lost {
		t.Errorf("of 80 events %+v, dropped %d", got, j.Stats().Dropped)
	}
	c := cursor(t, j, "log")
	if names := names(take(t, c, int(c.Lag()))); !slices.Equal(names, counting(101-len(names), len(names))) {
		t.Errorf("it goes on with %v", names)
	}
	must(0, j.Close())
	if said := log.errors(t); len(said) != 1 || !strings.Contains(said[0], "removed while an older version ran") {
		t.Errorf("the log: %q", said)
	}
	j, log = logged(t, opt)
	must(0, j.Close())
	if said := log.errors(t); len(said) > 0 {
		t.Errorf("it is said again: %q", said)
	}
}

// TestAClockThatIsWrongForgetsNoCursorEarly: neither one that was at 1970 as the
// cursor was closed, nor one that is now.
func TestAClockThatIsWrongForgetsNoCursorEarly(t *testing.T) {
	later := time.Now().Add(100 * time.Hour).UnixMilli()
	for name, closed := range map[string]int64{"in 1970": 5000, "in the future": later} {
		t.Run(name, func(t *testing.T) {
			m := newMemFS(1)
			j := open(t, journal.Options{FS: m})
			cursor(t, j, "sink").Close()
			must(0, j.Close())
			reseal(t, m, func(body map[string]any) { body["closed"].(map[string]any)["sink"] = closed })
			j = open(t, journal.Options{FS: m})
			if got, _ := mark(j, "sink"); time.Since(got.Used) > time.Minute || time.Until(got.Used) > 0 {
				t.Errorf("it counts as used at %v", got.Used)
			}
			appendN(t, j, 1, 1) // so that the marks are saved
			must(0, j.Close())
			var kept float64
			reseal(t, m, func(body map[string]any) { kept = body["closed"].(map[string]any)["sink"].(float64) })
			if closed == later && int64(kept) != later {
				t.Errorf("once the clock is right, it is not %d that counts, but %d", later, int64(kept))
			}
			if closed != later && time.Since(time.UnixMilli(int64(kept))) > time.Minute {
				t.Errorf("it is still said to be closed at %d", int64(kept))
			}
		})
	}
}

// TestASinksOwnPolicyGoesBeforeTheJournals, both ways; who has none follows it.
func TestASinksOwnPolicyGoesBeforeTheJournals(t *testing.T) {
	for name, c := range map[string]struct {
		journal, own journal.FullPolicy
		holds        bool
	}{
		"refuse against drop_oldest": {journal.DropOldest, journal.Refuse, true},
		"drop_oldest against refuse": {journal.Refuse, journal.DropOldest, false},
		"none, refuse":               {journal.Refuse, "", true},
		"none, drop_oldest":          {journal.DropOldest, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMemFS(1)
			opt := journal.Options{FS: m, MaxSize: 32 << 10, SegmentSize: 4 << 10, WhenFull: c.journal}
			j := open(t, opt)
			_, err := j.CursorWith("slow", c.own)
			must(0, err)
			must(0, j.Close())
			j, log := logged(t, opt) // it survives a restart
			refused := 0
			for i := range 400 {
				if _, err := j.Append(context.Background(), numbered(i)); err != nil {
					refused++
					if text := err.Error(); !errors.Is(err, journal.ErrFull) || text != "journal is full: its 32768 bytes (journal.max_size) hold events that the sink slow has not got" {
						t.Fatal(text)
					}
				}
			}
			if got, _ := mark(j, "slow"); refused > 0 != c.holds || got.Lost > 0 == c.holds {
				t.Errorf("%d were refused, %d lost", refused, got.Lost)
			}
			must(0, j.Close())
			text := log.buf.String()
			if n := strings.Count(text, `"sink":"slow"`); !c.holds && (n < 1 || n > 2) {
				t.Errorf("%d lines tell what the sink lost:\n%s", n, text)
			}
			if n := strings.Count(text, "new events are refused"); c.holds && (n != 1 || !strings.Contains(text, "the sink slow has not got")) {
				t.Errorf("%d lines tell who fills the journal:\n%s", n, text)
			}
		})
	}
}

// TestAJournalThatRefusesStaysFullUntilWhatItRefusedFits: whoever asks is not told
// that all is well in between, though smaller events still find room.
func TestAJournalThatRefusesStaysFullUntilWhatItRefusedFits(t *testing.T) {
	var log bytes.Buffer
	synctest.Test(t, func(t *testing.T) {
		j, err := journal.Open(journal.Options{FS: newMemFS(1), MaxSize: 128 << 10, SegmentSize: 4 << 10, Log: zerolog.New(&log)})
		must(0, err)
		defer j.Close()
		c := cursor(t, j, "slow")
		large := numbered(0)
		large.Payload = fmt.Appendf(nil, `{"x":"%s"}`, strings.Repeat("x", 80<<10))
		if _, err := j.Append(context.Background(), large); err != nil {
			t.Fatal(err)
		}
		for range 20 {
			if _, err := j.Append(context.Background(), large); !errors.Is(err, journal.ErrFull) {
				t.Fatalf("it is accepted: %v", err)
			}
			for range 4 {
				time.Sleep(700 * time.Millisecond)
				if err := j.Failure(); !errors.Is(err, journal.ErrFull) || !strings.Contains(err.Error(), "slow") {
					t.Fatalf("in between it says %v", err)
				}
				appendN(t, j, 1, 1)
			}
		}
		c.Ack(j.Stats().Last)
		time.Sleep(2 * time.Second)
		if err := j.Failure(); err != nil {
			t.Errorf("there is room again, and it says %v", err)
		}
		if _, err := j.Append(context.Background(), large); err != nil {
			t.Error(err)
		}
	})
	if full, again := strings.Count(log.String(), "new events are refused"), strings.Count(log.String(), "there is room again"); full != 1 || again != 1 {
		t.Errorf("in a minute:\n%s", &log)
	}
}

// TestAFullDiskStaysFullUntilItHasRoom: also while nobody tries to store anything.
func TestAFullDiskStaysFullUntilItHasRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemFS(1)
		j := open(t, journal.Options{FS: m})
		defer j.Close()
		cursor(t, j, "slow")
		appendN(t, j, 1, 1)
		m.failWith(func(op, name string) error {
			if op == "write" && strings.HasSuffix(name, ".seg") {
				return errSpace
			}
			return nil
		})
		large := numbered(2)
		large.Payload = fmt.Appendf(nil, `{"x":"%s"}`, strings.Repeat("x", 300<<10)) // more than the file has
		if _, err := j.Append(context.Background(), large); !errors.Is(err, journal.ErrFull) {
			t.Fatal(err)
		}
		for range 10 {
			time.Sleep(700 * time.Millisecond)
			if err := j.Failure(); !errors.Is(err, journal.ErrFull) {
				t.Fatalf("the disk is full, and it says %v", err)
			}
		}
		m.failWith(nil)
		time.Sleep(2 * time.Second)
		if err := j.Failure(); err != nil {
			t.Errorf("there is room, and it says %v", err)
		}
		if _, err := j.Append(context.Background(), large); err != nil {
			t.Error(err)
		}
	})
}
