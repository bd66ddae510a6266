package mqtt

import (
	"context"
	"testing"
	"time"

	"event2mqtt/internal/testkit"
)

// TestAFullWindowGoesOnAlsoForOne: enough are waited for only for a moment, as a
// broker may answer one message at a time.
func TestAFullWindowGoesOnAlsoForOne(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	s := newSlots(8)
	for s.take() {
	}
	for _, free := range []int{s.enough, 1} {
		s.release(free)
		testkit.OK(t, s.waitForSome(ctx))
		for range free {
			if !s.take() {
				t.Fatalf("fewer than the %d that were given back are free", free)
			}
		}
	}
	brief, end := context.WithCancel(ctx)
	end()
	if s.waitForSome(brief) == nil {
		t.Error("went on though none is free")
	}
	s.release(8)
	testkit.OK(t, s.wait(ctx, s.most))
}
