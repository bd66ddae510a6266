// Package bridge is the supervisor: it builds the components that a
// configuration asks for, starts them in order, keeps them running, says how
// they are, and stops them so that nothing accepted is lost. What they do is
// theirs; this package knows only how they fit together.
package bridge

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/google/renameio/v2"
	"github.com/rs/zerolog"

	"event2mqtt/internal/api"
	"event2mqtt/internal/broker"
	"event2mqtt/internal/commands"
	"event2mqtt/internal/config"
	"event2mqtt/internal/config/file"
	"event2mqtt/internal/control"
	"event2mqtt/internal/event"
	"event2mqtt/internal/health"
	"event2mqtt/internal/journal"
	"event2mqtt/internal/listen"
	"event2mqtt/internal/refused"
	"event2mqtt/internal/trace"
	"event2mqtt/internal/web"
)

// Options are what a Bridge needs.
type Options struct {
	Plan *Plan
	// Load reads the configuration again for a reload. Nil means that there is
	// none to read.
	Load func() (*Plan, error)
	// File is watched: when it changes, it is reloaded. May be empty.
	File     string
	StateDir string // where files are kept
	Log      zerolog.Logger
	// SetLog changes the form of the log. May be nil.
	SetLog func(LogConfig)
	// TapLog has tap called with each line of the log, as JSON, from now on,
	// until it is called with nil. tap must not log, nor wait. May be nil.
	TapLog func(tap func(line []byte))
}

// Bridge is a configuration brought to life.
type Bridge struct {
	opt      Options
	stateDir string
	logs     *logs
	log      zerolog.Logger // of the part bridge
	setLog   func(LogConfig)
	fault    func(component string) error // tests let components fail with it

	journal   *journal.Journal
	required  atomic.Pointer[[]*journal.Cursor] // of the sinks that a receipt waits for
	states    *event.States
	presence  presence
	settle    time.Duration // settleAfter, but in tests
	devices   *devices
	refused   *refused.Folder
	trace     *trace.Ring
	web       *web.Server
	sockets   *listen.Sockets
	pipeline  atomic.Pointer[pipeline]
	reloads   chan reloadRequest
	noReloads chan struct{} // closed when no reload is taken any more

	// What ends later than what it belonged to.
	replaced sync.WaitGroup // parts that others took the place of
	draining sync.WaitGroup // HTTP servers that clients have yet to leave
	// HTTP clients may stay connected while idleHTTP lasts, and finish their
	// requests while openRequests does. Both last as long as the program.
	idleHTTP, openRequests context.Context
	dropIdle, dropRequests context.CancelFunc

	heldChanged chan struct{}   // cap 1: what rules hold may be due at another time
	sinkRemoved chan struct{}   // cap 1: so it is, or journal.keep has changed
	access      *control.Access // the token of this run
	ears        ears
	mirrored    mirrored
	announcer   *announcer
	commands    *commands.Desk
	telling     tellerPace
	logLines    logLines
	api         *api.API
	counts      counts
	began       time.Time

	// now is what runs. Only Run's goroutine replaces it, with mu held, so it
	// reads it without.
	mu     sync.RWMutex
	now    *running
	last   control.Outcome // of the newest reload
	loaded loaded

	unlockJournal func()
}

// New returns a bridge.
func New(o Options) *Bridge {
	b := &Bridge{
		began: time.Now(), opt: o, stateDir: o.StateDir, logs: newLogs(o.Log, o.Plan.Log, o.Plan.types.names()...), setLog: o.SetLog,
		states: event.NewStates(), presence: newPresence(), settle: settleAfter, devices: newDevices(), sockets: listen.New(), now: &running{},
		reloads: make(chan reloadRequest), noReloads: make(chan struct{}), heldChanged: make(chan struct{}, 1), sinkRemoved: make(chan struct{}, 1), trace: &trace.Ring{},
	}
	b.refused = refused.Open(filepath.Join(o.StateDir, "refused"), o.Log)
	b.idleHTTP, b.dropIdle = context.WithCancel(context.Background())
	b.openRequests, b.dropRequests = context.WithCancel(context.Background())
	b.log = b.logs.part("bridge")
	b.logLines.queue = make(chan []byte, logBurst)
	b.telling = usualTelling
	b.commands = b.newDesk()
	b.states.Expect(stateSource, 0)
	b.states.Expect(event.DiscoverySource, 0)
	b.announcer = newAnnouncer(b)
	b.devices.told = b.announcer.poke
	b.web = web.New(b.health, b.logs.part("http"))
	b.access = control.NewAccess()
	b.web.Access.Own = b.access.Token()
	return b
}

