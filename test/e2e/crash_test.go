package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"event2mqtt/internal/broker"
	"event2mqtt/internal/testkit"
)

func unmarshal(data []byte, v any) error { return json.Unmarshal(data, v) }

// ownBroker runs our broker in this process, so that it outlives the program.
func ownBroker(t *testing.T) string {
	t.Helper()
	b, err := broker.New(broker.Options{})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { _ = b.Serve(l) })
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		b.Close(ctx)
		wg.Wait()
	})
	return l.Addr().String()
}

const sourcesYAML = `
sources:
  - {name: default, type: webhook}
  - {name: log, type: tail, paths: ["%s/app.log*"], start: beginning, poll: 100ms, rotate_wait: 1s}
`

const kills = 50

// TestNothingAcceptedIsLost kills the program 50 times at random moments,
// while 16 connections post to it and a log that it reads is written and
// rotated. Whatever got a 2xx, and every whole line, arrives, in order.
func TestNothingAcceptedIsLost(t *testing.T) {
	addr := ownBroker(t)
	logs := t.TempDir()
	p := configure(t, fmt.Sprintf("mqtt: {url: \"mqtt://%s\"}\n"+sourcesYAML, addr, logs))
	s := subscribe(t, addr)
	senders := startSenders(p.http, 16)
	w := startWriter(t, logs, true)
	for range kills {
		p.start()
		time.Sleep(rand.N(120 * time.Millisecond))
		p.kill()
	}
	p.start()
	accepted, lines := senders.finish(), w.finish()
	s.expect(accepted, lines)
}

// TestNothingIsLostToABrokerThatComesAndGoes: the same with Mosquitto, which
// is stopped and started meanwhile, in each version of MQTT that has a link of its
// own.
func TestNothingIsLostToABrokerThatComesAndGoes(t *testing.T) {
	for _, protocol := range []string{"3.1.1", "5"} {
		t.Run(protocol, func(t *testing.T) {
			m := mosquitto(t, "persistence true\nmax_queued_messages 0\n")
			logs := t.TempDir()
			p := configure(t, fmt.Sprintf("mqtt: {url: \"mqtt://%s\", protocol: %q}\n"+sourcesYAML, m.addr, protocol, logs))
			m.start()
			s := subscribe(t, m.addr)
			senders := startSenders(p.http, 16)
			w := startWriter(t, logs, true)
			for i := range kills {
				p.start()
				if i%5 == 2 {
					m.stop()
				}
				time.Sleep(rand.N(120 * time.Millisecond))
				if i%5 == 3 {
					m.start()
				}
				p.kill()
			}
			p.start()
			accepted, lines := senders.finish(), w.finish()
			s.expect(accepted, lines)
		})
	}
}

// TestNothingIsLostWhenTheJournalRunsFull: the broker is away until senders
// are refused; what was accepted before arrives, and what was refused and
// sent again too.
func TestNothingIsLostWhenTheJournalRunsFull(t *testing.T) {
	for name, c := range map[string]struct {
		journal string
		folder  func(*testing.T) string
	}{
		"max_size":  {"max_payload: 64KiB\njournal: {max_size: 256KiB}", nil},
		"full disk": {"journal: {path: \"%s\"}", smallDisk},
	} {
		t.Run(name, func(t *testing.T) {
			m := mosquitto(t, "persistence true\nmax_queued_messages 0\n")
			logs := t.TempDir()
			journal := c.journal
			if c.folder != nil {
				journal = fmt.Sprintf(journal, c.folder(t))
			}
			p := configure(t, fmt.Sprintf("mqtt: {url: \"mqtt://%s\"}\n%s\n"+sourcesYAML, m.addr, journal, logs))
			m.start()
			s := subscribe(t, m.addr)
			senders := startSenders(p.http, 16)
			w := startWriter(t, logs, true)
			for range 3 {
				m.stop()
				p.start()
				testkit.Eventually(t, "senders are refused", func() bool {
					return post(p.http, `{"event":"Probe"}`) == 503
				})
				p.kill()
				p.start()
				m.start()
				testkit.Eventually(t, "events are taken again", func() bool {
					return post(p.http, `{"event":"Probe"}`) == 202
				})
				p.kill()
			}
			p.start()
			accepted, lines := senders.finish(), w.finish()
			s.expect(accepted, lines)
		})
	}
}

// smallDisk mounts a file system of 1 MiB.
func smallDisk(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "disk")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("mount a small disk: %v", err)
		}
		t.Skipf("mount a small disk: %v", err)
	}
	t.Cleanup(func() {
		if files, err := os.ReadDir(dir); err == nil && t.Failed() {
			for _, f := range files {
				info, _ := f.Info()
				t.Logf("on the small disk: %s, %d bytes", f.Name(), info.Size())
			}
		}
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}
