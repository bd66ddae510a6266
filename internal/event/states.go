package event

import (
	"bytes"
	"maps"
	"slices"
	"sync"
)

// States keeps the newest State of each key. The zero value is not usable;
// call NewStates. It is safe for concurrent use.
type States struct {
	mu       sync.Mutex
	newest   map[string]stateVersion
	version  uint64
	watchers map[*StateWatch]struct{}
}

type stateVersion struct {
	State
	version uint64
}

// NewStates returns an empty table.
func NewStates() *States {
	return &States{newest: map[string]stateVersion{}, watchers: map[*StateWatch]struct{}{}}
}

// Report replaces the states kept under the given keys. A state that equals
// the one kept is not a change and wakes nobody.
func (s *States) Report(states ...State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	changed := false
	for _, st := range states {
		if old, ok := s.newest[st.Key]; ok && bytes.Equal(old.Payload, st.Payload) {
			continue
		}
		s.version++
		s.newest[st.Key] = stateVersion{State{st.Key, bytes.Clone(st.Payload)}, s.version}
		changed = true
	}
	if !changed {
		return
	}
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
// first, each with its newest value only.
func (w *StateWatch) Take() []State {
	w.states.mu.Lock()
	defer w.states.mu.Unlock()
	fresh := slices.Collect(maps.Values(w.states.newest))
	fresh = slices.DeleteFunc(fresh, func(v stateVersion) bool { return v.version <= w.seen })
	slices.SortFunc(fresh, func(a, b stateVersion) int { return int(a.version) - int(b.version) })
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
