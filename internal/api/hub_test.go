package api

import (
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/rs/zerolog"

	"event2mqtt/internal/journal"
	"event2mqtt/internal/trace"
)

// counted is a program that counts how often its state was taken.
type counted struct {
	Program
	states atomic.Int32
}

func (c *counted) State() State {
	c.states.Add(1)
	return State{}
}

// TestAStreamBeginsWithAStateToCompareWith: a stream writes its first state at
// once. A later change reaches it only if the hub compares with that state, or an
// older one.
func TestAStreamBeginsWithAStateToCompareWith(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // the hub's goroutine does not come in between
	j, err := journal.Open(journal.Options{FS: journal.DirFS(t.TempDir()), MaxSize: 1 << 20, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	program := &counted{}
	a := New(Options{Program: program, Journal: j, Trace: new(trace.Ring)})
	defer a.Close()
	place, _ := a.hub.attach(query{})
	taken := program.states.Load()
	place.leave()
	if taken == 0 {
		t.Error("no state was taken before the stream began")
	}
}
