package webhook

import (
	"cmp"
	"encoding/json"

	"event2mqtt/internal/event"
)

// noLift is the value of Config.Lift that turns a preset's off.
const noLift = "off"

// lifted returns a payload with what matters on top: the members of the object
// under the key Lift, and what was beside them in a group of its own, which
// takes the place of a member of that name. A payload without such an object
// stays as it is, and so does one that would be too deep.
func (c *Config) lifted(payload []byte) []byte {
	if c.Lift == "" || c.Lift == noLift {
		return payload
	}
	inner := event.Member(payload, c.Lift)
	if !isObject(inner) {
		return payload
	}
	out := event.Set(inner, cmp.Or(c.Preset, c.Name), string(event.Without(payload, c.Lift)))
	if event.Check(out) != nil {
		return payload
	}
	return out
}

// numbered returns a payload whose texts under the keys Numbers are numbers, as
// far as they are written like such.
func (c *Config) numbered(payload []byte) []byte {
	if len(c.Numbers) == 0 {
		return payload
	}
	for i, value := range event.Pick(payload, c.Numbers...) {
		if len(value) == 0 || value[0] != '"' {
			continue
		}
		// Among JSON texts, those that begin so are numbers.
		if text := event.Text(value); text != "" && (text[0] == '-' || text[0] >= '0' && text[0] <= '9') && json.Valid([]byte(text)) {
			payload = event.Set(payload, c.Numbers[i], text)
		}
	}
	return payload
}
