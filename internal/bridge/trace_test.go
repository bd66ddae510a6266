package bridge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"event2mqtt/internal/event"
	"event2mqtt/internal/trace"
)

// told are the records that a watch has now, a line each; lines in the file of
// the configuration are told without its name.
func told(w *trace.Watch) string {
	var out []string
	records, _ := w.Take(1000)
	for _, r := range records {
		text := fmt.Sprintf("%s/%s %s", r.Source, r.Event, r.Verdict)
		if r.Offered != "" {
			text += " was " + r.Offered
		}
		if r.Sink != "" {
			text += " by " + r.Sink + " at " + r.Topic
		}
		if r.Seq > 0 {
			text += fmt.Sprint(" as ", r.Seq)
		}
		if r.Rule != nil {
			text += fmt.Sprintf(" by %d %q in %s:%d", r.Rule.Index, r.Rule.Name, filepath.Base(r.Rule.File), r.Rule.Line)
		}
		if r.Reason != "" {
			text += ": " + r.Reason
		}
		if r.Retry {
			text += " (may be offered again)"
		}
		out = append(out, text)
	}
	return strings.Join(out, "\n")
}

func emit(o output, names ...string) error {
	var events []event.Event
	for _, name := range names {
		events = append(events, event.Event{Name: name, Payload: []byte(`{"n":1}`)})
	}
	_, err := o.Emit(context.Background(), events...)
	return err
}

// TestTheTraceTellsWhatBecomesOfEachEvent on its way into the journal, by which
// rule, and where that stands.
func TestTheTraceTellsWhatBecomesOfEachEvent(t *testing.T) {
	const none, rules = "rules: []\n", `max_payload: 1KiB
rules:
  - {match: Client*, drop: true, name: no chatter}
  - match: Same
    dedupe: true
  - {match: Often, min_interval: 1h, name: calm}
  - {match: Old, rename: New}
`
	for _, c := range []struct {
		name, yaml string
		batches    [][]string
		want       string
	}{
		{"stored", none, [][]string{{"A"}, {"B", "C"}}, "hooks/A stored as 1\nhooks/B stored as 2\nhooks/C stored as 3"},
		{"refused", none, [][]string{{"A", "", "C"}}, "hooks/A refused: it came together with an event that was refused (may be offered again)\n" +
			"hooks/ refused: the event has no name\nhooks/C refused: it came together with an event that was refused (may be offered again)"},
		{"dropped", rules, [][]string{{"ClientOpened"}, {"A", "ClientOpened", "B"}}, "hooks/ClientOpened dropped by 0 \"no chatter\" in config.yaml:3\n" +
			"hooks/A stored as 1\nhooks/ClientOpened dropped by 0 \"no chatter\" in config.yaml:3\nhooks/B stored as 2"},
		{"repeated", rules, [][]string{{"Same", "Same"}}, "hooks/Same stored as 1\nhooks/Same repeated by 1 \"\" in config.yaml:4"},
		{"renamed", rules, [][]string{{"Old"}}, "hooks/New stored was Old as 1"},
		{"held", rules, [][]string{{"Often", "Often"}, {"Often"}}, "hooks/Often stored as 1\nhooks/Often held by 2 \"calm\" in config.yaml:6\n" +
			"hooks/Often held by 2 \"calm\" in config.yaml:6\nhooks/Often replaced by 2 \"calm\" in config.yaml:6"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := emitter(t, c.yaml)
			w := o.b.trace.Watch(trace.Filter{})
			defer w.Close()
			for _, names := range c.batches {
				if err := emit(o, names...); (err != nil) != (c.name == "refused") {
					t.Fatal(err)
				}
			}
			if got := told(w); got != c.want {
				t.Errorf("got\n%s\nwant\n%s", got, c.want)
			}
		})
	}
}

// TestTheTraceTellsWhatBecomesOfWhatWasHeld: which rule held it, and what came
// then.
func TestTheTraceTellsWhatBecomesOfWhatWasHeld(t *testing.T) {
	o := emitter(t, `rules:
  - {match: "*", min_interval: 1h, name: calm}
  - {match: Same, dedupe: true}
  - {match: Often, rename: Calm}
`)
	w := o.b.trace.Watch(trace.Filter{})
	defer w.Close()
	pipeline := o.b.pipeline.Load()
	for _, c := range []struct {
		event, want string
		fails       bool
	}{
		{event: "Often", want: `hooks/Calm stored was Often as 2 by 0 "calm" in config.yaml:2`},
		{event: "Same", want: `hooks/Same repeated by 1 "" in config.yaml:3`},
		{event: "Other", want: `hooks/Other held by 0 "calm" in config.yaml:2: context canceled`, fails: true},
	} {
		if err := emit(o, c.event, c.event); err != nil {
			t.Fatal(err)
		}
		_ = told(w)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		if c.fails {
			cancel()
		}
		due, _ := pipeline.rules.Due(time.Now().Add(2 * time.Hour))
		if err := o.b.storeHeld(ctx, pipeline, due[0]); (err != nil) != c.fails {
			t.Fatal(err)
		}
		if got := told(w); got != c.want {
			t.Errorf("%s: got\n%s\nwant\n%s", c.event, got, c.want)
		}
	}
}

