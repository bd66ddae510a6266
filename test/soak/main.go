// Command soak has clients come and go at the bundled broker for a long time,
// over TCP and WebSocket, and tells whether memory, goroutines and descriptors
// are flat at the end:
//
//	go run ./test/soak -for 30m -messages 5000000
//
// Its last line is "flat" or "NOT FLAT", with status 1.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/time/rate"

	"event2mqtt/internal/wire"
	"event2mqtt/test/mqttest"
)

func main() {
	duration := flag.Duration("for", 30*time.Minute, "how long")
	messages := flag.Int64("messages", 5_000_000, "how many messages are to be received at least; it goes on until they are")
	clients := flag.Int("clients", 40, "how many are there at a time")
	flag.Parse()
	if err := run(*duration, *messages, *clients); err != nil {
		fmt.Fprintln(os.Stderr, "soak: "+err.Error())
		os.Exit(1)
	}
}

// soak is one run.
type soak struct {
	addr, http      string
	pid             int
	sent, received  atomic.Int64
	sessions, cuts  atomic.Int64
	stop            chan struct{}
	pace            *rate.Limiter // of what is sent
	watch           *mqttest.Client
	goroutines      atomic.Int64
	heap            atomic.Int64
	serverConnected atomic.Int64
}

func run(duration time.Duration, messages int64, clients int) error {
	dir, err := os.MkdirTemp("", "soak")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	// Each message that is sent is received some three times.
	const spread, margin = 3, 1.3
	perSecond := margin / spread * float64(messages) / duration.Seconds()
	s := &soak{stop: make(chan struct{}), pace: rate.NewLimiter(rate.Limit(perSecond), 100)}
	cmd, err := s.startProgram(dir)
	if err != nil {
		return err
	}
	defer func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	}()
	if err := s.watchSys(); err != nil {
		return err
	}
	defer s.watch.Close()

	fmt.Printf("%8s %12s %12s %10s %9s %9s %11s %6s\n", "time", "sent", "received", "sessions", "RSS MiB", "live MiB", "goroutines", "files")
	began := time.Now()
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() { s.visitor(i) })
	}
	var all []sample
	next := time.Now()
	for time.Since(began) < duration || s.received.Load() < messages {
		time.Sleep(time.Second)
		if time.Now().Before(next) {
			continue
		}
		next = next.Add(duration / 60)
		now := s.sample()
		s.print(began, now)
		all = append(all, now)
	}
	close(s.stop)
	wg.Wait()
	// What clients left behind goes with their sessions, and with the collector's
	// next round, which comes within two minutes.
	fmt.Println("all clients are gone")
	var end sample
	for deadline := time.Now().Add(4 * time.Minute); time.Now().Before(deadline); time.Sleep(time.Second) {
		if end = s.sample(); s.serverConnected.Load() == 1 && end.goroutines < alone && end.files < alone && end.heap < 16<<20 {
			break
		}
	}
	s.print(began, end)
	quarter := len(all) / 4
	early, late := all[quarter:2*quarter], all[3*quarter:]
	earlyMean, lateMean := mean(early), mean(late)
	earlyPeak, latePeak := peak(early), peak(late)
	fmt.Printf("sent %d, received %d, %d connections, %d of them cut\n", s.sent.Load(), s.received.Load(), s.sessions.Load(), s.cuts.Load())
	for _, row := range []struct {
		what string
		sample
	}{{"second quarter, mean", earlyMean}, {"last quarter, mean", lateMean}, {"second quarter, most", earlyPeak}, {"last quarter, most", latePeak}} {
		fmt.Printf("%s: %.1f MiB, live heap %.1f MiB, %d goroutines, %d files\n", row.what, mib(row.rss), mib(row.heap), row.goroutines, row.files)
	}
	fmt.Printf("alone again:            %.1f MiB, live heap %.1f MiB, %d goroutines, %d files\n", mib(end.rss), mib(end.heap), end.goroutines, end.files)
	const meanTolerance, peakTolerance = 1.1, 1.2
	if grew(lateMean, earlyMean, meanTolerance) || grew(latePeak, earlyPeak, peakTolerance) || end.goroutines >= alone || end.files >= alone || end.heap >= 16<<20 {
		fmt.Println("NOT FLAT")
		return errors.New("something grows")
	}
	fmt.Println("flat")
	return nil
}

