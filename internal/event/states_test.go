package event_test

import (
	"fmt"
	"strings"
	"testing"

	"event2mqtt/internal/event"
)

// live are the states of a table, oldest change first.
func live(w *event.StateWatch) string {
	var all []string
	for _, st := range w.Live() {
		all = append(all, fmt.Sprintf("%s/%s=%s", st.Source, st.Key, st.Payload))
	}
	return strings.Join(all, " ")
}

func report(t *testing.T, s *event.States, source string, pairs ...string) {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if err := s.Report(source, event.State{Key: pairs[i], Payload: []byte(pairs[i+1])}); err != nil {
			t.Fatal(err)
		}
	}
}

func woken(w *event.StateWatch) bool {
	select {
	case <-w.Changed():
		return true
	default:
		return false
	}
}

func TestStatesKeepOnlyTheNewest(t *testing.T) {
	s := event.NewStates()
	w := s.Watch()
	defer w.Close()
	if !woken(w) || live(w) != "" {
		t.Fatalf("an empty table has %s", live(w))
	}
	report(t, s, "s", "a", "1", "b", "1", "a", "2")
	if !woken(w) || live(w) != "s/b=1 s/a=2" {
		t.Fatalf("got %s", live(w))
	}
	report(t, s, "s", "a", "2")
	if woken(w) {
		t.Error("an equal value woke the watcher")
	}
}

// TestTwoSourcesHaveTheSameKeys, and neither takes anything from the other.
func TestTwoSourcesHaveTheSameKeys(t *testing.T) {
	s := event.NewStates()
	w := s.Watch()
	defer w.Close()
	report(t, s, "a", "k", "1", "l", "1", event.KeyAvailable, "online")
	report(t, s, "b", "k", "2")
	s.Remove("b", "l")
	s.Remove("a")
	if got := live(w); got != "a/available=online b/k=2" {
		t.Errorf("got %s", got)
	}
	s.RemoveSource("a")
	report(t, s, "b", "k", "") // nothing is no state
	if got := live(w); got != "" || count(s) != 0 {
		t.Errorf("got %s", got)
	}
}

// TestWhatASourceDoesNotReportAgainGoesWhenItHasSettled, and is kept until then.
func TestWhatASourceDoesNotReportAgainGoesWhenItHasSettled(t *testing.T) {
	s := event.NewStates()
	w := s.Watch()
	defer w.Close()
	if w.Awaits("a", "k") {
		t.Error("a source that nobody expects is awaited")
	}
	report(t, s, "a", "old", "1", "same", "1")
	since := s.Mark()
	report(t, s, "a", "same", "1", "new", "1")
	s.Expect("a", since)
	s.Remove("a", "gone")
	for key, want := range map[string]bool{"unknown": true, "gone": false} {
		if w.Awaits("a", key) != want {
			t.Errorf("%s is awaited: %t", key, !want)
		}
	}
	if got := live(w); got != "a/old=1 a/same=1 a/new=1" {
		t.Errorf("before it has settled: %s", got)
	}
	s.Settle("a")
	if got := live(w); got != "a/same=1 a/new=1" || w.Awaits("a", "unknown") {
		t.Errorf("after it has settled: %s", got)
	}
}

// TestASourceThatMakesUpKeysIsBounded: what it removes leaves nothing behind.
func TestASourceThatMakesUpKeysIsBounded(t *testing.T) {
	s := event.NewStates()
	for i := range 3 * event.MaxStates {
		err := s.Report("a", event.State{Key: fmt.Sprint(i), Payload: []byte("1")})
		if (err != nil) != (i >= event.MaxStates) {
			t.Fatalf("state %d: %v", i, err)
		}
	}
	report(t, s, "b", "k", "1")
	if count(s) != event.MaxStates+1 {
		t.Errorf("%d states", count(s))
	}
	s.Remove("a")
	s.Expect("a", s.Mark())
	w := s.Watch()
	defer w.Close()
	for i := range 3 * event.MaxStates {
		s.Remove("a", fmt.Sprint(i))
	}
	if w.Awaits("a", "other") || count(s) != 1 {
		t.Errorf("a source that makes up keys is awaited; %d states", count(s))
	}
}

func TestKeysOfTheProgramAreReserved(t *testing.T) {
	for key, good := range map[string]bool{
		"temperature/bed": true, "a/set": true, "availability": true, "settings": true,
		"": false, "available": false, "Available": false, "set": false, "set/pause": false, "result/x": false, strings.Repeat("x", event.MaxStateKey+1): false,
	} {
		if err := event.CheckStateKey(key); (err == nil) != good {
			t.Errorf("%.20q: %v", key, err)
		}
	}
}

// count is how many states there are.
func count(s *event.States) (n int) {
	for _, states := range s.Counts() {
		n += states
	}
	return n
}

// TestDiscoveryComesFirst, then whether things are there, then the rest; Again
// has all of them changed, and a value that is equal is none.
func TestDiscoveryComesFirst(t *testing.T) {
	s := event.NewStates()
	w := s.Watch()
	defer w.Close()
	report(t, s, "a", "k", "1", event.KeyAvailable, "online")
	report(t, s, event.DiscoverySource, "device", "{}")
	const want = "bridge/discovery/device={} a/available=online a/k=1"
	woken(w)
	before := w.Live()
	if live(w) != want {
		t.Errorf("got %s", live(w))
	}
	s.Again()
	if !woken(w) || live(w) != want {
		t.Errorf("again: %s", live(w))
	}
	for i, st := range w.Live() {
		if st.Version <= before[i].Version {
			t.Errorf("%s is not published again", st.Key)
		}
	}
}

// TestWhatIsHeldOutlivesSettling: copies of it are kept, and its newest value.
func TestWhatIsHeldOutlivesSettling(t *testing.T) {
	s := event.NewStates()
	w := s.Watch()
	defer w.Close()
	s.Hold("a", "door", "lid")
	report(t, s, "a", "door", "1", "bed", "1")
	s.Expect("a", s.Mark())
	s.Settle("a")
	if live(w) != "a/door=1" || !w.Awaits("a", "lid") || w.Awaits("a", "bed") {
		t.Errorf("it has %s; lid is awaited: %v", live(w), w.Awaits("a", "lid"))
	}
	s.Hold("a")
	if w.Awaits("a", "lid") {
		t.Error("what is not held any more is awaited")
	}
}
