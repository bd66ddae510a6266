package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"event2mqtt/internal/api"
)

// statusCommand tells how the running program is.
func statusCommand(f *flags) *cobra.Command {
	a := &asking{flags: f}
	var watch bool
	cmd := a.command(&cobra.Command{
		Use:   "status",
		Short: "Tell how the running program and all its parts are",
		Long: `Tells in words whether events are accepted, whether the broker is there and what
waits for it, and how each part is.

The exit status is 0 if all is well, 1 if something is wrong, 3 if no event2mqtt
runs, and 4 if it refuses to tell.`,
		Example: "  event2mqtt status\n  event2mqtt status --json | jq .broker\n  event2mqtt status --url http://printer.lan:8127 --token-file token",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if watch && a.json {
				return misused("--watch is for people; \"%s watch --json\" and \"status --json\" are for programs", cmd.Root().Name())
			}
			if watch {
				return a.watchStatus(cmd)
			}
			return a.tellStatus(cmd.Context(), cmd, cmd.OutOrStdout())
		},
	})
	cmd.Flags().BoolVar(&watch, "watch", false, "tell again every two seconds, until Ctrl-C")
	return cmd
}

// statusEvery is how often --watch tells.
const statusEvery = 2 * time.Second

// watchStatus tells again and again, at a terminal in the same place. What is wrong
// ends it only if it is so from the beginning on.
func (a *asking) watchStatus(cmd *cobra.Command) error {
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	out, tick := cmd.OutOrStdout(), time.NewTicker(statusEvery)
	defer tick.Stop()
	for told := false; ; {
		var page bytes.Buffer
		if terminalOf(out).is {
			page.WriteString("\x1b[H\x1b[2J")
		}
		err := a.tellStatus(ctx, cmd, &page)
		switch _, ill := errors.AsType[*ailingError](err); {
		case ctx.Err() != nil:
			return nil
		case err == nil || ill:
			told = true
		case !told:
			return err
		default:
			fmt.Fprintln(&page, shownLines(a.explain(err).Error()))
		}
		if _, err := fmt.Fprintln(out, page.String()); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// ailingError is that something is wrong with the program, which was told.
type ailingError struct{ what []string }

func (e *ailingError) Error() string { return "something is wrong: " + strings.Join(e.what, ", ") }

// tellStatus asks and tells once.
func (a *asking) tellStatus(ctx context.Context, cmd *cobra.Command, out io.Writer) error {
	c, err := a.client(cmd)
	if err != nil {
		return err
	}
	defer c.Close()
	var whole json.RawMessage
	if err := c.Get(ctx, "state", &whole); err != nil {
		return err
	}
	var s api.State
	if err := json.Unmarshal(whole, &s); err != nil {
		return fmt.Errorf("read the state: %w", err)
	}
	if a.json {
		err = printJSON(out, withoutLatest(whole))
	} else {
		err = printStatus(out, terminalOf(cmd.OutOrStdout()), &s)
	}
	if wrong := ailing(&s); err == nil && len(wrong) > 0 {
		return &ailingError{wrong}
	}
	return err
}

// withoutLatest is the state less the newest events, which are history.
func withoutLatest(whole json.RawMessage) any {
	var members map[string]json.RawMessage
	if json.Unmarshal(whole, &members) != nil {
		return whole
	}
	delete(members, "latest")
	return members
}

// ailing names what is wrong.
func ailing(s *api.State) (wrong []string) {
	if !s.Taking.OK {
		wrong = append(wrong, "events are not accepted")
	}
	if s.Broker.State != "up" {
		wrong = append(wrong, "the broker is away")
	}
	for _, p := range s.Parts {
		if p.State == "failed" && !(p.Kind == "sink" && p.Name == "mqtt" && s.Broker.State != "up") { // said already
			wrong = append(wrong, shown(p.Name)+" has failed")
		}
	}
	if s.Config.Refused != nil {
		wrong = append(wrong, "the newer configuration is rejected")
	}
	return wrong
}

// headline is how the program is, in words.
func headline(s *api.State) string {
	var said []string
	if s.Taking.OK {
		said = append(said, "Accepting events.")
	} else {
		said = append(said, "Not accepting events: "+shown(strings.TrimSuffix(s.Taking.Reason, "."))+".")
	}
	b := &s.Broker
	name := "Broker"
	if b.Kind == "bundled" {
		name = "Bundled broker"
	}
	if b.Address != "" {
		name += " " + shown(b.Address)
	}
	switch {
	case b.State != "up" && b.Error != nil:
		said = append(said, fmt.Sprintf("%s away since %s: %s (%s).", name, moment(b.Since.Time), shown(b.Error.Text), shown(b.Error.Key)))
	case b.State != "up":
		said = append(said, fmt.Sprintf("%s away since %s.", name, moment(b.Since.Time)))
	case b.Kind == "bundled":
		said = append(said, fmt.Sprintf("%s up since %s, %s.", name, moment(b.Since.Time), counted(b.Clients, "client")))
	default:
		said = append(said, fmt.Sprintf("%s connected since %s.", name, moment(b.Since.Time)))
	}
	switch {
	case s.Waiting.Count == 0:
		said = append(said, "Nothing waiting.")
	case s.Waiting.Oldest != nil:
		said = append(said, fmt.Sprintf("%s waiting, the oldest for %s.", counted(int(s.Waiting.Count), "event"), span(s.Now.Sub(s.Waiting.Oldest.Time))))
	default:
		said = append(said, counted(int(s.Waiting.Count), "event")+" waiting.")
	}
	if s.Waiting.Count > 0 && b.State != "up" {
		said = append(said, "Nothing is lost.")
	}
	said = append(said, counted(s.Rate.Minute, "event")+" in the last minute.")
	for _, p := range s.Parts {
		if p.Kind == "source" && p.State != "up" {
			said = append(said, fmt.Sprintf("%s %s.", shown(p.Name), map[string]string{"waiting": "is waiting", "failed": "has failed"}[p.State]))
		}
	}
	return strings.Join(said, " ")
}

func printStatus(w io.Writer, at terminal, s *api.State) error {
	colour := green
	if len(ailing(s)) > 0 {
		colour = red
	}
	if _, err := fmt.Fprintf(w, "%s\nevent2mqtt %s on %s, running since %s\n\n", at.paint(colour, headline(s)), shown(s.Version), shown(s.Host), moment(s.Started.Time)); err != nil {
		return err
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "PART\tTYPE\tSTATE\tSINCE\tLAST EVENT\tDETAIL")
	for _, p := range s.Parts {
		last := "-"
		if p.LastEvent != nil {
			last = clock(p.LastEvent.Time, "15:04:05", "2006-01-02 15:04")
		}
		detail := shown(p.Detail)
		if p.LastError != nil && p.LastError.Text != p.Detail {
			detail += fmt.Sprintf("; last error %s: %s", moment(p.LastError.At.Time), shown(p.LastError.Text))
		}
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", shown(p.Name), kindOf(&p), p.State, moment(p.Since.Time), last, strings.TrimPrefix(detail, "; "))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, d := range s.Devices {
		progress := ""
		if d.Progress != nil {
			progress = fmt.Sprintf(", %.0f %%", d.Progress.Percent)
		}
		_, _ = fmt.Fprintf(w, "device %s: %s since %s%s\n", shown(d.Name), shown(d.State), moment(d.Since.Time), progress)
	}
	if s.Replay != nil {
		_, _ = fmt.Fprintf(w, "\nA replay is under way: %d of %d events are sent.\n", s.Replay.Done, s.Replay.Count)
	}
	return printConfig(w, at, &s.Config)
}

// kindOf is the kind of a part, or its type if that says more.
func kindOf(p *api.Part) string {
	if p.Type == "" || p.Type == p.Kind {
		return shown(p.Kind)
	}
	return shown(p.Kind + " " + p.Type)
}

// printConfig says which configuration is in use, and what is wrong with a newer.
func printConfig(w io.Writer, at terminal, c *api.Config) error {
	file := "no file, so the defaults hold"
	if c.File != "" {
		file = shown(c.File)
	}
	_, err := fmt.Fprintf(w, "\nconfiguration: %s, loaded %s (%s)\n", file, moment(c.Loaded.Time), shown(c.By))
	if err != nil || c.Refused == nil {
		return err
	}
	_, _ = fmt.Fprintln(w, at.paint(red, fmt.Sprintf("A newer one was rejected at %s (%s); the one above keeps running:", moment(c.Refused.At.Time), shown(c.Refused.By))))
	for _, p := range c.Refused.Problems {
		where := shown(p.File)
		if p.Line > 0 {
			where = fmt.Sprintf("%s:%d:%d", where, p.Line, p.Column)
		}
		if where != "" {
			where += ": "
		}
		key := shown(p.Key)
		if key != "" {
			key += ": "
		}
		if _, err = fmt.Fprintf(w, "  %s%s%s\n", where, key, shownLines(p.Text)); err != nil {
			return err
		}
	}
	return nil
}
