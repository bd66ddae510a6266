package sinks

import (
	"errors"

	"event2mqtt/internal/config"
	"event2mqtt/internal/event"
	"event2mqtt/internal/rules"
)

// maxMatch bounds the patterns of a sink: each is tried for each event.
const maxMatch = 100

// CheckMatch tells what is wrong with match, as KeyErrors. Options call it in
// their Check.
func (c *Common) CheckMatch() error {
	var errs []error
	if n := len(c.Match); n > maxMatch {
		errs = append(errs, config.Errorf("match", "has %d patterns; at most %d are allowed", n, maxMatch))
	}
	if _, err := rules.Names(c.Match); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Wants returns which events the sink gets. The patterns were checked. An event
// that is for one sink alone is so whatever its name.
func (c *Common) Wants() func(*event.Event) bool {
	sink, all := c.Name, len(c.Match) == 0
	names, _ := rules.Names(c.Match)
	return func(e *event.Event) bool {
		if e.Only != "" {
			return e.Only == sink
		}
		return all || rules.MatchesName(names, e.Name)
	}
}
