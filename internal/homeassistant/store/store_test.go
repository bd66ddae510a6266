package store_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"event2mqtt/internal/device"
	"event2mqtt/internal/homeassistant"
	"event2mqtt/internal/homeassistant/schema"
	"event2mqtt/internal/homeassistant/store"
	"event2mqtt/internal/testkit"
)

// announced is a memory of a device that is announced, and of one that is gone.
func announced() *homeassistant.Memory {
	d := device.Device{ID: "mk4", Name: "MK4 <1>", Entities: []device.Entity{{Key: "state", Name: "State", State: "state", Kind: device.Text}}}
	s := homeassistant.Setup{Prefix: "homeassistant", Installation: store.ExampleInstallation}
	w := s.Announce(&homeassistant.Thing{ID: "mk4", Device: d, State: func(key string) string { return "x/" + key }})
	w.Source, w.Device = "mk4", &d
	m := homeassistant.NewMemory()
	m.Round(map[string]homeassistant.Message{"mk4": w})
	m.Round(nil)
	m.Round(map[string]homeassistant.Message{"other": w})
	return m
}

// TestTheMemoryOutlivesTheProgram, is set aside when it is damaged, and refused
// when a newer version wrote it.
func TestTheMemoryOutlivesTheProgram(t *testing.T) {
	dir, m := t.TempDir(), announced()
	testkit.OK(t, store.Save(dir, m))
	again, err := store.Load(dir)
	if err != nil || !reflect.DeepEqual(m, again) || len(again.Shown) != 1 || len(again.Gone) != 1 {
		is, _ := json.Marshal(again)
		t.Fatalf("%v\n%s", err, is)
	}
	path := filepath.Join(dir, "homeassistant.json")
	for text, aside := range map[string]bool{"{": true, `{"format":0}`: true, `{"format":1,"shown":null}`: true, "": true, `{"format":2,"shown":{}}`: false} {
		testkit.OK(t, os.WriteFile(path, []byte(text), 0o600))
		m, err := store.Load(dir)
		_, gone := os.Stat(path)
		if err == nil || m == nil || len(m.Shown) > 0 || (gone != nil) != aside || errors.Is(err, store.ErrNewer) == aside {
			t.Errorf("%q: %v, set aside: %v", text, err, gone != nil)
		}
	}
}

