package journal_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"testing"
	"testing/synctest"

	"event2mqtt/internal/event"
	"event2mqtt/internal/journal"
)

// everyFifth wants 5, 10 and so on.
func everyFifth(e *event.Event) bool {
	n, _ := strconv.Atoi(e.Name)
	return n%5 == 0
}

// TestACursorSkipsWhatIsNotWanted, from memory and from disk: what is skipped
// needs no acknowledgement, and whoever waits for it is answered.
func TestACursorSkipsWhatIsNotWanted(t *testing.T) {
	for name, memory := range map[string]int{"memory": 0, "disk": 1} {
		t.Run(name, func(t *testing.T) {
			j := open(t, journal.Options{FS: journal.DirFS(t.TempDir()), SegmentSize: 4 << 10, Memory: memory, Sync: journal.SyncNever})
			c := cursor(t, j, "c")
			c.Filter(everyFifth)
			appendN(t, j, 1, 104)
			for i, e := range take(t, c, 20) {
				if e.Seq != uint64(5*i+5) {
					t.Fatalf("event %d comes at %d", e.Seq, i)
				}
			}
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error)
			go func() { _, err := c.Next(ctx, make([]journal.Entry, 0, 16)); ended <- err }() // skips the last four
			c.Ack(99)
			if lag := c.Lag(); lag != 5 {
				t.Errorf("event 100 is not acknowledged, and %d wait", lag)
			}
			c.Ack(100)
			if err := c.Delivered(t.Context(), 104); err != nil {
				t.Error(err)
			}
			appendN(t, j, 105, 1)
			if err := <-ended; err != nil { // 105
				t.Error(err)
			}
			cancel()
			if _, err := c.Next(ctx, make([]journal.Entry, 0, 16)); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestSkippingHoldsNothingUp: of many events that nobody wants, all are
// acknowledged by reading alone, and the context ends that too.
func TestSkippingHoldsNothingUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := open(t, journal.Options{FS: newMemFS(1)})
		defer j.Close()
		c := cursor(t, j, "c")
		c.Filter(func(*event.Event) bool { return false })
		appendN(t, j, 1, 1000)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { _, err := c.Next(ctx, make([]journal.Entry, 0, 16)); done <- err }()
		synctest.Wait()
		if lag := c.Lag(); lag != 0 {
			t.Errorf("%d events wait", lag)
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		appendN(t, j, 1001, 1000)
		if _, err := c.Next(ctx, make([]journal.Entry, 0, 16)); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
}

// TestNoWantedEventIsPassedUnacknowledged, whatever the order in which a sink
// reads, acknowledges, goes back, and gets another filter.
func TestNoWantedEventIsPassedUnacknowledged(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		synctest.Test(t, func(t *testing.T) {
			j := open(t, journal.Options{FS: newMemFS(1), Memory: 1 + r.IntN(20<<10), SegmentSize: 4 << 10})
			defer j.Close()
			c := cursor(t, j, "c")
			wanted := map[uint64]bool{} // and not acknowledged
			var read []uint64           // since the last rewind
			last, every := 0, 3
			wants := func(e *event.Event) bool { n, _ := strconv.Atoi(e.Name); return n%every == 0 }
			c.Filter(wants)
			next := func() {
				ctx, cancel := context.WithCancel(t.Context())
				got := make(chan []journal.Entry, 1)
				go func() { entries, _ := c.Next(ctx, make([]journal.Entry, 0, 1+r.IntN(8))); got <- entries }()
				synctest.Wait()
				cancel()
				for _, e := range <-got {
					read = append(read, e.Seq)
				}
			}
			check := func() {
				t.Helper()
				acked := uint64(last) - c.Lag()
				for seq := range wanted {
					if seq <= acked {
						t.Fatalf("seed %d: event %d is wanted and was not acknowledged, and the mark is at %d", seed, seq, acked)
					}
				}
			}
			for range 60 {
				switch r.IntN(5) {
				case 0:
					n := r.IntN(20)
					appendN(t, j, last+1, n)
					for i := last + 1; i <= last+n; i++ {
						if i%every == 0 {
							wanted[uint64(i)] = true
						}
					}
					last += n
				case 1, 2:
					next()
				case 3:
					if len(read) > 0 {
						upTo := r.IntN(len(read))
						for seq := range wanted {
							if seq <= read[upTo] {
								delete(wanted, seq)
							}
						}
						c.Ack(read[upTo])
						read = read[upTo+1:]
					}
				case 4:
					if r.IntN(4) == 0 { // another takes the cursor over
						every = 2 + r.IntN(4)
						c.Filter(wants)
						acked := uint64(last) - c.Lag()
						clear(wanted)
						for seq := acked + 1; seq <= uint64(last); seq++ {
							if seq%uint64(every) == 0 {
								wanted[seq] = true
							}
						}
					}
					c.Rewind()
					read = nil
				}
				check()
			}
			c.Rewind()
			read = nil
			for len(wanted) > 0 { // and all of them come
				before := len(read)
				next()
				if len(read) == before {
					t.Fatalf("seed %d: these never come: %v", seed, wanted)
				}
				for _, seq := range read {
					delete(wanted, seq)
				}
				c.Ack(read[len(read)-1])
				check()
			}
			next()
			if lag := c.Lag(); lag != 0 {
				t.Errorf("seed %d: %d events wait", seed, lag)
			}
		})
	}
}
