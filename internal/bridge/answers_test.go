package bridge

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"event2mqtt/internal/metrics"
)

// TestMetricsCountTheAnswersOfWebhooks by source and status.
func TestMetricsCountTheAnswersOfWebhooks(t *testing.T) {
	h := newRig(t, "http: {listen: \"HTTP\"}\nbroker: {listen: \"MQTT\"}\nsources: [{name: hooks, type: webhook}, {name: counted, type: webhook}]\n")
	for _, body := range []string{`{"event":"E"}`, `{"event":"E"}`, `{}`} {
		r, err := http.Post("http://"+h.http+"/hooks/counted", "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
	}
	r, err := http.Get("http://" + h.http + metricsPath)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	text, _ := io.ReadAll(r.Body)
	for _, want := range []string{`event2mqtt_webhook_requests_total{source="counted",status="202"} 2`, `event2mqtt_webhook_requests_total{source="counted",status="400"} 1`} {
		if !strings.Contains(string(text), want+"\n") {
			t.Errorf("%s is not in\n%s", want, text)
		}
	}
}

// TestMetricsCountUnreadTimes of each source.
func TestMetricsCountUnreadTimes(t *testing.T) {
	h := newRig(t, "http: {listen: \"HTTP\"}\nbroker: {listen: \"MQTT\"}\nsources: [{name: hooks, type: webhook}, {name: timed, type: webhook, time_key: at}]\n")
	for _, body := range []string{`{"event":"E","at":"soon"}`, `{"event":"E","at":"later"}`, `{"event":"E","at":1700000000}`} {
		r, err := http.Post("http://"+h.http+"/hooks/timed", "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
	}
	r, err := http.Get("http://" + h.http + metricsPath)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	text, _ := io.ReadAll(r.Body)
	for _, want := range []string{`event2mqtt_source_unread_times_total{source="hooks"} 0`, `event2mqtt_source_unread_times_total{source="timed"} 2`, "# TYPE event2mqtt_tail_lines_skipped_total counter"} {
		if !strings.Contains(string(text), want+"\n") {
			t.Errorf("%s is not in\n%s", want, text)
		}
	}
}

// TestMetricsCountSkippedLines of a source that skips lines.
func TestMetricsCountSkippedLines(t *testing.T) {
	var p metrics.Page
	(&component{name: "log", part: skips(3)}).measureSource(&p, &intake{})
	(&component{name: "hooks"}).measureSource(&p, &intake{})
	var text strings.Builder
	_, _ = p.WriteTo(&text)
	if want := `event2mqtt_tail_lines_skipped_total{source="log"} 3` + "\n#"; !strings.Contains(text.String(), want) {
		t.Errorf("%s", text.String())
	}
}

type skips uint64

func (s skips) Skipped() uint64 { return uint64(s) }
