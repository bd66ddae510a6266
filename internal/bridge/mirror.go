package bridge

import (
	"event2mqtt/internal/event"
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

// mirror reports the states that stored events make.
func (b *Bridge) mirror(events []event.Event) {
	mirrors := b.pipeline.Load().mirrors
	if len(mirrors) == 0 {
		return
	}
	for i := range events {
		if m := mirrors[events[i].Source]; m != nil {
			output{b: b, source: events[i].Source}.Report(m.Mirror(&events[i])...)
		}
	}
}
