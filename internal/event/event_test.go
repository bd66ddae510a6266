package event_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"event2mqtt/internal/event"
)

var noon = time.Unix(1795292835, 678e6)

func TestPayloadSurvivesByteForByte(t *testing.T) {
	for _, c := range []struct{ name, payload, want string }{
		{"object", `{"event":"PrintStarted","file":"a.gcode"}`, `{"_event":"E","_timestamp":1795292835,"event":"PrintStarted","file":"a.gcode"}`},
		{"nothing", ``, `{"_event":"E","_timestamp":1795292835}`},
		{"null", ` null `, `{"_event":"E","_timestamp":1795292835}`},
		{"empty object", `{ }`, `{"_event":"E","_timestamp":1795292835}`},
		{"array", `[1, 2]`, `{"_event":"E","_timestamp":1795292835,"value":[1, 2]}`},
		{"string", `"x"`, `{"_event":"E","_timestamp":1795292835,"value":"x"}`},
		{"big integer and odd numbers", `{"b":123456789012345678901234567890,"a":1.10,"c":1E+2,"d":-0}`, `{"_event":"E","_timestamp":1795292835,"b":123456789012345678901234567890,"a":1.10,"c":1E+2,"d":-0}`},
		{"own fields replaced", `{"_event":"x","a":1,"_timestamp":{"y":[1,"}"]}}`, `{"_event":"E","_timestamp":1795292835,"a":1}`},
		{"escaped own field replaced", `{"\u005fevent":"x","a":1}`, `{"_event":"E","_timestamp":1795292835,"a":1}`},
		{"nested own field kept", `{"a":{"_event":"x"}}`, `{"_event":"E","_timestamp":1795292835,"a":{"_event":"x"}}`},
		{"white space between members", "{ \"a\" : 1 ,\n\t\"b\" : [ 2 ] }", "{\"_event\":\"E\",\"_timestamp\":1795292835,\"a\" : 1,\"b\" : [ 2 ]}"},
		{"quotes and brackets in strings", `{"a":"\"}],{[","b\"":"\\"}`, `{"_event":"E","_timestamp":1795292835,"a":"\"}],{[","b\"":"\\"}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := event.Event{Name: "E", Time: noon, Payload: []byte(c.payload)}
			if err := (event.Normaliser{}).Normalise(&e); err != nil {
				t.Fatal(err)
			}
			if string(e.Payload) != c.want {
				t.Errorf("got  %s\nwant %s", e.Payload, c.want)
			}
		})
	}
}

func TestNameIsCarriedExactly(t *testing.T) {
	for _, name := range []string{"PrintStarted", "a/b+c#", `quo"te\`, "ümlaut <&>", "tab\t", "$SYS"} {
		e := event.Event{Name: name, Time: noon}
		if err := (event.Normaliser{}).Normalise(&e); err != nil {
			t.Fatal(err)
		}
		var got map[string]any
		if err := json.Unmarshal(e.Payload, &got); err != nil {
			t.Fatalf("%s: %v", e.Payload, err)
		}
		if got["_event"] != name {
			t.Errorf("_event = %q, want %q", got["_event"], name)
		}
	}
}

func TestTimestampFieldAndUnit(t *testing.T) {
	e := event.Event{Name: "E", Time: noon, Payload: []byte(`{"ts":1,"_timestamp":2}`)}
	if err := (event.Normaliser{TimestampField: "ts", Millis: true}).Normalise(&e); err != nil {
		t.Fatal(err)
	}
	if want := `{"_event":"E","ts":1795292835678,"_timestamp":2}`; string(e.Payload) != want {
		t.Errorf("got %s, want %s", e.Payload, want)
	}
}

func TestRefusedWithTheReason(t *testing.T) {
	for _, c := range []struct{ name, event, payload, reason string }{
		{"no name", "", `{}`, "no name"},
		{"long name", strings.Repeat("x", 513), `{}`, "at most 512"},
		{"name not UTF-8", "\xff", `{}`, "UTF-8"},
		{"not JSON", "E", `{"a":}`, "at byte 6"},
		{"NaN", "E", `{"a":NaN}`, "no NaN"},
		{"Python quotes", "E", `{'a':1}`, "double quotes"},
		{"two values", "E", `{} {}`, "not JSON"},
		{"not UTF-8", "E", "{\"a\":\"\xff\"}", "UTF-8"},
		{"too deep", "E", strings.Repeat("[", 65) + strings.Repeat("]", 65), "65 levels"},
		{"too large", "E", `"` + strings.Repeat("x", 100) + `"`, "at most 100"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := event.Event{Name: c.event, Time: noon, Payload: []byte(c.payload)}
			err := event.Normaliser{MaxPayload: 100}.Normalise(&e)
			if c.name == "too deep" {
				err = event.Normaliser{}.Normalise(&e)
			}
			var refused *event.Refused
			if !errors.As(err, &refused) || !strings.Contains(refused.Reason, c.reason) {
				t.Fatalf("error %v does not say %q", err, c.reason)
			}
			if refused.TooLarge != (c.name == "too large") {
				t.Errorf("TooLarge = %v", refused.TooLarge)
			}
			if string(e.Payload) != c.payload {
				t.Error("a refused event was changed")
			}
		})
	}
}

