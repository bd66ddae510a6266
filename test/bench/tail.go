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
	ours := func(name, binary string) contender {
		return b.ourselves(name, binary, fmt.Sprintf("sources: [{name: log, type: tail, paths: [%q], start: beginning}]\n", file))
	}
	all := []contender{ours("ours", b.bridge), {name: "bare", start: func(m *process) (*process, error) { return b.startBare("tail", file, m.mqtt) }}}
	if b.before != "" {
		all = append(all, ours("before", b.before))
	}
	if b.limit != "" {
		all = append(all, contender{name: "limit", start: func(m *process) (*process, error) {
			p := &process{cmd: exec.Command(b.limit, "tail", "-file", file, "-broker", m.mqtt)}
			return p, b.start(p, "")
		}})
	}
	best := make([]tailResult, len(all))
	ratios := make([][]float64, len(all))
	for round := range tailRounds {
		m, err := b.startMosquitto()
		if err != nil {
			return err
		}
		first := 0.0
		for i, c := range all {
			r, err := measureTail(m.mqtt, func() (*process, error) { return c.start(m) })
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			if i == 0 {
				first = r.rate
			}
			if round == 0 || r.rate > best[i].rate {
				best[i] = r
			}
			ratios[i] = append(ratios[i], first/r.rate)
		}
		m.end()
	}
	b.add("tail, 256 B lines, QoS 1: lines/s", fmt.Sprintf("%.0f", best[0].rate), ">= 60000", beside(all, "%.0f", func(i int) float64 { return best[i].rate }))
	for i, c := range all[1:] {
		b.add("  ratio to "+c.name+", median", fmt.Sprintf("%.2f", median(ratios[i+1])), "", fmt.Sprintf("each round: %.2f", ratios[i+1]))
	}
	b.add("  CPU per line, us", fmt.Sprintf("%.1f", float64(best[0].cpu)/1e3), "<= 8", beside(all, "%.1f", func(i int) float64 { return float64(best[i].cpu) / 1e3 }))
	b.add("  peak RSS under load, MiB", mib(best[0].peak), "<= 40", beside(all, "%.1f", func(i int) float64 { return float64(best[i].peak) / (1 << 20) }))
	return nil
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
