package e2e

import (
	be "encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"event2mqtt/internal/testkit"
	"event2mqtt/internal/wire"
	"event2mqtt/test/mqttest"
)

// TestSessionsSurviveKills kills the bundled broker 50 times under QoS 1 and 2
// load. Publishers and subscribers have sessions, come back at once and go on
// as the specification says. What was acknowledged arrives; QoS 2 messages
// arrive once, and in order.
func TestSessionsSurviveKills(t *testing.T) {
	addr := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	p := configure(t, fmt.Sprintf("broker: {listen: %q}\n", addr))
	p.start()
	var receivers []*receiver
	for qos := byte(1); qos <= 2; qos++ {
		for i := range 2 {
			r := &receiver{peer: peer{t: t, addr: addr, id: fmt.Sprintf("receiver %d %d", qos, i)}, qos: qos, topic: fmt.Sprintf("qos%d/#", qos)}
			r.got = map[string][]int{}
			r.held = map[uint16]bool{}
			r.start(r.session)
			receivers = append(receivers, r)
		}
	}
	testkit.Eventually(t, "all are subscribed", func() bool {
		for _, r := range receivers {
			if !r.ready() {
				return false
			}
		}
		return true
	})
	var publishers []*publisher
	for qos := byte(1); qos <= 2; qos++ {
		for i := range 3 {
			s := &publisher{peer: peer{t: t, addr: addr, id: fmt.Sprintf("publisher %d %d", qos, i)}, qos: qos, topic: fmt.Sprintf("qos%d/%d", qos, i)}
			s.start(s.session)
			publishers = append(publishers, s)
		}
	}
	for range kills {
		time.Sleep(50*time.Millisecond + rand.N(150*time.Millisecond))
		p.kill()
		p.start()
	}
	for _, s := range publishers {
		s.stopNew()
	}
	sum := 0
	for _, s := range publishers {
		testkit.Eventually(t, s.id+" has all its answers", s.done)
		sum += s.number
	}
	for _, r := range receivers {
		for _, s := range publishers {
			if s.qos == r.qos {
				testkit.Eventually(t, fmt.Sprintf("%s has all of %s", r.id, s.id), func() bool { return t.Failed() || r.newest(s.topic) >= s.number })
			}
		}
	}
	for _, s := range publishers {
		s.end()
	}
	repeated := 0
	for _, r := range receivers {
		r.end()
		for topic, numbers := range r.got {
			newest := 0
			for _, n := range numbers {
				switch {
				case n == newest+1:
					newest = n
				case n <= newest && r.qos == 1:
					repeated++
				case n <= newest:
					t.Errorf("%s: %d of %s came twice", r.id, n, topic)
				default:
					t.Errorf("%s: %d of %s came after %d", r.id, n, topic, newest)
					newest = n
				}
			}
		}
	}
	t.Logf("%d messages acknowledged across %d kills; %d QoS 1 messages came again", sum, kills, repeated)
	if sum < 1000 {
		t.Error("hardly anything was acknowledged: this test shows nothing")
	}
}

// peer is a client that keeps its session and connects again and again.
type peer struct {
	t    *testing.T
	addr string
	id   string

	mu       sync.Mutex
	conn     *mqttest.Client
	sessions int // how often it had to begin anew
	stopped  bool
	wg       sync.WaitGroup
}

func (p *peer) start(session func(c *mqttest.Client, present bool) error) {
	p.wg.Go(func() {
		for {
			c, present, code, err := mqttest.Connect(p.addr, mqttest.Options{ID: p.id, Keep: true})
			p.mu.Lock()
			if p.conn = nil; err == nil && code == 0 {
				p.conn = c
				if !present {
					p.sessions++
				}
			}
			stopped, sessions := p.stopped, p.sessions
			p.mu.Unlock()
			if sessions > 1 {
				p.t.Errorf("%s: the broker lost the session", p.id)
			}
			if stopped || sessions > 1 {
				if err == nil {
					c.Close()
				}
				return
			}
			if err == nil && code == 0 {
				_ = session(c, present)
			}
			if err == nil {
				c.Close()
			}
			time.Sleep(5 * time.Millisecond)
		}
	})
	p.t.Cleanup(p.end)
}

