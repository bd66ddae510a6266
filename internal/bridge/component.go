package bridge

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/rs/zerolog"

	"event2mqtt/internal/sinks"
	"event2mqtt/internal/sources"
)

// component is a part that is kept running.
type component struct {
	title  string
	name   string
	source sources.Source // of sources
	log    zerolog.Logger

	mu    sync.Mutex
	state sinks.Health
}

func newComponent(title string, log zerolog.Logger) *component {
	return &component{title: title, log: log, state: sinks.Health{Detail: "not started"}}
}

// steady is how long a component must have run for its failures to be
// forgotten.
const steady = time.Minute

// keepRunning runs the component until ctx ends. When it fails it is started
// again, after a pause that grows; the failure is logged and shown.
func (c *component) keepRunning(ctx context.Context, run func(context.Context) error) {
	pause := backoff.NewExponentialBackOff()
	pause.MaxInterval = time.Minute
	for {
		started := time.Now()
		c.set(true, "running")
		err := guard(ctx, run)
		if ctx.Err() != nil {
			c.set(false, "stopped")
			return
		}
		if err == nil {
			err = errors.New("ended without a reason")
		}
		if time.Since(started) > steady {
			pause.Reset()
		}
		wait := pause.NextBackOff()
		c.set(false, fmt.Sprintf("failed: %v", err))
		c.log.Error().Err(err).Msgf("%s failed; it is started again in %s", c.title, wait.Round(time.Millisecond))
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// guard makes an error of a panic: one source's bug must not end the others.
func guard(ctx context.Context, run func(context.Context) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return run(ctx)
}

func (c *component) set(ok bool, detail string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state = sinks.Health{OK: ok, Detail: detail}
}

func (c *component) health() sinks.Health {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}
