package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"event2mqtt/internal/event"
	"event2mqtt/internal/journal"
	"event2mqtt/internal/web/problem"
)

// This file is sending stored events once more.

// Bounds of a replay.
const (
	maxReplay   = 10_000
	replayRate  = 50 // a second, unless the request says otherwise
	maxRate     = 1000
	replayPause = 500 * time.Millisecond // while there is no room for events
)

// ReplayedFrom is the member of a replayed event's payload that has the id of
// the one that it repeats.
const ReplayedFrom = "_replayed_from"

// Replay is one that is under way.
type Replay struct {
	Count int  `json:"count"` // events in all
	Done  int  `json:"done"`
	Since Time `json:"since"`
}

// replays is which replay is under way: one at a time.
type replays struct {
	mu     sync.Mutex
	one    *Replay
	cancel context.CancelFunc
}

// now returns the one under way, or nil.
func (r *replays) now() *Replay {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.one == nil {
		return nil
	}
	one := *r.one
	return &one
}

// replayRequest asks for a replay: of events by their numbers, or of those of a
// time that fit.
type replayRequest struct {
	Seqs   []uint64 `json:"seqs"`
	From   float64  `json:"from"`
	To     float64  `json:"to"`
	Q      string   `json:"q"`
	Source string   `json:"source"`
	Event  string   `json:"event"`
	Topic  string   `json:"topic"`
	Rate   int      `json:"rate"`
	DryRun bool     `json:"dry_run"`
}

// replayAnswer says what is, or would be, replayed.
type replayAnswer struct {
	Count   int `json:"count"`
	Rate    int `json:"rate"`    // events a second
	Seconds int `json:"seconds"` // how long it takes, about
}

// postReplay counts the events, and begins to send them unless the request is
// for their number alone.
func (a *API) postReplay(w http.ResponseWriter, c call) error {
	text, err := body(w, c, 1<<20)
	if err != nil {
		return err
	}
	var r replayRequest
	if err := decode(text, &r); err != nil {
		return err
	}
	if r.Rate == 0 {
		r.Rate = replayRate
	}
	if r.Rate < 1 || r.Rate > maxRate {
		return invalid(fmt.Sprintf("rate is %d; 1 to %d events a second are allowed", r.Rate, maxRate))
	}
	numbers, err := a.chosen(c.Context(), &r)
	if err != nil {
		return err
	}
	n := len(numbers)
	plan := replayAnswer{n, r.Rate, max(1, (n+r.Rate-1)/r.Rate)}
	switch {
	case n > maxReplay:
		return invalid(fmt.Sprintf("more than %d events fit, and one replay takes at most %d; choose fewer, such as a shorter time", maxReplay, maxReplay))
	case r.DryRun:
		return answer(w, http.StatusOK, plan)
	case n == 0:
		return invalid("no stored event fits, so there is nothing to replay")
	}
	if err := a.beginReplay(numbers, r.Rate); err != nil {
		return err
	}
	a.done(c, fmt.Sprintf("replays %d events, at most %d a second", n, r.Rate))
	return answer(w, http.StatusAccepted, plan)
}

