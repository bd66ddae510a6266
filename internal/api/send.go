package api

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"event2mqtt/internal/config"
	"event2mqtt/internal/event"
	"event2mqtt/internal/journal"
	"event2mqtt/internal/topic"
	"event2mqtt/internal/web/problem"
)

// This file is events and messages that others send.

// Bounds of what is sent.
const (
	maxMessages = 100 // in one request
	maxWait     = time.Minute
)

// accepted answers what was accepted.
type accepted struct {
	ID   string  `json:"id"`
	Seq  *uint64 `json:"seq"` // null if it is not stored
	Fate Fate    `json:"fate"`
}

// postEvent takes an event through the rules; with dry_run it tells what would
// become of it.
func (a *API) postEvent(w http.ResponseWriter, c call) error {
	text, err := body(w, c, a.o.Program.MaxPayload()+4096)
	if err != nil {
		return err
	}
	var r struct {
		Source  string          `json:"source"`
		Event   string          `json:"event"`
		Payload json.RawMessage `json:"payload"`
	}
	if err := decode(text, &r); err != nil {
		return err
	}
	if r.Event == "" {
		return invalid("event is missing: the name of the event")
	}
	wait, err := parseWait(c.param("wait"))
	if err != nil {
		return err
	}
	if truthy(c.param("dry_run")) {
		tried, err := a.o.Program.Try(r.Source, r.Event, r.Payload)
		if err != nil {
			return sendError(err)
		}
		return answer(w, http.StatusOK, tried)
	}
	sent, err := a.o.Program.Emit(c.Context(), r.Source, r.Event, r.Payload)
	if err != nil {
		return sendError(err)
	}
	a.o.Log.Debug().Str("by", c.who.Name).Str("event", short(r.Event)).Msg("api: an event was sent")
	status := a.await(c.Context(), &sent, wait)
	return answer(w, status, sent.json())
}

func (e *Emitted) json() accepted {
	out := accepted{ID: e.ID, Fate: e.Fate}
	if e.Seq > 0 {
		out.Seq = &e.Seq
	}
	return out
}

