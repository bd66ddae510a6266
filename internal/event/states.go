package event

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// Bounds of the states of one source. What is more is a source that makes up
// keys, each of which a broker would keep for ever.
const (
	MaxStates   = 1000
	MaxStateKey = 512 // bytes
)

// KeyAvailable is the state that tells whether a source's thing is there. It
// is the supervisor's: no source reports it, and only RemoveSource removes it.
const KeyAvailable = "available"

// OwnSource is the source of the program's own states.
const OwnSource = "bridge"

// DiscoverySource is the source of what consumers are told of devices. No
// configured source has this name. What it reports is published before all
// else, and with QoS 1 at least.
const DiscoverySource = "bridge/discovery"

// OwnLevels are the levels below the base topic that are the program's own, so
// that no source has their names.
var OwnLevels = []string{EventLevel, "mqtt", OwnSource}

// reservedKeys are the first levels of keys below which there is something
// other than a source's states.
var reservedKeys = []string{KeyAvailable, "set", "result"}

// ReservedLevel reports whether what is below {base}/SOURCE/LEVEL is not a
// source's.
func ReservedLevel(level string) bool { return slices.Contains(reservedKeys, level) }

// CheckStateKey tells whether a source may report a state under a key.
func CheckStateKey(key string) error {
	first, _, _ := strings.Cut(key, "/")
	switch {
	case key == "":
		return fmt.Errorf("the key of a state is empty")
	case len(key) > MaxStateKey:
		return fmt.Errorf("the key of a state has %d bytes; at most %d are allowed", len(key), MaxStateKey)
	case slices.Contains(reservedKeys, strings.ToLower(first)):
		return fmt.Errorf("the key %q of a state is reserved: %s are the program's own below each source", key, strings.Join(reservedKeys, ", "))
	}
	return nil
}

// States keeps the newest State of each key of each source. What is removed
// leaves nothing behind here: whoever has copies of states, such as a broker,
// compares what it has with Live and Awaits. The zero value is not usable; call
// NewStates. It is safe for concurrent use.
type States struct {
	mu       sync.Mutex
	sources  map[string]*sourceStates
	clock    uint64 // grows with each call that changes or confirms something
	watchers map[*StateWatch]struct{}
}

// sourceStates are the states of one source.
type sourceStates struct {
	newest map[string]stateEntry // by key
	// awaited is set from Expect to Settle. What was last reported before since
	// is then removed, and copies of states that are not live are kept until
	// then, but those of the keys that were taken back.
	awaited bool
	since   uint64
	back    map[string]struct{}
	// reported is when the source has reported something last.
	reported time.Time
	// held are keys whose copies are kept also after Settle.
	held map[string]struct{}
}

type stateEntry struct {
	State
	changed   uint64 // the clock when it got its value
	confirmed uint64 // the clock when it was reported last
	since     time.Time
}

// NewStates returns an empty table.
func NewStates() *States {
	return &States{sources: map[string]*sourceStates{}, watchers: map[*StateWatch]struct{}{}}
}

// of returns the states of a source. mu is held.
func (s *States) of(source string) *sourceStates {
	have := s.sources[source]
	if have == nil {
		have = &sourceStates{newest: map[string]stateEntry{}}
		s.sources[source] = have
	}
	return have
}

// Report replaces the states kept under the given keys of a source; Source of
// each is set. A state that equals the one kept is not a change and wakes
// nobody, and one with an empty payload is removed. The error is for states with
// new keys beyond MaxStates: they are not kept, the others are.
func (s *States) Report(source string, states ...State) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clock++
	have, changed, refused, now := s.of(source), false, 0, time.Now()
	have.reported = now
	for _, st := range states {
		st.Source = source
		old, known := have.newest[st.Key]
		if len(st.Payload) == 0 {
			have.remove(st.Key)
			changed = true
			continue
		}
		if !known && st.Key != KeyAvailable && len(have.newest) >= MaxStates {
			refused++
			continue
		}
		delete(have.back, st.Key)
		if known && bytes.Equal(old.Payload, st.Payload) && old.Topic == st.Topic {
			old.confirmed = s.clock
			have.newest[st.Key] = old
			continue
		}
		st.Payload = bytes.Clone(st.Payload)
		have.newest[st.Key] = stateEntry{st, s.clock, s.clock, now}
		changed = true
	}
	if changed {
		s.wake()
	}
	if refused > 0 {
		return fmt.Errorf("the source has %d states, which is the most that is allowed; new ones are not published", MaxStates)
	}
	return nil
}

// Known is a state with when it got its value.
type Known struct {
	State
	Since time.Time
}

// Of returns the states of a source by their keys, and when it has reported
// something last. Payloads are not to be changed.
func (s *States) Of(source string) (all map[string]Known, reported time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	have := s.sources[source]
	if have == nil {
		return nil, time.Time{}
	}
	all = make(map[string]Known, len(have.newest))
	for key, st := range have.newest {
		all[key] = Known{st.State, st.since}
	}
	return all, have.reported
}