// TestTheTraceTellsOfDeliveries: what a sink's destination has acknowledged,
// where, after how long; what it skips, and why; also by a sink that a reload
// put in place of another.
func TestTheTraceTellsOfDeliveries(t *testing.T) {
	yaml := plain + "rules: [{match: Old, rename: New, topic: \"base/of/{event}\"}]\n"
	yaml = strings.Replace(yaml, "broker: {listen: MQTT}", "broker: {listen: MQTT, max_packet: 1KiB}\nmqtt: {in_flight: 10}\npublish: {qos: 1}", 1)
	h := newRig(t, yaml)
	w := h.trace.Watch(trace.Filter{Events: []string{"A", "New", "Big"}, Verdicts: []trace.Verdict{trace.Delivered, trace.Skipped}})
	defer w.Close()
	next := func() trace.Record {
		t.Helper()
		for {
			select {
			case <-w.Changed():
			case <-time.After(time.Minute):
				t.Fatal("nothing comes")
			}
			if records, lost := w.Take(1); len(records) == 1 && lost == 0 {
				return records[0]
			}
		}
	}
	for i := range 2 {
		for _, c := range []struct{ body, event, topic, reason string }{
			{`{"event":"A"}`, "A", "event2mqtt/event/A", ""},
			{`{"event":"Old"}`, "New", "base/of/New", ""},
			{`{"event":"Big","p":"` + strings.Repeat("x", 2000) + `"}`, "Big", "event2mqtt/event/Big", "broker.max_packet"},
		} {
			h.send(c.body)
			r := next()
			want := trace.Record{
				Number: r.Number, Time: r.Time, Verdict: trace.Delivered, Source: "hooks", Event: c.event, Seq: h.journal.Stats().Last,
				Sink: "mqtt", Topic: c.topic, TookMS: r.TookMS,
			}
			if c.reason != "" {
				want.Verdict, want.Reason, want.TookMS = trace.Skipped, r.Reason, 0
			}
			if r != want || !strings.Contains(r.Reason, c.reason) || c.reason == "" && (r.TookMS <= 0 || r.TookMS > 60_000) {
				t.Errorf("%d: got  %+v\nwant %+v", i, r, want)
			}
		}
		if i == 0 {
			if o := h.reload(strings.Replace(yaml, "in_flight: 10", "in_flight: 11", 1)); !o.OK || !strings.Contains(fmt.Sprint(o), "sink mqtt") {
				t.Fatal(o)
			}
		}
	}
}

// TestTheTraceTellsWhatTheJournalRefuses, with what rules had made of it: all
// will be offered again.
func TestTheTraceTellsWhatTheJournalRefuses(t *testing.T) {
	o := emitter(t, "rules: [{match: Client*, drop: true}]\n")
	w := o.b.trace.Watch(trace.Filter{})
	defer w.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := o.Emit(ctx, event.Event{Name: "A"}, event.Event{Name: "ClientOpened"}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if got, want := told(w), "hooks/A refused: context canceled (may be offered again)\nhooks/ClientOpened refused: context canceled (may be offered again)"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if n := o.b.pipeline.Load().rules.Counts()[0].Dropped; n != 0 {
		t.Errorf("%d are counted as dropped", n)
	}
}

// TestRulesFromAVariableSaySo: they stand at no line.
func TestRulesFromAVariableSaySo(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(file, []byte("rules:\n  - {match: X, drop: true}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for environ, want := range map[string]string{"OTHER=1": file + ":2", `E2M_RULES=[{"match":["A"],"drop":true}]`: "environment variable E2M_RULES:0"} {
		plan, err := Load(file, []string{environ}, dir)
		if err != nil {
			t.Fatal(err)
		}
		if name, line := plan.placeOfRule(0); fmt.Sprint(name, ":", line) != want {
			t.Errorf("with %s: %s:%d, want %s", environ, name, line, want)
		}
	}
}

// TestNamedRulesKeepTheirCounters over a reload that puts others before them.
func TestNamedRulesKeepTheirCounters(t *testing.T) {
	h := newRig(t, plain+"rules: [{match: Y, drop: true, name: \"no \\\"Y\\\"\"}, {match: X, drop: true}]\n")
	h.send(`{"event":"Y"}`)
	if o := h.reload(plain + "rules: [{match: X, drop: true}, {match: [Y, Z], drop: true, name: \"no \\\"Y\\\"\"}]\n"); !o.OK {
		t.Fatal(o)
	}
	h.send(`{"event":"Z"}`)
	for _, c := range h.pipeline.Load().rules.Counts() {
		if c.Rule.Name != "" && c.Dropped != 2 {
			t.Errorf("%+v", c)
		}
	}
	r, err := http.Get("http://" + h.http + metricsPath)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	metrics, _ := io.ReadAll(r.Body)
	for _, want := range []string{`event2mqtt_rule_dropped_total{rule="no \"Y\""} 2`, `event2mqtt_rule_matched_total{rule="no \"Y\""} 2`, `event2mqtt_rule_held_total{rule="0"} 0`} {
		if !strings.Contains(string(metrics), want+"\n") {
			t.Errorf("want %s in\n%s", want, metrics)
		}
	}
}
