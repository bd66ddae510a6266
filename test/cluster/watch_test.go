package cluster

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"event2mqtt/internal/wire"
	"event2mqtt/test/mqttest"
)

// seen is what watchers have received.
type seen struct {
	mu         sync.Mutex
	deliveries int
	at         map[string]map[int]time.Time // by source and number: first delivery
	last       time.Time
	gaps       []gap // between deliveries of new events, longer than half a second
}

// gap is a time without a new event.
type gap struct {
	from time.Time
	long time.Duration
}

func newSeen() *seen { return &seen{at: map[string]map[int]time.Time{}} }

func (s *seen) take(source string, number int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deliveries++
	if s.at[source] == nil {
		s.at[source] = map[int]time.Time{}
	}
	if _, again := s.at[source][number]; again {
		return
	}
	now := time.Now()
	s.at[source][number] = now
	if long := now.Sub(s.last); !s.last.IsZero() && long > 500*time.Millisecond {
		s.gaps = append(s.gaps, gap{s.last, long})
	}
	s.last = now
}

// distinct is how many events have come, and how often more than once.
func (s *seen) distinct() (n, doubled int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, of := range s.at {
		n += len(of)
	}
	return n, s.deliveries - n
}

// misplaced is how many events came first after one of their source that is newer.
func (s *seen) misplaced() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, of := range s.at {
		var latest time.Time
		for number := 1; number <= len(of); number++ {
			at := of[number]
			if at.Before(latest) {
				n++
			} else {
				latest = at
			}
		}
	}
	return n
}

// watch receives events through a session that the brokers keep, from the first
// broker of the list that answers, until ctx ends. subscribed is called each time
// that it is.
func watch(ctx context.Context, id string, brokers []string, s *seen, subscribed func()) {
	for i := 0; ctx.Err() == nil; i++ {
		err := watchOne(ctx, id, brokers[i%len(brokers)], s, subscribed)
		if err != nil && i%len(brokers) == len(brokers)-1 {
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
}

func watchOne(ctx context.Context, id, address string, s *seen, subscribed func()) error {
	c, err := mqttest.Dial(address, mqttest.Options{ID: id, Keep: true})
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	// Messages may come before the SUBACK: the broker has kept the session.
	if _, err := c.Write(mqttest.AppendSubscribe(nil, c.Version, 1, "event2mqtt/event/#", 1, nil)); err != nil {
		return err
	}
	for {
		_ = c.SetDeadline(time.Now().Add(15 * time.Second))
		header, body, err := c.Reader.Next()
		if err != nil {
			return err
		}
		switch wire.Type(header >> 4) {
		case wire.SUBACK:
			if body[len(body)-1] >= 0x80 {
				return nil
			}
			subscribed()
		case wire.PUBLISH:
			var p wire.Publish
			if err := wire.DecodePublish(&p, c.Version, header, append([]byte(nil), body...), ""); err != nil {
				return err
			}
			var e struct {
				Source string `json:"_source"`
				Number int    `json:"number"`
			}
			if json.Unmarshal(p.Payload, &e) == nil {
				s.take(e.Source, e.Number)
			}
			if p.QoS > 0 {
				if err := c.Ack(wire.PUBACK, p.PacketID); err != nil {
					return err
				}
			}
		}
	}
}
