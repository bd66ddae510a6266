// Package accounts knows who may connect to the bundled broker and what each
// may do there: users and devices with hashed passwords, in a file that the
// command line changes while the broker runs, and rules by topic filter. It
// slows down and locks out who guesses passwords. It knows nothing of MQTT
// but topic filters, and of the network but addresses.
package accounts

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/rs/zerolog"
)

// What Login says no with. Neither tells whether a user exists.
var (
	ErrRefused   = errors.New("wrong user name or password, or this client id is another's")
	ErrAnonymous = errors.New("a user name and password are needed")
	ErrLockedOut = errors.New("too many failed logins from this address; try again later")
)

// Options configure Accounts. Zero values mean the defaults.
type Options struct {
	File File // may be empty: only the configured users
	// Configured are users that the configuration names. Their Hash may come
	// from PlainHash.
	Configured []User
	// AllowAnonymous lets clients in that give no user name, from anywhere.
	// Without it they are let in from this machine while there is no account.
	AllowAnonymous bool
	// Delay is when a failed login is answered, counted from its begin, so
	// that the time tells nothing. Default 1 s.
	Delay time.Duration
	// Failures is how many failed logins lock an address out, for LockOut at
	// first and twice as long each time. Defaults 5 and 1 minute. Who logged
	// in before gets in all the same.
	Failures int
	LockOut  time.Duration
	Log      zerolog.Logger
}

func (o *Options) setDefaults() {
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{{&o.Delay, time.Second}, {&o.LockOut, time.Minute}} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	if o.Failures == 0 {
		o.Failures = 5
	}
}

// Bounds of what is remembered.
const (
	maxAddresses = 4096
	maxKnown     = 4096
	maxLockOut   = 30 * time.Minute
	// forgive is how long it takes for one failure to be forgotten.
	forgive = time.Minute
	// hashers is how many passwords are hashed at a time: each takes 4 MiB.
	hashers = 2
	// poll is how often the file is looked at where the system gives no notice.
	poll = 5 * time.Second
)

// Accounts are the users as they are now. It is safe for concurrent use.
type Accounts struct {
	opt   Options
	dummy string // hash verified for users that do not exist
	key   []byte // of known
	slots chan struct{}

	mu      sync.Mutex // also guards what SetOptions changes of opt
	users   map[string]User
	pinned  map[string]string // client id of a device to its name
	known   map[[sha256.Size]byte]struct{}
	address map[netip.Prefix]*record
}

// record is what is known of an address that failed to log in.
type record struct {
	failures int
	last     time.Time
	until    time.Time // locked out
	locked   int       // how often
}

// Attempt is a client that wants in.
type Attempt struct {
	// Address is the client's; the zero value is one that cannot be told,
	// such as a unix socket's, which is this machine's.
	Address     netip.Addr
	User        string
	HasUser     bool
	Password    string
	ClientID    string
	Certificate string // common name of a verified certificate, or empty
}

func (a Attempt) local() bool { return !a.Address.IsValid() || a.Address.IsLoopback() }

// Grant is who a client is and what it may do.
type Grant struct {
	User  string // empty for anonymous clients
	Rules Rules
	// credential changes when the password does.
	credential string
}

// PlainHash makes a hash for a password that stands in the configuration.
func PlainHash(password string) string { return fastHash(password) }

// New loads the accounts. A file that cannot be used is an error.
func New(opt Options) (*Accounts, error) {
	opt.setDefaults()
	a := &Accounts{
		opt: opt, key: []byte(rand.Text()), dummy: nobodysHash(), slots: make(chan struct{}, hashers),
		known: map[[sha256.Size]byte]struct{}{}, address: map[netip.Prefix]*record{},
	}
	_, err := a.Reload()
	return a, err
}

