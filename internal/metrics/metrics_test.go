package metrics_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"event2mqtt/internal/metrics"
)

var update = flag.Bool("update", false, "write docs/metrics.md and testdata/metrics.txt anew")

// TestNamesAreKept: dashboards and alerts are built on them, so that each
// change is seen in the golden file, and docs/metrics.md tells the same.
func TestNamesAreKept(t *testing.T) {
	var names bytes.Buffer
	for _, m := range metrics.All() {
		names.WriteString(m.Name + " " + string(m.Kind) + " " + strings.Join(m.Labels, ",") + "\n")
	}
	var reference bytes.Buffer
	metrics.WriteReference(&reference)
	for path, want := range map[string][]byte{filepath.Join("testdata", "metrics.txt"): names.Bytes(), filepath.Join("..", "..", "docs", "metrics.md"): reference.Bytes()} {
		if *update {
			if err := os.WriteFile(path, want, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not as the table says (%v); run: go test ./internal/metrics -update", path, err)
		}
	}
}

// TestNamesFollowTheConventions of prometheus.io/docs/practices/naming: base
// units, and _total for counters alone.
func TestNamesFollowTheConventions(t *testing.T) {
	valid, seen := regexp.MustCompile(`^(event2mqtt|go|process)(_[a-z0-9]+)+$`), map[string]bool{}
	for _, m := range metrics.All() {
		if !valid.MatchString(m.Name) || seen[m.Name] || strings.HasSuffix(m.Name, "_total") != (m.Kind == metrics.Counter) || !strings.HasSuffix(m.Help, ".") || strings.ContainsAny(m.Help, "\\\n") {
			t.Errorf("%+v", m)
		}
		for _, unit := range []string{"_ms", "_milliseconds", "_minutes", "_kb", "_mb", "_percent"} {
			if strings.Contains(m.Name+"_", unit+"_") {
				t.Errorf("%s is not in base units", m.Name)
			}
		}
		for _, label := range m.Labels {
			if label == "le" || label == "event" || label == "client" || label == "topic" {
				t.Errorf("%s: the values of the label %s are not bounded", m.Name, label)
			}
		}
		seen[m.Name] = true
	}
}

// TestLabelsAreEscapedAndBounded, whatever they hold.
func TestLabelsAreEscapedAndBounded(t *testing.T) {
	var p metrics.Page
	p.Add(metrics.SourceEvents, 1, "a\"b\\c\nd\xffé")
	p.Add(metrics.SourceEvents, 2e15, strings.Repeat("x", 1000))
	text := written(t, &p)
	for _, want := range []string{"{source=\"a\\\"b\\\\c\\nd\uFFFDé\"} 1\n", `{source="` + strings.Repeat("x", 256) + `"} 2000000000000000` + "\n"} {
		if !strings.Contains(text, "\nevent2mqtt_source_events_total"+want) {
			t.Errorf("want %s in\n%s", want, text)
		}
	}
}

// TestADistributionIsCumulative, as Prometheus wants it.
func TestADistributionIsCumulative(t *testing.T) {
	var d metrics.Distribution
	for _, took := range []time.Duration{time.Millisecond, 1100 * time.Microsecond, time.Minute} {
		d.Observe(took)
	}
	var p metrics.Page
	p.AddHistogram(metrics.JournalSync, &d)
	text := written(t, &p)
	for _, want := range []string{`_bucket{le="0.0005"} 0`, `_bucket{le="0.001"} 1`, `_bucket{le="0.0025"} 2`, `_bucket{le="10"} 2`, `_bucket{le="+Inf"} 3`, "_sum 60.0021", "_count 3"} {
		if !strings.Contains(text, "\nevent2mqtt_journal_sync_duration_seconds"+want+"\n") {
			t.Errorf("want %s in\n%s", want, text)
		}
	}
}

func written(t *testing.T, p *metrics.Page) string {
	t.Helper()
	var text strings.Builder
	if _, err := p.WriteTo(&text); err != nil {
		t.Fatal(err)
	}
	return text.String()
}
