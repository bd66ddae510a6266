package main

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"sync"
	"time"
)

// This file keeps the process small while something large passes through it.
// Left alone, the collector lets the heap double before it runs: three copies
// of 8 MiB that follow each other make 100 MiB.

const (
	// modest is how much memory the runtime may have before its collector
	// works harder, in bytes. The program's own code is not in it: of that up
	// to 15 MiB are in memory.
	modest = 44 << 20
	// watchEvery and watched say how long the heap must have been larger for
	// that to be a working set, which a lower limit would only have the
	// collector go through again and again. It is looked at so long after a
	// collection, for those that follow at once.
	watchEvery = 250 * time.Millisecond
	watched    = 8
	// restless is how many collections in one interval show that the limit is
	// too low. Large bodies one behind another cause 10 to 25.
	restless = 60
	// settled is how long nothing must have been collected for the program to
	// be at rest. It gives back once what it has no use for then, if that is
	// more than spare, in bytes: less costs more than it saves, as a collection
	// brings code into memory that an idle program has no need of. That goes, too.
	settled = 10 * time.Second
	spare   = 2 << 20
)

// boundMemory gives the process a soft limit of memory, which follows its
// working set, until stop is called. A limit of GOMEMLIMIT stays.
func boundMemory() (stop func()) {
	if os.Getenv("GOMEMLIMIT") != "" {
		return func() {}
	}
	before := debug.SetMemoryLimit(modest)
	end := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		collected := make(chan struct{}, 1)
		tellOfCollections(collected, end)
		rest := time.NewTimer(settled)
		defer rest.Stop()
		var w workingSet
		var own uint64 // the collection that this goroutine has asked for
		r := newUsageReader()
		for limit := int64(modest); ; {
			select { // an idle program is woken up once, when it comes to rest
			case <-end:
				return
			case <-rest.C:
				if r.read().idle > spare {
					debug.FreeOSMemory()
					own = r.read().collections
				}
				giveBackCode()
				continue
			case <-collected:
			}
			if r.read().collections == own {
				continue
			}
			rest.Reset(watchEvery)
			select {
			case <-end:
				return
			case <-rest.C:
			}
			rest.Reset(settled)
			if next := w.limit(r.read()); next != limit {
				limit = next
				debug.SetMemoryLimit(limit)
			}
		}
	})
	return func() {
		close(end)
		wg.Wait()
		debug.SetMemoryLimit(before)
	}
}

// tellOfCollections sends after each collection, if there is room, until end is
// closed.
func tellOfCollections(collected chan<- struct{}, end <-chan struct{}) {
	garbage := new(*byte) // holds a pointer, or it would share its memory with others
	runtime.AddCleanup(garbage, func(struct{}) {
		select {
		case <-end:
			return
		default:
		}
		select {
		case collected <- struct{}{}:
		default:
		}
		tellOfCollections(collected, end)
	}, struct{}{})
}

// usage is what the runtime says of its memory, in bytes.
type usage struct {
	collections uint64 // since the start
	live        uint64 // of the heap, as the newest collection found it
	idle        uint64 // of the heap, what is neither live nor given back
	other       uint64 // what counts and is no heap, such as stacks
}

// workingSet is how much of the heap is there to stay.
type workingSet struct {
	live        [watched]uint64 // after as many collections, one of each interval
	next        int
	collections uint64
}

// limit returns the soft limit for what is in use: the least that was live in
// the intervals watched, and half as much again, so that the collector never
// has to run for less than that. An interval without a collection tells
// nothing; one with very many tells enough not to wait for more.
func (w *workingSet) limit(u usage) int64 {
	n := u.collections - w.collections
	w.collections = u.collections
	switch {
	case n > restless:
		for i := range w.live {
			w.live[i] = u.live
		}
	case n > 0:
		w.live[w.next] = u.live
		w.next = (w.next + 1) % watched
	}
	stays := slices.Min(w.live[:])
	if stays+stays/2+u.other <= modest {
		return modest
	}
	const step = 1 << 20 // so that it is not set anew for every few bytes
	return int64(stays+stays/2+u.other+step-1) / step * step
}

// usageReader reads usage; it is made once, for its samples.
type usageReader []metrics.Sample

func newUsageReader() usageReader {
	return usageReader{
		{Name: "/gc/cycles/total:gc-cycles"}, {Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/total:bytes"},
		{Name: "/memory/classes/heap/released:bytes"}, {Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/unused:bytes"}, {Name: "/memory/classes/heap/free:bytes"},
	}
}

func (r usageReader) read() usage {
	metrics.Read(r)
	u := usage{collections: r[0].Value.Uint64(), live: r[1].Value.Uint64(), other: r[2].Value.Uint64()}
	for _, heap := range r[3:] {
		u.other -= heap.Value.Uint64()
	}
	for _, heap := range r[4:] { // all of it but what is given back
		u.idle += heap.Value.Uint64()
	}
	u.idle -= min(u.idle, u.live)
	return u
}
