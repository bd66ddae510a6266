package journal_test

import (
	"context"
	"errors"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"event2mqtt/internal/event"
	"event2mqtt/internal/journal"
)

// readAll reads what there is now.
func readAll(t testing.TB, r *journal.Reader) (out []journal.Entry) {
	t.Helper()
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	for buf := make([]journal.Entry, 0, 16); ; {
		got, err := r.Next(ended, buf)
		if errors.Is(err, context.Canceled) || errors.Is(err, journal.ErrClosed) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, got...)
	}
}

func TestAReaderBeginsWhereItIsTold(t *testing.T) {
	for name, memory := range map[string]int{"from memory": 1 << 20, "from disk": 1, "from both": 10_000} {
		t.Run(name, func(t *testing.T) {
			j := open(t, journal.Options{FS: newMemFS(1), SegmentSize: 4 << 10, Memory: memory})
			appendN(t, j, 1, 100)
			for _, c := range []struct {
				r    *journal.Reader
				from int
			}{
				{j.Reader(0), 1}, {j.Reader(1), 1}, {j.Reader(50), 50}, {j.Reader(100), 100}, {j.Reader(101), 101},
				{j.ReaderSince(time.Time{}), 1}, {j.ReaderSince(time.Unix(77, 0)), 77}, {j.ReaderSince(time.Unix(77, 1)), 78},
				{j.ReaderSince(time.Now().Add(time.Hour)), 101},
			} {
				got := names(readAll(t, c.r))
				if !slices.Equal(got, counting(c.from, 101-c.from)) || c.r.Missed() != 0 {
					t.Errorf("from %d: got %v, missed %d", c.from, got, c.r.Missed())
				}
			}
		})
	}
}

func TestAReaderLeavesNoMarkAndHoldsNothing(t *testing.T) {
	m := newMemFS(1)
	j := open(t, journal.Options{FS: m, SegmentSize: 4 << 10, MaxSize: 24 << 10, Memory: 1})
	appendN(t, j, 1, 20)
	r := j.Reader(1)
	got, err := r.Next(context.Background(), make([]journal.Entry, 0, 5))
	if err != nil || len(got) != 5 {
		t.Fatalf("%d, %v", len(got), err)
	}
	appendN(t, j, 21, 300) // what it has yet to read goes to make room
	rest := readAll(t, r)
	if len(rest) == 0 || rest[len(rest)-1].Name != "320" {
		t.Fatalf("got %v", names(rest))
	}
	first, _ := strconv.Atoi(rest[0].Name)
	gap, want := 0, 6
	for _, e := range rest {
		i, _ := strconv.Atoi(e.Name)
		gap += i - want
		want = i + 1
	}
	if gap <= 0 || r.Missed() != uint64(gap) {
		t.Errorf("from %d on, %d events were missed and %d are counted", first, gap, r.Missed())
	}
	if got := j.Marks(); len(got) != 0 {
		t.Errorf("it left a mark: %v", got)
	}
	if lost := j.Stats().Lost; lost != 0 {
		t.Errorf("%d events are reported as lost", lost)
	}
}

func TestASegmentThatVanishesUnderAReaderIsAGap(t *testing.T) {
	dir := t.TempDir()
	j := open(t, journal.Options{FS: journal.DirFS(dir), SegmentSize: 4 << 10, Memory: 1})
	appendN(t, j, 1, 100)
	files := segments(t, dir)
	if len(files) < 4 {
		t.Fatalf("only %d segments", len(files))
	}
	r := j.Reader(1)
	got, err := r.Next(context.Background(), make([]journal.Entry, 0, 3))
	if err != nil || len(got) != 3 {
		t.Fatalf("%d, %v", len(got), err)
	}
	if err := os.Remove(files[2]); err != nil {
		t.Fatal(err)
	}
	rest := readAll(t, r)
	if n := uint64(len(rest)) + 3 + r.Missed(); n != 100 || r.Missed() == 0 || rest[len(rest)-1].Name != "100" {
		t.Errorf("read %d, missed %d", len(rest)+3, r.Missed())
	}
}

// TestReadersBesideAppendsAndRetention: each gets what was stored, in order and
// each once, and counts what it missed.
func TestReadersBesideAppendsAndRetention(t *testing.T) {
	const n = 1500
	j := open(t, journal.Options{FS: newMemFS(1), SegmentSize: 4 << 10, MaxSize: 24 << 10, Memory: 4000})
	var wg sync.WaitGroup
	for i := range 3 {
		r := j.Reader(1)
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			last, read := uint64(0), uint64(0)
			for buf := make([]journal.Entry, 0, 1+i*10); last < n; {
				got, err := r.Next(ctx, buf)
				if err != nil {
					t.Errorf("reader %d after %d: %v", i, last, err)
					return
				}
				for _, e := range got {
					if e.Seq <= last || e.Name != strconv.FormatUint(e.Seq, 10) {
						t.Errorf("reader %d: event %s with number %d after %d", i, e.Name, e.Seq, last)
					}
					last = e.Seq
					read++
				}
			}
			if read+r.Missed() != n {
				t.Errorf("reader %d: read %d and missed %d of %d", i, read, r.Missed(), n)
			}
		})
	}
	appendN(t, j, 1, n)
	wg.Wait()
}

func TestAReaderEndsWithTheJournal(t *testing.T) {
	j := open(t, journal.Options{FS: newMemFS(1)})
	appendN(t, j, 1, 3)
	r := j.Reader(1)
	if got := names(readAll(t, r)); !slices.Equal(got, counting(1, 3)) {
		t.Fatalf("got %v", got)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := r.Next(context.Background(), make([]journal.Entry, 0, 1))
		ended <- err
	}()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, journal.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

// TestOneReadIsBounded: a cursor that is far behind does not take a whole log
// into memory, however large its buffer is.
func TestOneReadIsBounded(t *testing.T) {
	j := open(t, journal.Options{FS: newMemFS(1), Memory: 1})
	c := cursor(t, j, "sink")
	const size, n = 100 << 10, 40
	for range n {
		if _, err := j.Append(context.Background(), event.Event{Name: "e", Source: "s", Payload: make([]byte, size)}); err != nil {
			t.Fatal(err)
		}
	}
	read := 0
	for read < n {
		got, err := c.Next(context.Background(), make([]journal.Entry, 0, 2*n))
		if err != nil {
			t.Fatal(err)
		}
		if len(got) > (1<<20)/size+1 {
			t.Fatalf("%d events of %d bytes at once", len(got), size)
		}
		read += len(got)
	}
}