// Run runs the bridge until ctx ends, then stops sources, lets the sinks
// deliver what is stored for at most the shutdown time-out, and stops the
// rest. The error is why it could not start.
func (b *Bridge) Run(ctx context.Context) error {
	if err := CheckFolder(b.stateDir); err != nil {
		return err
	}
	if err := os.MkdirAll(b.stateDir, 0o700); err != nil {
		return fmt.Errorf("make the state folder: %w (choose another with --state-dir)", err)
	}
	unlock, err := lockDir(b.stateDir)
	if err != nil {
		return err
	}
	defer unlock()
	defer b.dropRequests()
	defer b.dropIdle()
	if err := b.opt.Plan.checkParts(b.stateDir); err != nil {
		return err
	}
	if err := b.openJournal(b.opt.Plan.Journal); err != nil {
		return err
	}
	stopping := false
	defer func() {
		if err := b.journal.Close(); err != nil {
			b.log.Error().Err(err).Msg("journal was not closed cleanly; some events may be sent twice after the next start")
		}
		b.unlockJournal()
		if stopping {
			b.log.Info().Msg("stopped")
		}
	}()
	if err := b.enterFormat(); err != nil {
		return err
	}
	defer b.commands.Close() // if it could not start
	b.announcer.open()
	b.web.Handle(metricsPath, http.HandlerFunc(b.serveMetrics))
	defer b.serveAPI()()
	from, to := b.unmirrored()
	if _, err := b.apply(b.opt.Plan); err != nil {
		return err
	}
	b.reloaded(control.Outcome{OK: true, Time: time.Now()}, byStart, nil)
	itself := teller{Bridge: b}
	itself.tell()
	b.states.Settle(stateSource) // it has reported all
	if err := b.writeControl(); err != nil {
		b.log.Warn().Err(err).Msg("\"event2mqtt reload\" will not find this program")
	}
	b.greet()
	b.warn()
	var watching sync.WaitGroup
	watching.Go(func() { b.watchConfig(ctx) })
	watching.Go(func() { b.sendHeld(ctx) })
	watching.Go(func() { b.mirrorStored(ctx, from, to) })
	watching.Go(func() { b.keepCursors(ctx) })
	watching.Go(func() { b.announcer.run(ctx) })
	watching.Go(func() { itself.run(ctx) })
	watching.Go(func() { b.publishLog(ctx) })
	alive, stopAlive := context.WithCancel(context.WithoutCancel(ctx))
	defer stopAlive()
	watchdog := b.notifySystemd(alive)

	b.takeReloads(ctx)

	stopping = true
	b.log.Info().Msg("stopping")
	b.api.Close() // streams end at once
	_, _ = daemon.SdNotify(false, daemon.SdNotifyStopping)
	control.Remove(b.stateDir)
	watching.Wait()
	b.stop()
	stopAlive()
	watchdog.Wait()
	return nil
}

// stop ends everything, so that nothing accepted is lost: what takes events
// first, then, when it has delivered what it can, what sends them.
func (b *Bridge) stop() {
	defer time.AfterFunc(b.now.plan.ShutdownTimeout/2, b.dropRequests).Stop()
	b.dropIdle()
	b.commands.Close()
	b.replaced.Wait()
	var sending []*component
	for _, part := range b.now.parts {
		if part.cursor != nil {
			sending = append(sending, part)
		} else {
			b.draining.Go(part.stop)
		}
	}
	b.draining.Wait()
	b.stopSettling()
	b.drain(sending)
	for _, sink := range sending {
		b.draining.Go(sink.stop)
	}
	b.draining.Wait()
	if b.now.broker != nil {
		b.now.broker.Stop()
	}
}

func (b *Bridge) openJournal(c JournalConfig) (err error) {
	dir := b.opt.Plan.journalIn(b.stateDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the journal's folder: %w", err)
	}
	if b.unlockJournal, err = lockDir(dir); err != nil { // it may be elsewhere, and shared
		return err
	}
	b.journal, err = journal.Open(journal.Options{
		FS: journal.DirFS(dir), MaxSize: int64(c.MaxSize), MaxAge: c.MaxAge, Sync: c.Sync, SyncEvery: c.SyncInterval,
		WhenFull: c.WhenFull, Log: b.logs.part("journal"),
	})
	if err != nil {
		b.unlockJournal()
		return err
	}
	b.devices.learned.Store = b.journal
	return nil
}

