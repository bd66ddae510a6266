package bridge

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"event2mqtt/internal/event"
	"event2mqtt/internal/sources"
)

// This file is what the bridge counts itself. The other figures are asked of
// the parts (metrics.go).

// counts are the bridge's counters since the start. The zero value is ready.
type counts struct {
	reloads, failedReloads atomic.Uint64

	mu      sync.Mutex
	intakes map[string]*intake // by source; they outlive a source that is replaced
}

// intake counts the events of one source.
type intake struct {
	accepted atomic.Uint64
	refused  [len(reasons)]atomic.Uint64
}

// reasons are why events are refused.
var reasons = [...]string{"invalid", "too_large", "full", "failed"}

func (c *counts) reload(ok bool) {
	if ok {
		c.reloads.Add(1)
	} else {
		c.failedReloads.Add(1)
	}
}

// intake returns the counters of a source, by its name.
func (c *counts) intake(source string) *intake {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.intakes == nil {
		c.intakes = map[string]*intake{}
	}
	if c.intakes[source] == nil {
		c.intakes[source] = &intake{}
	}
	return c.intakes[source]
}

// forget drops the counters of a source that is no more.
func (c *counts) forget(source string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.intakes, source)
}

// countedOutput counts what a source emits.
type countedOutput struct {
	output
	*intake
}

var _ sources.Output = countedOutput{}

func (o countedOutput) Emit(ctx context.Context, events ...event.Event) (sources.Receipt, error) {
	r, err := o.output.Emit(ctx, events...)
	o.note(len(events), err)
	return r, err
}

// note counts events that were offered. Those of a source that is told to stop
// do not count: they come again.
func (i *intake) note(events int, err error) {
	n := uint64(events)
	var refused *event.Refused
	switch {
	case err == nil:
		i.accepted.Add(n)
	case errors.As(err, &refused) && refused.TooLarge:
		i.refused[1].Add(n)
	case errors.As(err, &refused):
		i.refused[0].Add(n)
	case errors.Is(err, sources.ErrFull):
		i.refused[2].Add(n)
	case !errors.Is(err, sources.ErrClosed) && !errors.Is(err, context.Canceled):
		i.refused[3].Add(n)
	}
}
