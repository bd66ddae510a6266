package bridge

import (
	"io"
	"net/http"
	"testing"

	"event2mqtt/internal/event"
)

// BenchmarkStream is the way of one event from its source to its subscribers,
// while nobody looks and while a page does.
func BenchmarkStream(b *testing.B) {
	for name, streams := range map[string]int{"nobody looks": 0, "one stream": 1} {
		b.Run(name, func(b *testing.B) {
			h := newRig(b, "journal: {sync: never, when_full: drop_oldest}"+plain)
			for range streams {
				r, _ := http.NewRequestWithContext(b.Context(), http.MethodGet, "http://"+h.http+"/api/v1/stream", nil)
				r.Header.Set("Accept", "text/event-stream")
				answer, err := http.DefaultClient.Do(r)
				if err != nil {
					b.Fatal(err)
				}
				defer answer.Body.Close()
				go func() { _, _ = io.Copy(io.Discard, answer.Body) }()
			}
			out := output{b: h.Bridge, source: "hooks"}
			payload := []byte(`{"progress":77,"file":"bracket_v7_0.2mm_PETG_MK4.gcode","time":1234}`)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := out.Emit(b.Context(), event.Event{Name: "Progress", Payload: payload}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
