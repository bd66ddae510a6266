package broker

import (
	"cmp"
	"encoding/binary"
	"math"
	"slices"
	"strings"
	"time"

	"event2mqtt/internal/event"
)

// This file is the encoding of what is stored, and how it is read back. All
// numbers are uvarints; texts have their length before them.

func appendString[T string | []byte](b []byte, s T) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendTime(b []byte, t time.Time) []byte {
	if t.IsZero() {
		return binary.AppendUvarint(b, 0)
	}
	return binary.AppendUvarint(b, uint64(max(1, t.UnixMilli())))
}

func bit(b bool, n uint) byte {
	if b {
		return 1 << n
	}
	return 0
}

func appendMessage(b []byte, m *Message) []byte {
	b = append(b, m.QoS|bit(m.Retain, 2))
	b = appendString(b, m.Topic)
	b = appendString(b, m.source)
	b = appendTime(b, m.expires)
	b = appendString(b, m.properties)
	return appendString(b, m.Payload)
}

// messageRecord begins the record of a message; appendTarget adds who gets it.
// retain tells that it is to be retained. from is the session that published
// it with packetID, or nil.
func messageRecord(m *Message, retain bool, from *session, packetID uint16) []byte {
	b := make([]byte, 0, len(m.Topic)+len(m.Payload)+len(m.properties)+96)
	id := ""
	if from != nil && from.stored && m.QoS == 2 {
		id = from.key
	}
	b = append(b, bit(retain, 0))
	b = appendMessage(b, m)
	b = appendString(b, id)
	return binary.AppendUvarint(b, uint64(packetID))
}

func appendTarget(b []byte, s *session, order uint64, o *outgoing) []byte {
	b = appendString(b, s.key)
	return appendOutgoing(b, order, o)
}

func appendOutgoing(b []byte, order uint64, o *outgoing) []byte {
	b = binary.AppendUvarint(b, order)
	b = append(b, o.qos|bit(o.retain, 2))
	b = binary.AppendUvarint(b, uint64(len(o.ids)))
	for _, id := range o.ids {
		b = binary.AppendUvarint(b, uint64(id))
	}
	return b
}

func appendSubscription(b []byte, filter string, sub subscription, due bool) []byte {
	b = appendString(b, filter)
	b = append(b, sub.qos|bit(sub.noLocal, 2)|bit(sub.retainAsPublished, 3)|bit(due, 4))
	return binary.AppendUvarint(b, uint64(sub.id))
}

func appendHeader(b []byte, s *session) []byte {
	b = appendString(b, s.key)
	b = appendString(b, s.user)
	b = binary.AppendUvarint(b, uint64(s.expiry))
	return appendTime(b, s.expires)
}

func appendChanges(b []byte, n *changes) []byte {
	for _, orders := range [][]uint64{n.done, n.received} {
		b = binary.AppendUvarint(b, uint64(len(orders)))
		for _, order := range orders {
			b = binary.AppendUvarint(b, order)
		}
	}
	b = binary.AppendUvarint(b, uint64(len(n.released)))
	for _, id := range n.released {
		b = binary.AppendUvarint(b, uint64(id))
	}
	return b
}

func appendID(b []byte, order uint64, id uint16) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(b, order), uint64(id))
}

// submitSession records all of a session: its messages first, so that they
// count only together with the session itself. b.mu, store.mu and session.mu
// are held.
func submitSession(s *session, submit func(kind string, rec []byte)) {
	kept := 0
	keep := func(o *outgoing) {
		if o.order != 0 {
			kept++
			rec := make([]byte, 0, len(s.key)+o.size())
			rec = appendMessage(appendString(rec, s.key), o.message)
			submit(recordKept, appendOutgoing(rec, o.order, o))
		}
	}
	type flying struct {
		id uint16
		inflight
	}
	var sent []flying
	for id, f := range s.inflight {
		if f.order != 0 {
			sent = append(sent, flying{id, f})
		}
	}
	slices.SortFunc(sent, func(a, b flying) int { return cmp.Compare(a.sent, b.sent) })
	for i := range sent {
		if !sent[i].released {
			keep(&sent[i].outgoing)
		}
	}
	for i := range s.queue.len() {
		keep(s.queue.at(i))
	}
	b := appendHeader(nil, s)
	b = binary.AppendUvarint(b, uint64(kept))
	b = binary.AppendUvarint(b, s.order)
	b = binary.AppendUvarint(b, uint64(len(s.filters)))
	for filter, sub := range s.filters {
		due := slices.ContainsFunc(s.due, func(d retainedDue) bool { return d.filter == filter })
		b = appendSubscription(b, filter, sub, due)
	}
	received := 0
	for _, passedOn := range s.received {
		if passedOn {
			received++
		}
	}
	b = binary.AppendUvarint(b, uint64(received))
	for id, passedOn := range s.received {
		if passedOn {
			b = binary.AppendUvarint(b, uint64(id))
		}
	}
	for i := range sent {
		if f := &sent[i]; f.qos == 2 {
			b = appendID(b, f.order, f.id)
			b = append(b, bit(f.released, 0))
		}
	}
	submit(recordSession, b)
}

