package rules

import (
	"encoding/json"
	"hash/maphash"
	"strings"
	"time"

	"event2mqtt/internal/event"
	"event2mqtt/internal/topic"
)

// Passage is the way of one source's events through the rules, up to the moment
// they are stored. Its user calls Commit or Abort.
type Passage struct {
	set    *Set
	now    time.Time
	locked bool
	undo   []func()
	// Held are those that are held anew. Each has to be stored as such.
	Held []*Held
}

// Begin begins a passage.
func (s *Set) Begin(now time.Time) *Passage { return &Passage{set: s, now: now} }

// Commit remembers what was done: the events are stored.
func (p *Passage) Commit() { p.end() }

// Abort forgets what was done: the events will be offered again.
func (p *Passage) Abort() {
	for i := len(p.undo) - 1; i >= 0; i-- {
		p.undo[i]()
	}
	p.end()
}

func (p *Passage) end() {
	if p.locked {
		p.locked = false
		p.set.mu.Unlock()
	}
}

func (p *Passage) lock() {
	if !p.locked {
		p.set.mu.Lock()
		p.locked = true
	}
}

// Apply applies all rules to an event, whose payload is a valid JSON object,
// and changes it as they say. With a new name the payload has to be normalised
// again. It does not block for long.
func (p *Passage) Apply(e *event.Event) Verdict {
	var decoded map[string]any
	payload := func() map[string]any {
		if decoded == nil {
			_ = json.Unmarshal(e.Payload, &decoded)
		}
		return decoded
	}
	for _, r := range p.set.rules {
		if !p.set.matches(r, e, payload) {
			continue
		}
		switch {
		case r.Keep:
			return Pass
		case r.Drop:
			r.dropped.Add(1)
			return Drop
		}
		if edit(r, e) {
			decoded = nil
		}
		if r.Dedupe && p.repeated(r, e) {
			r.dropped.Add(1)
			return Drop
		}
		if r.MinInterval > 0 && p.tooSoon(r, e) {
			return Hold
		}
	}
	return Pass
}

// edit changes the event, and reports whether its payload is another.
func edit(r *rule, e *event.Event) (changed bool) {
	if len(r.Pick) > 0 {
		e.Payload = event.Only(e.Payload, r.Pick...)
		changed = true
	}
	if len(r.Remove) > 0 {
		e.Payload = event.Without(e.Payload, r.Remove...)
		changed = true
	}
	for _, a := range r.add {
		e.Payload = event.Set(e.Payload, a.key, a.value)
		changed = true
	}
	if r.Rename != "" {
		e.Name = r.Rename
	}
	if r.Topic != "" {
		// One that cannot be rendered leaves the topic as it is: the sink tells.
		if name, err := r.topic.Render(topic.Values{Event: e.Name, Source: e.Source, Payload: e.Payload}); err == nil {
			e.Route.Topic = name
		}
	}
	if r.QoS != nil {
		qos := byte(*r.QoS)
		e.Route.QoS = &qos
	}
	e.Route.Retain = e.Route.Retain || r.Retain
	return changed
}

var seed = maphash.MakeSeed()

// repeated reports whether the event says the same as the one before.
func (p *Passage) repeated(r *rule, e *event.Event) bool {
	ignore := append([]string{event.NameField, event.DefaultTimestampField}, r.Ignore...)
	sum := maphash.Bytes(seed, event.Without(e.Payload, ignore...))
	key := e.Source + "\x00" + e.Name
	p.lock()
	before, known := r.seen[key]
	if known && before == sum {
		return true
	}
	if !known && len(r.seen) >= maxKeys {
		clear(r.seen)
	}
	r.seen[key] = sum
	p.undo = append(p.undo, func() {
		if r.seen[key] = before; !known {
			delete(r.seen, key)
		}
	})
	return false
}

// tooSoon reports whether the event has to wait; it then takes the place of
// one that waits already.
func (p *Passage) tooSoon(r *rule, e *event.Event) bool {
	var key strings.Builder
	key.WriteString(r.id + "\x00" + e.Source + "\x00" + e.Name)
	for _, value := range event.Pick(e.Payload, r.Per...) {
		key.WriteByte(0)
		key.Write(value)
	}
	k := key.String()
	p.lock()
	last, known := r.last[k]
	waiting := r.held[k]
	restore := func() {
		if r.last[k] = last; !known {
			delete(r.last, k)
		}
		if r.held[k] = waiting; waiting == nil {
			delete(r.held, k)
		}
	}
	due := last.Add(r.MinInterval)
	if known && waiting == nil && !p.now.Before(due) {
		known = false
	}
	if !known {
		if len(r.last) >= maxKeys {
			r.forget(p.now)
		}
		if len(r.last) < maxKeys {
			r.last[k] = p.now
			p.undo = append(p.undo, restore)
		}
		return false
	}
	if waiting == nil && len(r.held) >= maxHeld || len(e.Payload) > maxHeldPayload {
		return false
	}
	h := &Held{Key: k, Event: *e, Due: due}
	h.Event.Position = event.Position{} // is stored with its arrival
	r.held[k] = h
	p.Held = append(p.Held, h)
	p.undo = append(p.undo, restore)
	return true
}

// forget drops what makes no difference any more. Set.mu is held.
func (r *rule) forget(now time.Time) {
	for k, last := range r.last {
		if r.held[k] == nil && !now.Before(last.Add(r.MinInterval)) {
			delete(r.last, k)
		}
	}
}

// Restore takes back what was held before a restart. It reports false for what
// no rule holds any more: it is due now.
func (s *Set) Restore(h *Held) bool {
	id, _, _ := strings.Cut(h.Key, "\x00")
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.rules {
		if r.id == id {
			r.held[h.Key] = h
			r.last[h.Key] = h.Due.Add(-r.MinInterval)
			return true
		}
	}
	return false
}

// Due returns what has waited long enough, to be sent, and when the next will
// have, zero if none waits.
func (s *Set) Due(now time.Time) (due []*Held, next time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.rules {
		for _, h := range r.held {
			switch {
			case !now.Before(h.Due):
				due = append(due, h)
			case next.IsZero() || h.Due.Before(next):
				next = h.Due
			}
		}
	}
	return due, next
}

// Send calls store with an event that is due, if it is still the newest, and
// begins the next interval when that worked. No other can take its place
// meanwhile.
func (s *Set) Send(h *Held, now time.Time, store func() error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	id, _, _ := strings.Cut(h.Key, "\x00")
	for _, r := range s.rules {
		if r.id != id || r.held[h.Key] != h {
			continue
		}
		if err := store(); err != nil {
			return err
		}
		delete(r.held, h.Key)
		r.last[h.Key] = now
	}
	return nil
}

// Orphans are what rules of a set hold that are not in the next one.
func (s *Set) Orphans(next *Set) (out []*Held) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.rules {
		stays := false
		for _, other := range next.rules {
			stays = stays || other.id == r.id
		}
		if !stays {
			for _, h := range r.held {
				out = append(out, h)
			}
		}
	}
	return out
}
