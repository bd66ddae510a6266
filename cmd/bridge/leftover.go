package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"event2mqtt/internal/bridge"
	"event2mqtt/internal/config/file"
	"event2mqtt/internal/control"
	"event2mqtt/internal/sources/octoprint/leftover"
	"event2mqtt/internal/sources/octoprint/migrate"
)

// This file is how what OctoPrint-HomeAssistant has left at the broker is
// cleared.

// otherPlugin is the plugin that announces OctoPrint to Home Assistant.
const otherPlugin = "OctoPrint-HomeAssistant"

// clearPlugin clears what the plugin has left.
type clearPlugin struct {
	flags  *flags
	wanted bool
	watch  time.Duration

	cmd     *cobra.Command
	request leftover.Request
}

func (c *clearPlugin) addFlags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&c.wanted, "clear-homeassistant", false, "import nothing: remove what the plugin OctoPrint-HomeAssistant has announced to Home Assistant")
	cmd.Flags().DurationVar(&c.watch, "watch", 5*time.Second, "with --clear-homeassistant, how long to look whether the plugin announces its device again")
	_ = cmd.RegisterFlagCompletionFunc("watch", cobra.NoFileCompletions)
}

// args are those of the command: a file, which may be left out if nothing is
// imported.
func (c *clearPlugin) args(cmd *cobra.Command, args []string) error {
	if c.wanted && len(args) == 0 {
		return nil
	}
	return needs("FILE", false)(cmd, args)
}

// misuse refuses flags that have no effect.
func (c *clearPlugin) misuse(cmd *cobra.Command) error {
	if !c.wanted && cmd.Flags().Changed("watch") {
		return misused("--watch goes together with --clear-homeassistant")
	}
	if !c.wanted {
		return nil
	}
	for _, name := range []string{"url", "name", "key-file", "user", "timeout", "ca", "insecure", "proxy-user", "proxy-password-file"} {
		if cmd.Flags().Changed(name) {
			return misused("--clear-homeassistant imports nothing; leave out --%s", name)
		}
	}
	if c.watch < 0 || c.watch > leftover.MaxWatch {
		return misused("--watch %s: give 0s to %s", c.watch, leftover.MaxWatch)
	}
	return nil
}

func (c *clearPlugin) say(format string, args ...any) {
	fmt.Fprintf(c.cmd.ErrOrStderr(), format+"\n", args...)
}