// greet says where everything is and what to try.
func (b *Bridge) greet() {
	plan := b.now.plan
	overHTTP := b.now.broker != nil && plan.Broker.WebSocket.HTTP
	switch {
	case b.now.broker == nil:
		b.log.Info().Msgf("events go to %s", plan.destination())
	case b.now.broker.Listens():
		b.log.Info().Msgf("MQTT broker listens on %s", b.listening(plan.listeners()[1:]))
	case overHTTP:
		b.log.Info().Msgf("MQTT broker is reached over WebSocket alone, at ws://%s%s; broker.listen is off", b.httpAddress(), broker.WebSocketPath)
	default:
		b.log.Warn().Msg("MQTT broker listens nowhere, so nobody gets the events; set broker.listen, or mqtt.url for another broker")
	}
	b.log.Info().Msgf("HTTP listens on %s; events are kept in %s until they are delivered", b.listening(plan.listeners()[:1]), b.stateDir)
	b.greetSinks()
	b.greetReaders()
	for _, o := range plan.sources {
		if t, ok := o.(trier); ok {
			if text := t.Try(b.httpAddress()); text != "" {
				b.log.Info().Msg("try: " + text)
				return
			}
		}
	}
}

// listening names the addresses that are really listened on for some listeners.
func (b *Bridge) listening(specs []listen.Option) string {
	var all []string
	for _, spec := range specs {
		for _, address := range b.sockets.Addresses(spec.At) {
			text := address.String()
			if spec.Kind != "" {
				text += " (" + spec.Kind + ")"
			}
			all = append(all, text)
		}
	}
	return strings.Join(all, ", ")
}

// parts are those that run.
func (b *Bridge) parts() []*component {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.now.parts
}

// drain waits until the sinks have delivered what is stored, if they can.
func (b *Bridge) drain(sinks []*component) {
	deadline := time.Now().Add(b.now.plan.ShutdownTimeout)
	for _, sink := range sinks {
		for time.Now().Before(deadline) && sink.lag() > 0 && sink.health.Report().Level == health.Up {
			time.Sleep(5 * time.Millisecond)
		}
		if n := sink.lag(); n > 0 {
			b.log.Info().Str("sink", sink.name).Uint64("events", n).Msg("not delivered yet; kept for the next start")
		}
	}
}

// health says whether events are accepted, and how each part is.
func (b *Bridge) health() (bool, []web.Component) {
	b.mu.RLock()
	now := b.now
	b.mu.RUnlock()
	stats := b.journal.Stats()
	failure := b.journal.Failure()
	stored := web.Component{Name: "journal", OK: failure == nil}
	stored.Detail = fmt.Sprintf("%s in %s; newest event %d", config.Size(stats.Bytes), counted(stats.Segments, "file"), stats.Last)
	if failure != nil {
		stored.Status = health.Status{Level: health.Failed, Detail: fmt.Sprintf("cannot store events: %v", failure)}
	}
	parts := []web.Component{stored}
	for _, c := range now.parts {
		if c.last {
			continue // who asks has it
		}
		report := c.health.Report()
		if c.cursor != nil {
			report.Detail += "; waiting: " + counted(c.lag(), "event")
		}
		parts = append(parts, web.Component{Name: c.title, OK: report.Level == health.Up, Report: report, Started: c.since()})
	}
	return b.ready(now) == "", parts
}

// ready returns why events are not all accepted, empty if they are. What
// /readyz, the API and {base}/bridge/state say follows from it.
func (b *Bridge) ready(now *running) (why string) {
	if failure := b.journal.Failure(); failure != nil {
		return fmt.Sprintf("events cannot be stored: %v", failure)
	}
	if now.plan == nil {
		return starting
	}
	for _, c := range now.parts {
		if report := c.health.Report(); !c.last && report.Level == health.Failed {
			return c.title + " " + report.Detail
		}
	}
	return ""
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

// clientID returns the MQTT client id of this installation, made once.
func clientID(stateDir string) (string, error) {
	path := filepath.Join(stateDir, "client_id")
	if text, err := file.Read(path, file.MaxSecret); err == nil {
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

// counted is a number of things, such as 1 file.
func counted[N int | uint64](n N, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return fmt.Sprintf("%d %s", n, thing)
}