// await waits until an event is delivered, and returns the status of the answer.
func (a *API) await(ctx context.Context, e *Emitted, wait time.Duration) int {
	if wait == 0 || e.Seq == 0 || e.Delivered == nil {
		return http.StatusAccepted
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	defer context.AfterFunc(a.ending, cancel)()
	err := e.Delivered(ctx)
	switch {
	case errors.Is(err, journal.ErrDropped):
		e.Fate = Fate{State: dropped, Why: "it was given up before it was delivered, as when_full says"}
		return http.StatusOK
	case err != nil:
		return http.StatusAccepted
	}
	if _, refused := a.o.Program.RefusedIDs()[e.ID]; refused {
		if why := a.o.Program.Refusal(e.ID); why != "" {
			e.Fate = Fate{State: refusedBy, Why: why}
			return http.StatusOK
		}
	}
	ms := float64(time.Since(began).Microseconds()) / 1000
	e.Fate = Fate{State: delivered, MS: &ms}
	return http.StatusOK
}

func parseWait(text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	d, err := config.ParseDuration(text)
	if err != nil || d > maxWait {
		return 0, invalid(fmt.Sprintf("wait=%q is not a time of at most %s; write for example 5s", text, maxWait))
	}
	return d, nil
}

func truthy(text string) bool { return text != "" && text != "0" && text != "false" }

// sendError tells the sender why an event is not accepted.
func sendError(err error) error {
	var p *problem.Details
	refused, never := errors.AsType[*event.Refused](err)
	switch {
	case errors.As(err, &p):
		return p
	case never && refused.TooLarge:
		return problem.New(http.StatusRequestEntityTooLarge, refused.Reason)
	case never:
		return invalid(refused.Reason)
	case errors.Is(err, journal.ErrFull), errors.Is(err, journal.ErrClosed):
		return &problem.Details{
			Status: http.StatusServiceUnavailable, Title: http.StatusText(http.StatusServiceUnavailable), RetryAfter: 5 * time.Second,
			Detail: "events cannot be stored just now: " + err.Error(),
		}
	case errors.Is(err, context.Canceled):
		return err
	}
	return problem.New(http.StatusServiceUnavailable, "events cannot be stored just now: "+err.Error())
}

// messageRequest is a message to be published.
type messageRequest struct {
	Topic    string          `json:"topic"`
	Payload  json.RawMessage `json:"payload"`
	Encoding string          `json:"encoding"`
	QoS      *int            `json:"qos"`
	Retain   bool            `json:"retain"`
}

// message checks a request.
func (r *messageRequest) message() (m Message, err error) {
	m = Message{Topic: r.Topic, QoS: 1, Retain: r.Retain}
	if r.QoS != nil {
		if *r.QoS < 0 || *r.QoS > 2 {
			return m, invalid(fmt.Sprintf("qos is %d; there are 0, 1 and 2", *r.QoS))
		}
		m.QoS = byte(*r.QoS)
	}
	if err := checkTopic(r.Topic); err != nil {
		return m, err
	}
	var s string
	isText := json.Unmarshal(r.Payload, &s) == nil && string(r.Payload) != "null"
	m.Encoding = cmp.Or(r.Encoding, map[bool]string{true: event.EncodingPlain, false: event.EncodingJSON}[isText])
	switch {
	case len(r.Payload) == 0 && r.Encoding == "":
		m.Encoding = event.EncodingPlain
	case len(r.Payload) == 0:
		return m, invalid("payload is missing; an empty one is \"\"")
	case m.Encoding == event.EncodingJSON:
		m.Payload = r.Payload
	case m.Encoding != event.EncodingPlain && m.Encoding != event.EncodingBase64:
		return m, invalid(fmt.Sprintf("encoding is %q; there are json, plain and base64", short(m.Encoding)))
	case !isText:
		return m, invalid("payload is no string, as encoding " + m.Encoding + " needs")
	case m.Encoding == event.EncodingPlain:
		m.Payload = []byte(s)
	default:
		if m.Payload, err = base64.StdEncoding.DecodeString(s); err != nil {
			return m, invalid("payload is not base64: " + err.Error())
		}
	}
	return m, nil
}

// checkTopic tells what is wrong with a topic that somebody publishes to.
func checkTopic(name string) error {
	if err := topic.CheckName(name); err != nil {
		return invalid(err.Error())
	}
	return nil
}

// postPublish stores a message, or several.
func (a *API) postPublish(w http.ResponseWriter, c call) error {
	text, err := body(w, c, maxMessages*4096+a.o.Program.MaxPayload()*2)
	if err != nil {
		return err
	}
	wait, err := parseWait(c.param("wait"))
	if err != nil {
		return err
	}
	if trimmed := strings.TrimLeft(string(text[:min(len(text), 64)]), " \t\r\n"); !strings.HasPrefix(trimmed, "[") {
		var r messageRequest
		if err := decode(text, &r); err != nil {
			return err
		}
		sent, status, err := a.publish(c, &r, wait)
		if err != nil {
			return err
		}
		return answer(w, status, sent)
	}
	var all []messageRequest
	if err := decode(text, &all); err != nil {
		return err
	}
	if len(all) == 0 || len(all) > maxMessages {
		return invalid(fmt.Sprintf("there are %d messages; 1 to %d are allowed", len(all), maxMessages))
	}
	type result struct {
		Status int `json:"status"`
		*accepted
		Detail string `json:"detail,omitempty"`
	}
	results := make([]result, len(all))
	deadline := time.Now().Add(wait)
	for i := range all {
		left := time.Duration(0)
		if wait > 0 {
			left = max(time.Until(deadline), time.Nanosecond)
		}
		sent, status, err := a.publish(c, &all[i], left)
		if p, bad := errors.AsType[*problem.Details](err); bad {
			results[i] = result{Status: p.Status, Detail: p.Detail}
			continue
		} else if err != nil {
			return err
		}
		results[i] = result{Status: status, accepted: sent}
	}
	return answer(w, http.StatusOK, map[string]any{"results": results})
}

// publish stores one message, and waits for its delivery if it is to.
func (a *API) publish(c call, r *messageRequest, wait time.Duration) (*accepted, int, error) {
	m, err := r.message()
	if err != nil {
		return nil, 0, err
	}
	sent, err := a.store(c, m)
	if err != nil {
		return nil, 0, err
	}
	status := a.await(c.Context(), &sent, wait)
	out := sent.json()
	return &out, status, nil
}

// postPublishTopic stores the body as a message.
func (a *API) postPublishTopic(w http.ResponseWriter, c call) error {
	v := c.URL.Query() // the body is the payload, whatever its type says
	m := Message{Topic: c.PathValue("topic"), QoS: 1, Retain: truthy(v.Get("retain")), Encoding: event.EncodingPlain}
	if text := v.Get("qos"); text != "" {
		qos, err := strconv.ParseUint(text, 10, 8)
		if err != nil || qos > 2 {
			return invalid(fmt.Sprintf("qos=%q; there are 0, 1 and 2", text))
		}
		m.QoS = byte(qos)
	}
	if err := checkTopic(m.Topic); err != nil {
		return err
	}
	wait, err := parseWait(v.Get("wait"))
	if err != nil {
		return err
	}
	if m.Payload, err = body(w, c, a.o.Program.MaxPayload()); err != nil {
		return err
	}
	if !utf8.Valid(m.Payload) {
		m.Encoding = event.EncodingBase64
	}
	sent, err := a.store(c, m)
	if err != nil {
		return err
	}
	status := a.await(c.Context(), &sent, wait)
	return answer(w, status, sent.json())
}

// store stores a message, if the caller may publish it.
func (a *API) store(c call, m Message) (Emitted, error) {
	if c.who.Rights != nil && !c.who.Rights.MayWrite(m.Topic) {
		return Emitted{}, problem.New(http.StatusForbidden, "the account may not publish to this topic")
	}
	sent, err := a.o.Program.Publish(c.Context(), m)
	if err != nil {
		return Emitted{}, sendError(err)
	}
	return sent, nil
}
