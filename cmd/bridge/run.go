package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"event2mqtt/internal/bridge"
)

// flags are those of all subcommands.
type flags struct {
	config   string
	stateDir string
	set      []string
}

// newCommand returns the command line of a program of this name. Without a
// subcommand it runs the bridge.
func newCommand(name string) *cobra.Command {
	var f flags
	root := &cobra.Command{
		Use:   name,
		Short: "Publish events from webhooks, files and printers to MQTT",
		Long: `Takes events from webhooks, tailed files and OctoPrint, keeps them on disk
until they are delivered, and publishes each as one MQTT message. Without
mqtt.url in the configuration, this program is the MQTT broker itself.

Options can also be set in the environment: E2M_MQTT_URL sets mqtt.url, and
with --set mqtt.url=URL.`,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), f) },
	}
	root.PersistentFlags().StringVar(&f.config, "config", "", "configuration file (YAML); without one, the defaults hold")
	root.PersistentFlags().StringVar(&f.stateDir, "state-dir", "", "folder for what must survive a restart; run makes it if it is not there. Left out, run uses $STATE_DIRECTORY, else $XDG_STATE_HOME/event2mqtt, else ~/.local/state/event2mqtt; other commands use that of the service if there is one, else that of this user")
	root.PersistentFlags().StringArrayVar(&f.set, "set", nil, "set an option, over file and environment: --set log.level=debug; may be given again")
	root.AddCommand(statusCommand(&f), watchCommand(&f), sendCommand(&f), publishCommand(&f), replayCommand(&f), topicsCommand(&f), clientsCommand(&f),
		tokenCommand(&f), healthcheckCommand(&f)) // they ask the running program
	root.AddCommand(
		&cobra.Command{
			Use: "run", Short: "Take events and publish them (the default)", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), f) },
		},
		checkCommand(&f), reloadCommand(&f), refusedCommand(&f), testCommand(&f), schemaCommand(), userCommand(&f), deviceCommand(&f),
		connectCommand(&f), importCommand(&f), versionCommand())
	completions(root)
	misuses(root)
	return root
}

func run(ctx context.Context, f flags) error {
	dir, err := ownStateDir(f.stateDir)
	if err != nil {
		return err
	}
	load := func() (*bridge.Plan, error) {
		plan, err := bridge.Load(f.config, os.Environ(), dir, f.set...)
		if err == nil {
			plan.Version = versionText()
		}
		return plan, err
	}
	plan, err := load()
	if err != nil {
		return explain(err)
	}
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	log, out := newLog()
	out.set(plan.Log)
	options := bridge.Options{Plan: plan, File: f.config, StateDir: dir, Log: log, SetLog: out.set, TapLog: out.tapBy}
	if f.config != "" {
		options.Load = load
	}
	defer boundMemory()()
	b := bridge.New(options)
	defer reloadOnHangup(ctx, b)()
	return b.Run(ctx)
}

// plan reads the configuration for a command that only looks at it, together
// with the accounts of a state folder, which need not be there.
func (f *flags) plan(cmd *cobra.Command) (plan *bridge.Plan, stateDir string, err error) {
	if stateDir, err = lookedAt(f.stateDir, cmd.ErrOrStderr()); err != nil {
		return nil, "", err
	}
	if plan, err = bridge.Load(f.config, os.Environ(), stateDir, f.set...); err != nil {
		return nil, "", explain(err)
	}
	return plan, stateDir, nil
}

// explain puts several problems on lines of their own.
func explain(err error) error {
	if text := err.Error(); strings.Contains(text, "\n") {
		return errors.New("the configuration cannot be used:\n  " + strings.ReplaceAll(text, "\n", "\n  "))
	}
	return err
}

// reloadOnHangup has the bridge reload when SIGHUP comes, until stop is called.
func reloadOnHangup(ctx context.Context, b *bridge.Bridge) (stop func()) {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-hangups:
				_, _ = b.Reload(ctx) // the log tells how it went
			}
		}
	})
	return func() {
		signal.Stop(hangups)
		cancel()
		wg.Wait()
	}
}

// newLog returns the program's log, and where its lines go: text for people on a
// terminal and JSON for programs elsewhere.
func newLog() (zerolog.Logger, *logWriter) {
	out := &logWriter{}
	return zerolog.New(out).With().Timestamp().Logger(), out
}

// logWriter writes to stderr in the form that is configured.
type logWriter struct {
	to  atomic.Pointer[io.Writer]
	tap atomic.Pointer[func([]byte)] // nil is none
}

func (w *logWriter) Write(p []byte) (int, error) {
	if tap := w.tap.Load(); tap != nil {
		(*tap)(p)
	}
	return (*w.to.Load()).Write(p)
}

// tapBy has tap called with each line.
func (w *logWriter) tapBy(tap func([]byte)) {
	if tap == nil {
		w.tap.Store(nil)
		return
	}
	w.tap.Store(&tap)
}

func (w *logWriter) set(c bridge.LogConfig) {
	text := c.Format == "text"
	colour := false
	if info, err := os.Stderr.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
		text = text || c.Format == "auto"
		colour = os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	}
	to := io.Writer(os.Stderr)
	if text {
		to = zerolog.ConsoleWriter{Out: os.Stderr, TimeFormat: time.TimeOnly, NoColor: !colour}
	}
	w.to.Store(&to)
}
