package bridge

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

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
	pulse    pulse
}

// pulse counts events by the second and by the minute, for an hour. The zero
// value is ready.
type pulse struct {
	mu             sync.Mutex
	last           time.Time // of the newest event
	seconds        [60]uint32
	minutes        [60]uint32
	second, minute int64 // since 1970, up to which they count
}

// beat counts events.
func (p *pulse) beat(events int, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.advance(now)
	p.last = now
	p.seconds[p.second%60] += uint32(events)
	p.minutes[p.minute%60] += uint32(events)
}

// advance clears what is longer ago than the clock shows. mu is held.
func (p *pulse) advance(now time.Time) {
	p.second = turn(&p.seconds, p.second, now.Unix())
	p.minute = turn(&p.minutes, p.minute, now.Unix()/60)
}

// turn clears the counters from one moment to another, and returns that.
func turn(counters *[60]uint32, from, to int64) int64 {
	if to-from >= 60 || to < from {
		clear(counters[:])
		return to
	}
	for t := from + 1; t <= to; t++ {
		counters[t%60] = 0
	}
	return to
}

// read returns the counters, the newest last, and when the newest event came.
func (p *pulse) read(now time.Time) (seconds, minutes []int, last time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.advance(now)
	seconds, minutes = make([]int, 60), make([]int, 60)
	for i := range int64(60) {
		seconds[i], minutes[i] = int(p.seconds[(p.second+1+i)%60]), int(p.minutes[(p.minute+1+i)%60])
	}
	return seconds, minutes, p.last
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

// sum adds up what all sources have sent in each of the last 60 seconds and
// minutes.
func (c *counts) sum(now time.Time) (minute int, minutes []int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	minutes = make([]int, 60)
	for _, in := range c.intakes {
		seconds, more, _ := in.pulse.read(now)
		for i := range 60 {
			minute += seconds[i]
			minutes[i] += more[i]
		}
	}
	return minute, minutes
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
		i.pulse.beat(events, time.Now())
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
