package sources_test

import (
	"fmt"
	"strings"
	"testing"

	"event2mqtt/internal/event"
	"event2mqtt/internal/sources"
)

// TestEventsMakeStates of the kinds that are asked for; what is not of its kind
// is unknown, and what an event does not have changes nothing.
func TestEventsMakeStates(t *testing.T) {
	for _, c := range []struct {
		entity        sources.EntityConfig
		payload, want string // "" is no state
	}{
		{sources.EntityConfig{From: "payload.a.b"}, `{"a":{"b":"x"}}`, "x"},
		{sources.EntityConfig{From: "a"}, `{"a":5}`, "5"},
		{sources.EntityConfig{From: "a"}, `{"a":null}`, "null"},
		{sources.EntityConfig{From: "a"}, `{"a":{"b":1}}`, `{"b":1}`},
		{sources.EntityConfig{From: "a"}, `{"b":1}`, ""},
		{sources.EntityConfig{From: "a"}, `{"a":"` + strings.Repeat("ü", 2000) + `"}`, strings.Repeat("ü", 512)},
		{sources.EntityConfig{From: "a", Kind: "number"}, `{"a":"21.50"}`, "21.5"},
		{sources.EntityConfig{From: "a", Kind: "number"}, `{"a":"NaN"}`, "null"},
		{sources.EntityConfig{From: "a", Kind: "number"}, `{"a":"warm"}`, "null"},
		{sources.EntityConfig{From: "a", Kind: "binary"}, `{"a":true}`, "true"},
		{sources.EntityConfig{From: "a", Kind: "binary"}, `{"a":"Closed"}`, "false"},
		{sources.EntityConfig{From: "a", Kind: "binary"}, `{"a":"ajar"}`, "null"},
		{sources.EntityConfig{From: "a", Kind: "binary", On: "up"}, `{"a":"ajar"}`, "false"},
		{sources.EntityConfig{From: "a", Kind: "binary", Off: "up"}, `{"a":"ajar"}`, "true"},
		{sources.EntityConfig{From: "a", Kind: "binary", On: "1", Off: "2"}, `{"a":2}`, "false"},
		{sources.EntityConfig{From: "a", Kind: "binary", On: "1", Off: "2"}, `{"a":3}`, "null"},
		{sources.EntityConfig{From: "a", Kind: "timestamp"}, `{"a":1700000000}`, `"2023-11-14T22:13:20Z"`},
		{sources.EntityConfig{From: "a", Kind: "timestamp"}, `{"a":"soon"}`, "null"},
		{sources.EntityConfig{From: "a", Events: []string{"Other"}}, `{"a":5}`, ""},
	} {
		c.entity.Name = "It"
		s := sources.Shown{Entities: []sources.EntityConfig{c.entity}}
		got := ""
		for _, st := range s.Mirror(&event.Event{Name: "E", Payload: []byte(c.payload)}) {
			if st.Key == "it" {
				got = string(st.Payload)
			}
		}
		if got != c.want {
			t.Errorf("%+v of %.60s is %.60q, want %.60q", c.entity, c.payload, got, c.want)
		}
	}
	if s := (sources.Shown{}); s.Mirror(&event.Event{Name: "E"}) != nil || s.Mirrored() != nil {
		t.Error("a source that is not shown has states")
	}
	s := sources.Shown{Device: true}
	if states := s.Mirror(&event.Event{Name: "E", Payload: []byte("{}")}); len(states) != 1 || !strings.Contains(string(states[0].Payload), `"event":"E"`) {
		t.Errorf("the last event: %v", states)
	}
	if s.Mirror(&event.Event{}) != nil {
		t.Error("a mark makes states")
	}
}

