package journal_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"event2mqtt/internal/event"
	"event2mqtt/internal/journal"
	"event2mqtt/internal/testkit"
)

func open(t testing.TB, opt journal.Options) *journal.Journal {
	t.Helper()
	opt.Log = zerolog.Nop()
	j, err := journal.Open(opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j
}

func cursor(t testing.TB, j *journal.Journal, name string) *journal.Cursor {
	t.Helper()
	c, err := j.Cursor(name)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func appendN(t testing.TB, j *journal.Journal, from, n int) {
	t.Helper()
	for i := from; i < from+n; i++ {
		if _, err := j.Append(context.Background(), numbered(i)); err != nil {
			t.Fatalf("append %d: %v", i, err)
		}
	}
}

func numbered(i int) event.Event {
	return event.Event{Name: fmt.Sprint(i), Source: "s", Time: time.Unix(int64(i), 0), Payload: fmt.Appendf(nil, `{"i":%d,"pad":"%s"}`, i, strings.Repeat("x", 200))}
}

// take reads n entries, waiting for them.
func take(t testing.TB, c *journal.Cursor, n int) []journal.Entry {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var out []journal.Entry
	for len(out) < n {
		got, err := c.Next(ctx, make([]journal.Entry, 0, min(16, n-len(out))))
		if err != nil {
			t.Fatalf("after %d of %d: %v", len(out), n, err)
		}
		out = append(out, got...)
	}
	return out
}

func names(entries []journal.Entry) []string {
	var out []string
	for _, e := range entries {
		out = append(out, e.Name)
	}
	return out
}

func counting(from, n int) []string {
	var out []string
	for i := range n {
		out = append(out, fmt.Sprint(from+i))
	}
	return out
}

func TestEventsAndCursorSurviveRestartOnDisk(t *testing.T) {
	opt := journal.Options{FS: journal.DirFS(t.TempDir()), SegmentSize: 4 << 10}
	j := open(t, opt)
	c := cursor(t, j, "sink")
	appendN(t, j, 1, 100)
	got := take(t, c, 100)
	c.Ack(got[39].Seq)
	id := j.ID(got[50].Seq)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := j.Append(context.Background(), numbered(0)); !errors.Is(err, journal.ErrClosed) {
		t.Errorf("append after close: %v", err)
	}

	j = open(t, opt)
	c = cursor(t, j, "sink")
	again := take(t, c, 60)
	if !slices.Equal(names(again), counting(41, 60)) {
		t.Fatalf("after restart got %v", names(again))
	}
	if j.ID(again[10].Seq) != id {
		t.Errorf("the event's id changed from %s to %s", id, j.ID(again[10].Seq))
	}
	appendN(t, j, 101, 1)
	if got := take(t, c, 1); got[0].Name != "101" {
		t.Errorf("got %s", got[0].Name)
	}
}

// TestCallersThatArriveTogetherShareOneSync counts syncs while many append.
func TestCallersThatArriveTogetherShareOneSync(t *testing.T) {
	rest := time.Millisecond
	// A caller may have begun and not have arrived, so each round waits longer.
	testkit.Eventually(t, "64 callers, of whom 63 wait for the sync of the first, take few syncs", func() bool {
		rest *= 2
		return syncsOf64(t, rest) <= 4
	})
}

// syncsOf64 returns how many syncs 64 appends took of which the first was held
// up until all others had begun, and for a while longer.
func syncsOf64(t *testing.T, rest time.Duration) int32 {
	fs := newMemFS(1)
	release := make(chan struct{})
	var syncs, begun atomic.Int32
	fs.failWith(func(op, name string) error {
		if op == "sync" && strings.HasSuffix(name, ".seg") && syncs.Add(1) == 1 {
			<-release
		}
		return nil
	})
	j := open(t, journal.Options{FS: fs})
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			begun.Add(1)
			if _, err := j.Append(context.Background(), numbered(i)); err != nil {
				t.Error(err)
			}
		})
	}
	for begun.Load() < 64 || syncs.Load() < 1 {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(rest)
	close(release)
	wg.Wait()
	return syncs.Load()
}

func TestASinkThatKeepsUpNeverReadsDisk(t *testing.T) {
	j := open(t, journal.Options{FS: journal.DirFS(t.TempDir()), SegmentSize: 8 << 10, Memory: 64 << 10})
	c := cursor(t, j, "sink")
	for i := range 1000 {
		appendN(t, j, i, 1)
		c.Ack(take(t, c, 1)[0].Seq)
	}
	if n := j.Stats().DiskReads; n != 0 {
		t.Errorf("%d reads of the disk", n)
	}
}

