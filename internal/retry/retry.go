// Package retry is the one loop for what comes back after a failure: a
// connection, a part of the program, a step that the disk refused. It says how
// long to pause and which failures are news; it does not log.
package retry

import (
	"context"
	"math/rand/v2"
	"time"
)

// Bounds of the pause where a Loop does not say otherwise.
const (
	DefaultMin = time.Second
	DefaultMax = time.Minute
)

// Loop runs a session again and again. Its fields are set before Run.
type Loop struct {
	// Min and Max bound the pause, which doubles with each failure; half of it
	// is random, so that many programs do not come back at the same moment.
	// Zero is DefaultMin and DefaultMax.
	Min, Max time.Duration
	// Steady is how long a session must have lasted for the failures before it
	// to be forgotten. Zero is Max.
	Steady time.Duration
	// Failed, if set, is told of each failure. fresh is set if the one before
	// had another text, or was forgotten. The session begins again after pause.
	Failed func(err error, fresh bool, pause time.Duration)

	failures int
	said     string
}

// Run calls session until ctx ends, and returns ctx's error.
func (l *Loop) Run(ctx context.Context, session func(ctx context.Context) error) error {
	for {
		began := time.Now()
		err := session(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		pause, fresh := l.Next(err, time.Since(began))
		if l.Failed != nil {
			l.Failed(err, fresh, pause)
		}
		if !Sleep(ctx, pause) {
			return ctx.Err()
		}
	}
}

// Next notes a failure after a session that lasted so long, and returns how
// long to pause, and whether the failure is news. Run does this by itself.
func (l *Loop) Next(err error, lasted time.Duration) (pause time.Duration, fresh bool) {
	least, most, steady := l.Min, l.Max, l.Steady
	if least == 0 {
		least = DefaultMin
	}
	if most == 0 {
		most = DefaultMax
	}
	if steady == 0 {
		steady = most
	}
	if lasted >= steady {
		l.Reset()
	}
	text := ""
	if err != nil {
		text = err.Error()
	}
	fresh = l.failures == 0 || text != l.said
	l.said = text
	pause = most
	if l.failures < 32 { // or the shift overflows
		pause = min(least<<l.failures, most)
	}
	l.failures++
	return pause/2 + rand.N(pause/2+1), fresh
}

// Failures is how many failures there were since the last success.
func (l *Loop) Failures() int { return l.failures }

// Reset forgets the failures: the next is news, and its pause is short.
func (l *Loop) Reset() { l.failures, l.said = 0, "" }

// Sleep waits for d, and reports whether ctx lasted as long.
func Sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
