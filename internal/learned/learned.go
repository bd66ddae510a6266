// Package learned keeps the names of the events that each source was seen to
// send, for sources that cannot know them before: a webhook takes whatever is
// posted to it. What describes such a source, such as discovery and the page,
// reads them here. Names are in memory; Kept has them outlive the program.
//
// The names come from outside, so all is bounded, and the first that come stay:
// were newer ones to replace them, whoever sends random names would make a
// write of each event.
package learned

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"event2mqtt/internal/event"
)

// Bounds. What is beyond them is not learned; its events pass all the same.
const (
	// MaxNames bounds the names of one source.
	MaxNames = 200
	// MaxName bounds a name that is learned, in bytes.
	MaxName = 128
	// DefaultMaxBytes bounds all names together, in bytes, unless Keep sets
	// another bound: each segment of the journal begins with all of them.
	DefaultMaxBytes = 256 << 10
	// overhead is about what a name takes there beside itself and its source.
	overhead = 24
)

// Name is the name of an event of a source.
type Name struct{ Source, Event string }

// Key is what a name is stored as: nothing else need be stored of it.
func (n Name) Key() string { return strconv.Itoa(len(n.Source)) + ":" + n.Source + n.Event }

// parse is the reverse of Key.
func parse(key string) (n Name, ok bool) {
	digits, rest, _ := strings.Cut(key, ":")
	length, err := strconv.Atoi(digits)
	if err != nil || length < 0 || length >= len(rest) || len(rest)-length > MaxName {
		return n, false
	}
	n = Name{rest[:length], rest[length:]}
	return n, n.Key() == key
}

// size is about what the name takes in the head of a segment, in bytes.
func (n Name) size() int { return len(n.Source) + len(n.Event) + overhead }

// Names are the names of the events of all sources. Call New. It is safe for
// concurrent use; asking for names that are known neither locks nor allocates.
type Names struct {
	// known are replaced, never changed, with mu held.
	known atomic.Pointer[map[string]names]
	room  atomic.Int64 // bytes that may yet be learned; set with mu held

	mu sync.Mutex // held while names change
}

// names are those of one source.
type names map[string]struct{}

// New returns names of which none is known.
func New() *Names {
	n := &Names{}
	n.known.Store(&map[string]names{})
	n.room.Store(DefaultMaxBytes)
	return n
}

// Of returns the known names of a source's events, sorted.
func (n *Names) Of(source string) []string {
	return slices.Sorted(maps.Keys((*n.known.Load())[source]))
}

// Sources returns the sources of which names are known, sorted.
func (n *Names) Sources() []string { return slices.Sorted(maps.Keys(*n.known.Load())) }

// Unknown returns what is to be learned of events that pass: the names that are
// not known yet and fit, each once. Nearly always that is none. Events without
// a name do not count. The caller stores the keys of what is returned, and then
// calls Learn.
func (n *Names) Unknown(events []event.Event) (fresh []Name) {
	known := *n.known.Load()
	for i := range events {
		e := &events[i]
		if e.Name == "" {
			continue
		}
		of := known[e.Source]
		if _, old := of[e.Name]; old || len(of)+len(fresh) >= MaxNames || len(e.Name) > MaxName {
			continue
		}
		name := Name{e.Source, e.Name}
		if int64(name.size()) <= n.room.Load() && !slices.Contains(fresh, name) {
			fresh = append(fresh, name)
		}
	}
	return fresh
}

// Learn takes names whose keys are stored, and returns those for which there
// is no room, whose keys are of no use.
func (n *Names) Learn(fresh ...Name) (surplus []Name) {
	n.mu.Lock()
	defer n.mu.Unlock()
	known, room := maps.Clone(*n.known.Load()), int(n.room.Load())
	copied := map[string]bool{} // sources whose names may be changed here
	for _, name := range fresh {
		of := known[name.Source]
		if _, old := of[name.Event]; old {
			continue
		}
		if len(of) >= MaxNames || len(name.Event) > MaxName || name.size() > room {
			surplus = append(surplus, name)
			continue
		}
		if !copied[name.Source] {
			copied[name.Source] = true
			if of = maps.Clone(of); of == nil {
				of = names{}
			}
			known[strings.Clone(name.Source)] = of
		}
		of[strings.Clone(name.Event)] = struct{}{} // it may be part of a long text
		room -= name.size()
	}
	if len(copied) > 0 {
		n.replace(known, room)
	}
	return surplus
}

// replace puts other names in place of the known ones. mu is held.
func (n *Names) replace(known map[string]names, room int) {
	n.known.Store(&known)
	n.room.Store(int64(room))
}

// Restore learns what was stored, and returns the keys that are of no use.
func (n *Names) Restore(keys []string) (useless []string) {
	var fresh []Name
	for _, key := range keys {
		if name, ok := parse(key); ok {
			fresh = append(fresh, name)
		} else {
			useless = append(useless, key)
		}
	}
	for _, name := range n.Learn(fresh...) {
		useless = append(useless, name.Key())
	}
	return useless
}

// Keep forgets the names of all sources but the given ones, and as many more as
// exceed maxBytes, which also bounds what is learned from now on, if it is less
// than DefaultMaxBytes. It returns what is forgotten, whose keys are of no use.
func (n *Names) Keep(sources []string, maxBytes int) (forgotten []Name) {
	n.mu.Lock()
	defer n.mu.Unlock()
	before, known, room := *n.known.Load(), map[string]names{}, min(maxBytes, DefaultMaxBytes)
	for _, source := range slices.Sorted(maps.Keys(before)) {
		wanted, keep := slices.Contains(sources, source), names{}
		for _, e := range slices.Sorted(maps.Keys(before[source])) {
			name := Name{source, e}
			if !wanted || name.size() > room {
				forgotten = append(forgotten, name)
				continue
			}
			room -= name.size()
			keep[e] = struct{}{}
		}
		if len(keep) > 0 {
			known[source] = keep
		}
	}
	n.room.Store(int64(room))
	if len(forgotten) > 0 {
		n.replace(known, room)
	}
	return forgotten
}
