package homeassistant

import (
	"strings"

	"event2mqtt/internal/config"
	"event2mqtt/internal/topic"
)

// Config are the options of the section home_assistant.
type Config struct {
	Discovery    bool   `koanf:"discovery" default:"true" doc:"Whether devices are announced to Home Assistant: the program itself, printers, and sources with device or entities. With false, what was announced is taken away."`
	Prefix       string `koanf:"prefix" default:"homeassistant" doc:"What the topics of discovery begin with, as it is set in Home Assistant's MQTT options."`
	Node         string `koanf:"node" example:"workshop" doc:"One more level in the topics of discovery, to tell this program's from others; letters, digits, _ and - are allowed."`
	BirthTopic   string `koanf:"birth_topic" default:"homeassistant/status" doc:"The topic on which Home Assistant says that it has started; everything is published again then. Empty is none."`
	BirthPayload string `koanf:"birth_payload" default:"online" doc:"What Home Assistant publishes on birth_topic when it has started; anything else there means that it is gone."`
}

// Check tells what is wrong with the options, as KeyErrors. base is
// publish.base_topic.
func (c *Config) Check(base string) error {
	var errs config.Errors
	if err := topic.Check(c.Prefix); err != nil {
		errs.Bad("prefix", "%w", err)
	} else if c.Prefix == base {
		errs.Relation("prefix", "publish.base_topic", "%q is publish.base_topic, too, where devices could be taken for states; choose another", c.Prefix)
	} else if strings.HasPrefix(c.Prefix, base+"/") {
		errs.Relation("prefix", "publish.base_topic", "%q is below publish.base_topic, where devices could be taken for states; choose another", c.Prefix)
	} else if c.Discovery && strings.HasPrefix(base, c.Prefix+"/") {
		errs.Relation("prefix", "publish.base_topic", "publish.base_topic, %q, is below %q, so that Home Assistant would take events and states for devices; choose another base_topic", base, c.Prefix)
	}
	if c.Node != "" && clean(c.Node) != c.Node {
		errs.Bad("node", "%q holds more than letters, digits, _ and -", c.Node)
	}
	if c.BirthTopic != "" {
		if err := topic.Check(c.BirthTopic); err != nil {
			errs.Bad("birth_topic", "%w", err)
		}
		if c.BirthPayload == "" {
			errs.Relation("birth_payload", "birth_topic", "is empty; write what Home Assistant publishes, such as online")
		}
	}
	return errs.Err()
}
