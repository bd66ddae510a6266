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
	all := map[string]mixture{}
	for _, o := range p.sources {
		if _, is := shown(o); is {
			all[o.Base().Name] = p.mixture(o)
		}
	}
	return all
}

// mixture is that of one source.
func (p *Plan) mixture(o sources.Options) (m mixture) {
	own := p.eventFilter(o)
	if own == "" {
		return m // the topic was refused
	}
	for _, other := range p.sources {
		if other == o || !topic.Overlap(own, p.eventFilter(other)) {
			continue
		}
		if _, is := shown(other); is && m.device == "" {
			m.device = other.Base().Name
		} else if !is && m.other == "" {
			m.other = other.Base().Name
		}
		if m.device != "" && m.other != "" {
			break
		}
	}
	return m
}

// eventFilter has all topics that events of a source may have.
func (p *Plan) eventFilter(o sources.Options) string {
	if t, own := ownTemplate(o); own {
		return t.Filter(o.Base().Name)
	}
	return p.events.Filter(o.Base().Name)
}

// ownTemplate is where the events of a source are published, if that is not
// publish.event_topic.
func ownTemplate(o sources.Options) (t topic.Template, own bool) {
	if r, ok := o.(router); ok {
		return r.EventTopic()
	}
	return t, false
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
		if _, own := ownTemplate(o); own {
			write = "another plugin.base_topic for one of them"
		}
		return config.Relation("publish.event_topic", "home_assistant.discovery",
			"events of %s and of %s have the same topics, so that Home Assistant would take those of one for those of the other; write %s, or publish: {source_field: _source}, or home_assistant: {discovery: false}", name, other, write)
	}
	return nil
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
