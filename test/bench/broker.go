package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"event2mqtt/internal/wire"
	"event2mqtt/test/mqttest"
)

const window = 100 // unanswered messages of a publisher

// load is who publishes to whom. Every publisher has a topic of its own, and
// every subscriber gets them all.
type load struct {
	name        string
	publishers  int
	subscribers int
	qos         byte
	filter      func(i int) string // of subscriber i
	topic       func(i int) string // of publisher i
	// How clients connect; the zero value is a clean session of 3.1.1 over TCP.
	options mqttest.Options
}

func (l load) String() string {
	return fmt.Sprintf("%d x %d, QoS %d%s", l.publishers, l.subscribers, l.qos, l.name)
}

func (l load) filterOf(i int) string {
	if l.filter != nil {
		return l.filter(i)
	}
	return "bench/#"
}

func (l load) topicOf(i int) string {
	if l.topic != nil {
		return l.topic(i)
	}
	return fmt.Sprint("bench/", i)
}

type brokerResult struct {
	rate     float64
	lost     int64         // of QoS 0, in all rounds
	cpu      time.Duration // per delivery
	peak     int64
	p50, p99 time.Duration
}

func (b *bench) broker() error {
	for _, part := range []struct {
		name string
		run  func() error
	}{{"throughput", b.throughput}, {"latency", b.latency}, {"safety", b.safety}, {"idle", b.idle}, {"retained", b.manyRetained}} {
		if b.only != "" && b.only != part.name {
			continue
		}
		if err := part.run(); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	return nil
}

const manyClients = "log: {level: error}\nbroker: {max_clients: 20000, max_per_address: 20000, max_pending: 20000, max_sessions: 20000, sys_interval: 0s}\n"

func (b *bench) throughput() error {
	deep := strings.Repeat("level/", 40)
	loads := []load{
		{publishers: 1, subscribers: 1, qos: 0}, {publishers: 1, subscribers: 1, qos: 1}, {publishers: 1, subscribers: 1, qos: 2},
		{publishers: 4, subscribers: 4, qos: 0}, {publishers: 4, subscribers: 4, qos: 1}, {publishers: 4, subscribers: 4, qos: 2},
		{publishers: 1, subscribers: 100, qos: 0}, {publishers: 1, subscribers: 100, qos: 1},
		{publishers: 100, subscribers: 1, qos: 0}, {publishers: 100, subscribers: 1, qos: 1},
		{name: ", 40 levels deep, half of them +", publishers: 4, subscribers: 4, qos: 1,
			filter: func(int) string { return strings.Repeat("level/+/", 20) + "#" }, topic: func(i int) string { return deep + fmt.Sprint(i) }},
		{name: ", 1000 filters wide", publishers: 4, subscribers: 4, qos: 1,
			filter: func(i int) string { return fmt.Sprintf("bench/+/%d", i) }, topic: func(i int) string { return fmt.Sprintf("bench/x/%d", i) }},
	}
	for _, l := range loads {
		if !strings.Contains(l.String(), b.load) {
			continue
		}
		all, best, err := b.compare(l)
		if err != nil {
			return fmt.Errorf("%s: %w", l, err)
		}
		goal := ">= 1.5 x mosquitto"
		if l.qos == 0 {
			goal = ">= 2 x mosquitto"
		}
		b.add("broker, "+l.String()+": deliveries/s", fmt.Sprintf("%.0f", best[0].rate), goal, beside(all, 0, 1, "%.0f", func(i int) float64 { return best[i].rate }))
		b.add("  CPU per delivery, us", us(best[0].cpu), "<= theirs", beside(all, 0, 1, "%.2f", func(i int) float64 { return float64(best[i].cpu) / 1e3 }))
		b.add("  peak RSS, MiB", mib(best[0].peak), "", beside(all, 0, 1, "%.1f", func(i int) float64 { return float64(best[i].peak) / (1 << 20) }))
		if l.qos == 0 {
			var lost []string
			for i, c := range all[1:] {
				lost = append(lost, fmt.Sprintf("%s %d", c.name, best[i+1].lost))
			}
			b.add("  deliveries lost", fmt.Sprint(best[0].lost), "0", strings.Join(lost, "; "))
		}
	}
	return nil
}

func us(d time.Duration) string { return fmt.Sprintf("%.2f", float64(d)/1e3) }

// compare takes the better of two rounds each, in turn.
func (b *bench) compare(l load) (all []contender, best []brokerResult, err error) {
	all = []contender{
		{"ours", func(*process) (*process, error) { return b.startBridge(manyClients) }},
		{"mosquitto", func(*process) (*process, error) { return b.startMosquitto() }},
	}
	if b.before != "" {
		all = append(all, contender{"before", func(*process) (*process, error) { return b.startOne(b.before, manyClients) }})
	}
	if b.rumqttd != "" && l.qos < 2 {
		all = append(all, contender{"rumqttd", func(*process) (*process, error) { return b.startRumqttd() }})
	}
	best = make([]brokerResult, len(all))
	for round := range 2 {
		for i, c := range all {
			p, err := c.start(nil)
			if err != nil {
				return nil, nil, fmt.Errorf("%s: %w", c.name, err)
			}
			r, err := measureBroker(p, l)
			p.end()
			if err != nil {
				return nil, nil, fmt.Errorf("%s: %w", c.name, err)
			}
			r.lost += best[i].lost
			if round == 0 || r.rate > best[i].rate {
				best[i] = r
			}
			best[i].lost = r.lost
		}
	}
	return all, best, nil
}

// measureBroker has every publisher publish for the time of the load.
func measureBroker(p *process, l load) (brokerResult, error) {
	var r brokerResult
	var received, published atomic.Int64
	var pubs sync.WaitGroup
	var failed atomic.Value
	stop := make(chan struct{})
	connect := func(id string) (*mqttest.Client, error) {
		o := l.options
		o.ID, o.KeepAlive = id, 600 // rumqttd takes nobody without
		return mqttest.Dial(p.mqtt, o)
	}
	each := 0 // copies of a message
	for i := range l.subscribers {
		c, err := connect(fmt.Sprint("sub", i))
		if err != nil {
			return r, err
		}
		defer c.Close()
		if _, err := c.Subscribe(l.filterOf(i), l.qos); err != nil {
			return r, err
		}
		if strings.Contains(l.name, "wide") { // and many that nobody publishes to
			for k := range 250 {
				if _, err := c.Subscribe(fmt.Sprintf("bench/+/other/%d/%d", i, k), l.qos); err != nil {
					return r, err
				}
			}
			each = 1
		}
		go readAll(c, &received) // ends with the connection
	}
	if each == 0 {
		each = l.subscribers
	}
	start, cpu := time.Now(), p.cpu()
	for i := range l.publishers {
		c, err := connect(fmt.Sprint("pub", i))
		if err != nil {
			return r, err
		}
		defer c.Close()
		pubs.Go(func() {
			if err := publish(c, l.topicOf(i), l.qos, stop, &published); err != nil {
				failed.Store(err)
			}
		})
	}
	time.Sleep(loadTime)
	close(stop)
	pubs.Wait()
	if err, _ := failed.Load().(error); err != nil {
		return r, err
	}
	want := published.Load() * int64(each)
	lost := int64(0)
	for last, still := received.Load(), 0; received.Load() < want; time.Sleep(10 * time.Millisecond) {
		if now := received.Load(); now != last {
			last, still = now, 0
		} else if still++; still > 200 {
			lost = want - now
			break
		}
	}
	if lost > 0 && l.qos > 0 {
		return r, fmt.Errorf("lost %d of %d deliveries", lost, want)
	}
	took := time.Since(start)
	if lost > 0 {
		took -= 2 * time.Second // of waiting for what was dropped
	}
	r.lost = lost
	r.rate = float64(received.Load()) / took.Seconds()
	r.cpu = (p.cpu() - cpu) / time.Duration(max(1, received.Load()))
	r.peak = p.peak()
	return r, nil
}

// readAll counts messages and answers them, many at once where they come so.
func readAll(c *mqttest.Client, received *atomic.Int64) {
	var acks []byte
	var p wire.Publish
	for {
		header, body, err := c.Reader.Next()
		if err != nil {
			return
		}
		switch t := wire.Type(header >> 4); t {
		case wire.PUBLISH:
			if wire.DecodePublish(&p, c.Version, header, body, p.Topic) != nil {
				return
			}
			received.Add(1)
			switch p.QoS {
			case 1:
				acks = wire.AppendAck(acks, c.Version, wire.PUBACK, wire.Ack{PacketID: p.PacketID})
			case 2:
				acks = wire.AppendAck(acks, c.Version, wire.PUBREC, wire.Ack{PacketID: p.PacketID})
			}
		case wire.PUBREL:
			acks = wire.AppendAck(acks, c.Version, wire.PUBCOMP, wire.Ack{PacketID: uint16(body[0])<<8 | uint16(body[1])})
		}
		if len(acks) > 0 && c.Reader.Buffered() == 0 {
			if _, err := c.Write(acks); err != nil {
				return
			}
			acks = acks[:0]
		}
	}
}

// publish keeps the window full until stop, then waits for the answers.
func publish(c *mqttest.Client, topic string, qos byte, stop chan struct{}, published *atomic.Int64) error {
	payload := make([]byte, payloadSize)
	var out []byte
	id, open := uint16(0), 0
	for {
		stopped := false
		select {
		case <-stop:
			stopped = true
		default:
		}
		for !stopped && open < window {
			if id++; id == 0 {
				id = 1
			}
			out = wire.AppendPublish(out, c.Version, &wire.Publish{Topic: topic, Payload: payload, QoS: qos, PacketID: id})
			published.Add(1)
			if open++; qos == 0 && open == window/4 {
				break
			}
		}
		if len(out) > 0 {
			if _, err := c.Write(out); err != nil {
				return err
			}
			out = out[:0]
		}
		if qos == 0 {
			if open = 0; stopped {
				return nil
			}
			continue
		}
		if open == 0 {
			return nil
		}
		for first := true; open > 0 && (first || c.Reader.Buffered() > 0); first = false {
			header, body, err := c.Reader.Next()
			if err != nil {
				if err == io.EOF {
					err = io.ErrUnexpectedEOF
				}
				return err
			}
			switch wire.Type(header >> 4) {
			case wire.PUBACK, wire.PUBCOMP:
				open--
			case wire.PUBREC:
				out = wire.AppendAck(out, c.Version, wire.PUBREL, wire.Ack{PacketID: uint16(body[0])<<8 | uint16(body[1])})
			}
		}
	}
}

// latency measures single messages at 500 a second, from PUBLISH to PUBLISH.
func (b *bench) latency() error {
	var results [2]brokerResult
	for i, start := range []func() (*process, error){func() (*process, error) { return b.startBridge(manyClients) }, b.startMosquitto} {
		p, err := start()
		if err != nil {
			return err
		}
		results[i], err = measureLatency(p)
		p.end()
		if err != nil {
			return err
		}
	}
	b.add("broker, 1 x 1, QoS 1 at 500/s: latency p50 / p99, us", us(results[0].p50)+" / "+us(results[0].p99), "", "mosquitto "+us(results[1].p50)+" / "+us(results[1].p99))
	return nil
}

func measureLatency(p *process) (r brokerResult, err error) {
	s, err := mqttest.Dial(p.mqtt, mqttest.Options{ID: "sub"})
	if err != nil {
		return r, err
	}
	defer s.Close()
	if _, err := s.Subscribe("t", 1); err != nil {
		return r, err
	}
	c, err := mqttest.Dial(p.mqtt, mqttest.Options{ID: "pub"})
	if err != nil {
		return r, err
	}
	defer c.Close()
	var took []time.Duration
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for began := time.Now(); time.Since(began) < loadTime; {
		<-tick.C
		sent := time.Now()
		if err := c.Send(wire.Publish{Topic: "t", Payload: make([]byte, payloadSize), QoS: 1, PacketID: 1}); err != nil {
			return r, err
		}
		if _, err := s.Next(); err != nil {
			return r, err
		}
		took = append(took, time.Since(sent))
		if _, err := c.Expect(wire.PUBACK); err != nil {
			return r, err
		}
	}
	r.p50, r.p99 = percentiles(took)
	return r, nil
}

// safety tells what each thing costs that makes the broker safer.
func (b *bench) safety() error {
	users := "log: {level: error}\nbroker: {allow_anonymous: true, users: [{name: u, password: secret-u, allow: [%s]}]}\n"
	rules := ""
	for i := range 50 {
		rules += fmt.Sprintf("'area/%d/+/%%c:rw', ", i)
	}
	plain := load{publishers: 4, subscribers: 4, qos: 1}
	baseline := 0.0
	for _, c := range []struct {
		name, config string
		change       func(*load)
	}{
		{"nothing of it", "log: {level: error}\nbroker: {persistence: false}\n", func(*load) {}},
		{"persistence, clean sessions", "log: {level: error}\n", func(*load) {}},
		{"persistence, stored sessions, all on disk first", "log: {level: error}\n", func(l *load) { l.options.Keep = true }},
		{"a user with 51 rules", fmt.Sprintf(users, rules+"'#:rw'"), func(l *load) { l.options.User, l.options.Password = "u", "secret-u" }},
		{"a rate limit that is not reached", "log: {level: error}\nbroker: {persistence: false, publish_rate: 10000000}\n", func(*load) {}},
		{"version 5", "log: {level: error}\nbroker: {persistence: false}\n", func(l *load) { l.options.Version = wire.V5 }},
	} {
		l := plain
		c.change(&l)
		best := 0.0
		for range 2 {
			p, err := b.startBridge(c.config)
			if err != nil {
				return err
			}
			r, err := measureBroker(p, l)
			p.end()
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			best = max(best, r.rate)
		}
		if baseline == 0 {
			baseline = best
		}
		b.add("4 x 4, QoS 1 with "+c.name+": deliveries/s", fmt.Sprintf("%.0f", best), "", fmt.Sprintf("%.2f of the first", best/baseline))
	}
	return nil
}

// idle connects many clients that say nothing.
func (b *bench) idle() error {
	const clients = 10_000
	var rss [2]int64
	for i, start := range []func() (*process, error){func() (*process, error) { return b.startBridge(manyClients) }, b.startMosquitto} {
		p, err := start()
		if err != nil {
			return err
		}
		var open []*mqttest.Client
		for k := range clients {
			c, err := mqttest.Dial(p.mqtt, mqttest.Options{ID: fmt.Sprint("idle", k), KeepAlive: 3600})
			if err == nil {
				_, err = c.Subscribe(fmt.Sprint("idle/", k), 0)
			}
			if err != nil {
				return fmt.Errorf("client %d: %w", k, err)
			}
			open = append(open, c)
		}
		time.Sleep(2 * time.Second)
		rss[i] = p.rss()
		for _, c := range open {
			c.Close()
		}
		p.end()
	}
	b.add("10,000 idle clients with a subscription each: RSS, MiB", mib(rss[0]), "<= 120", "mosquitto "+mib(rss[1]))
	return nil
}

// manyRetained keeps 100,000 messages and asks for them all.
func (b *bench) manyRetained() error {
	const messages = 100_000
	var rss [2]int64
	var took [2]time.Duration
	config := "log: {level: error}\nbroker: {max_retained: 200000, max_retained_bytes: 256MiB, sys_interval: 0s}\n"
	for i, start := range []func() (*process, error){func() (*process, error) { return b.startBridge(config) }, b.startMosquitto} {
		p, err := start()
		if err != nil {
			return err
		}
		c, err := mqttest.Dial(p.mqtt, mqttest.Options{ID: "pub"})
		if err != nil {
			return err
		}
		for k := range messages {
			m := wire.Publish{Topic: fmt.Sprintf("homeassistant/sensor/device%d/value%d/config", k/100, k%100), Payload: make([]byte, payloadSize), Retain: true}
			if err := c.Send(m); err != nil {
				return err
			}
		}
		if err := c.Ping(); err != nil {
			return err
		}
		s, err := mqttest.Dial(p.mqtt, mqttest.Options{ID: "sub"})
		if err != nil {
			return err
		}
		began := time.Now()
		if _, err := s.Subscribe("homeassistant/#", 0); err != nil {
			return err
		}
		for range messages {
			if _, err := s.Next(); err != nil {
				return err
			}
		}
		took[i] = time.Since(began)
		time.Sleep(time.Second)
		rss[i] = p.rss()
		c.Close()
		s.Close()
		p.end()
	}
	b.add("100,000 retained: all of them to a subscriber, ms", fmt.Sprint(took[0].Milliseconds()), "", fmt.Sprintf("mosquitto %d", took[1].Milliseconds()))
	b.add("  RSS, MiB", mib(rss[0]), "<= theirs", "mosquitto "+mib(rss[1]))
	return nil
}
