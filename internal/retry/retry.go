// Package retry is the one loop for what comes back after a failure: a
// connection, a part of the program, a step that the disk refused. It says how
// long to pause and which failures are news; it does not log.
package retry

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"time"
)

// Bounds of the pause where a Loop does not say otherwise.
const (
	DefaultMin = time.Second
	DefaultMax = time.Minute
)

// maxCauses bounds the causes that a Loop remembers to have told.
const maxCauses = 32

// Loop runs a session again and again. Its fields are set before Run.
type Loop struct {
	// Min and Max bound the pause, which doubles with each failure; half of it
	// is random, so that many programs do not come back at the same moment.
	// Zero is DefaultMin and DefaultMax.
	Min, Max time.Duration
	// Steady is how long a session must have lasted for the failures before it
	// to be forgotten. Zero is Max.
	Steady time.Duration
	// Failed, if set, is told of each failure. fresh is set if its Cause was not
	// told since the failures were forgotten. The session begins again after
	// pause.
	Failed func(err error, fresh bool, pause time.Duration)

	failures int
	told     []string // causes, the oldest first
}

// Run calls session until ctx ends, and returns ctx's error. It takes all of a
// session for its work; where an attempt may last as long as Steady and come to
// nothing, Next is told how long it was more than an attempt.
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
	cause := Cause(err)
	if fresh = !slices.Contains(l.told, cause); fresh {
		if len(l.told) >= maxCauses {
			l.told = slices.Delete(l.told, 0, 1)
		}
		l.told = append(l.told, cause)
	}
	pause = most
	if doubled := least << l.failures; l.failures < 32 && doubled > 0 { // or the shift overflows
		pause = min(doubled, most)
	}
	l.failures++
	return pause/2 + rand.N(pause/2+1), fresh
}

// Failures is how many failures there were since the last success.
func (l *Loop) Failures() int { return l.failures }

// Reset forgets the failures: the next is news, and its pause is short.
func (l *Loop) Reset() { l.failures, l.told = 0, nil }

// Cause is the text of an error without what is another each time though the
// cause is the same: the port that the system gave to this end of a connection.
// It is empty for nil.
func Cause(err error) string {
	if err == nil {
		return ""
	}
	text := err.Error()
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Source != nil {
		without := *op
		without.Source = nil
		text = strings.ReplaceAll(text, op.Error(), without.Error())
	}
	if dns, ok := errors.AsType[*net.DNSError](err); ok && dns.IsTimeout {
		without := *dns // what it was waiting for names ports of both ends
		without.Err = "i/o timeout"
		text = strings.ReplaceAll(text, dns.Error(), without.Error())
	}
	return text
}

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
