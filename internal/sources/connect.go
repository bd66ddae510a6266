package sources

import (
	"context"
	"errors"
	"time"

	"github.com/rs/zerolog"

	"event2mqtt/internal/health"
	"event2mqtt/internal/retry"
)

// Connection keeps a source connected to its peer, and says how that is.
type Connection struct {
	Peer string // for people, such as ws://octopi.local
	Log  zerolog.Logger
	// Min and Max bound the pause before it connects again. Zero is as for a
	// retry.Loop.
	Min, Max time.Duration
}

// Run calls session until ctx ends, whose error it returns. session connects,
// calls up once the peer is there, and returns when the connection has ended,
// with the cause; it is called again after a pause. out is told of each change at
// once. The log has one line when the peer comes and one when it goes, however
// often connecting fails, and one for each new cause why it does not come.
func (c Connection) Run(ctx context.Context, out Output, session func(ctx context.Context, up func()) error) error {
	s := connection{Connection: c, out: out}
	again := retry.Loop{Min: c.Min, Max: c.Max}
	out.Tell(health.Lacking("connecting to " + c.Peer))
	for {
		err := session(ctx, s.up)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		// Only a connection can be steady: an attempt may last for minutes, too.
		pause, fresh := again.Next(err, s.lasted())
		s.failed(err, fresh)
		if !retry.Sleep(ctx, pause) {
			return ctx.Err()
		}
	}
}

// connection is a Connection that runs.
type connection struct {
	Connection
	out  Output
	isUp bool
	came time.Time // when it came up
	// lost is why the last connection has ended. It is logged with what follows:
	// that the peer cannot be reached, or that it is back.
	lost error
}

func (s *connection) up() {
	if s.isUp {
		return
	}
	s.isUp, s.came = true, time.Now()
	if s.lost != nil {
		s.Log.Info().AnErr("lost", s.lost).Msgf("connected to %s again; the connection was lost", s.Peer)
		s.lost = nil
	} else {
		s.Log.Info().Msgf("connected to %s", s.Peer)
	}
	s.out.Tell(health.Running("connected to " + s.Peer)) // whoever sees it finds it in the log
}

// lasted is how long there was a connection in the session that has ended.
func (s *connection) lasted() time.Duration {
	if !s.isUp {
		return 0
	}
	return time.Since(s.came)
}

// failed says that a session has ended.
func (s *connection) failed(err error, fresh bool) {
	if err == nil {
		err = errors.New("the connection has ended")
	}
	s.out.Tell(health.Trouble(err))
	switch {
	case s.isUp:
		s.isUp, s.lost = false, err
	case s.lost != nil:
		s.Log.Warn().Err(err).AnErr("lost", s.lost).Msgf("the connection to %s was lost, and it cannot be reached; event2mqtt waits for it", s.Peer)
		s.lost = nil
	case fresh:
		s.Log.Warn().Err(err).Msgf("%s cannot be reached; event2mqtt waits for it", s.Peer)
	}
}
