package mqtt

import (
	"context"
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

func (l *bundledLink) publish(ctx context.Context, topic string, qos byte, retain bool, payload []byte) ticket {
	r, err := l.Publish(ctx, topic, payload, qos, retain)
	if err != nil {
		return done{err}
	}
	return &owed{receipt: r}
}

// owed is the ticket for a message that the bundled broker has yet to store.
// Whoever asks for it has it stored, together with all that came before.
type owed struct {
	receipt sinks.Receipt
	err     error
}

func (o *owed) Done() <-chan struct{} {
	if o.receipt != nil {
		o.err, o.receipt = o.receipt.Wait(), nil
	}
	return closedChannel
}

func (o *owed) Error() error { return o.err }

func (*bundledLink) down() <-chan struct{}      { return nil }
func (*bundledLink) err() error                 { return nil }
func (*bundledLink) moved() time.Time           { return time.Time{} }
func (*bundledLink) ping(context.Context) error { return nil }

func (l *bundledLink) close() {
	for _, cancel := range l.cancels {
		cancel()
	}
}