func TestASinkThatFellBehindGoesOverFromDiskToMemory(t *testing.T) {
	j := open(t, journal.Options{FS: journal.DirFS(t.TempDir()), SegmentSize: 8 << 10, Memory: 16 << 10})
	c := cursor(t, j, "sink")
	var wg sync.WaitGroup
	wg.Go(func() { appendN(t, j, 0, 3000) })
	got := take(t, c, 3000)
	wg.Wait()
	if !slices.Equal(names(got), counting(0, 3000)) {
		t.Error("events lost or out of order")
	}
	c.Rewind()
	if got := take(t, c, 3000); !slices.Equal(names(got), counting(0, 3000)) {
		t.Error("events lost or out of order after Rewind")
	}
	if j.Stats().DiskReads == 0 {
		t.Error("nothing was read from disk: this test shows nothing")
	}
}

func TestFullRefusesAndLosesNothing(t *testing.T) {
	j := open(t, journal.Options{FS: journal.DirFS(t.TempDir()), MaxSize: 32 << 10})
	c := cursor(t, j, "sink")
	kept := 0
	var err error
	for err == nil {
		if _, err = j.Append(context.Background(), numbered(kept)); err == nil {
			kept++
		}
	}
	if !errors.Is(err, journal.ErrFull) || kept < 50 {
		t.Fatalf("after %d events: %v", kept, err)
	}
	if b := j.Stats().Bytes; b > 32<<10 {
		t.Errorf("the journal grew to %d bytes", b)
	}
	got := take(t, c, kept)
	if !slices.Equal(names(got), counting(0, kept)) {
		t.Error("events lost or out of order")
	}
	c.Ack(got[kept-1].Seq)
	appendN(t, j, kept, kept/2) // room is made from what is delivered
}

func TestDropOldestCountsWhatItDrops(t *testing.T) {
	j := open(t, journal.Options{FS: journal.DirFS(t.TempDir()), MaxSize: 32 << 10, WhenFull: journal.DropOldest})
	c := cursor(t, j, "sink")
	appendN(t, j, 0, 500)
	dropped := int(j.Stats().Dropped)
	got := take(t, c, 500-dropped)
	if !slices.Equal(names(got), counting(dropped, 500-dropped)) || dropped < 300 {
		t.Errorf("dropped %d, got %v", dropped, names(got))
	}
}

func TestDeliveredEventsAreHistoryUntilTheirTimeIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j, err := journal.Open(journal.Options{FS: newMemFS(1), SegmentSize: 4 << 10, MaxAge: time.Hour, Log: zerolog.Nop()})
		if err != nil {
			t.Fatal(err)
		}
		defer j.Close()
		c, _ := j.Cursor("sink")
		other, _ := j.Cursor("slow sink")
		appendN(t, j, 0, 200)
		last := take(t, c, 200)[199].Seq
		c.Ack(last)
		full := j.Stats().Segments
		time.Sleep(2 * time.Hour)
		if n := j.Stats().Segments; n != full {
			t.Errorf("%d segments of %d left, though one sink has not delivered them", n, full)
		}
		other.Ack(last)
		time.Sleep(2 * time.Minute)
		if n := j.Stats().Segments; n != 1 {
			t.Errorf("%d segments left of %d after their time", n, full)
		}
	})
}

