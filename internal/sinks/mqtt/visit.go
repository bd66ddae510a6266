package mqtt

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"

	"event2mqtt/internal/event"
	"event2mqtt/internal/mqttclient"
	"event2mqtt/internal/sinks"
	"event2mqtt/internal/topic"
	"event2mqtt/internal/wire"
)

// Visitor is a connection to a broker beside that of a Sink, for a command that
// looks at what the broker keeps. One goroutine uses it.
type Visitor struct {
	client  *mqttclient.Client
	broker  *url.URL
	marker  string // a topic that comes back behind what is retained
	timeout time.Duration

	mu   sync.Mutex
	uses []reader
}

// reader is who hears what matches filters.
type reader struct {
	filters []string
	use     func(m sinks.Incoming, tooLong int)
	done    func(text string) bool // takes a marker
	settled *bool                  // all that is retained has come
	last    *time.Time             // when a message came
}

// Bounds of how long is waited for what is retained: for a message that is sent
// behind the subscriptions to come back, and for a pause in what comes then.
const (
	markerPatience = 5 * time.Second
	retainedPause  = 500 * time.Millisecond
	retainedLimit  = time.Minute
)

// Visit connects to the first broker of a configuration that can be reached, with
// a client id of its own. The error is that of the last one.
func Visit(ctx context.Context, c Config, p PublishConfig) (*Visitor, error) {
	s, err := New(Options{Config: c, Publish: p}, sinks.Deps{ClientID: "event2mqtt"})
	if err != nil {
		return nil, err
	}
	err = errors.New("mqtt.url names no broker")
	for _, broker := range s.brokers {
		v := &Visitor{broker: broker, timeout: c.Timeout, marker: p.BaseTopic + "/" + event.OwnSource + "/check"}
		o, wrong := s.ownOptions()
		if wrong != nil {
			return nil, wrong
		}
		o.ClientID = s.beside(o.ClientID, "-visit")
		o.TellLarge = true
		o.Message = func(p *wire.Publish) {
			v.hear(sinks.Incoming{Topic: p.Topic, Payload: bytes.Clone(p.Payload), Retained: p.Retain, Received: time.Now()}, 0)
		}
		o.Skipped = func(topic string, bytes int) { v.hear(sinks.Incoming{Topic: topic, Retained: true}, bytes) }
		if v.client, err = s.connectOwn(ctx, broker, o); err == nil {
			return v, nil
		}
		err = fmt.Errorf("%s: %s", broker.Redacted(), s.explain(err, broker))
	}
	return nil, err
}

// Broker is the address of the broker.
func (v *Visitor) Broker() string { return v.broker.Redacted() }

// Close ends the connection.
func (v *Visitor) Close() { v.client.Close(wire.Success, closeTimeout) }

// Read gives use what is retained for filters, and returns when that is all. From
// then on use is given what is published there, until Close. tooLong is the size
// in bytes of a message that is too large to be taken, of which there is the
// topic alone, cut at 200 bytes; else it is 0. use must not wait.
func (v *Visitor) Read(ctx context.Context, filters []string, use func(m sinks.Incoming, tooLong int)) error {
	text := strings.ToLower(rand.Text())
	back := make(chan struct{}, 1)
	settled, last := false, time.Now()
	v.mu.Lock()
	v.uses = append(v.uses, reader{filters, use, func(payload string) bool {
		if payload != text {
			return false
		}
		select {
		case back <- struct{}{}:
		default:
		}
		return true
	}, &settled, &last})
	v.mu.Unlock()
	for _, filter := range append(filters[:len(filters):len(filters)], v.marker) {
		if err := v.client.Subscribe(ctx, filter, 0); err != nil {
			return fmt.Errorf("subscribe to %s: %w", filter, err)
		}
	}
	// A broker that does not allow it sends nothing back, and is waited for.
	if err := v.publish(ctx, message{topic: v.marker, qos: 1, payload: []byte(text)}); err != nil {
		return err
	}
	patience := time.NewTimer(markerPatience)
	defer patience.Stop()
	select {
	case <-back:
	case <-patience.C:
	case <-v.client.Done():
		return v.client.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
	return v.settle(ctx, &settled, &last)
}

// settle waits for a pause in what comes.
func (v *Visitor) settle(ctx context.Context, settled *bool, last *time.Time) error {
	limit := time.Now().Add(retainedLimit)
	for {
		v.mu.Lock()
		left := time.Until(last.Add(retainedPause))
		if left <= 0 || time.Now().After(limit) {
			*settled = true
			v.mu.Unlock()
			return nil
		}
		v.mu.Unlock()
		select {
		case <-time.After(left):
		case <-v.client.Done():
			return v.client.Err()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Clear removes what is retained for a topic, and returns when the broker has
// acknowledged that.
func (v *Visitor) Clear(ctx context.Context, at string) error {
	return v.publish(ctx, message{topic: at, qos: 1, retain: true})
}

func (v *Visitor) publish(ctx context.Context, m message) error {
	t, err := v.client.Publish(ctx, &wire.Publish{Topic: m.topic, QoS: min(m.qos, v.client.Limits().MaximumQoS), Retain: m.retain, Payload: m.payload})
	if err == nil {
		err = v.await(ctx, t)
	}
	if err != nil {
		return fmt.Errorf("publish to %s: %w", m.topic, err)
	}
	return nil
}

// await waits for an acknowledgement, for the time-out. It may be behind a message
// that is skipped.
func (v *Visitor) await(ctx context.Context, t *mqttclient.Ticket) error {
	timer := time.NewTimer(v.timeout)
	defer timer.Stop()
	for {
		select {
		case <-t.Done():
			return t.Error()
		case <-v.client.Done():
			return unanswered(t, v.client.Err())
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
			left := v.timeout - time.Since(v.client.Moved())
			if left <= 0 {
				return mqttclient.ErrNoAnswer
			}
			timer.Reset(left)
		}
	}
}

// hear gives a message to whoever reads it.
func (v *Visitor) hear(m sinks.Incoming, tooLong int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, r := range v.uses {
		switch {
		case m.Topic == v.marker:
			if r.done(string(m.Payload)) {
				*r.last = time.Now() // some brokers send both at once
				return
			}
		case *r.settled && m.Retained: // too late to be of what was retained, and nothing new
		case matchesAny(r.filters, m.Topic):
			if m.Retained {
				*r.last = time.Now()
			}
			r.use(m, tooLong)
		}
	}
}

// matchesAny reports whether a topic is one of a filter's.
func matchesAny(filters []string, at string) bool {
	for _, filter := range filters {
		if topic.Overlap(filter, at) {
			return true
		}
	}
	return false
}