// run clears, or lists what it would clear.
func (c *clearPlugin) run(cmd *cobra.Command, args []string, lookOnly bool) error {
	c.cmd = cmd
	c.request = leftover.Request{Prefixes: []string{"homeassistant"}, LookOnly: lookOnly, Watch: c.watch}
	if len(args) > 0 {
		if err := c.read(args[0]); err != nil {
			return err
		}
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	report, err := c.ask(ctx)
	switch {
	case ctx.Err() != nil:
		return errors.New("interrupted; run it again with --print to see what is left")
	case err != nil:
		return err
	}
	return c.tell(&report)
}

// read takes what OctoPrint's configuration says of the plugin.
func (c *clearPlugin) read(path string) error {
	text, err := file.Read(path, migrate.MaxFile)
	if err != nil {
		return misused("read OctoPrint's configuration: %w", err)
	}
	h, err := migrate.ReadHomeAssistant(text)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if h.Prefix != c.request.Prefixes[0] {
		c.request.Prefixes = append(c.request.Prefixes, h.Prefix)
	}
	c.request.Nodes = h.Nodes
	c.request.Places = []leftover.Place{{Base: h.Base, Hass: h.Hass, Control: h.Control, Temperature: h.Temperature, Will: h.Will}}
	return nil
}

// ask has it done: by the program that runs with the configuration, which alone
// reaches the bundled broker, or else here, at a broker in the network.
func (c *clearPlugin) ask(ctx context.Context) (report leftover.Report, err error) {
	dir, err := lookedAt(c.flags.stateDir, c.cmd.ErrOrStderr())
	if err != nil {
		return report, err
	}
	path := c.flags.config
	running, err := control.Read(dir)
	if err == nil && len(c.flags.set) == 0 && (path == "" || running.Config != "" && samePath(running.Config, path)) {
		report, err = control.ClearLeftover(ctx, dir, c.request)
		if !errors.Is(err, control.ErrNotRunning) || ctx.Err() != nil {
			return report, err
		}
		path = cmp.Or(path, running.Config) // it was killed
	}
	if path == "" && len(c.flags.set) == 0 {
		if path, err = findConfig(c.flags, dir, serviceConfig, c.cmd.ErrOrStderr()); err != nil {
			return report, err
		}
	}
	plan, err := bridge.Load(path, os.Environ(), dir, c.flags.set...)
	if err != nil {
		return report, explain(err)
	}
	return plan.ClearLeftover(ctx, c.request)
}

// tell says what was found and done. The error is what remains to be done.
func (c *clearPlugin) tell(report *leftover.Report) error {
	out, at := c.cmd.OutOrStdout(), cmp.Or(report.Broker, "the bundled broker")
	var remains []error
	entities, states, cleared := 0, 0, false
	for i := range report.Devices {
		d := &report.Devices[i]
		c.list(d, at)
		switch {
		case d.On != "":
			remains = append(remains, fmt.Errorf("%s is still on: %s; nothing of %s is removed; switch the plugin off in OctoPrint's Plugin Manager, restart OctoPrint, and try again", otherPlugin, quoteIfOdd(d.On), called(d)))
		case d.Again:
			remains = append(remains, fmt.Errorf("%s is still on: it has published again for %s since; switch the plugin off in OctoPrint's Plugin Manager, restart OctoPrint, and try again", otherPlugin, called(d)))
		}
		if d.On == "" && d.Cleared || c.request.LookOnly {
			entities, states = entities+len(d.Entities), states+len(d.States)
		}
		cleared = cleared || d.Cleared
	}
	if report.Problem != "" {
		remains = append(remains, errors.New(report.Problem))
	}
	what := counted(entities, "announcement") + " to Home Assistant, and " + counted(states, "other topic")
	switch {
	case len(report.Devices) == 0 && report.Problem == "":
		fmt.Fprintf(out, "nothing of %s is left at %s\n", otherPlugin, at)
	case len(report.Devices) > 0 && c.request.LookOnly:
		fmt.Fprintf(out, "would be removed: %s; leave out --print to remove them\n", what)
	case cleared:
		fmt.Fprintf(out, "removed: %s\n", what)
		c.say("%s must be off in OctoPrint's Plugin Manager: it announces its device again whenever it starts.", otherPlugin)
		c.say("Home Assistant removes the device now if it is running; if it is not, delete the device there later.")
	}
	return errors.Join(remains...)
}

// called is what a device is called by those who read it.
func called(d *leftover.Device) string {
	if d.Node == "" {
		return "a device that is no longer announced"
	}
	return fmt.Sprintf("%s (%s)", quoteIfOdd(d.Name), quoteIfOdd(d.Node))
}

// list prints what one installation of the plugin has left.
func (c *clearPlugin) list(d *leftover.Device, at string) {
	fmt.Fprintf(c.cmd.OutOrStdout(), "%s, of %s at %s:\n", called(d), otherPlugin, at)
	columns := tabwriter.NewWriter(c.cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
	for _, item := range append(d.Entities[:len(d.Entities):len(d.Entities)], d.States...) {
		fmt.Fprintln(columns, strings.TrimRight("  "+quoteIfOdd(item.Topic)+"\t"+quoteIfOdd(item.Text), "\t"))
	}
	_ = columns.Flush() // as any other line
	for _, item := range d.Kept {
		c.say("note: %s is left as it is: %s", quoteIfOdd(item.Topic), item.Text)
	}
	switch {
	case d.On != "" || d.Again:
	case !d.Seen.IsZero():
		c.say("note: the last sign of the plugin is of %s", d.Seen.Local().Format(time.DateTime))
	case d.There != "":
		c.say("note: whether the plugin is off cannot be seen: %s says connected, which OctoPrint-MQTT does, and event2mqtt in its place", quoteIfOdd(d.There))
	}
}
