package mqtt

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"event2mqtt/internal/config"
	"event2mqtt/internal/config/file"
)

// This file is who the program is to a broker. Files are read at each connect:
// some passwords expire, and are replaced there.

// checkCredentials tells of options that say again what is in credentials_file.
func (c *Config) checkCredentials(at keys) error {
	if c.CredentialsFile == "" {
		return nil
	}
	var errs config.Errors
	for _, o := range []struct{ key, value string }{{"client_id", c.ClientID}, {"username", c.Username}, {"password", string(c.Password)}, {"password_file", c.PasswordFile}} {
		if o.value != "" {
			errs.Relation(at.config+o.key, at.config+"credentials_file", "that is in the file already; leave one of the two out")
		}
	}
	return errs.Err()
}

// account is what a connection is opened with.
type account struct{ id, user, password string }

// account returns the one to connect with.
func (s *Sink) account() (a account, err error) {
	c := &s.opt.Config
	a = account{c.ClientID, c.Username, string(c.Password)}
	switch {
	case c.CredentialsFile != "":
		text, err := file.Read(c.CredentialsFile, maxCredentials)
		if err == nil {
			a, err = parseCredentials(string(text))
		}
		if err != nil {
			return a, fmt.Errorf("read the credentials that %scredentials_file names: %w", s.keys().config, err)
		}
	case c.PasswordFile != "":
		text, err := file.Read(c.PasswordFile, maxCredentials)
		if err != nil {
			return a, fmt.Errorf("read the password that %spassword_file names: %w", s.keys().config, err)
		}
		a.password = strings.TrimRight(string(text), "\r\n")
	}
	return a, nil
}

// beside is the client id of a connection beside that of the bridge, which so
// keeps its own; a service that gives out the ids has no other.
func (s *Sink) beside(id, suffix string) string {
	if s.opt.Config.CredentialsFile != "" || s.opt.Config.Preset == presetThingSpeak {
		return id
	}
	return id + suffix
}

var errCredentials = errors.New("holds no user name and password; it is the file that the page of the device offers, with lines such as username = NAME")

// maxCredentials bounds a file with a password, in bytes.
const maxCredentials = 64 << 10

// parseCredentials reads the client id, the user name and the password out of a
// file that a service offers for download: JSON, NAME = VALUE, NAME: VALUE, or
// #define NAME "VALUE", where names hold client, user and pass.
func parseCredentials(text string) (a account, err error) {
	lines := strings.Split(text, "\n")
	var object map[string]any
	if json.Unmarshal([]byte(text), &object) == nil {
		lines = nil
		for name, value := range object {
			lines = append(lines, fmt.Sprintf("%s = %v", name, value))
		}
	}
	for _, line := range lines {
		line, between := strings.TrimSpace(line), "=:"
		if defined, ok := strings.CutPrefix(line, "#define "); ok {
			line, between = defined, " \t"
		}
		end := strings.IndexAny(line, between)
		if end < 0 {
			continue
		}
		name := strings.ToLower(line[:end])
		value := strings.Trim(strings.TrimRight(strings.TrimLeft(line[end:], "=: \t"), ",; \t\r"), "\"'")
		for word, into := range map[string]*string{"client": &a.id, "user": &a.user, "pass": &a.password} {
			if strings.Contains(name, word) && *into == "" {
				*into = value
			}
		}
	}
	if a.user == "" || a.password == "" {
		return a, errCredentials
	}
	if a.id == "" {
		a.id = a.user
	}
	return a, nil
}
