package broker

import (
	"fmt"
	"slices"
	"strings"

	"event2mqtt/internal/wire"
)

// This file handles SUBSCRIBE and UNSUBSCRIBE.

func (c *conn) subscribe(body []byte) error {
	p, err := wire.DecodeSubscribe(c.version, body, c.b.limit().Subscriptions)
	if err != nil {
		return err
	}
	if err := c.fits(wire.SUBACK, len(p.Filters)); err != nil {
		return err
	}
	codes := make([]wire.Code, len(p.Filters))
	var due []retainedDue
	for i, f := range p.Filters {
		if f.NoLocal && strings.HasPrefix(f.Filter, "$share/") {
			return &wire.Error{Code: wire.ProtocolError, Reason: "no local on a shared subscription"} // MQTT-3.8.3-4
		}
		if codes[i] = c.subscribable(f.Filter); codes[i] == wire.Success {
			codes[i] = wire.Code(f.QoS)
			if d, ok := c.addFilter(f, p.SubscriptionID); ok {
				due = append(due, d)
			}
		}
	}
	// The SUBACK is queued before the retained messages.
	c.acks = wire.AppendSuback(c.acks, c.version, wire.SUBACK, p.PacketID, codes)
	c.flushAcks()
	s := c.session
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.due)+len(due) > maxDue {
		return &wire.Error{Code: wire.QuotaExceeded, Reason: "more subscriptions than retained messages are taken for"}
	}
	s.due = append(s.due, due...)
	c.wakeWriter()
	return nil
}

// fits refuses a request whose answer would be larger than the client takes,
// before anything is done (MQTT-3.1.2-24).
func (c *conn) fits(answer wire.Type, filters int) error {
	if size := wire.SubackSize(c.version, answer, filters); c.maxSend > 0 && size > c.maxSend {
		return &wire.Error{Code: wire.PacketTooLarge, Reason: fmt.Sprintf("the %s to %d filters has %d bytes and the client takes at most %d; it has to ask for fewer at a time", answer, filters, size, c.maxSend)}
	}
	return nil
}

// wantsRetained reports whether a subscription is to be sent what is retained.
func wantsRetained(f wire.Filter, fresh bool) bool {
	return (f.RetainHandling == 0 || f.RetainHandling == 1 && fresh) && !strings.HasPrefix(f.Filter, "$share/")
}

// subscribable returns why a filter is refused, or Success.
func (c *conn) subscribable(filter string) wire.Code {
	s := c.session
	s.mu.Lock()
	_, known := s.filters[filter]
	more := s.weight + weight(filter)
	s.mu.Unlock()
	total := int(c.b.subs.weight.Load())
	_, rest, ok := splitShared(filter)
	switch {
	case !ok || !c.b.subscribable(rest):
		return wire.BadFilter
	case !known && (more > c.b.limit().Subscriptions || total > sharedSubscriptions*c.b.limit().Subscriptions):
		c.b.warn("subscriptions "+s.key).Str("client", s.id).Int("max_subscriptions", c.b.limit().Subscriptions).Msg("broker: a client has as many subscriptions as allowed; refusing more")
		return wire.QuotaExceeded
	case !known && !c.sound():
		return wire.QuotaExceeded
	}
	if rules := s.rules.Load(); rules != nil && !rules.MayReadSome(rest) {
		c.b.counters.denied.Add(1)
		c.b.warn("read "+s.key+" "+filter).Str("client", s.id).Str("user", s.user).Str("filter", filter).Msg("broker: a subscription was refused: its user may read nothing of it")
		return wire.NotAuthorized
	}
	return wire.Success
}

// addFilter subscribes the session, and tells whether what is retained is due.
func (c *conn) addFilter(f wire.Filter, id uint32) (due retainedDue, isDue bool) {
	s, r := c.session, &c.b.retained
	sub := subscription{f.QoS, f.NoLocal, f.RetainAsPublished, id}
	if c.b.store != nil && s.stored {
		c.b.store.mu.Lock()
		defer c.b.store.mu.Unlock()
	}
	r.mu.RLock()
	fresh := c.b.subs.set(f.Filter, s, sub)
	turn := r.turn
	r.mu.RUnlock()
	s.mu.Lock()
	if s.filters == nil {
		s.filters = map[string]subscription{}
	}
	before, known := s.filters[f.Filter]
	if !known {
		s.weight += weight(f.Filter)
		c.b.subs.weight.Add(int64(weight(f.Filter)))
	}
	s.filters[f.Filter] = sub
	s.mu.Unlock()
	isDue = wantsRetained(f, fresh)
	if c.b.store != nil && s.stored && (before != sub || !known || c.sound()) { // else nothing has changed
		rec := appendSubscription(appendString(nil, s.key), f.Filter, sub, isDue)
		c.ticket = c.ticket.then(c.b.store.submit(recordSubscribe, rec))
	}
	return retainedDue{f.Filter, f.QoS, id, turn}, isDue
}

func (c *conn) unsubscribe(body []byte) error {
	p, err := wire.DecodeUnsubscribe(c.version, body, c.b.limit().Subscriptions)
	if err != nil {
		return err
	}
	if err := c.fits(wire.UNSUBACK, len(p.Filters)); err != nil {
		return err
	}
	codes := make([]wire.Code, len(p.Filters))
	for i, f := range p.Filters {
		if !c.removeFilter(f) {
			codes[i] = wire.NoSubscriptionExisted
		}
	}
	c.acks = wire.AppendSuback(c.acks, c.version, wire.UNSUBACK, p.PacketID, codes)
	return nil
}

func (c *conn) removeFilter(filter string) bool {
	s := c.session
	if c.b.store != nil && s.stored {
		c.b.store.mu.Lock()
		defer c.b.store.mu.Unlock()
	}
	if !c.b.subs.remove(filter, s) {
		return false
	}
	s.mu.Lock()
	delete(s.filters, filter)
	s.weight -= weight(filter)
	c.b.subs.weight.Add(-int64(weight(filter)))
	gone := func(d retainedDue) bool { return d.filter == filter }
	s.due = slices.DeleteFunc(s.due, gone)
	s.mu.Unlock()
	if c.b.store != nil && s.stored {
		c.ticket = c.ticket.then(c.b.store.submit(recordUnsubscribe, appendString(appendString(nil, s.key), filter)))
	}
	return true
}
