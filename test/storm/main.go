// Command storm has many bridges at one broker, kills that broker, and prints how
// they come back when it does, as a curve:
//
//	go run ./test/storm -bridges 2000
//
// Each bridge is the sink that the program has, with its own connection, client id
// and pauses; they share one journal. The broker is this program in a process of
// its own, or the one that listens at -broker, which is then not killed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"event2mqtt/internal/event"
	"event2mqtt/internal/health"
	"event2mqtt/internal/journal"
	"event2mqtt/internal/sinks"
	"event2mqtt/internal/sinks/mqtt"
)

func main() {
	bridges := flag.Int("bridges", 2000, "how many bridges there are")
	away := flag.Duration("away", 20*time.Second, "how long the broker is away")
	events := flag.Int("events", 10, "how many events wait at each bridge when the broker comes back")
	flag.Parse()
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	if err := run(ctx, *bridges, *away, *events); err != nil {
		fmt.Fprintln(os.Stderr, "storm: "+err.Error())
		os.Exit(1)
	}
}

// storm is one run.
type storm struct {
	dir, address string
	broker       *exec.Cmd
	journal      *journal.Journal
	connected    atomic.Int64 // bridges
}

func run(ctx context.Context, bridges int, away time.Duration, events int) (err error) {
	s := &storm{}
	if s.dir, err = os.MkdirTemp("", "storm"); err != nil {
		return err
	}
	defer os.RemoveAll(s.dir)
	if err := s.prepare(bridges); err != nil {
		return err
	}
	if err := s.startBroker(); err != nil {
		return err
	}
	defer func() {
		_ = s.broker.Process.Signal(syscall.SIGTERM)
		_ = s.broker.Wait()
	}()
	if s.journal, err = journal.Open(journal.Options{FS: journal.DirFS(filepath.Join(s.dir, "journal")), Sync: journal.SyncNever, Log: zerolog.Nop()}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.journal.Close()) }()
	ctx, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	for i := range bridges {
		if err := s.bridge(ctx, i, &running); err != nil {
			return err
		}
	}
	fmt.Printf("%d bridges start at once:\n", bridges)
	if err := s.curve(bridges); err != nil {
		return err
	}
	if err := s.broker.Process.Kill(); err != nil {
		return err
	}
	_ = s.broker.Wait()
	for range events {
		if _, err := s.journal.Append(ctx, event.Event{Name: "Storm", Source: "storm", Time: time.Now(), Payload: []byte(`{"n":1}`)}); err != nil {
			return err
		}
	}
	time.Sleep(away)
	if err := s.startBroker(); err != nil {
		return err
	}
	fmt.Printf("the broker was killed, and is back after %s; %d events wait at each:\n", away, events)
	return s.curve(bridges)
}

// prepare builds the broker and writes its configuration.
func (s *storm) prepare(bridges int) error {
	build := exec.Command("go", "build", "-o", filepath.Join(s.dir, "event2mqtt"), "event2mqtt/cmd/bridge")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("build the broker: %w", err)
	}
	if err := os.Mkdir(filepath.Join(s.dir, "journal"), 0o700); err != nil {
		return err
	}
	var free [2]string
	for i := range free {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		free[i] = l.Addr().String()
		defer l.Close() // so that the two differ
	}
	s.address = free[0]
	config := fmt.Sprintf("http: {listen: %q}\nlog: {level: error}\nhome_assistant: {discovery: false}\nbroker: {listen: %q, max_clients: %d, max_per_address: %[3]d, max_queued_total: 256MiB}\n", free[1], s.address, bridges+10)
	return os.WriteFile(filepath.Join(s.dir, "config.yaml"), []byte(config), 0o600)
}

// startBroker returns when it accepts connections.
func (s *storm) startBroker() error {
	s.broker = exec.Command(filepath.Join(s.dir, "event2mqtt"), "--config", filepath.Join(s.dir, "config.yaml"), "--state-dir", filepath.Join(s.dir, "broker"))
	s.broker.Stderr = os.Stderr
	if err := s.broker.Start(); err != nil {
		return err
	}
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if c, err := net.Dial("tcp", s.address); err == nil {
			return c.Close()
		}
	}
	return errors.New("the broker does not listen")
}

// bridge starts a sink with options as the program's, but for its names.
func (s *storm) bridge(ctx context.Context, i int, running *sync.WaitGroup) error {
	o := mqtt.Options{Common: sinks.Common{Name: fmt.Sprintf("bridge-%d", i)}}
	o.Config, o.Publish = mqtt.Defaults()
	o.Config.URL, o.Publish.BaseTopic = []string{"mqtt://" + s.address}, fmt.Sprintf("site/%d", i)
	sink, err := mqtt.New(o, sinks.Deps{ID: s.journal.ID, ClientID: o.Name, Log: zerolog.Nop()})
	if err != nil {
		return err
	}
	cursor, err := s.journal.Cursor(o.Name)
	if err != nil {
		return err
	}
	up := false
	running.Go(func() {
		_ = sink.Run(ctx, cursor, event.NewStates(), func(h health.Status) {
			if is := h.Level == health.Up; is != up {
				up = is
				s.connected.Add(map[bool]int64{true: 1, false: -1}[is])
			}
		})
	})
	return nil
}

// curve prints each second how many bridges are connected, and how many have
// delivered all events, until all have.
func (s *storm) curve(bridges int) error {
	began := time.Now()
	for second := 0; ; second++ {
		delivered := 0
		for _, m := range s.journal.Marks() {
			if m.Lag == 0 {
				delivered++
			}
		}
		connected := int(s.connected.Load())
		fmt.Printf("%4d s %6d connected %6d delivered  %s\n", second, connected, delivered, strings.Repeat("#", 60*connected/bridges))
		if connected == bridges && delivered >= bridges {
			break
		}
		if second > 300 {
			return errors.New("they do not all come back within five minutes")
		}
		time.Sleep(time.Until(began.Add(time.Duration(second+1) * time.Second)))
	}
	fmt.Printf("all after %.1f s; the broker has %s\n\n", time.Since(began).Seconds(), s.usage())
	return nil
}

// usage is what the broker takes.
func (s *storm) usage() string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.broker.Process.Pid))
	if err != nil {
		return "unknown memory"
	}
	for line := range strings.Lines(string(text)) {
		if rest, is := strings.CutPrefix(line, "VmRSS:"); is {
			return "RSS " + strings.TrimSpace(rest)
		}
	}
	return "unknown memory"
}
