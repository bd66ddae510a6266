package bridge

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// answering is a source that counts its answers by HTTP status.
type answering interface{ Answers() map[int]uint64 }

// writeAnswers writes these counts in Prometheus' text format.
func (b *Bridge) writeAnswers(w io.Writer) {
	const name = "event2mqtt_webhook_requests_total"
	_, _ = fmt.Fprintf(w, "# HELP %[1]s Requests to webhooks, by the status they were answered with.\n# TYPE %[1]s counter\n", name)
	b.mu.RLock()
	parts := slices.Clone(b.now.sources)
	b.mu.RUnlock()
	for _, c := range parts {
		source, ok := c.part.(answering)
		if !ok {
			continue
		}
		answers := source.Answers()
		for _, status := range slices.Sorted(maps.Keys(answers)) {
			_, _ = fmt.Fprintf(w, "%s{source=%q,status=\"%d\"} %d\n", name, strings.TrimPrefix(c.title, "source "), status, answers[status])
		}
	}
}
