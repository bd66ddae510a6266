package bridge

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

// TestMetricsCountTheAnswersOfWebhooks by source and status.
func TestMetricsCountTheAnswersOfWebhooks(t *testing.T) {
	h := newHouse(t, "http: {listen: \"HTTP\"}\nbroker: {listen: \"MQTT\"}\nsources: [{name: hooks, type: webhook}, {name: counted, type: webhook}]\n")
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
