package mqtt

import (
	"context"
	"errors"
	"time"
)

// This file is the way to the broker in this process.

// Broker is the bundled broker, as far as this sink needs it.
type Broker interface {
	// Publish returns when every subscriber's queue has the message.
	// The error wraps ErrNeverTaken if it would be the same the next time.
	Publish(ctx context.Context, topic string, payload []byte, qos byte, retain bool) (Receipt, error)
	// Subscribe gives what is retained for a filter, and what is published from
	// then on, to use on one goroutine, until cancel returns. What use does
	// not take in time is dropped. The error says what is wrong with the filter.
	Subscribe(filter string, use func(Incoming)) (cancel func(), err error)
}

// Receipt is the bundled broker's promise to keep a message.
type Receipt interface {
	// Wait returns when a crash cannot take the message any more.
	Wait() error
}

// ErrNeverTaken says that a broker refuses a message for what it is.
var ErrNeverTaken = errors.New("the broker does not take it")

// dialBundled "connects" to the broker in this process.
func (s *Sink) dialBundled(context.Context) (link, error) {
	return &bundledLink{Broker: s.opt.Bundled, tooLarge: s.tooLarge}, nil
}

type bundledLink struct {
	Broker
	tooLarge func(topic string, bytes int)
	cancels  []func() // of subscriptions
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
	receipt Receipt
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
