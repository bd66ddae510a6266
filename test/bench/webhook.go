package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"event2mqtt/internal/wire"
	"event2mqtt/test/mqttest"
)

const (
	connections = 16
	payloadSize = 256
	loadTime    = 3 * time.Second
	rounds      = 5
)

func request(address string) []byte {
	body := `{"event":"Bench","padding":"`
	body += strings.Repeat("x", payloadSize-len(body)-2) + `"}`
	return fmt.Appendf(nil, "POST /hooks/default HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", address, len(body), body)
}

// poster is one keep-alive connection that costs the machine little.
type poster struct {
	net.Conn
	request []byte
	buf     [4096]byte
}

func newPoster(address string) (*poster, error) {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	return &poster{Conn: c, request: request(address)}, nil
}

// post sends one event and waits for its 2xx.
func (p *poster) post() error {
	if _, err := p.Write(p.request); err != nil {
		return err
	}
	n := 0
	for {
		got, err := p.Read(p.buf[n:])
		if err != nil {
			return err
		}
		n += got
		head, body, whole := bytes.Cut(p.buf[:n], []byte("\r\n\r\n"))
		if !whole {
			continue
		}
		if !bytes.HasPrefix(head, []byte("HTTP/1.1 2")) {
			return fmt.Errorf("refused: %s", head)
		}
		i := bytes.Index(head, []byte("Content-Length: "))
		length := 0
		if i >= 0 {
			fmt.Sscan(string(head[i+16:]), &length)
		}
		if len(body) >= length {
			return nil
		}
	}
}

// counter subscribes with QoS 0 and counts what arrives.
type counter struct {
	*mqttest.Client
	n    atomic.Int64
	seen chan struct{} // cap 1: something arrived
}

func newCounter(address string) (*counter, error) {
	c, err := mqttest.Dial(address, mqttest.Options{ID: "counter"})
	if err != nil {
		return nil, err
	}
	s := &counter{Client: c, seen: make(chan struct{}, 1)}
	if _, err := c.Subscribe("+/event/#", 0); err != nil {
		return nil, err
	}
	go func() {
		for {
			header, _, err := c.Reader.Next()
			if err != nil {
				return
			}
			if wire.Type(header>>4) == wire.PUBLISH {
				s.n.Add(1)
				select {
				case s.seen <- struct{}{}:
				default:
				}
			}
		}
	}()
	return s, nil
}

// until waits until n have arrived.
func (s *counter) until(n int64) error {
	for deadline := time.Now().Add(60 * time.Second); s.n.Load() < n; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("lost: %d of %d arrived", s.n.Load(), n)
		}
	}
	return nil
}

type webhookResult struct {
	rate     float64
	cpu      time.Duration // of an event
	steady   time.Duration // of an event at 500/s
	p50, p99 time.Duration // from the request to the subscriber, at 500/s
	a50, a99 time.Duration // from the request to its answer
	peak     int64
}

func (b *bench) webhook() error {
	all := append(b.both(""), contender{name: "bare", start: b.startBareWebhook})
	if b.before != "" {
		all = append(all, b.ourselves("before", b.before, "3.1.1", ""))
	}
	if b.limit != "" {
		all = append(all, contender{name: "limit", start: b.startLimitWebhook})
	}
	if b.telegraf != "" {
		all = append(all, contender{name: "telegraf", start: b.startTelegraf})
	}
	all = b.named(all)
	best := make([]webhookResult, len(all))
	rates := make([][]float64, len(all))
	for range rounds { // one after the other
		m, err := b.startMosquitto()
		if err != nil {
			return err
		}
		for i, c := range all {
			p, err := c.start(m)
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			r, err := measureWebhook(p, m.mqtt)
			p.end()
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			best[i].better(&r, len(rates[i]) == 0)
			rates[i] = append(rates[i], r.rate)
		}
		m.end()
	}
	b.addBoth(all, figure{"webhook, 16 connections, 256 B, QoS 1: events/s", ">= 14000", "%.0f", func(i int) float64 { return best[i].rate }})
	b.addRounds(all, rates)
	in := func(unit time.Duration, of func(r *webhookResult) time.Duration) func(int) float64 {
		return func(i int) float64 { return float64(of(&best[i])) / float64(unit) }
	}
	for _, f := range []figure{
		{"  CPU per event, us", "<= 35", "%.1f", in(time.Microsecond, func(r *webhookResult) time.Duration { return r.cpu })},
		{"  CPU per event at 500/s, us", "", "%.1f", in(time.Microsecond, func(r *webhookResult) time.Duration { return r.steady })},
		{"  at 500/s, request to subscriber, p50 ms", "<= 0.5", "%.2f", in(time.Millisecond, func(r *webhookResult) time.Duration { return r.p50 })},
		{"  at 500/s, request to subscriber, p99 ms", "<= 2", "%.2f", in(time.Millisecond, func(r *webhookResult) time.Duration { return r.p99 })},
		{"  at 500/s, request to answer, p50 ms", "<= 0.5", "%.2f", in(time.Millisecond, func(r *webhookResult) time.Duration { return r.a50 })},
		{"  at 500/s, request to answer, p99 ms", "<= 2", "%.2f", in(time.Millisecond, func(r *webhookResult) time.Duration { return r.a99 })},
		{"  peak RSS under load, MiB", "<= 40", "%.1f", func(i int) float64 { return float64(best[i].peak) / (1 << 20) }},
	} {
		b.addBoth(all, f)
	}
	return nil
}

