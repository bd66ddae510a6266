package broker

import (
	"time"

	"event2mqtt/internal/wire"
)

// This file is the life of sessions: how connections find theirs, and when
// they end.

// open finds or makes the session for a CONNECT and ties c to it. It ends a
// connection that the client id has already.
func (b *Broker) open(c *conn, p *wire.Connect) (present bool, err error) {
	var due *delayedWill
	for {
		b.mu.Lock()
		if b.closed {
			b.mu.Unlock()
			return false, &wire.Error{Code: wire.ShuttingDown, Reason: "shutting down"}
		}
		s := b.sessions[keyOf(c.grant.User, p.ClientID)]
		if s != nil {
			s.mu.Lock()
			old := s.conn
			s.mu.Unlock()
			if old != nil {
				c.takesFrom(old)
				b.mu.Unlock()
				old.shut(wire.TakenOver, "another client connected with this id")
				select {
				case <-old.done:
				case <-b.stop:
				}
				continue
			}
		}
		if b.accounts != nil { // they may have changed since the login
			rules, ok := b.accounts.Still(c.grant, p.ClientID, c.addr)
			if !ok {
				b.mu.Unlock()
				return false, &wire.Error{Code: wire.ServerBusy, Reason: b.accountChanged(c.grant) + "; try again"}
			}
			c.grant.Rules = rules
		}
		if len(b.conns)-b.pending >= b.limit().Clients {
			b.counters.refused.Add(1)
			b.warn("clients").Int("max_clients", b.limit().Clients).Msg("broker: as many clients as allowed are connected; refusing more")
			b.mu.Unlock()
			return false, &wire.Error{Code: wire.ServerBusy, Reason: "as many clients as allowed are connected"}
		}
		if s != nil {
			if s.timer != nil {
				s.timer.Stop()
			}
			if w := s.will; w != nil && w.timer.Stop() && p.CleanStart {
				due = w // its session ends here (3.1.2.5)
			}
			s.will = nil
			if p.CleanStart {
				b.endLocked(s)
				s = nil
			}
		}
		present = s != nil
		if s == nil {
			if s, err = b.newSessionLocked(c, p); err != nil {
				b.mu.Unlock()
				return false, err
			}
		}
		s.expiry, s.expires = p.SessionExpiry, time.Time{}
		c.session = s
		c.admittedLocked()
		s.attach(c)
		b.storeOpen(s)
		b.mu.Unlock()
		if due != nil {
			b.publishWill(due.session, due.Will)
		}
		return present, nil
	}
}

// newSessionLocked makes a session. b.mu is held.
func (b *Broker) newSessionLocked(c *conn, p *wire.Connect) (*session, error) {
	if len(b.sessions) >= b.limit().Sessions {
		b.warn("sessions").Int("sessions", b.limit().Sessions).Msg("broker: as many sessions as allowed are kept; refusing new clients")
		return nil, &wire.Error{Code: wire.QuotaExceeded, Reason: "as many sessions as allowed are kept"}
	}
	stored := p.SessionExpiry > 0
	if stored && b.store != nil && b.store.behind() {
		return nil, &wire.Error{Code: wire.ServerUnavailable, Reason: errNotStored.Error()}
	}
	if stored && b.store != nil {
		// One that was not taken up after a restart must not come back in it.
		b.store.mu.Lock()
		b.store.submit(recordEnd, appendString(nil, keyOf(c.grant.User, p.ClientID)))
		b.store.mu.Unlock()
	}
	s := &session{id: p.ClientID, key: keyOf(c.grant.User, p.ClientID), user: c.grant.User, stored: stored, total: &b.queued, unreleased: &b.unreleased}
	b.sessions[s.key] = s
	return s, nil
}

// delayedWill is a will that is published unless its session is taken up.
type delayedWill struct {
	*wire.Will
	session *session
	timer   *time.Timer
}

// release unties a connection that ended from its session, which ends too or
// waits to be taken up again. It publishes the will, now or when it is due.
func (b *Broker) release(c *conn, will *wire.Will) {
	s := c.session
	b.mu.Lock()
	s.detach()
	expiry := time.Duration(s.expiry) * time.Second
	delay := time.Duration(0)
	if will != nil {
		delay = min(time.Duration(will.Delay)*time.Second, expiry)
	}
	if b.closed {
		will = nil // nobody is left to hear it
	}
	if will != nil && delay > 0 {
		s.will = &delayedWill{will, s, time.AfterFunc(delay, func() { b.publishWill(s, will) })}
	}
	if expiry == 0 {
		b.endLocked(s)
	} else {
		s.expires = time.Now().Add(expiry)
		b.expireLater(s)
		b.storeOpen(s)
	}
	b.mu.Unlock()
	if will != nil && delay == 0 {
		b.publishWill(s, will)
	}
}

// expireLater ends an offline session when its time is over. b.mu is held.
func (b *Broker) expireLater(s *session) {
	s.timer = time.AfterFunc(time.Until(s.expires), func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if s.conn == nil && b.sessions[s.key] == s && !time.Now().Before(s.expires) {
			b.counters.expired.Add(1)
			b.endLocked(s)
		}
	})
}

// endLocked ends a session. b.mu is held.
func (b *Broker) endLocked(s *session) {
	delete(b.sessions, s.key)
	if s.timer != nil {
		s.timer.Stop()
	}
	s.mu.Lock()
	filters := s.filters
	s.filters = nil
	s.mu.Unlock()
	for filter := range filters {
		b.subs.remove(filter, s)
		b.subs.weight.Add(-int64(weight(filter)))
	}
	if b.store != nil && s.stored {
		b.store.mu.Lock()
		defer b.store.mu.Unlock()
		b.store.submit(recordEnd, appendString(nil, s.key))
	}
	s.end()
}

// storeOpen notes that a session was taken up or left. b.mu is held.
func (b *Broker) storeOpen(s *session) {
	if b.store != nil && s.stored {
		b.store.mu.Lock()
		defer b.store.mu.Unlock()
		b.store.submit(recordOpen, appendHeader(nil, s))
	}
}

// sweep ends what has expired among the retained messages, once a minute.
func (b *Broker) sweep() {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-b.stop:
			return
		case now := <-tick.C:
			for _, m := range b.retained.all() {
				if m.expired(now) {
					b.retained.remove(m)
				}
			}
		}
	}
}