// chosen are the numbers of the events that a request is for: at most one more
// than may be replayed.
func (a *API) chosen(ctx context.Context, r *replayRequest) (numbers []uint64, err error) {
	if len(r.Seqs) > 0 {
		if len(r.Seqs) > maxReplay {
			return r.Seqs, nil
		}
		return a.stored(ctx, slices.Compact(slices.Sorted(slices.Values(r.Seqs))))
	}
	values := map[string][]string{"q": {r.Q}, "source": {r.Source}, "event": {r.Event}, "topic": given([]string{r.Topic})}
	values["source"], values["event"] = given(values["source"]), given(values["event"])
	for name, at := range map[string]float64{"from": r.From, "to": r.To} {
		if at != 0 {
			values[name] = []string{strconv.FormatFloat(at, 'f', -1, 64)}
		}
	}
	q, err := parseQuery(values)
	if err != nil {
		return nil, err
	}
	if q.empty() && q.from.IsZero() && q.to.IsZero() {
		return nil, invalid("say which events: seqs, or from and to, q, source, event or topic")
	}
	fates := a.fates()
	for _, part := range a.spans(q, span{1, a.o.Journal.Stats().Last}) {
		err := a.read(ctx, part.first, part.last, func(e *journal.Entry) bool {
			if q.entry(e, &fates) {
				numbers = append(numbers, e.Seq)
			}
			return len(numbers) <= maxReplay
		})
		if err != nil {
			return nil, err
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

// near is how far apart numbers are that one look at the journal is for: to begin
// another one takes about as long as to read so many events.
const near = 1024

// stored returns those of some numbers, which are in order, whose events are
// stored.
func (a *API) stored(ctx context.Context, seqs []uint64) (found []uint64, err error) {
	for last := a.o.Journal.Stats().Last; len(seqs) > 0; {
		n := 1
		for n < len(seqs) && seqs[n]-seqs[n-1] <= near {
			n++
		}
		wanted := seqs[:n]
		seqs = seqs[n:]
		err := a.read(ctx, wanted[0], min(wanted[n-1], last), func(e *journal.Entry) bool {
			for len(wanted) > 0 && wanted[0] < e.Seq {
				wanted = wanted[1:]
			}
			if len(wanted) > 0 && wanted[0] == e.Seq {
				found = append(found, e.Seq)
			}
			return len(wanted) > 0
		})
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

// beginReplay begins to send events, if no other replay is under way.
func (a *API) beginReplay(numbers []uint64, rate int) error {
	a.replays.mu.Lock()
	defer a.replays.mu.Unlock()
	if a.replays.one != nil {
		return problem.New(http.StatusConflict, fmt.Sprintf("a replay is under way: %d of %d events are sent; wait for its end, or stop it", a.replays.one.Done, a.replays.one.Count))
	}
	if a.ending.Err() != nil {
		return a.ending.Err()
	}
	ctx, cancel := context.WithCancel(a.ending)
	a.replays.one, a.replays.cancel = &Replay{Count: len(numbers), Since: Time{time.Now()}}, cancel
	a.wg.Go(func() {
		err := a.replay(ctx, numbers, rate)
		a.replays.mu.Lock()
		done := a.replays.one.Done
		a.replays.one, a.replays.cancel = nil, nil
		a.replays.mu.Unlock()
		cancel()
		if err != nil {
			a.o.Log.Warn().Err(err).Msgf("api: the replay ended after %d of %d events", done, len(numbers))
		} else {
			a.o.Log.Info().Msgf("api: the replay has sent %d events", done)
		}
	})
	return nil
}

// replay sends events. Those that are gone meanwhile are skipped.
func (a *API) replay(ctx context.Context, numbers []uint64, rate int) error {
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	for _, seq := range numbers {
		var found *journal.Entry
		if err := a.read(ctx, seq, seq, func(e *journal.Entry) bool {
			if e.Seq == seq {
				found = &journal.Entry{Seq: e.Seq, Event: e.Event}
			}
			return false
		}); err != nil {
			return err
		}
		for found != nil {
			e := found.Event
			e.Position = event.Position{} // the source has long read on
			if !e.Route.Raw {
				e.Payload = event.Set(e.Payload, ReplayedFrom, string(event.String(a.o.Journal.ID(seq))))
			}
			err := a.o.Program.Again(ctx, &journal.Entry{Seq: seq, Event: e})
			if err == nil {
				break
			}
			if !errors.Is(err, journal.ErrFull) {
				return err
			}
			select {
			case <-ctx.Done():
				return errStopped
			case <-time.After(replayPause):
			}
		}
		a.replays.mu.Lock()
		a.replays.one.Done++
		a.replays.mu.Unlock()
		select {
		case <-ctx.Done():
			return errStopped
		case <-tick.C:
		}
	}
	return nil
}

var errStopped = errors.New("it was stopped")

// getReplay answers how a replay goes; replay is null while there is none.
func (a *API) getReplay(w http.ResponseWriter, _ call) error {
	return answer(w, http.StatusOK, map[string]any{"replay": a.replays.now()})
}

// deleteReplay stops the replay.
func (a *API) deleteReplay(w http.ResponseWriter, c call) error {
	a.replays.mu.Lock()
	stop := a.replays.cancel
	a.replays.mu.Unlock()
	if stop == nil {
		return notFound("no replay is under way")
	}
	stop()
	a.done(c, "stops the replay")
	return answer(w, http.StatusOK, json.RawMessage("{}"))
}
