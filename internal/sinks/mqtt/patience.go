package mqtt

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// This file waits for acknowledgements.

// wait waits for the acknowledgement of a thing. A connection on which answers
// stay out is a dead one, but not while bytes go out.
func (s *Sink) wait(ctx context.Context, l link, t ticket, what thing) error {
	w := newWatchdog()
	defer w.stop()
	return s.waitUnless(ctx, l, t, what, w, nil)
}

// waitUnless is wait, but that bytes that go out do not count once the thing was
// overtaken: a broker that acknowledges what is later will not acknowledge it.
// overtaken may be nil.
func (s *Sink) waitUnless(ctx context.Context, l link, t ticket, what thing, w *watchdog, overtaken func() bool) error {
	if answered(t) {
		return s.judge(what, t)
	}
	patience, sign := s.doubt.patience(what, s.opt.Config.Timeout), time.Now()
	w.by(sign.Add(patience))
	for {
		select {
		case <-t.Done():
			return s.judge(what, t)
		case <-l.down():
			return unanswered(t, l.err())
		case <-ctx.Done():
			return unanswered(t, ctx.Err())
		case <-w.C:
			w.at = time.Time{}
			if moved := l.moved(); moved.After(sign) && (overtaken == nil || !overtaken()) {
				sign = moved
			}
			if time.Since(sign) >= patience {
				return fmt.Errorf("%w within %s", errNoAck, patience)
			}
			w.by(sign.Add(patience))
		}
	}
}

// watchdog is a timer for one goroutine that waits again and again. It is set
// anew when it has rung, not for each wait: it may ring too early.
type watchdog struct {
	*time.Timer
	at time.Time // when it rings; zero if it may not
}

func newWatchdog() *watchdog { return &watchdog{Timer: time.NewTimer(time.Hour)} }

// by has it ring at t, or before.
func (w *watchdog) by(t time.Time) {
	if w.at.IsZero() || t.Before(w.at) {
		w.at = t
		w.Reset(time.Until(t))
	}
}

func (w *watchdog) stop() { w.Stop() }

var errNoAck = errors.New("the broker did not acknowledge a message")

// answered reports whether a ticket is done. That of the bundled broker waits
// until it is.
func answered(t ticket) bool {
	select {
	case <-t.Done():
		return true
	default:
		return false
	}
}

// unanswered is err, unless the answer has come at the last moment.
func unanswered(t ticket, err error) error {
	if answered(t) {
		return t.Error()
	}
	return err
}
