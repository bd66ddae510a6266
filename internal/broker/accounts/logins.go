package accounts

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"time"

	"github.com/google/renameio/v2"
)

// LoginsName is the name, in the state folder, of the file that remembers who
// logged in from where.
const LoginsName = "logins.json"

const (
	maxLogins     = 1024
	maxLoginsFile = 1 << 20
	// loginDay is how exact the time of a login is kept: what is logged in all
	// the time is written once a day.
	loginDay = 24 * time.Hour
)

// pair is a user name that logged in from an address.
type pair struct {
	network netip.Prefix
	name    string
}

// logins are the pairs that logged in lately. They hold no secrets: whoever is
// among them has to give the password all the same. Accounts.mu guards it.
type logins struct {
	seen    map[pair]time.Time
	unsaved bool
}

type loginsFile struct {
	Format int         `json:"format"`
	Logins []loginLine `json:"logins"`
}

type loginLine struct {
	Address netip.Prefix `json:"address"`
	User    string       `json:"user"`
	Last    time.Time    `json:"last"`
}

func (l *logins) has(network netip.Prefix, name string) bool {
	_, ok := l.seen[pair{network, name}]
	return ok
}

// add notes a login, and reports whether that is worth writing down. Of too
// many, the one that is longest ago is forgotten.
func (l *logins) add(network netip.Prefix, name string, now time.Time) bool {
	if !network.IsValid() {
		return false
	}
	p := pair{network, name}
	last, known := l.seen[p]
	if known && now.Sub(last) < loginDay {
		return false
	}
	if !known && len(l.seen) >= maxLogins {
		var oldest pair
		var since time.Time
		for p, last := range l.seen {
			if since.IsZero() || last.Before(since) {
				oldest, since = p, last
			}
		}
		delete(l.seen, oldest)
	}
	l.seen[p] = now
	l.unsaved = true
	return true
}

// loadLogins reads the file. What cannot be read is as if nobody had logged in.
func loadLogins(path string) (logins, error) {
	l := logins{seen: map[pair]time.Time{}}
	if path == "" {
		return l, nil
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err == nil && (!info.Mode().IsRegular() || info.Size() > maxLoginsFile) {
		err = fmt.Errorf("%s is no file of at most %d bytes", path, maxLoginsFile)
	}
	if err != nil {
		return l, err
	}
	f, err := os.Open(path)
	if err != nil {
		return l, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxLoginsFile))
	if err != nil {
		return l, err
	}
	if err := checkFormat(path, text); err != nil {
		return l, err
	}
	var content loginsFile
	if err := json.Unmarshal(text, &content); err != nil || content.Format != fileFormat {
		return l, fmt.Errorf("%s is damaged (%v)", path, err)
	}
	for _, line := range content.Logins {
		if len(l.seen) < maxLogins && line.Address.IsValid() && CheckName(line.User) == nil {
			l.seen[pair{line.Address, line.User}] = line.Last
		}
	}
	return l, nil
}

// saveLogins writes the file if something changed.
func (a *Accounts) saveLogins() error {
	a.mu.Lock()
	if !a.logins.unsaved || a.opt.Logins == "" {
		a.mu.Unlock()
		return nil
	}
	content := loginsFile{Format: fileFormat}
	for p, last := range a.logins.seen {
		if _, exists := a.users[p.name]; !exists {
			delete(a.logins.seen, p)
			continue
		}
		content.Logins = append(content.Logins, loginLine{p.network, p.name, last.UTC().Truncate(time.Second)})
	}
	a.logins.unsaved = false
	a.mu.Unlock()
	text, err := json.MarshalIndent(content, "", "  ")
	if err == nil {
		err = renameio.WriteFile(a.opt.Logins, append(text, '\n'), 0o600)
	}
	if err != nil {
		a.mu.Lock()
		a.logins.unsaved = true
		a.mu.Unlock()
		return fmt.Errorf("remember who logged in: %w", err)
	}
	return nil
}