func (p *peer) end() {
	p.mu.Lock()
	p.stopped = true
	if p.conn != nil {
		p.conn.Close()
	}
	p.mu.Unlock()
	p.wg.Wait()
}

// publisher sends numbers with a window, each again until it is answered.
type publisher struct {
	peer
	qos   byte
	topic string

	// peer.mu guards these.
	number int // sent last
	open   []unanswered
	lastID uint16
	noMore bool
}

type unanswered struct {
	id       uint16
	number   int
	received bool // PUBREC came
}

func (s *publisher) stopNew() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.noMore = true
}

func (s *publisher) done() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.open) == 0
}

func (s *publisher) session(c *mqttest.Client, _ bool) error {
	s.mu.Lock()
	again := append([]unanswered(nil), s.open...)
	s.mu.Unlock()
	for _, u := range again {
		if err := s.send(c, u, true); err != nil {
			return err
		}
	}
	for {
		for {
			const window = 8
			s.mu.Lock()
			if len(s.open) >= window || s.noMore {
				s.mu.Unlock()
				break
			}
			s.number++
			if s.lastID++; s.lastID == 0 {
				s.lastID = 1
			}
			u := unanswered{id: s.lastID, number: s.number}
			s.open = append(s.open, u)
			s.mu.Unlock()
			if err := s.send(c, u, false); err != nil {
				return err
			}
		}
		if s.done() {
			return errors.New("finished")
		}
		header, body, err := c.Reader.Next()
		if err != nil {
			return err
		}
		id := be.BigEndian.Uint16(body)
		switch wire.Type(header >> 4) {
		case wire.PUBREC:
			s.mu.Lock()
			for i := range s.open {
				if s.open[i].id == id {
					s.open[i].received = true
				}
			}
			s.mu.Unlock()
			if err := c.Ack(wire.PUBREL, id); err != nil {
				return err
			}
		case wire.PUBACK, wire.PUBCOMP:
			s.mu.Lock()
			for i := range s.open {
				if s.open[i].id == id {
					s.open = append(s.open[:i], s.open[i+1:]...)
					break
				}
			}
			s.mu.Unlock()
		}
	}
}

func (s *publisher) send(c *mqttest.Client, u unanswered, dup bool) error {
	if u.received {
		return c.Ack(wire.PUBREL, u.id)
	}
	return c.Send(wire.Publish{Topic: s.topic, Payload: fmt.Append(nil, u.number), QoS: s.qos, PacketID: u.id, Dup: dup})
}

// receiver notes what comes, QoS 2 messages by the rules of section 4.3.3.
type receiver struct {
	peer
	qos   byte
	topic string

	// peer.mu guards these.
	subscribed bool
	got        map[string][]int
	held       map[uint16]bool // QoS 2 ids that were not released
}

func (r *receiver) ready() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.subscribed
}

func (r *receiver) newest(topic string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	newest := 0
	for _, n := range r.got[topic] {
		newest = max(newest, n)
	}
	return newest
}

func (r *receiver) session(c *mqttest.Client, present bool) error {
	if !present {
		if _, err := c.Subscribe(r.topic, r.qos); err != nil {
			return err
		}
		r.mu.Lock()
		r.subscribed = true
		r.mu.Unlock()
	}
	for {
		header, body, err := c.Reader.Next()
		if err != nil {
			return err
		}
		switch wire.Type(header >> 4) {
		case wire.PUBLISH:
			var m wire.Publish
			if err := wire.DecodePublish(&m, wire.V311, header, body, ""); err != nil {
				return err
			}
			var n int
			_, _ = fmt.Sscan(string(m.Payload), &n)
			r.mu.Lock()
			if m.QoS != 2 || !r.held[m.PacketID] {
				r.got[m.Topic] = append(r.got[m.Topic], n)
			}
			if m.QoS == 2 {
				r.held[m.PacketID] = true
			}
			r.mu.Unlock()
			answer := wire.PUBACK
			if m.QoS == 2 {
				answer = wire.PUBREC
			}
			if err := c.Ack(answer, m.PacketID); err != nil {
				return err
			}
		case wire.PUBREL:
			id := be.BigEndian.Uint16(body)
			r.mu.Lock()
			delete(r.held, id)
			r.mu.Unlock()
			if err := c.Ack(wire.PUBCOMP, id); err != nil {
				return err
			}
		}
	}
}