// FuzzNormalise holds Normalise against encoding/json: what one accepts the
// other does, and all members but the two added ones are the same afterwards.
func FuzzNormalise(f *testing.F) {
	for _, s := range []string{`{"a":1}`, `null`, `[{}]`, `{"_event":{"a":"\\\""},"b":[]}`, `{"\u005fevent":1 , "c" : "x" }`, `1e5`, `"\ud800"`} {
		f.Add("E", []byte(s))
	}
	f.Fuzz(func(t *testing.T, name string, payload []byte) {
		body := bytes.TrimSpace(payload)
		if err := event.Check(body); (err == nil) != (len(body) == 0 || json.Valid(body) && utf8.Valid(body) && !strings.Contains(fmt.Sprint(err), "levels deep")) {
			t.Fatalf("%q: %v, while encoding/json says %v", body, err, json.Valid(body))
		}
		e := event.Event{Name: name, Time: noon, Payload: payload}
		if err := (event.Normaliser{}).Normalise(&e); err != nil {
			return
		}
		var got map[string]json.RawMessage
		if err := json.Unmarshal(e.Payload, &got); err != nil {
			t.Fatalf("%q became %q: %v", payload, e.Payload, err)
		}
		want := map[string]json.RawMessage{}
		if len(body) > 0 && body[0] == '{' {
			if err := json.Unmarshal(body, &want); err != nil {
				t.Fatalf("accepted %q: %v", body, err)
			}
		} else if len(body) > 0 && string(body) != "null" {
			want["value"] = body
		}
		delete(want, "_event")
		delete(want, "_timestamp")
		if len(got) != len(want)+2 {
			t.Fatalf("%q became %q", payload, e.Payload)
		}
		for k, v := range want {
			if !bytes.Equal(got[k], v) {
				t.Fatalf("member %q changed from %q to %q", k, v, got[k])
			}
		}
		if !bytes.HasPrefix(e.Payload, []byte(`{"_event":`)) {
			t.Fatalf("%q does not begin with _event", e.Payload)
		}
	})
}

func BenchmarkCheck(b *testing.B) {
	body := []byte(`{"event":"PrintStarted","name":"a.gcode","size":242038,"owner":"` + strings.Repeat("x", 190) + `"}`)
	b.Run("ours", func(b *testing.B) {
		for b.Loop() {
			_ = event.Check(body)
		}
	})
	b.Run("json.Valid", func(b *testing.B) {
		for b.Loop() {
			_ = json.Valid(body)
		}
	})
	b.Run("Normalise", func(b *testing.B) {
		for b.Loop() {
			e := event.Event{Name: "PrintStarted", Time: noon, Payload: body}
			_ = (event.Normaliser{}).Normalise(&e)
		}
	})
}
