// Package control is how commands such as "event2mqtt reload" find the program
// that runs with a state folder, and what they ask it. A running program
// writes a file with its address and a token; whoever may read that file may
// change things. What is asked for is done elsewhere.
package control

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"

	"event2mqtt/internal/config/file"
)

// fileName is that of the file in the state folder, which its owner alone may
// read.
const fileName = "control.json"

// ErrNotRunning tells that no program uses the state folder.
var ErrNotRunning = errors.New("no event2mqtt runs with this state folder; is --state-dir right?")

// ErrRefused tells that the program which runs does not do what it is asked.
var ErrRefused = errors.New("the running event2mqtt refuses it")

// Content is what a running program tells about itself.
type Content struct {
	URL   string `json:"url"`
	Token string `json:"token"`
	// Config is the file or folder that it is configured with, an absolute path;
	// empty if there is none.
	Config string `json:"config,omitempty"`
	// Broker is where the bundled broker listens; empty if it does not.
	Broker Broker `json:"broker"`
}

// Broker is where devices reach the bundled broker. Address is one of host and
// port, which may be that of all interfaces.
type Broker struct {
	Address string `json:"address,omitempty"`
	TLS     bool   `json:"tls,omitempty"`
}

// Read returns what the program that uses a state folder tells. The error is
// ErrNotRunning, or says why the file cannot be read.
func Read(stateDir string) (c Content, err error) {
	text, err := file.Read(filepath.Join(stateDir, fileName), file.MaxSecret)
	if errors.Is(err, fs.ErrNotExist) {
		return c, ErrNotRunning
	}
	if err == nil {
		err = json.Unmarshal(text, &c)
	}
	if err != nil {
		return c, fmt.Errorf("find the running event2mqtt: %w", err)
	}
	return c, nil
}

// Running reports whether a program uses a state folder, or was killed in it.
func Running(stateDir string) bool {
	_, err := file.Stat(filepath.Join(stateDir, fileName))
	return err == nil
}

// RunningBroker is where the broker of the program that uses a state folder
// listens; ok is false if none runs there, or it has no broker.
func RunningBroker(stateDir string) (found Broker, ok bool) {
	c, err := Read(stateDir)
	return c.Broker, err == nil && c.Broker.Address != ""
}

// Access is the token of a running program, which its file tells.
type Access struct{ token string }

// NewAccess makes the token of a program that starts.
func NewAccess() *Access { return &Access{rand.Text()} }

// Token returns it.
func (a *Access) Token() string { return a.token }

// Write notes in the state folder where the program is reached now. The token
// of c is that of the program.
func (a *Access) Write(stateDir string, c Content) error {
	c.Token = a.token
	text, err := json.Marshal(c)
	if err == nil {
		err = renameio.WriteFile(filepath.Join(stateDir, fileName), text, 0o600)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", fileName, err)
	}
	return nil
}

// Remove takes the note out of the state folder.
func Remove(stateDir string) { _ = os.Remove(filepath.Join(stateDir, fileName)) }