func TestDeliveredWaitsForTheAcknowledgement(t *testing.T) {
	j := open(t, journal.Options{FS: newMemFS(1)})
	c := cursor(t, j, "sink")
	appendN(t, j, 0, 3)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := c.Delivered(ctx, 2); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	done := make(chan error)
	go func() { done <- c.Delivered(context.Background(), 2) }()
	c.Ack(1)
	select {
	case <-done:
		t.Fatal("answered before the acknowledgement")
	case <-time.After(10 * time.Millisecond):
	}
	c.Ack(2)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// TestMarksAndEventsDoNotGetInEachOthersWay: positions alone fill segments,
// and a write of one fails, before events come and the journal is reopened.
func TestMarksAndEventsDoNotGetInEachOthersWay(t *testing.T) {
	mark := event.Event{Source: "s", Position: event.Position{Key: "k", Value: []byte(strings.Repeat("x", 200))}}
	for round := range 10 { // segments of one number would be sorted at random
		fs := newMemFS(uint64(round))
		opt := journal.Options{FS: fs, SegmentSize: 4 << 10}
		j := open(t, opt)
		c := cursor(t, j, "sink")
		for i := range 50 {
			if i == 25 {
				fs.failWith(func(op, name string) error {
					if op == "sync" && strings.HasSuffix(name, ".seg") {
						fs.fail = nil
						return errIO
					}
					return nil
				})
			}
			_, _ = j.Append(context.Background(), mark)
		}
		if lag := c.Lag(); lag != 0 {
			t.Errorf("%d events wait where there is none", lag)
		}
		appendN(t, j, 0, 5)
		j.Close()
		j = open(t, opt)
		c = cursor(t, j, "sink")
		appendN(t, j, 5, 1)
		if got := names(take(t, c, 6)); !slices.Equal(got, counting(0, 6)) {
			t.Fatalf("got %v", got)
		}
		if got := j.Positions("s")["k"]; len(got) != 200 {
			t.Fatalf("position %q", got)
		}
		j.Close()
	}
}

func TestWhatCannotFitIsRefusedAndCostsNothing(t *testing.T) {
	j := open(t, journal.Options{FS: newMemFS(1), MaxSize: 64 << 10, WhenFull: journal.DropOldest})
	c := cursor(t, j, "sink")
	appendN(t, j, 0, 50)
	huge := event.Event{Name: "huge", Payload: make([]byte, 100<<10)}
	if _, err := j.Append(context.Background(), huge); !errors.Is(err, journal.ErrTooLarge) {
		t.Errorf("got %v", err)
	}
	if got := names(take(t, c, 50)); !slices.Equal(got, counting(0, 50)) {
		t.Errorf("got %v", got)
	}
}

func TestAQuotaIsAFullDisk(t *testing.T) {
	fs := newMemFS(1)
	j := open(t, journal.Options{FS: fs, SegmentSize: 4 << 10})
	c := cursor(t, j, "sink")
	appendN(t, j, 0, 50)
	c.Ack(take(t, c, 50)[49].Seq)
	quota := true
	fs.failWith(func(op, name string) error {
		if op == "remove" {
			quota = false
		}
		if op == "write" && quota {
			return syscall.EDQUOT
		}
		return nil
	})
	for i := 50; quota; i++ { // a write may fail in its zeros only
		if i == 100 {
			t.Fatal("no history went")
		}
		appendN(t, j, i, 1)
	}
}

// TestWhatTheDiskCannotReadIsDamageLikeAnyOther: a sector of an old segment,
// then one of the newest at the next start.
func TestWhatTheDiskCannotReadIsDamageLikeAnyOther(t *testing.T) {
	fs := newMemFS(1)
	opt := journal.Options{FS: fs, SegmentSize: 16 << 10}
	j := open(t, opt)
	cursor(t, j, "sink")
	appendN(t, j, 0, 100)
	j.Close()
	reads := 0
	fs.failWith(func(op, name string) error {
		if op != "read" || !strings.HasSuffix(name, ".seg") {
			return nil
		}
		if reads++; reads%3 == 1 { // the whole, and then every third block
			return errIO
		}
		return nil
	})
	j = open(t, opt)
	c := cursor(t, j, "sink")
	appendN(t, j, 1000, 1)
	var got []string
	for len(got) == 0 || got[len(got)-1] != "1000" {
		got = append(got, names(take(t, c, 1))...)
	}
	if len(got) < 40 || j.Stats().Damaged == 0 {
		t.Errorf("%d events came back, %d stretches reported", len(got), j.Stats().Damaged)
	}
}

func TestDeliveredTellsWhatWasDropped(t *testing.T) {
	j := open(t, journal.Options{FS: newMemFS(1), MaxSize: 32 << 10, WhenFull: journal.DropOldest})
	c := cursor(t, j, "sink")
	appendN(t, j, 0, 1)
	done := make(chan error)
	go func() { done <- c.Delivered(context.Background(), 1) }()
	appendN(t, j, 1, 500)
	if err := <-done; !errors.Is(err, journal.ErrDropped) {
		t.Errorf("got %v", err)
	}
}

// TestNobodyIsToldToDeleteAFile damages every file of a journal in turn: it
// must open, take events, and give back what was not hit.
func TestNobodyIsToldToDeleteAFile(t *testing.T) {
	for _, harm := range []struct {
		name string
		do   func(data []byte) []byte
	}{
		{"emptied", func([]byte) []byte { return nil }},
		{"half", func(b []byte) []byte { return b[:len(b)/2] }},
		{"zeros", func(b []byte) []byte { return make([]byte, len(b)) }},
		{"garbage in front", func(b []byte) []byte { copy(b, "garbage garbage garbage garbage"); return b }},
		{"garbage in the middle", func(b []byte) []byte { copy(b[len(b)/2:], "garbage garbage garbage"); return b }},
		{"garbage behind", func(b []byte) []byte { return append(b, "garbage"...) }},
	} {
		for i, name := range []string{"first segment", "second segment", "newest segment", "cursors"} {
			t.Run(harm.name+"/"+name, func(t *testing.T) {
				dir := t.TempDir()
				opt := journal.Options{FS: journal.DirFS(dir), SegmentSize: 6 << 10}
				j := open(t, opt)
				cursor(t, j, "sink")
				appendN(t, j, 0, 60)
				j.Close()
				segments, err := filepath.Glob(filepath.Join(dir, "*.seg"))
				if err != nil || len(segments) != 3 {
					t.Fatalf("segments %v, %v", segments, err)
				}
				path := append(segments, filepath.Join(dir, "cursors.json"))[i]
				data, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, harm.do(data), 0o600); err != nil {
					t.Fatal(err)
				}

				j = open(t, opt)
				c := cursor(t, j, "sink")
				appendN(t, j, 1000, 1)
				var got []string
				for len(got) == 0 || got[len(got)-1] != "1000" {
					got = append(got, names(take(t, c, 1))...)
				}
				if len(got) < 35 {
					t.Errorf("only %d of 60 events came back", len(got)-1)
				}
			})
		}
	}
}

