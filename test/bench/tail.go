package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

const lines = 400_000

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
	var ours, bare tailResult
	for round := range 2 {
		m, err := b.startMosquitto()
		if err != nil {
			return err
		}
		r, err := measureTail(m.mqtt, func() (*process, error) {
			return b.startBridge(fmt.Sprintf("mqtt: {url: \"mqtt://%s\"}\nlog: {level: error}\nsources: [{name: log, type: tail, paths: [%q], start: beginning}]\n", m.mqtt, file))
		})
		if err != nil {
			return fmt.Errorf("ours: %w", err)
		}
		if round == 0 || r.rate > ours.rate {
			ours = r
		}
		r, err = measureTail(m.mqtt, func() (*process, error) { return b.startBare("tail", file, m.mqtt) })
		m.end()
		if err != nil {
			return fmt.Errorf("bare: %w", err)
		}
		if round == 0 || r.rate > bare.rate {
			bare = r
		}
	}
	b.add("tail, 256 B lines, QoS 1: lines/s", fmt.Sprintf("%.0f", ours.rate), ">= 60000", fmt.Sprintf("bare %.0f, ratio %.2f", bare.rate, ours.rate/bare.rate))
	us := func(d time.Duration) string { return fmt.Sprintf("%.1f", float64(d)/1e3) }
	b.add("  CPU per line, us", us(ours.cpu), "<= 8", fmt.Sprintf("bare %s, ratio %.2f", us(bare.cpu), float64(ours.cpu)/float64(bare.cpu)))
	b.add("  peak RSS under load, MiB", mib(ours.peak), "<= 40", "bare "+mib(bare.peak))
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
