package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os/signal"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"event2mqtt/internal/apiclient"
	"event2mqtt/internal/config"
	"event2mqtt/internal/topic"
)

// fateStates are the values of --state.
var fateStates = []string{"waiting", "delivered", "held", "dropped", "refused"}

// Rhythms of watching.
const (
	// settleAfter is how long an event waits for its fate before it is shown without.
	settleAfter = 500 * time.Millisecond
	// maxStuck is how often one after the other a connection may begin anew at the
	// same event, since it was too slow, before that is said.
	maxStuck = 3
	// Pauses between tries to connect again.
	firstPause, lastPause = 250 * time.Millisecond, 5 * time.Second
)

// watching is what the command was asked to show.
type watching struct {
	ask         *asking
	sources     []string
	events      []string
	topics      []string
	states      []string
	q           string
	since       string
	count       int
	duration    string
	payload     bool
	noReconnect bool
}

// watchCommand shows what happens, as it happens.
func watchCommand(f *flags) *cobra.Command {
	a := &asking{flags: f}
	w := &watching{ask: a}
	cmd := a.command(&cobra.Command{
		Use:   "watch [TOPIC... | EVENT...]",
		Short: "Show events as they happen, and what becomes of each",
		Long: `Shows each event, and what became of it: delivered, waiting, or held, dropped or
refused, by which rule and why. Arguments choose topics, such as 'a/+/c', if they
hold one of / + #, and else names of events, such as 'Print*'.

All stored events are shown, in order: after a lost connection, or if this command
was too slow, it goes on where it was. What cannot be shown any more is said. Of
events that are not stored, since a rule drops or holds them, those are missing
that come while it is not connected, or too slow.

The exit status is 0 after Ctrl-C, and after --count and --duration.`,
		Example: "  event2mqtt watch\n  event2mqtt watch 'Print*' --since 10m\n  event2mqtt watch --state dropped --state refused\n" +
			"  event2mqtt watch 'event2mqtt/event/#' --count 1 --payload\n  event2mqtt watch --json | jq 'select(.fate.state == \"dropped\")'",
		Args: w.arguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return w.run(cmd) },
	})
	flags := cmd.Flags()
	flags.StringArrayVar(&w.sources, "source", nil, "only events of sources that fit this pattern; may be given again")
	flags.StringArrayVar(&w.events, "event", nil, "only events whose name fits this pattern; may be given again")
	flags.StringArrayVar(&w.topics, "topic", nil, "only events of topics that fit this filter; may be given again")
	flags.StringArrayVar(&w.states, "state", nil, "only events that became "+strings.Join(fateStates, ", ")+"; may be given again")
	flags.StringVar(&w.q, "search", "", "only events that hold all these words")
	flags.StringVar(&w.since, "since", "", "begin with stored events: how long ago (10m), a time (14:00), the number of the event before, or all")
	flags.IntVarP(&w.count, "count", "n", 0, "end after so many events")
	flags.StringVar(&w.duration, "duration", "", "end after this time, such as 30s")
	flags.BoolVar(&w.payload, "payload", false, "print payloads alone, each on a line, as mosquitto_sub does")
	flags.BoolVar(&w.noReconnect, "no-reconnect", false, "end with a failure when the connection is lost")
	a.completeFlags(cmd)
	for _, flag := range []string{"search", "since", "count", "duration"} {
		_ = cmd.RegisterFlagCompletionFunc(flag, cobra.NoFileCompletions) // fails only for flags that do not exist
	}
	cmd.ValidArgsFunction = a.complete(watchedNames)
	return cmd
}

// arguments takes topics and events.
func (w *watching) arguments(_ *cobra.Command, args []string) error {
	var names []string
	for _, arg := range args {
		if strings.ContainsAny(arg, "/#+") {
			w.topics = append(w.topics, arg)
		} else {
			names = append(names, arg)
		}
	}
	if len(names) > 0 && len(names) < len(args) {
		return errors.New("topics and events are mixed; an event has to fit all that is asked for: use --topic and --event if you mean that")
	}
	w.events = append(w.events, names...)
	return nil
}

// check tells what is wrong with what was asked for.
func (w *watching) check(cmd *cobra.Command) (duration time.Duration, err error) {
	if w.ask.json && w.payload {
		return 0, misused("--json and --payload exclude each other")
	}
	for _, filter := range w.topics {
		if !topic.ValidFilter(filter) {
			return 0, misused("%q is not a topic filter; + stands for one level, # for all that follow", filter)
		}
	}
	for _, pattern := range slices.Concat(w.sources, w.events) {
		if _, err := path.Match(pattern, ""); err != nil {
			return 0, misused("%q is not a pattern; write for example 'Print*'", pattern)
		}
	}
	for _, state := range w.states {
		if !slices.Contains(fateStates, state) {
			return 0, misused("--state %s: there are %s", state, strings.Join(fateStates, ", "))
		}
	}
	if cmd.Flags().Changed("count") && w.count < 1 {
		return 0, misused("--count %d: give at least 1", w.count)
	}
	if w.duration != "" {
		if duration, err = config.ParseDuration(w.duration); err != nil || duration == 0 {
			return 0, misused("--duration %q: write for example 30s", w.duration)
		}
	}
	return duration, nil
}

// beginning is the parameter since of the first stream; it is a number if it is
// known behind which event that is.
func (w *watching) beginning(ctx context.Context, c *apiclient.Client) (string, error) {
	switch w.since {
	case "":
		// What is newest now is where to go on, should the first connection break
		// before anything has come.
		var page struct{ Events []numbered }
		err := c.Get(ctx, "events?limit=1", &page)
		return strconv.FormatUint(newest(page.Events), 10), err
	case "all":
		return "all", nil
	}
	if _, err := strconv.ParseUint(w.since, 10, 62); err == nil {
		return w.since, nil
	}
	at, err := parseMoment(w.since, time.Now())
	if err != nil {
		return "", misused("--since: %w; or give the number of an event, or all", err)
	}
	return at.UTC().Format(time.RFC3339Nano), nil
}

