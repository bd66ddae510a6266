package octoprint

import (
	"testing"
	"time"

	"event2mqtt/internal/event"
	"event2mqtt/internal/rules"
)

// TestTheClassesOfTheDeviceAreThoseOfTheRules.
func TestTheClassesOfTheDeviceAreThoseOfTheRules(t *testing.T) {
	for _, c := range classes {
		s, err := rules.New([]rules.Config{{Match: []string{"@" + c.name}, Drop: true}}, rules.Options{Base: "base"})
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range c.events {
			p := s.Begin(time.Time{})
			if p.Apply(&event.Event{Name: name}).Kind != rules.Drop {
				t.Errorf("@%s does not hold %s", c.name, name)
			}
			p.Commit()
		}
	}
}
