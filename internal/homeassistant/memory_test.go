package homeassistant_test

import (
	"encoding/json"
	"fmt"
	"math/rand"
	"strings"
	"testing"

	"event2mqtt/internal/device"
	"event2mqtt/internal/homeassistant"
	"event2mqtt/internal/homeassistant/store"
)

// assistant behaves as Home Assistant was seen to: it forgets an entity only if
// it is told so while it is there.
type assistant struct {
	up       bool
	loaded   map[string]map[string]string // by topic: unique ids, by component
	registry map[string]bool              // platform and unique id
	said     []string                     // what would be in its log
}

func newAssistant() *assistant {
	return &assistant{loaded: map[string]map[string]string{}, registry: map[string]bool{}}
}

// start has it read what is retained.
func (a *assistant) start(retained map[string][]byte) {
	a.up, a.loaded = true, map[string]map[string]string{}
	for topic, payload := range retained {
		a.hear(topic, payload)
	}
}

func (a *assistant) hear(topic string, payload []byte) {
	if !a.up {
		return
	}
	loaded := a.loaded[topic]
	if len(payload) == 0 {
		if loaded == nil {
			a.said = append(a.said, "No device components to cleanup for "+topic)
		}
		for _, id := range loaded {
			delete(a.registry, id)
		}
		delete(a.loaded, topic)
		return
	}
	if loaded == nil {
		loaded = map[string]string{}
		a.loaded[topic] = loaded
	}
	var m struct {
		Components map[string]map[string]any
	}
	if err := json.Unmarshal(payload, &m); err != nil {
		a.said = append(a.said, err.Error())
	}
	for key, c := range m.Components {
		if len(c) == 1 {
			delete(a.registry, loaded[key])
			delete(loaded, key)
			continue
		}
		id := fmt.Sprint(c["platform"], " ", c["unique_id"], c["subtype"], c["topic"])
		if c["unique_id"] != nil {
			id = fmt.Sprint(c["platform"], " ", c["unique_id"])
		}
		for at, others := range a.loaded {
			for other, taken := range others {
				if taken == id && (at != topic || other != key) {
					a.said = append(a.said, id+" already exists")
					id = ""
				}
			}
		}
		if id != "" {
			delete(a.registry, loaded[key])
			loaded[key], a.registry[id] = id, true
		}
	}
}

// zombies are what it remembers and does not have.
func (a *assistant) zombies() (all []string) {
	live := map[string]bool{}
	for _, loaded := range a.loaded {
		for _, id := range loaded {
			live[id] = true
		}
	}
	for id := range a.registry {
		if !live[id] {
			all = append(all, id)
		}
	}
	return all
}

// bridge is who announces, and a broker that keeps it.
type bridge struct {
	t        *testing.T
	memory   *homeassistant.Memory
	retained map[string][]byte
	heard    bool // Home Assistant has been there since its start was answered
	to       *assistant
	// meanwhile is what happens between keeping a step and publishing it, if
	// anything; true is that the program is killed.
	meanwhile func() bool
	setup     homeassistant.Setup
	devices   map[string]device.Device
}

func (b *bridge) wanted() map[string]homeassistant.Message {
	all := map[string]homeassistant.Message{}
	for source, d := range b.devices {
		all[source] = b.setup.Announce(thing(source, d))
	}
	return all
}

// announce does all that is to be done. raise has it say again what may not have
// been heard.
func (b *bridge) announce(raise bool) {
	for range 20 {
		wanted := b.wanted()
		if raise {
			wanted = b.memory.WithUnheard(wanted, b.setup.Topic)
		}
		messages, more := b.memory.Round(wanted)
		if b.meanwhile != nil && b.meanwhile() {
			return
		}
		b.publish(messages)
		if !more && !raise {
			return
		}
		raise = false
	}
	b.t.Fatal("it has no end")
}

func (b *bridge) publish(messages map[string]homeassistant.Published) {
	now := map[string][]byte{}
	for _, m := range messages {
		now[m.Topic] = m.Payload
		if string(b.retained[m.Topic]) != string(m.Payload) {
			b.to.hear(m.Topic, m.Payload)
		}
	}
	for topic := range b.retained {
		if now[topic] == nil {
			b.to.hear(topic, nil)
		}
	}
	b.retained = now
}

// reopen is a restart of the program.
func (b *bridge) reopen() {
	dir := b.t.TempDir()
	if err := store.Save(dir, b.memory); err != nil {
		b.t.Fatal(err)
	}
	m, err := store.Load(dir)
	if err != nil {
		b.t.Fatal(err)
	}
	b.memory = m
}

// restart is one of the program, after which Home Assistant may be there, or not.
func (b *bridge) restart() {
	b.reopen()
	b.heard = false
	if b.memory.HasUnheard() {
		b.publish(b.memory.Again())
	}
	b.announce(b.memory.HasUnheard())
}

