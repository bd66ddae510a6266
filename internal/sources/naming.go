package sources

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"event2mqtt/internal/config"
	"event2mqtt/internal/event"
)

// Naming says how an event's name is found in its payload.
type Naming struct {
	// Keys are tried in order; the first that holds a text, a number, true or
	// false counts.
	Keys []string `koanf:"keys" default:"_event,event,type,topic" doc:"Keys of the payload that may hold the name, the first that does counts; a path such as alerts.0.status leads inside."`
	// Default is the name of events that have none.
	Default string `koanf:"default" doc:"The name of events that have none."`
	// Names maps labels to names.
	Names map[string]string `koanf:"names" doc:"New names for events, each under the name that the event comes with."`
}

// Check tells what is wrong with the naming, as KeyErrors below path.
func (n *Naming) Check(path string) error {
	var errs []error
	for i, key := range n.Keys {
		if err := event.CheckPath(key); err != nil {
			errs = append(errs, config.Errorf(fmt.Sprintf("%s.keys[%d]", path, i), "%w", err))
		}
	}
	return errors.Join(errs...)
}

// Listed returns the names that the configuration itself has, sorted.
func (n *Naming) Listed() []string {
	all := slices.Collect(maps.Values(n.Names))
	if n.Default != "" {
		all = append(all, n.Default)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Name returns the name of an event, "" if there is none. label is what is
// known of it beside the payload, which must be a valid JSON object or empty.
func (n *Naming) Name(label string, object []byte) string {
	if label == "" && len(object) > 0 {
		for i, value := range event.Pick(object, n.Keys...) {
			if value == nil && strings.ContainsAny(n.Keys[i], ".[") {
				value = event.Find(object, n.Keys[i])
			}
			if label, _ = event.Scalar(value); label != "" {
				break
			}
		}
	}
	if label == "" {
		label = n.Default
	}
	if name, ok := n.Names[label]; ok {
		return name
	}
	return label
}

// Timing says where an event's time is found, and how it is written.
type Timing struct {
	Key    string           `koanf:"time_key" doc:"A key of the payload that holds when the event happened; a path such as alert.at leads inside."`
	Format event.TimeFormat `koanf:"time_format" doc:"How the time of events is written: unix, unix_ms, unix_us, unix_ns, or strftime's directives such as %d.%m.%Y %H:%M; left out, every usual form is understood."`
}

// Elsewhere is an option that names a place of the time beside the payload.
type Elsewhere struct{ Option, Value string }

// Check tells what is wrong with the timing, as KeyErrors. elsewhere are the
// source's other options that say where the time is.
func (t *Timing) Check(elsewhere ...Elsewhere) error {
	if t.Key != "" {
		if err := event.CheckPath(t.Key); err != nil {
			return config.Errorf("time_key", "%w", err)
		}
	}
	if err := t.Format.Check(); err != nil {
		return config.Errorf("time_format", "%w", err)
	}
	places, found := "time_key", t.Key != ""
	for _, e := range elsewhere {
		places += " or " + e.Option
		found = found || e.Value != ""
	}
	if t.Format != "" && !found {
		return config.Relation("time_format", "time_key", "is of use only with %s, which says where the time is", places)
	}
	return nil
}

// Clock reads the times of one source's events. It is safe for concurrent use.
type Clock struct {
	timing Timing
	log    zerolog.Logger
	failed atomic.Uint64
}

// NewClock returns a clock that logs to log, once, that a time cannot be read.
func NewClock(t Timing, log zerolog.Logger) *Clock { return &Clock{timing: t, log: log} }

// Failed counts the times that could not be read.
func (c *Clock) Failed() uint64 { return c.failed.Load() }

// Time returns when an event happened: the time at the configured key of its
// payload, which must be a valid JSON object or empty, or now if there is no
// such key. A time that cannot be read gives now as well, and is counted.
func (c *Clock) Time(object []byte, now time.Time) time.Time {
	if c.timing.Key == "" || len(object) == 0 {
		return now
	}
	value := event.Find(object, c.timing.Key)
	if value == nil || string(value) == "null" {
		return now
	}
	text, _ := event.Scalar(value)
	if text == "" {
		text = string(value)
	}
	return c.Read(text, fmt.Sprintf("time_key %s", c.timing.Key), now)
}

// Read reads a time that was found elsewhere than in the payload; where names
// the place in the log.
func (c *Clock) Read(text, where string, now time.Time) time.Time {
	if t, ok := c.timing.Format.Parse(text, now); ok {
		return t
	}
	if c.failed.Add(1) == 1 {
		const most = 64 // of a text from outside, in bytes
		c.log.Warn().Str("value", text[:min(most, len(text))]).Msgf("%s does not hold a time that can be read; such events get the time of their arrival; set time_format", where)
	}
	return now
}
