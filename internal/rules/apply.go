package rules

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"hash/maphash"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"event2mqtt/internal/event"
	"event2mqtt/internal/topic"
)

// Batch is the way of one source's events through the rules, up to the moment
// they are stored. Its user calls Commit or Abort.
type Batch struct {
	set    *Set
	now    time.Time
	locked bool
	undo   []func()
	counts []*atomic.Uint64  // to be counted up by Commit
	some   [4]*atomic.Uint64 // what counts begins in
	// Held are those that are held anew, by key. Each has to be stored as such,
	// in place of the one before. Nil stands for one that is held no more.
	Held map[string]*Held
	// Replaced are events that were held and will not be sent, in the order in
	// which newer ones took their place.
	Replaced []Replaced
	// Sender is the rule that held what Send sends; nil if it is no more.
	Sender *Rule
	// Tell, if set, is called with each rule that an event is for.
	Tell func(*Rule)
}

// Replaced is an event that was held back by a rule and is held no more.
type Replaced struct {
	Event *event.Event
	By    *Rule
	Key   string // as Held.Key
}

// Begin begins a batch.
func (s *Set) Begin(now time.Time) *Batch {
	p := &Batch{set: s, now: now}
	p.counts = p.some[:0]
	return p
}

// Commit remembers what was done, and counts it: the events are stored.
func (p *Batch) Commit() {
	for _, n := range p.counts {
		n.Add(1)
	}
	p.counts, p.undo = nil, nil
	p.end()
}

// Abort forgets what was done: the events will be offered again. After Commit
// it does nothing.
func (p *Batch) Abort() {
	for i := len(p.undo) - 1; i >= 0; i-- {
		p.undo[i]()
	}
	p.counts, p.undo = nil, nil
	p.end()
}

func (p *Batch) end() {
	if p.locked {
		p.locked = false
		p.set.mu.Unlock()
	}
}

func (p *Batch) lock() {
	if !p.locked {
		p.set.mu.Lock()
		p.locked = true
	}
}

// Apply applies all rules to an event, whose payload is a valid JSON object,
// and changes it as they say. With a new name the payload has to be normalised
// again. It does not block for long.
func (p *Batch) Apply(e *event.Event) Verdict { return p.apply(e, p.set.rules) }

func (p *Batch) apply(e *event.Event, rules []*rule) Verdict {
	var decoded map[string]any
	payload := func() map[string]any {
		if decoded == nil {
			_ = json.Unmarshal(e.Payload, &decoded)
		}
		return decoded
	}
	for _, r := range rules {
		if !p.set.matches(r, e, payload) {
			continue
		}
		p.counts = append(p.counts, &r.matched)
		if p.Tell != nil {
			p.Tell(r.is)
		}
		switch {
		case r.Keep:
			return Verdict{Kind: Pass, By: r.is}
		case r.Drop:
			p.counts = append(p.counts, &r.dropped)
			return Verdict{Kind: Drop, By: r.is}
		}
		if edit(r, e) {
			decoded = nil
		}
		if p.set.watch != nil && r.edits {
			p.set.watch(r.is, e, nil)
		}
		if r.Dedupe && p.repeated(r, e) {
			p.counts = append(p.counts, &r.dropped)
			return Verdict{Kind: Repeat, By: r.is}
		}
		if r.MinInterval > 0 {
			if key, soon := p.tooSoon(r, e); soon {
				p.counts = append(p.counts, &r.holds)
				return Verdict{Hold, r.is, key}
			}
		}
	}
	return Verdict{}
}

// edit changes the event, and reports whether its payload is another.
func edit(r *rule, e *event.Event) (changed bool) {
	if len(r.Pick) > 0 {
		e.Payload = pick(e.Payload, r.Pick)
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
		// One that cannot be rendered leaves the topic as it is.
		if name, err := r.topic.Render(topic.Values{Event: e.Name, Source: e.Source, Payload: e.Payload}); err == nil {
			e.Route.Topic, e.Route.Outside = name, r.topic.Outside()
		}
	}
	if r.QoS != nil {
		qos := byte(*r.QoS)
		e.Route.QoS = &qos
	}
	if r.Expiry > 0 {
		e.Route.Expiry = uint32(r.Expiry / time.Second)
	}
	e.Route.Retain = e.Route.Retain || r.Retain
	return changed
}

// pick keeps members by name, and values inside by their path, under the path
// as their name.
func pick(payload []byte, keys []string) []byte {
	out := event.Only(payload, keys...)
	for _, key := range keys {
		if !strings.ContainsAny(key, ".[") || event.Member(payload, key) != nil {
			continue
		}
		if value := event.Find(payload, key); value != nil {
			out = event.Set(out, key, string(value))
		}
	}
	return out
}

var seed = maphash.MakeSeed()

