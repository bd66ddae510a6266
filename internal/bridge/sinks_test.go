package bridge

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"event2mqtt/internal/health"
	"event2mqtt/internal/journal"
	"event2mqtt/internal/testkit"
)

// TestASinkBesideTheMainOne gets what it matches, in the form that is
// configured, and each change by reload from the next event on: nothing comes
// twice, and nothing is missing.
func TestASinkBesideTheMainOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events")
	with := func(options string) string {
		return plain + fmt.Sprintf("sinks: [{name: log, type: file, path: %s, %s}]\n", path, options)
	}
	h := newRig(t, with(`template: "a {event}", match: [P*, Q]`))
	post := func(names ...string) {
		t.Helper()
		for _, name := range names {
			r, err := http.Post("http://"+h.http+"/hooks/hooks/"+name, "application/json", strings.NewReader("{}"))
			if err != nil {
				t.Fatal(err)
			}
			_ = r.Body.Close()
			if r.StatusCode != http.StatusAccepted {
				t.Fatalf("%s: %d", name, r.StatusCode)
			}
		}
		for _, part := range h.parts() {
			if part.cursor != nil {
				testkit.Eventually(t, part.title+" has delivered", func() bool { return part.lag() == 0 })
			}
		}
	}
	reload := func(yaml, want string) {
		t.Helper()
		if o := h.reload(yaml); !o.OK || !strings.Contains(fmt.Sprint(o.Changed), want) {
			t.Fatalf("want %s, got %+v", want, o)
		}
	}
	post("Print", "Other", "Q", "QQ", "Other")
	reload(with(`template: "b {event}", match: [P*]`), "sink log: changed")
	post("Other", "Q", "Print", "Other")
	since := h.since()["sink mqtt"]
	reload(with(`template: "b {event}"`), "sink log: changed")
	post("Q")
	reload(plain, "sink log: removed; 0 events were not delivered there yet; its place is kept for 24h")
	post("Away")
	reload(with(`template: "c {event}"`), "sink log: added")
	post("Back")
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// The bridge's own check whether HTTP answers posts an event, X.
	text := strings.ReplaceAll(string(got), "c X\n", "")
	if want := "a Print\na Q\nb Print\nb Q\nc Away\nc Back\n"; text != want {
		t.Errorf("got\n%s\nwant\n%s", text, want)
	}
	if !since.Equal(h.since()["sink mqtt"]) {
		t.Error("the main sink was started again")
	}
}

// TestABadReloadLeavesASinkAsItWas: also what it matches.
func TestABadReloadLeavesASinkAsItWas(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events")
	yaml := plain + "sinks: [{name: log, type: file, path: " + path + ", template: \"{event}\", match: [%s]}]\n"
	h := newRig(t, fmt.Sprintf(yaml, "A"), func(component string) error {
		if component == "source late" {
			return errors.New("not today")
		}
		return nil
	})
	if o := h.reload(fmt.Sprintf(yaml, "'['")); o.OK || !strings.Contains(fmt.Sprint(o.Problems), "sinks[0].match[0]") {
		t.Errorf("a bad pattern: %+v", o)
	}
	late := strings.Replace(fmt.Sprintf(yaml, "B"), "sources:\n", "sources:\n  - {name: late, type: webhook}\n", 1)
	if o := h.reload(late); o.OK {
		t.Errorf("a source that fails: %+v", o)
	}
	for _, name := range []string{"A", "B", "A"} {
		if r, err := http.Post("http://"+h.http+"/hooks/hooks/"+name, "application/json", strings.NewReader("{}")); err == nil {
			_ = r.Body.Close()
		}
	}
	testkit.Eventually(t, "both are there", func() bool {
		text, _ := os.ReadFile(path)
		return string(text) == "A\nA\n"
	})
}

// component is one that runs.
func (h *rig) component(title string) *component {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.now.part(title)
}

