package accounts

import (
	"net/netip"
	"time"
)

// This file is the guard against guessing: failed logins are counted by
// address and user name, so that a client with a wrong password does not lock
// out others behind the same router, and by address, so that nobody tries one
// name after the other.

// Bounds of what is remembered.
const (
	maxRecords = 4096
	maxLockOut = 30 * time.Minute
	// forgive is how long it takes for one failure to be forgotten.
	forgive = time.Minute
	// anyName is how many times Options.Failures an address may fail with
	// different names.
	anyName = 10
	// longestName is the most bytes of a name that are told apart: no account
	// has a longer one.
	longestName = 256
	// Who logged in before has so many tries though locked out, and one more
	// in every so long: the right password gets in, and guessing takes ages.
	tries     = 10
	nextTryIn = 10 * time.Second
)

// place is where failures are counted: an address with a name, or with any.
type place struct {
	network netip.Prefix
	name    string
	named   bool
}

// record is what is known of a place where logins failed.
type record struct {
	failures int
	last     time.Time
	until    time.Time // locked out
	locked   int       // how often
	tries    int       // used while locked out
	tried    time.Time // when tries was brought up to date
}

func placeOf(t Attempt) place {
	return place{Network(t.Address), t.User[:min(len(t.User), longestName)], true}
}

// lockedOut reports whether an attempt has to wait. a.mu is held.
func (a *Accounts) lockedOut(t Attempt) bool {
	at, now := placeOf(t), time.Now()
	for _, p := range []place{at, {network: at.network}} {
		if r := a.records[p]; r != nil && now.Before(r.until) {
			return true
		}
	}
	return false
}

// lockedOutSince reports whether an attempt has to wait for what came after it
// was looked at: who was allowed a try then keeps it. a.mu is held.
func (a *Accounts) lockedOutSince(t Attempt, since time.Time) bool {
	at, now := placeOf(t), time.Now()
	for _, p := range []place{at, {network: at.network}} {
		if r := a.records[p]; r != nil && now.Before(r.until) && r.last.After(since) {
			return true
		}
	}
	return false
}

// mayTry reports whether an attempt that is locked out is looked at all the
// same: its user logged in from its address before. a.mu is held.
func (a *Accounts) mayTry(t Attempt) bool {
	if !a.logins.has(Network(t.Address), t.User) {
		return false
	}
	r := a.record(placeOf(t))
	back := int(time.Since(r.tried) / nextTryIn)
	if back >= tries {
		r.tries, r.tried = 0, time.Now()
	} else {
		r.tries, r.tried = max(0, r.tries-back), r.tried.Add(time.Duration(back)*nextTryIn)
	}
	if r.tries >= tries {
		return false
	}
	r.tries++
	return true
}

// count notes a failure. a.mu is held.
func (a *Accounts) count(t Attempt) {
	if !t.Address.IsValid() {
		return
	}
	at := placeOf(t)
	if a.failed(at, a.opt.Failures) {
		a.opt.Log.Warn().Stringer("from", at.network).Str("user", at.name).Stringer("for", time.Until(a.records[at].until).Round(time.Second)).
			Msg("broker: locked out a user name from an address after failed logins; who logged in from there before is let in with the right password")
	}
	all := place{network: at.network}
	if a.failed(all, anyName*a.opt.Failures) {
		a.opt.Log.Warn().Stringer("from", at.network).Stringer("for", time.Until(a.records[all].until).Round(time.Second)).
			Msg("broker: locked an address out after failed logins with many user names; who logged in from there before is let in with the right password")
	}
}

// failed notes a failure at a place and reports whether it is locked out now.
// a.mu is held.
func (a *Accounts) failed(p place, limit int) bool {
	now := time.Now()
	r := a.record(p)
	if now.Before(r.until) {
		return false
	}
	r.failures = max(0, r.failures-int(now.Sub(r.last)/forgive)) + 1
	if now.Sub(r.last) > maxLockOut && now.Sub(r.until) > maxLockOut {
		r.locked = 0
	}
	r.last = now
	if r.failures < limit {
		return false
	}
	d := min(a.opt.LockOut<<min(r.locked, 16), maxLockOut)
	r.failures, r.until = 0, now.Add(d)
	r.locked++
	return true
}

// record returns what is known of a place, from now on. a.mu is held.
func (a *Accounts) record(p place) *record {
	r := a.records[p]
	if r == nil {
		if len(a.records) >= maxRecords {
			a.forgetOldest()
		}
		r = &record{last: time.Now()}
		a.records[p] = r
	}
	return r
}

// forgetOldest makes room: of those that are not locked out if there are any,
// so that nobody gets free by failing elsewhere. a.mu is held.
func (a *Accounts) forgetOldest() {
	now := time.Now()
	var oldest place
	var since time.Time
	locked := true
	for p, r := range a.records {
		l := now.Before(r.until)
		if since.IsZero() || locked && !l || locked == l && r.last.Before(since) {
			oldest, since, locked = p, r.last, l
		}
	}
	delete(a.records, oldest)
}

// Network is what counts as one address: all that one subscriber line has.
func Network(addr netip.Addr) netip.Prefix {
	if !addr.IsValid() {
		return netip.Prefix{}
	}
	addr = addr.Unmap().WithZone("")
	bits := 32
	if addr.Is6() {
		bits = 64
	}
	p, _ := addr.Prefix(bits)
	return p
}
