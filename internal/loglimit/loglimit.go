// Package loglimit bounds how many lines others can cause in the log. It counts
// what it leaves out, and tells so with the next line.
package loglimit

import (
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// every is how often one Limit lets a line through.
const every = time.Minute

// Limit lets one line through a minute. Its zero value is ready; it is safe for
// concurrent use.
type Limit struct {
	mu      sync.Mutex
	last    time.Time
	leftOut int // since then
}

// Line begins a line, or returns nil if it is to be left out.
func (l *Limit) Line(begin func() *zerolog.Event) *zerolog.Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.last.IsZero() && time.Since(l.last) < every {
		l.leftOut++
		return nil
	}
	e := begin()
	if l.leftOut > 0 {
		e = e.Int("lines_left_out", l.leftOut)
	}
	l.last, l.leftOut = time.Now(), 0
	return e
}