// better takes each figure that is better in another round: others use the
// machine as well. With first there was none before.
func (w *webhookResult) better(r *webhookResult, first bool) {
	if first {
		*w = *r
		return
	}
	w.rate, w.peak = max(w.rate, r.rate), max(w.peak, r.peak)
	w.cpu, w.steady = min(w.cpu, r.cpu), min(w.steady, r.steady)
	w.p50, w.p99, w.a50, w.a99 = min(w.p50, r.p50), min(w.p99, r.p99), min(w.a50, r.a50), min(w.a99, r.a99)
}

func measureWebhook(p *process, broker string) (webhookResult, error) {
	var r webhookResult
	count, err := newCounter(broker)
	if err != nil {
		return r, err
	}
	defer count.Close()
	if err := latency(p, count, &r); err != nil {
		return r, err
	}

	before, cpu, start := count.n.Load(), p.cpu(), time.Now()
	var wg sync.WaitGroup
	var sent atomic.Int64
	var failed atomic.Value
	for range connections {
		c, err := newPoster(p.http)
		if err != nil {
			return r, err
		}
		wg.Go(func() {
			defer c.Close()
			for time.Since(start) < loadTime {
				if err := c.post(); err != nil {
					failed.Store(err)
					return
				}
				sent.Add(1)
			}
		})
	}
	wg.Wait()
	took := time.Since(start)
	if err, _ := failed.Load().(error); err != nil {
		return r, err
	}
	if err := count.until(before + sent.Load()); err != nil {
		return r, err
	}
	r.rate = float64(sent.Load()) / took.Seconds()
	r.cpu = (p.cpu() - cpu) / time.Duration(sent.Load())
	r.peak = p.peak()
	return r, nil
}

// latency posts one event after the other, 500 a second.
func latency(p *process, count *counter, r *webhookResult) error {
	const events, warm = 1600, 100
	c, err := newPoster(p.http)
	if err != nil {
		return err
	}
	defer c.Close()
	var through, answered []time.Duration
	var cpu time.Duration
	next := time.Now()
	for i := range events {
		if i == warm {
			cpu = p.cpu()
		}
		time.Sleep(time.Until(next))
		next = next.Add(2 * time.Millisecond)
		want, start := count.n.Load()+1, time.Now()
		if err := c.post(); err != nil {
			return err
		}
		answer := time.Since(start)
		for timeout := time.After(5 * time.Second); count.n.Load() < want; {
			select {
			case <-count.seen:
			case <-timeout:
				return errors.New("an event did not arrive")
			}
		}
		if i >= warm {
			through, answered = append(through, time.Since(start)), append(answered, answer)
		}
	}
	r.steady = (p.cpu() - cpu) / (events - warm)
	r.p50, r.p99 = percentiles(through)
	r.a50, r.a99 = percentiles(answered)
	return nil
}

func percentiles(d []time.Duration) (p50, p99 time.Duration) {
	slices.Sort(d)
	return d[len(d)/2], d[len(d)*99/100]
}
