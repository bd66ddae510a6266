package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"event2mqtt/internal/api"
	"event2mqtt/internal/apiclient"
	"event2mqtt/internal/config"
)

// progressEvery is how often a command looks how the replay goes.
const progressEvery = 500 * time.Millisecond

// chosen is which stored events a replay is for, as flags say it.
type chosen struct {
	source, event, topic, q string
	since, until            string
	seqs                    []uint
}

// replayPlan says how much would be, or is, replayed.
type replayPlan struct {
	Count   int `json:"count"`
	Rate    int `json:"rate"`
	Seconds int `json:"seconds"`
}

// replayCommand sends stored events once more.
func replayCommand(f *flags) *cobra.Command {
	a := &asking{flags: f}
	var which chosen
	var rate int
	var dry, yes, detach bool
	cmd := a.command(&cobra.Command{
		Use:   "replay",
		Short: "Send stored events once more",
		Long: `Sends events that the journal still holds once more: they are counted first, and
you are asked. Off a terminal --yes is needed. Receivers see them again, each with
the member _replayed_from. One replay takes 10,000 events at most, and one runs
at a time.

Times are how long ago (2h, 3d), 15:04 of today, "2026-01-31 15:04" or RFC 3339.
The command waits until the replay is over. Ctrl-C ends the waiting, not the
replay: "event2mqtt replay stop" does that.`,
		Example: "  event2mqtt replay --since 2h --event 'Print*'\n  event2mqtt replay --source octo --since 14:00 --until 14:30 --dry-run\n" +
			"  event2mqtt replay --seq 812 --yes --detach\n  event2mqtt replay stop",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			request, err := which.request(time.Now())
			if err != nil {
				return err
			}
			if rate < 1 || rate > 1000 {
				return misused("--rate %d: 1 to 1000 events a second are allowed", rate)
			}
			request["rate"] = rate
			c, err := a.client(cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			return a.replay(cmd, c, request, dry, yes, detach)
		},
	})
	flags := cmd.Flags()
	flags.StringVar(&which.source, "source", "", "only events of sources that fit this pattern")
	flags.StringVar(&which.event, "event", "", "only events whose name fits this pattern, such as 'Print*'")
	flags.StringVar(&which.topic, "topic", "", "only events of topics that fit this filter, such as 'a/+/c'")
	flags.StringVar(&which.q, "search", "", "only events that hold all these words")
	flags.StringVar(&which.since, "since", "", "not earlier than this")
	flags.StringVar(&which.until, "until", "", "not later than this; left out, now")
	flags.UintSliceVar(&which.seqs, "seq", nil, "the events with these numbers; may be given again")
	flags.IntVar(&rate, "rate", 50, "events a second, 1 to 1000")
	flags.BoolVar(&dry, "dry-run", false, "only count them")
	flags.BoolVar(&yes, "yes", false, "do not ask")
	flags.BoolVar(&detach, "detach", false, "do not wait until it is over")
	a.completeFlags(cmd)
	for _, flag := range []string{"search", "since", "until", "seq", "rate"} {
		_ = cmd.RegisterFlagCompletionFunc(flag, cobra.NoFileCompletions) // fails only for flags that do not exist
	}
	cmd.AddCommand(replayStatus(f), replayStop(f))
	return cmd
}

// request is the body that asks for a replay.
func (w *chosen) request(now time.Time) (map[string]any, error) {
	r := map[string]any{}
	for key, text := range map[string]string{"source": w.source, "event": w.event, "topic": w.topic, "q": w.q} {
		if text != "" {
			r[key] = text
		}
	}
	if len(w.seqs) > 0 {
		if len(r) > 0 || w.since != "" || w.until != "" {
			return nil, misused("--seq names events one by one; leave out what else would choose them")
		}
		r["seqs"] = w.seqs
		return r, nil
	}
	if len(r) == 0 && w.since == "" && w.until == "" {
		return nil, misused("which events? give at least one of --since, --until, --source, --event, --topic, --search and --seq")
	}
	for key, text := range map[string]string{"from": w.since, "to": w.until} {
		if text == "" {
			continue
		}
		at, err := parseMoment(text, now)
		if err != nil {
			return nil, misused("--%s: %w", map[string]string{"from": "since", "to": "until"}[key], err)
		}
		r[key] = float64(at.UnixMilli()) / 1000
	}
	return r, nil
}

