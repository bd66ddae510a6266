package mqtt

import (
	"fmt"

	"event2mqtt/internal/event"
	"event2mqtt/internal/journal"
	"event2mqtt/internal/topic"
)

// message is what is published.
type message struct {
	topic   string
	qos     byte
	retain  bool
	payload []byte
	// again says that it is published again on each connection, so that it does
	// not matter if the broker loses it in a crash.
	again bool
}

// message makes one of an event. The error says why that cannot be.
func (s *Sink) message(e *journal.Entry) (m message, err error) {
	p := s.publish.Load()
	m = message{qos: byte(p.QoS), retain: e.Route.Retain, payload: e.Payload}
	if e.Route.QoS != nil {
		m.qos = *e.Route.QoS
	}
	if field := p.SourceField; field != "" {
		m.payload = event.Set(m.payload, field, string(event.String(e.Source))) // in place of one that a sender has made up
	}
	if field := p.IDField; field != "" {
		m.payload = event.AddField(m.payload, field, s.opt.ID(e.Seq))
	}
	m.topic, err = p.topicOf(e)
	switch {
	case err != nil:
	case s.heard(m.topic):
		err = errOwn
	case (e.Route.Outside || e.Route.Topic == "" && !p.apart) && s.reserved(p.BaseTopic, m.topic, event.OwnSource):
		err = fmt.Errorf("%w, and no event may choose it; change publish.event_topic, or the topic of the rule", errOwnTopic)
	}
	return m, err
}

func (p *publishing) topicOf(e *journal.Entry) (string, error) {
	if e.Route.Topic != "" {
		return e.Route.Topic, nil
	}
	return p.template.Render(topic.Values{Event: e.Name, Source: e.Source, Payload: e.Payload})
}

// Topic implements trace.Router.
func (s *Sink) Topic(e *journal.Entry) string {
	name, _ := s.publish.Load().topicOf(e)
	return name
}
