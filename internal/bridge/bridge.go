// Package bridge is the supervisor: it builds the components that a
// configuration asks for, starts them in order, keeps them running, says how
// they are, and stops them so that nothing accepted is lost. What they do is
// theirs; this package knows only how they fit together.
package bridge

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/google/renameio/v2"
	"github.com/rs/zerolog"

	"event2mqtt/internal/broker"
	"event2mqtt/internal/config"
	"event2mqtt/internal/event"
	"event2mqtt/internal/journal"
	"event2mqtt/internal/sinks/mqtt"
	"event2mqtt/internal/sources"
	"event2mqtt/internal/web"
)

// mainSink is the name of the cursor of the sink that the mqtt section
// describes. It stays when that moves from one broker to another.
const mainSink = "mqtt"

// Bridge is a configuration brought to life.
type Bridge struct {
	plan     *Plan
	stateDir string
	log      zerolog.Logger

	journal    *journal.Journal
	cursor     *journal.Cursor
	states     *event.States
	normaliser event.Normaliser
	broker     *bundledBroker // nil with an external one
	sink       *mqtt.Sink
	web        *web.Server
	sources    []*component
	sinkPart   *component

	unlockJournal func()
}

// New returns a bridge that keeps its files below stateDir.
func New(plan *Plan, stateDir string, log zerolog.Logger) *Bridge {
	return &Bridge{
		plan: plan, stateDir: stateDir, log: log, states: event.NewStates(),
		normaliser: event.Normaliser{
			TimestampField: plan.Publish.TimestampField, Millis: plan.Publish.TimestampMillis, MaxPayload: int(plan.MaxPayload),
		},
	}
}

// Run runs the bridge until ctx ends, then stops sources, lets the sinks
// deliver what is stored for at most the shutdown time-out, and stops the
// rest. The error is why it could not start.
func (b *Bridge) Run(ctx context.Context) error {
	if err := os.MkdirAll(b.stateDir, 0o700); err != nil {
		return fmt.Errorf("make the state folder: %w (choose another with --state-dir)", err)
	}
	unlock, err := lockDir(b.stateDir)
	if err != nil {
		return err
	}
	defer unlock()
	httpListener, err := listenOn("http.listen", b.plan.HTTP.Listen)
	if err != nil {
		return err
	}
	defer httpListener.Close()
	if len(b.plan.MQTT.URL) == 0 {
		if b.broker, err = openBroker(b.plan, b.stateDir, b.log); err != nil {
			return err
		}
		defer b.broker.close()
	}
	if err := b.openJournal(); err != nil {
		return err
	}
	defer func() {
		if err := b.journal.Close(); err != nil {
			b.log.Error().Err(err).Msg("journal was not closed cleanly; some events may be sent twice after the next start")
		}
		b.unlockJournal()
	}()
	if err := b.build(); err != nil {
		return err
	}
	b.greet(httpListener)

	// Later ones depend on earlier ones, so they stop in the other order.
	var sinkGroup, sourceGroup sync.WaitGroup
	sinkCtx, stopSinks := context.WithCancel(context.WithoutCancel(ctx))
	defer stopSinks()
	if b.broker != nil {
		b.broker.serve()
	}
	sinkGroup.Go(func() {
		b.sinkPart.keepRunning(sinkCtx, func(ctx context.Context) error { return b.sink.Run(ctx, b.cursor, b.states) })
	})
	for _, c := range b.sources {
		sourceGroup.Go(func() {
			c.keepRunning(ctx, func(ctx context.Context) error { return c.source.Run(ctx, output{b, c.name}) })
		})
	}
	webCtx, stopWeb := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWeb()
	sourceGroup.Go(func() {
		if err := b.web.Serve(webCtx, httpListener, b.plan.ShutdownTimeout/2); err != nil {
			b.log.Error().Err(err).Msg("http: stopped serving")
		}
	})
	watchdog := b.notifySystemd(sinkCtx)

	<-ctx.Done()
	b.log.Info().Msg("stopping")
	_, _ = daemon.SdNotify(false, daemon.SdNotifyStopping)
	stopWeb()
	sourceGroup.Wait()
	b.drain()
	stopSinks()
	sinkGroup.Wait()
	if b.broker != nil {
		b.broker.close()
	}
	watchdog.Wait()
	return nil
}

