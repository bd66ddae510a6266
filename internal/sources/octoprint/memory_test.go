package octoprint_test

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// TestMemoryIsFlat plays the recording again and again, as long as an hour would
// be, and looks at what is kept.
func TestMemoryIsFlat(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	s, out := newServer(t), newOutput()
	run(t, options(s.url()), out)
	p := s.next()
	all := frames(t, "transcript-subscribed.jsonl")
	all = all[:slices.IndexFunc(all[1:], func(f string) bool { return strings.HasPrefix(f, `{"history"`) })+1]
	kept := func() uint64 {
		out.set(func() { out.events, out.states = nil, nil })
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	round := func(n int) {
		for _, frame := range all {
			p.send(strings.Replace(frame, `{"history"`, `{"current"`, 1))
		}
		name := fmt.Sprintf("Round%d", n)
		p.send(happened(name, "null"))
		until(t, "the round was worked on", func() bool { return slices.Contains(out.names(), name) })
	}
	for n := range 5 {
		round(n)
	}
	before := kept()
	for n := range 50 { // of 70 s each
		round(100 + n)
		out.set(func() { out.events, out.states = nil, nil })
	}
	if after := kept(); after > before+1<<20 {
		t.Errorf("%d bytes are kept, %d more than an hour before", after, after-before)
	}
}
