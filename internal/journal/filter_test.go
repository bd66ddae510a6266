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

// sifting is a cursor with a filter, and what must hold of it.
type sifting struct {
	*testing.T
	*rand.Rand
	j      *journal.Journal
	c      *journal.Cursor
	last   int             // event
	every  int             // which events are wanted
	wanted map[uint64]bool // and not acknowledged
	read   []uint64        // since it was set back
}

func (s *sifting) wants(e *event.Event) bool { n, _ := strconv.Atoi(e.Name); return n%s.every == 0 }

func (s *sifting) append(n int) {
	appendN(s.T, s.j, s.last+1, n)
	s.last += n
	s.want(s.last - n)
}

// want notes what is wanted of the events behind one.
func (s *sifting) want(after int) {
	for i := after + 1; i <= s.last; i++ {
		if i%s.every == 0 {
			s.wanted[uint64(i)] = true
		}
	}
}

// next reads what there is, and waits for nothing.
func (s *sifting) next() {
	ctx, cancel := context.WithCancel(s.Context())
	got := make(chan []journal.Entry, 1)
	buf := make([]journal.Entry, 0, 1+s.IntN(8))
	go func() { entries, _ := s.c.Next(ctx, buf); got <- entries }()
	synctest.Wait()
	cancel()
	for _, e := range <-got {
		s.read = append(s.read, e.Seq)
	}
}

// ack acknowledges the first n that were read.
func (s *sifting) ack(n int) {
	for seq := range s.wanted {
		if seq <= s.read[n-1] {
			delete(s.wanted, seq)
		}
	}
	s.c.Ack(s.read[n-1])
	s.read = s.read[n:]
}

func (s *sifting) acked() int { return s.last - int(s.c.Lag()) }

// rewind sets the cursor back, and sometimes another filter takes it over.
func (s *sifting) rewind() {
	if s.IntN(4) == 0 {
		s.every = 2 + s.IntN(4)
		s.c.Filter(s.wants)
		clear(s.wanted)
		s.want(s.acked())
	}
	s.c.Rewind()
	s.read = nil
}

func (s *sifting) check(seed uint64) {
	s.Helper()
	for seq := range s.wanted {
		if seq <= uint64(s.acked()) {
			s.Fatalf("seed %d: event %d is wanted and was not acknowledged, and the mark is at %d", seed, seq, s.acked())
		}
	}
}

// TestNoWantedEventIsPassedUnacknowledged, whatever the order in which a sink
// reads, acknowledges, goes back, and gets another filter.
func TestNoWantedEventIsPassedUnacknowledged(t *testing.T) {
	for seed := range uint64(200) {
		synctest.Test(t, func(t *testing.T) {
			s := &sifting{T: t, Rand: rand.New(rand.NewPCG(seed, 1)), every: 3, wanted: map[uint64]bool{}}
			s.j = open(t, journal.Options{FS: newMemFS(1), Memory: 1 + s.IntN(20<<10), SegmentSize: 4 << 10})
			defer s.j.Close()
			s.c = cursor(t, s.j, "c")
			s.c.Filter(s.wants)
			for range 60 {
				switch s.IntN(5) {
				case 0:
					s.append(s.IntN(20))
				case 1, 2:
					s.next()
				case 3:
					if len(s.read) > 0 {
						s.ack(1 + s.IntN(len(s.read)))
					}
				case 4:
					s.rewind()
				}
				s.check(seed)
			}
			s.c.Rewind()
			s.read = nil
			for len(s.wanted) > 0 { // and all of them come
				if s.next(); len(s.read) == 0 {
					t.Fatalf("seed %d: these never come: %v", seed, s.wanted)
				}
				s.ack(len(s.read))
				s.check(seed)
			}
			s.next()
			if lag := s.c.Lag(); lag != 0 {
				t.Errorf("seed %d: %d events wait", seed, lag)
			}
		})
	}
}
