package broker

import (
	"context"
	"slices"
	"strings"
	"time"

	"event2mqtt/internal/wire"
)

// This file is what is told of clients and retained messages to people, and what
// they may do with them.

// Client is one that is connected.
type Client struct {
	ID, User  string
	Address   string // with the port
	Version   byte   // of the protocol: 3, 4 or 5
	Kept      bool   // its session outlives the connection
	KeepAlive time.Duration
	// Filters are the first of its subscriptions, sorted, at most maxFilters;
	// Subscriptions is how many there are.
	Filters       []string
	Subscriptions int
	Queue         int       // messages that wait, or are on the way
	Since         time.Time // of the connection
	Will          string    // the topic of its last will, empty if it has none
}

// maxFilters bounds what is told of one client's subscriptions.
const maxFilters = 100

// Clients returns those that are connected, sorted by their ids.
func (b *Broker) Clients() []Client {
	b.mu.Lock()
	all := make([]Client, 0, len(b.conns))
	for _, s := range b.sessions {
		s.mu.Lock()
		if c := s.conn; c != nil {
			one := Client{
				ID: s.id, User: s.user, Address: c.nc.RemoteAddr().String(), Version: c.version, Kept: s.expiry > 0,
				KeepAlive: c.timeout * 2 / 3, Subscriptions: len(s.filters), Queue: s.queue.len() + len(s.inflight), Since: c.born, Will: c.will,
			}
			for filter := range s.filters {
				one.Filters = append(one.Filters, filter)
			}
			all = append(all, one)
		}
		s.mu.Unlock()
	}
	b.mu.Unlock()
	for i := range all {
		slices.Sort(all[i].Filters)
		all[i].Filters = slices.Clip(all[i].Filters[:min(len(all[i].Filters), maxFilters)])
	}
	slices.SortFunc(all, func(x, y Client) int { return strings.Compare(x.ID+"\x00"+x.User, y.ID+"\x00"+y.User) })
	return all
}

// Kick ends the connections of a client id, with reason 0x98 (MQTT 5, 3.14.2.1),
// and reports whether there was one. Different users may have the same id; a
// user that is not empty chooses.
func (b *Broker) Kick(id, user string) bool {
	var found []*conn
	b.mu.Lock()
	for _, s := range b.sessions {
		if s.id != id || user != "" && s.user != user {
			continue
		}
		s.mu.Lock()
		if s.conn != nil {
			found = append(found, s.conn)
		}
		s.mu.Unlock()
	}
	b.mu.Unlock()
	for _, c := range found {
		c.shut(wire.AdministrativeAction, "disconnected by an administrator")
	}
	return len(found) > 0
}

// Retained calls use with each message that is retained and whose topic begins
// with a prefix, in the order of topics, until it returns false. Topics that
// begin with $ are only given to a prefix that does.
func (b *Broker) Retained(prefix string, use func(Delivery) bool) {
	now := time.Now()
	var found []*Message
	for _, m := range b.retained.all() {
		if strings.HasPrefix(m.Topic, prefix) && !m.expired(now) && (prefix != "" || !strings.HasPrefix(m.Topic, "$")) {
			found = append(found, m)
		}
	}
	slices.SortFunc(found, func(x, y *Message) int { return strings.Compare(x.Topic, y.Topic) })
	for _, m := range found {
		d := Delivery{Topic: m.Topic, Payload: m.Payload, QoS: m.QoS, Retain: true, Stored: true, User: m.source, Client: m.client}
		if m.arrived > 0 {
			d.Received = b.began.Add(m.arrived)
		}
		if !use(d) {
			return
		}
	}
}

// Unretain removes what a topic retains, as a client would: those who have
// subscribed get an empty message. It reports whether there was something. The
// error is ctx's.
func (b *Broker) Unretain(ctx context.Context, topic string) (bool, error) {
	if b.retained.get(topic) == nil {
		return false, nil
	}
	_, err := b.Publish(ctx, &Message{Topic: topic, QoS: 1, Retain: true})
	return err == nil, err
}
