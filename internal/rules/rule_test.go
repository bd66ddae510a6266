package rules_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"event2mqtt/internal/event"
	"event2mqtt/internal/rules"
)

// TestAVerdictNamesItsRule: which it is, what it is called, and where it stands.
func TestAVerdictNamesItsRule(t *testing.T) {
	list := []rules.Config{
		{Match: []string{"Kept"}, Keep: true},
		{Match: []string{"Any"}, Rename: "Other"},
		{Match: []string{"Client*"}, Drop: true, Name: "no chatter"},
		{Match: []string{"Same"}, Dedupe: true, Name: "once"},
		{Match: []string{"Often"}, MinInterval: time.Hour},
	}
	place := func(i int) (string, int) {
		if i == 4 {
			return "environment variable E2M_RULES", 0
		}
		return "config.yaml", 10 + i
	}
	s, err := rules.New(list, rules.Options{Base: "base", Place: place})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, want, label string
		kind              rules.Kind
	}{
		{"Kept", "rules[0] (config.yaml:10)", "0", rules.Pass},
		{"Any", "none", "", rules.Pass},
		{"ClientOpened", `rules[2] "no chatter" (config.yaml:12)`, "no chatter", rules.Drop},
		{"Same", "none", "", rules.Pass},
		{"Same", `rules[3] "once" (config.yaml:13)`, "once", rules.Repeat},
		{"Often", "none", "", rules.Pass},
		{"Often", "rules[4] (environment variable E2M_RULES)", "4", rules.Hold},
	} {
		p := s.Begin(time.Now())
		v := p.Apply(&event.Event{Name: c.name, Source: "printer", Payload: []byte("{}")})
		p.Commit()
		got, label := "none", ""
		if v.By != nil {
			got, label = v.By.String(), v.By.Label()
		}
		if got != c.want || label != c.label || v.Kind != c.kind {
			t.Errorf("%s: %d by %s, called %q; want %d by %s, called %q", c.name, v.Kind, got, label, c.kind, c.want, c.label)
		}
	}
	if got := (&rules.Rule{Index: 3}).String(); got != "rules[3]" {
		t.Errorf("got %s", got)
	}
}

