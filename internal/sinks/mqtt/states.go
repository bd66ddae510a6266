package mqtt

import (
	"crypto/sha256"
	"time"

	"event2mqtt/internal/event"
)

// refusedStates are the states that the broker does not take, by key. Each is
// tried again when it changes, but not as often as it may change: every try
// costs connections. One goroutine at a time uses it.
type refusedStates map[string]refusedState

type refusedState struct {
	sum   [sha256.Size]byte // of the payload
	size  int
	times int
	until time.Time // no other payload is tried before, unless it is smaller
}

// Bounds of the pause until a state that was refused is tried with another
// payload; it doubles each time.
const (
	minRetry = time.Minute
	maxRetry = time.Hour
)

// wait reports whether a state is not to be sent now, and how long it must
// wait; 0 is until it changes.
func (r refusedStates) wait(st event.State) (d time.Duration, refused bool) {
	old, ok := r[st.Key]
	switch {
	case !ok:
		return 0, false
	case old.sum == sha256.Sum256(st.Payload):
		return 0, true
	case len(st.Payload) < old.size:
		return 0, false
	}
	d = time.Until(old.until)
	return max(d, 0), d > 0
}

// refuse notes that a state is not taken, and reports whether that is new.
func (r refusedStates) refuse(st event.State) (first bool) {
	old, known := r[st.Key]
	pause := min(minRetry<<min(old.times, 10), maxRetry)
	r[st.Key] = refusedState{sha256.Sum256(st.Payload), len(st.Payload), old.times + 1, time.Now().Add(pause)}
	return !known
}

// taken forgets a state.
func (r refusedStates) taken(key string) { delete(r, key) }
