package broker

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// This file is subscriptions of the program itself: sessions without a
// connection, which are never stored.

// Delivery is a message as a subscription of the program itself is given it.
type Delivery struct {
	Topic   string
	Payload []byte // other subscribers have the same one: it must not be changed
	QoS     byte   // it was published with
	// Retain is whether it was published with the retain flag, also if the
	// subscription was there already (retain as published, section 3.8.3.1 of
	// MQTT 5).
	Retain bool
	// Stored is whether it had been retained before the subscription was made
	// (3.3.1.3), so that nothing can be said of how late it comes.
	Stored bool
	// User and Client are the user name and the client id of who published it,
	// or whose will it is. User is empty for an anonymous client. Both are
	// empty for what the program itself has published; Client also for what
	// was retained before the program started.
	User, Client string
	// Received is when the broker had read it; zero for what was retained
	// before the program started.
	Received time.Time
}

// Bounds of what waits for one subscription of the program itself. One message
// is always accepted, whatever its size.
const (
	insideMessages = 256
	insideBytes    = 1 << 20
)

// Subscribe gives every message whose topic matches filter to use, on one
// goroutine and in order: first what is retained, then what is published from
// now on. No account restricts it, and a filter that begins with a wildcard
// does not match the $SYS topics (4.7.2). use should return soon: what is
// published while the queue is full is dropped, counted in Stats.Dropped and
// logged, and nobody who publishes waits for use.
//
// When cancel returns, use has returned and is not called again; cancel may be
// called more than once, but not from use. Close has the same effect, and drops
// what waits. The error says what is wrong with the filter, or is ErrClosed.
func (b *Broker) Subscribe(filter string, use func(Delivery)) (cancel func(), err error) {
	if strings.HasPrefix(filter, "$share/") || !b.subscribable(filter) {
		return nil, fmt.Errorf("subscribe to %q: not a topic filter, a shared one, too long or too deep", filter)
	}
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil, ErrClosed
	}
	b.wg.Add(1) // before Close can wait
	b.mu.Unlock()
	i := &inside{b: b, filter: filter, use: use, queue: make(chan arrival, insideMessages), ended: make(chan struct{}), finished: make(chan struct{})}
	s := &session{inside: i}
	stored := b.subscribeInside(filter, s)
	go func() {
		defer b.wg.Done()
		defer close(i.finished)
		i.run(stored)
	}()
	return sync.OnceFunc(func() {
		b.subs.remove(filter, s)
		close(i.ended)
		<-i.finished
	}), nil
}

// subscribeInside subscribes s and returns what was retained at that moment,
// but for what its publishers may no longer retain.
func (b *Broker) subscribeInside(filter string, s *session) (stored []*Message) {
	r := &b.retained
	r.mu.RLock()
	defer r.mu.RUnlock()
	b.subs.set(filter, s, subscription{qos: 2, retainAsPublished: true})
	sources := sources{b: b}
	r.each(filter, r.turn, func(m *Message) {
		if sources.may(m) {
			stored = append(stored, m)
		}
	})
	return stored
}

// inside is where the messages for a subscription of the program itself wait.
type inside struct {
	b        *Broker
	filter   string
	use      func(Delivery)
	queue    chan arrival
	bytes    atomic.Int64 // in queue
	ended    chan struct{}
	finished chan struct{} // closed by run's goroutine
}

// arrival is a message that waits.
type arrival struct {
	message *Message
	queued  time.Duration // since the broker began
}

// put queues a message, or reports false if there is no room. It never waits.
func (i *inside) put(m *Message) bool {
	size := int64(m.size())
	if before := i.bytes.Add(size) - size; before == 0 || before+size <= insideBytes {
		select {
		case i.queue <- arrival{m, i.b.sinceBegan()}:
			return true
		default:
		}
	}
	i.bytes.Add(-size)
	return false
}

// run gives messages to use until the subscription or the broker ends.
func (i *inside) run(stored []*Message) {
	for n, m := range stored {
		if i.over() {
			return
		}
		i.deliver(m, true, m.arrived)
		stored[n] = nil // it may be replaced meanwhile
	}
	for {
		select {
		case a := <-i.queue:
			i.bytes.Add(-int64(a.message.size()))
			if i.over() { // select may prefer the queue
				return
			}
			at := a.message.arrived
			if at == 0 { // the program itself has published it
				at = a.queued
			}
			i.deliver(a.message, false, at)
		case <-i.ended:
			return
		case <-i.b.stop:
			return
		}
	}
}

func (i *inside) over() bool {
	select {
	case <-i.ended:
		return true
	case <-i.b.stop:
		return true
	default:
		return false
	}
}

// deliver gives a message to use, unless it has expired (MQTT-3.3.2-5). arrived
// is as in Message.
func (i *inside) deliver(m *Message, stored bool, arrived time.Duration) {
	if m.expired(time.Now()) {
		return
	}
	d := Delivery{Topic: m.Topic, Payload: m.Payload, QoS: m.QoS, Retain: m.Retain, Stored: stored, User: m.source, Client: m.client}
	if arrived > 0 {
		d.Received = i.b.began.Add(arrived)
	}
	i.use(d)
}

// tellDropped says that a message was dropped.
func (i *inside) tellDropped() {
	i.b.warn("inside "+i.filter).Str("filter", i.filter).Msg("broker: messages for event2mqtt itself come faster than it takes them; the newest are dropped")
}

// sinceBegan is the monotonic time since the broker began, and never 0. It is
// kept in place of a time.Time because it takes a third of the memory.
func (b *Broker) sinceBegan() time.Duration { return max(1, time.Since(b.began)) }
