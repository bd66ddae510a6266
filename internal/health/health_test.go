package health_test

import (
	"encoding/json"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"event2mqtt/internal/health"
)

// TestARecordKeepsSinceWhenALevelHolds, not since when it has its words.
func TestARecordKeepsSinceWhenALevelHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r health.Record
		start := time.Now()
		for i, step := range []struct {
			tell  health.Status
			since time.Duration // after the start; a second passes before each step
		}{
			{health.Running("a"), time.Second},
			{health.Running("b"), time.Second},
			{health.Lacking("c"), 3 * time.Second},
			{health.Trouble(errors.New("d")), 3 * time.Second},
			{health.Failure(errors.New("e")), 5 * time.Second},
			{health.Running("f"), 6 * time.Second},
		} {
			time.Sleep(time.Second)
			step.tell.Since = time.Unix(1, 0) // is not the part's to say
			r.Tell(step.tell)
			got := r.Report()
			if got.Level != step.tell.Level || got.Detail != step.tell.Detail || got.Since.Sub(start) != step.since {
				t.Errorf("step %d: %+v", i, got)
			}
		}
	})
}

// TestARecordKeepsTheLastErrorAndCountsFailures, also when all is well again.
func TestARecordKeepsTheLastErrorAndCountsFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r health.Record
		start := time.Now()
		r.Tell(health.Failure(errors.New("first")))
		r.Tell(health.Running("running"))
		r.Tell(health.Failure(errors.New("second")))
		time.Sleep(time.Second)
		r.Tell(health.Trouble(errors.New("away")))
		time.Sleep(time.Second)
		r.Tell(health.Lacking("connecting"))
		r.Tell(health.Running("running"))
		if got := r.Report(); got.LastError != "away" || got.LastErrorAt.Sub(start) != time.Second || got.Restarts != 2 || got.Level != health.Up {
			t.Errorf("%+v", got)
		}
	})
}

// TestOnlyAChangeIsTold: of the level, or of the words.
func TestOnlyAChangeIsTold(t *testing.T) {
	var told []string
	r := health.Record{Changed: func(r health.Report) { told = append(told, r.Level.String()+" "+r.Detail) }}
	for _, s := range []health.Status{
		health.Running("a"), health.Running("a"), health.Lacking("a"), health.Lacking("a"), health.Lacking("b"), health.Trouble(errors.New("b")), health.Running("a"),
	} {
		r.Tell(s)
	}
	want := []string{"up a", "waiting a", "waiting b", "up a"}
	if len(told) != len(want) {
		t.Fatalf("told %q", told)
	}
	for i := range want {
		if told[i] != want[i] {
			t.Errorf("told %q, want %q", told[i], want[i])
		}
	}
}

func TestARecordIsSafeForConcurrentUse(t *testing.T) {
	var mu sync.Mutex
	changes := 0
	r := health.Record{Changed: func(health.Report) { mu.Lock(); changes++; mu.Unlock() }}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 100 {
				r.Tell(health.Failure(errors.New("x")))
				_ = r.Report()
				r.Tell(health.Running("running"))
			}
		})
	}
	wg.Wait()
	if got := r.Report(); got.Restarts != 400 || got.Level != health.Up || changes == 0 {
		t.Errorf("%+v after %d changes", got, changes)
	}
}

func TestLevelsHaveNamesThatCanBeReadBack(t *testing.T) {
	for level, name := range map[health.Level]string{health.Up: `"up"`, health.Waiting: `"waiting"`, health.Failed: `"failed"`} {
		text, err := json.Marshal(level)
		var back health.Level
		if err != nil || string(text) != name || json.Unmarshal(text, &back) != nil || back != level {
			t.Errorf("%s, %v, and back %s", text, err, back)
		}
	}
	var l health.Level
	if err := json.Unmarshal([]byte(`"ok"`), &l); err == nil {
		t.Error("a level that does not exist can be read")
	}
}

// TestAReportInJSON holds no error of a part that had none.
func TestAReportInJSON(t *testing.T) {
	var r health.Record
	text, err := json.Marshal(r.Report())
	if err != nil || string(text) != `{"level":"up","detail":""}` {
		t.Errorf("%s, %v", text, err)
	}
}