// decoder takes values off the front of a record; bad is set once it ran short.
type decoder struct {
	data []byte
	bad  bool
}

func (d *decoder) num() uint64 {
	v, n := binary.Uvarint(d.data)
	if n <= 0 {
		d.bad, d.data = true, nil
		return 0
	}
	d.data = d.data[n:]
	return v
}

func (d *decoder) byte() byte {
	if len(d.data) == 0 {
		d.bad = true
		return 0
	}
	v := d.data[0]
	d.data = d.data[1:]
	return v
}

func (d *decoder) bytes() []byte {
	n := d.num()
	if n > uint64(len(d.data)) {
		d.bad, d.data = true, nil
		return nil
	}
	v := d.data[:n:n]
	d.data = d.data[n:]
	return v
}

func (d *decoder) string() string { return string(d.bytes()) }

func (d *decoder) time() time.Time {
	ms := d.num()
	if ms == 0 || ms > math.MaxInt64/2 {
		return time.Time{}
	}
	return time.UnixMilli(int64(ms))
}

func (d *decoder) message() *Message {
	flags := d.byte()
	return &Message{
		QoS: flags & 3, Retain: flags&4 != 0, Topic: d.string(), source: d.string(), expires: d.time(),
		properties: d.bytes(), Payload: d.bytes(),
	}
}

func (d *decoder) outgoing(m *Message) outgoing {
	o := outgoing{message: m, order: d.num()}
	flags := d.byte()
	o.qos, o.retain = flags&3, flags&4 != 0
	n := d.num()
	if n > uint64(len(d.data)) {
		d.bad = true
		return o
	}
	for range n {
		o.ids = append(o.ids, uint32(d.num()))
	}
	return o
}

func (d *decoder) subscription() (filter string, sub subscription, due bool) {
	filter = d.string()
	flags := d.byte()
	return filter, subscription{flags & 3, flags&4 != 0, flags&8 != 0, uint32(d.num())}, flags&16 != 0
}

// stored is a session as it is read back.
type stored struct {
	key, user string // key is session.key, or the client id in older stores
	expiry    uint32
	expires   time.Time // zero if it was connected
	filters   map[string]subscription
	due       map[string]bool
	received  map[uint16]bool
	entries   map[uint64]*entry // by order
	order     uint64
}

type entry struct {
	outgoing
	id       uint16 // of QoS 2 messages that were sent
	sent     int
	released bool
}

// restorer reads records back, in their order.
type restorer struct {
	b        *Broker
	sessions map[string]*stored
	kept     map[string][]outgoing // of the session that follows
	sent     int
	bad      int // records that could not be read
	refused  int // retained messages beyond the limits
}

func newRestorer(b *Broker) *restorer {
	return &restorer{b: b, sessions: map[string]*stored{}, kept: map[string][]outgoing{}}
}

func (r *restorer) apply(e *event.Event) {
	d := &decoder{data: e.Payload}
	switch e.Name {
	case recordMessage:
		r.message(d)
	case recordRetained:
		if m := d.message(); !d.bad && !r.b.retained.set(m, r.b.limit()) {
			r.refused++
		}
	case recordOpen:
		s := d.header()
		if known := r.find(s.key); known != nil && !d.bad {
			known.user, known.expiry, known.expires = s.user, s.expiry, s.expires
		} else if !d.bad {
			r.sessions[s.key] = s
		}
	case recordEnd:
		r.end(d.string())
	case recordKept:
		key := d.string()
		if o := d.outgoing(d.message()); !d.bad {
			r.kept[key] = append(r.kept[key], o)
		}
	case recordSession:
		r.whole(d)
	default:
		r.change(e.Name, d, r.find(d.string()))
	}
	if d.bad {
		r.bad++
	}
}

// find returns a session by its key. Stores of before sessions were kept by
// user and client id know it by the client id alone.
func (r *restorer) find(key string) *stored {
	if s := r.sessions[key]; s != nil {
		return s
	}
	if user, id, ok := strings.Cut(key, "\x00"); ok {
		if s := r.sessions[id]; s != nil && s.user == user {
			return s
		}
	}
	return nil
}

func (r *restorer) end(key string) {
	if s := r.find(key); s != nil {
		delete(r.sessions, s.key)
	}
}

// header reads what appendHeader writes.
func (d *decoder) header() *stored {
	return &stored{
		key: d.string(), user: d.string(), expiry: uint32(d.num()), expires: d.time(),
		filters: map[string]subscription{}, due: map[string]bool{}, received: map[uint16]bool{}, entries: map[uint64]*entry{},
	}
}

