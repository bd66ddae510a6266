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
	if e.Route.Raw {
		if m.payload, err = event.Raw(e.Payload); err != nil {
			return m, err
		}
	} else if field := p.IDField; field != "" {
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

// Route is how an event is published, as far as it can be: the topic is empty if
// it cannot.
func (s *Sink) Route(e *journal.Entry) (name string, qos byte, retain bool) {
	p := s.publish.Load()
	name, _ = p.topicOf(e)
	qos, retain = byte(p.QoS), e.Route.Retain
	if e.Route.QoS != nil {
		qos = *e.Route.QoS
	}
	return name, qos, retain
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
