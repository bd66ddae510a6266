package mqtt

import (
	"context"
	"time"

	"event2mqtt/internal/sinks"
)

// This file is the way to the broker in this process.

// dialBundled "connects" to the broker in this process.
func (s *Sink) dialBundled(context.Context) (link, error) { return bundledLink{s.opt.Broker}, nil }

type bundledLink struct{ sinks.Broker }

func (l bundledLink) publish(ctx context.Context, topic string, qos byte, retain bool, payload []byte) ticket {
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

func (bundledLink) down() <-chan struct{}      { return nil }
func (bundledLink) err() error                 { return nil }
func (bundledLink) moved() time.Time           { return time.Time{} }
func (bundledLink) ping(context.Context) error { return nil }
func (bundledLink) close()                     {}
