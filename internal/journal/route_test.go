package journal_test

import (
	"reflect"
	"testing"

	"event2mqtt/internal/event"
	"event2mqtt/internal/journal"
)

// TestARouteIsStoredWhole, also that a sender has chosen its topic.
func TestARouteIsStoredWhole(t *testing.T) {
	two := byte(2)
	routes := []event.Route{{}, {Topic: "a"}, {Topic: "a/b", Outside: true}, {Retain: true}, {Topic: "c", Outside: true, QoS: &two, Retain: true}}
	dir := t.TempDir()
	j := open(t, journal.Options{FS: journal.DirFS(dir)})
	for _, r := range routes {
		if _, err := j.Append(t.Context(), event.Event{Name: "E", Payload: []byte(`{}`), Route: r}); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	for i, e := range readAll(t, open(t, journal.Options{FS: journal.DirFS(dir)}).Reader(1)) {
		if !reflect.DeepEqual(e.Route, routes[i]) || string(e.Payload) != `{}` {
			t.Errorf("%d: got %+v %s, want %+v", i, e.Route, e.Payload, routes[i])
		}
		routes[i].Topic = "read"
	}
	if last := routes[len(routes)-1]; last.Topic != "read" {
		t.Errorf("%+v was not read", last)
	}
}
