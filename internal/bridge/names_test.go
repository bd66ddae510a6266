package bridge

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"event2mqtt/internal/device"
	"event2mqtt/internal/testkit"
)

// TestNamesOfEventsAreKept over a restart, after rules, and dropped with their
// source.
func TestNamesOfEventsAreKept(t *testing.T) {
	yaml := plain + "rules: [{match: Secret, drop: true}, {match: Old, rename: New}, {match: X, drop: true}]\n"
	h := newRig(t, yaml)
	for _, name := range []string{"A", "Secret", "Old", "A"} {
		h.send(fmt.Sprintf(`{"event":%q}`, name))
	}
	testkit.Eventually(t, "whoever looks at devices is told", func() bool {
		select {
		case <-h.devices.changed:
			return true
		default:
			return false
		}
	})
	if got := fmt.Sprint(h.devices.learned.Of("hooks")); got != "[A New]" {
		t.Errorf("learned %s", got)
	}
	records := h.journal.Stats().Appended
	syncs := h.journal.Stats().Syncs
	h.send(`{"event":"A"}`)
	if s := h.journal.Stats(); s.Appended != records+1 || s.Syncs != syncs+1 {
		t.Errorf("a known name made %d writes", s.Syncs-syncs)
	}

	// A crash: another bridge takes up what is on disk at this moment.
	crash := func(from *rig, yaml string) *rig {
		state := t.TempDir()
		if err := os.CopyFS(filepath.Join(state, "journal"), os.DirFS(filepath.Join(from.stateDir, "journal"))); err != nil {
			t.Fatal(err)
		}
		return newRigIn(t, yaml, state)
	}
	known := func(h *rig) string { return fmt.Sprint(h.devices.learned.Of("hooks")) }
	if got := known(crash(h, yaml)); got != "[A New]" {
		t.Errorf("after a restart: %s", got)
	}
	others := strings.Replace(yaml, "name: hooks,", "name: others,", 1)
	without := crash(h, others)
	if got := known(without); got != "[]" {
		t.Errorf("after a restart without the source: %s", got)
	}
	if got := known(crash(without, yaml)); got != "[]" {
		t.Errorf("the source is back after a restart without it: %s", got)
	}
	if o := h.reload(others); !o.OK {
		t.Fatal(o)
	}
	testkit.Eventually(t, "the names are dropped", func() bool { return known(h) == "[]" && len(h.journal.Positions("\x00names")) == 0 })
	if got := known(crash(h, yaml)); got != "[]" {
		t.Errorf("the source is back after a reload without it: %s", got)
	}
}

// TestLearnedNamesAreTheEventsOfDevicesThatDoNotSay which they have.
func TestLearnedNamesAreTheEventsOfDevicesThatDoNotSay(t *testing.T) {
	o := emitter(t, "rules: []\n")
	if err := emit(o, "B", "A"); err != nil {
		t.Fatal(err)
	}
	events := func() string {
		d := o.b.devices.all()["hooks"]
		return fmt.Sprint(d.ID, " ", d.Name, " ", d.Events)
	}
	if got := events(); got != "hooks hooks [A B]" {
		t.Errorf("described by nobody: %s", got)
	}
	o.Describe(device.Device{Name: "Printer"})
	if got := events(); got != "hooks Printer [A B]" {
		t.Errorf("described without events: %s", got)
	}
	o.Describe(device.Device{Name: "Printer", Events: []string{"C"}})
	if got := events(); got != "hooks Printer [C]" {
		t.Errorf("described with events: %s", got)
	}
}
