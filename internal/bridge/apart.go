package bridge

import (
	"event2mqtt/internal/config"
	"event2mqtt/internal/sources"
	"event2mqtt/internal/topic"
)

// This file is whether the devices that Home Assistant is shown can be told
// apart by their events.

// mixture is whose events may have topics that those of a source have, too.
type mixture struct {
	device string // a source that is shown as a device, if there is one
	other  string // another source, if there is one
}

// mixtures are those of all sources that are shown as devices.
func (p *Plan) mixtures() map[string]mixture {
	filters := make([]string, len(p.sources))
	are := make([]bool, len(p.sources))
	for i, o := range p.sources {
		filters[i] = p.eventTemplate(o).Filter(o.Base().Name)
		_, are[i] = shown(o)
	}
	all := map[string]mixture{}
	for i, o := range p.sources {
		if !are[i] {
			continue
		}
		var m mixture
		for j, other := range p.sources {
			switch {
			case i == j || filters[i] == "" || !topic.Overlap(filters[i], filters[j]):
			case are[j] && m.device == "":
				m.device = other.Base().Name
			case !are[j] && m.other == "":
				m.other = other.Base().Name
			}
		}
		all[o.Base().Name] = m
	}
	return all
}

// needsTelling reports whether nothing but topics tells devices apart.
func (p *Plan) needsTelling() bool {
	return p.HomeAssistant.Discovery && p.Publish.SourceField == ""
}

// checkApart refuses two devices that would have each other's events.
func (p *Plan) checkApart() error {
	if !p.needsTelling() {
		return nil
	}
	for _, o := range p.sources {
		name := o.Base().Name
		other := p.mixed[name].device
		if other == "" {
			continue
		}
		write := `publish: {event_topic: "{base}/{source}/event/{event}"}`
		if ownTopics(o) {
			write = "another plugin.base_topic for one of them"
		}
		return config.Relation("publish.event_topic", "home_assistant.discovery",
			"events of %s and of %s have the same topics, so that Home Assistant would take those of one for those of the other; write %s, or publish: {source_field: _source}, or home_assistant: {discovery: false}", name, other, write)
	}
	return nil
}

// ownTopics reports whether the events of a source have topics of their own.
func ownTopics(o sources.Options) bool {
	r, ok := o.(router)
	if ok {
		_, ok = r.EventTopic()
	}
	return ok
}

// warnOfMixedEvents tells of a device that would have events of sources which are
// none.
func (p *Plan) warnOfMixedEvents() {
	if !p.needsTelling() {
		return
	}
	for _, o := range p.sources {
		if other := p.mixed[o.Base().Name].other; other != "" {
			p.warn("publish.event_topic", "events of %s that are called as those of %s are taken for them by Home Assistant; write publish: {source_field: _source}, which tells them apart", other, o.Base().Name)
			return
		}
	}
}
