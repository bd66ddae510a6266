package api

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"sync"
	"time"
	"unicode/utf8"

	"event2mqtt/internal/event"
	"event2mqtt/internal/topic"
	"event2mqtt/internal/web/problem"
)

// This file is subscribing to MQTT over HTTP.

// Bounds of what waits for one subscription.
const (
	maxArrivals      = 1024
	maxArrivalsBytes = 256 << 10
)

// arrivals are messages that wait to be written.
type arrivals struct {
	changed chan struct{} // cap 1
	taken   chan struct{} // cap 1
	ended   chan struct{}

	mu    sync.Mutex
	queue [][]byte // JSON
	bytes int
	lost  int
}

// put queues a message. What was retained waits for room: there may be a lot of
// it at once. Of what is published later, what there is no room for is lost.
func (q *arrivals) put(m Received) {
	text := m.json()
	for !q.add(text, m.Stored) {
		select {
		case <-q.taken:
		case <-q.ended:
			return
		}
	}
}

// add returns false if the message has to wait for room.
func (q *arrivals) add(text []byte, waits bool) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.queue) >= maxArrivals || len(q.queue) > 0 && q.bytes+len(text) > maxArrivalsBytes {
		if !waits {
			q.lost++
		}
		return !waits
	}
	q.queue = append(q.queue, text)
	q.bytes += len(text)
	signal(q.changed)
	return true
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (q *arrivals) take() (all [][]byte, lost int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	all, lost = q.queue, q.lost
	q.queue, q.bytes, q.lost = nil, 0, 0
	signal(q.taken)
	return all, lost
}

// json is the message on one line. A payload that is JSON is given as it is,
// other text as a string, and other bytes in base64.
func (m *Received) json() []byte {
	v := struct {
		Type     string          `json:"type"`
		Topic    string          `json:"topic"`
		Payload  json.RawMessage `json:"payload"`
		Encoding string          `json:"encoding"`
		QoS      byte            `json:"qos"`
		Retain   bool            `json:"retain"`
		Time     *Time           `json:"time,omitempty"`
	}{Type: "message", Topic: m.Topic, QoS: m.QoS, Retain: m.Stored || m.Retain}
	if !m.Received.IsZero() {
		v.Time = &Time{m.Received}
	}
	v.Payload, v.Encoding = encode(m.Payload)
	text, err := json.Marshal(v)
	if err != nil { // it was checked
		return []byte(`{"type":"message"}`)
	}
	return text
}

// encode is a message's payload as JSON, and how it is encoded.
func encode(payload []byte) (json.RawMessage, string) {
	switch {
	case len(payload) > 0 && event.Check(payload) == nil:
		return payload, event.EncodingJSON
	case utf8.Valid(payload):
		return event.String(string(payload)), event.EncodingPlain
	}
	return event.String(base64.StdEncoding.EncodeToString(payload)), event.EncodingBase64
}

// getSubscribe gives the messages of a topic filter: what is retained first.
func (a *API) getSubscribe(w http.ResponseWriter, c call) error {
	filter := c.param("topic")
	if !topic.ValidFilter(filter) {
		return invalid("topic is not a topic filter; write for example ?topic=event2mqtt/%23 (that is #), with %2B for +")
	}
	rights := c.who.Rights
	if rights != nil && !rights.MayReadSome(filter) {
		return problem.New(http.StatusForbidden, "the account may not subscribe to this topic")
	}
	f, ended, err := a.openFeed(w, c)
	if err != nil {
		return err
	}
	defer ended()
	q := arrivals{changed: make(chan struct{}, 1), taken: make(chan struct{}, 1), ended: make(chan struct{})}
	lost, cancel, err := a.o.Program.Subscribe(c.Context(), filter, func(m Received) {
		if rights == nil || rights.MayRead(m.Topic) {
			q.put(m)
		}
	})
	if err != nil {
		return err
	}
	defer cancel()
	defer close(q.ended)
	f.begin()
	f.say("open", string(mustJSON(map[string]string{"topic": filter})))
	f.flush()
	silent := time.NewTimer(pingEvery)
	defer silent.Stop()
	for !f.over() {
		select {
		case <-c.Context().Done():
			return nil
		case <-a.ending.Done():
			return nil
		case <-lost:
			return nil // who wants more comes again
		case <-silent.C:
			f.say("ping", "{}")
		case <-q.changed:
			all, lost := q.take()
			for _, text := range all {
				if f.over() {
					break
				}
				if f.count > 0 {
					f.count--
				}
				f.message(text)
			}
			f.gap(uint64(lost))
		}
		f.flush()
		silent.Reset(pingEvery)
	}
	return nil
}

// message writes a message.
func (f *feed) message(text []byte) {
	if f.sse {
		f.write("event: message\ndata: ", string(text), "\n\n")
	} else {
		f.write(string(text), "\n")
	}
}

func mustJSON(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // of texts and numbers alone
	}
	return text
}