// TestWrongEntitiesAreTold, by their key.
func TestWrongEntitiesAreTold(t *testing.T) {
	for _, c := range []struct {
		entity sources.EntityConfig
		want   string // "" is good
	}{
		{sources.EntityConfig{Name: "Door", From: "payload.open", Kind: "binary", On: "a", Off: "b"}, ""},
		{sources.EntityConfig{Name: "Tür 1", From: "open"}, ""},
		{sources.EntityConfig{Name: "温度", From: "open"}, "add one, such as key: temperature"},
		{sources.EntityConfig{Name: "温度", Key: "temperature", From: "open"}, ""},
		{sources.EntityConfig{Name: "温度", Key: "Temp.", From: "open"}, "entities[0].key: \"Temp.\" cannot be a key; small letters"},
		{sources.EntityConfig{Name: "Door", Key: "available", From: "open"}, "entities[0].key: \"available\" makes the key available, which is the program's own"},
		{sources.EntityConfig{Name: "Door", Key: "last_event", From: "open"}, "has the key last_event"},
		{sources.EntityConfig{From: "open"}, "entities[0].name: is needed"},
		{sources.EntityConfig{Name: "Available", From: "open"}, "is the program's own"},
		{sources.EntityConfig{Name: "Last event", From: "open"}, "has the key last_event"},
		{sources.EntityConfig{Name: "Door", From: "a..b"}, "is no path of the payload"},
		{sources.EntityConfig{Name: "Door", From: "a", Unit: "W"}, "is for kind: number"},
		{sources.EntityConfig{Name: "Door", From: "a", On: "x"}, "are for kind: binary"},
		{sources.EntityConfig{Name: "Door", From: "a", Kind: "binary", On: "x", Off: "x"}, "are both"},
		{sources.EntityConfig{Name: "P", From: "a", Kind: "number", Class: "power", Unit: "W"}, ""},
		{sources.EntityConfig{Name: "P", From: "a", Kind: "number", Class: "powr", Unit: "W"}, `"powr" is no class of kind: number; did you mean power?`},
		{sources.EntityConfig{Name: "P", From: "a", Kind: "number", Class: "power", Unit: "C"}, `"C" is no unit of class: power; write W, or kW`},
		{sources.EntityConfig{Name: "P", From: "a", Kind: "number", Class: "power"}, "unit: is needed with class: power; write W, or kW"},
		{sources.EntityConfig{Name: "P", From: "a", Kind: "number", Class: "ph", Unit: "pH"}, `"pH" is no unit of class: ph; leave it out`},
		{sources.EntityConfig{Name: "P", From: "a", Kind: "number", Class: "monetary", Unit: "EUR"}, ""},
		{sources.EntityConfig{Name: "P", From: "a", Kind: "number", Class: "pm10", Unit: "\u03bcg/m³"}, ""},
		{sources.EntityConfig{Name: "P", From: "a", Kind: "binary", Class: "dor"}, `"dor" is no class of kind: binary; did you mean door?`},
		{sources.EntityConfig{Name: "P", From: "a", Kind: "binary", Class: "tuer"}, `"tuer" is no class of kind: binary; there are battery, `},
		{sources.EntityConfig{Name: "P", From: "a", Class: "power"}, "is for kind: number or kind: binary"},
		{sources.EntityConfig{Name: "P", From: "a", Kind: "number", Class: "energy", Unit: "kWh", Adds: "total"}, ""},
		{sources.EntityConfig{Name: "P", From: "a", Kind: "number", Class: "energy", Unit: "kWh", Adds: "none"}, ""},
		{sources.EntityConfig{Name: "P", From: "a", Kind: "number", Class: "energy", Unit: "kWh", Adds: "measurement"}, `"measurement" is not for class: energy; write total_increasing, or total, or none`},
		{sources.EntityConfig{Name: "P", From: "a", Kind: "number", Class: "power", Unit: "W", Adds: "total"}, `"total" is not for class: power; write measurement, or none`},
		{sources.EntityConfig{Name: "P", From: "a", Adds: "total"}, "state_class: is for kind: number"},
		{sources.EntityConfig{Name: strings.Repeat("x", 300), From: "a"}, "name has 300 bytes"},
	} {
		s := sources.Shown{Entities: []sources.EntityConfig{c.entity}}
		err := s.CheckShown()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%+v: %v, want %s", c.entity, err, c.want)
		}
	}
	for id, want := range map[string]string{"washer-1": "", "a b": "cannot be an identifier", strings.Repeat("x", 200): "cannot be an identifier"} {
		err := (&sources.Shown{Device: true, DeviceID: id}).CheckShown()
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %s", id, err, want)
		}
	}
	if err := (&sources.Shown{DeviceID: "x"}).CheckShown(); err == nil || !strings.Contains(err.Error(), "write device: true") {
		t.Errorf("an identifier of what is not shown: %v", err)
	}
	many := sources.Shown{}
	for i := range 101 {
		many.Entities = append(many.Entities, sources.EntityConfig{Name: fmt.Sprint("x", i), From: "a"})
	}
	if err := many.CheckShown(); err == nil || !strings.Contains(err.Error(), "at most 100") {
		t.Errorf("too many: %v", err)
	}
}

// TestKeysOfStatesAreSpelled as Home Assistant spells ids, unless they are given.
func TestKeysOfStatesAreSpelled(t *testing.T) {
	s := sources.Shown{Entities: []sources.EntityConfig{{Name: "Tür"}, {Name: "Łódź (öffen)"}, {Name: "温度", Key: "temperature"}}}
	if got := strings.Join(s.Mirrored(), " "); got != "last_event tur lodz_offen temperature" {
		t.Error(got)
	}
}
