package file

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/rs/zerolog"

	"event2mqtt/internal/event"
	"event2mqtt/internal/health"
	"event2mqtt/internal/journal"
	"event2mqtt/internal/sinks"
)

// TestLinesInAFileWithoutANameAreNotAcknowledged: somebody removed it between
// the write and the sync.
func TestLinesInAFileWithoutANameAreNotAcknowledged(t *testing.T) {
	o := &output{path: filepath.Join(t.TempDir(), "f"), limit: 100, sync: (*os.File).Sync}
	if _, err := o.open(); err != nil {
		t.Fatal(err)
	}
	defer o.close()
	err := errors.Join(o.write([]byte("a\n")), o.commit(), o.write([]byte("b\n")), os.Remove(o.path))
	if err != nil {
		t.Fatal(err)
	}
	if err := o.commit(); !errors.Is(err, errRemoved) {
		t.Errorf("got %v", err)
	}
}

// TestNothingIsAcknowledgedBeforeItIsSynced: while syncs fail the cursor stays,
// and what was written is taken back, so that it does not come twice.
func TestNothingIsAcknowledgedBeforeItIsSynced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	j, err := journal.Open(journal.Options{FS: journal.DirFS(t.TempDir()), Sync: journal.SyncNever, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	c, err := j.Cursor("log")
	if err != nil {
		t.Fatal(err)
	}
	sink, err := (&Options{Path: path, Template: "{event}"}).Build(sinks.Deps{ID: j.ID, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		if _, err := j.Append(t.Context(), event.Event{Name: fmt.Sprint("E", i), Payload: []byte("{}")}); err != nil {
			t.Fatal(err)
		}
	}
	written, works := make(chan []byte), make(chan struct{})
	sink.(*Sink).out.sync = func(f *os.File) error {
		select {
		case <-works:
			return f.Sync()
		default:
		}
		text, _ := os.ReadFile(path)
		written <- text
		return errors.New("input/output error")
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { _ = sink.Run(ctx, c, nil, func(health.Status) {}) })
	for range 2 {
		if n := bytes.Count(<-written, []byte("\n")); n != 50 || c.Lag() != 50 {
			t.Errorf("%d lines are written and not synced, and %d events wait", n, c.Lag())
		}
	}
	close(works)
	if err := c.Delivered(t.Context(), 50); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(path); err != nil || bytes.Count(text, []byte("\n")) != 50 {
		t.Errorf("%s (%v)", text, err)
	}
}
