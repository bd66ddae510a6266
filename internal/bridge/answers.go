package bridge

import (
	"fmt"
	"io"
	"maps"
	"slices"
)

// answering is a source that counts its answers by HTTP status.
type answering interface{ Answers() map[int]uint64 }

// writeAnswers writes these counts in Prometheus' text format.
func (b *Bridge) writeAnswers(w io.Writer) {
	const name = "event2mqtt_webhook_requests_total"
	_, _ = fmt.Fprintf(w, "# HELP %[1]s Requests to webhooks, by the status they were answered with.\n# TYPE %[1]s counter\n", name)
	for _, c := range b.parts() {
		source, ok := c.part.(answering)
		if !ok {
			continue
		}
		answers := source.Answers()
		for _, status := range slices.Sorted(maps.Keys(answers)) {
			_, _ = fmt.Fprintf(w, "%s{source=%q,status=\"%d\"} %d\n", name, c.name, status, answers[status])
		}
	}
}

// A source that reads times, and one that skips lines which make no event.
type (
	timing   interface{ UnreadTimes() uint64 }
	skipping interface{ Skipped() uint64 }
)

// writeSourceCounts writes what sources could not read, in Prometheus' text
// format.
func (b *Bridge) writeSourceCounts(w io.Writer) {
	parts := b.parts()
	for _, m := range []struct {
		name, help string
		value      func(part any) (n uint64, ok bool)
	}{
		{"event2mqtt_source_unread_times_total", "Times that could not be read; their events got the time of their arrival.", func(part any) (uint64, bool) {
			s, ok := part.(timing)
			if !ok {
				return 0, false
			}
			return s.UnreadTimes(), true
		}},
		{"event2mqtt_tail_lines_skipped_total", "Lines that made no event; the log says why.", func(part any) (uint64, bool) {
			s, ok := part.(skipping)
			if !ok {
				return 0, false
			}
			return s.Skipped(), true
		}},
	} {
		_, _ = fmt.Fprintf(w, "# HELP %[1]s %[2]s\n# TYPE %[1]s counter\n", m.name, m.help)
		for _, c := range parts {
			if n, ok := m.value(c.part); ok && c.cursor == nil {
				_, _ = fmt.Fprintf(w, "%s{source=%q} %d\n", m.name, c.name, n)
			}
		}
	}
}
