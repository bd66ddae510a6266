package bridge

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"event2mqtt/internal/health"
)

func TestAFailedComponentIsStartedAgainAndSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		var starts []time.Time
		c := &component{title: "source x", log: zerolog.New(&log), run: func(ctx context.Context, ready func()) error {
			starts = append(starts, time.Now())
			switch len(starts) {
			case 1:
				return errors.New("no such device")
			case 2:
				panic("a bug")
			case 3:
				return nil // it must not end by itself
			}
			ready()
			<-ctx.Done()
			return ctx.Err()
		}}
		c.start()
		if err := c.begun(t.Context()); err == nil || !strings.Contains(err.Error(), "no such device") {
			t.Errorf("the first attempt: %v", err)
		}
		synctest.Wait()
		if h := c.health.Report(); h.Level != health.Failed || !strings.Contains(h.Detail, "no such device") {
			t.Errorf("after a failure: %+v", h)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if h := c.health.Report(); h.Level != health.Up || h.Restarts != 3 || len(starts) != 4 {
			t.Errorf("after %d starts: %+v", len(starts), h)
		}
		c.stop()
		for i := 1; i < len(starts); i++ {
			if pause := starts[i].Sub(starts[i-1]); pause < 100*time.Millisecond {
				t.Errorf("start %d came %s after the one before", i, pause)
			}
		}
		for _, text := range []string{"no such device", "panic: a bug", "ended without a reason"} {
			if strings.Count(log.String(), text) != 1 {
				t.Errorf("%q is not logged once:\n%s", text, log.String())
			}
		}
	})
}
