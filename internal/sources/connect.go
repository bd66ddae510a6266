package sources

import (
	"context"
	"errors"
	"time"

	"github.com/rs/zerolog"

	"event2mqtt/internal/health"
	"event2mqtt/internal/retry"
)

// Connect keeps a source connected to its peer until ctx ends, and returns ctx's
// error. session connects, calls up once the peer is there, and returns when the
// connection has ended, with the cause; it is called again after a pause. A
// connection that cannot be made is waited for: out is told so, and the log has
// one line when the peer comes, one when it goes, and one for each new cause why
// it does not come. peer names it, such as ws://octopi.local.
func Connect(ctx context.Context, out Output, log zerolog.Logger, peer string, session func(ctx context.Context, up func()) error) error {
	connected := false
	loop := retry.Loop{Failed: func(err error, fresh bool, _ time.Duration) {
		if err == nil {
			err = errors.New("the connection has ended")
		}
		out.Tell(health.Trouble(err))
		switch {
		case connected:
			log.Warn().Err(err).Msgf("the connection to %s is lost; event2mqtt connects again when it can", peer)
		case fresh:
			log.Warn().Err(err).Msgf("%s cannot be reached; event2mqtt waits for it", peer)
		}
		connected = false
	}}
	out.Tell(health.Lacking("connecting to " + peer))
	return loop.Run(ctx, func(ctx context.Context) error {
		return session(ctx, func() {
			if connected {
				return
			}
			connected = true
			out.Tell(health.Running("connected to " + peer))
			log.Info().Msgf("connected to %s", peer)
		})
	})
}