// TestWhatAnotherTookThePlaceOfIsTold, with the rule; what was sent by which
// rule had held it, too.
func TestWhatAnotherTookThePlaceOfIsTold(t *testing.T) {
	s := set(t, rules.Config{Match: []string{"Z"}, MinInterval: time.Minute, Name: "calm"})
	now := time.Now()
	var told []string
	for n, size := range []int{0, 0, 0, 70 << 10} { // sent, held, held, too large to be held
		p := s.Begin(now)
		p.Apply(&event.Event{Name: "Z", Source: "printer", Payload: fmt.Appendf(nil, `{"n":%d,"x":"%s"}`, n, strings.Repeat("x", size))})
		for _, r := range p.Replaced {
			told = append(told, fmt.Sprintf("%d: %s by %s", n, r.Event.Payload, r.By.Label()))
		}
		p.Commit()
	}
	if want := `[2: {"n":1,"x":""} by calm 3: {"n":2,"x":""} by calm]`; fmt.Sprint(told) != want {
		t.Errorf("got  %v\nwant %s", told, want)
	}
	if c := s.Counts()[0]; c.Replaced != 2 || c.Dropped != 0 {
		t.Errorf("counts %+v", c)
	}
	apply(s, now, "Z", "{}")
	due, _ := s.Due(now.Add(time.Hour))
	if err := s.Send(due[0], now.Add(time.Hour), func(p *rules.Batch, _ *event.Event, _ rules.Verdict) error {
		if p.Sender == nil || p.Sender.Label() != "calm" {
			t.Errorf("sent by %v", p.Sender)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// TestNamesAreUnique, also where each is good by itself.
func TestNamesAreUnique(t *testing.T) {
	err := check([]rules.Config{{Drop: true, Name: "a"}, {Keep: true, Name: "b"}, {Keep: true, Name: "a"}}, "base")
	if err == nil || err.Error() != `rules[2].name: "a" is the name of rules[0] already` {
		t.Errorf("got %v", err)
	}
}

// TestCountersGoOnOverAReload for a rule that keeps its name, whatever else
// changes, and for one without that stays the same.
func TestCountersGoOnOverAReload(t *testing.T) {
	list := []rules.Config{{Name: "a", Match: []string{"A"}, Drop: true}, {Match: []string{"B"}, Drop: true}, {Match: []string{"C"}, Drop: true}}
	old := set(t, list...)
	drop := func(s *rules.Set) {
		for _, name := range []string{"A", "B", "C"} {
			apply(s, time.Now(), name, "{}")
		}
	}
	drop(old)
	fresh, err := rules.New([]rules.Config{
		{Name: "new", Match: []string{"X"}, Drop: true}, {Match: []string{"B"}, Drop: true}, {Match: []string{"C", "D"}, Drop: true},
		{Name: "a", Source: "*", Match: []string{"A"}, Drop: true},
	}, rules.Options{Base: "base", Before: old})
	if err != nil {
		t.Fatal(err)
	}
	apply(old, time.Now(), "A", "{}") // was on its way in
	drop(fresh)
	got := ""
	for _, c := range fresh.Counts() {
		got += fmt.Sprintf("%s %d, ", c.Rule.Label(), c.Dropped)
	}
	if want := "new 0, 1 2, 2 1, a 3, "; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestWhatWasNotStoredIsNotCounted: it will be offered again.
func TestWhatWasNotStoredIsNotCounted(t *testing.T) {
	s := set(t, rules.Config{Match: []string{"A"}, Drop: true}, rules.Config{Match: []string{"Z"}, MinInterval: time.Minute})
	for range 3 {
		p := s.Begin(time.Now())
		for _, name := range []string{"A", "Z", "Z", "Z", "A"} {
			p.Apply(&event.Event{Name: name, Payload: []byte("{}")})
		}
		p.Abort()
	}
	p := s.Begin(time.Now())
	for range 6 {
		p.Apply(&event.Event{Name: "A", Payload: []byte("{}")})
	}
	p.Commit()
	if c := s.Counts(); c[0].Matched != 6 || c[0].Dropped != 6 || c[1].Matched != 0 || c[1].Held != 0 || c[1].Replaced != 0 {
		t.Errorf("got %+v", c)
	}
	for range 2 {
		apply(s, time.Now(), "Z", "{}")
	}
	due, _ := s.Due(time.Now().Add(time.Hour))
	_ = s.Send(due[0], time.Now(), func(*rules.Batch, *event.Event, rules.Verdict) error { return errors.New("full") })
	if c := s.Counts(); c[1].Replaced != 0 {
		t.Errorf("got %+v", c)
	}
}

// TestARuleCountsWhatItDoes: which events it is for, drops, holds and replaces.
func TestARuleCountsWhatItDoes(t *testing.T) {
	s := set(t, rules.Config{Match: []string{"A"}, Rename: "B"}, rules.Config{Match: []string{"B"}, MinInterval: time.Minute}, rules.Config{Match: []string{"C"}, Keep: true},
		rules.Config{Match: []string{"C", "D"}, Drop: true}, rules.Config{Match: []string{"E"}, Dedupe: true})
	now := time.Now()
	for _, name := range []string{"A", "A", "A", "A", "C", "D", "E", "E"} {
		apply(s, now, name, "{}")
	}
	due, _ := s.Due(now.Add(time.Hour))
	if err := s.Send(due[0], now.Add(time.Hour), func(*rules.Batch, *event.Event, rules.Verdict) error { return nil }); err != nil {
		t.Fatal(err)
	}
	got := ""
	for _, c := range s.Counts() {
		got += fmt.Sprintf("%s: %d %d %d %d, ", c.Rule.Label(), c.Matched, c.Dropped, c.Held, c.Replaced)
	}
	if want := "0: 4 0 0 0, 1: 4 0 3 2, 2: 1 0 0 0, 3: 1 1 0 0, 4: 2 1 0 0, "; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// TestANameChangesNothingElse: what a rule remembers and holds is still its own
// when it is given a name, or another.
func TestANameChangesNothingElse(t *testing.T) {
	z := rules.Config{Match: []string{"Z"}, MinInterval: time.Minute}
	old := set(t, z)
	now := time.Now()
	apply(old, now, "Z", `{"n":1}`)
	apply(old, now, "Z", `{"n":2}`)
	z.Name = "calm"
	fresh, err := rules.New([]rules.Config{z}, rules.Options{Base: "base", Before: old})
	if err != nil {
		t.Fatal(err)
	}
	fresh.Adopt(old)
	if due, next := fresh.Due(now); len(due) != 0 || next.IsZero() {
		t.Errorf("due: %v, next %v", due, next)
	}
}

// TestAFailedExpressionIsLoggedWithItsRule, once.
func TestAFailedExpressionIsLoggedWithItsRule(t *testing.T) {
	var log bytes.Buffer
	s, err := rules.New([]rules.Config{{When: "payload.x > 1", Drop: true, Name: "hot"}}, rules.Options{
		Base: "base", Log: zerolog.New(&log), Place: func(int) (string, int) { return "config.yaml", 7 },
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		apply(s, time.Now(), "A", "{}")
	}
	if want := `"message":"rules[0] \"hot\" (config.yaml:7): the expression failed; the rule does not apply to this event"`; strings.Count(log.String(), want) != 1 || strings.Count(log.String(), "\n") != 1 {
		t.Errorf("logged %s", log.String())
	}
	if c := s.Counts()[0]; c.Failed != 3 {
		t.Errorf("counts %+v", c)
	}
}

// check returns what is wrong with rules.
func check(list []rules.Config, base string) error {
	_, err := rules.New(list, rules.Options{Base: base})
	return err
}
