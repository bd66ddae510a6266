package bridge

import (
	"context"
	"slices"
	"strings"
	"sync"

	"event2mqtt/internal/sinks"
)

// ears share what the main sink hears among those who want to hear something.
// The zero value is ready.
type ears struct {
	mu sync.Mutex // held while a link is told
	of map[sinks.Talker]*heard
}

// hearing is what one listener wants to hear.
type hearing struct {
	filters []string
	use     func(sinks.Incoming)
}

// heard is what all want to hear of one link.
type heard [listeners]hearing

// Who listens.
const (
	commandsListen = iota
	discoveryListens
	listeners
)

// ear is a link for one listener. Equal ones are the same link.
type ear struct {
	ears *ears
	link sinks.Talker
	who  int
}

// earOn is a link to hear on for one listener; nil is none.
func (e *ears) earOn(link sinks.Talker, who int) sinks.Talker {
	if link == nil {
		return nil
	}
	return ear{e, link, who}
}

// Hear implements sinks.Talker.
func (e ear) Hear(filters []string, use func(sinks.Incoming)) {
	e.ears.mu.Lock()
	defer e.ears.mu.Unlock()
	all := e.ears.of[e.link]
	if all == nil {
		all = &heard{}
	}
	next := *all // those who hear have the one before
	next[e.who] = hearing{filters, use}
	if e.ears.of == nil {
		e.ears.of = map[sinks.Talker]*heard{}
	}
	e.ears.of[e.link] = &next
	var wanted []string
	for _, h := range next {
		wanted = append(wanted, h.filters...)
	}
	if len(wanted) == 0 {
		delete(e.ears.of, e.link)
		e.link.Hear(nil, nil)
		return
	}
	e.link.Hear(wanted, next.take)
}

// Say implements sinks.Talker.
func (e ear) Say(ctx context.Context, topic string, payload []byte) error {
	return e.link.Say(ctx, topic, payload)
}

// take gives a message to those who want it.
func (all *heard) take(in sinks.Incoming) {
	level := strings.LastIndexByte(in.Topic, '/') + 1
	for _, h := range all {
		if slices.Contains(h.filters, in.Topic) || slices.Contains(h.filters, in.Topic[:level]+"+") {
			h.use(in)
		}
	}
}
