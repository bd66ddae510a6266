package bridge

import (
	"context"
	"fmt"
	"time"

	"github.com/rs/zerolog"

	"event2mqtt/internal/config"
	"event2mqtt/internal/journal"
	"event2mqtt/internal/sinks"
)

// This file is the places of sinks in the journal: where each begins, and what
// becomes of that of a removed one.

// cursorOf is the place of a sink in the journal, which it takes over from the one
// before. If there was none, place says in words where the sink begins. An undone
// change leaves the place as it was.
func (c *change) cursorOf(base sinks.Common, old *component) (cursor *journal.Cursor, place string, err error) {
	if old != nil {
		return old.cursor, "", nil
	}
	cursor, err = c.journal.CursorWith(base.Name, base.WhenFull)
	if err != nil {
		return nil, "", fmt.Errorf("find the place of sink %s in the journal: %w", base.Name, err)
	}
	c.undo(cursor.Cancel)
	place = "begins with the next event"
	if !cursor.Fresh() {
		place = "goes on where it was; waiting: " + counted(cursor.Lag(), "event")
	}
	return cursor, place, nil
}

// greetSinks says which sinks there are and where each begins, and whose place is
// kept though it is not configured. The main one is told of as where events go.
func (b *Bridge) greetSinks() {
	const most = 20 // lines
	var lines []string
	for i, part := range b.now.parts[:len(b.now.plan.sinks)] {
		if i > 0 {
			lines = append(lines, fmt.Sprintf("%s (%s): %s", part.title, b.now.plan.sinks[i].Base().Type, part.place))
		} else if !part.cursor.Fresh() {
			lines = append(lines, fmt.Sprintf("%s: %s", part.title, part.place))
		}
	}
	for _, m := range b.journal.Marks() {
		if until := m.Used.Add(b.now.plan.Journal.Keep); !m.Open && time.Until(until) > 0 {
			lines = append(lines, fmt.Sprintf("sink %s: is not configured; %s not delivered there; its place is kept until %s",
				m.Name, was(m.Lag, "event"), until.Format(time.DateTime)))
		}
	}
	for _, line := range lines[:min(len(lines), most)] {
		b.log.Info().Msg(line)
	}
	if n := len(lines) - most; n > 0 {
		b.log.Info().Msgf("and %s more", counted(n, "sink"))
	}
}

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
		// Also one that was removed while the program did not run.
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
		level := zerolog.InfoLevel
		if m.Lag > 0 {
			level = zerolog.WarnLevel
		}
		b.log.WithLevel(level).Str("sink", m.Name).Uint64("not_delivered", m.Lag).
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
