package main

import (
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

const mib = 1 << 20

// TestTheLimitFollowsWhatStays: not what comes and goes, or the limit would be
// of no use, but what is there for two seconds, or the collector would find no rest.
func TestTheLimitFollowsWhatStays(t *testing.T) {
	for name, c := range map[string]struct {
		live  []uint64 // MiB, one for each interval; 0 is one without a collection
		other uint64   // MiB
		want  int64    // MiB
	}{
		"little":                          {[]uint64{5, 5, 5, 5, 5, 5, 5, 5, 5}, 4, 44},
		"large bodies come and go":        {[]uint64{42, 40, 41, 42, 40, 43, 42, 5, 42, 40, 43, 41, 42, 40, 43}, 4, 44},
		"much stays":                      {[]uint64{100, 100, 100, 100, 100, 101, 102, 100}, 4, 154},
		"much is there, as yet no longer": {[]uint64{5, 100, 100, 100, 100, 100, 100, 100}, 4, 44},
		"much has gone":                   {[]uint64{100, 100, 100, 100, 100, 100, 100, 100, 10}, 4, 44},
		"much was there when it rested":   {[]uint64{100, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 4, 44},
		"many stacks":                     {[]uint64{20, 20, 20, 20, 20, 20, 20, 20}, 40, 70},
	} {
		var w workingSet
		var got int64
		u := usage{other: c.other * mib}
		for _, live := range c.live {
			if live > 0 {
				u.collections, u.live = u.collections+1, live*mib
			}
			got = w.limit(u)
		}
		if got != c.want*mib {
			t.Errorf("%s: the limit is %d MiB, want %d", name, got/mib, c.want)
		}
	}
}

// TestACollectorWithoutRestRaisesTheLimitAtOnce: it waits for nothing else then.
func TestACollectorWithoutRestRaisesTheLimitAtOnce(t *testing.T) {
	var w workingSet
	for i, c := range []struct{ collections, live, want uint64 }{
		{5, 5, 44}, {10, 100, 44}, {100, 100, 150}, {101, 100, 150}, {102, 10, 44}, {103, 100, 44},
	} {
		if got := w.limit(usage{collections: c.collections, live: c.live * mib}); got != int64(c.want*mib) {
			t.Errorf("interval %d: the limit is %d MiB, want %d", i, got/mib, c.want)
		}
	}
}

// TestALargeWorkingSetRaisesTheLimit of the real runtime above itself.
func TestALargeWorkingSetRaisesTheLimit(t *testing.T) {
	t.Setenv("GOMEMLIMIT", "")
	before := debug.SetMemoryLimit(-1)
	stop := boundMemory()
	if now := debug.SetMemoryLimit(-1); now != modest {
		t.Errorf("the limit is %d at the start, want %d", now, modest)
	}
	stays := make([]byte, 64*mib)
	deadline := time.Now().Add(time.Minute)
	for debug.SetMemoryLimit(-1) < 96*mib {
		if time.Now().After(deadline) {
			t.Fatal("the limit stays below what is in use")
		}
		runtime.GC()
		time.Sleep(watchEvery / 10) // between two looks at the limit
	}
	runtime.KeepAlive(stays)
	stop()
	if now := debug.SetMemoryLimit(-1); now != before {
		t.Errorf("the limit is %d afterwards, want %d", now, before)
	}
}

func TestALimitOfTheEnvironmentStays(t *testing.T) {
	t.Setenv("GOMEMLIMIT", "20MiB")
	before := debug.SetMemoryLimit(-1)
	defer boundMemory()()
	if now := debug.SetMemoryLimit(-1); now != before {
		t.Errorf("the limit is %d, want %d", now, before)
	}
}
