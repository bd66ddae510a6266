package accounts

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/google/renameio/v2"

	"event2mqtt/internal/config/file"
	"event2mqtt/internal/format"
)

// User is one account: a person's, a program's or a device's.
type User struct {
	Name string `json:"name"`
	// Hash is what Verify reads; empty lets nobody in with a password, only
	// with a certificate.
	Hash string `json:"hash,omitempty"`
	// ClientID, if set, is the only one that may be used: that of a device.
	ClientID string `json:"client_id,omitempty"`
	// Allow holds rules as ParseRule reads them. None allow nothing.
	Allow []string `json:"allow"`
}

// IsDevice reports whether the account was made for one device.
func (u User) IsDevice() bool { return u.ClientID != "" }

func (u User) check() error {
	if err := CheckName(u.Name); err != nil {
		return err
	}
	if u.Hash != "" {
		if err := CheckHash(u.Hash); err != nil {
			return fmt.Errorf("the password of %s: %w", u.Name, err)
		}
	}
	if _, err := ParseRules(u.Allow); err != nil {
		return fmt.Errorf("%s: %w", u.Name, err)
	}
	return nil
}

// CheckName tells what is wrong with a user's name. Names go into topic
// filters and log lines.
func CheckName(name string) error {
	const longest = 64
	good := name != "" && utf8.ValidString(name) && utf8.RuneCountInString(name) <= longest && strings.TrimSpace(name) == name
	for i, r := range name {
		good = good && (unicode.IsLetter(r) || unicode.IsNumber(r) || strings.ContainsRune("_.@- ", r)) && (i > 0 || r != '-')
	}
	if !good {
		return fmt.Errorf("%q cannot be a user name; use up to 64 letters, digits, _ . @ - and spaces inside", name)
	}
	return nil
}

// FileName is the accounts' file in the state folder.
const FileName = "accounts.json"

// maxFile bounds the file.
const maxFile = 16 << 20

// File is where accounts are kept, readable by its owner alone. It is
// replaced as a whole, so a reader sees the old or the new.
type File string

// fileFormat is that of the files of this package.
const fileFormat = 1

// checkFormat returns format.ErrNewer for the text of a file that a newer version
// wrote, before what this one does not know is taken for a mistake.
func checkFormat(path string, text []byte) error {
	var is struct {
		Format int `json:"format"`
	}
	if json.Unmarshal(text, &is) != nil {
		return nil // whoever reads the rest tells
	}
	return format.CheckFile(path, is.Format, fileFormat)
}

// CheckState returns format.ErrNewer if a newer version wrote the accounts, or who
// logged in, in a state folder. It changes nothing.
func CheckState(stateDir string) error {
	for name, most := range map[string]int64{FileName: maxFile, LoginsName: maxLoginsFile} {
		path := filepath.Join(stateDir, name)
		text, err := file.Read(path, most)
		if err == nil {
			err = checkFormat(path, text)
		}
		if errors.Is(err, format.ErrNewer) {
			return err
		}
	}
	return nil
}

type fileContent struct {
	Format int    `json:"format"`
	Users  []User `json:"users"`
}

// Load returns the accounts; a file that does not exist holds none. Anything
// wrong in it is an error: what cannot be read must not let anybody in.
func (f File) Load() ([]User, error) {
	text, err := file.Read(string(f), maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read accounts: %w", err)
	}
	if err := checkFormat(string(f), text); err != nil {
		return nil, err
	}
	var content fileContent
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&content); err != nil {
		return nil, fmt.Errorf("read accounts: %s: %w", f, err)
	}
	if content.Format != fileFormat {
		return nil, fmt.Errorf("read accounts: %s has format %d, not %d", f, content.Format, fileFormat)
	}
	seen := map[string]bool{}
	for _, u := range content.Users {
		if err := u.check(); err != nil {
			return nil, fmt.Errorf("read accounts: %s: %w", f, err)
		}
		if seen[u.Name] {
			return nil, fmt.Errorf("read accounts: %s: %s is there twice", f, u.Name)
		}
		seen[u.Name] = true
	}
	return content.Users, nil
}

// Update changes the accounts. Others that do the same wait.
func (f File) Update(change func([]User) ([]User, error)) error {
	unlock, err := lock(string(f) + ".lock")
	if err != nil {
		return fmt.Errorf("lock accounts: %w", err)
	}
	defer unlock()
	users, err := f.Load()
	if err != nil {
		return err
	}
	if users, err = change(users); err != nil {
		return err
	}
	for _, u := range users {
		if err := u.check(); err != nil {
			return err
		}
	}
	slices.SortFunc(users, func(a, b User) int { return strings.Compare(a.Name, b.Name) })
	text, err := json.MarshalIndent(fileContent{fileFormat, users}, "", "  ")
	if err == nil {
		err = renameio.WriteFile(string(f), append(text, '\n'), 0o600)
	}
	if err == nil {
		// Root may have changed what a service of another user has to read.
		err = giveToOwnerOfFolder(string(f))
	}
	if err != nil {
		return fmt.Errorf("write accounts: %w", err)
	}
	return nil
}

// ErrUnknown is returned for a name that is not there.
var ErrUnknown = errors.New("there is no such account")

// Find returns the index of a name, or an error that names it.
func Find(users []User, name string) (int, error) {
	i := slices.IndexFunc(users, func(u User) bool { return u.Name == name })
	if i < 0 {
		return -1, fmt.Errorf("%s: %w", name, ErrUnknown)
	}
	return i, nil
}

// Import reads the users and hashes of a Mosquitto password file or of Home
// Assistant's .storage/auth_provider.homeassistant. They may do everything.
// Skipped are lines that cannot be used, with the reason.
func Import(text []byte) (users []User, skipped []string, err error) {
	add := func(name, hash string) {
		u := User{Name: name, Hash: hash, Allow: Everything().Strings()}
		if err := u.check(); err != nil {
			skipped = append(skipped, err.Error())
			return
		}
		users = append(users, u)
	}
	if bytes.HasPrefix(bytes.TrimSpace(text), []byte("{")) {
		var store struct {
			Data struct {
				Users []struct{ Username, Password string }
			}
		}
		if err := json.Unmarshal(text, &store); err != nil {
			return nil, nil, fmt.Errorf("read Home Assistant's users: %w", err)
		}
		for _, u := range store.Data.Users {
			hash, err := base64.StdEncoding.DecodeString(u.Password) // bcrypt, once more encoded
			if err != nil {
				skipped = append(skipped, fmt.Sprintf("%s: its password is not base64", u.Username))
				continue
			}
			add(u.Username, string(hash))
		}
		return users, skipped, nil
	}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		name, hash, found := strings.Cut(line, ":")
		if !found || hash == "" {
			skipped = append(skipped, fmt.Sprintf("%.40q: not NAME:HASH", line))
			continue
		}
		add(name, hash)
	}
	return users, skipped, nil
}
