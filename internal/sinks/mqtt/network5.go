package mqtt

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"event2mqtt/internal/journal"
	"event2mqtt/internal/mqttclient"
	"event2mqtt/internal/sinks"
	"event2mqtt/internal/wire"
)

// This file is the way to a broker in the network with MQTT 5. What the broker
// says that it does not take is not sent; what it refuses is in refusals.go.

// terms are what a broker does not take of what is configured, which is left out
// then. They are forgotten with the sink.
type terms struct {
	// Of Run: of the will, by the index of the broker.
	noRetain map[int]bool
	maxQoS   map[int]byte

	mu   sync.Mutex
	told map[string]bool // what was said of a broker
}

// sayOnce says what is left out for a broker.
func (s *Sink) sayOnce(broker *url.URL, text string) {
	s.terms.mu.Lock()
	key := broker.Redacted() + ": " + text
	first := !s.terms.told[key]
	if first && s.terms.told == nil {
		s.terms.told = map[string]bool{}
	}
	s.terms.told[key] = true
	s.terms.mu.Unlock()
	if first {
		s.opt.Log.Warn().Msgf("mqtt: %s", s.keys().of(key))
	}
}

// fiveLink is a link to a broker that speaks MQTT 5.
type fiveLink struct {
	sink   *Sink
	broker *url.URL
	client *mqttclient.Client
	limits mqttclient.Limits
	mail   mailbox
}

// dialFive connects once. A broker that takes no retained will, or not with its
// QoS, says so, and gets one that it takes.
func (s *Sink) dialFive(ctx context.Context, will bool) (link, error) {
	for range 3 { // both, and then as it wants it
		l, err := s.dialFiveOnce(ctx, will)
		var refused *mqttclient.Refused
		switch {
		case err == nil:
			return l, nil
		case !will || !errors.As(err, &refused) || !s.easeWill(refused.Code):
			return nil, err
		}
	}
	return nil, errors.New("the broker does not take the last will, whatever its QoS is and whether it is retained (" + s.keys().config + "will)")
}

// easeWill reports whether the will can be made such as a broker wants it that
// has refused it.
func (s *Sink) easeWill(code wire.Code) bool {
	t, at, w := &s.terms, s.next, s.willOf(s.next)
	switch {
	case code == wire.RetainNotSupported && w.Retain:
		if t.noRetain == nil {
			t.noRetain = map[int]bool{}
		}
		t.noRetain[at] = true
		s.sayOnce(s.brokers[at], "the broker takes no retained messages; the last will is left without (mqtt.will.retain)")
	case code == wire.QoSNotSupported && w.QoS > 0:
		if t.maxQoS == nil {
			t.maxQoS = map[int]byte{}
		}
		t.maxQoS[at] = w.QoS - 1
		s.sayOnce(s.brokers[at], fmt.Sprintf("the broker does not take QoS %d; the last will is left with less (mqtt.will.qos)", w.QoS))
	default:
		return false
	}
	return true
}

// willOf is the will for a broker, as far as it takes it.
func (s *Sink) willOf(broker int) *wire.Will {
	w := s.opt.Config.Will
	p := wire.Publish{Topic: s.willTopic, Payload: []byte(w.Offline), QoS: byte(w.QoS), Retain: w.Retain && !s.terms.noRetain[broker]}
	if most, known := s.terms.maxQoS[broker]; known {
		p.QoS = min(p.QoS, most)
	}
	return &wire.Will{Publish: p}
}

