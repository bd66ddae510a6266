package mqtt

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"event2mqtt/internal/event"
	"event2mqtt/internal/retry"
	"event2mqtt/internal/topic"
)

// This file decides what is to be published of states: how a broker comes to
// keep exactly those that are live. What it keeps is in the ledger, what is
// live in event.States; the outbox of a session compares the two.

// outbox is what one connection has to publish of states. mu guards what is
// below it, and the sink's refused states; the file is written with it held.
type outbox struct {
	sink  *Sink
	watch *event.StateWatch
	turns *turns

	mu     sync.Mutex
	shelf  *shelf
	want   map[string]event.LiveState // what the broker is to keep, by topic
	sent   map[string]sentState       // by topic
	had    map[string]uint64          // version of the state that the broker has acknowledged, by topic
	never  map[string]uint64          // version of the state that is not to be published, by topic
	queue  []string                   // topics that may be due, oldest change first
	queued map[string]struct{}
	again  time.Time        // when to refresh although nothing has changed; zero is never
	repeat time.Time        // when to publish all once more; zero is never
	gone   map[string]owner // what was cleared before repeat
	fresh  int              // bytes of what a refresh is about to list
	names  map[owned]named
	// namedBy is what names were made with.
	namedBy *publishing

	woken chan struct{} // cap 1: again is another, which who publishes may not know

	// Of the goroutine that publishes:
	born    bool      // the birth was published
	changed bool      // something is newer than the last refresh
	rest    time.Time // no refresh before
	hurry   bool      // the sink ends: what is due is sent at once, and nothing is looked at again
}

// sentState is what was last published to a topic on this connection.
type sentState struct {
	version uint64 // of the state; 0 if it was cleared
	at      time.Time
}

// stateMessage is a state as it is published, or the end of one, which has an
// empty payload.
type stateMessage struct {
	message
	owner
	version uint64 // of the state; 0 is its end
}

func (s *Sink) newOutbox(watch *event.StateWatch) *outbox {
	o := &outbox{sink: s, watch: watch, turns: newTurns(), shelf: s.ledger.at(s.brokerID()), sent: map[string]sentState{}, had: map[string]uint64{}, queued: map[string]struct{}{}, names: map[owned]named{}, woken: make(chan struct{}, 1)}
	if len(s.brokers) > 0 && !s.opt.Config.neverRetains() {
		o.repeat, o.gone = time.Now().Add(s.opt.Repeat), map[string]owner{}
	}
	select { // seen by the refresh below
	case <-watch.Changed():
	default:
	}
	o.refresh()
	s.outbox.Store(o)
	return o
}

// Has implements sinks.Retainer.
func (s *Sink) Has(source string) bool {
	o := s.outbox.Load()
	return o != nil && o.has(source)
}

func (o *outbox) has(source string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	p := o.sink.publish.Load()
	if p != o.namedBy {
		return false // a refresh is due
	}
	names := map[string]bool{}
	for _, st := range o.live() {
		if st.Source != source {
			continue
		}
		name, err := o.name(p, &st.State)
		if err != nil || o.never[name] == st.Version {
			continue // it is not published
		}
		names[name] = true
		if _, refused := o.sink.states[name]; !refused && o.had[name] != st.Version {
			return false
		}
	}
	for name, who := range o.shelf.Topics {
		if who.Source == source && !names[name] && !o.sink.opt.Config.neverRetains() {
			return false
		}
	}
	return true
}

// brokerID names the broker in the ledger.
func (s *Sink) brokerID() string {
	if len(s.brokers) == 0 {
		return "bundled"
	}
	return brokerID(s.brokers[s.next])
}

// live are the states that the sink is to publish.
func (o *outbox) live() []event.LiveState {
	all := o.watch.Live()
	if o.sink.opt.beside == nil {
		return all
	}
	return slices.DeleteFunc(all, func(st event.LiveState) bool { return !o.sink.opt.takes(&st.State) })
}