// parseMoment reads a time: how long ago, a time of today, or a day and a time.
func parseMoment(text string, now time.Time) (time.Time, error) {
	if d, err := config.ParseDuration(text); err == nil {
		return now.Add(-d), nil
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t, nil
	}
	for _, layout := range []string{time.DateTime, "2006-01-02 15:04", time.DateOnly} {
		if t, err := time.ParseInLocation(layout, text, time.Local); err == nil {
			return t, nil
		}
	}
	for _, layout := range []string{time.TimeOnly, "15:04"} {
		if t, err := time.ParseInLocation(layout, text, time.Local); err == nil {
			return time.Date(now.Year(), now.Month(), now.Day(), t.Hour(), t.Minute(), t.Second(), 0, time.Local), nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is not a time; write how long ago (2h), 15:04, \"2026-01-31 15:04\" or 2026-01-31T15:04:00Z", text)
}

// replay counts, asks, and sends.
func (a *asking) replay(cmd *cobra.Command, c *apiclient.Client, request map[string]any, dry, yes, detach bool) error {
	ctx, out := cmd.Context(), cmd.OutOrStdout()
	var plan replayPlan
	request["dry_run"] = true
	if _, err := c.Do(ctx, http.MethodPost, "replay", request, &plan, 0); err != nil {
		return err
	}
	if plan.Count == 0 || dry {
		switch {
		case a.json:
			return printJSON(out, plan)
		case plan.Count == 0:
			_, err := fmt.Fprintln(out, "no stored event fits; nothing was sent")
			return err
		}
		_, err := fmt.Fprintln(out, plan.words()+"; nothing was sent")
		return err
	}
	if !yes {
		ok, err := confirm(cmd, plan.words()+". Receivers will see them again. Send them? [y/N] ")
		if err != nil {
			return err
		}
		if !ok {
			_, err := fmt.Fprintln(out, "nothing was sent")
			return err
		}
	}
	delete(request, "dry_run")
	if _, err := c.Do(ctx, http.MethodPost, "replay", request, &plan, 0); err != nil {
		return err
	}
	if a.json {
		if err := printJSON(out, plan); err != nil {
			return err
		}
	} else if _, err := fmt.Fprintf(out, "%s: they are being sent\n", plan.words()); err != nil {
		return err
	}
	if detach {
		return nil
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	err := awaitReplay(ctx, c, plan, cmd.ErrOrStderr())
	switch {
	case ctx.Err() != nil:
		fmt.Fprintf(cmd.ErrOrStderr(), "The replay goes on; \"%s replay stop\" ends it.\n", cmd.Root().Name())
		return nil
	case err == nil && !a.json:
		_, err = fmt.Fprintln(out, "the replay is over")
	}
	return err
}

// words says how much it is.
func (p *replayPlan) words() string {
	return fmt.Sprintf("%s, %d a second, about %s", counted(p.Count, "event"), p.Rate, span(time.Duration(p.Seconds)*time.Second))
}

// confirm asks, at a terminal.
func confirm(cmd *cobra.Command, question string) (bool, error) {
	in, isFile := cmd.InOrStdin().(*os.File)
	if !isFile || !term.IsTerminal(int(in.Fd())) {
		return false, misused("nobody can be asked here; give --yes, or look first with --dry-run")
	}
	fmt.Fprint(cmd.ErrOrStderr(), question)
	line, err := bufio.NewReader(io.LimitReader(in, 1024)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return false, fmt.Errorf("read the answer: %w", err)
	}
	answer := strings.ToLower(strings.TrimSpace(line))
	return answer == "y" || answer == "yes", nil
}

// awaitReplay waits until no replay is under way, and shows at a terminal how far
// it is.
func awaitReplay(ctx context.Context, c *apiclient.Client, plan replayPlan, says io.Writer) error {
	shows := terminalOf(says).is
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for {
		one, err := replayNow(ctx, c)
		if err != nil || one == nil {
			if shows {
				fmt.Fprint(says, "\r\x1b[K")
			}
			return err
		}
		if shows {
			fmt.Fprintf(says, "\r\x1b[K%d of %d", one.Done, one.Count)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// replayNow is the replay that is under way; nil is none.
func replayNow(ctx context.Context, c *apiclient.Client) (*api.Replay, error) {
	var r struct {
		Replay *api.Replay `json:"replay"`
	}
	err := c.Get(ctx, "replay", &r)
	return r.Replay, err
}

func replayStatus(f *flags) *cobra.Command {
	a := &asking{flags: f}
	return a.command(&cobra.Command{
		Use: "status", Short: "Tell how the replay goes", Example: "  event2mqtt replay status", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client(cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			one, err := replayNow(cmd.Context(), c)
			switch {
			case err != nil:
			case a.json:
				err = printJSON(cmd.OutOrStdout(), map[string]any{"replay": one})
			case one == nil:
				_, err = fmt.Fprintln(cmd.OutOrStdout(), "no replay is under way")
			default:
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "%d of %d events are sent, since %s\n", one.Done, one.Count, moment(one.Since.Time))
			}
			return err
		},
	})
}

func replayStop(f *flags) *cobra.Command {
	a := &asking{flags: f}
	return a.command(&cobra.Command{
		Use: "stop", Short: "Stop the replay", Example: "  event2mqtt replay stop", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client(cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			if _, err = c.Do(cmd.Context(), http.MethodDelete, "replay", nil, nil, 0); err != nil {
				return err
			}
			if a.json {
				return printJSON(cmd.OutOrStdout(), map[string]bool{"stopped": true})
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), "the replay stops; what it has sent stays sent")
			return err
		},
	})
}