// numbered is as much of an event as tells where it is.
type numbered struct{ Seq *uint64 }

// newest is the number of the first event of a page; 0 is none.
func newest(events []numbered) uint64 {
	if len(events) == 0 || events[0].Seq == nil {
		return 0
	}
	return *events[0].Seq
}

// run shows events until it is told to end.
func (w *watching) run(cmd *cobra.Command) error {
	duration, err := w.check(cmd)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, duration)
		defer cancel()
	}
	c, err := w.ask.client(cmd)
	if err != nil {
		return err
	}
	s := &session{watching: w, client: c, says: cmd.ErrOrStderr(), screen: newScreen(w, cmd.OutOrStdout())}
	defer func() { s.client.Close() }()
	s.screen.whole = func(seq uint64) (payload []byte, err error) {
		var e struct{ Payload json.RawMessage }
		err = s.client.Get(ctx, "events/"+strconv.FormatUint(seq, 10), &e)
		return e.Payload, err
	}
	if s.since, err = w.beginning(ctx, c); err == nil {
		if seq, bad := strconv.ParseUint(s.since, 10, 62); bad == nil {
			s.screen.seq, s.screen.known = seq, true
		}
		err = s.run(ctx)
	}
	if _, output := errors.AsType[*outputError](err); output {
		return err
	}
	if ctx.Err() != nil {
		err = nil // that is how it ends
	}
	return errors.Join(err, s.screen.end())
}

// session is the watching, over connections that may break.
type session struct {
	*watching
	client *apiclient.Client
	says   io.Writer
	screen *screen
	since  string // where the first connection begins
	opened bool   // there was a connection
	lost   bool   // it was said that there is none any more
	behind bool   // it was said that it was too slow
}

// run shows events until ctx or the count ends. The error is why it cannot go on.
func (s *session) run(ctx context.Context) error {
	pause, stuck := firstPause, 0
	for ctx.Err() == nil {
		before := s.screen.seq
		err := s.follow(ctx, stuck < maxStuck)
		if s.screen.done() || ctx.Err() != nil {
			return nil
		}
		if stuck++; s.screen.seq > before {
			pause, stuck = firstPause, 0
		}
		switch {
		case errors.Is(err, errBehind):
			if !s.behind {
				s.behind = true
				fmt.Fprintln(s.says, "more comes than is read: it goes on where it was; of events that are not stored, some may be missing")
			}
			continue
		case s.noReconnect || !s.opened || !passing(err):
			return err
		case !s.lost:
			s.lost = true
			fmt.Fprintf(s.says, "the connection is lost (%s); trying again\n", shown(err.Error()))
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, lastPause)
		if again, err := s.ask.target(ctx, io.Discard); err == nil { // it may have another address and token now
			s.client.Close()
			s.client = apiclient.New(again)
		}
	}
	return nil
}

// errBehind ends a connection that has left something out, so that the next one
// begins where it did.
var errBehind = errors.New("events come faster than they are read")

// passing reports whether it makes sense to try again.
func passing(err error) bool {
	if e, ok := errors.AsType[*apiclient.Error](err); ok {
		return e.Status >= 500 || e.Status == http.StatusTooManyRequests && !strings.Contains(e.Detail, "token")
	}
	if _, known := errors.AsType[*failure](err); known {
		return false
	}
	_, output := errors.AsType[*outputError](err)
	return !output && !errors.Is(err, apiclient.ErrNoAPI) && !errors.Is(err, apiclient.ErrOther)
}

// follow shows what one connection tells until that ends. If again, a gap ends it.
func (s *session) follow(ctx context.Context, again bool) error {
	since := s.since
	if s.screen.known {
		if err := s.missing(ctx); err != nil {
			return err
		}
	}
	if s.screen.known {
		since = strconv.FormatUint(s.screen.rewind(), 10)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := s.client.Stream(ctx, with("stream", url.Values{
		"source": s.sources, "event": s.events, "topic": s.topics, "q": {s.q}, "since": {since}, "format": {"ndjson"},
	}))
	if err != nil {
		return err
	}
	defer stream.Close()
	if s.lost {
		s.lost = false
		fmt.Fprintln(s.says, "connected again; it goes on where it was")
	} else if !s.opened && terminalOf(s.says).is && s.screen.at.is {
		fmt.Fprintf(s.says, "watching %s; Ctrl-C ends it\n", s.client.URL())
	}
	s.opened = true
	lines, ended := make(chan []byte, 256), make(chan error, 1)
	go func() {
		defer close(lines)
		for {
			line, err := stream.Next()
			if err == nil {
				select {
				case lines <- slices.Clone(line):
					continue
				case <-ctx.Done():
					err = ctx.Err()
				}
			}
			ended <- err
			return
		}
	}()
	err = s.screen.show(ctx, lines, again)
	cancel() // which ends the reader
	why := <-ended
	if err == nil && errors.Is(why, io.EOF) {
		return errors.New("the program has ended it")
	}
	return cmp.Or(err, why)
}

// missing tells of stored events that the journal has given up before they were
// shown.
func (s *session) missing(ctx context.Context) error {
	var page struct{ Events []numbered }
	if err := s.client.Get(ctx, "events?limit=1&after="+strconv.FormatUint(s.screen.seq, 10), &page); err != nil {
		return err
	}
	if next := newest(page.Events); next > s.screen.seq+1 && s.screen.seq > 0 {
		s.screen.gap(next - s.screen.seq - 1)
		s.screen.seq = next - 1
	}
	return nil
}