// refresh looks at all states again, and returns how long that took without the
// file.
func (o *outbox) refresh() (took time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	began := time.Now()
	s, p := o.sink, o.sink.publish.Load()
	if p != o.namedBy {
		o.namedBy = p
		clear(o.names)
	}
	live := o.live()
	if len(o.names) > 2*len(live) {
		clear(o.names)
	}
	o.want, o.never = make(map[string]event.LiveState, len(live)), map[string]uint64{}
	fresh := map[string]owner{} // what is not listed yet, or as that of another
	o.fresh = 0
	for _, st := range live {
		name, err := o.name(p, &st.State)
		if err == nil {
			err = o.claim(name, &st, fresh)
		}
		if err != nil {
			s.unfit(&st.State, name, err)
			o.never[name] = st.Version
		}
	}
	if w := s.opt.Config.Will; w.Enabled && w.Retain && s.willTopic != "" {
		if _, taken := o.want[s.willTopic]; !taken && o.shelf.Topics[s.willTopic] != willOwner {
			fresh[s.willTopic] = willOwner
		}
	}
	if s.opt.Config.neverRetains() {
		clear(fresh) // nothing of it stays at the broker
	}
	o.again = time.Time{}
	writing := time.Now()
	err := o.shelf.add(fresh)
	began = began.Add(time.Since(writing))
	if err != nil {
		for name := range fresh {
			delete(o.want, name) // not before it can be kept
		}
		o.again = time.Now().Add(s.notListed(err))
	} else {
		s.listing.Reset()
	}
	for _, st := range live {
		if name, err := o.name(p, &st.State); err == nil && o.want[name].Version == st.Version && o.sent[name].version != st.Version {
			o.enqueue(name)
		}
	}
	for name, who := range o.shelf.Topics {
		if s.opt.Config.neverRetains() {
			break // what is left of before would have to be cleared by a retained message
		}
		if _, wanted := o.want[name]; !wanted && !o.keeps(p, name, who) && !o.cleared(name) {
			o.enqueue(name)
		}
	}
	return time.Since(began)
}

// repeatAll has all that was published on this connection published once more,
// and what was cleared cleared: some brokers acknowledge retained messages that
// they have not kept, such as a cluster that has just changed its leader (NATS).
// What is recorded of acknowledgements stays.
func (o *outbox) repeatAll() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.repeat = time.Time{}
	o.born = false
	for name := range o.want {
		delete(o.sent, name)
		o.enqueue(name)
	}
	for name := range o.gone {
		delete(o.sent, name)
		o.enqueue(name)
	}
}

// name is stateTopic, which is asked often. mu is held.
func (o *outbox) name(p *publishing, st *event.State) (string, error) {
	at := owned{st.Source, st.Key, st.Topic, st.Presence}
	known, ok := o.names[at]
	if !ok {
		known.name, known.err = o.sink.stateTopic(p, st)
		o.names[at] = known
	}
	return known.name, known.err
}

// owned is all of a state that its topic is made of.
type owned struct {
	source, key, topic string
	presence           bool
}

type named struct {
	name string
	err  error
}

// willOwner is whose the topic of the will is.
var willOwner = owner{Source: event.OwnSource, Key: "will", Own: true}

// claim notes that a state is to be kept under a topic. Of two states with one
// topic, the one that had it first keeps it. mu is held.
func (o *outbox) claim(name string, st *event.LiveState, fresh map[string]owner) error {
	who := owner{st.Source, st.Key, st.Topic != ""}
	listed, there := o.shelf.Topics[name]
	if other, taken := o.want[name]; taken {
		if !there || listed.Source != st.Source || listed.Key != st.Key {
			return fmt.Errorf("the state %s of source %s has this topic already", other.Key, other.Source)
		}
		o.sink.unfit(&other.State, name, fmt.Errorf("the state %s of source %s has this topic already", st.Key, st.Source))
	}
	if !there && !o.shelf.fits(name, who, len(fresh), o.fresh) {
		return fmt.Errorf("the broker keeps too many states of event2mqtt already: %d", len(o.shelf.Topics))
	}
	if fresh[name] = who; listed == who {
		delete(fresh, name)
	} else if !there {
		o.fresh += who.size(name)
	}
	o.want[name] = *st
	return nil
}

// keeps reports whether a topic is left alone although no state that is live
// has it. mu is held.
func (o *outbox) keeps(p *publishing, name string, who owner) bool {
	w := o.sink.opt.Config.Will
	if w.Enabled && w.Retain && name == o.sink.willTopic {
		return true
	}
	if who == willOwner || !o.sink.opt.takes(&event.State{Source: who.Source}) || !o.watch.Awaits(who.Source, who.Key) {
		return false
	}
	if who.Own {
		return true
	}
	now, err := o.sink.stateTopic(p, &event.State{Source: who.Source, Key: who.Key})
	return err == nil && now == name // else the template or the base was another
}

// cleared reports whether a topic was cleared on this connection. mu is held.
func (o *outbox) cleared(name string) bool {
	sent, there := o.sent[name]
	return there && sent.version == 0
}

