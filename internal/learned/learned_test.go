package learned_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"event2mqtt/internal/event"
	"event2mqtt/internal/learned"
)

// pass lets events of a source pass, and returns the names that were stored.
func pass(n *learned.Names, source string, names ...string) (stored []string) {
	var events []event.Event
	for _, name := range names {
		events = append(events, event.Event{Source: source, Name: name})
	}
	fresh := n.Unknown(events)
	for _, name := range fresh {
		stored = append(stored, name.Event)
	}
	n.Learn(fresh...)
	return stored
}

func TestNamesAreLearnedOnce(t *testing.T) {
	n := learned.New()
	if got := pass(n, "hooks", "B", "A", "", "B"); fmt.Sprint(got) != "[B A]" {
		t.Errorf("stored %q", got)
	}
	if got := pass(n, "hooks", "A", "B"); got != nil {
		t.Errorf("stored %q again", got)
	}
	pass(n, "log", "A")
	if got := fmt.Sprint(n.Of("hooks"), n.Of("log"), n.Of("other")); got != "[A B] [A] []" {
		t.Errorf("got %s", got)
	}
}

// TestWhatWasNotStoredIsNotLearned: the next event of that name is asked about
// again.
func TestWhatWasNotStoredIsNotLearned(t *testing.T) {
	n := learned.New()
	events := []event.Event{{Source: "hooks", Name: "A"}}
	for range 2 {
		if fresh := n.Unknown(events); len(fresh) != 1 || len(n.Of("hooks")) != 0 {
			t.Fatalf("got %v, known %q", fresh, n.Of("hooks"))
		}
	}
}

// TestRandomNamesMakeFewWrites, and take little, however many come and however
// long they are.
func TestRandomNamesMakeFewWrites(t *testing.T) {
	n := learned.New()
	stored, bytes := 0, 0
	for source := range 100 {
		for i := range 1000 {
			for _, name := range pass(n, fmt.Sprint("source", source), fmt.Sprint(i, strings.Repeat("x", 100)), strings.Repeat("y", 200)) {
				stored++
				bytes += len(name)
			}
		}
	}
	if got := len(n.Of("source0")); got != learned.MaxNames {
		t.Errorf("of one source %d are known", got)
	}
	if bytes == 0 || bytes > learned.DefaultMaxBytes {
		t.Errorf("%d bytes were stored", bytes)
	}
	if got := pass(n, strings.Repeat("s", learned.DefaultMaxBytes), "A"); got != nil {
		t.Error("a name of a source with a huge name is stored with each event")
	}
	var many []string
	for i := range 30_000 {
		many = append(many, fmt.Sprint(i))
	}
	if got := pass(learned.New(), "hooks", many...); len(got) != learned.MaxNames {
		t.Errorf("stored %d at once", len(got))
	}
}

// TestTwoThatLearnAtOnceLearnNoMoreThanThereMayBe.
func TestTwoThatLearnAtOnceLearnNoMoreThanThereMayBe(t *testing.T) {
	n := learned.New()
	var all sync.WaitGroup
	var mu sync.Mutex
	stored, surplus := map[learned.Name]bool{}, map[learned.Name]bool{}
	for i := range 8 {
		all.Go(func() {
			for k := range 100 {
				fresh := n.Unknown([]event.Event{{Source: "hooks", Name: fmt.Sprint(i%4, " ", k)}})
				over := n.Learn(fresh...)
				mu.Lock()
				for _, name := range fresh {
					stored[name] = true
				}
				for _, name := range over {
					surplus[name] = true
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	known := n.Of("hooks")
	if len(known) != learned.MaxNames {
		t.Errorf("%d are known", len(known))
	}
	for name := range stored { // is known, or was given back
		if slices.Contains(known, name.Event) == surplus[name] {
			t.Errorf("%v: known and given back are both %t", name, surplus[name])
		}
	}
}

// TestNamesComeBackAfterARestart, whatever signs are in them, and what is
// damaged does not.
func TestNamesComeBackAfterARestart(t *testing.T) {
	var keys []string
	all := []learned.Name{{"hooks", "A"}, {"a:b", "12:x"}, {"", "no source"}, {"1:", ":"}, {"ü", "\x00\n"}}
	for _, name := range all {
		keys = append(keys, name.Key())
	}
	n := learned.New()
	bad := []string{"", "A", "5:hooks", "-1:hooksA", "99:hooksA", "05:hooksA", "+5:hooksA", "1:a" + strings.Repeat("x", learned.MaxName+1)}
	if got := n.Restore(append(keys, bad...)); !slices.Equal(got, bad) {
		t.Errorf("given back %q", got)
	}
	for _, name := range all {
		if got := n.Of(name.Source); len(got) != 1 || got[0] != name.Event {
			t.Errorf("of %q: %q", name.Source, got)
		}
	}
}

// TestNamesOfSourcesThatAreGoneAreForgotten, and what exceeds a smaller bound.
func TestNamesOfSourcesThatAreGoneAreForgotten(t *testing.T) {
	n := learned.New()
	pass(n, "hooks", "A", "B")
	pass(n, "log", "C")
	if got := n.Keep([]string{"log", "new"}, learned.DefaultMaxBytes); len(got) != 2 || got[0] != (learned.Name{Source: "hooks", Event: "A"}) {
		t.Errorf("forgot %v", got)
	}
	if got := fmt.Sprint(n.Of("hooks"), n.Of("log")); got != "[] [C]" {
		t.Errorf("got %s", got)
	}
	for i := range 100 {
		pass(n, "log", fmt.Sprint(i))
	}
	if got := n.Keep([]string{"log"}, 1000); len(got) == 0 || len(n.Of("log")) == 0 || len(got)+len(n.Of("log")) != 101 {
		t.Errorf("forgot %d of 101, %d are left", len(got), len(n.Of("log")))
	}
	if got := pass(n, "log", strings.Repeat("x", 100)); got != nil {
		t.Errorf("learned %q above the bound", got)
	}
	n.Keep([]string{"log"}, 1<<30)
	if got := pass(n, "log", strings.Repeat("x", 100)); len(got) != 1 {
		t.Errorf("learned %q below the bound", got)
	}
}

// TestKnownNamesCostNoAllocation, nor do those that there is no room for.
func TestKnownNamesCostNoAllocation(t *testing.T) {
	n := learned.New()
	for i := range 300 {
		pass(n, "hooks", fmt.Sprint(i))
	}
	events := []event.Event{{Source: "hooks", Name: "7"}, {Source: "hooks", Name: "299"}, {}}
	if got := testing.AllocsPerRun(100, func() {
		if n.Unknown(events) != nil {
			t.Error("something is new")
		}
	}); got != 0 {
		t.Errorf("%v allocations", got)
	}
}

func BenchmarkKnownName(b *testing.B) {
	n := learned.New()
	for i := range 50 {
		pass(n, "hooks", fmt.Sprint("Event", i))
	}
	events := []event.Event{{Source: "hooks", Name: "Event7"}}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if n.Unknown(events) != nil {
				b.Error("it is new")
			}
		}
	})
}
