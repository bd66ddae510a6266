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
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/rs/zerolog"

	"event2mqtt/internal/format"
)

// What Login says no with. Neither what is said nor when tells whether a user
// exists, or has logged in from there before.
var (
	ErrRefused   = errors.New("wrong user name or password, or this client id is another's")
	ErrAnonymous = errors.New("a user name and password are needed")
	ErrLockedOut = errors.New("too many failed logins from this address; try again later")
	// ErrNoAccounts is the answer to a user name where there are none: nothing
	// can be guessed.
	ErrNoAccounts = errors.New("there are no accounts on this broker, so no user name is right; leave it out, or add the account with \"event2mqtt user add NAME\"")
	// ErrBusy is a login that was not looked at in time.
	ErrBusy = errors.New("too many clients log in at once; try again")
)

// CertificateError is a verified certificate whose name may not log in. It was
// not guessed, so it is told and not counted.
type CertificateError struct{ Name string }

func (e *CertificateError) Error() string {
	return fmt.Sprintf("the certificate is valid, and there is no account of its common name %.64q that may use this client id; add it with \"event2mqtt user add NAME\"", e.Name)
}

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
	// Failures is how many failed logins lock a user name out from an address,
	// for LockOut at first and twice as long each time; ten times as many lock
	// out the address. Defaults 5 and 1 minute. Who logged in before gets in
	// all the same.
	Failures int
	LockOut  time.Duration
	// Logins is the file that remembers over restarts who logged in from
	// where. Without one that is forgotten.
	Logins string
	Log    zerolog.Logger
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

const (
	// maxKnown bounds the credentials that are known to be good.
	maxKnown = 4096
	// hashers is how many passwords are hashed at a time: each takes 4 MiB.
	hashers = 2
	// poll is how often the file is looked at where the system gives no notice.
	poll = 5 * time.Second
)

// Accounts are the users as they are now. It is safe for concurrent use.
type Accounts struct {
	opt   Options
	dummy string        // hash verified for users that do not exist
	key   []byte        // of known
	slots chan struct{} // as many as passwords may be hashed now
	// first hands a slot that becomes free to a client that logged in before.
	first chan struct{}

	mu       sync.Mutex // also guards what SetOptions changes of opt
	users    map[string]User
	pinned   map[string]string // client id of a device to its name
	known    map[[sha256.Size]byte]struct{}
	records  map[place]*record
	logins   logins
	newLogin chan struct{} // tells Watch that logins are to be saved
	toldNone bool          // the log says that there are no accounts
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
		opt: opt, key: []byte(rand.Text()), dummy: nobodysHash(), slots: make(chan struct{}, hashers), first: make(chan struct{}),
		known: map[[sha256.Size]byte]struct{}{}, records: map[place]*record{}, newLogin: make(chan struct{}, 1),
	}
	for range hashers {
		a.slots <- struct{}{}
	}
	var err error
	if a.logins, err = loadLogins(opt.Logins); errors.Is(err, format.ErrNewer) {
		return nil, err // it would be replaced
	} else if err != nil {
		opt.Log.Warn().Err(err).Msg("broker: cannot read who logged in before; a lock-out holds for everybody until they have logged in again")
	}
	_, err = a.Reload()
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
	a.toldNone = a.toldNone && len(fresh) == 0
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

// Account is what is told of an account.
type Account struct {
	Name   string
	Device bool
	// Seen is when it last logged in, to about a day; zero if nobody knows.
	Seen time.Time
}

