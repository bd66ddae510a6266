package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
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
}

// newCommand returns the command line. Without a subcommand it runs the bridge.
func newCommand() *cobra.Command {
	var f flags
	root := &cobra.Command{
		Use:   "bridge",
		Short: "Publish events from webhooks, files and printers to MQTT",
		Long: `Takes events from webhooks, tailed files and OctoPrint, keeps them on disk
until they are delivered, and publishes each as one MQTT message. Without
mqtt.url in the configuration, this program is the MQTT broker itself.

Options can also be set in the environment: E2M_MQTT_URL sets mqtt.url.`,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), f) },
	}
	root.PersistentFlags().StringVar(&f.config, "config", "", "configuration file (YAML); without one, the defaults hold")
	root.PersistentFlags().StringVar(&f.stateDir, "state-dir", "", "folder for what must survive a restart (default $STATE_DIRECTORY, else $XDG_STATE_HOME/event2mqtt)")
	root.AddCommand(
		&cobra.Command{
			Use: "run", Short: "Run the bridge (the default)", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), f) },
		},
		checkCommand(&f), userCommand(&f), deviceCommand(&f), versionCommand())
	return root
}

func run(ctx context.Context, f flags) error {
	dir, err := stateDir(f.stateDir)
	if err != nil {
		return err
	}
	plan, err := bridge.Load(f.config, os.Environ(), dir)
	if err != nil {
		return explain(err)
	}
	plan.Version = versionText()
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	return bridge.New(plan, dir, logger(plan.Log)).Run(ctx)
}

// explain puts several problems on lines of their own.
func explain(err error) error {
	if text := err.Error(); strings.Contains(text, "\n") {
		return errors.New("the configuration cannot be used:\n  " + strings.ReplaceAll(text, "\n", "\n  "))
	}
	return err
}

// stateDir finds the folder for what must survive a restart.
func stateDir(flag string) (string, error) {
	if flag != "" {
		return filepath.Abs(flag)
	}
	// systemd may give several; the first is the one of StateDirectory=.
	if dir, _, _ := strings.Cut(os.Getenv("STATE_DIRECTORY"), ":"); dir != "" {
		return dir, nil
	}
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "event2mqtt"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find a state folder: %w; choose one with --state-dir", err)
	}
	return filepath.Join(home, ".local", "state", "event2mqtt"), nil
}

// logger writes text for people on a terminal and JSON for programs elsewhere.
func logger(c bridge.LogConfig) zerolog.Logger {
	level, err := zerolog.ParseLevel(c.Level)
	if err != nil {
		level = zerolog.InfoLevel // was checked
	}
	text := c.Format == "text"
	colour := false
	if info, err := os.Stderr.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
		text = text || c.Format == "auto"
		colour = os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	}
	if text {
		return zerolog.New(zerolog.ConsoleWriter{Out: os.Stderr, TimeFormat: time.TimeOnly, NoColor: !colour}).Level(level).With().Timestamp().Logger()
	}
	return zerolog.New(os.Stderr).Level(level).With().Timestamp().Logger()
}
