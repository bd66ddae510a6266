package octoprint

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"github.com/tidwall/gjson"

	"event2mqtt/internal/config"
	"event2mqtt/internal/event"
	"event2mqtt/internal/retry"
	"event2mqtt/internal/rules"
	"event2mqtt/internal/sources"
	"event2mqtt/internal/sources/octoprint/api"
)

// This file publishes pictures: of the webcam, and of what is printed.

// Keys of states.
const (
	keySnapshot  = "snapshot"
	keyThumbnail = "thumbnail"
)

// SnapshotConfig says when pictures of the webcam are taken.
type SnapshotConfig struct {
	Events  []string      `koanf:"events" example:"[PrintStarted, PrintDone]" doc:"At which events a picture of the webcam is published, by patterns of their names; left out, none."`
	Every   time.Duration `koanf:"every" default:"0s" off:"0s" min:"1s" max:"24h" doc:"How often a picture of the webcam is published while something is printed; 0s is never."`
	MaxSize config.Size   `koanf:"max_size" default:"1MiB" min:"1KiB" max:"16MiB" doc:"The largest picture that is published, of the webcam and of a file; publish.max_payload bounds it, too."`
	URL     config.Secret `koanf:"url" example:"http://192.0.2.7:8080/?action=snapshot" doc:"Where the webcam gives single pictures; left out, OctoPrint is asked for them, which asks the webcam that it knows."`
}

// on reports whether pictures are taken without being asked for.
func (c *SnapshotConfig) on() bool { return len(c.Events) > 0 || c.Every > 0 }

const (
	// snapshotPause is the shortest time after a picture that an event or the
	// time asked for, until the next: a burst of events makes few.
	snapshotPause = time.Second
	// Bounds of the pause after one that could not be had, unless a command asks
	// for it: a webcam that hangs holds OctoPrint up while it is asked.
	minPicturePause = 5 * time.Second
	maxPicturePause = 5 * time.Minute
)

// gallery takes pictures and reports them, one after the other. Its goroutine is
// Run's. What is wished meanwhile is done once, afterwards.
type gallery struct {
	config    *Options
	client    *api.Client
	camera    *api.Camera // nil if OctoPrint is asked
	log       zerolog.Logger
	asked     chan chan<- shot
	wishes    chan struct{} // cap 1: there is something to do
	taken     atomic.Bool   // there is a picture of the webcam
	mu        sync.Mutex    // guards what follows
	running   context.Context
	wantsShot bool
	wantsFile *job // whose thumbnail is to be shown; an empty path is none

	// Of the goroutine alone.
	webcam, files attempts
}

// shot is what came of a picture that was asked for.
type shot struct {
	size int
	err  error
}

// attempts are how often something has failed since it worked.
type attempts struct {
	loop retry.Loop
	next time.Time // not before
}

func newGallery(o *Options, s *settings, client *api.Client, log zerolog.Logger) *gallery {
	fresh := func() attempts { return attempts{loop: retry.Loop{Min: minPicturePause, Max: maxPicturePause}} }
	return &gallery{
		config: o, client: client, camera: s.camera, log: log,
		asked: make(chan chan<- shot), wishes: make(chan struct{}, 1), webcam: fresh(), files: fresh(),
	}
}

// wish has the goroutine look.
func (g *gallery) wish(change func()) {
	g.mu.Lock()
	change()
	g.mu.Unlock()
	select {
	case g.wishes <- struct{}{}:
	default:
	}
}

// shoot wishes for a picture.
func (g *gallery) shoot() { g.wish(func() { g.wantsShot = true }) }

// show wishes for the thumbnail of a file.
func (g *gallery) show(j job) { g.wish(func() { g.wantsFile = &j }) }