// TestWhatCouldNotBePublishedIsForgotten: a damaged file must not have rubbish
// published, and all else in it counts.
func TestWhatCouldNotBePublishedIsForgotten(t *testing.T) {
	path := func(dir string) string { return filepath.Join(dir, "homeassistant.json") }
	type group = map[string]any
	at := func(g group, keys ...string) group {
		for _, key := range keys {
			g = g[key].(group)
		}
		return g
	}
	for name, c := range map[string]struct {
		damage      func(shown, gone group) // what is kept of the two devices
		shown, gone bool                    // they are still known
		lost        bool                    // the state of what is shown is not
	}{
		"nothing":                 {func(_, _ group) {}, true, true, false},
		"gone without a head":     {func(_, gone group) { delete(gone, "head") }, true, false, false},
		"shown without a head":    {func(shown, _ group) { delete(shown, "head") }, false, true, false},
		"a head that is a list":   {func(shown, _ group) { shown["head"] = []any{} }, false, true, false},
		"a key too many":          {func(shown, _ group) { at(shown, "head", "device")["suggested_area"] = "x" }, false, true, false},
		"no identifiers":          {func(_, gone group) { delete(at(gone, "head", "device"), "identifiers") }, true, false, false},
		"a topic elsewhere":       {func(shown, _ group) { shown["topic"] = "some/where" }, false, true, false},
		"a topic with a wildcard": {func(shown, _ group) { shown["topic"] = "+/device/x/config" }, false, true, false},
		"a topic of NUL":          {func(_, gone group) { gone["topic"] = "homeassistant/device/x\x00/config" }, true, false, false},
		"a place with a wildcard": {func(shown, _ group) { shown["topics"] = group{"state": "#"} }, true, true, false},
		"a component of a number": {func(shown, _ group) { at(shown, "components")["state"] = 7 }, true, true, true},
		"another platform":        {func(shown, _ group) { at(shown, "components", "state")["platform"] = "toaster" }, true, true, true},
		"no state topic":          {func(shown, _ group) { delete(at(shown, "components", "state"), "state_topic") }, true, true, true},
		"a state topic of NUL":    {func(shown, _ group) { at(shown, "components", "state")["state_topic"] = "\x00" }, true, true, true},
		"one more":                {func(shown, _ group) { at(shown, "components")["more"] = group{} }, true, true, false},
		"one unheard":             {func(shown, _ group) { shown["unheard"] = group{"more": group{"platform": "x", "unique_id": "y"}} }, true, true, false},
		"one that goes":           {func(shown, _ group) { at(shown, "components")["state"] = group{"platform": "sensor"} }, true, true, false},
		"none at all":             {func(shown, _ group) { shown["components"] = group{} }, true, true, true},
	} {
		dir := t.TempDir()
		testkit.OK(t, store.Save(dir, announced()))
		text, err := os.ReadFile(path(dir))
		testkit.OK(t, err)
		var all group
		testkit.OK(t, json.Unmarshal(text, &all))
		c.damage(at(all, "shown", "other"), at(all, "gone", "mk4"))
		text, err = json.Marshal(all)
		testkit.OK(t, err)
		testkit.OK(t, os.WriteFile(path(dir), text, 0o600))
		m, err := store.Load(dir)
		testkit.OK(t, err)
		shown, gone := m.Shown["other"], m.Gone["mk4"]
		if (shown != nil) != c.shown || (gone != nil) != c.gone {
			t.Errorf("%s: known are %v and %v", name, m.Shown, m.Gone)
		}
		if shown != nil && ((shown.Components["state"] == nil) != c.lost || shown.Components["more"] != nil || len(shown.Unheard)+len(shown.Topics) > 0) {
			t.Errorf("%s: there are %s, unheard %s", name, shown.Components, shown.Unheard)
		}
		// What is published is what Home Assistant takes.
		wanted := m.WithUnheard(map[string]homeassistant.Message{}, func(id string) string { return "homeassistant/device/" + id + "/config" })
		messages, _ := m.Round(wanted)
		for _, p := range messages {
			if said := schema.Check("homeassistant", p.Topic, p.Payload); len(said) > 0 {
				t.Errorf("%s: %s: %v", name, p.Payload, said)
			}
		}
	}
}

// TestWhatMovedIsKept over a restart in the middle, where it has no topic.
func TestWhatMovedIsKept(t *testing.T) {
	dir, m := t.TempDir(), announced()
	w := homeassistant.Message{Topic: "ha/device/x/config", Head: m.Shown["other"].Head, Components: m.Shown["other"].Components}
	m.Round(map[string]homeassistant.Message{"other": w})
	if m.Shown["other"].Topic != "" {
		t.Fatal("it does not move")
	}
	from := m.Shown["other"].From
	testkit.OK(t, store.Save(dir, m))
	m, err := store.Load(dir)
	if err != nil || m.Shown["other"] == nil || m.Shown["other"].Topic != from || len(m.Shown["other"].Components) == 0 {
		t.Errorf("%v: %v", err, m.Shown["other"])
	}
}

// TestTheInstallationHasOneID, kept in the state folder. One that cannot be read
// is not replaced: all devices would be others, and the old ones stay.
func TestTheInstallationHasOneID(t *testing.T) {
	dir := t.TempDir()
	if id, err := store.PeekInstallation(dir); id != "" || err != nil {
		t.Errorf("looking makes %q, %v", id, err)
	}
	first, err := store.Installation(dir)
	again, err2 := store.Installation(dir)
	looked, err3 := store.PeekInstallation(dir)
	if first == "" || first != again || first != looked || errors.Join(err, err2, err3) != nil {
		t.Errorf("%q, %v; %q, %v; %q, %v", first, err, again, err2, looked, err3)
	}
	path := filepath.Join(dir, "installation_id")
	for _, damaged := range []string{"a/b#\n", "", "\x00\x00", first + first} {
		testkit.OK(t, os.WriteFile(path, []byte(damaged), 0o600))
		id, err := store.Installation(dir)
		kept, _ := os.ReadFile(path)
		if id != "" || err == nil || !strings.Contains(err.Error(), path) || string(kept) != damaged {
			t.Errorf("a damaged file gives %q, %v", id, err)
		}
	}
	testkit.OK(t, os.Remove(path))
	testkit.OK(t, os.Mkdir(path, 0o700))
	if id, err := store.Installation(dir); id != "" || err == nil {
		t.Errorf("one that cannot be read gives %q, %v", id, err)
	}
}
