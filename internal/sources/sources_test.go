package sources_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"event2mqtt/internal/event"
	"event2mqtt/internal/health"
	"event2mqtt/internal/sources"
	"event2mqtt/internal/sources/sourcetest"
)

// session is one that an attempt leads to, after it took so long.
type session struct {
	takes time.Duration // to connect, or to fail
	lasts time.Duration // 0 if there is no connection
	err   error
}

type connectionCase struct {
	name     string
	sessions []session
	log      []string // what each line holds
	health   []string // each change
}

// TestAConnectionSaysEachChangeOnce, in the log, and at once in its health.
func TestAConnectionSaysEachChangeOnce(t *testing.T) {
	refused, timeout, lost, denied := errors.New("refused"), errors.New("timeout"), errors.New("reset"), errors.New("denied")
	for _, c := range []connectionCase{
		{
			"away from the start, for long",
			slices.Repeat([]session{{0, 0, refused}}, 20),
			[]string{"refused"}, []string{"waiting connecting to peer", "waiting refused"},
		},
		{
			"attempts that take longer than the longest pause",
			slices.Repeat([]session{{2 * time.Minute, 0, timeout}}, 20),
			[]string{"timeout"}, []string{"waiting connecting to peer", "waiting timeout"},
		},
		{
			"causes that take turns",
			slices.Repeat([]session{{0, 0, refused}, {0, 0, timeout}}, 10),
			[]string{"refused", "timeout"}, slices.Concat([]string{"waiting connecting to peer"}, slices.Repeat([]string{"waiting refused", "waiting timeout"}, 10)),
		},
		{
			"lost for long, twice",
			[]session{{0, time.Hour, lost}, {0, 0, refused}, {0, 0, refused}, {0, time.Second, lost}, {0, 0, refused}, {0, 0, denied}, {0, 0, refused}},
			[]string{"connected to peer", "reset", "connected to peer", "reset", "denied"},
			[]string{
				"waiting connecting to peer", "up connected to peer", "waiting reset", "waiting refused", "up connected to peer", "waiting reset",
				"waiting refused", "waiting denied", "waiting refused",
			},
		},
		{
			"lost for a moment",
			[]session{{0, time.Hour, lost}, {0, time.Second, nil}, {0, 0, refused}},
			[]string{"connected to peer", `"lost":"reset"`, `"lost":"the connection has ended"`},
			[]string{"waiting connecting to peer", "up connected to peer", "waiting reset", "up connected to peer", "waiting the connection has ended", "waiting refused"},
		},
	} {
		t.Run(c.name, func(t *testing.T) { synctest.Test(t, c.run) })
	}
}

func (c connectionCase) run(t *testing.T) {
	var log bytes.Buffer
	var changes []string
	out := &told{Output: sourcetest.NewOutput()}
	record := health.Record{Changed: func(r health.Report) { changes = append(changes, r.Level.String()+" "+r.Detail) }}
	out.tell = record.Tell
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	err := sources.Connection{Peer: "peer", Log: zerolog.New(&log)}.Run(ctx, out, func(_ context.Context, up func()) error {
		if n == len(c.sessions) {
			cancel()
			return nil
		}
		s := c.sessions[n]
		n++
		time.Sleep(s.takes)
		if s.lasts > 0 {
			up()
			time.Sleep(s.lasts)
			up() // says nothing more
		}
		return s.err
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("it ended with %v", err)
	}
	lines := slices.Collect(strings.Lines(log.String()))
	if len(lines) != len(c.log) {
		t.Errorf("%d lines, want %d:\n%s", len(lines), len(c.log), log.String())
	}
	for i := range min(len(lines), len(c.log)) {
		if !strings.Contains(lines[i], c.log[i]) {
			t.Errorf("line %d is %s, want %s", i, lines[i], c.log[i])
		}
	}
	if !slices.Equal(changes, c.health) {
		t.Errorf("health:\n%s\nwant:\n%s", strings.Join(changes, "\n"), strings.Join(c.health, "\n"))
	}
}

// told is an output whose health goes elsewhere.
type told struct {
	*sourcetest.Output
	tell func(health.Status)
}

func (o *told) Tell(s health.Status) { o.tell(s) }

// TestWhatCannotBeStoredIsOfferedAgain, until it is stored or never will be, and
// whoever waits is told when that begins and when it is over.
func TestWhatCannotBeStoredIsOfferedAgain(t *testing.T) {
	refusal := &event.Refused{Reason: "x"}
	disk := errors.New("disk")
	for _, c := range []struct {
		name   string
		errors []error // of each call; the last is returned
		told   []error
	}{
		{"at once", []error{nil}, nil},
		{"when there is room", []error{sources.ErrFull, sources.ErrFull, nil}, []error{sources.ErrFull, nil}},
		{"after two causes in turn", []error{sources.ErrFull, disk, sources.ErrFull, disk, nil}, []error{sources.ErrFull, disk, nil}},
		{"refused", []error{refusal}, nil},
		{"refused when there is room", []error{sources.ErrFull, refusal}, []error{sources.ErrFull, nil}},
		{"closed", []error{sources.ErrFull, fmt.Errorf("append: %w", sources.ErrClosed)}, []error{sources.ErrFull}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began, calls := time.Now(), 0
				var told []error
				err := sources.Store(t.Context(), func() error { calls++; return c.errors[calls-1] }, func(err error) { told = append(told, err) })
				if calls != len(c.errors) || !errors.Is(err, c.errors[calls-1]) {
					t.Errorf("after %d calls: %v", calls, err)
				}
				if !slices.EqualFunc(told, c.told, func(a, b error) bool { return errors.Is(a, b) }) {
					t.Errorf("told of %v, want %v", told, c.told)
				}
				if calls > 1 && time.Since(began) < 25*time.Millisecond {
					t.Error("it does not pause")
				}
			})
		})
	}
	t.Run("until its context ends", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			calls := 0
			err := sources.Store(ctx, func() error { calls++; return sources.ErrFull }, nil)
			if !errors.Is(err, context.DeadlineExceeded) || calls < 700 || calls > 1500 { // pauses of at most 5 s
				t.Errorf("after %d calls: %v", calls, err)
			}
		})
	})
}
