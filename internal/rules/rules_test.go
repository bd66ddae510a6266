package rules_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"event2mqtt/internal/config"
	"event2mqtt/internal/event"
	"event2mqtt/internal/rules"
)

func set(t testing.TB, list ...rules.Config) *rules.Set {
	t.Helper()
	s, err := rules.New(list, rules.Options{Base: "base"})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// apply tells what becomes of an event: its name, payload and route, or why it
// goes nowhere.
func apply(s *rules.Set, now time.Time, name, payload string) string {
	p := s.Begin(now)
	e := event.Event{Name: name, Source: "printer", Payload: []byte(payload)}
	v := p.Apply(&e)
	p.Commit()
	switch v.Kind {
	case rules.Drop, rules.Repeat:
		return "dropped"
	case rules.Hold:
		return "held"
	}
	out := e.Name + " " + string(e.Payload)
	if e.Route.Topic != "" {
		out += " to " + e.Route.Topic
		if e.Route.Outside {
			out += " chosen by the sender"
		}
	}
	if e.Route.QoS != nil {
		out += fmt.Sprint(" QoS ", *e.Route.QoS)
	}
	if e.Route.Retain {
		out += " retained"
	}
	if e.Route.Expiry > 0 {
		out += fmt.Sprintf(", %d s", e.Route.Expiry)
	}
	return out
}

func TestRulesDoWhatTheySay(t *testing.T) {
	two := 2
	for _, c := range []struct {
		rules               []rules.Config
		name, payload, want string
	}{
		{nil, "A", `{"x":1}`, `A {"x":1}`},
		{[]rules.Config{{Match: []string{"Client*"}, Drop: true}}, "ClientOpened", `{}`, "dropped"},
		{[]rules.Config{{Match: []string{"Client*"}, Drop: true}}, "Upload", `{}`, "Upload {}"},
		{[]rules.Config{{Match: []string{"ClientOpened"}, Keep: true}, {Match: []string{"Client*"}, Drop: true}}, "ClientOpened", `{}`, "ClientOpened {}"},
		{[]rules.Config{{Match: []string{"@printjob"}, Keep: true}, {Drop: true}}, "PrintDone", `{}`, "PrintDone {}"},
		{[]rules.Config{{Match: []string{"@printjob"}, Keep: true}, {Drop: true}}, "ZChange", `{}`, "dropped"},
		{[]rules.Config{{Source: "camera*", Drop: true}}, "A", `{}`, "A {}"},
		{[]rules.Config{{When: "payload.progress >= 50", Drop: true}}, "A", `{"progress":50}`, "dropped"},
		{[]rules.Config{{When: "payload.progress >= 50", Drop: true}}, "A", `{"progress":49.5}`, `A {"progress":49.5}`},
		{[]rules.Config{{When: "payload.progress >= 50", Drop: true}}, "A", `{}`, "A {}"}, // fails: passed on
		{[]rules.Config{{When: `event startsWith "P" and source == "printer"`, Rename: "Q"}}, "P", `{}`, "Q {}"},
		{[]rules.Config{{Rename: "Q"}, {Match: []string{"P"}, Drop: true}, {Match: []string{"Q"}, Add: map[string]any{"n": 1}}}, "P", `{}`, `Q {"n":1}`},
		{[]rules.Config{{Topic: "{base}/{event|lower}/{payload.tool}", QoS: &two, Retain: true, Expiry: time.Minute}}, "Tool", `{"tool":3}`, `Tool {"tool":3} to base/tool/3 chosen by the sender QoS 2 retained, 60 s`},
		{[]rules.Config{{Topic: "{base}/{event}"}, {Topic: "{base}/{source|snake}"}}, "A", `{}`, `A {} to base/printer`},
		{[]rules.Config{{Pick: []string{"a", "c"}}}, "A", `{"a":1,"b":2,"c":[3]}`, `A {"a":1,"c":[3]}`},
		{[]rules.Config{{Remove: []string{"a"}}}, "A", `{"a":1,"b":12345678901234567890}`, `A {"b":12345678901234567890}`},
		{[]rules.Config{{Add: map[string]any{"room": "cellar", "a": map[string]any{"b": true}}}}, "A", `{"a":1}`, `A {"a":{"b":true},"room":"cellar"}`},
		{[]rules.Config{{Add: map[string]any{"hot": true}}, {When: "payload.hot", Rename: "Hot"}}, "A", `{}`, `Hot {"hot":true}`},
	} {
		if got := apply(set(t, c.rules...), time.Now(), c.name, c.payload); got != c.want {
			t.Errorf("%+v:\n%s %s became %s\nwant %s", c.rules, c.name, c.payload, got, c.want)
		}
	}
}

func TestBadRulesSayWhatIsWrong(t *testing.T) {
	for _, c := range []struct {
		rule rules.Config
		want string
	}{
		{rules.Config{}, "rules[0]: the rule does nothing"},
		{rules.Config{Keep: true, Drop: true}, "rules[0].drop: keep is set already"},
		{rules.Config{Drop: true, Rename: "x"}, "put the other actions into a rule before"},
		{rules.Config{Drop: true, Match: []string{"[a"}}, `rules[0].match[0]: "[a" is not a pattern`},
		{rules.Config{Drop: true, Match: []string{"@printjobs"}}, "did you mean @printjob?"},
		{rules.Config{Drop: true, When: "payload.x +"}, "rules[0].when: "},
		{rules.Config{Drop: true, When: "paylod.x > 1"}, "unknown name paylod"},
		{rules.Config{Drop: true, When: "1 + 1"}, "expected bool"},
		{rules.Config{Topic: "{evnt}"}, "rules[0].topic: "},
		{rules.Config{Per: []string{"x"}, Dedupe: true}, "rules[0].per: "},
		{rules.Config{Ignore: []string{"x"}, MinInterval: time.Second}, "rules[0].ignore: "},
		{rules.Config{Drop: true, Name: strings.Repeat("ü", 33)}, "rules[0].name: has 66 bytes; at most 64 are allowed"},
		{rules.Config{Drop: true, Name: "a\x1b[2J"}, `rules[0].name: "a\x1b[2J" holds characters that cannot be printed`},
		{rules.Config{Drop: true, Name: "a\xff"}, "rules[0].name: "},
		{rules.Config{Drop: true, Name: "a "}, "begins or ends with a space"},
		{rules.Config{Drop: true, Name: "12"}, `rules[0].name: "12" is a number`},
	} {
		err := check([]rules.Config{c.rule}, "base")
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.rule, err, c.want)
		}
		if _, ok := errors.AsType[*config.KeyError](err); !ok {
			t.Errorf("%v names no key", err)
		}
	}
}

