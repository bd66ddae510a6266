package octoprint

import (
	"context"
	"errors"
	"time"

	"event2mqtt/internal/event"
	"event2mqtt/internal/health"
	"event2mqtt/internal/sources"
)

// This file hands over what comes of frames.

// lastPatience is how much longer storing may take when the program ends.
const lastPatience = 2 * time.Second

// deliver stores events, waiting for as long as that is not possible, and
// reports states. When the program ends it still tries for lastPatience. On
// error the translator is back at what was stored last, so that what was not is
// found again.
func (s *Source) deliver(ctx context.Context, r result) error {
	ctx, cancel := outlast(ctx, lastPatience)
	defer cancel()
	err := s.hand(ctx, r)
	if err != nil {
		s.t.rewind(s.out.Positions()[positionKey])
		s.t.unstored = true
	}
	return err
}

// outlast returns a context that ends that much later than ctx.
func outlast(ctx context.Context, by time.Duration) (context.Context, context.CancelFunc) {
	longer, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		timer := time.AfterFunc(by, cancel)
		context.AfterFunc(longer, func() { timer.Stop() })
	})
	return longer, func() { stop(); cancel() }
}

func (s *Source) hand(ctx context.Context, r result) error {
	if len(r.states) > 0 {
		s.out.Report(r.states...)
	}
	if r.describe {
		s.out.Describe(s.t.describe(s.settings.url, s.name))
	}
	if r.skipped {
		s.log.Warn().Msgf("octoprint: OctoPrint lists more than %d doings of the printer that were missed; the oldest are skipped", maxLate)
	}
	if err := s.emit(ctx, r.events); err != nil {
		return err
	}
	if r.mark {
		return s.store(ctx, func() error { return s.out.Mark(ctx, s.t.pos.stored()) })
	}
	return nil
}

// emit stores events together, and one by one if one of them is refused.
func (s *Source) emit(ctx context.Context, events []event.Event) error {
	if len(events) == 0 {
		return nil
	}
	err := s.store(ctx, func() error {
		_, err := s.out.Emit(ctx, events...)
		return err
	})
	refused, is := errors.AsType[*event.Refused](err)
	switch {
	case !is:
		return err
	case len(events) > 1:
		for i := range events {
			if err := s.emit(ctx, events[i:i+1]); err != nil {
				return err
			}
		}
		return nil
	}
	s.log.Error().Str("event", events[0].Name).Str("reason", refused.Reason).Msg("octoprint: this event cannot be accepted and is skipped")
	if p := events[0].Position; p.Key != "" {
		return s.store(ctx, func() error { return s.out.Mark(ctx, p) })
	}
	return nil
}

// store calls put until it works, ctx ends, or what is stored is refused for
// good. Meanwhile nothing is read.
func (s *Source) store(ctx context.Context, put func() error) error {
	return sources.Store(ctx, put, func(err error) {
		if err == nil {
			s.log.Info().Msg("octoprint: events are stored again")
			s.tell(s.running())
			return
		}
		s.log.Warn().Err(err).Msg("octoprint: events cannot be stored; reading pauses until they can")
		s.tell(health.Trouble(err))
	})
}