// TestRecordsInsidePayloadsAreNotBelieved: a sender who knows the format puts
// a record into a payload; when the frame around it is damaged, it must not
// come back as an event of its own.
func TestRecordsInsidePayloadsAreNotBelieved(t *testing.T) {
	dir := t.TempDir()
	opt := journal.Options{FS: journal.DirFS(dir)}
	j := open(t, opt)
	appendN(t, j, 0, 1)
	j.Close()
	segment := must(filepath.Glob(filepath.Join(dir, "*.seg")))[0]
	stolen := must(os.ReadFile(segment)) // a sender's own journal, say

	dir = t.TempDir()
	opt.FS = journal.DirFS(dir)
	j = open(t, opt)
	cursor(t, j, "sink")
	if _, err := j.Append(context.Background(), event.Event{Name: "carrier", Payload: stolen}); err != nil {
		t.Fatal(err)
	}
	appendN(t, j, 7, 2)
	j.Close()
	segment = must(filepath.Glob(filepath.Join(dir, "*.seg")))[0]
	data := must(os.ReadFile(segment))
	at := strings.Index(string(data), "carrier")
	data[at] ^= 1
	if err := os.WriteFile(segment, data, 0o600); err != nil {
		t.Fatal(err)
	}
	j = open(t, opt)
	if got := names(take(t, cursor(t, j, "sink"), 2)); !slices.Equal(got, []string{"7", "8"}) {
		t.Errorf("got %v", got)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func BenchmarkAppend(b *testing.B) {
	for _, callers := range []int{1, 16} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			j := open(b, journal.Options{FS: journal.DirFS(b.TempDir()), MaxSize: 64 << 20})
			var n atomic.Int64
			var wg sync.WaitGroup
			e := numbered(1)
			b.ResetTimer()
			for range callers {
				wg.Go(func() {
					for n.Add(1) <= int64(b.N) {
						if _, err := j.Append(context.Background(), e); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(j.Stats().Syncs)/float64(b.N), "syncs/op")
		})
	}
}

// BenchmarkDeliver is BenchmarkAppend with a cursor that keeps up.
func BenchmarkDeliver(b *testing.B) {
	j := open(b, journal.Options{FS: journal.DirFS(b.TempDir()), MaxSize: 64 << 20})
	c := cursor(b, j, "sink")
	var n atomic.Int64
	var wg sync.WaitGroup
	e := numbered(1)
	b.ResetTimer()
	for range 16 {
		wg.Go(func() {
			for n.Add(1) <= int64(b.N) {
				if _, err := j.Append(context.Background(), e); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	buf := make([]journal.Entry, 0, 64)
	for got := 0; got < b.N; {
		entries, err := c.Next(context.Background(), buf)
		if err != nil {
			b.Fatal(err)
		}
		got += len(entries)
		c.Ack(entries[len(entries)-1].Seq)
	}
	wg.Wait()
}
