package file

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

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

func TestLines(t *testing.T) {
	e := &journal.Entry{Seq: 7, Event: event.Event{
		Name: "Print\nDone", Source: "octo\u2028", Time: time.Date(2026, 3, 1, 12, 0, 0, 5e6, time.FixedZone("", 3600)),
		Payload: []byte("{\"_event\":\"Print\",\n \"name\":\"a\\n\\\"b\", \"n\":1.50, \"o\":{\"x\":[1,\r\n2]}, \"z\":null, \"e\":\"\"}"),
	}}
	for text, want := range map[string]string{
		"{payload}":                                 `{"_event":"Print","name":"a\n\"b","n":1.50,"o":{"x":[1,2]},"z":null,"e":""}`,
		"{time} {source} {event}":                   "2026-03-01T11:00:00.005Z octo  Print Done",
		"{event|snake}: {payload.name}":             `print _done: a "b`,
		"{payload.n}, {payload.o}, {payload.o.x.1}": `1.50, {"x":[1,2]}, 2`,
		"{payload.none}|{payload.none|json}":        "unknown|null",
		"{payload.z}|{payload.z|json}":              "null|null",
		"[{payload.e}] [{payload.e|json}]":          `[] [""]`,
		`{"id":{id|json},"n":{payload.n|json},"who":{source|json},"name":{payload.name|json},"all":{payload}}`: `{"id":"id-7","n":1.50,"who":"octo\u2028","name":"a\n\"b","all":{"_event":"Print","name":"a\n\"b","n":1.50,"o":{"x":[1,2]},"z":null,"e":""}}`,
		"{payload.name|lower|json}": `"a\n\"b"`, "} {{event|lower}}": "} {print done}",
	} {
		tpl, err := parse(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		got, ok := tpl.appendLine(nil, e, "id-7", 1000)
		if string(got) != want+"\n" || !ok {
			t.Errorf("%s:\n got %q\nwant %q", text, got, want)
		}
		if begins := tpl.begins(); !strings.HasPrefix(want, strings.TrimSuffix(begins, ":")) {
			t.Errorf("%s does not begin with %q", text, begins)
		}
		if got, ok := tpl.appendLine([]byte("before"), e, "id-7", int64(len(want))); ok || string(got) != "before" {
			t.Errorf("%s: a line of %d bytes is taken where %d may be", text, len(want)+1, len(want))
		}
	}
	for text, want := range map[string]string{
		"": "is empty", "  ": "is empty", "x": "has no placeholder", "{payload": "no closing brace", "{evnt}": "no placeholder {evnt}", "{event|up}": `no filter "up"`,
		"{payload|lower}":                 "takes no filter",
		"{evnt} {event|up|json|down} {id": `{evnt}; there are {payload}, {payload.KEY}, {event}, {source}, {time} and {id}; {event|up|json|down}: there is no filter "up", "down"; there are lower, snake and json; "{id" has no closing brace`, "{payload.a..b}": "empty step", "{event}\n": "one line", "{event}\xff": "UTF-8",
		strings.Repeat("{id}", 65): "at most 64", strings.Repeat("x", 4097): "at most 4096",
	} {
		if _, err := parse(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: %v; want %s", text, err, want)
		}
	}
}
