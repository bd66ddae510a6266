package homeassistant

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/google/renameio/v2"

	"event2mqtt/internal/config/file"
)

// Names of files in the state folder.
const (
	fileMemory       = "homeassistant.json"
	fileInstallation = "installation_id"
)

// Bounds of these files.
const (
	format    = 1
	maxMemory = 64 << 20 // bytes
)

// ErrNewer is for a memory that a newer version has written.
var ErrNewer = errors.New("it was written by a newer event2mqtt")

// stored is the content of the file.
type stored struct {
	Format int `json:"format"`
	*Memory
}

// Load reads the memory in a state folder. It always returns one. The error is
// ErrNewer, with which the file must not be written, or says why the file was
// set aside; none if there is no file.
func Load(dir string) (*Memory, error) {
	path := filepath.Join(dir, fileMemory)
	m, err := read(path)
	if err == nil || errors.Is(err, ErrNewer) {
		return m, err
	}
	aside := path + ".damaged"
	_ = os.Rename(path, aside)
	return m, fmt.Errorf("read %s: %w; it is set aside as %s", path, err, aside)
}

// Peek is Load that changes nothing.
func Peek(dir string) (*Memory, error) { return read(filepath.Join(dir, fileMemory)) }

func read(path string) (*Memory, error) {
	text, err := file.Read(path, maxMemory)
	if errors.Is(err, fs.ErrNotExist) {
		return NewMemory(), nil
	}
	m := NewMemory()
	s := stored{Memory: m}
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	switch {
	case err != nil:
		return NewMemory(), err
	case s.Format > format:
		return NewMemory(), fmt.Errorf("%s: %w (format %d; this version knows %d)", path, ErrNewer, s.Format, format)
	case s.Format < 1 || s.Memory == nil:
		return NewMemory(), fmt.Errorf("it has no format")
	}
	for _, all := range []map[string]*Shown{m.Shown, m.Gone} {
		for id, s := range all {
			if s == nil || !isID(id) || s.Device != nil && s.Device.Check() != nil {
				delete(all, id)
			}
		}
	}
	for _, s := range m.Shown {
		if s.From != "" { // it was on its way when the program ended, and goes again
			s.From, s.Topic = "", s.From
		}
	}
	if m.Shown == nil || m.Gone == nil {
		return NewMemory(), fmt.Errorf("it holds no devices")
	}
	return m, nil
}

// isID reports whether an id is one, or that of the program's own device.
func isID(id string) bool { return clean(id) == id }

// Save writes the memory, so that a power cut leaves the old one or the new.
func (m *Memory) Save(dir string) error {
	err := renameio.WriteFile(filepath.Join(dir, fileMemory), encode(stored{format, m}), 0o600)
	if of := (*fs.PathError)(nil); errors.As(err, &of) {
		err = of.Err // its path is that of a file with another name each time
	}
	if err != nil {
		return fmt.Errorf("keep in %s what is announced: %w", filepath.Join(dir, fileMemory), err)
	}
	if d, err := os.Open(dir); err == nil {
		_ = d.Sync() // not all systems can; the file itself is synced
		_ = d.Close()
	}
	return nil
}

// ExampleInstallation is what stands for the id of an installation that has none
// yet.
const ExampleInstallation = "event2mqtt_0a1b2c3d4e"

var installation = regexp.MustCompile(`^event2mqtt_[a-z0-9]{10}$`)

// Installation returns the id of this installation, which is kept in the state
// folder and made once. It is no host name: two machines may have one name, and
// one machine another tomorrow.
func Installation(dir string) (string, error) {
	if id := PeekInstallation(dir); id != "" {
		return id, nil
	}
	id := "event2mqtt_" + strings.ToLower(rand.Text()[:10])
	if err := renameio.WriteFile(filepath.Join(dir, fileInstallation), []byte(id+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("keep the id of this installation: %w", err)
	}
	return id, nil
}

// PeekInstallation returns the id, or "" if there is none yet.
func PeekInstallation(dir string) string {
	text, err := file.Read(filepath.Join(dir, fileInstallation), file.MaxSecret)
	if id := strings.TrimSpace(string(text)); err == nil && installation.MatchString(id) {
		return id
	}
	return ""
}