// TestUnchangedPayloadsAreDropped, whatever the keys that do not count say.
func TestUnchangedPayloadsAreDropped(t *testing.T) {
	s := set(t, rules.Config{Dedupe: true, Ignore: []string{"at"}})
	now := time.Now()
	for _, c := range []struct{ name, payload, want string }{
		{"A", `{"x":1,"at":1}`, `A {"x":1,"at":1}`}, {"A", `{"x":1,"at":2}`, "dropped"}, {"B", `{"x":1,"at":2}`, `B {"x":1,"at":2}`},
		{"A", `{"x":2,"at":3}`, `A {"x":2,"at":3}`}, {"A", `{"x":1,"at":4}`, `A {"x":1,"at":4}`},
	} {
		if got := apply(s, now, c.name, c.payload); got != c.want {
			t.Errorf("%s %s: %s, want %s", c.name, c.payload, got, c.want)
		}
	}
}

// TestTheLastOfAnIntervalIsStillSent: the first goes at once, the newest of
// those that follow at the end.
func TestTheLastOfAnIntervalIsStillSent(t *testing.T) {
	s := set(t, rules.Config{Match: []string{"Z"}, MinInterval: 5 * time.Second, Per: []string{"tool"}})
	at := time.Now()
	after := func(d time.Duration) time.Time { return at.Add(d) }
	expect := func(got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	expect(apply(s, at, "Z", `{"z":1,"tool":0}`), `Z {"z":1,"tool":0}`)
	expect(apply(s, after(time.Second), "Z", `{"z":2,"tool":0}`), "held")
	expect(apply(s, after(2*time.Second), "Z", `{"z":3,"tool":0}`), "held")
	expect(apply(s, after(2*time.Second), "Z", `{"z":1,"tool":1}`), `Z {"z":1,"tool":1}`) // another key
	due, next := s.Due(after(4 * time.Second))
	if len(due) != 0 || !next.Equal(after(5*time.Second)) {
		t.Fatalf("due %v, next %v", due, next)
	}
	due, _ = s.Due(after(5 * time.Second))
	if len(due) != 1 || string(due[0].Event.Payload) != `{"z":3,"tool":0}` {
		t.Fatalf("due %v", due)
	}
	// One that cannot be stored is due again; a newer one takes its place.
	if err := s.Send(due[0], after(5*time.Second), func(*rules.Batch, *event.Event, rules.Verdict) error { return errors.New("full") }); err == nil {
		t.Error("no error")
	}
	expect(apply(s, after(6*time.Second), "Z", `{"z":4,"tool":0}`), "held")
	old := due[0]
	due, _ = s.Due(after(6 * time.Second))
	sent := 0
	for _, h := range []*rules.Held{old, due[0], due[0]} {
		if err := s.Send(h, after(6*time.Second), func(*rules.Batch, *event.Event, rules.Verdict) error { sent++; return nil }); err != nil {
			t.Error(err)
		}
	}
	if sent != 1 || string(due[0].Event.Payload) != `{"z":4,"tool":0}` {
		t.Errorf("%d sent, %s", sent, due[0].Event.Payload)
	}
	expect(apply(s, after(7*time.Second), "Z", `{"z":5,"tool":0}`), "held") // the interval began anew
	expect(apply(s, after(12*time.Second), "Z", `{"z":6,"tool":1}`), `Z {"z":6,"tool":1}`)
}

// TestWhatWasNotStoredIsNotRemembered: it will be offered again.
func TestWhatWasNotStoredIsNotRemembered(t *testing.T) {
	s := set(t, rules.Config{Match: []string{"D"}, Dedupe: true}, rules.Config{Match: []string{"Z"}, MinInterval: time.Minute})
	now := time.Now()
	for _, name := range []string{"D", "Z"} {
		p := s.Begin(now)
		for range 2 {
			p.Apply(&event.Event{Name: name, Payload: []byte(`{}`)})
		}
		p.Abort()
		if got := apply(s, now, name, "{}"); got != name+" {}" {
			t.Errorf("%s: %s", name, got)
		}
	}
}

// TestReloadedRulesRemember as long as they stay the same.
func TestReloadedRulesRemember(t *testing.T) {
	z, d := rules.Config{Match: []string{"Z"}, MinInterval: time.Minute}, rules.Config{Match: []string{"D"}, Dedupe: true}
	old := set(t, z, d)
	now := time.Now()
	apply(old, now, "Z", `{"n":1}`)
	apply(old, now, "Z", `{"n":2}`)
	apply(old, now, "D", `{}`)
	fresh, err := rules.New([]rules.Config{{Match: []string{"X"}, Drop: true}, d}, rules.Options{Base: "base", Before: old})
	if err != nil {
		t.Fatal(err)
	}
	if got := apply(fresh, now, "D", `{}`); got != "dropped" {
		t.Errorf("got %s", got)
	}
	fresh.Adopt(old)
	apply(old, now, "Z", `{"n":3}`) // was on its way in
	due, _ := fresh.Due(now)
	if len(due) != 1 || string(due[0].Event.Payload) != `{"n":3}` {
		t.Errorf("due: %v", due)
	}
}

// TestWhatIsHeldGoesOnThroughTheRulesBehind: as one that was not held does.
func TestWhatIsHeldGoesOnThroughTheRulesBehind(t *testing.T) {
	s := set(t, rules.Config{Match: []string{"Z"}, MinInterval: time.Second}, rules.Config{Remove: []string{"secret"}}, rules.Config{Dedupe: true})
	at := time.Now()
	apply(s, at, "Z", `{"n":1,"secret":1}`)
	apply(s, at, "Z", `{"n":2,"secret":1}`)
	due, _ := s.Due(at.Add(time.Second))
	var sent []string
	err := s.Send(due[0], at.Add(time.Second), func(_ *rules.Batch, e *event.Event, v rules.Verdict) error {
		sent = append(sent, fmt.Sprint(string(e.Payload), v.Kind))
		return nil
	})
	if err != nil || fmt.Sprint(sent) != `[{"n":2}0]` {
		t.Errorf("sent %v, %v", sent, err)
	}
	if got := apply(s, at.Add(3*time.Second), "Z", `{"n":1}`); got != `Z {"n":1}` { // not repeated: 2 was between
		t.Errorf("got %s", got)
	}
}

// TestLittleIsHeldAndRemembered, whatever comes.
func TestLittleIsHeldAndRemembered(t *testing.T) {
	s, err := rules.New([]rules.Config{{MinInterval: time.Hour, Per: []string{"k"}}}, rules.Options{Base: "base", MaxHeld: 50 << 10})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	held := 0
	for i := range 100 {
		for range 2 {
			if apply(s, now, "A", fmt.Sprintf(`{"k":"%d %s"}`, i, strings.Repeat("x", 1000))) == "held" {
				held++
			}
		}
	}
	if held == 0 || held > 50 {
		t.Errorf("%d are held", held)
	}
	// One that is too large to be held takes the place of the older one.
	apply(s, now, "B", `{"n":1}`)
	apply(s, now, "B", `{"n":2}`)
	apply(s, now, "B", `{"n":"`+strings.Repeat("x", 70<<10)+`"}`)
	due, _ := s.Due(now.Add(2 * time.Hour))
	for _, h := range due {
		if h.Event.Name == "B" {
			t.Errorf("still held: %s", h.Event.Payload)
		}
	}
}

func BenchmarkApply(b *testing.B) {
	s := set(b, rules.Config{Match: []string{"Client*"}, Drop: true}, rules.Config{When: "payload.progress > 50", Add: map[string]any{"late": true}})
	payload := []byte(`{"_event":"Progress","_timestamp":1,"progress":77,"file":"a.gcode"}`)
	for b.Loop() {
		p := s.Begin(time.Time{})
		p.Apply(&event.Event{Name: "Progress", Payload: payload})
		p.Commit()
	}
}

// TestTimesHaveTheirMethodsInExpressions, also where the library was made small.
func TestTimesHaveTheirMethodsInExpressions(t *testing.T) {
	for _, when := range []string{
		`date("2026-03-01T22:30:00Z").Hour() >= 22`,
		`date("2026-03-01").Year() == 2026 && date("2026-03-01").Month().String() == "March"`,
		`date("2026-03-01").Weekday().String() == "Sunday"`,
		`date("2026-03-02").Sub(date("2026-03-01")).Hours() == 24`,
		`date("2026-03-01").Add(duration("90m")).Format("15:04") == "01:30"`,
		`now().After(date("2026-03-01")) && now().UTC().Unix() > 0`,
		`duration("90s").Minutes() == 1.5 && duration("-1s").Abs() == duration("1s")`,
	} {
		s, err := rules.New([]rules.Config{{When: when, Drop: true}}, rules.Options{Base: "base"})
		if err != nil {
			t.Errorf("%s: %v", when, err)
			continue
		}
		if got := apply(s, time.Now(), "A", `{}`); got != "dropped" {
			t.Errorf("%s: %s", when, got)
		}
	}
	if _, err := rules.New([]rules.Config{{When: `now().Nothing() == 1`}}, rules.Options{Base: "base"}); err == nil || !strings.Contains(err.Error(), "Nothing") {
		t.Errorf("a method that times do not have: %v", err)
	}
}
