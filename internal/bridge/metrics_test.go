package bridge

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"event2mqtt/internal/metrics"
	"event2mqtt/internal/testkit"
	"event2mqtt/test/mqttest"
)

// figures are what /metrics shows: values by name and labels, as they are written.
type figures map[string]float64

var sampleLine = regexp.MustCompile(`^([a-z][a-z0-9_]*)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\[\\"n])*",?)+)\})? (-?[0-9]+(?:\.[0-9]+)?)$`)

// parsePage reads the text format strictly, in version 0.0.4: each metric of the
// table once, with its help and kind, its samples together and each one once,
// with the labels that it is described with.
func parsePage(t testing.TB, text string) figures {
	t.Helper()
	p, rest := figures{}, strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	next := func(begins string) bool { return len(rest) > 0 && strings.HasPrefix(rest[0], begins) }
	for _, m := range metrics.All() {
		for _, want := range []string{"# HELP " + m.Name + " " + m.Help, "# TYPE " + m.Name + " " + string(m.Kind)} {
			if len(rest) == 0 || rest[0] != want {
				t.Fatalf("%q is missing before %q", want, rest[:min(1, len(rest))])
			}
			rest = rest[1:]
		}
		for ; len(rest) > 0 && !next("# "); rest = rest[1:] {
			found := sampleLine.FindStringSubmatch(rest[0])
			if found == nil {
				t.Fatalf("not a sample: %q", rest[0])
			}
			suffix, ofIt := strings.CutPrefix(found[1], m.Name)
			var labels []string
			for _, label := range regexp.MustCompile(`([a-z_]+)="`).FindAllStringSubmatch(found[2], -1) {
				labels = append(labels, label[1])
			}
			want := m.Labels
			if suffix == "_bucket" {
				want = append(slices.Clone(want), "le")
			}
			if !ofIt || (suffix != "") != (m.Kind == metrics.Histogram) || !slices.Equal(labels, want) || strings.HasSuffix(found[2], ",") {
				t.Fatalf("%q is no sample of %s with the labels %q", rest[0], m.Name, want)
			}
			key := strings.TrimSuffix(rest[0], " "+found[3])
			if _, twice := p[key]; twice {
				t.Fatalf("%s is there twice", key)
			}
			p[key], _ = strconv.ParseFloat(found[3], 64)
		}
	}
	if len(rest) > 0 {
		t.Fatalf("not in the table: %q", rest)
	}
	return p
}