// listenOn opens a TCP socket.
func listenOn(key, address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	switch {
	case err == nil:
		return l, nil
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("cannot listen on %s: another program listens there already; stop it, or choose another address with %s", address, key)
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("cannot listen on %s: this user may not; choose a port above 1023 with %s", address, key)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("cannot listen on %s: this machine does not have that address; correct %s", address, key)
	}
	return nil, fmt.Errorf("cannot listen on %s (%s): %w", address, key, err)
}

func (b *Bridge) openJournal() (err error) {
	c := b.plan.Journal
	dir := c.Path
	if dir == "" {
		dir = filepath.Join(b.stateDir, "journal")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the journal's folder: %w", err)
	}
	if b.unlockJournal, err = lockDir(dir); err != nil { // it may be elsewhere, and shared
		return err
	}
	b.journal, err = journal.Open(journal.Options{
		FS: journal.DirFS(dir), MaxSize: int64(c.MaxSize), MaxAge: c.MaxAge, Sync: c.Sync, SyncEvery: c.SyncInterval,
		WhenFull: c.WhenFull, Log: b.log,
	})
	if err != nil {
		b.unlockJournal()
	}
	return err
}

// build makes the components. Nothing runs yet.
func (b *Bridge) build() (err error) {
	if b.cursor, err = b.journal.Cursor(mainSink); err != nil {
		return err
	}
	options := mqtt.Options{Config: b.plan.MQTT, Publish: b.plan.Publish, ID: b.journal.ID, Log: b.log}
	if len(options.Config.URL) == 0 {
		options.Bundled = b.broker
	}
	if options.Config.ClientID == "" {
		if options.Config.ClientID, err = clientID(b.stateDir); err != nil {
			return err
		}
	}
	if b.sink, err = mqtt.New(options); err != nil {
		return err
	}
	b.sinkPart = newComponent("sink "+mainSink, b.log)
	b.web = web.New(b.plan.HTTP, b.health, b.log)
	if b.broker != nil && b.plan.Broker.WebSocket.HTTP {
		b.web.Handle(broker.WebSocketPath, b.broker.WebSocket(b.plan.Broker.WebSocket.Origins))
	}
	for _, o := range b.plan.sources {
		name := o.common().Name
		source, err := o.build(deps{b.web, b.log.With().Str("source", name).Logger()})
		if err != nil {
			return fmt.Errorf("source %s: %w", name, err)
		}
		c := newComponent("source "+name, b.log)
		c.name, c.source = name, source
		b.sources = append(b.sources, c)
	}
	return nil
}

// greet says where everything is and what to try.
func (b *Bridge) greet(httpListener net.Listener) {
	if b.broker != nil {
		b.log.Info().Msgf("MQTT broker listens on %s", b.broker.addresses())
	} else {
		b.log.Info().Msgf("events go to %s", strings.Join(b.plan.MQTT.URL, ", "))
	}
	b.log.Info().Msgf("HTTP listens on %s; events are kept in %s until they are delivered", httpListener.Addr(), b.stateDir)
	for _, o := range b.plan.sources {
		if o.common().Type == "webhook" {
			b.log.Info().Msgf(`try: curl -d '{"event":"PrintStarted","file":"a.gcode"}' %s/hooks/%s`, httpListener.Addr(), o.common().Name)
			return
		}
	}
}

