// Package octoprint is the source that connects to OctoPrint's push API: its
// events as it says them, in order, and its states. What happened while there
// was no connection it finds in what OctoPrint remembers, and tells once. It
// changes nothing at OctoPrint. docs/octoprint.md says what comes of what, and
// what OctoPrint does not push.
package octoprint

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rs/zerolog"

	"event2mqtt/internal/health"
	"event2mqtt/internal/retry"
	"event2mqtt/internal/sources"
	"event2mqtt/internal/sources/octoprint/api"
)

// Bounds of the pause between two attempts to connect. OctoPrint allows three
// wrong logins a minute.
const (
	minPause      = time.Second
	maxPause      = 30 * time.Second
	wrongKeyPause = 30 * time.Second
)

// Build implements sources.Options.
func (o *Options) Build(d sources.Deps) (sources.Source, error) { return New(*o, d.Log) }

// Source is an octoprint source.
type Source struct {
	options  Options
	settings settings
	client   *api.Client
	log      zerolog.Logger

	// Of Run, which alone uses them.
	out   sources.Output
	t     *translator
	loop  retry.Loop
	again bool // there was a connection before
	full  bool // events cannot be stored
	last  health.Status
	cause string // of the failure before
	spoke bool   // the log says that there is no connection, or nothing yet
	name  string // of the printer, for people; empty before the first connection
}

// New makes a source; the error is that of Check.
func New(o Options, log zerolog.Logger) (*Source, error) {
	settings, err := o.settings()
	if err != nil {
		return nil, err
	}
	return &Source{options: o, settings: settings, client: api.New(settings.client), log: log}, nil
}

// Probe implements sources.Prober: it logs in.
func (s *Source) Probe(ctx context.Context) (detail string, err error) {
	defer s.client.Close()
	session, err := s.client.Login(ctx)
	if err != nil {
		return "", err
	}
	version, err := s.client.Version(ctx)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("OctoPrint %s; the key is of user %s", version.Server, session.Name), nil
}

// Run implements sources.Source. An OctoPrint that is away, or takes the key no
// more, is no error: it is waited for.
func (s *Source) Run(ctx context.Context, out sources.Output) error {
	defer s.client.Close()
	s.out, s.again, s.full, s.spoke = out, false, false, true
	s.loop = retry.Loop{Min: minPause, Max: maxPause, Steady: maxPause}
	s.t = newTranslator(&s.options, out.Positions()[positionKey], s.asks(ctx))
	out.Ready()
	s.tell(health.Lacking("connecting to OctoPrint at " + s.settings.url.String()))
	for {
		began := time.Now()
		err := s.connect(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, sources.ErrClosed):
			return err
		}
		lasted := time.Since(began)
		news := s.isNews(err, lasted)
		pause, _ := s.loop.Next(err, lasted)
		if api.KindOf(err) == api.Key {
			pause = max(pause, wrongKeyPause)
		}
		s.tell(health.Trouble(err))
		if news != zerolog.NoLevel {
			s.log.WithLevel(news).Msgf("octoprint: %s", err)
			s.spoke = true
		}
		if !retry.Sleep(ctx, pause) {
			return nil
		}
	}
}

// asks are the questions that the translator may ask.
func (s *Source) asks(ctx context.Context) asks {
	answer := func(raw []byte, err error) []byte {
		if err != nil {
			s.log.Debug().Err(err).Msg("octoprint: what is known of files cannot be had")
			return nil
		}
		return raw
	}
	return asks{
		file:  func(origin, path string) []byte { return answer(s.client.File(ctx, origin, path)) },
		files: func() []byte { return answer(s.client.Files(ctx)) },
	}
}

// isNews returns how loud a failure is to be said; NoLevel is not at all. What
// follows from the same cause is said once: an OctoPrint that restarts refuses
// connections first, then shows a page. That a connection has ended is no news
// for its own: the next attempt tells why, if there is more to it.
func (s *Source) isNews(err error, lasted time.Duration) zerolog.Level {
	cause := err.Error()
	kind, known := errors.AsType[*api.Error](err)
	_, lost := errors.AsType[*lostError](err)
	if known {
		cause = kind.Kind.String()
	}
	fresh := s.loop.Failures() == 0 || lasted >= s.loop.Steady || cause != s.cause
	s.cause = cause
	switch {
	case !fresh:
		return zerolog.NoLevel
	case lost:
		return zerolog.InfoLevel
	}
	return zerolog.WarnLevel
}

// tell tells how the source is, if that is new.
func (s *Source) tell(status health.Status) {
	if status != s.last {
		s.last = status
		s.out.Tell(status)
	}
}
