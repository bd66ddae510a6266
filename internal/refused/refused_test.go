package refused

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"event2mqtt/internal/event"
	"event2mqtt/internal/format"
)

func keep(t *testing.T, f *Folder, id string, bytes int) Event {
	t.Helper()
	two := byte(2)
	e := Event{
		ID: id, Sink: "mqtt", Refused: time.Now().UTC().Round(0), Reason: "too large", Topic: "t/x", Name: "N", Source: "s", Time: time.Unix(1700000000, 5).UTC(),
		Route: event.Route{Topic: "t/x", Outside: true, QoS: &two, Retain: true}, Payload: []byte(`{"p":"<&\u2028` + strings.Repeat("x", bytes) + `"}`),
	}
	if err := f.Keep(e); err != nil {
		t.Fatal(err)
	}
	// Files get times that differ, whatever the file system's clock says.
	order := time.Now().Add(-time.Hour).Add(time.Duration(len(ids(t, f))) * time.Second)
	if err := os.Chtimes(filepath.Join(f.dir, id+suffix), order, order); err != nil {
		t.Fatal(err)
	}
	e.Bytes = len(e.Payload)
	return e
}

func ids(t *testing.T, f *Folder) (out []string) {
	t.Helper()
	list, err := f.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		out = append(out, e.ID)
	}
	return out
}

func TestWhatIsKeptComesBackAsItWas(t *testing.T) {
	f := Open(filepath.Join(t.TempDir(), "refused"), zerolog.Nop())
	if got := ids(t, f); len(got) != 0 {
		t.Fatalf("a folder that was never made holds %q", got)
	}
	want := keep(t, f, "j-1", 10)
	got, err := Open(f.dir, zerolog.Nop()).Get("j-1")
	if err != nil || !reflect.DeepEqual(got, []Event{want}) {
		t.Fatalf("got %+v (%v), want %+v", got, err, want)
	}
	keep(t, f, "j-1", 10) // refused again: the same file
	if got := ids(t, f); !reflect.DeepEqual(got, []string{"j-1"}) {
		t.Fatalf("holds %q", got)
	}
	if err := f.Remove("j-1"); err != nil || len(ids(t, f)) != 0 {
		t.Fatalf("it is still there: %v", err)
	}
}

// TestAnEventOfANewerVersionIsLeftAlone: it is told of, and not sent in part.
func TestAnEventOfANewerVersionIsLeftAlone(t *testing.T) {
	f := Open(t.TempDir(), zerolog.Nop())
	if err := os.WriteFile(filepath.Join(f.dir, "j-1.json"), []byte(`{"format":2,"id":"j-1","event":{"name":"N"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Get("j-1"); !errors.Is(err, format.ErrNewer) {
		t.Errorf("got %v", err)
	}
	if list, err := f.List(); len(list) != 0 || !errors.Is(err, format.ErrNewer) {
		t.Errorf("listed %v, %v", list, err)
	}
}

func TestTheFolderIsBoundedAndTheOldestGoFirstAndThatIsSaid(t *testing.T) {
	for name, set := range map[string]func(*Folder){"count": func(f *Folder) { f.events = 3 }, "bytes": func(f *Folder) { f.maxBytes = 4000 }} {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			f := Open(t.TempDir(), zerolog.New(&log))
			set(f)
			for i := range 5 {
				keep(t, f, fmt.Sprint("j-", i), 1000)
			}
			if got := ids(t, f); !reflect.DeepEqual(got, []string{"j-2", "j-3", "j-4"}) {
				t.Errorf("holds %q", got)
			}
			if n := strings.Count(log.String(), "the oldest were removed"); n != 2 {
				t.Errorf("said %d times:\n%s", n, log.String())
			}
			keep(t, f, "large", 5000) // the newest stays, whatever its size
			if got := ids(t, f); got[len(got)-1] != "large" {
				t.Errorf("holds %q", got)
			}
		})
	}
}

func TestIdsAndFilesFromOutsideAreNotTrusted(t *testing.T) {
	dir := t.TempDir()
	f := Open(filepath.Join(dir, "refused"), zerolog.Nop())
	keep(t, f, "j-1", 1)
	if err := os.WriteFile(filepath.Join(dir, "secret.json"), []byte(`{"id":"../secret","event":"E"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"", "../secret", "..", ".hidden", "a/b", "nobody", strings.Repeat("x", 300), "a\x00b"} {
		if _, err := f.Get(id); !errors.Is(err, ErrUnknown) {
			t.Errorf("get %q: %v", id, err)
		}
		if err := f.Remove(id); !errors.Is(err, ErrUnknown) {
			t.Errorf("remove %q: %v", id, err)
		}
	}
	if err := os.WriteFile(filepath.Join(f.dir, "bad.json"), []byte(`{"id":`), 0o600); err != nil {
		t.Fatal(err)
	}
	list, err := f.List()
	if len(list) != 1 || err == nil || !strings.Contains(err.Error(), "bad.json") {
		t.Errorf("list %v, %v", list, err)
	}
}

// TestTwoSinksMayRefuseOneEvent: each has a file of its own, and the event is
// for each sink alone when it is sent again.
func TestTwoSinksMayRefuseOneEvent(t *testing.T) {
	f := Open(filepath.Join(t.TempDir(), "refused"), zerolog.Nop())
	for _, sink := range []string{"mqtt", "log", "mqtt", "log", "../x"} {
		if err := f.Keep(Event{ID: "j-1", Sink: sink, Name: "N", Payload: []byte("{}")}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(filepath.Join(f.dir, "j-1.json")); err != nil {
		t.Error("the first file is not named as older versions have it:", err)
	}
	sinks := func() (out []string) {
		events, err := f.Get("j-1")
		for i := range events {
			out = append(out, events[i].Event().Only)
		}
		if list, _ := f.List(); len(list) != len(events) || err != nil && !errors.Is(err, ErrUnknown) {
			t.Errorf("got %d, listed %d, %v", len(events), len(list), err)
		}
		slices.Sort(out)
		return out
	}
	if got := fmt.Sprint(sinks()); got != "[../x log mqtt]" {
		t.Errorf("kept for %s", got)
	}
	if err := f.RemoveOf("j-1", "mqtt"); err != nil || fmt.Sprint(sinks()) != "[../x log]" {
		t.Errorf("left for %v, %v", sinks(), err)
	}
	if err := f.Keep(Event{ID: "j-1", Sink: "log", Name: "N", Payload: []byte("{}")}); err != nil || len(sinks()) != 2 {
		t.Errorf("again for %v, %v", sinks(), err)
	}
	if err := f.Remove("j-1"); err != nil || len(sinks()) != 0 {
		t.Errorf("left for %v, %v", sinks(), err)
	}
}
