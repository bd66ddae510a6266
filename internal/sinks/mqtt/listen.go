package mqtt

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"

	paho "github.com/eclipse/paho.mqtt.golang"

	"event2mqtt/internal/sinks"
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
	o, err := s.clientOptions(broker)
	if err != nil {
		return nil, nil, err
	}
	o.SetClientID(o.ClientID + "-" + strings.ToLower(rand.Text()[:6])) // others listen at the same time
	live, end := context.WithCancel(context.WithoutCancel(ctx))
	o.SetConnectionLostHandler(func(paho.Client, error) { end() })
	queue, done := make(chan sinks.Incoming), make(chan struct{})
	handle := func(_ paho.Client, m paho.Message) {
		select {
		case queue <- sinks.Incoming{Topic: m.Topic(), Payload: m.Payload(), QoS: m.Qos(), Retained: m.Retained()}:
		case <-live.Done():
		}
	}
	client, conn, err := connect(ctx, o, s.opt.Config.Timeout, func(string, int) {}) // what is too large is left out
	if err != nil {
		end()
		return nil, nil, errors.New(s.explain(err, broker))
	}
	conn.most.Store(maxHeard)
	conn.subscribed.Store(true)
	go func() { // cancel waits for it
		defer close(done)
		for {
			select {
			case m := <-queue:
				use(m)
			case <-live.Done():
				return
			}
		}
	}()
	cancel := func() {
		end()
		client.Disconnect(0)
		<-done
	}
	t := client.Subscribe(filter, 1, handle)
	select {
	case <-t.Done():
		err = t.Error()
		if sub, ok := t.(*paho.SubscribeToken); ok && err == nil && sub.Result()[filter] >= 0x80 {
			err = errors.New("the broker does not allow this subscription")
		}
	case <-ctx.Done():
		err = ctx.Err()
	case <-live.Done():
		err = errors.New("the broker has closed the connection")
	}
	if err != nil {
		cancel()
		return nil, nil, fmt.Errorf("subscribe to %s: %w", filter, err)
	}
	return live.Done(), cancel, nil
}
