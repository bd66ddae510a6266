// Package store keeps on disk what was announced to Home Assistant, and the id of
// this installation. What these mean is decided in package homeassistant.
package store

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/google/renameio/v2"

	"event2mqtt/internal/config/file"
	"event2mqtt/internal/homeassistant"
	"event2mqtt/internal/homeassistant/schema"
	"event2mqtt/internal/topic"
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
	*homeassistant.Memory
}

// Load reads the memory in a state folder. It always returns one. The error is
// ErrNewer, with which the file must not be written, or says why the file was
// set aside; none if there is no file. What of it could not be published without a
// complaint of Home Assistant's is left out: a damaged file is no reason to.
func Load(dir string) (*homeassistant.Memory, error) {
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
func Peek(dir string) (*homeassistant.Memory, error) { return read(filepath.Join(dir, fileMemory)) }

func read(path string) (*homeassistant.Memory, error) {
	text, err := file.Read(path, maxMemory)
	if errors.Is(err, fs.ErrNotExist) {
		return homeassistant.NewMemory(), nil
	}
	m := homeassistant.NewMemory()
	s := stored{Memory: m}
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	switch {
	case err != nil:
		return homeassistant.NewMemory(), err
	case s.Format > format:
		return homeassistant.NewMemory(), fmt.Errorf("%s: %w (format %d; this version knows %d)", path, ErrNewer, s.Format, format)
	case s.Format < 1 || s.Memory == nil:
		return homeassistant.NewMemory(), fmt.Errorf("it has no format")
	}
	for _, s := range m.Shown {
		if s != nil && s.From != "" { // it was on its way when the program ended, and goes again
			s.From, s.Topic = "", s.From
		}
	}
	for _, all := range []map[string]*homeassistant.Shown{m.Shown, m.Gone} {
		for id, s := range all {
			if s == nil || !isID(id) || !usable(s) {
				delete(all, id)
			}
		}
	}
	if m.Shown == nil || m.Gone == nil {
		return homeassistant.NewMemory(), fmt.Errorf("it holds no devices")
	}
	return m, nil
}

// isID reports whether an id is one, or that of the program's own device.
func isID(id string) bool { return id == "" || homeassistant.ID(id) == id }

// usable reports whether what is remembered of a device may be published, and
// takes out of it the components that may not, and topics of states that are none.
func usable(s *homeassistant.Shown) bool {
	if s.Device != nil && s.Device.Check() != nil || s.Topic != "" && topic.Check(s.Topic) != nil {
		return false
	}
	maps.DeleteFunc(s.Topics, func(_, at string) bool { return topic.Check(at) != nil })
	only := func(key string, component json.RawMessage) bool {
		return len(complaints(s, map[string]json.RawMessage{key: component})) == 0
	}
	if !only("any", json.RawMessage(`{"platform":"sensor"}`)) {
		return false // because of its head or its topic
	}
	for _, all := range []map[string]json.RawMessage{s.Components, s.Unheard} {
		if len(all) == 0 || len(complaints(s, all)) == 0 {
			continue
		}
		maps.DeleteFunc(all, func(key string, component json.RawMessage) bool { return !only(key, component) })
	}
	return true
}

// complaints is what Home Assistant would say of a device with these components.
func complaints(s *homeassistant.Shown, components map[string]json.RawMessage) []string {
	m := homeassistant.Message{Topic: cmp.Or(s.Topic, "homeassistant/device/moves/config"), Head: s.Head, Components: components}
	prefix := m.Topic[:max(0, strings.LastIndex(m.Topic, "/device/"))]
	return schema.Check(prefix, m.Topic, m.Payload())
}

// Save writes the memory, so that a power cut leaves the old one or the new.
func Save(dir string, m *homeassistant.Memory) error {
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	e.SetEscapeHTML(false) // the parts of messages stay as they are
	if err := e.Encode(stored{format, m}); err != nil {
		return fmt.Errorf("encode what is announced: %w", err)
	}
	err := renameio.WriteFile(filepath.Join(dir, fileMemory), text.Bytes(), 0o600)
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
// one machine another tomorrow. One that cannot be read is not replaced: all
// devices would be others.
func Installation(dir string) (string, error) {
	id, err := PeekInstallation(dir)
	if id != "" || err != nil {
		return id, err
	}
	id = "event2mqtt_" + strings.ToLower(rand.Text()[:10])
	if err := renameio.WriteFile(filepath.Join(dir, fileInstallation), []byte(id+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("keep the id of this installation: %w", err)
	}
	return id, nil
}

// PeekInstallation returns the id, or "" if there is none yet.
func PeekInstallation(dir string) (string, error) {
	path := filepath.Join(dir, fileInstallation)
	text, err := file.Read(path, file.MaxSecret)
	id := strings.TrimSpace(string(text))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("read the id of this installation: %w", err)
	case !installation.MatchString(id):
		return "", fmt.Errorf("%s holds %.40q, which is no id of an installation, such as %s; put the file back as it was, or remove it, which makes all devices new ones for Home Assistant", path, id, ExampleInstallation)
	}
	return id, nil
}