// ask takes a picture, and returns its size.
func (g *gallery) ask(ctx context.Context) (size int, err error) {
	g.mu.Lock()
	running := g.running
	g.mu.Unlock()
	if running == nil {
		return 0, errors.New("the source does not run")
	}
	answer := make(chan shot, 1)
	select {
	case g.asked <- answer:
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-running.Done():
		return 0, errors.New("the source is being stopped")
	}
	select {
	case s := <-answer:
		return s.size, s.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// begin notes that run is about to be called: what is asked from now on waits
// for it.
func (g *gallery) begin(ctx context.Context) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.running = ctx
}

// run does what is wished until ctx ends. begin was called with the same.
func (g *gallery) run(ctx context.Context, out sources.Output) {
	if g.camera != nil {
		defer g.camera.Close()
	}
	for {
		select {
		case <-ctx.Done():
			return
		case answer := <-g.asked:
			answer <- g.take(ctx, out)
		case <-g.wishes:
			g.mu.Lock()
			wantsShot, wantsFile := g.wantsShot, g.wantsFile
			g.wantsShot, g.wantsFile = false, nil
			g.mu.Unlock()
			if wantsFile != nil {
				g.thumbnail(ctx, out, *wantsFile)
			}
			if !wantsShot || time.Now().Before(g.webcam.next) {
				continue
			}
			g.take(ctx, out)
			if !retry.Sleep(ctx, snapshotPause) {
				return
			}
		}
	}
}

// take takes a picture of the webcam and reports it.
func (g *gallery) take(ctx context.Context, out sources.Output) shot {
	from := g.client.Snapshot
	if g.camera != nil {
		from = g.camera.Snapshot
	}
	picture, err := from(ctx, int64(g.config.Snapshot.MaxSize))
	if ctx.Err() != nil {
		return shot{err: errors.New("the source is being stopped")}
	}
	g.webcam.note(err, g.log, "the webcam's picture")
	if err != nil { // the last one stays
		return shot{err: err}
	}
	out.Report(event.State{Key: keySnapshot, Payload: picture})
	g.taken.Store(true)
	return shot{size: len(picture)}
}

// thumbnail reports the thumbnail of a file, or takes the state back if it has
// none.
func (g *gallery) thumbnail(ctx context.Context, out sources.Output, of job) {
	var picture []byte
	var err error
	if of.Path != "" {
		picture, err = g.fetch(ctx, of)
	}
	if ctx.Err() != nil {
		return
	}
	g.files.note(err, g.log, "the file's thumbnail")
	out.Report(event.State{Key: keyThumbnail, Payload: picture})
}

// fetch fetches the thumbnail of a file; it is empty if there is none.
func (g *gallery) fetch(ctx context.Context, of job) ([]byte, error) {
	whole, err := g.client.File(ctx, of.Origin, of.Path)
	if api.KindOf(err) == api.Foreign { // the file is gone, or OctoPrint knows no more than its name
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	at := thumbnailOf(gjson.ParseBytes(whole))
	if at == "" {
		return nil, nil
	}
	return g.client.Thumbnail(ctx, at, int64(g.config.Snapshot.MaxSize))
}

// note notes how an attempt has ended. The log says each new cause once, and
// that it works again.
func (a *attempts) note(err error, log zerolog.Logger, what string) {
	if err == nil {
		if a.loop.Failures() > 0 {
			log.Info().Msgf("octoprint: %s can be had again", what)
		}
		a.loop.Reset()
		a.next = time.Time{}
		return
	}
	pause, fresh := a.loop.Next(err, 0)
	a.next = time.Now().Add(pause)
	if fresh {
		log.Warn().Err(err).Msgf("octoprint: %s cannot be had", what)
	}
}

// watch wishes for the pictures that what was just told asks for.
func (s *Source) watch(r *result, now time.Time) {
	if !s.t.pictured && s.gallery.taken.Load() { // the command was allowed later on
		s.t.pictured = true
		s.out.Describe(s.t.describe(s.settings.url, s.name))
	}
	c := &s.options.Snapshot
	for i := range r.events {
		e := &r.events[i]
		if rules.MatchesName(c.Events, e.Name) && !gjson.GetBytes(e.Payload, "late").Bool() {
			s.gallery.shoot()
			s.shotAt = now
		}
		if s.options.Thumbnail && e.Name == "MetadataAnalysisFinished" && gjson.GetBytes(e.Payload, "path").Str == s.t.job.Path {
			s.shown = nil // its plugin may have come to it only now
		}
	}
	if c.Every > 0 && s.t.printing && now.Sub(s.shotAt) >= c.Every {
		s.gallery.shoot()
		s.shotAt = now
	}
	if now := (job{Path: s.t.job.Path, Origin: s.t.job.Origin, Size: s.t.job.Size}); s.options.Thumbnail && !s.t.caught.IsZero() && (s.shown == nil || now != *s.shown) {
		s.shown = &now
		s.gallery.show(now)
	}
}

// thumbnailOf is where the thumbnail of a file is, by its metadata: plugins say
// it under thumbnail, below OctoPrint's address, and OctoPrint 2.0 with what it
// takes for its own address before.
func thumbnailOf(file gjson.Result) string {
	if at := file.Get("thumbnail").Str; at != "" {
		return at
	}
	at := file.Get("refs.thumbnail").Str
	if i := strings.Index(at, "/downloads/thumbs/"); i >= 0 {
		return at[i:]
	}
	return ""
}