// TestRespondDeliveredWaitsForRequiredSinks, and for those alone; what such a
// sink does not want it does not wait for.
func TestRespondDeliveredWaitsForRequiredSinks(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "logs")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	yaml := strings.Replace(plain, "type: webhook", "type: webhook, respond: delivered", 1) +
		"sinks: [{name: log, type: file, path: " + dir + "/events, match: [A], required: %t}]\n"
	h := newRig(t, fmt.Sprintf(yaml, false))
	post := func(name string) <-chan int {
		answer := make(chan int, 1)
		go func() {
			r, err := http.Post("http://"+h.http+"/hooks/hooks/"+name, "application/json", strings.NewReader("{}"))
			if err != nil {
				answer <- 0
				return
			}
			_ = r.Body.Close()
			answer <- r.StatusCode
		}()
		return answer
	}
	if status := <-post("A"); status != http.StatusOK {
		t.Fatalf("all is well: %d", status)
	}
	log := h.component("sink log")
	testkit.Eventually(t, "it is written", func() bool { return log.lag() == 0 })
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	if status := <-post("A"); status != http.StatusOK {
		t.Errorf("it is not required: %d", status)
	}
	if err := os.Rename(dir+".away", dir); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "it is written", func() bool { return log.lag() == 0 })
	if o := h.reload(fmt.Sprintf(yaml, true)); !o.OK {
		t.Fatalf("%+v", o)
	}
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	if status := <-post("B"); status != http.StatusOK {
		t.Errorf("it does not want B: %d", status)
	}
	answer := post("A")
	testkit.Eventually(t, "the sink waits", func() bool { return h.component("sink log").health.Report().LastError != "" })
	select {
	case status := <-answer:
		t.Errorf("it is required, and was not waited for: %d", status)
	default:
	}
	if err := os.Rename(dir+".away", dir); err != nil {
		t.Fatal(err)
	}
	if status := <-answer; status != http.StatusOK {
		t.Errorf("and all is well again: %d", status)
	}
}

// mark is what the journal knows of a sink's place.
func (h *rig) mark(sink string) (found journal.Mark, known bool) {
	marks := h.journal.Marks()
	if i := slices.IndexFunc(marks, func(m journal.Mark) bool { return m.Name == sink }); i >= 0 {
		return marks[i], true
	}
	return found, false
}

// notToday has the source late fail.
func notToday(component string) error {
	if component == "source late" {
		return errors.New("not today")
	}
	return nil
}

// withLate adds a source that fails.
func withLate(yaml string) string {
	return strings.Replace(yaml, "sources:\n", "sources:\n  - {name: late, type: webhook}\n", 1)
}

// TestARefusedReloadLeavesThePlacesOfSinksAsTheyWere: none of one that it would
// have added, so that this begins with new events when it is added; and that of a
// removed one neither holds up anybody nor is kept any longer.
func TestARefusedReloadLeavesThePlacesOfSinksAsTheyWere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events")
	yaml := plain + "sinks: [{name: log, type: file, path: " + path + ", template: \"{event}\", match: [A, B, C], when_full: refuse}]\n"
	h := newRig(t, plain, notToday)
	refuse := func() {
		t.Helper()
		if o := h.reload(withLate(yaml)); o.OK || !strings.Contains(fmt.Sprint(o.Problems), "not today") {
			t.Fatalf("the reload was not refused: %+v", o)
		}
	}
	event := func(name string) {
		t.Helper()
		if r, err := http.Post("http://"+h.http+"/hooks/hooks/"+name, "application/json", strings.NewReader("{}")); err != nil || r.StatusCode != http.StatusAccepted {
			t.Fatal(r, err)
		} else {
			_ = r.Body.Close()
		}
	}
	refuse()
	if got, known := h.mark("log"); known {
		t.Fatalf("there is a place: %+v", got)
	}
	event("A")
	if o := h.reload(yaml); !o.OK || !slices.Contains(o.Changed, "sink log: added; begins with the next event") {
		t.Fatalf("%+v", o)
	}
	event("B")
	testkit.Eventually(t, "it is written", func() bool { return h.component("sink log").lag() == 0 })
	if got, _ := h.mark("log"); got.WhenFull != journal.Refuse {
		t.Errorf("in use its place is %+v", got)
	}
	h.reload(plain)
	testkit.Eventually(t, "its place is left", func() bool { got, _ := h.mark("log"); return !got.Open })
	before, _ := h.mark("log")
	event("C")
	refuse()
	after, known := h.mark("log")
	if after.Lag = before.Lag; !known || after != before || before.WhenFull != journal.DropOldest {
		t.Errorf("its place was %+v, and is %+v", before, after)
	}
	if o := h.reload(yaml); !o.OK || !strings.Contains(fmt.Sprint(o.Changed), "sink log: added; goes on where it was; waiting: ") {
		t.Fatalf("%+v", o)
	}
	testkit.Eventually(t, "it goes on", func() bool { text, _ := os.ReadFile(path); return strings.HasSuffix(string(text), "B\nC\n") })
	if text, _ := os.ReadFile(path); strings.Contains(string(text), "A") {
		t.Errorf("it got history: %s", text)
	}
}

