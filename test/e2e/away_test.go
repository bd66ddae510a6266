package e2e

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"event2mqtt/internal/testkit"
	"event2mqtt/internal/wire"
)

// slowBroker acknowledges one message in 20 ms.
func slowBroker(t *testing.T) (addr string, acknowledged *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	testkit.OK(t, err)
	acknowledged = &atomic.Int64{}
	ended := make(chan struct{})
	var wg sync.WaitGroup
	serve := func(c net.Conn) {
		defer c.Close()
		stop := make(chan struct{})
		defer close(stop)
		wg.Go(func() { // what waits to be read must not keep the test
			select {
			case <-ended:
				_ = c.Close()
			case <-stop:
			}
		})
		for reader := wire.NewReader(c, 1<<20); ; {
			header, body, err := reader.Next()
			if err != nil {
				return
			}
			switch wire.Type(header >> 4) {
			case wire.CONNECT:
				_, _ = c.Write([]byte{0x20, 2, 0, 0})
			case wire.PINGREQ:
				_, _ = c.Write([]byte{0xD0, 0})
			case wire.PUBLISH:
				var p wire.Publish
				if wire.DecodePublish(&p, wire.V311, header, body, "") != nil {
					return
				}
				time.Sleep(20 * time.Millisecond)
				_, _ = c.Write(wire.AppendAck(nil, wire.V311, wire.PUBACK, wire.Ack{PacketID: p.PacketID}))
				acknowledged.Add(1)
			}
		}
	}
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { serve(c) })
		}
	})
	t.Cleanup(func() { _ = l.Close(); close(ended); wg.Wait() })
	return l.Addr().String(), acknowledged
}

// anonymous is the memory that the program has for itself, in MiB: without the
// pages of files, which the system takes back when it needs them.
func (p *program) anonymous() int {
	p.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	testkit.OK(p.t, err)
	_, rest, _ := strings.Cut(string(text), "RssAnon:")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	testkit.OK(p.t, err)
	return kib >> 10
}

// TestASinkIsAwayFor100000Events and another is slow: the main one is not held up,
// what waits takes disk and no memory, and who comes back gets all, in order.
func TestASinkIsAwayFor100000Events(t *testing.T) {
	if _, err := os.Stat("/proc/self/status"); err != nil {
		t.Skip("there is no /proc here that tells the memory")
	}
	const requests, each = 250, 400
	m := mosquitto(t, "persistence true\nmax_queued_messages 0\n")
	m.start()
	away := subscribe(t, m.addr)
	m.stop()
	addr := ownBroker(t)
	slow, acknowledged := slowBroker(t)
	p := configure(t, fmt.Sprintf("mqtt: {url: \"mqtt://%s\"}\nsources: [{name: default, type: webhook}]\nsinks:\n- {name: away, type: mqtt, url: \"mqtt://%s\"}\n- {name: slow, type: mqtt, url: \"mqtt://%s\"}\n", addr, m.addr, slow))
	main := subscribe(t, addr)
	p.start()
	before, most := p.anonymous(), 0
	var body strings.Builder
	for i := range requests {
		body.Reset()
		for n := range each {
			fmt.Fprintf(&body, `%c{"event":"Posted","connection":0,"number":%d,"padding":"%s"}`, "[,"[min(n, 1)], i*each+n+1, strings.Repeat("x", 300))
		}
		body.WriteByte(']')
		for status := 503; status != 202; {
			if status = post(p.http, body.String()); status != 202 && status != 503 {
				t.Fatal(status)
			}
		}
		most = max(most, p.anonymous())
	}
	main.expect([]int{requests * each}, 0)
	most = max(most, p.anonymous())
	if n := acknowledged.Load(); n > requests*each/2 {
		t.Errorf("the slow broker has %d events already: this test shows nothing", n)
	}
	t.Logf("its own memory was %d MiB, and at most %d MiB while %d events waited", before, most, requests*each)
	if most > before+32 {
		t.Errorf("its own memory has grown from %d to %d MiB", before, most)
	}
	m.start()
	away.expect([]int{requests * each}, 0)
}
