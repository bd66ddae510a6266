package bridge

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"event2mqtt/internal/control"
	"event2mqtt/internal/refused"
)

// This file is how events that the destination has refused are looked at, sent
// again, and dropped.

func (b *Bridge) listRefused() control.RefusedList {
	events, err := b.refused.List()
	list := control.RefusedList{Events: events}
	if err != nil {
		list.Problems = []string{err.Error()}
	}
	return list
}

// doRefused puts events back into the journal, or drops them. An event leaves
// the folder only when the journal has it.
func (b *Bridge) doRefused(ctx context.Context, request control.RefusedRequest) control.RefusedOutcome {
	ids := request.IDs
	if request.All {
		ids = nil
		for _, e := range b.listRefused().Events {
			if !slices.Contains(ids, e.ID) { // another sink may have refused it, too
				ids = append(ids, e.ID)
			}
		}
	}
	o := control.RefusedOutcome{Done: []string{}}
	for _, id := range ids {
		err := ctx.Err()
		switch {
		case err != nil:
		case request.Do == "send":
			err = b.sendRefused(ctx, id)
		default:
			err = b.refused.Remove(id)
		}
		if err != nil {
			o.Problems = append(o.Problems, err.Error())
			if !errors.Is(err, refused.ErrUnknown) && !errors.Is(err, errSinkGone) {
				break // the others would fare the same
			}
			continue
		}
		o.Done = append(o.Done, id)
	}
	if len(o.Done) > 0 {
		b.log.Info().Strs("ids", o.Done[:min(len(o.Done), 20)]).Int("events", len(o.Done)).Msgf("refused events: %s", map[string]string{"send": "sent again", "drop": "dropped"}[request.Do])
	}
	return o
}

// errSinkGone says that nobody is there to get an event again.
var errSinkGone = errors.New("is not configured any more; configure it again, or drop the event")

// sendRefused stores an event again, for each sink that has refused it, and for
// no other: those have it already.
func (b *Bridge) sendRefused(ctx context.Context, id string) error {
	events, err := b.refused.Get(id)
	if err != nil {
		return err
	}
	b.mu.RLock()
	now := b.now
	b.mu.RUnlock()
	for i := range events {
		again, story := events[i].Event(), b.trace.Story()
		if again.Only == "" { // of a version with one sink
			again.Only = mainSink
		}
		if now.part("sink "+again.Only) == nil {
			return fmt.Errorf("event %s: the sink %q, which has refused it, %w", id, again.Only, errSinkGone)
		}
		story.Passed(again)
		seq, err := b.journal.Append(ctx, again)
		story.End(seq, err)
		if err != nil {
			return fmt.Errorf("store event %s: %w", id, err)
		}
		if err := b.refused.RemoveOf(id, events[i].Sink); err != nil {
			return err
		}
	}
	return nil
}

// maxOverhead is how much larger than its payload any event's packet may be, in
// bytes: the longest topic, and what the time, the event's name and its id add.
const maxOverhead = 128 << 10

// checkPacket warns of payloads that are accepted and fit no packet.
func (p *Plan) checkPacket() {
	most := int64(p.MaxPayload) + maxOverhead
	if len(p.MQTT.URL) > 0 || int64(p.Broker.MaxPacket) >= most {
		return
	}
	text := fmt.Sprintf("max_payload is %s, and with topic and fields an event may need %d KiB more, but broker.max_packet is %s: larger events are skipped; set broker.max_packet to at least %dKiB", p.MaxPayload, maxOverhead>>10, p.Broker.MaxPacket, (most+1023)>>10)
	if !slices.Contains(p.doc.Warnings, text) {
		p.doc.Warnings = append(p.doc.Warnings, text)
	}
}
