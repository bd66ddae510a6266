package sinks

import (
	"errors"
	"fmt"
	"slices"

	"github.com/bmatcuk/doublestar/v4"

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
	for i, pattern := range c.Match {
		if pattern == "" || !doublestar.ValidatePattern(pattern) {
			errs = append(errs, config.Errorf(fmt.Sprintf("match[%d]", i), "%q is not a pattern; write for example Print* or {Print,Transfer}Done", pattern))
		}
	}
	return errors.Join(errs...)
}

// Wants returns which events the sink gets; nil is all. The patterns were
// checked.
func (c *Common) Wants() func(*event.Event) bool {
	if len(c.Match) == 0 {
		return nil
	}
	patterns := slices.Clone(c.Match)
	return func(e *event.Event) bool { return rules.MatchesName(patterns, e.Name) }
}
