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

// TestThePlaceOfASinkThatIsNotConfiguredHoldsUpNobody: neither that of a sink
// which a refused reload would have added, nor that of one which was removed
// while the program did not run.
func TestThePlaceOfASinkThatIsNotConfiguredHoldsUpNobody(t *testing.T) {
	path := filepath.Join(t.TempDir(), "events")
	yaml := plain + "sinks: [{name: log, type: file, path: " + path + ", when_full: refuse}]\n"
	yields := func(h *rig) bool {
		marks := h.journal.Marks()
		i := slices.IndexFunc(marks, func(m journal.Mark) bool { return m.Name == "log" })
		return i >= 0 && !marks[i].Open && marks[i].WhenFull == journal.DropOldest
	}
	h := newRig(t, plain, func(component string) error {
		if component == "source late" {
			return errors.New("not today")
		}
		return nil
	})
	late := strings.Replace(yaml, "sources:\n", "sources:\n  - {name: late, type: webhook}\n", 1)
	if o := h.reload(late); o.OK || !strings.Contains(fmt.Sprint(o.Problems), "not today") {
		t.Fatalf("the reload was not refused: %+v", o)
	}
	testkit.Eventually(t, "its place holds up nobody", func() bool { return yields(h) })

	state := t.TempDir()
	t.Run("before", func(t *testing.T) { newRigIn(t, yaml, state) })
	h = newRigIn(t, plain, state)
	testkit.Eventually(t, "its place holds up nobody", func() bool { return yields(h) })
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
