package mqtt

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"event2mqtt/internal/sinks"
)

// This file is the way to the broker in this process.

// dialBundled "connects" to the broker in this process.
func (s *Sink) dialBundled(ctx context.Context) (link, error) {
	return &bundledLink{Broker: s.opt.Broker, ctx: ctx, sink: s, cancels: map[string]func(){}}, nil
}

type bundledLink struct {
	sinks.Broker
	ctx     context.Context // of the connection
	sink    *Sink
	taking  sync.Mutex        // held while the sink is given a message: each filter has a goroutine
	cancels map[string]func() // of subscriptions, by filter
}

// publish implements link. What clears a topic has to be on disk before it is
// acknowledged, whatever the configured QoS: the ledger forgets the topic then.
func (l *bundledLink) publish(ctx context.Context, m message) ticket {
	out := sinks.Outgoing{Topic: m.topic, Payload: m.payload, QoS: m.qos, Retain: m.retain, SaveLater: m.again}
	clears := m.retain && !m.again && len(m.payload) == 0
	if clears {
		out.QoS = max(out.QoS, 1)
	}
	r, err := l.Publish(ctx, out)
	if err != nil {
		return done{notCleared(clears, err)}
	}
	return &owed{receipt: r, clears: clears}
}

// errNotCleared wraps why the bundled broker has not cleared a topic for good,
// which is no reason to end the connection: its disk may be full.
var errNotCleared = errors.New("the topic is not cleared on disk yet")

// notCleared is err, as that of a message that clears a topic or not.
func notCleared(clears bool, err error) error {
	if !clears || err == nil || errors.Is(err, sinks.ErrNeverTaken) {
		return err
	}
	return fmt.Errorf("%w: %w", errNotCleared, err)
}

// owed is the ticket for a message that the bundled broker has yet to store.
// Whoever asks for it has it stored, together with all that came before.
type owed struct {
	receipt sinks.Receipt
	clears  bool // a topic
	err     error
}

func (o *owed) Done() <-chan struct{} {
	if o.receipt != nil {
		o.err, o.receipt = notCleared(o.clears, o.receipt.Wait()), nil
	}
	return closedChannel
}

func (o *owed) Error() error { return o.err }

func (*bundledLink) hold()                      {}
func (*bundledLink) release()                   {}
func (*bundledLink) down() <-chan struct{}      { return nil }
func (*bundledLink) err() error                 { return nil }
func (*bundledLink) moved() time.Time           { return time.Time{} }
func (*bundledLink) ping(context.Context) error { return nil }

func (l *bundledLink) close() {
	for _, cancel := range l.cancels {
		cancel()
	}
}