func (s *soak) startProgram(dir string) (*exec.Cmd, error) {
	bridge := filepath.Join(dir, "bridge")
	build := exec.Command("go", "build", "-o", bridge, "event2mqtt/cmd/bridge")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build: %w: %s", err, out)
	}
	for _, addr := range []*string{&s.addr, &s.http} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		*addr = l.Addr().String()
		_ = l.Close()
	}
	config := filepath.Join(dir, "config.yaml")
	text := fmt.Sprintf("http: {listen: %q}\nbroker: {listen: %q, sys_interval: 1s, session_expiry: 30s}\nlog: {level: warn}\n", s.http, s.addr)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	cmd := exec.Command(bridge, "--config", config, "--state-dir", dir)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s.pid = cmd.Process.Pid
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if c, err := net.Dial("tcp", s.addr); err == nil {
			return cmd, c.Close()
		}
	}
	return cmd, errors.New("the program does not listen")
}

// watchSys follows what the broker says of itself.
func (s *soak) watchSys() (err error) {
	if s.watch, err = mqttest.Dial(s.addr, mqttest.Options{ID: "watch"}); err != nil {
		return err
	}
	if _, err = s.watch.Subscribe("$SYS/#", 0); err != nil {
		return err
	}
	values := map[string]*atomic.Int64{
		"$SYS/broker/event2mqtt/goroutines": &s.goroutines, "$SYS/broker/event2mqtt/heap/live": &s.heap, "$SYS/broker/clients/connected": &s.serverConnected,
	}
	go func() { // ends with the connection
		for {
			m, err := s.watch.Next()
			if err != nil {
				return
			}
			if v := values[m.Topic]; v != nil {
				n, _ := strconv.ParseInt(string(m.Payload), 10, 64)
				v.Store(n)
			}
		}
	}()
	return nil
}

// alone is what goroutines and files stay below without clients.
const alone = 40

func grew(late, early sample, tolerance float64) bool {
	return float64(late.heap) > tolerance*float64(early.heap) || float64(late.rss) > tolerance*float64(early.rss)
}

func peak(samples []sample) (p sample) {
	for _, s := range samples {
		p.rss, p.heap = max(p.rss, s.rss), max(p.heap, s.heap)
		p.goroutines, p.files = max(p.goroutines, s.goroutines), max(p.files, s.files)
	}
	return p
}

func mean(samples []sample) (m sample) {
	for _, s := range samples {
		m.rss += s.rss
		m.heap += s.heap
		m.goroutines += s.goroutines
		m.files += s.files
	}
	n := int64(max(1, len(samples)))
	return sample{m.rss / n, m.heap / n, m.goroutines / n, m.files / n}
}

type sample struct {
	rss, heap         int64
	goroutines, files int64
}

func (s *soak) sample() sample {
	out := sample{heap: s.heap.Load(), goroutines: s.goroutines.Load()}
	if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.pid)); err == nil {
		for line := range strings.Lines(string(text)) {
			if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
				kb, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
				out.rss = kb << 10
			}
		}
	}
	if files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.pid)); err == nil {
		out.files = int64(len(files))
	}
	return out
}

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }

func (s *soak) print(began time.Time, v sample) {
	fmt.Printf("%8s %12d %12d %10d %9.1f %9.1f %11d %6d\n", time.Since(began).Round(time.Second), s.sent.Load(), s.received.Load(), s.sessions.Load(),
		mib(v.rss), mib(v.heap), v.goroutines, v.files)
}

