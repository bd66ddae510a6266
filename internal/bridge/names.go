package bridge

import (
	"context"
	"slices"

	"event2mqtt/internal/event"
)

// This file keeps the names of events that were seen, which package learned
// knows, in the journal.

// namesSource is under whose name the journal keeps them: each as the key of a
// position. No source has this name.
const namesSource = "\x00names"

// forgotten is the value of one that was forgotten; others have none.
var forgotten = []byte("-")

// learn keeps the names of events that are stored. Only a name that is new
// makes a write; one that cannot be written is tried again with the next event
// of that name.
func (b *Bridge) learn(ctx context.Context, events []event.Event) {
	fresh := b.devices.learned.Unknown(events)
	if fresh == nil {
		return
	}
	records := make([]event.Event, len(fresh))
	for i, name := range fresh {
		records[i] = event.Event{Source: namesSource, Position: event.Position{Key: name.Key()}}
	}
	if _, err := b.journal.Append(ctx, records...); err != nil {
		b.log.Debug().Err(err).Msg("the name of an event could not be kept; trying again with the next event of that name")
		return
	}
	for _, name := range b.devices.learned.Learn(fresh...) {
		b.journal.Forget(namesSource, name.Key())
	}
	b.devices.learnedMore()
}

// restoreNames takes back what was learned when the program ended.
func (b *Bridge) restoreNames(p *Plan) {
	var keys []string
	for key, value := range b.journal.Positions(namesSource) {
		if len(value) > 0 {
			b.journal.Forget(namesSource, key)
		} else {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	for _, key := range b.devices.learned.Restore(keys) {
		b.journal.Forget(namesSource, key)
	}
	b.keepNames(p)
}

// keepNames forgets the names of sources that a plan does not have, for good:
// segments that exist have them still.
func (b *Bridge) keepNames(p *Plan) {
	var sources []string
	for _, s := range p.sources {
		sources = append(sources, s.Base().Name)
	}
	// All of them stand in the head of each of the journal's segments.
	names := b.devices.learned.Keep(sources, int(min(p.Journal.MaxSize/32, 1<<30)))
	if len(names) == 0 {
		return
	}
	records := make([]event.Event, len(names))
	for i, name := range names {
		records[i] = event.Event{Source: namesSource, Position: event.Position{Key: name.Key(), Value: forgotten}}
	}
	if _, err := b.journal.Append(context.Background(), records...); err != nil {
		b.log.Debug().Err(err).Msg("that names of events are forgotten could not be written; they are forgotten at the next start")
	}
	for _, name := range names {
		b.journal.Forget(namesSource, name.Key())
	}
	b.devices.learnedMore()
}
