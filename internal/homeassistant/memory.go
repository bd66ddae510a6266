package homeassistant

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"event2mqtt/internal/device"
)

// Home Assistant remembers what it was told of, and forgets an entity only if
// it is told so in two steps: first its component has nothing but its platform,
// then it is left out. Left out at once, it stays for ever. The same holds while
// Home Assistant is not there: then nobody hears the first step. So Memory keeps
// what was announced, and what was taken back until it is certain that Home
// Assistant has heard it; until then it is announced once more whenever that
// comes, and taken back again.

// Memory is what was announced. It is not safe for concurrent use.
type Memory struct {
	// Shown are the devices that are announced, by id.
	Shown map[string]*Shown `json:"shown"`
	// Gone are whole devices that were taken back, by id, until that was heard.
	Gone map[string]*Shown `json:"gone,omitempty"`
}

// Shown is what is announced of one device.
type Shown struct {
	// Source is the name of the source that watches it.
	Source string `json:"source"`
	Thing  string `json:"thing"` // as in Message
	// Device is what the source has last described, and Topics where those of its states
	// are that have a topic of their own, by key.
	Device *device.Device    `json:"device,omitempty"`
	Topics map[string]string `json:"topics,omitempty"`
	// From is the topic that the device moves away from, "" if it does not move.
	From string `json:"from,omitempty"`
	// Topic, Head and Components are those of the newest message. A component
	// of which nothing but the platform is left is being taken away. Without a
	// topic nothing is announced: the device moves.
	Topic      string                     `json:"topic,omitempty"`
	Head       json.RawMessage            `json:"head,omitempty"`
	Components map[string]json.RawMessage `json:"components,omitempty"`
	// Unheard are components that were taken back, until that was heard, under
	// keys of their own: others may have taken theirs.
	Unheard map[string]json.RawMessage `json:"unheard,omitempty"`
}

// maxUnheard bounds what is kept of devices, and of components of one device,
// that are gone.
const maxUnheard = 200

// NewMemory returns one that knows nothing.
func NewMemory() *Memory { return &Memory{Shown: map[string]*Shown{}, Gone: map[string]*Shown{}} }

// message is what is announced of a device.
func (s *Shown) message() *Message {
	return &Message{Source: s.Source, Thing: s.Thing, Device: s.Device, Topics: s.Topics, Topic: s.Topic, Head: s.Head, Components: s.Components}
}

// HasUnheard reports whether anything was taken back of which Home Assistant may
// not have heard.
func (m *Memory) HasUnheard() bool {
	for _, s := range m.Shown {
		if len(s.Unheard) > 0 {
			return true
		}
	}
	return len(m.Gone) > 0
}

// Heard forgets what was taken back: Home Assistant has heard it, all of it, from
// the first step on.
func (m *Memory) Heard() {
	clear(m.Gone)
	for _, s := range m.Shown {
		s.Unheard = nil
	}
}

// WithUnheard adds to messages that are wanted, by device, what was taken back
// unheard, so that the rounds after the next take it back once more. topic is
// where a device is announced.
func (m *Memory) WithUnheard(wanted map[string]Message, topic func(id string) string) map[string]Message {
	wanted = maps.Clone(wanted)
	for id, s := range m.Shown {
		w, ok := wanted[id]
		if !ok || len(s.Unheard) == 0 {
			continue
		}
		s.dropPresent(w.Components)
		w.Components = merge(s.Unheard, w.Components)
		wanted[id] = w
	}
	for id, s := range m.Gone {
		if _, there := wanted[id]; !there {
			w := *s.message()
			w.Topic = topic(id)
			wanted[id] = w
		}
	}
	return wanted
}

// Published is a message as it is published.
type Published struct {
	Topic   string
	Payload []byte
}

// Clone returns a copy that Round, Heard and WithUnheard do not change.
func (m *Memory) Clone() *Memory {
	c := NewMemory()
	for _, of := range []struct{ from, to map[string]*Shown }{{m.Shown, c.Shown}, {m.Gone, c.Gone}} {
		for id, s := range of.from {
			s := *s // what it points to is replaced, never changed
			of.to[id] = &s
		}
	}
	return c
}