// repeated reports whether the event says the same as the one before.
func (p *Batch) repeated(r *rule, e *event.Event) bool {
	ignore := append([]string{event.NameField, p.set.timestamp}, r.Ignore...)
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
// one that waits already. key is that of Held.
func (p *Batch) tooSoon(r *rule, e *event.Event) (key string, soon bool) {
	h := sha256.New()
	h.Write([]byte(e.Source + "\x00" + e.Name))
	for _, key := range r.Per {
		h.Write([]byte{0})
		h.Write(event.Find(e.Payload, key))
	}
	k := r.id + "\x00" + hex.EncodeToString(h.Sum(nil)[:16])
	p.lock()
	last, known := r.last[k]
	waiting := r.held[k]
	bytes := p.set.bytes
	restore := func() {
		p.set.bytes = bytes
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
		return k, false
	}
	p.undo = append(p.undo, restore)
	before := 0
	if waiting != nil {
		before = waiting.size()
		p.Replaced = append(p.Replaced, Replaced{&waiting.Event, r.is, k})
		p.counts = append(p.counts, &r.replaced)
	}
	held := &Held{Key: k, Event: *e, Due: due, by: r.memory}
	held.Event.Position = event.Position{} // is stored with its arrival
	if len(e.Payload) > maxHeldPayload || p.set.bytes-before+held.size() > p.set.maxHeld {
		p.set.bytes -= before
		delete(r.held, k) // it is older
		r.last[k] = p.now
		if waiting != nil {
			p.hold(k, nil)
		}
		return k, false
	}
	p.set.bytes += held.size() - before
	r.held[k] = held
	p.hold(k, held)
	return k, true
}

func (p *Batch) hold(key string, h *Held) {
	if p.Held == nil {
		p.Held = map[string]*Held{}
	}
	p.Held[key] = h
}

// size is about what a held event takes in the head of each segment of the
// journal, where it is base64 within base64.
func (h *Held) size() int { return (len(h.Event.Payload)+len(h.Event.Route.Topic))*16/9 + 512 }

// forget drops what makes no difference any more. Set.mu is held.
func (r *rule) forget(now time.Time) {
	for k, last := range r.last {
		if r.held[k] == nil && !now.Before(last.Add(r.MinInterval)) {
			delete(r.last, k)
		}
	}
}

// Restore takes back what was held before a restart, to be sent at once if no
// rule holds it any more.
func (s *Set) Restore(h *Held, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bytes += h.size()
	id, _, _ := strings.Cut(h.Key, "\x00")
	for _, r := range s.rules {
		if r.id != id {
			continue
		}
		if latest := now.Add(r.MinInterval); h.Due.After(latest) {
			h.Due = latest // the clock was another
		}
		h.by = r.memory
		r.held[h.Key] = h
		r.last[h.Key] = h.Due.Add(-r.MinInterval)
		return
	}
	h.by = newMemory()
	h.by.held[h.Key] = h
	s.orphans = append(s.orphans, h.by)
}

// ruleOf returns the index of the rule whose memory it is, -1 if there is none
// any more. Set.mu is held.
func (s *Set) ruleOf(m *memory) int {
	return slices.IndexFunc(s.rules, func(r *rule) bool { return r.memory == m })
}

// Adopt takes over what the rules of the set before hold that are not in this
// one: it is due at once.
func (s *Set) Adopt(before *Set) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range before.rules {
		if s.ruleOf(r.memory) < 0 {
			s.orphans = append(s.orphans, r.memory)
		}
	}
}

// Due returns what has waited long enough, to be sent, the longest first, and
// when the next will have, zero if none waits.
func (s *Set) Due(now time.Time) (due []*Held, next time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.orphans {
		for _, h := range m.held {
			due = append(due, h)
		}
	}
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
	slices.SortFunc(due, func(a, b *Held) int { return cmp.Or(a.Due.Compare(b.Due), strings.Compare(a.Key, b.Key)) })
	return due, next
}

// Send lets an event that is due go on through the rules behind the one that
// held it, and calls store with what becomes of it. Nothing is done if a newer
// one has taken its place; nothing can while store runs. On error it is held
// as before.
func (s *Set) Send(h *Held, now time.Time, store func(p *Batch, e *event.Event, v Verdict) error) error {
	s.mu.Lock()
	p := s.Begin(now)
	p.locked = true
	defer p.end()
	m := h.by
	if m.held[h.Key] != h {
		return nil
	}
	last, bytes := m.last[h.Key], s.bytes
	delete(m.held, h.Key)
	m.last[h.Key] = now
	s.bytes -= h.size()
	p.undo = append(p.undo, func() { m.held[h.Key], m.last[h.Key], s.bytes = h, last, bytes })
	var rest []*rule
	if i := s.ruleOf(m); i >= 0 {
		rest, p.Sender = s.rules[i+1:], s.rules[i].is
	}
	e := h.Event
	if err := store(p, &e, p.apply(&e, rest)); err != nil {
		p.Abort()
		return err
	}
	p.Commit()
	return nil
}
