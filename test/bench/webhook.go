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
	if _, err := c.Subscribe("event2mqtt/event/#", 0); err != nil {
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
	p50, p99 time.Duration // from the request to the subscriber, at 500/s
	a50, a99 time.Duration // from the request to its answer
	peak     int64
}

func (b *bench) webhook() error {
	var ours, bare webhookResult
	var ratios []float64
	for round := range rounds { // one after the other; the best of each counts, since others may be using the machine
		m, err := b.startMosquitto()
		if err != nil {
			return err
		}
		p, err := b.startBridge(fmt.Sprintf("mqtt: {url: \"mqtt://%s\"}\nlog: {level: error}\n", m.mqtt))
		if err != nil {
			return err
		}
		r, err := measureWebhook(p, m.mqtt)
		p.end()
		if err != nil {
			return fmt.Errorf("ours: %w", err)
		}
		rate := r.rate
		if round == 0 || r.rate > ours.rate {
			ours = r
		}
		address, err := freeAddress()
		if err != nil {
			return err
		}
		q, err := b.startBare("webhook", address, m.mqtt)
		if err != nil {
			return err
		}
		q.http = address
		if err := waitFor(address); err != nil {
			return err
		}
		r, err = measureWebhook(q, m.mqtt)
		q.end()
		m.end()
		if err != nil {
			return fmt.Errorf("bare: %w", err)
		}
		if round == 0 || r.rate > bare.rate {
			bare = r
		}
		ratios = append(ratios, rate/r.rate)
	}
	us := func(d time.Duration) string { return fmt.Sprintf("%.1f", float64(d)/1e3) }
	ms := func(d time.Duration) string { return fmt.Sprintf("%.2f", float64(d)/1e6) }
	b.add("webhook, 16 connections, 256 B, QoS 1: events/s", fmt.Sprintf("%.0f", ours.rate), ">= 14000", fmt.Sprintf("bare %.0f, ratio %.2f (each round: %.2f)", bare.rate, ours.rate/bare.rate, ratios))
	b.add("  CPU per event, us", us(ours.cpu), "<= 35", fmt.Sprintf("bare %s, ratio %.2f", us(bare.cpu), float64(ours.cpu)/float64(bare.cpu)))
	b.add("  at 500/s, request to subscriber, p50 ms", ms(ours.p50), "<= 0.5", "bare "+ms(bare.p50))
	b.add("  at 500/s, request to subscriber, p99 ms", ms(ours.p99), "<= 2", "bare "+ms(bare.p99))
	b.add("  at 500/s, request to answer, p50 ms", ms(ours.a50), "<= 0.5", "bare "+ms(bare.a50))
	b.add("  at 500/s, request to answer, p99 ms", ms(ours.a99), "<= 2", "bare "+ms(bare.a99))
	b.add("  peak RSS under load, MiB", mib(ours.peak), "<= 40", "bare "+mib(bare.peak))
	return nil
}

func measureWebhook(p *process, broker string) (webhookResult, error) {
	var r webhookResult
	count, err := newCounter(broker)
	if err != nil {
		return r, err
	}
	defer count.Close()
	if r.p50, r.p99, r.a50, r.a99, err = latency(p, count); err != nil {
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
func latency(p *process, count *counter) (p50, p99, a50, a99 time.Duration, err error) {
	c, err := newPoster(p.http)
	if err != nil {
		return
	}
	defer c.Close()
	var through, answered []time.Duration
	next := time.Now()
	for i := range 1600 {
		time.Sleep(time.Until(next))
		next = next.Add(2 * time.Millisecond)
		want, start := count.n.Load()+1, time.Now()
		if err = c.post(); err != nil {
			return
		}
		answer := time.Since(start)
		for timeout := time.After(5 * time.Second); count.n.Load() < want; {
			select {
			case <-count.seen:
			case <-timeout:
				err = errors.New("an event did not arrive")
				return
			}
		}
		if i >= 100 { // warm
			through, answered = append(through, time.Since(start)), append(answered, answer)
		}
	}
	p50, p99 = percentiles(through)
	a50, a99 = percentiles(answered)
	return
}

func percentiles(d []time.Duration) (p50, p99 time.Duration) {
	slices.Sort(d)
	return d[len(d)/2], d[len(d)*99/100]
}
