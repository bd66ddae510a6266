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
	"sync"
	"sync/atomic"
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
	gallery  *gallery
	absent   atomic.Pointer[string] // why commands cannot be passed on; nil if they can

	// Of Run, which alone uses them.
	out   sources.Output
	t     *translator
	loop  retry.Loop
	again bool // there was a connection before
	last  health.Status
	cause string    // of the failure before
	spoke bool      // the log says that there is no connection, or nothing yet
	name  string    // of the printer, for people; empty before the first connection
	came  time.Time // when the connection came up; zero while it has not
	// When the webcam's picture was wished for last, and the thumbnail of which
	// file; an empty one is none.
	shotAt time.Time
	shown  *job // nil is not known
}

// New makes a source; the error is that of Check.
func New(o Options, log zerolog.Logger) (*Source, error) {
	settings, err := o.settings()
	if err != nil {
		return nil, err
	}
	s := &Source{options: o, settings: settings, client: api.New(settings.client), log: log}
	s.gallery = newGallery(&s.options, &s.settings, s.client, log)
	s.away("event2mqtt does not connect to OctoPrint just now")
	return s, nil
}

// away has commands fail.
func (s *Source) away(why string) { s.absent.Store(&why) }

// present has commands passed on.
func (s *Source) present() { s.absent.Store(nil) }

// Probe implements sources.Prober: it logs in.
func (s *Source) Probe(ctx context.Context) (detail string, err error) {
	defer s.client.Close()
	defer func() { err = triedOnce(err) }()
	session, err := s.client.Login(ctx)
	if err == nil {
		err = s.options.lacking(session)
	}
	if err != nil {
		return "", err
	}
	version, err := s.client.Version(ctx)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("OctoPrint %s; the key is of user %s", version.Server, session.Name), nil
}

// triedOnce says an error without the promise that it is tried again.
func triedOnce(err error) error {
	if e, ok := errors.AsType[*api.Error](err); ok {
		switch e.Kind {
		case api.Away:
			return fmt.Errorf("%s; is it switched on and started, and is its url right?", e.Text)
		case api.Busy:
			return fmt.Errorf("%s; try again later", e.Text)
		}
	}
	return err
}

// Run implements sources.Source. An OctoPrint that is away, or takes the key no
// more, is no error: it is waited for.
//
// It does not leave that to sources.Connection: how long to wait depends on the
// cause, since OctoPrint locks out whoever comes three times a minute with a
// wrong key; a cause is said once though its words change, since a restart
// refuses connections, then shows a page, then answers 501; and its errors say
// by themselves what to do.
func (s *Source) Run(ctx context.Context, out sources.Output) error {
	defer s.client.Close()
	s.out, s.again, s.spoke = out, false, true
	s.loop = retry.Loop{Min: minPause, Max: maxPause, Steady: maxPause}
	s.t = newTranslator(&s.options, out.Positions()[positionKey], s.asks(ctx))
	s.shotAt = time.Time{}
	ctx, end := context.WithCancel(ctx)
	var pictures sync.WaitGroup
	defer pictures.Wait()
	defer end()
	s.gallery.begin(ctx)
	pictures.Go(func() { s.gallery.run(ctx, out) })
	defer s.away("event2mqtt does not connect to OctoPrint just now")
	out.Ready()
	s.away("event2mqtt has not connected to OctoPrint yet")
	s.tell(health.Lacking("connecting to OctoPrint at " + s.settings.url.String()))
	for {
		s.came = time.Time{}
		err := s.connect(ctx)
		if err != nil {
			s.away(err.Error())
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, sources.ErrClosed):
			return err
		}
		lasted := s.lasted()
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

// lasted is how long there was a connection. An attempt that takes long is none.
func (s *Source) lasted() time.Duration {
	if s.came.IsZero() {
		return 0
	}
	return time.Since(s.came)
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
