package metrics

import (
	"fmt"
	"io"
	"strings"
)

// WriteReference writes docs/metrics.md, in Markdown.
func WriteReference(w io.Writer) {
	_, _ = io.WriteString(w, introduction)
	for _, m := range table {
		labels := ""
		if len(m.Labels) > 0 {
			labels = "`" + strings.Join(m.Labels, "`, `") + "`"
		}
		_, _ = fmt.Fprintf(w, "| `%s` | %s | %s | %s |\n", m.Name, m.Kind, labels, m.Help)
	}
	_, _ = io.WriteString(w, "\nA counter begins at 0 when the program starts. What a source, a sink or the rules count themselves also begins anew when a reload\nreplaces them; `rate` and `increase` allow for that. While the program starts, metrics have no samples.\n")
}

const introduction = `# Metrics

This file is generated from the table in internal/metrics; change it there and run ` + "`go test ./internal/metrics -update`" + `.

event2mqtt shows its figures at ` + "`/metrics`" + ` of the HTTP server (` + "`http.listen`" + `) in Prometheus' text format. Let Prometheus, or whatever reads
that format, fetch them:

` + "```yaml" + `
scrape_configs:
  - job_name: event2mqtt
    static_configs:
      - targets: ["localhost:8127"]
` + "```" + `

If Prometheus runs on another machine, set ` + "`http.listen`" + ` to an address that it reaches, and ` + "`http.hosts`" + ` to the host's name. Some expressions
for Grafana and for alerts:

` + "```promql" + `
sum by (source) (rate(event2mqtt_source_events_total[5m]))    # events a second
event2mqtt_sink_oldest_waiting_seconds > 300                  # events are not delivered
event2mqtt_journal_failing == 1                               # events cannot be stored
increase(event2mqtt_source_refused_total[15m]) > 0            # events were refused
event2mqtt_component_up == 0                                  # a peer is away, or something has failed
histogram_quantile(0.99, rate(event2mqtt_journal_sync_duration_seconds_bucket[5m]))
` + "```" + `

Labels are names from the configuration, HTTP statuses, and the words below; a rule's label is its name, or else its number, from 0. Names of events and
clients are never labels, so the page is as large as the configuration.

| Name | Kind | Labels | Meaning |
|---|---|---|---|
`
