package bridge

import (
	"fmt"
	"slices"

	"event2mqtt/internal/config"
	"event2mqtt/internal/sources"
	"event2mqtt/internal/topic"
)

// This file is whether the devices that Home Assistant is shown have their events,
// and no others.

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
	if own == "" || p.ruleSet == nil {
		return m // the topic was refused, or a rule
	}
	for _, other := range p.sources {
		name := other.Base().Name
		meets := func(filter string) bool { return topic.Overlap(own, filter) }
		if other == o || !meets(p.eventFilter(other)) && !slices.ContainsFunc(p.ruleSet.Filters(name), meets) {
			continue
		}
		if _, is := shown(other); is && m.device == "" {
			m.device = name
		} else if !is && m.other == "" {
			m.other = name
		}
		if m.device != "" && m.other != "" {
			break
		}
	}
	return m
}

// eventFilter has all topics that events of a source may have unless a rule gives
// them another.
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
		if !topic.Overlap(p.eventFilter(o), p.eventFilter(p.Source(other))) {
			return config.Errorf("rules", "events of %s may be given a topic of those of %s, so that Home Assistant would take them for events of %s; write {source} into the topic, or publish: {source_field: _source}, or home_assistant: {discovery: false}", other, name, name)
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
			p.warn("publish.event_topic", "Home Assistant cannot tell events of %s from those of %s; write publish: {source_field: _source}, which tells them apart", other, o.Base().Name)
			return
		}
	}
}

// warnOfDivertedEvents tells of rules that keep events from the topics on which
// Home Assistant waits for them. Each rule is named once.
func (p *Plan) warnOfDivertedEvents() {
	if !p.HomeAssistant.Discovery {
		return
	}
	told := map[int]bool{}
	for _, o := range p.sources {
		d, is := shown(o)
		if !is {
			continue
		}
		names := d.Triggers
		if len(names)+len(d.Events) == 0 {
			names = []string{""} // those that will be learned
		}
		for _, name := range names {
			by := p.ruleSet.Diverts(o.Base().Name, name)
			if by == nil || told[by.Index] {
				continue
			}
			told[by.Index] = true
			what := "the events " + name
			if name == "" {
				what = "its events"
			}
			p.warn(fmt.Sprintf("rules[%d]", by.Index), "the device that Home Assistant has of %s does not get %s: this rule gives them another name or topic", o.Base().Name, what)
		}
	}
}

// warnOfRetainedEvents tells of rules that retain events of devices.
func (p *Plan) warnOfRetainedEvents() {
	if !p.HomeAssistant.Discovery {
		return
	}
	for i := range p.Rules {
		for _, o := range p.sources {
			if _, is := shown(o); is && p.ruleSet.Retains(i, o.Base().Name) {
				p.warn(fmt.Sprintf("rules[%d].retain", i), "events of %s are retained, so that automations in Home Assistant run again whenever it starts; leave it out, and take states for what is to be known later", o.Base().Name)
				break
			}
		}
	}
}