// enqueue notes that a topic may be due. mu is held.
func (o *outbox) enqueue(name string) {
	if _, there := o.queued[name]; !there {
		o.queued[name] = struct{}{}
		o.queue = append(o.queue, name)
	}
}

// next returns what is to be published now, or else how long there is nothing
// to do unless something changes; 0 is for ever. With hurry, no state waits for
// its interval.
func (o *outbox) next(now time.Time, hurry bool) (m *stateMessage, wait time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	p := o.sink.publish.Load()
	later := func(at time.Time) {
		if d := max(at.Sub(now), 1); wait == 0 || d < wait {
			wait = d
		}
	}
	if !o.again.IsZero() {
		later(o.again)
	}
	if !o.repeat.IsZero() {
		later(o.repeat)
	}
	rest := o.queue[:0]
	for i, name := range o.queue {
		m, at := o.due(p, name, now, hurry)
		if m != nil {
			delete(o.queued, name)
			o.queue = append(rest, o.queue[i+1:]...)
			return m, 0
		}
		if at.IsZero() {
			delete(o.queued, name)
			continue
		}
		later(at)
		rest = append(rest, name)
	}
	o.queue = rest
	return nil, wait
}

// due returns what is to be published to a topic now, or else when that is to
// be looked at again; zero is when something changes. mu is held.
func (o *outbox) due(p *publishing, name string, now time.Time, hurry bool) (*stateMessage, time.Time) {
	st, wanted := o.want[name]
	sent, before := o.sent[name]
	m := stateMessage{message{name, byte(p.QoS), true, st.Payload, wanted, nil}, owner{st.Source, st.Key, st.Topic != ""}, st.Version}
	switch {
	case wanted && sent.version == st.Version:
		return nil, time.Time{}
	case !wanted:
		who, listed := o.shelf.Topics[name]
		if !listed {
			who, listed = o.gone[name]
		}
		if !listed || o.cleared(name) || o.keeps(p, name, who) {
			return nil, time.Time{}
		}
		m.owner = who
	}
	own := m.Source == event.OwnSource // which changes when somebody does something, and waits for the answer
	if m.Source == event.DiscoverySource {
		own, m.qos = true, max(m.qos, 1)
	}
	o.sink.opt.Config.cap(&m.message)
	if at := sent.at.Add(p.StateInterval); before && !hurry && !own && at.After(now) {
		return nil, at
	}
	if wait, refused := o.sink.states.wait(&m.message); refused {
		if wait > 0 && !hurry {
			return nil, now.Add(wait)
		}
		return nil, time.Time{}
	}
	o.sent[name] = sentState{st.Version, now} // of none, it is 0
	return &m, time.Time{}
}

// taken notes that the broker has taken a message; certain is false if nobody
// has acknowledged it.
func (o *outbox) taken(m *stateMessage, certain bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if certain {
		o.sink.states.taken(m.topic)
		o.had[m.topic] = m.version
	}
	if _, wanted := o.want[m.topic]; len(m.payload) == 0 && !wanted {
		o.shelf.forget(m.topic)
		delete(o.gone, m.topic)
		if !o.repeat.IsZero() && len(o.gone) < maxTopics {
			o.gone[m.topic] = m.owner
		}
		delete(o.sent, m.topic)
		delete(o.had, m.topic)
	}
}

// clearAgain is the pause until a topic that could not be cleared is tried again.
const clearAgain = time.Second

// notCleared notes that a topic has to be cleared once more: the ledger forgets
// only what is gone for good.
func (o *outbox) notCleared(m *stateMessage) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.sent, m.topic)
	if at := time.Now().Add(clearAgain); o.again.IsZero() || at.Before(o.again) {
		o.again = at
	}
	select {
	case o.woken <- struct{}{}:
	default:
	}
}

// refuse notes that the broker never takes a message, and says so once.
func (o *outbox) refuse(m *stateMessage, reason string) {
	o.mu.Lock()
	first := o.sink.states.refuse(&m.message)
	o.mu.Unlock()
	level := o.sink.opt.Log.Debug()
	if first {
		level = o.sink.opt.Log.Error()
	}
	level.Str("source", m.Source).Str("state", shorten(m.Key)).Int("bytes", len(m.payload)).Str("topic", shorten(m.topic)).Uint8("qos", m.qos).Str("reason", reason).
		Msg("mqtt: this state cannot be published and is skipped; it is tried again when it changes")
}