// Round takes one step from what is announced to what is wanted, by device, and
// returns the messages that are to be at the broker from now on, by device; all
// others are to be emptied. more says that another step has to follow, once the
// broker has all of this one, and Home Assistant has had a moment for it.
func (m *Memory) Round(wanted map[string]Message) (messages map[string]Published, more bool) {
	messages = map[string]Published{}
	for id, s := range m.Shown {
		if _, ok := wanted[id]; !ok {
			m.remove(id, s)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(wanted)) {
		w := wanted[id]
		s := m.Shown[id]
		if s == nil {
			s = m.add(id, &w)
		}
		if s.Topic != "" && s.Topic != w.Topic {
			// Two messages with one entity are an error for Home Assistant, which
			// then ignores the second.
			s.From, s.Topic, more = s.Topic, "", true
			continue
		}
		s.Source, s.Thing, s.Device, s.Topics = w.Source, w.Thing, w.Device, w.Topics
		s.From, s.Topic, s.Head = "", w.Topic, w.Head
		more = s.step(&w) || more
		messages[id] = Published{s.Topic, s.message().Payload()}
	}
	return messages, more
}

// Again returns what is announced, without a step. It comes first after a start if
// anything is unheard: the program may have ended when it had kept a step and not
// published it, and nothing can be announced beside what that was to take away.
func (m *Memory) Again() map[string]Published {
	messages := map[string]Published{}
	for id, s := range m.Shown {
		if s.Topic != "" {
			messages[id] = Published{s.Topic, s.message().Payload()}
		}
	}
	return messages
}

// add notes a device that was not announced.
func (m *Memory) add(id string, w *Message) *Shown {
	s := &Shown{Components: map[string]json.RawMessage{}}
	if gone := m.Gone[id]; gone != nil { // it comes back before anybody has heard that it went
		s = gone
		for key, c := range s.Components {
			s.keepUnheard(key, c)
		}
		s.dropPresent(w.Components)
		s.Topic, s.Components = "", map[string]json.RawMessage{}
		delete(m.Gone, id)
	}
	m.Shown[id] = s
	return s
}

// remove takes a device back.
func (m *Memory) remove(id string, s *Shown) {
	delete(m.Shown, id)
	if s.Topic == "" && len(s.Unheard) == 0 || len(m.Gone) >= maxUnheard {
		return
	}
	components := map[string]json.RawMessage{}
	for key, c := range s.Components {
		if !isRemoval(c) {
			components[key] = c
		}
	}
	m.Gone[id] = &Shown{Source: s.Source, Thing: s.Thing, Device: s.Device, Topics: s.Topics, Topic: s.Topic, Head: s.Head, Components: merge(s.Unheard, components)}
}

// merge is a, and b over it.
func merge(a, b map[string]json.RawMessage) map[string]json.RawMessage {
	all := map[string]json.RawMessage{}
	maps.Copy(all, a)
	maps.Copy(all, b)
	return all
}

// step brings the components a step nearer to what is wanted.
func (s *Shown) step(w *Message) (more bool) {
	next := make(map[string]json.RawMessage, len(w.Components))
	for key, is := range s.Components {
		want, wanted := w.Components[key]
		switch {
		case isRemoval(is): // it was told so, and is left out now, or is another
			if wanted {
				next[key] = want
			}
		case wanted && same(is, want):
			next[key] = want
		default:
			next[key] = removal(is)
			s.keepUnheard(key, is)
			more = true
		}
	}
	for key, want := range w.Components {
		if _, known := s.Components[key]; !known {
			next[key] = want
		}
	}
	s.Components = next
	s.dropPresent(next)
	return more
}

// keyUnheard begins the keys of components that are announced to be taken back.
const keyUnheard = "removed_"

// keepUnheard keeps a component that is taken back. Triggers leave nothing behind.
func (s *Shown) keepUnheard(key string, component json.RawMessage) {
	of := identify(component)
	if isRemoval(component) || of.UniqueID == "" || len(s.Unheard) >= maxUnheard {
		return
	}
	if !strings.HasPrefix(key, keyUnheard) {
		key = keyUnheard + of.Platform + "_" + key
	}
	s.Unheard = merge(s.Unheard, map[string]json.RawMessage{key: component})
}

// dropPresent forgets those that are there again.
func (s *Shown) dropPresent(components map[string]json.RawMessage) {
	if len(s.Unheard) == 0 {
		return
	}
	there := map[identity]bool{}
	for _, c := range components {
		there[identify(c)] = true
	}
	kept := map[string]json.RawMessage{}
	for key, c := range s.Unheard {
		if !there[identify(c)] {
			kept[key] = c
		}
	}
	s.Unheard = kept
}

// identity is what makes a component another one for Home Assistant.
type identity struct {
	Platform string `json:"platform"`
	UniqueID string `json:"unique_id"`
	Type     string `json:"type"`
	Subtype  string `json:"subtype"`
}

func identify(component json.RawMessage) (id identity) {
	_ = json.Unmarshal(component, &id) // what is no component is like no other
	return id
}

// same reports whether one component may take the place of another at once.
func same(a, b json.RawMessage) bool { return bytes.Equal(a, b) || identify(a) == identify(b) }

// removal is a component of which nothing but its platform is left.
func removal(component json.RawMessage) json.RawMessage {
	return encode(struct {
		Platform string `json:"platform"`
	}{identify(component).Platform})
}

// isRemoval reports whether a component is being taken away.
func isRemoval(component json.RawMessage) bool {
	of := identify(component)
	return of.UniqueID == "" && of.Type == ""
}

// EventTypes are the names of events that were announced last of a source's
// device.
func (m *Memory) EventTypes(source string) (names []string) {
	for _, s := range m.Shown {
		if s.Source != source {
			continue
		}
		for _, c := range s.Components {
			var is struct {
				EventTypes []string `json:"event_types"`
			}
			if json.Unmarshal(c, &is) == nil {
				names = append(names, is.EventTypes...)
			}
		}
	}
	return names
}