func (s *Sink) dialFiveOnce(ctx context.Context, will bool) (*fiveLink, error) {
	l := &fiveLink{sink: s, broker: s.brokers[s.next]}
	l.mail = mailbox{queue: make(chan sinks.Incoming, incomingQueue), tooFast: s.tooFast}
	o, err := s.ownOptions()
	if err != nil {
		return nil, err
	}
	o.Skipped, o.Message = s.tooLarge, func(p *wire.Publish) {
		select {
		case l.mail.queue <- sinks.Incoming{Topic: p.Topic, Payload: bytes.Clone(p.Payload), Retained: p.Retain, Received: time.Now()}:
		default:
			l.mail.tooFast(p.Topic)
		}
	}
	if will {
		o.Will = s.willOf(s.next)
	}
	if l.client, err = s.connectOwn(ctx, l.broker, o); err != nil {
		return nil, err
	}
	if l.limits = l.client.Limits(); l.limits.ClientID != o.ClientID {
		s.opt.Log.Debug().Str("client_id", shorten(l.limits.ClientID)).Msg("mqtt: the broker has assigned a client id")
	}
	l.mail.reading.Go(func() { l.mail.read(ctx, l.client.Done(), s.hear) }) // close waits for it
	return l, nil
}

// ownOptions are those of a connection, without what is heard on it.
func (s *Sink) ownOptions() (mqttclient.Options, error) {
	c := s.opt.Config
	account, err := s.account()
	if err != nil {
		return mqttclient.Options{}, err
	}
	return mqttclient.Options{
		Version: byte(s.protocol), ClientID: account.id, Username: account.user, HasUser: account.user != "", Password: []byte(account.password), HasPassword: account.password != "",
		KeepAlive: c.KeepAlive, Timeout: c.Timeout, PingTimeout: s.doubt.longest(c.Timeout), // a ping waits behind what is being sent
		Window: c.InFlight + stateWindow + 8, MaxIncoming: maxIncoming,
	}, nil
}

// connectOwn opens a connection and has the broker accept it.
func (s *Sink) connectOwn(ctx context.Context, broker *url.URL, o mqttclient.Options) (*mqttclient.Client, error) {
	how, err := s.clientOptions(broker)
	if err != nil {
		return nil, err
	}
	conn, err := open(ctx, broker, *how)
	if err != nil {
		return nil, err
	}
	client, err := mqttclient.Connect(ctx, conn, o)
	var frame *websocket.CloseError // how the end of a connection is told over WebSocket
	if errors.As(err, &frame) {
		err = fmt.Errorf("%w: %w", mqttclient.ErrSilent, err)
	}
	return client, err
}

// publish implements link. What the broker has said that it does not take is
// made such as it takes it, if that can be.
func (l *fiveLink) publish(ctx context.Context, m message) ticket {
	p := wire.Publish{Topic: m.topic, Payload: m.payload, QoS: m.qos, Retain: m.retain}
	if most := l.limits.MaximumQoS; p.QoS > most {
		l.sink.sayOnce(l.broker, fmt.Sprintf("the broker takes QoS %d at most; what is to be published with more is published with that", most))
		p.QoS = most
	}
	if p.Retain && !l.limits.Retain {
		l.sink.sayOnce(l.broker, "the broker keeps no retained messages; they are published without that, and who subscribes later does not get them")
		if p.Retain = false; len(p.Payload) == 0 {
			return done{} // there is nothing to clear
		}
	}
	var room [256]byte
	l.describe(&p, m.entry, room[:0])
	most := uint64(l.limits.MaximumPacket)
	if own := uint64(l.sink.opt.Config.MaxPacket); own > 0 && (most == 0 || own < most) {
		most = own
	}
	if most > 0 && uint64(wire.PublishSize(wire.V5, &p)) > most {
		p.Properties = nil // it may just fit without
	}
	t, err := l.client.Publish(ctx, &p)
	var large *mqttclient.TooLarge
	switch {
	case errors.As(err, &large):
		return done{fmt.Errorf("%w: %w", sinks.ErrNeverTaken, err)}
	case err != nil:
		return done{err}
	}
	return t
}

