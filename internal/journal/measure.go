package journal

import (
	"sort"
	"time"

	"event2mqtt/internal/metrics"
)

// This file is what is told of the journal's cursors beside Stats.

// CursorStats is how far a cursor is. The counters begin when the journal is
// opened, or the cursor if that is later.
type CursorStats struct {
	Delivered uint64 // events that were acknowledged
	Dropped   uint64 // events that were given up, by DropOldest
	Waiting   uint64 // events that are not acknowledged yet
	// Oldest is how long the oldest of them is stored, to about a second; 0 if
	// none waits. Of events older than the journal's opening it is a lower bound.
	Oldest time.Duration
}

// Stats returns the counters.
func (c *Cursor) Stats() CursorStats {
	c.j.mu.Lock()
	defer c.j.mu.Unlock()
	s := CursorStats{Delivered: c.delivered, Dropped: c.dropped}
	if c.mark.acked < c.j.last {
		s.Waiting = c.j.gaps.events(c.mark.acked, c.j.last)
		if at := c.j.ages.of(c.mark.acked + 1); !at.IsZero() {
			s.Oldest = max(0, time.Since(at))
		}
	}
	return s
}

// SyncTimes is how long the disk took to sync, each time.
func (j *Journal) SyncTimes() *metrics.Distribution { return &j.syncs }

// ages tells when events were stored, ascending: roughly, in little memory.
type ages []age

type age struct {
	first uint64 // seq of the first event
	at    time.Time
}

// maxAges bounds an ages. When it is full, every second entry goes.
const maxAges = 1024

// note notes when the event first was stored. Within a second of the newest
// entry it is not: what is stored then counts as stored with that.
func (a *ages) note(first uint64, at time.Time) {
	if n := len(*a); n > 0 && at.Sub((*a)[n-1].at) < time.Second {
		return
	}
	if len(*a) >= maxAges {
		for i := range maxAges / 2 {
			(*a)[i] = (*a)[2*i]
		}
		*a = (*a)[:maxAges/2]
	}
	*a = append(*a, age{first, at})
}

// of returns when an event was stored; zero if nobody knows.
func (a ages) of(seq uint64) time.Time {
	i := sort.Search(len(a), func(i int) bool { return a[i].first > seq })
	if i == 0 {
		return time.Time{}
	}
	return a[i-1].at
}

// gaps are the numbers that no event has, since a write failed or a crash made
// the journal skip some. Only the newest are kept: the numbers of others count
// as events.
type gaps []gap

type gap struct{ after, upTo uint64 }

const maxGaps = 64

// note notes that no event has a number above after, up to upTo.
func (g *gaps) note(after, upTo uint64) {
	if upTo <= after {
		return
	}
	if len(*g) >= maxGaps {
		*g = append((*g)[:0], (*g)[1:]...)
	}
	*g = append(*g, gap{after, upTo})
}

// events is how many events there are above after, up to upTo, which is not less.
func (g gaps) events(after, upTo uint64) uint64 {
	n := upTo - after
	for _, gap := range g {
		if low, high := max(gap.after, after), min(gap.upTo, upTo); high > low {
			n -= high - low
		}
	}
	return n
}
