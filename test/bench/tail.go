package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

const (
	lines      = 400_000
	tailRounds = 3
)

type tailResult struct {
	rate float64
	cpu  time.Duration
	peak int64
}

func (b *bench) tail() error {
	file := filepath.Join(b.dir, "bench.log")
	if err := writeLines(file); err != nil {
		return err
	}
	yaml := fmt.Sprintf("sources: [{name: log, type: tail, paths: [%q], start: beginning}]\n", file)
	all := append(b.both(yaml), contender{name: "bare", start: func(m *process) (*process, error) { return b.startBare("tail", file, m.mqtt) }})
	if b.before != "" {
		all = append(all, b.ourselves("before", b.before, "3.1.1", yaml))
	}
	if b.limit != "" {
		all = append(all, contender{name: "limit", start: func(m *process) (*process, error) {
			p := &process{cmd: exec.Command(b.limit, "tail", "-file", file, "-broker", m.mqtt)}
			return p, b.start(p, "")
		}})
	}
	all = b.named(all)
	best := make([]tailResult, len(all))
	rates := make([][]float64, len(all))
	for range tailRounds {
		m, err := b.startMosquitto()
		if err != nil {
			return err
		}
		for i, c := range all {
			r, err := measureTail(m.mqtt, func() (*process, error) { return c.start(m) })
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			best[i].better(&r, len(rates[i]) == 0)
			rates[i] = append(rates[i], r.rate)
		}
		m.end()
	}
	b.addBoth(all, figure{"tail, 256 B lines, QoS 1: lines/s", ">= 60000", "%.0f", func(i int) float64 { return best[i].rate }})
	b.addRounds(all, rates)
	b.addBoth(all, figure{"  CPU per line, us", "<= 8", "%.1f", func(i int) float64 { return float64(best[i].cpu) / 1e3 }})
	b.addBoth(all, figure{"  peak RSS under load, MiB", "<= 40", "%.1f", func(i int) float64 { return float64(best[i].peak) / (1 << 20) }})
	return nil
}

// better takes each figure that is better in another round: others use the
// machine as well. With first there was none before.
func (t *tailResult) better(r *tailResult, first bool) {
	if first {
		*t = *r
		return
	}
	t.rate, t.cpu, t.peak = max(t.rate, r.rate), min(t.cpu, r.cpu), max(t.peak, r.peak)
}

func writeLines(file string) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	for i := range lines {
		fmt.Fprintf(w, `{"event":"Bench","number":"%07d","padding":"%0*d"}`+"\n", i, payloadSize-52, 0)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return f.Close()
}

func measureTail(broker string, start func() (*process, error)) (tailResult, error) {
	var r tailResult
	count, err := newCounter(broker)
	if err != nil {
		return r, err
	}
	defer count.Close()
	p, err := start()
	if err != nil {
		return r, err
	}
	defer p.end()
	if err := count.until(1); err != nil {
		return r, err
	}
	began, cpu, first := time.Now(), p.cpu(), count.n.Load()
	if err := count.until(lines); err != nil {
		return r, err
	}
	took := time.Since(began)
	n := float64(lines - first)
	r.rate = n / took.Seconds()
	r.cpu = time.Duration(float64(p.cpu()-cpu) / n)
	r.peak = p.peak()
	return r, nil
}
