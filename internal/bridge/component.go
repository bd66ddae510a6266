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
)

// component is a part that is kept running: a source, the sink, the HTTP
// server.
type component struct {
	title string
	// spec is what the component was built of: an equal one asks for no other.
	spec any
	// part is what runs; nil where nobody asks it anything.
	part any
	// alone is set if it cannot run beside the one that takes its place.
	alone bool
	// watch, if set, tells what a part that runs cannot do just now.
	watch func() (ok bool, detail string)
	// run does the work until ctx ends, and calls ready once it has begun.
	run func(ctx context.Context, ready func()) error
	log zerolog.Logger

	// Of start and stop, which take turns.
	cancel context.CancelFunc
	wg     sync.WaitGroup
	first  chan error // cap 1: nil when it has begun, or why it could not

	mu    sync.Mutex
	state sinks.Health
	since time.Time // when it was started
}

// start starts the component. It goes on until stop.
func (c *component) start() {
	ctx, cancel := context.WithCancel(context.Background())
	c.cancel, c.first = cancel, make(chan error, 1)
	c.mu.Lock()
	c.since = time.Now()
	c.mu.Unlock()
	c.wg.Go(func() { c.keepRunning(ctx) })
}

// stop ends the component and waits for that. It may be called again, and
// start after it.
func (c *component) stop() {
	if c.cancel != nil {
		c.cancel()
	}
	c.wg.Wait()
}

// begun waits until the component has begun, at most until ctx ends, and
// returns why it could not.
func (c *component) begun(ctx context.Context) error {
	select {
	case err := <-c.first:
		if err != nil {
			return fmt.Errorf("start %s: %w", c.title, err)
		}
	case <-ctx.Done():
	}
	return nil
}

// steady is how long a component must have run for its failures to be
// forgotten.
const steady = time.Minute

// keepRunning runs the component until ctx ends. When it fails it is started
// again, after a pause that grows; the failure is logged and shown.
func (c *component) keepRunning(ctx context.Context) {
	pause := backoff.NewExponentialBackOff()
	pause.MaxInterval = time.Minute
	for {
		started := time.Now()
		c.set(true, "running")
		err := guard(ctx, func(ctx context.Context) error { return c.run(ctx, func() { c.tell(nil) }) })
		if ctx.Err() != nil {
			c.set(false, "stopped")
			return
		}
		if err == nil {
			err = errors.New("ended without a reason")
		}
		c.tell(err)
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

// tell notes how the first attempt went.
func (c *component) tell(err error) {
	select {
	case c.first <- err:
	default:
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

// troubled says what a part that runs cannot do just now, if there is such.
func (c *component) troubled() (detail string) {
	if c.watch == nil {
		return ""
	}
	_, detail = c.watch()
	return detail
}

func (c *component) health() (h sinks.Health, since time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state, c.since
}
