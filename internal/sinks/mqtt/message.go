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
	// entry is the event that it is of, or nil.
	entry *journal.Entry
}

// message makes one of an event. The error says why that cannot be.
func (s *Sink) message(e *journal.Entry) (m message, err error) {
	p := s.publish.Load()
	m = message{qos: byte(p.QoS), retain: e.Route.Retain, payload: e.Payload, entry: e}
	if e.Route.QoS != nil {
		m.qos = *e.Route.QoS
	}
	s.opt.Config.cap(&m)
	if p.plot != nil {
		m.payload = p.plot.single(e)
	} else if e.Route.Raw {
		if m.payload, err = event.Raw(e.Payload); err != nil {
			return m, err
		}
	} else if m.payload = s.addFields(p, e); p.payload != nil {
		if m.payload, err = s.render(p, e, m.payload); err != nil {
			return m, err
		}
	}
	m.topic, err = p.topicOf(e)
	switch {
	case err != nil:
	case s.heard(m.topic):
		err = errOwn
	case (e.Route.Outside || e.Route.Topic == "" && !p.apart) && s.reserved(p.BaseTopic, m.topic, event.OwnSource):
		err = fmt.Errorf("%w, and no event may choose it; change %sevent_topic, or the topic of the rule", errOwnTopic, p.keys.publish)
	}
	return m, err
}

// maxRendered bounds what a template makes of an event, in bytes.
const maxRendered = 64 << 20

// render makes an event's payload with the template of the configuration.
func (s *Sink) render(p *publishing, e *journal.Entry, payload []byte) ([]byte, error) {
	whole := *e
	whole.Payload = payload
	text, fits := p.payload.Append(nil, &whole, s.opt.ID(e.Seq), maxRendered)
	if !fits {
		return nil, fmt.Errorf("%spayload makes more than %d bytes of it", p.keys.publish, maxRendered)
	}
	return text, nil
}

// addFields returns an event's payload with its source and its id, as far as they
// are configured.
func (s *Sink) addFields(p *publishing, e *journal.Entry) []byte {
	payload := e.Payload
	if field := p.SourceField; field != "" {
		payload = event.Set(payload, field, string(event.String(e.Source))) // in place of one that a sender has made up
	}
	if field := p.IDField; field != "" {
		payload = event.AddField(payload, field, s.opt.ID(e.Seq))
	}
	return payload
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
	m := message{qos: qos, retain: retain}
	s.opt.Config.cap(&m)
	return name, m.qos, m.retain
}

func (p *publishing) topicOf(e *journal.Entry) (string, error) {
	if p.plot != nil {
		return p.plot.topic, nil
	}
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
