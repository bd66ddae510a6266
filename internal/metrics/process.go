package metrics

import (
	"runtime"
	"runtime/metrics"
	"time"
)

// AddProcess adds what the runtime and the system tell of the process, which
// began to run at started.
func (p *Page) AddProcess(started time.Time) {
	p.Add(Goroutines, float64(runtime.NumGoroutine()))
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	if sample[0].Value.Kind() == metrics.KindUint64 {
		p.Add(HeapBytes, float64(sample[0].Value.Uint64()))
	}
	p.Add(Started, float64(started.UnixMilli())/1000)
	p.addSystem()
}