// TestThePlaceOfASinkThatIsNotConfiguredHoldsUpNobody: that of one which was
// removed while the program did not run.
func TestThePlaceOfASinkThatIsNotConfiguredHoldsUpNobody(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events")
	yaml := plain + "sinks: [{name: log, type: file, path: " + path + ", when_full: refuse}]\n"
	state := t.TempDir()
	t.Run("before", func(t *testing.T) { newRigIn(t, yaml, state) })
	h := newRigIn(t, plain, state)
	testkit.Eventually(t, "its place holds up nobody", func() bool {
		got, known := h.mark("log")
		return known && !got.Open && got.WhenFull == journal.DropOldest
	})
	testkit.Eventually(t, "the start tells of it", func() bool {
		lines := h.lines("sink log: is not configured; ")
		return len(lines) == 1 && strings.Contains(lines[0], " not delivered there; its place is kept until ")
	})
}

// TestASinkWhoseFolderIsMissingWaits: neither the start is refused nor any reload,
// the bridge is ready, check warns, and it goes on when the folder appears.
func TestASinkWhoseFolderIsMissingWaits(t *testing.T) {
	dir := t.TempDir()
	sink := func(name string) string {
		return fmt.Sprintf("  - {name: %s, type: file, path: %s/%s/events}\n", name, dir, name)
	}
	h := newRig(t, plain+"sinks:\n"+sink("a"))
	waits := func(name string) {
		t.Helper()
		testkit.Eventually(t, "it waits", func() bool {
			c := h.readiness("sink " + name)
			return c.Level == health.Waiting && c.Restarts == 0 && strings.Contains(c.Detail, "the folder "+dir+"/"+name+" does not exist; make it")
		})
	}
	waits("a")
	if o := h.reload(plain + "max_payload: 2MiB\nsinks:\n" + sink("a")); !o.OK || len(o.Changed) != 1 {
		t.Fatalf("another change: %+v", o)
	}
	both := plain + "sinks:\n" + sink("a") + sink("b")
	if o := h.reload(both); !o.OK {
		t.Fatalf("one more: %+v", o)
	}
	waits("b")
	if got := h.lines(`"level":"error"`); len(got) > 0 {
		t.Errorf("the log has errors: %s", got)
	}
	h.write(both)
	plan, err := Load(h.file, nil, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	warned := strings.Join(plan.Warnings(), "\n")
	for i, name := range []string{"a", "b"} {
		if want := fmt.Sprintf("sinks[%d].path: the folder %s/%s does not exist; make it", i, dir, name); !strings.Contains(warned, want) {
			t.Errorf("check warns of %s; want %s", warned, want)
		}
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	h.post("hooks")
	for _, name := range []string{"a", "b"} {
		testkit.Eventually(t, "it is written", func() bool {
			text, _ := os.ReadFile(filepath.Join(dir, name, "events"))
			return len(text) > 0 && h.readiness("sink "+name).Level == health.Up
		})
	}
}

// TestRemovingARequiredSinkAnswersWhoWaitsForIt: the event is where it must be
// now.
func TestRemovingARequiredSinkAnswersWhoWaitsForIt(t *testing.T) {
	yaml := strings.Replace(plain, "type: webhook", "type: webhook, respond: delivered, respond_timeout: 50s", 1)
	h := newRig(t, yaml)
	if o := h.reload(yaml + "sinks: [{name: log, type: file, path: " + t.TempDir() + "/none/events, required: true}]\n"); !o.OK {
		t.Fatalf("%+v", o)
	}
	answer := make(chan int, 1)
	go func() { answer <- h.post("hooks") }()
	log := h.component("sink log")
	testkit.Eventually(t, "the event is stored", func() bool { return log.lag() > 0 })
	select {
	case status := <-answer:
		t.Fatalf("it was not waited for: %d", status)
	default:
	}
	if o := h.reload(yaml); !o.OK {
		t.Fatalf("%+v", o)
	}
	if status := <-answer; status != http.StatusOK {
		t.Errorf("the answer is %d", status)
	}
}

// TestTheStartSaysWhichSinksThereAreAndWhereTheyBegin.
func TestTheStartSaysWhichSinksThereAreAndWhereTheyBegin(t *testing.T) {
	state, none := t.TempDir(), t.TempDir()+"/none/events"
	one := "sinks:\n  - {name: log, type: file, path: " + none + "}\n"
	t.Run("first", func(t *testing.T) {
		h := newRigIn(t, plain+one, state)
		testkit.Eventually(t, "it is said", func() bool { return len(h.lines("sink log (file): begins with the next event")) == 1 })
		if got := h.lines("sink mqtt: "); len(got) > 0 {
			t.Errorf("of the main sink, which is new: %s", got)
		}
	})
	h := newRigIn(t, plain+one+"  - {name: more, type: file, path: "+none+"2}\n", state)
	for _, want := range []string{"sink mqtt: goes on where it was; waiting: ", "sink log (file): goes on where it was; waiting: 1 event\"", "sink more (file): begins with the next event"} {
		testkit.Eventually(t, want, func() bool { return len(h.lines(want)) == 1 })
	}
}

// TestAForgottenSinkIsWarnedOfIfItLacksEvents.
func TestAForgottenSinkIsWarnedOfIfItLacksEvents(t *testing.T) {
	const keep = "journal: {keep: 0s}\n"
	for path, level := range map[string]string{filepath.Join(t.TempDir(), "events"): "info", t.TempDir() + "/none/events": "warn"} {
		h := newRig(t, plain+keep+"sinks: [{name: log, type: file, path: "+path+"}]\n")
		h.post("hooks")
		if log := h.component("sink log"); level == "info" {
			testkit.Eventually(t, "it is written", func() bool { return log.lag() == 0 })
		}
		if o := h.reload(plain + keep); !o.OK {
			t.Fatalf("%+v", o)
		}
		testkit.Eventually(t, "it is forgotten", func() bool { return len(h.lines("is forgotten; ")) == 1 })
		if got := h.lines("is forgotten; ")[0]; !strings.Contains(got, `"level":"`+level+`"`) || !strings.Contains(got, `"sink":"log"`) {
			t.Errorf("want level %s: %s", level, got)
		}
	}
}

// TestASinkThatFillsTheJournalIsNamed: to whoever asks, and in the log; and its own
// when_full goes before the journal's, of which check warns.
func TestASinkThatFillsTheJournalIsNamed(t *testing.T) {
	yaml := plain + "max_payload: 16KiB\njournal: {max_size: 64KiB, when_full: drop_oldest}\n" +
		"sinks: [{name: small, type: file, path: " + t.TempDir() + "/none/events, when_full: refuse}]\n"
	h := newRig(t, yaml)
	testkit.Eventually(t, "it is warned of", func() bool { // soon after HTTP answers
		return len(h.lines("sinks[0].when_full: new events are refused while the journal is full")) == 1
	})
	body := `{"event":"X","x":"` + strings.Repeat("x", 10<<10) + `"}`
	testkit.Eventually(t, "it is full", func() bool {
		r, err := http.Post("http://"+h.http+"/hooks/hooks", "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		_ = r.Body.Close()
		return r.StatusCode == http.StatusServiceUnavailable
	})
	const want = "hold events that the sink small has not got"
	_, parts := h.health()
	if !strings.Contains(parts[0].Detail, want) {
		t.Errorf("/readyz says %s", parts[0].Detail)
	}
	if got := h.lines("journal: new events are refused until it has room"); len(got) != 1 || !strings.Contains(got[0], want) {
		t.Errorf("the log says %s", got)
	}
	if got, _ := h.mark("small"); got.Lost > 0 {
		t.Errorf("it lost %d", got.Lost)
	}
}

// TestADamagedFormatIsToldOf, and no reason to stop.
func TestADamagedFormatIsToldOf(t *testing.T) {
	for name, text := range map[string]string{"empty": "", "garbage": "\x00\x00", "": `{"format":1,"min_reader":1}`} {
		state := t.TempDir()
		if err := os.WriteFile(filepath.Join(state, "format"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		h := newRigIn(t, plain, state)
		if got := h.lines("format of the state folder was damaged"); (len(got) == 1) != (name != "") || name != "" && !strings.Contains(got[0], `"level":"warn"`) {
			t.Errorf("%s: %s", name, got)
		}
	}
}

// TestAnAnswerNamesTheSinkThatIsWaitedFor, which need not be the broker.
func TestAnAnswerNamesTheSinkThatIsWaitedFor(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "gone")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	h := newRig(t, strings.Replace(plain, "type: webhook", "type: webhook, respond: delivered, respond_timeout: 100ms", 1)+
		fmt.Sprintf("sinks: [{name: log, type: file, path: %s/events, required: true, match: [Print]}]\n", dir))
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	r, err := http.Post("http://"+h.http+"/hooks/hooks/Print", "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	text, _ := io.ReadAll(r.Body)
	if r.StatusCode != http.StatusGatewayTimeout || !strings.Contains(string(text), "but the sink log has not acknowledged them within 100ms; do not send them again") {
		t.Errorf("%d %s", r.StatusCode, text)
	}
}
