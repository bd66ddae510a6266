package event_test

import (
	"testing"

	"event2mqtt/internal/event"
)

// TestMemberAllocatesNothing: it is asked for several keys of every event.
func TestMemberAllocatesNothing(t *testing.T) {
	object := []byte(`{"event":"PrintDone","number":7}`)
	if n := testing.AllocsPerRun(100, func() { _ = event.Member(object, "event") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
