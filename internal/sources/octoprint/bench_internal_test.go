package octoprint

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"testing"
	"time"
)

// BenchmarkFrame is a snapshot, of which two come in a second.
func BenchmarkFrame(b *testing.B) {
	file, err := os.Open("testdata/transcript-subscribed.jsonl")
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	var frames [][]byte
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var line struct{ Frame json.RawMessage }
		if json.Unmarshal(lines.Bytes(), &line) == nil && bytes.HasPrefix(line.Frame, []byte(`{"current"`)) {
			frames = append(frames, line.Frame)
		}
	}
	t := newTranslator(Type.Options().(*Options), nil, asks{})
	now := time.Unix(1_700_000_000, 0)
	t.begin("admin", false, now)
	b.ReportAllocs()
	for i := range b.N {
		f, err := decode(frames[i%len(frames)])
		if err != nil {
			b.Fatal(err)
		}
		t.frame(f, now)
		t.tick(now)
	}
}
