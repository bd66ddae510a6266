package event

import (
	"bytes"
	"cmp"
	"maps"
	"slices"
	"sync"
)

// States keeps the newest State of each key of each source. The zero value is
// not usable; call NewStates. It is safe for concurrent use. A table has some
// hundred states: each Take looks at all of them.
type States struct {
	mu       sync.Mutex
	newest   map[stateKey]stateVersion
	version  uint64
	watchers map[*StateWatch]struct{}
}

type stateKey struct{ source, key string }

type stateVersion struct {
	State
	version uint64
}

// NewStates returns an empty table.
func NewStates() *States {
	return &States{newest: map[stateKey]stateVersion{}, watchers: map[*StateWatch]struct{}{}}
}

// Report replaces the states kept under the given keys of a source; Source of
// each is set. A state that equals the one kept is not a change and wakes nobody.
func (s *States) Report(source string, states ...State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	changed := false
	for _, st := range states {
		st.Source = source
		at := stateKey{source, st.Key}
		if old, ok := s.newest[at]; ok && bytes.Equal(old.Payload, st.Payload) && old.Topic == st.Topic {
			continue
		}
		st.Payload = bytes.Clone(st.Payload)
		s.put(at, st)
		changed = true
	}
	if changed {
		s.wake()
	}
}

// Remove takes back states of a source: those of the given keys, or all if there
// are none. Each watcher gets them once more, with an empty payload.
func (s *States) Remove(source string, keys ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	changed := false
	for at, old := range s.newest {
		if at.source != source || len(old.Payload) == 0 || len(keys) > 0 && !slices.Contains(keys, at.key) {
			continue
		}
		old.Payload = nil
		s.put(at, old.State)
		changed = true
	}
	if changed {
		s.wake()
	}
}

// put replaces a state. mu is held.
func (s *States) put(at stateKey, st State) {
	s.version++
	s.newest[at] = stateVersion{st, s.version}
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

// Watch returns a reader of the table that has seen nothing yet. Close it.
func (s *States) Watch() *StateWatch {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := &StateWatch{states: s, changed: make(chan struct{}, 1)}
	w.changed <- struct{}{}
	s.watchers[w] = struct{}{}
	return w
}

// StateWatch reads changes of a States table. It has one user at a time.
type StateWatch struct {
	states  *States
	changed chan struct{}
	seen    uint64
}

// Changed receives when Take may have something to return.
func (w *StateWatch) Changed() <-chan struct{} { return w.changed }

// Take returns the states that changed since the last Take, oldest change
// first, each with its newest value only. Those that were removed have an
// empty payload.
func (w *StateWatch) Take() []State {
	w.states.mu.Lock()
	defer w.states.mu.Unlock()
	fresh := slices.Collect(maps.Values(w.states.newest))
	fresh = slices.DeleteFunc(fresh, func(v stateVersion) bool { return v.version <= w.seen })
	slices.SortFunc(fresh, func(a, b stateVersion) int { return cmp.Compare(a.version, b.version) })
	w.seen = w.states.version
	out := make([]State, len(fresh))
	for i, v := range fresh {
		out[i] = v.State
	}
	return out
}

// Rewind makes the next Take return every state, as is due after a connect.
func (w *StateWatch) Rewind() {
	w.seen = 0
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// Close ends the watch.
func (w *StateWatch) Close() {
	w.states.mu.Lock()
	defer w.states.mu.Unlock()
	delete(w.states.watchers, w)
}
