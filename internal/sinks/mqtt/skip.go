package mqtt

import (
	"errors"
	"fmt"
	"time"

	"event2mqtt/internal/journal"
	"event2mqtt/internal/refused"
)

// This file is what becomes of an event that the broker will never take.

// errNotKept wraps why an event that is to be skipped cannot be kept.
var errNotKept = errors.New("an event that cannot be published cannot be kept either, so it is not skipped")

// skip keeps an event that will never be taken, counts it, and says so. One
// that cannot be kept is not skipped, which is said once, until that works.
func (s *Sink) skip(e *journal.Entry, topic, reason string) error {
	if s.opt.Refused != nil {
		if err := s.opt.Refused.Keep(refused.Event{
			ID: s.opt.ID(e.Seq), Sink: s.opt.Name, Refused: time.Now(), Reason: reason, Topic: shorten(topic),
			Name: e.Name, Source: e.Source, Time: e.Time, Route: e.Route, Payload: e.Payload,
		}); err != nil {
			return s.notKept(e, reason, fmt.Errorf("%w: %w", errNotKept, err))
		}
	}
	s.mu.Lock()
	s.skipped++
	s.mu.Unlock()
	s.tellHealth()
	s.opt.Log.Error().Str("event", e.Name).Str("source", e.Source).Str("id", s.opt.ID(e.Seq)).Int("bytes", len(e.Payload)).Str("topic", shorten(topic)).Str("reason", reason).
		Msg("mqtt: this event cannot be published and is skipped; \"event2mqtt refused\" lists what was skipped, and sends it again")
	return nil
}

// notKept notes err, which is why an event could not be kept, and returns it.
func (s *Sink) notKept(e *journal.Entry, reason string, err error) error {
	s.mu.Lock()
	first := s.unkept == ""
	s.unkept, s.unkeptSeq = err.Error()+"; no event behind it is sent until it can be kept", e.Seq
	s.mu.Unlock()
	s.tellHealth()
	if first {
		s.opt.Log.Error().Str("event", e.Name).Str("source", e.Source).Str("id", s.opt.ID(e.Seq)).Str("reason", reason).
			Msgf("mqtt: %s; no event behind it is sent until it can be kept: see to it that the folder exists, has room and can be written to; event2mqtt tries again every few seconds", err)
	}
	return err
}

// ack moves the cursor. What could not be kept is over with that, whether it
// was skipped at last or taken.
func (s *Sink) ack(in *journal.Cursor, seq uint64) {
	in.Ack(seq)
	s.mu.Lock()
	over := s.unkept != "" && seq >= s.unkeptSeq
	if over {
		s.unkept, s.unkeptSeq = "", 0
	}
	s.mu.Unlock()
	if over {
		s.tellHealth()
	}
}

// stuck reports whether there is an event that can be neither sent nor kept.
func (s *Sink) stuck() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.unkept != ""
}
