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
)

func TestAFailedComponentIsStartedAgainAndSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		c := newComponent("source x", zerolog.New(&log))
		ctx, cancel := context.WithCancel(context.Background())
		var starts []time.Time
		done := make(chan struct{})
		go func() {
			defer close(done)
			c.keepRunning(ctx, func(ctx context.Context) error {
				starts = append(starts, time.Now())
				switch len(starts) {
				case 1:
					return errors.New("no such device")
				case 2:
					panic("a bug")
				case 3:
					return nil // it must not end by itself
				}
				<-ctx.Done()
				return ctx.Err()
			})
		}()
		synctest.Wait()
		if h := c.health(); h.OK || !strings.Contains(h.Detail, "no such device") {
			t.Errorf("after a failure: %+v", h)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if h := c.health(); !h.OK || len(starts) != 4 {
			t.Errorf("after %d starts: %+v", len(starts), h)
		}
		cancel()
		<-done
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
