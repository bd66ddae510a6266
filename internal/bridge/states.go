package bridge

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"event2mqtt/internal/event"
	"event2mqtt/internal/health"
	"event2mqtt/internal/sources"
)

// This file is what the supervisor does for the states of sources: it says
// whether each source's thing is there, keeps sources from what is not theirs,
// and has what they no longer report removed.

// settleAfter is how long a source must have been up, without a break, since it
// was started for what it has not reported in that time to be removed. A source
// tells all it knows soon after it has connected; one that is not up, such as
// that of a printer that is switched off, has said nothing yet, so what is known
// of it from before is kept.
const settleAfter = time.Minute

// presence is what was said of sources. Its lock is taken before those of the
// bridge and of the states.
type presence struct {
	mu       sync.Mutex
	settling map[string]*time.Timer // by source
	refused  map[string]string      // states that were refused, with why
}

func newPresence() presence {
	return presence{settling: map[string]*time.Timer{}, refused: map[string]string{}}
}

// Payloads of the state event.KeyAvailable.
const (
	online  = "online"
	offline = "offline"
)

// present publishes whether a source's thing is there, if the component is the
// one that runs in its name.
func (b *Bridge) present(c *component) {
	b.presence.mu.Lock()
	defer b.presence.mu.Unlock()
	b.mu.RLock()
	current := slices.Contains(b.now.parts, c)
	b.mu.RUnlock()
	if !current {
		return // it has an heir, or is not in its place yet
	}
	payload, timer := offline, b.presence.settling[c.name]
	if c.health.Report().Level == health.Up { // which may be newer than what has called
		payload = online
	}
	_ = b.states.Report(c.name, event.State{Key: event.KeyAvailable, Payload: []byte(payload)}) // never one too many
	switch {
	case payload == offline && timer != nil:
		timer.Stop()
		delete(b.presence.settling, c.name)
	case payload == online && timer == nil:
		b.presence.settling[c.name] = b.settleLater(c.name)
	}
}

// settleLater has a source settle. presence.mu is held.
func (b *Bridge) settleLater(source string) *time.Timer {
	var timer *time.Timer
	timer = time.AfterFunc(b.settle, func() {
		b.presence.mu.Lock()
		defer b.presence.mu.Unlock()
		if b.presence.settling[source] == timer {
			b.states.Settle(source)
		}
	})
	return timer
}

// begin notes that a source begins anew, at a moment of the states.
func (b *Bridge) begin(source string, since uint64) {
	b.presence.mu.Lock()
	defer b.presence.mu.Unlock()
	b.forgetTimer(source)
	b.states.Expect(source, since)
}

// forgetSource removes all that is known of a source that is no more.
func (b *Bridge) forgetSource(source string) {
	b.presence.mu.Lock()
	defer b.presence.mu.Unlock()
	b.forgetTimer(source)
	b.states.RemoveSource(source)
	b.devices.remove(source)
}

// forgetTimer stops what settles a source. presence.mu is held.
func (b *Bridge) forgetTimer(source string) {
	if timer := b.presence.settling[source]; timer != nil {
		timer.Stop()
		delete(b.presence.settling, source)
	}
}

// stopSettling ends all timers.
func (b *Bridge) stopSettling() {
	b.presence.mu.Lock()
	defer b.presence.mu.Unlock()
	for source := range b.presence.settling {
		b.forgetTimer(source)
	}
}

// expectSources says, before anything runs, which sources there will be: what
// is retained of others is cleared at once.
func (c *change) expectSources() {
	for _, o := range c.new.plan.sources {
		c.states.Expect(o.Base().Name, c.began)
	}
}

// presentSources notes, when a change has taken place, which sources have begun
// with it, and publishes whether the things of all are there.
func (c *change) presentSources() {
	for _, part := range c.new.parts {
		if _, ok := part.part.(sources.Source); !ok {
			continue
		}
		if !c.starting() && !slices.Contains(c.old.parts, part) {
			c.begin(part.name, c.began)
		}
		c.present(part)
	}
}

func (o output) Report(states ...event.State) {
	fit := make([]event.State, 0, len(states))
	most := o.b.pipeline.Load().MaxPayload
	for _, st := range states {
		err := event.CheckStateKey(st.Key)
		if err == nil && len(st.Payload) > most {
			err = fmt.Errorf("the payload has %d bytes; max_payload allows %d", len(st.Payload), most)
		}
		if err != nil {
			o.refuse(st.Key, err)
			continue
		}
		fit = append(fit, st)
	}
	o.b.devices.place(o.source, fit)
	if err := o.b.states.Report(o.source, fit...); err != nil {
		o.refuse("", err)
	}
}

func (o output) Remove(keys ...string) {
	own := slices.DeleteFunc(slices.Clone(keys), func(key string) bool { return event.CheckStateKey(key) != nil })
	if len(own) > 0 || len(keys) == 0 {
		o.b.states.Remove(o.source, own...)
	}
}

// refuse says once why a state is not kept.
func (o output) refuse(key string, err error) {
	const most = 1000 // of what is remembered
	key = key[:min(len(key), event.MaxStateKey)]
	at := o.source + "\x00" + key
	o.b.presence.mu.Lock()
	known := o.b.presence.refused[at] == err.Error()
	if !known {
		if len(o.b.presence.refused) >= most {
			clear(o.b.presence.refused)
		}
		o.b.presence.refused[at] = err.Error()
	}
	o.b.presence.mu.Unlock()
	if !known {
		o.b.log.Error().Str("source", o.source).Str("state", key).Err(err).Msg("a state that a source reports is not published")
	}
}
