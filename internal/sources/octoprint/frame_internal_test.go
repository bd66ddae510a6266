package octoprint

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// FuzzDecode: whatever comes, decoding and translating it neither panics nor
// makes more of it than is allowed.
func FuzzDecode(f *testing.F) {
	for _, name := range []string{"transcript.jsonl", "transcript-subscribed.jsonl"} {
		file, err := os.Open("testdata/" + name)
		if err != nil {
			f.Fatal(err)
		}
		defer file.Close()
		lines := bufio.NewScanner(file)
		lines.Buffer(nil, 1<<20)
		for n := 0; lines.Scan(); n++ {
			var line struct{ Frame json.RawMessage }
			if json.Unmarshal(lines.Bytes(), &line) == nil && n%7 == 0 {
				f.Add([]byte(line.Frame))
			}
		}
	}
	f.Add([]byte(`{"slicingProgress":{"slicer":"cura","progress":1e308}}`))
	f.Add([]byte(`{"current":{"temps":[{"time":-1,"":{"actual":1},"a":{"actual":"x","target":1e400}}],"markings":[{"type":"print","time":1e300}]}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, compat := range []string{"", compatPlugin} {
			o := Type.Options().(*Options)
			o.Compat, o.Plugin.PrinterData, o.Plugin.MetadataKeys = compat, true, []string{"hash", "analysis.x"}
			tr := newTranslator(o, nil, asks{func(string, string) []byte { return b }, func() []byte { return b }, nil})
			now := time.Unix(1_700_000_000, 0)
			tr.begin("admin", true, now)
			for i := range 3 {
				frame, err := decode(b)
				if err != nil {
					return
				}
				if i == 1 && frame.Current != nil {
					frame.History, frame.Current = frame.Current, nil
				}
				now = now.Add(4 * time.Second)
				r := tr.frame(frame, now)
				more, _ := tr.tick(now)
				r.join(more)
				for _, e := range r.events {
					if e.Name == "" || len(e.Payload) > 0 && !json.Valid(e.Payload) {
						t.Errorf("%s: %s", e.Name, e.Payload)
					}
				}
				for _, st := range r.states {
					if len(st.Payload) > 0 && !json.Valid(st.Payload) && st.Key != "mqtt" && !bytes.HasPrefix([]byte(st.Key), []byte("metadata/")) {
						t.Errorf("%s: %s", st.Key, st.Payload)
					}
				}
				if len(tr.pos.stored().Value) > 16<<10 {
					t.Errorf("the position has %d bytes", len(tr.pos.stored().Value))
				}
			}
		}
	})
}

// TestAnEventKeepsNothingOfItsFrame: the journal has many in memory.
func TestAnEventKeepsNothingOfItsFrame(t *testing.T) {
	const size, count = 100 << 10, 50
	used := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := used()
	var kept []*happening
	for range count {
		f, err := decode([]byte(`{"event":{"type":"Alert","payload":{"a":1}},"other":"` + strings.Repeat("x", size) + `"}`))
		if err != nil {
			t.Fatal(err)
		}
		kept = append(kept, f.Event)
	}
	if after := used(); after > before+size*count/2 {
		t.Errorf("%d events keep %d bytes", count, after-before)
	}
	runtime.KeepAlive(kept)
}
