package metrics

import (
	"sync/atomic"
	"time"
)

// bounds are the upper ends of a Distribution's buckets: from a fast SSD, whose
// sync takes less than a millisecond, to a flash card that stalls.
var bounds = [...]time.Duration{
	500 * time.Microsecond, time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond, time.Second, 2500 * time.Millisecond, 5 * time.Second, 10 * time.Second,
}

// Distribution counts how long something took. The zero value is empty. It is
// safe for concurrent use; an observation costs two atomic additions.
type Distribution struct {
	counts      [len(bounds) + 1]atomic.Uint64 // of each bucket alone
	nanoseconds atomic.Int64
}

// Observe counts one duration.
func (d *Distribution) Observe(took time.Duration) {
	i := 0
	for i < len(bounds) && took > bounds[i] {
		i++
	}
	d.counts[i].Add(1)
	d.nanoseconds.Add(int64(took))
}
