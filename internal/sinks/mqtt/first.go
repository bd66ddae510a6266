package mqtt

import (
	"context"
	"errors"
	"time"

	"event2mqtt/internal/wire"
)

// This file is how the sink comes back to the first broker of its list.

// errBackToFirst ends a connection since the first broker is there again.
var errBackToFirst = errors.New("the first broker is there again")

// awaitFirst returns true once the first broker of the list takes messages, and
// false when ctx ends, or if it is the one that is connected to, or nobody wants
// to know.
func (s *Sink) awaitFirst(ctx context.Context) bool {
	every := s.opt.Config.PreferFirst
	if every == 0 || s.next == 0 || len(s.brokers) < 2 {
		return false
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return false
		}
		err := s.tryFirst(ctx)
		if err == nil {
			return true
		}
		if ctx.Err() == nil {
			s.opt.Log.Debug().Msgf("mqtt: the first broker is not there yet: %s", s.explain(err, s.brokers[0]))
		}
	}
}

// tryFirst returns nil if the first broker takes a harmless message: a node of a
// cluster may let clients in long before it can do that. The client id is
// another, or a cluster would end the connection that there is.
func (s *Sink) tryFirst(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.opt.Config.Timeout)
	defer cancel()
	if s.protocol == 5 {
		return s.tryFirstFive(ctx)
	}
	o, err := s.clientOptions(s.brokers[0])
	if err != nil {
		return err
	}
	o.SetClientID(s.beside(o.ClientID, "-first"))
	client, conn, err := connect(ctx, o, s.opt.Config.Timeout, func(string, int) {})
	if err != nil {
		return err
	}
	defer client.Disconnect(0)
	m := message{topic: s.publish.Load().BaseTopic + "/bridge/check", qos: 1}
	s.opt.Config.cap(&m)
	t := client.Publish(m.topic, m.qos, false, m.payload)
	select {
	case <-t.Done():
		err = t.Error()
	case <-ctx.Done():
		return ctx.Err()
	}
	if err == nil && m.qos == 0 {
		err = conn.ping(ctx, nil) // nobody acknowledges
	}
	return err
}

// tryFirstFive is tryFirst with MQTT 5.
func (s *Sink) tryFirstFive(ctx context.Context) error {
	o, err := s.ownOptions()
	if err != nil {
		return err
	}
	o.ClientID = s.beside(o.ClientID, "-first")
	client, err := s.connectOwn(ctx, s.brokers[0], o)
	if err != nil {
		return err
	}
	defer client.Close(wire.Success, 0)
	m := message{topic: s.publish.Load().BaseTopic + "/bridge/check", qos: min(1, client.Limits().MaximumQoS)}
	s.opt.Config.cap(&m)
	t, err := client.Publish(ctx, &wire.Publish{Topic: m.topic, QoS: m.qos})
	if err != nil {
		return err
	}
	select {
	case <-t.Done():
		if err = t.Error(); isAnswer(err) {
			err = nil // one that refuses the topic is there
		}
	case <-ctx.Done():
		return ctx.Err()
	}
	if err == nil && m.qos == 0 {
		err = client.Ping(ctx) // nobody acknowledges
	}
	return err
}
