package journal

import (
	"bytes"
	"testing"
	"time"

	"event2mqtt/internal/event"
)

// FuzzRecover feeds arbitrary bytes to the reader of segments: it ends,
// allocates no more than there is, and finds again what it was given intact.
func FuzzRecover(f *testing.F) {
	const salt = 42
	e := event.Event{Name: "n", Source: "s", Time: time.Unix(1, 0), Payload: []byte(`{}`), Position: event.Position{Key: "k", Value: []byte("v")}}
	good := appendEvent(nil, salt, 7, 7, &e)
	f.Add([]byte{}, []byte{})
	f.Add([]byte(marker), []byte{0, 0, 0})
	f.Add(good[:20], good[5:])
	f.Add(append(bytes.Clone(good), 0, 0), []byte(marker+"\xff\xff\xff\xff\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, before, after []byte) {
		data := append(append(bytes.Clone(before), good...), after...)
		for _, cut := range []bool{false, true} {
			r := recoverSegment(data, salt, cut)
			if r.end < 0 || r.end > int64(len(data)) {
				t.Fatalf("end %d of %d", r.end, len(data))
			}
		}
		s := scanner{data: data, salt: salt}
		for {
			rec, _, ok := s.next()
			if !ok {
				t.Fatal("the good record was not found")
			}
			if rec.kind == kindEvent && rec.seq == 7 && rec.event.Name == "n" && string(rec.event.Position.Value) == "v" {
				return
			}
		}
	})
}

// TestWhatMayNeverHaveBeenAcknowledgedIsCut tells torn writes from damage.
func TestWhatMayNeverHaveBeenAcknowledgedIsCut(t *testing.T) {
	const salt = 1
	rec := func(seq, unsynced uint64) []byte {
		return appendEvent(nil, salt, seq, unsynced, &event.Event{Name: "n", Payload: []byte("{}")})
	}
	bad := []byte("????????????????")
	for _, c := range []struct {
		name string
		data [][]byte
		last uint64
	}{
		{"whole", [][]byte{rec(1, 1), rec(2, 2)}, 2},
		{"space behind", [][]byte{rec(1, 1), make([]byte, 100)}, 1},
		{"torn at the end", [][]byte{rec(1, 1), rec(2, 2)[:10]}, 1},
		{"hole in the last batch", [][]byte{rec(1, 1), rec(2, 2), bad, rec(4, 2)}, 2},
		{"hole at the start of the last batch", [][]byte{rec(1, 1), bad, rec(3, 2)}, 1},
		{"hole before a later batch is damage", [][]byte{rec(1, 1), bad, rec(3, 3)}, 3},
		{"hole in a batch before the last is damage", [][]byte{rec(1, 1), bad, rec(3, 1), rec(4, 4)}, 4},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := recoverSegment(bytes.Join(c.data, nil), salt, true)
			if r.last != c.last {
				t.Errorf("ends with %d, want %d", r.last, c.last)
			}
		})
	}
}

// TestARecordHoldsAllOfAnEvent: its route, and for which sink alone it is.
func TestARecordHoldsAllOfAnEvent(t *testing.T) {
	two := byte(2)
	for _, e := range []event.Event{
		{Name: "n", Source: "s", Payload: []byte("{}")},
		{Name: "n", Route: event.Route{Topic: "t", QoS: &two, Retain: true}, Payload: []byte(`{"a":1}`)},
		{Name: "n", Only: "log", Payload: []byte("{}")},
		{Name: "n", Route: event.Route{Expiry: 90}, Payload: []byte(`{"a":1}`)},
		{Name: "n", Only: "log", Route: event.Route{Topic: "t", Retain: true, Expiry: 1 << 31}, Payload: []byte("{}")},
		{Name: "n", Only: "log", Route: event.Route{Topic: "t"}, Position: event.Position{Key: "k", Value: []byte("v")}, Payload: []byte("{}")},
	} {
		e.Time = time.Unix(1, 2)
		data := appendEvent(nil, 1, 7, 7, &e)
		rec, size, err := decode(data, 1)
		if err != nil || size != len(data) || size > recordSize(&e) || rec.kind != kindEvent {
			t.Fatalf("%+v: %+v of %d bytes, %v", e, rec, size, err)
		}
		if got := rec.event; got.Only != e.Only || got.Name != e.Name || got.Source != e.Source || !got.Time.Equal(e.Time) || string(got.Payload) != string(e.Payload) ||
			got.Route.Topic != e.Route.Topic || got.Route.Retain != e.Route.Retain || (got.Route.QoS == nil) != (e.Route.QoS == nil) || got.Position.Key != e.Position.Key {
			t.Errorf("got %+v, want %+v", got, e)
		}
	}
}
