package lines_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"event2mqtt/internal/decode"
	"event2mqtt/internal/event"
	"event2mqtt/internal/sources"
	"event2mqtt/internal/sources/tail/lines"
)

const benchLine = `{"event":"PrintProgress","file":"benchy.gcode","progress":42.5,"temps":{"bed":60.1,"tool0":214.9},"at":"2023-11-25T10:00:00Z"}` + "\n"

// BenchmarkJSONLines reads lines of one object each. "least" is what no reader
// of JSON lines can leave out: finding the end, the check, the name, the time.
func BenchmarkJSONLines(b *testing.B) {
	data := bytes.Repeat([]byte(benchLine), 512)
	b.Run("least", func(b *testing.B) {
		naming := sources.Naming{Keys: []string{"_event", "event", "type", "topic"}}
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			for rest := data; len(rest) > 0; {
				n := bytes.IndexByte(rest, '\n') + 1
				payload := bytes.TrimSpace(rest[:n])
				if event.Check(payload) != nil || naming.Name("", payload) == "" {
					b.Fatal("no event")
				}
				_ = time.Now()
				rest = rest[n:]
			}
		}
	})
	r := reader(b, nil)
	b.Run("reader", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			for rest := data; len(rest) > 0; {
				n := r.Split(decode.Charset{}, rest, false)
				if events, why := r.Events(decode.Charset{}, rest[:n], nil, false); len(events) != 1 {
					b.Fatal(why)
				}
				rest = rest[n:]
			}
		}
	})
}

// BenchmarkHostileSplit splits what makes each line look like the beginning of
// a long entry.
func BenchmarkHostileSplit(b *testing.B) {
	for name, line := range map[string]string{"open arrays": "[\n", "arrays of objects": "[\n{},\n", "open objects": "{\n", "deep": " [\n", "object of lines": "{\n \"a\":\n"} {
		data := []byte(strings.Repeat(line, 1<<20/len(line)))
		r := reader(b, func(c *lines.Config) { c.MaxLine = 16 << 20 })
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				for rest := data; len(rest) > 0; {
					rest = rest[r.Split(decode.Charset{}, rest, true):]
				}
			}
		})
	}
}
