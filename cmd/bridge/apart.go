package main

import (
	"strings"

	"event2mqtt/internal/bridge"
	"event2mqtt/internal/config/edit"
	"event2mqtt/internal/sinks/mqtt"
	"event2mqtt/internal/topic"
)

// This file is how a source is added whose events Home Assistant could not tell
// from those of another.

// topicOfEach is a publish.event_topic that tells all sources apart.
const topicOfEach = "{base}/{source}/event/{event}"

// tellingApart returns a change that also sets publish.event_topic, if the
// configuration is accepted only with that. As the default is a good topic by
// itself, nothing else than a mixture of devices is mended by another. What is
// configured already stays, and the change fails with what to write.
func (c *octoPrintSetup) tellingApart(file *configFile, change func([]byte) ([]byte, error)) func([]byte) ([]byte, error) {
	if file.byHand != nil {
		return change
	}
	text, err := change(file.text)
	if err != nil {
		return change
	}
	if _, err := file.check(text); err == nil {
		return change
	}
	apart := func(text []byte) ([]byte, error) {
		text, err := change(text)
		if err == nil {
			text, _, err = edit.AddKeys(text, "publish", edit.Group{{Key: "event_topic", Value: topicOfEach}})
		}
		return text, err
	}
	if text, err = apart(file.text); err != nil {
		return change
	}
	after, err := file.check(text)
	if err != nil {
		return change
	}
	c.tellOfTopics(file, after)
	return apart
}

// tellOfTopics says once which topics change with publish.event_topic.
func (c *octoPrintSetup) tellOfTopics(file *configFile, after *bridge.Plan) {
	if c.moved {
		return
	}
	c.moved = true
	var of []string
	for n := range file.plan.Sources {
		name := nameOf(file.plan, n)
		if o, ok := file.plan.Source(name).(interface {
			EventTopic() (topic.Template, bool)
		}); ok {
			if _, own := o.EventTopic(); own {
				continue
			}
		}
		of = append(of, name)
	}
	c.say("note: publish.event_topic becomes %q: otherwise Home Assistant could not tell the events of %s from those of other sources", topicOfEach, c.name)
	if len(of) == 0 {
		return
	}
	filter := func(p mqtt.PublishConfig) string {
		return strings.NewReplacer("{base}", p.BaseTopic, "{source}", "+", "{event}", "+").Replace(p.EventTopic)
	}
	noun := "the source"
	if len(of) > 1 {
		noun = "the sources"
	}
	c.say("note: this changes the topics of the events of %s %s: what subscribes to %s must subscribe to %s instead; to keep them, write publish: {source_field: _source} into %s in place of publish.event_topic",
		noun, strings.Join(of, ", "), filter(file.plan.Publish), filter(after.Publish), file.path)
}