// Remove takes back states of a source: those of the given keys, or all but
// KeyAvailable if there are none.
func (s *States) Remove(source string, keys ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	have := s.of(source)
	if len(keys) == 0 {
		for key := range have.newest {
			if key != KeyAvailable {
				delete(have.newest, key)
			}
		}
		have.settle()
	}
	for _, key := range keys {
		have.remove(key)
	}
	s.wake()
}

// remove takes back the state of a key.
func (have *sourceStates) remove(key string) {
	delete(have.newest, key)
	if !have.awaited {
		return
	}
	if have.back == nil {
		have.back = map[string]struct{}{}
	}
	if have.back[key] = struct{}{}; len(have.back) > MaxStates {
		have.settle() // it makes up keys
	}
}

// RemoveSource takes back all that is known of a source, which is no more.
func (s *States) RemoveSource(source string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sources, source)
	s.wake()
}

// Mark returns a moment for Expect.
func (s *States) Mark() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clock++
	return s.clock
}

// Expect says that a source has begun at a moment, and reports its states from
// then on. Those from before are kept for now: they may come again.
func (s *States) Expect(source string, since uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	have := s.of(source)
	have.awaited, have.since = true, since
}

// Settle says that a source has had its time since Expect: what it has not
// reported in it is removed.
func (s *States) Settle(source string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	have := s.sources[source]
	if have == nil || !have.awaited {
		return
	}
	for key, st := range have.newest {
		if _, held := have.held[key]; st.confirmed < have.since && key != KeyAvailable && !held {
			delete(have.newest, key)
		}
	}
	have.settle()
	s.wake()
}

// Hold says which states of a source change only when something happens, such as
// those that are made of events: what a copy says of them holds until they are
// reported, however long that takes.
func (s *States) Hold(source string, keys ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	have := s.of(source)
	have.held = map[string]struct{}{}
	for _, key := range keys {
		have.held[key] = struct{}{}
	}
	s.wake()
}

// Again has all states published once more, as they are.
func (s *States) Again() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clock++
	for _, have := range s.sources {
		for key, st := range have.newest {
			st.changed = s.clock
			have.newest[key] = st
		}
	}
	s.wake()
}

func (have *sourceStates) settle() { have.awaited, have.back = false, nil }

// Counts returns how many states each source keeps.
func (s *States) Counts() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	counts := map[string]int{}
	for source, have := range s.sources {
		if n := len(have.newest); n > 0 {
			counts[source] = n
		}
	}
	return counts
}

// wake tells all watchers. mu is held.
func (s *States) wake() {
	for w := range s.watchers {
		select {
		case w.changed <- struct{}{}:
		default:
		}
	}
}

// Watch returns a reader of the table. Close it.
func (s *States) Watch() *StateWatch {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := &StateWatch{states: s, changed: make(chan struct{}, 1)}
	w.changed <- struct{}{}
	s.watchers[w] = struct{}{}
	return w
}

// StateWatch reads a States table.
type StateWatch struct {
	states  *States
	changed chan struct{} // cap 1
}

// Changed receives when there is something new since it last did, and once at
// the beginning.
func (w *StateWatch) Changed() <-chan struct{} { return w.changed }

// LiveState is a state that is true now.
type LiveState struct {
	State
	// Version is another, and larger, whenever the state has another value.
	Version uint64
}

// rank is the order of states: what says that there is something comes before
// what says that it is there, and that before its values.
func (st *State) rank() int {
	switch {
	case st.Source == DiscoverySource:
		return 0
	case st.Key == KeyAvailable:
		return 1
	}
	return 2
}

// Live returns all states: those of DiscoverySource, then whether things are
// there, then the others, each in the order in which they have got their values.
// Their payloads are not to be changed.
func (w *StateWatch) Live() []LiveState {
	w.states.mu.Lock()
	n := 0
	for _, have := range w.states.sources {
		n += len(have.newest)
	}
	all := make([]LiveState, 0, n)
	for _, have := range w.states.sources {
		for _, st := range have.newest {
			all = append(all, LiveState{st.State, st.changed})
		}
	}
	w.states.mu.Unlock()
	slices.SortFunc(all, func(a, b LiveState) int {
		if byRank := cmp.Compare(a.rank(), b.rank()); byRank != 0 {
			return byRank
		}
		if a.Version != b.Version {
			return cmp.Compare(a.Version, b.Version)
		}
		return cmp.Or(strings.Compare(a.Source, b.Source), strings.Compare(a.Key, b.Key))
	})
	return all
}

// Awaits reports whether a state that is not live may come yet, so that copies
// of an earlier value are to be kept.
func (w *StateWatch) Awaits(source, key string) bool {
	w.states.mu.Lock()
	defer w.states.mu.Unlock()
	have := w.states.sources[source]
	if have == nil {
		return false
	}
	_, back := have.back[key]
	if _, held := have.held[key]; held {
		return true
	}
	if !have.awaited {
		return false
	}
	return !back
}

// Close ends the watch.
func (w *StateWatch) Close() {
	w.states.mu.Lock()
	defer w.states.mu.Unlock()
	delete(w.states.watchers, w)
}
