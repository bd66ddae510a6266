package mqtt

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	"event2mqtt/internal/journal"
	"event2mqtt/internal/mqttclient"
	"event2mqtt/internal/sinks"
	"event2mqtt/internal/wire"
)

// This file is what the sink makes of the reason codes of MQTT 5. A code that is
// about the message has it skipped at once; nothing needs to be found out as in
// careful.go. One that passes has everything wait.

// refusals are what brokers have refused by a reason code.
type refusals struct {
	unheard atomic.Uint64 // events that nobody had subscribed to

	mu    sync.Mutex
	tries map[thing]int // of what was refused without a reason that says for how long
	// Of an event that is to be skipped and cannot be kept yet: nothing of it is
	// sent again, nor of those behind it.
	seq    uint64
	reason error
}

// maxTries bounds the things that are counted.
const maxTries = 256

// of returns why an event is not to be sent again, or nil.
func (r *refusals) of(seq uint64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.reason != nil && r.seq == seq {
		return r.reason
	}
	return nil
}

// holds reports whether there is an event that waits to be kept.
func (r *refusals) holds() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.reason != nil
}

// again counts a refusal, and reports whether the thing is to be tried again.
func (r *refusals) again(what thing) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.tries == nil || len(r.tries) >= maxTries {
		r.tries = map[thing]int{}
	}
	r.tries[what]++
	if r.tries[what] < certain {
		return true
	}
	delete(r.tries, what)
	return false
}

// verdict is what a reason code says of a message.
type verdict byte

const (
	unclear verdict = iota // it may be taken the next time; not for ever
	never                  // it is the same each time
	later                  // it is nothing about the message
)

var verdicts = map[wire.Code]verdict{
	wire.NotAuthorized: never, wire.BadTopic: never, wire.BadPayload: never, wire.PacketTooLarge: never,
	wire.RetainNotSupported: never, wire.QoSNotSupported: never,
	wire.QuotaExceeded: later, wire.MessageRateTooHigh: later, wire.ServerBusy: later, wire.ServerUnavailable: later,
	wire.ShuttingDown: later, wire.RateExceeded: later, wire.UseAnotherServer: later, wire.ServerMoved: later,
}

// judge returns what an answer means for a thing. The error wraps
// sinks.ErrNeverTaken if it will never be taken.
func (s *Sink) judge(what thing, t ticket) error {
	err := t.Error()
	own, five := t.(*mqttclient.Ticket)
	if !five {
		return err
	}
	if err == nil {
		if what.kind == anEvent && own.Code() == wire.NoMatchingSubscribers && s.refusals.unheard.Add(1) == 1 {
			s.opt.Log.Info().Msg("mqtt: the broker says that nobody has subscribed to an event; it was delivered. How many there were is in the sink's health")
			s.tellHealth()
		}
		return nil
	}
	var refused *mqttclient.Refused
	if !errors.As(err, &refused) {
		return err
	}
	switch verdicts[refused.Code] {
	case later:
		return err
	case unclear:
		if s.refusals.again(what) {
			return err
		}
		return fmt.Errorf("%w, as it has said %d times: %w", sinks.ErrNeverTaken, certain, err)
	}
	return fmt.Errorf("%w: %w%s", sinks.ErrNeverTaken, err, s.keys().of(advice[refused.Code]))
}

// advice is what can be done about a message that was refused.
var advice = map[wire.Code]string{
	wire.NotAuthorized:      "; allow this user to publish to the topic at the broker, or change the topic (publish.event_topic, or that of a rule)",
	wire.BadTopic:           "; change the topic (publish.event_topic, or that of a rule)",
	wire.PacketTooLarge:     "; raise the broker's largest packet",
	wire.RetainNotSupported: "; publish it without retain",
	wire.QoSNotSupported:    "; publish it with a lower QoS (publish.qos, or that of a rule)",
}

// mayRefuse returns what is to be kept of an event until the broker has
// answered: with MQTT 5 the answer may be no.
func (s *Sink) mayRefuse(e *journal.Entry) *journal.Entry {
	if s.protocol != 5 || len(s.brokers) == 0 {
		return nil
	}
	kept := *e
	return &kept
}

