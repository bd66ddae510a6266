package mqtt

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"

	"event2mqtt/internal/sinks"
	"event2mqtt/internal/wire"
)

// This file is subscribing for others: over a connection of its own, so that
// nothing of it touches the way of the events.

// maxHeard bounds a message that somebody else has subscribed to, in bytes.
// Larger ones are skipped.
const maxHeard = 1<<20 + 64<<10

// Listen subscribes to a filter at the first broker of a configuration that
// answers, and gives its messages to use, one at a time, in order. lost is closed
// when the connection is. cancel ends it; use is not called any more when it has
// returned, and it must not be called from there.
func Listen(ctx context.Context, c Config, p PublishConfig, clientID, filter string, use func(sinks.Incoming)) (lost <-chan struct{}, cancel func(), err error) {
	s, err := New(Options{Config: c, Publish: p}, sinks.Deps{ClientID: clientID})
	if err != nil {
		return nil, nil, err
	}
	var errs []error
	for s.next = range s.brokers {
		lost, cancel, err = s.listen(ctx, filter, use)
		if err == nil {
			return lost, cancel, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", s.brokers[s.next].Redacted(), err))
	}
	return nil, nil, errors.Join(errs...)
}

func (s *Sink) listen(ctx context.Context, filter string, use func(sinks.Incoming)) (<-chan struct{}, func(), error) {
	broker := s.brokers[s.next]
	o, err := s.ownOptions()
	if err != nil {
		return nil, nil, err
	}
	o.ClientID += "-" + strings.ToLower(rand.Text()[:6]) // others listen at the same time
	o.MaxIncoming = maxHeard                             // what is larger is left out
	live, end := context.WithCancel(context.WithoutCancel(ctx))
	queue := make(chan sinks.Incoming)
	// Nothing is published here, so that nothing waits while use is slow but the
	// broker.
	o.Message = func(p *wire.Publish) {
		select {
		case queue <- sinks.Incoming{Topic: p.Topic, Payload: bytes.Clone(p.Payload), QoS: p.QoS, Retained: p.Retain}:
		case <-live.Done():
		}
	}
	client, err := s.connectOwn(ctx, broker, o)
	if err != nil {
		end()
		return nil, nil, errors.New(s.explain(err, broker))
	}
	var running sync.WaitGroup // cancel waits for it
	running.Go(func() {
		for {
			select {
			case m := <-queue:
				use(m)
			case <-live.Done():
				return
			}
		}
	})
	running.Go(func() {
		select {
		case <-client.Done():
			end()
		case <-live.Done():
		}
	})
	cancel := func() {
		end()
		client.Close(wire.Success, 0)
		running.Wait()
	}
	if err := client.Subscribe(ctx, filter, 1); err != nil {
		cancel()
		return nil, nil, fmt.Errorf("subscribe to %s: %w", filter, err)
	}
	return live.Done(), cancel, nil
}
