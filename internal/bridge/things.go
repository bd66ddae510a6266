package bridge

import (
	"cmp"
	"maps"
	"slices"

	"event2mqtt/internal/commands"
	"event2mqtt/internal/device"
	"event2mqtt/internal/event"
	"event2mqtt/internal/homeassistant"
	"event2mqtt/internal/sources"
	"event2mqtt/internal/topic"
)

// This file is which devices a plan has, and where what belongs to them is
// published.

// known is what is known of the things of sources, by source.
type known struct {
	described map[string]device.Device
	learned   func(source string) []string // names of events
	topics    map[string]map[string]string // of states that have one of their own, by key
	memory    *homeassistant.Memory        // of what was announced
}

// router are options of a source whose events have a topic of their own.
type router interface {
	EventTopic() (topic.Template, bool)
}

// setup is what all devices have in common.
func (p *Plan) setup(installation string) *homeassistant.Setup {
	s := &homeassistant.Setup{Prefix: p.HomeAssistant.Prefix, Node: p.HomeAssistant.Node, Installation: installation, Version: p.Version, QoS: min(1, p.Publish.QoS)}
	if w := p.MQTT.Will; w.Enabled && w.Retain { // else nobody sees it who comes later
		if t, err := topic.Parse(w.Topic, p.Publish.BaseTopic); err == nil {
			s.Bridge.Topic, _ = t.Literal()
			s.Bridge.Available, s.Bridge.NotThere = w.Online, w.Offline
		}
	}
	return s
}

// shown returns what the options of a source say of its thing, and whether it
// is shown.
func shown(o sources.Options) (device.Device, bool) {
	if d, ok := o.(sources.Describer); ok {
		return d.Thing()
	}
	return device.Device{}, false
}

// things are the devices of a plan as they are announced, by id.
func (p *Plan) things(s *homeassistant.Setup, k known) map[string]homeassistant.Message {
	all := map[string]homeassistant.Message{"": s.Announce(p.itself(s))}
	ids := p.newIDs(k.memory)
	for _, o := range p.sources {
		d, isShown := shown(o)
		name := o.Base().Name
		live, described := k.described[name]
		if !isShown && !described {
			continue
		}
		if described {
			d = live
		}
		d.ID = cmp.Or(d.ID, name)
		id := ids.of(name, d.ID)
		was := cmp.Or(k.memory.Shown[id], k.memory.Gone[id])
		var seen *device.Device // more than the configuration tells
		switch {
		case described:
			seen = &d
		case was != nil && was.Device != nil && was.Thing == d.ID:
			seen = was.Device
			d = seen.Clone()
		}
		topics := k.topics[name]
		if topics == nil && was != nil {
			topics = was.Topics
		}
		m := s.Announce(p.thing(o, id, d, topics, k.learned(name)))
		m.Source, m.Thing, m.Device, m.Topics = name, d.ID, seen, topics
		all[id] = m
	}
	return all
}

// ids gives devices their ids.
type ids struct {
	memory     *homeassistant.Memory
	configured map[string]bool   // sources
	taken      map[string]string // by id, the source whose device has it
}

func (p *Plan) newIDs(memory *homeassistant.Memory) *ids {
	i := &ids{memory, map[string]bool{}, map[string]string{}}
	for _, o := range p.sources {
		i.configured[o.Base().Name] = true
	}
	for id, was := range memory.Shown {
		if id != "" && i.configured[was.Source] {
			i.taken[id] = was.Source
		}
	}
	return i
}

// of is that of a source's device: the one that it had, or that another had which
// was called otherwise and watched the same thing, or one made of its name.
func (i *ids) of(source, thing string) string {
	for id, of := range i.taken {
		if of == source {
			return id
		}
	}
	for _, all := range []map[string]*homeassistant.Shown{i.memory.Shown, i.memory.Gone} {
		for _, id := range slices.Sorted(maps.Keys(all)) {
			was := all[id]
			if id != "" && thing != source && was.Thing == thing && !i.configured[was.Source] && i.taken[id] == "" {
				i.taken[id] = source
				return id
			}
		}
	}
	id := homeassistant.ID(source)
	for i.taken[id] != "" {
		id = homeassistant.ID(id + "#")
	}
	i.taken[id] = source
	return id
}

// thing is a device, and where what belongs to it is found.
func (p *Plan) thing(o sources.Options, id string, d device.Device, topics map[string]string, learned []string) *homeassistant.Thing {
	source, base := o.Base().Name, p.Publish.BaseTopic
	states, _ := topic.ParseState(p.Publish.StateTopic, base) // was checked
	d = d.Clone()
	if len(d.Events) == 0 {
		d.Events = slices.Sorted(slices.Values(slices.Concat(d.Triggers, learned)))
		d.Events = slices.Compact(d.Events)
	}
	allowed := allowedBy(o)
	d.Commands = slices.DeleteFunc(d.Commands, func(c device.Command) bool { return !slices.Contains(allowed, c.Called()) })
	return &homeassistant.Thing{
		ID: id, Device: d,
		Available: homeassistant.Availability{Topic: base + "/" + topic.Safe(source) + "/" + event.KeyAvailable, Available: online, NotThere: offline},
		State: func(key string) string {
			if own := topics[key]; own != "" {
				return own
			}
			at, _ := states.Render(topic.Values{Source: source, Key: key})
			return at
		},
		Command: func(call string) string { return commands.Topic(base, source) + call },
		Events:  p.eventsOf(o),
	}
}

// eventsOf says where the events of a source are found.
func (p *Plan) eventsOf(o sources.Options) homeassistant.Events {
	source, t := o.Base().Name, p.events
	if own, has := ownTemplate(o); has {
		t = own
	}
	e := homeassistant.Events{Filter: t.Filter(source), Topic: func(name string) string {
		at, alone := t.Of(source, name)
		if !alone {
			return ""
		}
		return at
	}}
	m, checked := p.mixed[source]
	if !checked {
		m = p.mixture(o)
	}
	switch {
	case m == mixture{}:
	case p.Publish.SourceField != "":
		e.Key, e.Source = p.Publish.SourceField, source
	case !checked || m.device != "":
		return homeassistant.Events{} // it would have events of others, of which nobody was told
	}
	return e
}

// itself is the program's own device.
func (p *Plan) itself(s *homeassistant.Setup) *homeassistant.Thing {
	base := p.Publish.BaseTopic
	d := device.Device{
		ID: s.Installation, Name: "event2mqtt", Manufacturer: "event2mqtt", Model: "Event to MQTT bridge", Version: p.Version,
		Entities: []device.Entity{
			{Key: "version", Name: "Version", State: keyState, Value: "version", Kind: device.Text, Diagnostic: true},
			{Key: "waiting", Name: "Events waiting", State: keyState, Value: "waiting", Kind: device.Number, Diagnostic: true},
			{Key: "reloaded", Name: "Last configuration reload", State: keyConfig, Value: "time", Kind: device.Timestamp, Diagnostic: true},
			{Key: "problem", Name: "Problem", State: keyState, Value: "state", Kind: device.Binary, On: stateProblem, Off: stateOK, Class: "problem", Diagnostic: true, Attributes: true},
			{Key: "reason", Name: "Problem reason", State: keyState, Value: "problem", Kind: device.Text, Diagnostic: true},
		},
		Commands: []device.Command{{Key: commandReload, Name: "Reload configuration"}},
	}
	return &homeassistant.Thing{
		Device:  d,
		State:   func(key string) string { return base + "/" + event.OwnSource + "/" + key },
		Command: func(call string) string { return commands.Topic(base, event.OwnSource) + call },
	}
}