// settle skips an event that the broker has said it will never take. err is that
// of wait; without one, there is nothing to do.
func (s *Sink) settle(m *sent, err error) error {
	if err == nil || m.event == nil || !errors.Is(err, sinks.ErrNeverTaken) {
		return err
	}
	m.qos = 0 // nothing was taken
	unkept := s.skip(m.event, m.topic, err.Error())
	r := &s.refusals
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seq, r.reason = 0, nil
	if unkept != nil {
		r.seq, r.reason = m.seq, err
	}
	return unkept
}

// isAnswer reports whether an error is an answer of the broker on a connection
// that is as well as before.
func isAnswer(err error) bool {
	var refused *mqttclient.Refused
	return errors.As(err, &refused) || errors.Is(err, sinks.ErrNeverTaken)
}

// blameless reports whether a connection has ended for a reason that has nothing
// to do with what was on its way.
func (s *Sink) blameless(err error) bool {
	var told *mqttclient.Disconnected
	if errors.Is(err, errNotKept) {
		return s.refusals.holds() // it is the folder then, not the connection
	}
	if !errors.As(err, &told) {
		return isAnswer(err)
	}
	switch told.Code {
	case wire.ShuttingDown, wire.TakenOver, wire.KeepAliveTimeout, wire.ServerBusy, wire.ServerUnavailable, wire.AdministrativeAction,
		wire.UseAnotherServer, wire.ServerMoved, wire.MaximumConnectTime, wire.QuotaExceeded, wire.MessageRateTooHigh, wire.RateExceeded,
		wire.ReceiveMaxExceeded, wire.Banned:
		return true
	}
	return false
}

// of is a text with the options of the main sink as those of this one.
func (k keys) of(text string) string {
	return strings.NewReplacer(mainKeys.config, k.config, mainKeys.publish, k.publish).Replace(text)
}

// keysFor are what to look at for a code with which a broker refuses or ends a
// connection, without the section.
var keysFor = map[wire.Code][]string{
	wire.BadClientID:        {"client_id"},
	wire.BadCredentials:     {"username", "password"},
	wire.NotAuthorized:      {"username", "password", "client_id"},
	wire.KeepAliveTimeout:   {"keepalive"},
	wire.TakenOver:          {"client_id"},
	wire.BadTopic:           {"will.topic"},
	wire.BadPayload:         {"will.offline"},
	wire.ReceiveMaxExceeded: {"in_flight"},
	wire.RetainNotSupported: {"will.retain"},
	wire.QoSNotSupported:    {"will.qos"},
	wire.UseAnotherServer:   {"url"},
	wire.ServerMoved:        {"url"},
}

// explainFive is explain for what only MQTT 5 says, and "" for the rest. section
// stands before each key, as in "mqtt.".
func explainFive(err error, section string) string {
	var refused *mqttclient.Refused
	var told *mqttclient.Disconnected
	hint := func(code wire.Code) string {
		keys := keysFor[code]
		if len(keys) == 0 {
			return ""
		}
		return " (" + section + strings.Join(keys, ", "+section) + ")"
	}
	switch {
	case errors.Is(err, mqttclient.ErrSilent):
		return "the broker closed the connection without an answer; one that speaks no MQTT 5 may do so, and needs " + section + "protocol: auto"
	case errors.As(err, &told):
		return told.Error() + hint(told.Code)
	case !errors.As(err, &refused):
		return ""
	case refused.Packet == wire.CONNECT && refused.Code == wire.UnsupportedVersion:
		return "the broker does not speak MQTT 5; write " + section + "protocol: auto"
	case refused.Packet == wire.CONNECT:
		return "the broker refuses the connection: " + refused.Error() + hint(refused.Code)
	case refused.Packet == wire.PUBLISH:
		return "the broker does not take a message now: " + refused.Error() + "; it is sent again after a pause"
	}
	return ""
}
