package bridge

import (
	"fmt"
	"strings"
	"testing"

	"event2mqtt/internal/device"
	"event2mqtt/internal/testkit"
)

// TestADeviceHasTheCommandsThatAreAllowed, also after a reload that does not
// restart its source.
func TestADeviceHasTheCommandsThatAreAllowed(t *testing.T) {
	p := &printers{}
	h := newRigOf(t, p.types(), withPrinter, t.TempDir())
	output{b: h.Bridge, source: "octo"}.Describe(device.Device{Commands: []device.Command{
		{Key: "pause"}, {Key: "bed", Call: "heat"}, {Key: "tool", Call: "heat"}, {Key: "cancel"},
	}})
	for _, c := range []struct{ allowed, want string }{{"pause, hang", "pause"}, {"heat", "bed tool"}, {"", ""}, {"heat, pause, cancel", "pause bed tool cancel"}} {
		if o := h.reload(strings.Replace(withPrinter, "pause, hang", c.allowed, 1)); !o.OK {
			t.Fatalf("%+v", o)
		}
		var keys []string
		for _, command := range h.devices.all()["octo"].Commands {
			keys = append(keys, command.Key)
		}
		if got := strings.Join(keys, " "); got != c.want {
			t.Errorf("%q allows %q, want %q", c.allowed, got, c.want)
		}
	}
}

// TestABadDescriptionIsToldOnceAndIgnored: what was known before stays.
func TestABadDescriptionIsToldOnceAndIgnored(t *testing.T) {
	h := newRig(t, plain)
	out := output{b: h.Bridge, source: "hooks"}
	entities := []device.Entity{{Key: "bed", State: "bed", Kind: device.Number}}
	out.Describe(device.Device{Name: "good", Entities: entities})
	for range 5 {
		out.Describe(device.Device{Name: "bad", Entities: []device.Entity{{Key: "a/b", State: "s", Kind: device.Text}}})
		out.Describe(device.Device{Name: "bad", Commands: []device.Command{{Key: "#"}}})
	}
	if d := h.devices.all()["hooks"]; d.Name != "good" || d.ID != "hooks" {
		t.Errorf("it is known as %+v", d)
	}
	for i := range 100 {
		out.Describe(device.Device{ID: fmt.Sprint("/", i)})
	}
	text := h.log.String()
	for _, want := range []string{`holds '/'; letters`, `holds '#'; letters`} {
		if n := strings.Count(text, "entity 0 (a/b)"); n != 1 || !strings.Contains(text, want) {
			t.Errorf("the log has %d lines of the entity, and %q: %v", n, want, strings.Contains(text, want))
		}
	}
	if n := strings.Count(text, "is ignored"); n != maxBad {
		t.Errorf("%d lines of bad descriptions, want %d", n, maxBad)
	}
	entities[0].Key = "chamber" // the source's own; it tells again
	out.Describe(device.Device{Name: "good", Entities: entities})
	if d := h.devices.all()["hooks"]; len(d.Entities) != 1 || d.Entities[0].Key != "chamber" {
		t.Errorf("after a change it is known as %+v", d)
	}
	if o := h.reload(strings.Replace(plain, "{name: hooks,", "{name: others,", 1)); !o.OK {
		t.Fatalf("%+v", o)
	}
	testkit.Eventually(t, "it is forgotten with its source", func() bool { _, known := h.devices.all()["hooks"]; return !known })
}
