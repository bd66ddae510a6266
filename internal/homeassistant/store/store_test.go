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
