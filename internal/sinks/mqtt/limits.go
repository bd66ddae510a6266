package mqtt

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"event2mqtt/internal/config"
	"event2mqtt/internal/sinks"
)

// This file is what a destination does not take, as the configuration has it:
// hosted brokers discard what is beyond their limits, or close the connection.

// neverRetains reports whether nothing is retained at the broker.
func (c *Connection) neverRetains() bool { return c.Retain == retainNever }

const retainNever = "never"

// limit brings the options within what the destination takes.
func (c *Config) limit() {
	c.Will.QoS = min(c.Will.QoS, c.MaxQoS)
	c.Will.Retain = c.Will.Retain && !c.neverRetains()
}

// cap brings the flags of a message within what the destination takes.
func (c *Connection) cap(m *message) {
	m.qos = min(m.qos, byte(c.MaxQoS))
	m.retain = m.retain && !c.neverRetains()
}

// fits tells why a message is larger, or its topic deeper, than the destination
// takes; the error wraps sinks.ErrNeverTaken.
func (c *Connection) fits(m *message) error {
	if size := packetSize(m); c.MaxPacket > 0 && size > int64(c.MaxPacket) {
		return fmt.Errorf("%w: it takes %d bytes on the way, and max_packet of this destination is %s", sinks.ErrNeverTaken, size, c.MaxPacket)
	}
	if c.MaxTopicLevels > 0 {
		if n := strings.Count(m.topic, "/") + 1; n > c.MaxTopicLevels {
			return fmt.Errorf("%w: its topic has %d levels, and max_topic_levels of this destination is %d", sinks.ErrNeverTaken, n, c.MaxTopicLevels)
		}
	}
	return nil
}

// packetSize is that of a PUBLISH packet of MQTT 3.1.1 (section 3.3), in bytes.
func packetSize(m *message) int64 {
	body := int64(2 + len(m.topic) + len(m.payload))
	if m.qos > 0 {
		body += 2
	}
	head := int64(2)
	for n := body >> 7; n > 0; n >>= 7 {
		head++
	}
	return head + body
}

// pace is how fast messages may go out, over all connections: a broker counts
// what comes right after an outage, too. nil is as fast as can be.
type pace struct {
	every time.Duration // a message
	slack time.Duration // that a burst may be ahead

	mu   sync.Mutex
	next time.Time // when the next one is due; mu guards it
}

// newPace makes one of the options; what is wrong with them was told.
func newPace(c *Connection) *pace {
	every, err := parseRate(c.Rate)
	if err != nil || every == 0 {
		return nil
	}
	return &pace{every: every, slack: time.Duration(max(c.Burst, 1)-1) * every}
}

// reserve takes a turn, and returns how long to wait for it (the generic cell
// rate algorithm).
func (p *pace) reserve(now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.next.Before(now) {
		p.next = now
	}
	wait := p.next.Sub(now) - p.slack
	p.next = p.next.Add(p.every)
	return wait
}

// wait waits for a turn; late is called if that takes time, and may be nil. The
// error is that of ctx; the turn is given back then.
func (p *pace) wait(ctx context.Context, late func()) error {
	if p == nil {
		return nil
	}
	d := p.reserve(time.Now())
	if d <= 0 {
		return nil
	}
	if late != nil {
		late()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		p.giveBack()
		return ctx.Err()
	}
}

// giveBack is for a turn that was reserved and not taken.
func (p *pace) giveBack() {
	p.mu.Lock()
	p.next = p.next.Add(-p.every)
	p.mu.Unlock()
}

// parseRate reads NUMBER/UNIT, such as 50/s, 30/min or 1/15s, and returns how long
// there is for each message; "" is 0, which is no limit.
func parseRate(text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	number, unit, _ := strings.Cut(text, "/")
	per, known := map[string]time.Duration{"s": time.Second, "m": time.Minute, "min": time.Minute, "h": time.Hour}[strings.TrimSpace(unit)]
	var err error
	if !known {
		per, err = config.ParseDuration(strings.TrimSpace(unit))
	}
	n, wrong := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if err != nil || wrong != nil || !(n > 0) || per <= 0 {
		return 0, errNoRate
	}
	every := float64(per) / n
	if every < float64(time.Microsecond) || every > float64(24*time.Hour) {
		return 0, errNoRate
	}
	return time.Duration(every), nil
}

var errNoRate = errors.New("is not a rate; write a number and a time, such as 50/s, 30/min or 1/15s, which is between one a day and a million a second")

// parsePins reads fingerprints of certificates: sha256: and 64 hexadecimal digits,
// with or without colons between.
func parsePins(texts []string) (pins [][sha256.Size]byte, err error) {
	for _, text := range texts {
		digits, ok := strings.CutPrefix(strings.ToLower(strings.TrimSpace(text)), "sha256:")
		b, wrong := hex.DecodeString(strings.ReplaceAll(digits, ":", ""))
		if !ok || wrong != nil || len(b) != sha256.Size {
			return nil, fmt.Errorf("%q is not sha256: and the 64 digits that \"openssl x509 -in FILE -noout -fingerprint -sha256\" shows", text)
		}
		pins = append(pins, [sha256.Size]byte(b))
	}
	return pins, nil
}

// pinned has a connection checked by the fingerprint of the broker's certificate
// alone.
func pinned(c *tls.Config, pins [][sha256.Size]byte) {
	c.InsecureSkipVerify = true // VerifyConnection checks
	c.VerifyConnection = func(state tls.ConnectionState) error {
		if len(state.PeerCertificates) == 0 {
			return errors.New("the broker shows no certificate")
		}
		got := sha256.Sum256(state.PeerCertificates[0].Raw)
		if !slices.Contains(pins, got) {
			return &pinError{got}
		}
		return nil
	}
}

// pinError says that the broker's certificate is none of the pinned ones.
type pinError struct{ got [sha256.Size]byte }

func (e *pinError) Error() string {
	return fmt.Sprintf("the broker's certificate has the fingerprint sha256:%x, which is not pinned", e.got)
}