// tidy brings the ledger's file up to date.
func (o *outbox) tidy() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.shelf.tidy()
}

// stateTopic returns where a state goes.
func (s *Sink) stateTopic(p *publishing, st *event.State) (name string, err error) {
	switch {
	case st.Source == event.OwnSource:
		return p.BaseTopic + "/" + topic.SafePath(event.OwnSource+"/"+st.Key), nil
	case st.Key == event.KeyAvailable:
		return p.BaseTopic + "/" + topic.Safe(st.Source) + "/" + event.KeyAvailable, nil
	case st.Topic != "":
		name, err = st.Topic, topic.Check(st.Topic)
	default:
		name, err = p.stateTemplate.Render(topic.Values{Source: st.Source, Key: st.Key})
	}
	if err == nil && s.reserved(p.BaseTopic, name, event.OwnLevels...) && !s.speaksForWill(st) {
		err = errOwnTopic
	}
	return name, err
}

// speaksForWill reports whether a state may have the topic of the will.
func (s *Sink) speaksForWill(st *event.State) bool {
	return st.Presence && st.Topic != "" && st.Topic == s.willTopic
}

// birth is what is said on connecting on the topic of the will: that this
// program is there, unless a state has that topic, which says more.
func (o *outbox) birth() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if st, ok := o.want[o.sink.willTopic]; ok {
		return string(st.Payload)
	}
	return o.sink.opt.Config.Will.Online
}

var errOwnTopic = errors.New("this topic is the program's own")

// reserved reports whether a topic is one that no source may write to: that of
// the will, or one of event.OwnPlace.
func (s *Sink) reserved(base, name string, below ...string) bool {
	return name == s.willTopic || event.OwnPlace(base, name, below...) != ""
}

// unfit says once that a state has no topic of its own.
func (s *Sink) unfit(st *event.State, name string, err error) {
	key := st.Source + "\x00" + st.Key
	if s.unfitTold[key] == err.Error() {
		return
	}
	if len(s.unfitTold) >= maxTold {
		clear(s.unfitTold)
	}
	s.unfitTold[key] = err.Error()
	s.opt.Log.Error().Str("source", st.Source).Str("state", shorten(st.Key)).Str("topic", shorten(name)).Err(err).
		Msgf("mqtt: this state is not published; change its topic, %sstate_topic or the name of its source", s.keys().publish)
}

// maxTold bounds what is remembered of what was said.
const maxTold = 1000

// notListed says once that states of new topics have to wait, and returns for
// how long.
func (s *Sink) notListed(err error) time.Duration {
	pause, fresh := s.listing.Next(err, 0)
	if fresh {
		s.opt.Log.Error().Err(err).Msg("mqtt: states with new topics are not published until their topics can be kept in the state folder; see to it that it has room and can be written to")
	}
	return pause
}

// refusedStates are the states that the broker does not take, by topic. Each is
// tried again when it changes, but not as often as it may change: every try
// costs connections. The outbox guards it.
type refusedStates map[string]*refusedState

type refusedState struct {
	sum   [sha256.Size]byte // of the payload
	size  int
	loop  retry.Loop
	until time.Time // no other payload is tried before, unless it is smaller
}

// Bounds of the pause until a state that was refused is tried with another
// payload; it doubles each time.
const (
	minRetry = 2 * time.Minute // half of it is random
	maxRetry = time.Hour
)

// wait reports whether a state is not to be sent now, and how long it must
// wait; 0 is until it changes.
func (r refusedStates) wait(m *message) (d time.Duration, refused bool) {
	old, ok := r[m.topic]
	switch {
	case !ok:
		return 0, false
	case old.sum == sha256.Sum256(m.payload):
		return 0, true
	case len(m.payload) < old.size:
		return 0, false
	}
	d = time.Until(old.until)
	return max(d, 0), d > 0
}

// refuse notes that a state is not taken, and reports whether that is new.
func (r refusedStates) refuse(m *message) (first bool) {
	old, known := r[m.topic]
	if !known {
		if len(r) >= maxTopics {
			clear(r)
		}
		old = &refusedState{loop: retry.Loop{Min: minRetry, Max: maxRetry}}
		r[m.topic] = old
	}
	pause, _ := old.loop.Next(nil, 0)
	old.sum, old.size, old.until = sha256.Sum256(m.payload), len(m.payload), time.Now().Add(pause)
	return !known
}

// taken forgets a state.
func (r refusedStates) taken(topic string) { delete(r, topic) }
