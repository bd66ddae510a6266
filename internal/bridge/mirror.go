package bridge

import (
	"context"
	"slices"
	"sync"

	"event2mqtt/internal/event"
	"event2mqtt/internal/journal"
	"event2mqtt/internal/sources"
)

// This file keeps as states what events of sources tell that know no states.

// mirrors are the sources of a plan whose events make states.
func (p *Plan) mirrors() map[string]sources.Mirror {
	all := map[string]sources.Mirror{}
	for _, o := range p.sources {
		if m, ok := o.(sources.Mirror); ok && len(m.Mirrored()) > 0 {
			all[o.Base().Name] = m
		}
	}
	return all
}

// holdMirrored has the states that are made of events outlive a restart at the
// broker: they come again only when something happens.
func (b *Bridge) holdMirrored(p *Plan) {
	for _, o := range p.sources {
		if m, ok := o.(sources.Mirror); ok {
			b.states.Hold(o.Base().Name, m.Mirrored()...)
		}
	}
}

// mirrored is what was made of events already. The zero value is ready.
type mirrored struct {
	mu sync.Mutex                   // held while states are reported, so that the newest is the last
	at map[string]map[string]uint64 // by source and key, the newest event that has told it
}

// mirror reports the states that stored events make; last is the number of the
// newest. Two that are stored at once may come here the other way round.
func (b *Bridge) mirror(events []event.Event, last uint64) {
	mirrors := b.pipeline.Load().mirrors
	if len(mirrors) == 0 {
		return
	}
	for i := range events {
		source := events[i].Source
		if m := mirrors[source]; m != nil {
			b.mirrored.report(b, source, m.Mirror(&events[i]), last)
		}
	}
}

func (m *mirrored) report(b *Bridge, source string, states []event.State, seq uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	at := m.at[source]
	if at == nil {
		at = map[string]uint64{}
		if m.at == nil {
			m.at = map[string]map[string]uint64{}
		}
		m.at[source] = at
	}
	states = slices.DeleteFunc(states, func(s event.State) bool { return at[s.Key] > seq })
	for _, s := range states {
		at[s.Key] = seq
	}
	output{b: b, source: source}.Report(states...)
}

// forget forgets a source.
func (m *mirrored) forget(source string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.at, source)
}

// mirrorAgain is how many of the newest events that the main sink has delivered
// are looked at after a start: their states are published beside them, and the
// program may have been killed in between.
const mirrorAgain = 1000

// unmirrored are the events, from and to, whose states the run before may not have
// published. It is called before any are stored.
func (b *Bridge) unmirrored() (from, to uint64) {
	for _, m := range b.journal.Marks() {
		if m.Name == mainSink {
			to = b.journal.Stats().Last
			return to - min(to, m.Lag+mirrorAgain) + 1, to
		}
	}
	return 1, 0
}

// mirrorStored reports the states of these events, as far as there is nothing
// newer, until ctx ends.
func (b *Bridge) mirrorStored(ctx context.Context, from, to uint64) {
	if from > to || len(b.pipeline.Load().mirrors) == 0 {
		return
	}
	r, buf := b.journal.Reader(from), make([]journal.Entry, 0, 64)
	for {
		entries, err := r.Next(ctx, buf)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			b.log.Warn().Err(err).Msg("the states that stored events tell cannot be read; each is published with the next event that has it")
			return
		}
		for i := range entries {
			if e := &entries[i]; e.Seq <= to {
				b.mirror([]event.Event{e.Event}, e.Seq)
			}
		}
		if entries[len(entries)-1].Seq >= to {
			return
		}
	}
}
