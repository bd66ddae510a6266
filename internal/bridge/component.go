package bridge

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"event2mqtt/internal/health"
	"event2mqtt/internal/journal"
	"event2mqtt/internal/retry"
)

// component is a part that is kept running: a source, a sink, the HTTP server.
type component struct {
	title string // such as "source octo", unique
	name  string // as configured
	// spec is what the component was built of: an equal one asks for no other.
	spec any
	// part is what runs, such as a sources.Source.
	part any
	// cursor is set for a sink, and place, if it was not taken over from another,
	// says where it begins.
	cursor *journal.Cursor
	place  string
	// alone is set if it cannot run beside the one that takes its place.
	alone bool
	// last is set for what begins when all others have, so that whoever it lets
	// in finds them, and whose end the next change does not wait for.
	last bool
	// run does the work until ctx ends, and calls ready once it has begun.
	run func(ctx context.Context, ready func()) error
	log zerolog.Logger

	health health.Record

	// Of start and stop, which take turns.
	cancel context.CancelFunc
	wg     sync.WaitGroup
	first  chan error // cap 1: nil when it has begun, or why it could not

	mu      sync.Mutex
	started time.Time
}

// start starts the component. It goes on until stop.
func (c *component) start() {
	ctx, cancel := context.WithCancel(context.Background())
	c.cancel, c.first = cancel, make(chan error, 1)
	c.mu.Lock()
	c.started = time.Now()
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

// keepRunning runs the component until ctx ends. When it fails it is started
// again, after a pause that grows; the failure is logged and shown.
func (c *component) keepRunning(ctx context.Context) {
	loop := retry.Loop{Failed: func(err error, fresh bool, pause time.Duration) {
		c.begin(err)
		c.health.Tell(health.Failure(err))
		if fresh {
			c.log.Error().Err(err).Msgf("%s failed; it is started again in %s, and then as often as it takes", c.title, pause.Round(time.Millisecond))
		}
	}}
	_ = loop.Run(ctx, func(ctx context.Context) error {
		c.health.Tell(health.Lacking(starting))
		err := guard(ctx, func(ctx context.Context) error { return c.run(ctx, c.ready) })
		if err == nil && ctx.Err() == nil {
			err = errors.New("ended without a reason")
		}
		return err
	})
	c.health.Tell(health.Lacking("stopped"))
}

// starting is what is said of a component that has not begun.
const starting = "starting"

// ready notes that the component has begun. It is up then, unless it has said
// something else already.
func (c *component) ready() {
	c.begin(nil)
	if c.health.Report().Detail == starting {
		c.health.Tell(health.Running("running"))
	}
}

// begin notes how the first attempt went.
func (c *component) begin(err error) {
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

// since is when the component was started.
func (c *component) since() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.started
}

// lag is how many events a sink has not delivered yet.
func (c *component) lag() uint64 { return c.cursor.Lag() }