// Reload reads the file again and reports whether something changed. On error
// all stays as it was.
func (a *Accounts) Reload() (changed bool, err error) {
	var users []User
	if a.opt.File != "" {
		if users, err = a.opt.File.Load(); err != nil {
			return false, err
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	fresh := map[string]User{}
	for _, u := range append(users, a.opt.Configured...) { // those of the configuration win
		fresh[u.Name] = u
	}
	same := func(x, y User) bool {
		return x.Hash == y.Hash && x.ClientID == y.ClientID && slices.Equal(x.Allow, y.Allow)
	}
	if a.users != nil && maps.EqualFunc(a.users, fresh, same) {
		return false, nil
	}
	a.users = fresh
	a.pinned = map[string]string{}
	for _, u := range fresh {
		if u.ClientID != "" {
			a.pinned[u.ClientID] = u.Name
		}
	}
	return true, nil
}

// SetOptions changes Configured, AllowAnonymous, Failures and LockOut. Reload
// has to follow for the users to change.
func (a *Accounts) SetOptions(opt Options) {
	opt.setDefaults()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.opt.Configured, a.opt.AllowAnonymous, a.opt.Failures, a.opt.LockOut = opt.Configured, opt.AllowAnonymous, opt.Failures, opt.LockOut
}

// Count is how many accounts there are.
func (a *Accounts) Count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.users)
}

// Login decides whether a client is let in. A refusal takes its time, unless
// ctx ends.
func (a *Accounts) Login(ctx context.Context, t Attempt) (Grant, error) {
	began := time.Now()
	if t.Certificate != "" {
		t.User, t.HasUser = t.Certificate, true
	}
	if !t.HasUser {
		if a.anonymous(t) && a.mayUse("", t.ClientID) {
			return Grant{Rules: Everything().For("", t.ClientID)}, nil
		}
		return a.refuse(ctx, began, t, ErrAnonymous)
	}
	a.mu.Lock()
	u, exists := a.users[t.User]
	proof := a.proof(u, t)
	_, known := a.known[proof]
	locked := a.lockedOut(t)
	a.mu.Unlock()
	switch {
	case t.Certificate != "":
		// The certificate was verified; it names the account.
		if exists && a.mayUse(t.User, t.ClientID) && (u.ClientID == "" || u.ClientID == t.ClientID) {
			return a.grant(u, t), nil
		}
		return a.refuse(ctx, began, t, ErrRefused)
	case exists && known && a.mayUse(t.User, t.ClientID) && (u.ClientID == "" || u.ClientID == t.ClientID):
		return a.grant(u, t), nil
	case locked:
		return Grant{}, ErrLockedOut
	}
	hash := u.Hash
	if !exists || hash == "" {
		hash, exists = a.dummy, false
	}
	select {
	case a.slots <- struct{}{}:
	case <-ctx.Done():
		return Grant{}, ctx.Err()
	}
	a.mu.Lock()
	locked = a.lockedOut(t) // by others that came at the same time
	a.mu.Unlock()
	if locked {
		<-a.slots
		return Grant{}, ErrLockedOut
	}
	good := Verify(hash, t.Password)
	<-a.slots
	if !good || !a.mayUse(t.User, t.ClientID) || !exists || u.ClientID != "" && u.ClientID != t.ClientID {
		return a.refuse(ctx, began, t, ErrRefused)
	}
	a.mu.Lock()
	if a.users[t.User].Hash == u.Hash { // not changed meanwhile
		if len(a.known) >= maxKnown {
			clear(a.known)
		}
		a.known[proof] = struct{}{}
	}
	a.mu.Unlock()
	return a.grant(u, t), nil
}

// mayUse reports whether a client id is not that of another's device.
func (a *Accounts) mayUse(user, clientID string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	owner, pinned := a.pinned[clientID]
	return !pinned || owner == user
}

// anonymous reports whether a client may come without a name.
func (a *Accounts) anonymous(t Attempt) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.opt.AllowAnonymous || t.local() && len(a.users) == 0
}

func (a *Accounts) grant(u User, t Attempt) Grant {
	rules, _ := ParseRules(u.Allow) // were checked
	return Grant{User: u.Name, Rules: rules.For(u.Name, t.ClientID), credential: u.Hash}
}

// proof stands for credentials that were found good, so that clients which
// come again cost no hash.
func (a *Accounts) proof(u User, t Attempt) (sum [sha256.Size]byte) {
	h := hmac.New(sha256.New, a.key)
	for _, s := range []string{u.Hash, t.User, t.Password} {
		h.Write([]byte(s))
		h.Write([]byte{0})
	}
	h.Sum(sum[:0])
	return sum
}