// List returns all accounts, sorted by their names.
func (a *Accounts) List() []Account {
	a.mu.Lock()
	defer a.mu.Unlock()
	seen := map[string]time.Time{}
	for p, at := range a.logins.seen {
		if at.After(seen[p.name]) {
			seen[p.name] = at
		}
	}
	all := make([]Account, 0, len(a.users))
	for name, u := range a.users {
		all = append(all, Account{name, u.IsDevice(), seen[name]})
	}
	slices.SortFunc(all, func(x, y Account) int { return strings.Compare(x.Name, y.Name) })
	return all
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
	none := len(a.users) == 0
	_, known := a.known[a.proof(u, t)]
	a.mu.Unlock()
	itsOwn := a.mayUse(t.User, t.ClientID) && (u.ClientID == "" || u.ClientID == t.ClientID)
	switch {
	case t.Certificate != "": // it was verified, and names the account
		if exists && itsOwn {
			return a.grant(u, t), nil
		}
		return a.refuse(ctx, began, t, &CertificateError{t.Certificate})
	case none:
		a.tellNone(t)
		return a.refuse(ctx, began, t, ErrNoAccounts)
	case exists && known && itsOwn:
		return a.grant(u, t), nil
	}
	locked, looked := a.mustWait(t, exists)
	if locked && !looked {
		return a.refuse(ctx, began, t, ErrLockedOut)
	}
	hash := u.Hash
	if !exists || hash == "" {
		hash, exists = a.dummy, false
	}
	good, err := a.verify(ctx, t, hash)
	switch {
	case locked && (err != nil || !good || !exists || !itsOwn): // as if it had not been looked at, and not counted
		return a.refuse(ctx, began, t, ErrLockedOut)
	case errors.Is(err, ErrLockedOut):
		return a.refuse(ctx, began, t, err)
	case err != nil:
		return Grant{}, err
	case !good || !exists || !itsOwn:
		return a.refuse(ctx, began, t, ErrRefused)
	}
	a.noteLogin(u, t)
	return a.grant(u, t), nil
}

// mustWait reports whether an attempt is locked out, and whether it is looked at
// all the same. exists tells whether there is such a user.
func (a *Accounts) mustWait(t Attempt, exists bool) (locked, looked bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	locked = a.lockedOut(t)
	return locked, locked && exists && a.mayTry(t)
}

// verify hashes the password when it is its turn: those who logged in from their
// address before are first, so that guessing by many at once, or a house full of
// new devices, keeps none of them out. The error is ErrBusy if the turn does not
// come before ctx ends, or ErrLockedOut.
func (a *Accounts) verify(ctx context.Context, t Attempt, hash string) (bool, error) {
	before := time.Now()
	a.mu.Lock()
	first := a.first
	if !a.logins.has(Network(t.Address), t.User) {
		first = nil // never comes
	}
	a.mu.Unlock()
	select {
	case <-a.slots:
	case <-first:
	case <-ctx.Done():
		return false, ErrBusy
	}
	defer func() {
		select {
		case a.first <- struct{}{}:
		default:
			a.slots <- struct{}{}
		}
	}()
	a.mu.Lock()
	locked := a.lockedOutSince(t, before) // by others that came at the same time
	a.mu.Unlock()
	if locked {
		return false, ErrLockedOut
	}
	return Verify(hash, t.Password), nil
}

// tellNone logs, once while there are no accounts, that a client gives a user name.
func (a *Accounts) tellNone(t Attempt) {
	a.mu.Lock()
	told := a.toldNone
	a.toldNone = true
	a.mu.Unlock()
	if !told {
		a.opt.Log.Warn().Stringer("from", Network(t.Address)).Str("user", t.User[:min(len(t.User), longestName)]).
			Msg("broker: a client gives a user name, and there are no accounts; all such clients are refused and none is locked out, until there is one: event2mqtt user add NAME")
	}
}

// noteLogin remembers credentials that were found good, and who has them.
func (a *Accounts) noteLogin(u User, t Attempt) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.users[t.User].Hash != u.Hash {
		return // changed meanwhile
	}
	if len(a.known) >= maxKnown {
		clear(a.known)
	}
	a.known[a.proof(u, t)] = struct{}{}
	if a.logins.add(Network(t.Address), u.Name, time.Now()) {
		select {
		case a.newLogin <- struct{}{}:
		default:
		}
	}
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
	if errors.Is(why, ErrRefused) {
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

// Watch calls changed whenever the file was changed, and saves Options.Logins,
// until ctx ends. The folder is watched, since the file is replaced as a whole.
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
	reported, unsaved := "", ""
	for {
		select {
		case <-ctx.Done():
			_ = a.saveLogins() // was reported
			return
		case e := <-events:
			if filepath.Base(e.Name) != filepath.Base(string(a.opt.File)) {
				continue
			}
		case <-tick.C:
		case <-a.newLogin:
			if err := a.saveLogins(); err != nil && err.Error() != unsaved {
				unsaved = err.Error()
				a.opt.Log.Warn().Err(err).Msg("broker: after a restart, a lock-out will hold for everybody until they have logged in again")
			}
			continue
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