// drain waits until the sink has delivered what is stored, if it can.
func (b *Bridge) drain() {
	deadline := time.Now().Add(b.plan.ShutdownTimeout)
	for time.Now().Before(deadline) && b.cursor.Lag() > 0 && b.sink.Health().OK {
		time.Sleep(5 * time.Millisecond)
	}
	if n := b.cursor.Lag(); n > 0 {
		b.log.Info().Uint64("events", n).Msg("not delivered yet; kept for the next start")
	}
}

// health says whether events are taken, and how each part is.
func (b *Bridge) health() (bool, []web.Component) {
	stats := b.journal.Stats()
	sink := b.sink.Health()
	failure := b.journal.Failure()
	detail := fmt.Sprintf("%s in %d files; newest event %d", config.Size(stats.Bytes), stats.Segments, stats.Last)
	if failure != nil {
		detail = fmt.Sprintf("cannot store events: %v", failure)
	}
	parts := []web.Component{
		{Name: "journal", OK: failure == nil, Detail: detail},
		{Name: "sink " + mainSink, OK: sink.OK, Detail: fmt.Sprintf("%s; %d events wait", sink.Detail, b.cursor.Lag())},
	}
	ready := failure == nil
	for _, c := range b.sources {
		h := c.health()
		ready = ready && h.OK
		parts = append(parts, web.Component{Name: "source " + c.name, OK: h.OK, Detail: h.Detail})
	}
	return ready, parts
}

// notifySystemd says that the bridge is ready, and then that it is alive for
// as long as the disk lets the journal write, if the service manager wants to know.
func (b *Bridge) notifySystemd(ctx context.Context) *sync.WaitGroup {
	var wg sync.WaitGroup
	_, _ = daemon.SdNotify(false, daemon.SdNotifyReady)
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil || interval == 0 {
		return &wg
	}
	wg.Go(func() {
		tick := time.NewTicker(interval / 3)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if b.journal.Alive(interval / 3) {
					_, _ = daemon.SdNotify(false, daemon.SdNotifyWatchdog)
				}
			}
		}
	})
	return &wg
}

// output is what one source delivers to.
type output struct {
	b      *Bridge
	source string
}

var _ sources.Output = output{}

func (o output) Emit(ctx context.Context, events ...event.Event) (sources.Receipt, error) {
	events = slices.Clone(events) // the caller may offer them again as they were
	for i := range events {
		events[i].Source = o.source
		if err := o.b.normaliser.Normalise(&events[i]); err != nil {
			return nil, err
		}
	}
	seq, err := o.b.journal.Append(ctx, events...)
	if errors.Is(err, journal.ErrTooLarge) {
		return nil, &event.Refused{TooLarge: true, Reason: err.Error()}
	}
	if err != nil {
		return nil, err
	}
	return receipt{o.b.cursor, seq}, nil
}

func (o output) Report(states ...event.State) { o.b.states.Report(states...) }

func (o output) Mark(ctx context.Context, positions ...event.Position) error {
	marks := make([]event.Event, len(positions))
	for i, p := range positions {
		marks[i] = event.Event{Source: o.source, Position: p}
	}
	_, err := o.b.journal.Append(ctx, marks...)
	return err
}

func (o output) Positions() map[string][]byte { return o.b.journal.Positions(o.source) }

func (o output) Forget(key string) { o.b.journal.Forget(o.source, key) }

type receipt struct {
	cursor *journal.Cursor
	seq    uint64
}

func (r receipt) Delivered(ctx context.Context) error { return r.cursor.Delivered(ctx, r.seq) }

// clientID returns the MQTT client id of this installation, made once.
func clientID(stateDir string) (string, error) {
	path := filepath.Join(stateDir, "client_id")
	if text, err := os.ReadFile(path); err == nil {
		if id := strings.TrimSpace(string(text)); id != "" && len(id) <= 64 {
			return id, nil
		}
	}
	// At most 23 letters and digits: what every broker must take (MQTT-3.1.3-5).
	id := "event2mqtt" + strings.ToLower(rand.Text()[:10])
	if err := renameio.WriteFile(path, []byte(id+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("keep the client id: %w", err)
	}
	return id, nil
}