func (r *restorer) message(d *decoder) {
	retain := d.byte() == 1
	m := d.message()
	from, id := d.string(), uint16(d.num())
	if d.bad {
		return
	}
	if retain && !r.b.retained.set(m, r.b.limit()) {
		r.refused++
	}
	if s := r.find(from); s != nil && from != "" {
		s.received[id] = true
	}
	for len(d.data) > 0 && !d.bad {
		s := r.find(d.string())
		if o := d.outgoing(m); s != nil && !d.bad {
			s.entries[o.order] = &entry{outgoing: o}
			s.order = max(s.order, o.order)
		}
	}
}

func (r *restorer) whole(d *decoder) {
	s := d.header()
	count := d.num()
	kept := r.kept[s.key]
	delete(r.kept, s.key)
	if d.bad || count > uint64(len(kept)) {
		d.bad = true // some of its messages are missing: what was known before is better
		return
	}
	kept = kept[len(kept)-int(count):] // those before are of a snapshot that was not finished
	s.order = d.num()
	for n := d.num(); n > 0 && !d.bad; n-- {
		filter, sub, due := d.subscription()
		s.filters[filter] = sub
		if due {
			s.due[filter] = true
		}
	}
	for n := d.num(); n > 0 && !d.bad; n-- {
		s.received[uint16(d.num())] = true
	}
	for _, o := range kept {
		s.entries[o.order] = &entry{outgoing: o}
	}
	for len(d.data) > 0 && !d.bad {
		order, id, released := d.num(), uint16(d.num()), d.byte() == 1
		e := s.entries[order]
		if e == nil {
			e = &entry{outgoing: outgoing{order: order, qos: 2}}
			s.entries[order] = e
		}
		r.sent++
		e.id, e.released, e.sent = id, released, r.sent
	}
	if !d.bad {
		r.end(s.key) // it may be known by another key
		r.sessions[s.key] = s
	}
}

// change applies a record of something that changed in a session. One that is
// not known has ended, or is recorded as a whole later on.
func (r *restorer) change(kind string, d *decoder, s *stored) {
	if s == nil || d.bad {
		return
	}
	switch kind {
	case recordSubscribe:
		filter, sub, due := d.subscription()
		if s.filters[filter] = sub; due {
			s.due[filter] = true
		}
	case recordUnsubscribe:
		filter := d.string()
		delete(s.filters, filter)
		delete(s.due, filter)
	case recordCaughtUp:
		delete(s.due, d.string())
	case recordIDs:
		for len(d.data) > 0 && !d.bad {
			order, id := d.num(), uint16(d.num())
			if e := s.entries[order]; e != nil {
				r.sent++
				e.id, e.sent = id, r.sent
			}
		}
	case recordChanges:
		for n := d.num(); n > 0 && !d.bad; n-- {
			delete(s.entries, d.num())
		}
		for n := d.num(); n > 0 && !d.bad; n-- {
			if e := s.entries[d.num()]; e != nil {
				e.released = true
			}
		}
		for n := d.num(); n > 0 && !d.bad; n-- {
			delete(s.received, uint16(d.num()))
		}
	default:
		d.bad = true
	}
}

// finish makes the sessions. Nothing runs yet.
func (r *restorer) finish() {
	b, now := r.b, time.Now()
	for _, st := range r.sessions {
		online := st.expires.IsZero()
		if online {
			st.expires = now.Add(time.Duration(st.expiry) * time.Second)
		}
		if !now.Before(st.expires) || st.expiry == 0 {
			continue
		}
		s := &session{
			id: st.key[strings.IndexByte(st.key, 0)+1:], user: st.user, stored: true, total: &b.queued, unreleased: &b.unreleased, filters: st.filters, received: st.received,
			expiry: st.expiry, expires: st.expires, order: st.order,
		}
		s.key = keyOf(s.user, s.id)
		if b.accounts != nil {
			rules, ok := b.accounts.Rules(s.user, s.id)
			if !ok {
				continue
			}
			s.rules.Store(&rules)
		}
		s.countReceived()
		b.sessions[s.key] = s
		for filter, sub := range st.filters {
			b.subs.set(filter, s, sub)
			s.weight += weight(filter)
			b.subs.weight.Add(int64(weight(filter)))
			if st.due[filter] {
				s.due = append(s.due, retainedDue{filter, sub.qos, sub.id, b.retained.turn})
			}
		}
		entries := make([]*entry, 0, len(st.entries))
		for _, e := range st.entries {
			entries = append(entries, e)
		}
		slices.SortFunc(entries, func(a, b *entry) int {
			return cmp.Or(cmp.Compare(a.sent, b.sent), cmp.Compare(a.order, b.order))
		})
		for _, e := range entries {
			switch {
			case e.message == nil && !e.released:
				r.bad++
			case e.id != 0:
				f := inflight{outgoing: e.outgoing, released: e.released}
				if e.released {
					f.message = nil
				}
				s.fly(e.id, f)
				if f.message != nil {
					s.total.Add(int64(f.size()))
				}
				s.lastID = max(s.lastID, e.id)
			default:
				e.dup = online && e.qos == 1
				s.push(e.outgoing)
			}
		}
		s.purge()
		b.expireLater(s)
	}
}
