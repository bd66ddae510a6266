package learned_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"testing"

	"event2mqtt/internal/event"
	"event2mqtt/internal/learned"
)

// store is a journal: disk is what is written to it, of which memory is what
// is not forgotten.
type store struct {
	disk, memory map[string][]byte
	writes       int
	full         error
}

func newStore(disk map[string][]byte) *store {
	s := &store{disk: map[string][]byte{}, memory: map[string][]byte{}}
	maps.Copy(s.disk, disk)
	maps.Copy(s.memory, disk)
	return s
}

func (s *store) Append(_ context.Context, events ...event.Event) (uint64, error) {
	if s.full != nil {
		return 0, s.full
	}
	s.writes++
	for _, e := range events {
		if e.Name != "" {
			return 0, fmt.Errorf("%q is stored as an event", e.Name)
		}
		s.disk[e.Position.Key], s.memory[e.Position.Key] = e.Position.Value, e.Position.Value
	}
	return 1, nil
}

func (s *store) Positions(string) map[string][]byte { return maps.Clone(s.memory) }
func (s *store) Forget(_, key string)               { delete(s.memory, key) }

func kept(s *store) (k *learned.Kept, changes *int) {
	changes = new(int)
	k = &learned.Kept{Names: learned.New(), Store: s, Changed: func() { *changes++ }}
	k.Reopen()
	*changes = 0
	return k, changes
}

func named(source string, names ...string) (events []event.Event) {
	for _, name := range names {
		events = append(events, event.Event{Source: source, Name: name})
	}
	return events
}

// TestOnlyNewNamesAreWritten, those that come together at once, and whoever
// looks is told.
func TestOnlyNewNamesAreWritten(t *testing.T) {
	s := newStore(nil)
	k, changes := kept(s)
	for range 3 {
		if err := k.Pass(t.Context(), named("hooks", "A", "B", "A")); err != nil {
			t.Fatal(err)
		}
	}
	if s.writes != 1 || *changes != 1 {
		t.Errorf("%d writes, told %d times", s.writes, *changes)
	}
	if again, _ := kept(newStore(s.disk)); fmt.Sprint(again.Of("hooks")) != "[A B]" {
		t.Errorf("after a restart: %q", again.Of("hooks"))
	}
}

// TestWhatCannotBeWrittenIsTriedAgain with the next event of the name.
func TestWhatCannotBeWrittenIsTriedAgain(t *testing.T) {
	s := newStore(nil)
	k, changes := kept(s)
	s.full = errors.New("disk full")
	if err := k.Pass(t.Context(), named("hooks", "A")); !errors.Is(err, s.full) || len(k.Of("hooks")) > 0 || *changes > 0 {
		t.Errorf("got %v, known %q, told %d times", err, k.Of("hooks"), *changes)
	}
	s.full = nil
	if err := k.Pass(t.Context(), named("hooks", "A")); err != nil || len(k.Of("hooks")) != 1 {
		t.Errorf("got %v, known %q", err, k.Of("hooks"))
	}
}

// TestForgottenNamesDoNotComeBack, though the disk has them for a while: not
// after a restart with their source. When it sends them again, they do.
func TestForgottenNamesDoNotComeBack(t *testing.T) {
	s := newStore(nil)
	k, changes := kept(s)
	if err := errors.Join(k.Pass(t.Context(), named("hooks", "A", "B")), k.Pass(t.Context(), named("log", "C"))); err != nil {
		t.Fatal(err)
	}
	*changes = 0
	for range 2 {
		if err := k.Only(t.Context(), []string{"log"}, 1<<20); err != nil {
			t.Fatal(err)
		}
	}
	if *changes != 1 || len(k.Of("hooks")) != 0 || len(s.memory) != 1 {
		t.Errorf("told %d times, known %q, positions %q", *changes, k.Of("hooks"), s.memory)
	}
	later := newStore(s.disk)
	again, _ := kept(later)
	if got := fmt.Sprint(again.Of("hooks"), again.Of("log"), again.Sources()); got != "[] [C] [log]" || len(later.memory) != 1 {
		t.Errorf("after a restart: %s, positions %q", got, later.memory)
	}
	if err := again.Pass(t.Context(), named("hooks", "A")); err != nil {
		t.Fatal(err)
	}
	if once, _ := kept(newStore(later.disk)); fmt.Sprint(once.Of("hooks")) != "[A]" {
		t.Errorf("sent again: %q", once.Of("hooks"))
	}
}
