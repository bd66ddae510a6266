package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"event2mqtt/internal/control"
)

// This file finds the state folder.

// serviceDir is the state folder of the packaged service: StateDirectory= in
// deploy/systemd/event2mqtt.service.
const serviceDir = "/var/lib/event2mqtt"

// ownStateDir is the folder that a program which starts keeps its state in. It
// is made if it is not there.
func ownStateDir(flag string) (string, error) {
	if dir, err := namedStateDir(flag); dir != "" || err != nil {
		return dir, err
	}
	return userStateDir()
}

// namedStateDir is the folder that the flag or the service manager names, or "".
func namedStateDir(flag string) (string, error) {
	if flag != "" {
		return filepath.Abs(flag)
	}
	// systemd may give several; the first is the one of StateDirectory=.
	dir, _, _ := strings.Cut(os.Getenv("STATE_DIRECTORY"), ":")
	return dir, nil
}

// userStateDir is the folder of a program that a user starts by hand.
func userStateDir() (string, error) {
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "event2mqtt"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find a state folder: %w; choose one with --state-dir", err)
	}
	return filepath.Join(home, ".local", "state", "event2mqtt"), nil
}

// finder finds the state folder that a command is about: that of the service,
// else that of a program which runs by hand or did so.
type finder struct {
	service string
	user    func() (string, error)
}

// found is a state folder. why says how it was found; empty if it was named.
type found struct{ dir, why string }

// tell says which folder is used, unless whoever calls has named it.
func (f found) tell(w io.Writer) {
	if f.why != "" {
		fmt.Fprintf(w, "using the state folder %s (%s)\n", f.dir, f.why)
	}
}

// noStateDir says that there is no state folder, or none that may be used.
type noStateDir struct {
	text   string
	locked bool // there is one, of another user
}

func (e *noStateDir) Error() string { return e.text }

func (s finder) find() (found, error) {
	user, err := s.user()
	if err != nil {
		return found{}, err
	}
	service := readable(s.service)
	byHand := found{user, "of this user"}
	if control.Running(user) {
		byHand.why = "of the event2mqtt that this user runs"
	}
	switch {
	case service == nil:
		return found{s.service, "of the service"}, nil
	case control.Running(user):
		return byHand, nil
	case errors.Is(service, fs.ErrPermission):
		return found{}, &noStateDir{fmt.Sprintf("the state folder of the service, %s, belongs to another user; do this as root, with sudo, or choose another folder with --state-dir", s.service), true}
	}
	switch err := readable(user); {
	case err == nil:
		return byHand, nil
	case !errors.Is(err, fs.ErrNotExist):
		return found{}, fmt.Errorf("open the state folder: %w; choose another with --state-dir", err)
	}
	return found{}, &noStateDir{fmt.Sprintf("there is no state folder yet, neither %s nor %s; start the service or the program first, or name the folder with --state-dir", s.service, user), false}
}

// readable opens a folder. The error is why that cannot be done.
func readable(dir string) error {
	f, err := os.Open(filepath.Join(dir, ".")) // a folder, also behind a link
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err = f.Readdirnames(1); errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// installed is the finder of a program on this machine.
var installed = finder{serviceDir, userStateDir}

// stateDir returns the folder that a command is about, and says which it is.
// One that was named is made if it is not there, and if there is something to
// keep in it.
func stateDir(flag string, says io.Writer, keeps bool) (string, error) {
	dir, err := namedStateDir(flag)
	if err != nil {
		return "", err
	}
	if dir != "" {
		err := readable(dir)
		if keeps && errors.Is(err, fs.ErrNotExist) {
			err = os.MkdirAll(dir, 0o700)
		}
		if err != nil {
			return "", fmt.Errorf("open the state folder: %w; choose another with --state-dir", err)
		}
		return dir, nil
	}
	f, err := installed.find()
	if err != nil {
		return "", err
	}
	f.tell(says)
	return f.dir, nil
}

// lookedAt returns the folder whose accounts a configuration is checked with.
// There need not be one.
func lookedAt(flag string, says io.Writer) (string, error) {
	dir, err := namedStateDir(flag)
	if dir != "" || err != nil {
		return dir, err
	}
	f, err := installed.find()
	if none, ok := errors.AsType[*noStateDir](err); ok {
		if none.locked {
			fmt.Fprintf(says, "note: accounts are not looked at: %v\n", none)
		}
		return userStateDir()
	}
	if err == nil && f.dir == serviceDir {
		f.tell(says)
	}
	return f.dir, err
}