// scrape reads /metrics as Prometheus does.
func (h *rig) scrape() figures {
	h.t.Helper()
	r, err := http.Get("http://" + h.http + metricsPath)
	if err != nil {
		h.t.Fatal(err)
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if kind := r.Header.Get("Content-Type"); err != nil || r.StatusCode != http.StatusOK || kind != "text/plain; version=0.0.4; charset=utf-8" {
		h.t.Fatal(r.Status, kind, err)
	}
	return parsePage(h.t, string(text))
}

// TestEachMetricIsThereAndMoves when what it counts happens.
func TestEachMetricIsThereAndMoves(t *testing.T) {
	logs := t.TempDir()
	config := strings.Replace(plain, "/nowhere", logs, 1) + "rules:\n  - {match: Dropped, drop: true}\n  - {match: Odd, when: payload.none > 1, drop: true}\nmax_payload: 2KiB\n"
	h := newRig(t, config)
	testkit.Eventually(t, "what was sent to see that it runs is delivered", func() bool {
		return h.scrape()[`event2mqtt_sink_waiting_events{sink="mqtt"}`] == 0
	})
	before := h.scrape()
	for _, m := range metrics.All() {
		name := m.Name
		if m.Kind == metrics.Histogram {
			name += "_count"
		}
		linuxOnly := strings.HasSuffix(m.Help, "on Linux only.") && runtime.GOOS != "linux"
		if !linuxOnly && !slices.ContainsFunc(keys(before), func(key string) bool { return key == name || strings.HasPrefix(key, name+"{") }) {
			t.Errorf("%s is not shown", m.Name)
		}
	}
	moves := func(do func(), want map[string]float64) {
		t.Helper()
		before := h.scrape()
		do()
		var now figures
		for key, by := range want {
			testkit.Eventually(t, fmt.Sprintf("%s moves by %v", key, by), func() bool {
				now = h.scrape()
				return now[key]-before[key] == by
			})
		}
	}
	moves(func() { h.send(`{"event":"E"}`); h.send(`{"event":"Dropped"}`); h.send(`{"event":"Odd"}`) }, map[string]float64{
		`event2mqtt_source_events_total{source="hooks"}`:                  3,
		`event2mqtt_webhook_requests_total{source="hooks",status="202"}`:  3,
		`event2mqtt_rule_dropped_total{rule="0"}`:                         1,
		`event2mqtt_rule_failures_total{rule="1"}`:                        1,
		`event2mqtt_journal_events_total`:                                 2,
		`event2mqtt_sink_delivered_total{sink="mqtt"}`:                    2,
		`event2mqtt_source_refused_total{source="hooks",reason="failed"}`: 0,
	})
	synced := "event2mqtt_journal_sync_duration_seconds_count"
	if now := h.scrape(); now[synced] < before[synced]+2 || now[synced] != now[`event2mqtt_journal_sync_duration_seconds_bucket{le="+Inf"}`] {
		t.Errorf("%v syncs, then %v", before[synced], now[synced]) // a source's positions are synced, too
	}
	moves(func() {
		r, err := http.Post("http://"+h.http+"/hooks/hooks", "application/json", strings.NewReader(`{"event":"E","p":"`+strings.Repeat("x", 3000)+`"}`))
		if err != nil {
			t.Fatal(err)
		}
		_ = r.Body.Close()
	}, map[string]float64{`event2mqtt_source_refused_total{source="hooks",reason="too_large"}`: 1, `event2mqtt_http_responses_total{code="413"}`: 1})
	moves(func() {
		if err := os.WriteFile(filepath.Join(logs, "a.log"), []byte("{\"event\":\"E\"}\nno end"), 0o600); err != nil {
			t.Fatal(err)
		}
	}, map[string]float64{`event2mqtt_tail_files{source="log"}`: 1, `event2mqtt_source_events_total{source="log"}`: 1, `event2mqtt_tail_behind_bytes{source="log"}`: 6})
	moves(func() {
		f, err := os.OpenFile(filepath.Join(logs, "a.log"), os.O_APPEND|os.O_WRONLY, 0)
		if err == nil {
			_, err = f.WriteString("\n")
			_ = f.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}, map[string]float64{`event2mqtt_tail_lines_skipped_total{source="log"}`: 1, `event2mqtt_tail_behind_bytes{source="log"}`: -6})
	var c *mqttest.Client
	moves(func() { c = h.follow() }, map[string]float64{"event2mqtt_broker_clients": 1, "event2mqtt_broker_sessions": 1, "event2mqtt_broker_subscriptions": 1, "event2mqtt_broker_connections_total": 1})
	moves(func() { h.send(`{"event":"Sent"}`) }, map[string]float64{"event2mqtt_broker_messages_sent_total": 1})
	moves(func() { _ = c.Close() }, map[string]float64{"event2mqtt_broker_clients": -1})
	moves(func() { h.reload(config + "nonsense: 1\n") }, map[string]float64{`event2mqtt_config_reloads_total{result="failed"}`: 1, `event2mqtt_config_last_reload_successful`: -1})
	moves(func() { h.reload(config + "log: {level: warn}\n") }, map[string]float64{`event2mqtt_config_reloads_total{result="ok"}`: 1, `event2mqtt_config_last_reload_successful`: 1})
	now := h.scrape()
	for key, want := range map[string]float64{`event2mqtt_component_up{kind="source",name="hooks"}`: 1, `event2mqtt_sink_connections_total{sink="mqtt"}`: 1, `event2mqtt_source_states{source="bridge"}`: 3} {
		if now[key] != want {
			t.Errorf("%s is %v", key, now[key])
		}
	}
}

func keys(p figures) (all []string) {
	for key := range p {
		all = append(all, key)
	}
	return all
}

// TestASourceThatIsRemovedHasNoMetrics, and one that is replaced goes on counting.
func TestASourceThatIsRemovedHasNoMetrics(t *testing.T) {
	h := newRig(t, plain)
	h.send(`{"event":"E"}`)
	before := h.scrape()[`event2mqtt_source_events_total{source="hooks"}`]
	h.reload(strings.Replace(plain, "hooks, type: webhook", "hooks, type: webhook, max_body: 5KiB", 1))
	if got := h.scrape()[`event2mqtt_source_events_total{source="hooks"}`]; got != before || got == 0 {
		t.Errorf("counted %v, then %v", before, got)
	}
	h.reload("http: {listen: HTTP}\nbroker: {listen: MQTT}\nsources: [{name: other, type: webhook}]\n")
	h.replaced.Wait()
	for _, key := range keys(h.scrape()) {
		if strings.Contains(key, `"hooks"`) {
			t.Errorf("%s is left", key)
		}
	}
}

// TestThePageOf500SourcesIsSmall, and depends on no name that an event has.
func TestThePageOf500SourcesIsSmall(t *testing.T) {
	h := newRig(t, manySources())
	before := 0
	testkit.Eventually(t, "each source has told whether it is available", func() bool {
		p := h.scrape()
		told := 0
		for sample := range p {
			if strings.HasPrefix(sample, "event2mqtt_source_states{") {
				told++
			}
		}
		before = len(p)
		return told > 500
	})
	for i := range 50 {
		h.send(fmt.Sprintf(`{"event":"E%d"}`, i))
	}
	var text strings.Builder
	n, err := h.measure().WriteTo(&text)
	if now := len(parsePage(t, text.String())); err != nil || n > 1<<20 || now > before+len(reasons) {
		t.Errorf("%d bytes; %d samples, then %d; %v", n, before, now, err)
	}
}

func manySources() string {
	var text strings.Builder
	text.WriteString("http: {listen: HTTP}\nbroker: {listen: MQTT}\nsources:\n  - {name: hooks, type: webhook}\n")
	for i := range 500 {
		fmt.Fprintf(&text, "  - {name: source%d, type: webhook}\n", i)
	}
	return text.String()
}

// BenchmarkMetricsOf500Sources is a look at /metrics without HTTP.
func BenchmarkMetricsOf500Sources(b *testing.B) {
	var all []*component
	var counts counts
	for i := range 500 {
		all = append(all, &component{name: fmt.Sprintf("source%d", i), part: answers{202: 7, 400: 1}})
	}
	for b.Loop() {
		p := &metrics.Page{}
		for _, c := range all {
			c.measureSource(p, counts.intake(c.name))
		}
		if _, err := p.WriteTo(io.Discard); err != nil {
			b.Fatal(err)
		}
	}
}

type answers map[int]uint64

func (a answers) Answers() map[int]uint64 { return a }
