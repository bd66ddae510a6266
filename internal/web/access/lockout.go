package access

import (
	"net/netip"
	"sync"
	"time"
)

// This file is the guard against guessing: the bundled broker's rules
// (docs/decisions/0010) for the one token that there is.

// Bounds, as the broker has them.
const (
	maxFailures  = 5 // of a network, before it is locked out
	firstLockOut = time.Minute
	maxLockOut   = 30 * time.Minute
	forgive      = time.Minute // how long it takes for one failure to be forgotten
	maxRecords   = 4096
)

// lockOut counts wrong tokens by network. The zero value is ready.
type lockOut struct {
	mu      sync.Mutex
	records map[netip.Prefix]*record
}

// record is what is known of a network.
type record struct {
	failures int
	last     time.Time // a failure
	until    time.Time // locked out
	locked   int       // how often
	known    bool      // it has sent the right token: others of its network do not keep it out
}

// wait returns how long a network has to wait before its tokens are looked at.
// right is whether its token would be accepted, which counts only for networks
// that have sent it before.
func (l *lockOut) wait(network netip.Prefix, right bool) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.records[network]
	if r == nil || right && r.known {
		return 0
	}
	return time.Until(r.until)
}

// passed notes that a network has sent the right token.
func (l *lockOut) passed(network netip.Prefix) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.of(network).known = true
}

// failed notes a wrong token.
func (l *lockOut) failed(network netip.Prefix) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r, now := l.of(network), time.Now()
	r.failures = max(0, r.failures-int(now.Sub(r.last)/forgive)) + 1
	if now.Sub(r.last) > maxLockOut && now.Sub(r.until) > maxLockOut {
		r.locked = 0
	}
	if r.last = now; r.failures < maxFailures {
		return
	}
	r.failures, r.until = 0, now.Add(min(firstLockOut<<min(r.locked, 16), maxLockOut))
	r.locked++
}

// of returns the record of a network, from now on. mu is held.
func (l *lockOut) of(network netip.Prefix) *record {
	if r := l.records[network]; r != nil {
		return r
	}
	if l.records == nil {
		l.records = map[netip.Prefix]*record{}
	}
	if len(l.records) >= maxRecords {
		l.forgetOldest()
	}
	r := &record{}
	l.records[network] = r
	return r
}

// forgetOldest makes room: of those that are not locked out if there are any, so
// that nobody gets free by failing elsewhere. mu is held.
func (l *lockOut) forgetOldest() {
	now := time.Now()
	var oldest netip.Prefix
	var found *record
	for network, r := range l.records {
		locked := now.Before(r.until)
		if found == nil || now.Before(found.until) && !locked || now.Before(found.until) == locked && r.last.Before(found.last) {
			oldest, found = network, r
		}
	}
	delete(l.records, oldest)
}