// describe adds what MQTT 5 tells of an event beside its payload, in room.
func (l *fiveLink) describe(p *wire.Publish, e *journal.Entry, room []byte) {
	if e == nil {
		return
	}
	if !e.Route.Raw && bytes.HasPrefix(p.Payload, []byte("{")) {
		room = wire.AppendContentType(wire.AppendIsText(room), "application/json")
	}
	room = wire.AppendUserProperty(room, "source", e.Source)
	room = wire.AppendUserProperty(room, "event", e.Name)
	p.Properties = wire.AppendUserProperty(room, "id", l.sink.opt.ID(e.Seq))
	p.Expiry = cmp.Or(e.Route.Expiry, uint32(l.sink.publish.Load().MessageExpiry/time.Second))
	p.HasExpiry = p.Expiry > 0
}

// subscribe implements link, with QoS 0 as that of networkLink.
func (l *fiveLink) subscribe(ctx context.Context, filter string) error {
	if !l.limits.Wildcards && strings.ContainsAny(filter, "+#") {
		return fmt.Errorf("%w to %s: it allows no wildcards", errNotGranted, filter)
	}
	err := l.client.Subscribe(ctx, filter, 0)
	var refused *mqttclient.Refused
	switch {
	case errors.As(err, &refused):
		return fmt.Errorf("%w to %s: %w", errNotGranted, filter, err)
	case err != nil:
		return fmt.Errorf("subscribe to %s: %w", filter, err)
	}
	return nil
}

// unsubscribe implements link. Whether the broker knew the subscription does
// not matter.
func (l *fiveLink) unsubscribe(ctx context.Context, filter string) error {
	err := l.client.Unsubscribe(ctx, filter)
	if err != nil && !isAnswer(err) {
		return fmt.Errorf("unsubscribe from %s: %w", filter, err)
	}
	return nil
}

func (l *fiveLink) hold()                          { l.client.Hold() }
func (l *fiveLink) release()                       { l.client.Release() }
func (l *fiveLink) down() <-chan struct{}          { return l.client.Done() }
func (l *fiveLink) err() error                     { return l.client.Err() }
func (l *fiveLink) moved() time.Time               { return l.client.Moved() }
func (l *fiveLink) ping(ctx context.Context) error { return l.client.Ping(ctx) }

func (l *fiveLink) close() {
	l.client.Close(wire.Success, closeTimeout)
	l.mail.reading.Wait()
}

// probeFive is probe with MQTT 5.
func (s *Sink) probeFive(ctx context.Context, broker *url.URL) error {
	o, err := s.ownOptions()
	if err != nil {
		return err
	}
	back, text := make(chan struct{}, 1), strings.ToLower(rand.Text())
	o.ClientID = s.beside(o.ClientID, "-check") // the bridge that runs keeps its connection
	o.Message = func(p *wire.Publish) {
		if string(p.Payload) == text {
			select {
			case back <- struct{}{}:
			default:
			}
		}
	}
	client, err := s.connectOwn(ctx, broker, o)
	if err != nil {
		return errors.New(s.explain(err, broker))
	}
	defer client.Close(wire.Success, 100*time.Millisecond)
	if s.opt.Config.bare() {
		return nil
	}
	name := s.opt.Publish.BaseTopic + "/bridge/check"
	fails := func(what string, err error) error {
		if ctx.Err() != nil {
			return fmt.Errorf("connected, but the broker does not answer when asked to %s %s", what, name)
		}
		return fmt.Errorf("connected, but cannot %s %s: %w", what, name, err)
	}
	if err := client.Subscribe(ctx, name, 1); err != nil {
		return fails("subscribe to", err)
	}
	t, err := client.Publish(ctx, &wire.Publish{Topic: name, QoS: min(1, client.Limits().MaximumQoS, byte(s.opt.Config.MaxQoS)), Payload: []byte(text)})
	if err != nil {
		return fails("publish to", err)
	}
	select {
	case <-t.Done():
		if err := t.Error(); err != nil {
			return fails("publish to", err)
		}
	case <-ctx.Done():
		return fails("publish to", ctx.Err())
	}
	select {
	case <-back:
		return nil
	case <-client.Done():
		return errors.New("connected, but " + s.explain(client.Err(), broker))
	case <-ctx.Done():
		return fmt.Errorf("connected, but a message published to %s did not come back; may this user publish there, and subscribe?", name)
	}
}