// refuse counts a failure and waits until its time is up.
func (a *Accounts) refuse(ctx context.Context, began time.Time, t Attempt, why error) (Grant, error) {
	a.mu.Lock()
	locked := a.lockedOut(t)
	if !locked && why == ErrRefused {
		a.count(t)
	}
	a.mu.Unlock()
	timer := time.NewTimer(a.opt.Delay - time.Since(began))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return Grant{}, why
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

// lockedOut reports whether an address is to wait. a.mu is held.
func (a *Accounts) lockedOut(t Attempt) bool {
	r := a.address[Network(t.Address)]
	return r != nil && time.Now().Before(r.until)
}

// count notes a failure. a.mu is held.
func (a *Accounts) count(t Attempt) {
	if !t.Address.IsValid() {
		return
	}
	now := time.Now()
	at := Network(t.Address)
	r := a.address[at]
	if r == nil {
		if len(a.address) >= maxAddresses {
			a.forgetOldest()
		}
		r = &record{last: now}
		a.address[at] = r
	}
	r.failures = max(0, r.failures-int(now.Sub(r.last)/forgive)) + 1
	if now.Sub(r.last) > maxLockOut && now.Sub(r.until) > maxLockOut {
		r.locked = 0
	}
	r.last = now
	if r.failures >= a.opt.Failures {
		d := min(a.opt.LockOut<<min(r.locked, 16), maxLockOut)
		r.failures, r.until = 0, now.Add(d)
		r.locked++
		a.opt.Log.Warn().Stringer("from", at).Stringer("for", d).Msg("broker: locked an address out after failed logins; who logged in before is let in all the same")
	}
}

func (a *Accounts) forgetOldest() {
	var oldest netip.Prefix
	var since time.Time
	for p, r := range a.address {
		if since.IsZero() || r.last.Before(since) {
			oldest, since = p, r.last
		}
	}
	delete(a.address, oldest)
}

// Still returns the rules that hold now for a client that was let in, or
// false if it would not be let in any more.
func (a *Accounts) Still(g Grant, clientID string, addr netip.Addr) (Rules, bool) {
	if g.User == "" {
		return Everything().For("", clientID), a.anonymous(Attempt{Address: addr})
	}
	a.mu.Lock()
	u, exists := a.users[g.User]
	a.mu.Unlock()
	if !exists || u.Hash != g.credential || u.ClientID != "" && u.ClientID != clientID {
		return nil, false
	}
	return a.grant(u, Attempt{ClientID: clientID}).Rules, true
}

// Rules returns what a user may do with a client id, for sessions and retained
// messages that outlive connections; false if there is no such user.
func (a *Accounts) Rules(user, clientID string) (Rules, bool) {
	if user == "" {
		return Everything().For("", clientID), true
	}
	a.mu.Lock()
	u, exists := a.users[user]
	a.mu.Unlock()
	if !exists {
		return nil, false
	}
	return a.grant(u, Attempt{ClientID: clientID}).Rules, true
}

// Writers returns what a user may do with whatever client id, for the check of
// what was retained by a client that is not known any more; false if there is no
// such user.
func (a *Accounts) Writers(user string) (Rules, bool) {
	a.mu.Lock()
	u, exists := a.users[user]
	a.mu.Unlock()
	if !exists {
		return nil, false
	}
	rules, _ := ParseRules(u.Allow) // were checked
	return rules.forAnyClient(user), true
}

// Watch calls changed whenever the file was changed, until ctx ends. The
// folder is watched, since the file is replaced as a whole.
func (a *Accounts) Watch(ctx context.Context, changed func()) {
	var events <-chan fsnotify.Event
	if w, err := fsnotify.NewWatcher(); err == nil {
		defer w.Close()
		if w.Add(filepath.Dir(string(a.opt.File))) == nil {
			events = w.Events
			go func() {
				for range w.Errors { // ends with the watcher; polling goes on
				}
			}()
		}
	}
	tick := time.NewTicker(poll)
	defer tick.Stop()
	reported := ""
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-events:
			if filepath.Base(e.Name) != filepath.Base(string(a.opt.File)) {
				continue
			}
		case <-tick.C:
		}
		news, err := a.Reload()
		switch {
		case err != nil && err.Error() != reported:
			reported = err.Error()
			a.opt.Log.Error().Err(err).Msg("broker: the accounts stay as they were")
		case news:
			reported = ""
			a.opt.Log.Info().Int("accounts", a.Count()).Msg("broker: accounts reloaded")
			changed()
		case err == nil:
			reported = ""
		}
	}
}
