package bridge

import (
	"context"
	"time"

	"event2mqtt/internal/config"
	"event2mqtt/internal/journal"
)

// This file is what becomes of the place that a removed sink had in the journal.

// leaveCursor closes the cursor of a sink that is no longer configured. It is
// kept for a while, but not at the cost of new events.
func (b *Bridge) leaveCursor(part *component) {
	part.cursor.SetWhenFull(journal.DropOldest)
	part.cursor.Close()
	b.wakeCursors()
}

func (b *Bridge) wakeCursors() {
	select {
	case b.sinkRemoved <- struct{}{}:
	default:
	}
}

// keepCursors forgets the places of removed sinks when their time is over, until
// ctx ends.
func (b *Bridge) keepCursors(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-b.sinkRemoved:
		case <-timer.C:
		}
		timer.Reset(b.forgetCursors())
	}
}

// forgetCursors returns when to look again.
func (b *Bridge) forgetCursors() time.Duration {
	b.mu.RLock()
	keep, wanted := b.now.plan.Journal.Keep, map[string]bool{}
	for _, o := range b.now.plan.sinks {
		wanted[o.Base().Name] = true
	}
	b.mu.RUnlock()
	next := time.Hour
	for _, m := range b.journal.Marks() {
		if m.Open || wanted[m.Name] {
			continue
		}
		// Also one that was removed while the program did not run, or that a
		// reload made which was refused.
		b.journal.SetWhenFull(m.Name, journal.DropOldest)
		if left := keep - time.Since(m.Used); left > 0 {
			next = min(next, left)
			continue
		}
		if err := b.journal.DropCursor(m.Name); err != nil {
			b.log.Warn().Err(err).Str("sink", m.Name).Msg("the place of a removed sink in the journal cannot be forgotten; trying again in a minute")
			next = min(next, time.Minute)
			continue
		}
		b.log.Info().Str("sink", m.Name).Uint64("not_delivered", m.Lag).
			Msgf("the sink was removed more than journal.keep (%s) ago and is forgotten; %s not delivered there", config.DurationText(keep), was(m.Lag, "event"))
	}
	return next
}

// was counts things that something happened to.
func was(n uint64, thing string) string {
	if n == 1 {
		return counted(n, thing) + " was"
	}
	return counted(n, thing) + " were"
}