// visitor connects, does something, and leaves, again and again.
func (s *soak) visitor(slot int) {
	for visit := 0; ; visit++ {
		select {
		case <-s.stop:
			return
		default:
		}
		if err := s.visit(slot, visit); err != nil {
			s.cuts.Add(1)
			time.Sleep(10 * time.Millisecond)
		}
	}
}

func (s *soak) visit(slot, visit int) error {
	o := mqttest.Options{Version: wire.V31 + byte(rand.IntN(3)), ID: fmt.Sprintf("visitor-%d-%d", slot, visit%7), Keep: rand.IntN(3) == 0}
	if o.Version == wire.V5 && o.Keep {
		o.Properties = []byte{0x11, 0, 0, 0, 60}
	}
	if rand.IntN(3) == 0 {
		o.Will = &wire.Publish{Topic: fmt.Sprint("will/", slot), Payload: []byte("gone"), QoS: byte(rand.IntN(3)), Retain: rand.IntN(2) == 0}
	}
	addr := s.addr
	if rand.IntN(2) == 0 {
		addr, o.Dial = s.http, mqttest.WebSocket("/mqtt", 0, nil, nil)
	}
	c, _, code, err := mqttest.Connect(addr, o)
	if err != nil || code != 0 {
		return fmt.Errorf("connect: code %d, %w", code, err)
	}
	defer c.Close()
	s.sessions.Add(1)
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	for range 1 + rand.IntN(3) {
		filter := []string{fmt.Sprint("room/", rand.IntN(20)), fmt.Sprintf("room/%d/#", rand.IntN(20)), "will/+", "state/+"}[rand.IntN(4)]
		// What comes before the SUBACK is a message, too: read it later.
		if _, err := c.Write(mqttest.AppendSubscribe(nil, c.Version, 1, filter, byte(rand.IntN(3)), nil)); err != nil {
			return err
		}
	}
	count := 50 + rand.IntN(400)
	for i := range count {
		if err := s.pace.Wait(context.Background()); err != nil {
			return err
		}
		p := wire.Publish{Topic: fmt.Sprint("room/", rand.IntN(20)), Payload: make([]byte, rand.IntN(400)), QoS: byte(rand.IntN(3)), PacketID: uint16(i%10000 + 1)}
		if rand.IntN(50) == 0 {
			p.Topic, p.Retain = fmt.Sprint("state/", rand.IntN(100)), true
		}
		if err := c.Send(p); err != nil {
			return err
		}
		s.sent.Add(1)
		if i%10 == 9 {
			if err := s.catchUp(c); err != nil {
				return err
			}
		}
	}
	if err := s.catchUp(c); err != nil {
		return err
	}
	if rand.IntN(2) == 0 {
		return c.Disconnect()
	}
	return nil // just gone
}

// catchUp answers what has come, up to the answer to a ping.
func (s *soak) catchUp(c *mqttest.Client) error {
	if _, err := c.Write([]byte{byte(wire.PINGREQ) << 4, 0}); err != nil {
		return err
	}
	for {
		header, body, err := c.Reader.Next()
		if err != nil {
			return err
		}
		id := func() uint16 { return uint16(body[0])<<8 | uint16(body[1]) }
		switch wire.Type(header >> 4) {
		case wire.PINGRESP:
			return nil
		case wire.PUBREC:
			err = c.Ack(wire.PUBREL, id())
		case wire.PUBREL:
			err = c.Ack(wire.PUBCOMP, id())
		case wire.PUBLISH:
			var p wire.Publish
			if err = wire.DecodePublish(&p, c.Version, header, body, ""); err != nil {
				return err
			}
			s.received.Add(1)
			switch p.QoS {
			case 1:
				err = c.Ack(wire.PUBACK, p.PacketID)
			case 2:
				err = c.Ack(wire.PUBREC, p.PacketID)
			}
		}
		if err != nil {
			return err
		}
	}
}
