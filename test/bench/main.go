// Command bench measures the program beside Mosquitto and beside bare programs
// that do the same without keeping anything, in one run, and prints one table
// with the goals. It needs mosquitto; nothing fails on a slow machine. The
// ratios count: figures of different runs or machines do not compare.
//
//	go run ./test/bench            all
//	go run ./test/bench webhook    or tail, broker, size, reload, octoprint (7 minutes)
//	go run ./test/bench tail before,limit    beside these alone
//	go run ./test/bench broker idle    or throughput, latency, safety, retained
//	go run ./test/bench broker throughput "4 x 4, QoS 0"
//
// BENCH_BINARY names a binary of ours to measure instead of one built from here.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

func main() {
	if len(os.Args) > 2 && os.Args[1] == "bare" {
		bare(os.Args[2:]) // a helper process of ours
		return
	}
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench: "+err.Error())
		os.Exit(1)
	}
}

// bench is one run.
type bench struct {
	dir       string // for everything
	bridge    string // binary
	mosquitto string // binary
	// Programs to measure beside ours, or empty; see findContenders.
	before, limit, telegraf, rumqttd string
	rows                             []row
	only                             string     // part of the broker's, or who is measured beside ours; empty is all
	load                             string     // of the broker's throughput: only those whose name has this in it
	started                          []*process // to be ended, however the run goes
}

// row is a line of the table.
type row struct{ what, ours, goal, other string }

func (b *bench) add(what, ours, goal, other string) {
	b.rows = append(b.rows, row{what, ours, goal, other})
	fmt.Fprintf(os.Stderr, "  %s: %s (%s)\n", what, ours, other)
}

func run(args []string) error {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b := &bench{dir: dir, bridge: filepath.Join(dir, "bridge")}
	if len(args) > 1 {
		b.only = args[1]
	}
	if len(args) > 2 {
		b.load = args[2]
	}
	defer func() {
		for _, p := range b.started {
			p.end()
		}
	}()
	for _, path := range []string{"mosquitto", "/usr/sbin/mosquitto"} {
		if p, err := exec.LookPath(path); err == nil {
			b.mosquitto = p
		}
	}
	if b.mosquitto == "" {
		return fmt.Errorf("mosquitto is not installed; on Debian: apt-get install mosquitto")
	}
	if err := b.findContenders(); err != nil {
		return err
	}
	if built := os.Getenv("BENCH_BINARY"); built != "" {
		b.bridge = built
	} else if out, err := exec.Command("go", "run", "./scripts/build", "-o", b.bridge).CombinedOutput(); err != nil { // as it is released
		return fmt.Errorf("build: %w\n%s", err, out)
	}
	parts := []struct {
		name string
		run  func() error
	}{{"size", b.size}, {"webhook", b.webhook}, {"tail", b.tail}, {"link", b.link}, {"broker", b.broker}, {"reload", b.reload}, {"octoprint", b.octoprint}}
	for _, p := range parts {
		if len(args) > 0 && args[0] != p.name {
			continue
		}
		fmt.Fprintf(os.Stderr, "%s ...\n", p.name)
		if err := p.run(); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	b.print()
	return nil
}

func (b *bench) print() {
	const line = "%-52s %16s %16s   %s\n"
	fmt.Printf(line, "", "ours", "goal", "beside it, in the same run")
	for _, r := range b.rows {
		fmt.Printf(line, r.what, r.ours, r.goal, r.other)
	}
}

// size measures the stripped binary and the idle process.
func (b *bench) size() error {
	info, err := os.Stat(b.bridge)
	if err != nil {
		return err
	}
	b.add("stripped binary, MB", fmt.Sprintf("%.1f", float64(info.Size())/1e6), "<= 16", "")
	p, err := b.startBridge("")
	if err != nil {
		return err
	}
	defer p.end()
	time.Sleep(12 * time.Second) // then it is at rest
	m, err := b.startMosquitto()
	if err != nil {
		return err
	}
	defer m.end()
	b.add("idle RSS with broker, MiB", mib(p.rss()), "<= 16", "mosquitto "+mib(m.rss()))
	return nil
}

func mib(bytes int64) string { return fmt.Sprintf("%.1f", float64(bytes)/(1<<20)) }
