package bridge

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/rs/zerolog"

	"event2mqtt/internal/event"
	"event2mqtt/internal/journal"
	"event2mqtt/internal/trace"
)

// BenchmarkEmit is the way of one event from its source into the journal, with
// a disk that costs nothing, while nobody looks at the trace and while somebody
// does.
func BenchmarkEmit(b *testing.B) {
	for name, rules := range map[string]string{
		"without rules": "",
		"with rules":    "rules: [{match: Client*, drop: true}, {match: Progress, add: {room: cellar}}]\n",
		"dropped":       "rules: [{match: Progress, drop: true}]\n",
	} {
		for _, watched := range []bool{false, true} {
			b.Run(fmt.Sprintf("%s, watched %t", name, watched), func(b *testing.B) {
				o := emitter(b, "journal: {sync: never, when_full: drop_oldest, max_size: 16MiB}\nmax_payload: 1MiB\n"+rules)
				if watched {
					defer o.b.trace.Watch(trace.Filter{}).Close()
				}
				payload := []byte(`{"progress":77,"file":"a.gcode","time":1234}`)
				b.ReportAllocs()
				for b.Loop() {
					if _, err := o.Emit(b.Context(), event.Event{Name: "Progress", Payload: payload}); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// emitter is what a source of a configuration delivers to. Nothing else runs.
func emitter(t testing.TB, yaml string) output {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	plan, err := Load(file, nil, dir)
	if err != nil {
		t.Fatal(err)
	}
	b := New(Options{Plan: plan, StateDir: dir, Log: zerolog.Nop()})
	if err := b.openJournal(b.opt.Plan.Journal); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.journal.Close(); err != nil {
			t.Error(fmt.Errorf("close the journal: %w", err))
		}
		b.unlockJournal()
	})
	b.pipeline.Store(b.newPipeline(b.opt.Plan))
	b.required.Store(&[]*journal.Cursor{})
	return output{b: b, source: "hooks"}
}