// change changes something, by chance.
func (b *bridge) change(r *rand.Rand) string {
	source := []string{"a", "b", "c"}[r.Intn(3)]
	switch r.Intn(7) {
	case 0:
		b.setup.Prefix = []string{"homeassistant", "ha"}[r.Intn(2)]
		return "prefix " + b.setup.Prefix
	case 1:
		b.setup.Node = []string{"", "n"}[r.Intn(2)]
		return "node " + b.setup.Node
	case 2:
		delete(b.devices, source)
		return "without " + source
	default:
		d := printer()
		kept := d.Entities[:0]
		for _, e := range d.Entities {
			if r.Intn(3) > 0 {
				if e.Key == "odd" && r.Intn(2) == 0 {
					e.Kind, e.Unit = device.Text, "" // another platform, or not
				}
				if e.Key == "used" && r.Intn(2) == 0 {
					e.Kind, e.Unit, e.Class = device.Binary, "", ""
				}
				kept = append(kept, e)
			}
		}
		d.Entities = kept
		d.Commands = d.Commands[:r.Intn(3)]
		b.devices[source] = d
		return "other " + source
	}
}

// TestNothingIsLeftBehind: whatever changes, and whoever is not there meanwhile,
// Home Assistant has in the end what is wanted, without a zombie or a warning.
func TestNothingIsLeftBehind(t *testing.T) {
	for seed := range int64(50) {
		r := rand.New(rand.NewSource(seed))
		a := newAssistant()
		b := &bridge{t: t, memory: homeassistant.NewMemory(), retained: map[string][]byte{}, to: a, setup: setup, devices: map[string]device.Device{}}
		var story []string
		do := func(format string, args ...any) { story = append(story, fmt.Sprintf(format, args...)) }
		birth := func() {
			do("birth")
			a.start(b.retained)
			b.heard = true
			b.announce(b.memory.HasUnheard())
		}
		for range 30 {
			b.meanwhile = nil
			if at := r.Intn(4); at > 0 && r.Intn(2) == 0 {
				kill := r.Intn(2) == 0
				b.meanwhile = func() bool {
					at--
					if at == 0 && kill {
						do("killed")
						return true
					}
					if at == 0 && a.up {
						do("Home Assistant goes meanwhile")
						a.up, b.heard = false, false
					}
					return false
				}
			}
			killed := false
			if b.meanwhile != nil {
				inner := b.meanwhile
				b.meanwhile = func() bool { killed = inner(); return killed }
			}
			switch r.Intn(7) {
			case 0:
				do("Home Assistant ends")
				a.up, b.heard = false, false
			case 6:
				if b.heard {
					do("heard")
					b.memory.Heard()
				}
			case 1:
				if !a.up {
					birth()
				}
			case 2:
				do("restart")
				b.restart()
			default:
				do("%s", b.change(r))
				b.announce(false)
			}
			if b.meanwhile = nil; killed {
				b.restart()
			}
		}
		if !a.up || !b.heard {
			a.up = false
			birth()
		}
		want := map[string]bool{}
		for _, m := range b.wanted() {
			for _, c := range m.Components {
				want[string(c)] = true
			}
		}
		n := 0
		for _, loaded := range a.loaded {
			n += len(loaded)
		}
		if z := a.zombies(); len(z) > 0 || len(a.said) > 0 || n != len(want) {
			t.Fatalf("seed %d: %d components, want %d; zombies %v; said %v\n%s", seed, n, len(want), z, a.said, strings.Join(story, "\n"))
		}
	}
}

// TestADeviceMovesInTwoSteps, also if the program ends between them: Home
// Assistant refuses the second of two entities with one id.
func TestADeviceMovesInTwoSteps(t *testing.T) {
	m := homeassistant.NewMemory()
	at := func(prefix string) map[string]homeassistant.Message {
		s := setup
		s.Prefix = prefix
		return map[string]homeassistant.Message{"mk4": s.Announce(thing("mk4", printer()))}
	}
	if messages, more := m.Round(at("homeassistant")); more || len(messages) != 1 {
		t.Fatalf("%d messages, more %v", len(messages), more)
	}
	if messages, more := m.Round(at("ha")); !more || len(messages) != 0 {
		t.Fatalf("on its way: %d messages, more %v", len(messages), more)
	}
	dir := t.TempDir() // a crash now
	if err := store.Save(dir, m); err != nil {
		t.Fatal(err)
	}
	m, err := store.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if messages, more := m.Round(at("ha")); !more || len(messages) != 0 {
		t.Fatalf("after a crash: %d messages, more %v", len(messages), more)
	}
	messages, more := m.Round(at("ha"))
	if more || messages["mk4"].Topic != "ha/device/event2mqtt_0a1b2c3d4e_mk4/config" {
		t.Fatalf("%v, more %v", messages, more)
	}
}

// TestIdsDoNotMeet: none of two names, and each is fit for a topic of discovery.
func TestIdsDoNotMeet(t *testing.T) {
	names := []string{"a b", "a_b", "a/b", "a.b", "ä", "ö", "", "_", "A", "a", "a_b_d2c5d2", "🖨", "🖨🖨"}
	seen := map[string]string{}
	for _, name := range names {
		id := homeassistant.ID(name)
		if other, taken := seen[id]; taken || id == "" || strings.Trim(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") != "" {
			t.Errorf("%q has the id %q, as has %q", name, id, other)
		}
		seen[id] = name
	}
}
