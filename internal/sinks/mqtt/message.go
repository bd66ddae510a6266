package mqtt

import (
	"event2mqtt/internal/event"
	"event2mqtt/internal/journal"
	"event2mqtt/internal/topic"
)

// message is an event as it is published.
type message struct {
	topic   string
	qos     byte
	retain  bool
	payload []byte
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
	case e.Route.Topic == "" && !p.apart && s.reserved(p.BaseTopic, m.topic, event.OwnSource):
		err = errOwnTopic
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
