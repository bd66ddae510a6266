package mqtt

import (
	"errors"
	"fmt"
	"time"

	"event2mqtt/internal/health"
	"event2mqtt/internal/retry"
)

// This file is how the sink comes back after a failure, and what it says of it.

// comeback counts failures. A list of brokers is gone through without a pause;
// the pause between two rounds grows.
type comeback struct {
	rounds retry.Loop
	// keeping is for an event that cannot be kept: it is the disk that one
	// waits for then, not the broker.
	keeping  retry.Loop
	attempts int      // since the last success
	idle     bool     // the last connection ended without trouble
	said     []string // of each broker, what was logged last
}

// steady is how long a connection must have lasted for the failures before it
// to be forgotten. Two bridges with one client id, which end each other's
// connections, so slow down instead of racing.
const steady = 10 * time.Second

// longestOfList bounds the pause between two rounds of a list of brokers: a
// cluster is back within seconds of a node's death.
const longestOfList = 5 * time.Second

func newComeback(brokers int, pause time.Duration) comeback {
	var longest time.Duration // that of retry.Loop
	if brokers > 1 {
		longest = max(longestOfList, pause)
	}
	return comeback{
		rounds:  retry.Loop{Min: pause, Max: longest, Steady: steady},
		keeping: retry.Loop{Min: pause, Max: 8 * time.Second, Steady: steady},
		said:    make([]string, max(brokers, 1)),
	}
}

// hurry makes the next pause short. What was said is not forgotten.
func (c *comeback) hurry() {
	c.rounds.Reset()
	c.attempts = 0
}

// report notes that a session has ended, after it lasted so long, says so if
// the broker's last one did not end for the same reason, and returns how long
// to pause.
func (s *Sink) report(err error, lasted time.Duration) (pause time.Duration) {
	c := &s.back
	if lasted >= steady {
		c.hurry()
		c.keeping.Reset()
		clear(c.said)
	}
	if s.endedIdle(err) {
		c.idle = true
		s.opt.Log.Debug().Msg("mqtt: the service has ended the connection, which was idle; connecting again")
		pause, _ = c.rounds.Next(err, lasted)
		return pause
	}
	c.attempts++
	text, at := "the bundled broker: "+fmt.Sprint(err), s.next
	if n := len(s.brokers); n > 0 {
		broker := s.brokers[at]
		text = broker.Redacted() + ": " + s.explain(err, broker)
		s.next = (at + 1) % n
	}
	s.setHealth(health.Trouble(errors.New(text)))
	if errors.Is(err, errNotKept) {
		pause, _ = c.keeping.Next(err, lasted)
		return pause // skip has said it
	}
	if text != c.said[at] {
		c.said[at] = text
		s.opt.Log.Warn().Msgf("mqtt: %s; events wait in the journal, and are sent when it works again", text)
	}
	if n := len(s.brokers); n > 1 && c.attempts%n != 0 {
		return 0
	}
	pause, _ = c.rounds.Next(err, lasted)
	return pause
}

// connected notes a success and says so, once.
func (s *Sink) connected() {
	s.connections.Add(1)
	if len(s.brokers) == 0 {
		s.setHealth(health.Running("publishing to the bundled broker"))
		return
	}
	at := s.brokers[s.next].Redacted()
	s.setHealth(health.Running("connected to " + at))
	if s.stuck() {
		return // it was said, and comes again every few seconds
	}
	log := s.opt.Log.Info()
	if s.back.idle {
		log = s.opt.Log.Debug() // nothing was said of the end, either
	}
	s.back.idle = false
	if n := s.back.attempts; n > 0 {
		log = log.Int("attempts", n+1)
	}
	log.Msgf("mqtt: connected to %s", at)
}
