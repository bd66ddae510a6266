package mqtt

import (
	"testing"
	"time"
)

// TestRetainedMessagesTakeTurnsWithEvents: none before the first window of events
// is out, few while events move, none for a while after a slow one, and as many
// as there are when events rest.
func TestRetainedMessagesTakeTurnsWithEvents(t *testing.T) {
	turn := newTurns()
	now := time.Now()
	may := func(want bool, at time.Time) {
		t.Helper()
		if _, got := turn.look(at); got != want {
			t.Errorf("a retained message may go out: %t", got)
		}
	}
	may(false, now)
	turn.eventOut()
	may(false, now)
	turn.letIn()
	for range besideEvents {
		may(true, now)
		turn.stateOut()
	}
	may(false, now)
	turn.stateDone(time.Millisecond)
	may(true, now)
	turn.stateDone(10 * slowState)
	may(false, now)
	may(true, time.Now().Add(longestTurn+time.Millisecond))
	for range 20 {
		turn.stateOut()
	}
	turn.eventsDone(1)
	may(false, turn.still)
	if late, _ := turn.look(turn.still); late != moving {
		t.Errorf("it looks again after %s", late)
	}
	may(true, turn.still.Add(moving))
}

// TestARetainedMessageIsOvertakenByLaterEventsOnly.
func TestARetainedMessageIsOvertakenByLaterEventsOnly(t *testing.T) {
	turn := newTurns()
	for range 3 {
		turn.eventOut()
	}
	turn.eventsDone(1)
	overtaken := turn.stateOut()
	turn.eventOut()
	for range 2 {
		turn.eventsDone(1)
		if overtaken() {
			t.Error("it is overtaken by what went out before")
		}
	}
	turn.eventsDone(1)
	if !overtaken() {
		t.Error("it is not overtaken")
	}
}
