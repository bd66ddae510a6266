package sources

import (
	"context"
	"errors"
	"time"

	"event2mqtt/internal/event"
	"event2mqtt/internal/retry"
)

// Bounds of the pause before what could not be stored is offered again.
const (
	minStorePause = 50 * time.Millisecond
	maxStorePause = 5 * time.Second
)

// Store calls store, which is Emit or Mark of an Output, until that works: while
// there is no room, it is called again with the same. waits, which may be nil,
// is told of each new cause to wait, and of nil when the waiting is over. The
// error is a *event.Refused, ErrClosed, or what there was when ctx ended.
func Store(ctx context.Context, store func() error, waits func(err error)) error {
	again := retry.Loop{Min: minStorePause, Max: maxStorePause}
	for {
		err := store()
		_, refused := errors.AsType[*event.Refused](err)
		if (err == nil || refused) && again.Failures() > 0 && waits != nil {
			waits(nil)
		}
		if err == nil || refused || errors.Is(err, ErrClosed) || ctx.Err() != nil {
			return err
		}
		pause, fresh := again.Next(err, 0)
		if fresh && waits != nil {
			waits(err)
		}
		if !retry.Sleep(ctx, pause) {
			return ctx.Err()
		}
	}
}
