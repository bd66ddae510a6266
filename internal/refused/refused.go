// Package refused keeps events that a destination will never take, such as
// those that are too large for it: each as a file of its own in a folder that
// is bounded, so that somebody can look at them and send them again. It does
// not decide what is refused, nor send anything.
package refused

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/renameio/v2"
	"github.com/rs/zerolog"

	"event2mqtt/internal/event"
	"event2mqtt/internal/format"
)

// Event is an event that was refused.
type Event struct {
	// ID is the event's, which stays the same should it be refused twice. It
	// names the file.
	ID string `json:"id"`
	// Sink is the configured name of the sink that has refused it. Another may
	// have refused it, too, and then there is a file for each.
	Sink    string      `json:"sink"`
	Refused time.Time   `json:"refused"` // when
	Reason  string      `json:"reason"`
	Topic   string      `json:"topic,omitempty"` // where it was sent
	Name    string      `json:"event"`
	Source  string      `json:"source"`
	Time    time.Time   `json:"time"` // when it happened
	Route   event.Route `json:"route"`
	Bytes   int         `json:"bytes"` // of the payload
	// Payload is JSON, as in event.Event.
	Payload json.RawMessage `json:"payload,omitempty"`
}

// Event is the event as the journal takes it, for the sink that has refused it.
func (e *Event) Event() event.Event {
	return event.Event{Name: e.Name, Source: e.Source, Time: e.Time, Payload: e.Payload, Route: e.Route, Only: e.Sink}
}

// content is what a file holds.
type content struct {
	Format int `json:"format,omitempty"` // 0 is as 1
	Event
}

// fileFormat is the newest that this version reads.
const fileFormat = 1

// Bounds of a folder. The newest event is kept in any case.
const (
	MaxEvents = 1000
	MaxBytes  = 64 << 20
	// maxFile bounds what is read of one file: the largest payload that can be
	// configured, and what is told about it.
	maxFile = 66 << 20
)

// Folder is the folder with the events. It is made when the first one comes.
// It is safe for concurrent use.
type Folder struct {
	dir      string
	log      zerolog.Logger
	events   int
	maxBytes int64

	mu sync.Mutex // held while files are looked at or changed
}

// Open returns the folder dir.
func Open(dir string, log zerolog.Logger) *Folder {
	return &Folder{dir: dir, log: log, events: MaxEvents, maxBytes: MaxBytes}
}

// ErrUnknown is returned for an id that no event here has.
var ErrUnknown = errors.New("there is no refused event with this id")

const suffix = ".json"

// Keep stores an event, and makes room for it by removing the oldest, which
// it logs. When it returns nil the event is on disk.
func (f *Folder) Keep(e Event) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	key := f.key(&e)
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	e.Bytes = len(e.Payload)
	err := encoder.Encode(content{fileFormat, e})
	if err == nil {
		err = os.MkdirAll(f.dir, 0o700)
	}
	if err == nil {
		var path string
		if path, err = f.path(key); err == nil {
			err = renameio.WriteFile(path, text.Bytes(), 0o600)
		}
	}
	if err == nil {
		err = syncDir(f.dir)
	}
	if err != nil {
		return fmt.Errorf("keep the refused event: %w", err)
	}
	f.makeRoom(key + suffix)
	return nil
}

// apart stands in a file's name between the event's id and what tells apart the
// sinks that have refused it.
const apart = "@"

// key is the name of an event's file without the suffix: its id, as long as no
// other sink has refused it. mu is held.
func (f *Folder) key(e *Event) string {
	sum := sha256.Sum256([]byte(e.Sink))
	own := e.ID + apart + hex.EncodeToString(sum[:4])
	if _, err := f.read(own); err == nil {
		return own
	}
	if first, err := f.read(e.ID); err == nil && first.Sink != e.Sink {
		return own
	}
	return e.ID
}

// keys are the files of an id, without the suffix. mu is held.
func (f *Folder) keys(id string) (keys []string, err error) {
	if _, err := f.path(id); err != nil || strings.Contains(id, apart) {
		return nil, fmt.Errorf("%q: %w", id, ErrUnknown)
	}
	files, err := f.files()
	for _, info := range files {
		key := strings.TrimSuffix(info.Name(), suffix)
		if of, _, _ := strings.Cut(key, apart); of == id {
			keys = append(keys, key)
		}
	}
	if err == nil && len(keys) == 0 {
		err = fmt.Errorf("%q: %w", id, ErrUnknown)
	}
	return keys, err
}

// syncDir has a file's name survive a power cut.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	return nil
}

// IDs returns the ids of the events that are here. That the folder cannot be read is as if it were empty.
func (f *Folder) IDs() map[string]struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	files, err := f.files()
	if err != nil || len(files) == 0 {
		return nil
	}
	ids := make(map[string]struct{}, len(files))
	for _, info := range files {
		ids[strings.TrimSuffix(info.Name(), suffix)] = struct{}{}
	}
	return ids
}

// makeRoom removes the oldest events until the folder is within its bounds.
// mu is held.
func (f *Folder) makeRoom(newest string) {
	files, err := f.files()
	if err != nil {
		f.log.Error().Err(err).Msg("refused events: the folder cannot be read, so it may grow")
		return
	}
	var bytes int64
	for _, info := range files {
		bytes += info.Size()
	}
	count, removed := len(files), 0
	for _, info := range files {
		if count <= f.events && bytes <= f.maxBytes {
			break
		}
		if info.Name() == newest {
			continue
		}
		if err := os.Remove(filepath.Join(f.dir, info.Name())); err != nil {
			f.log.Error().Err(err).Msg("refused events: the oldest cannot be removed")
			return
		}
		count, bytes, removed = count-1, bytes-info.Size(), removed+1
	}
	if removed > 0 {
		f.log.Warn().Int("events", removed).Msgf("refused events: the oldest were removed, since at most %d events and %d MiB are kept; \"event2mqtt refused\" lists the rest", f.events, f.maxBytes>>20)
	}
}

// files returns the files of events, oldest first. mu is held.
func (f *Folder) files() ([]fs.FileInfo, error) {
	entries, err := os.ReadDir(f.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var files []fs.FileInfo
	for _, entry := range entries {
		if !strings.HasSuffix(entry.Name(), suffix) {
			continue
		}
		if info, err := entry.Info(); err == nil && info.Mode().IsRegular() {
			files = append(files, info)
		}
	}
	slices.SortStableFunc(files, func(a, b fs.FileInfo) int { return a.ModTime().Compare(b.ModTime()) })
	return files, err
}

// List returns all events, oldest first, without what can be long (payload and
// route), and the error for those files that hold none.
func (f *Folder) List() ([]Event, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	files, err := f.files()
	out, errs := []Event{}, []error{err}
	for _, info := range files {
		e, err := f.read(strings.TrimSuffix(info.Name(), suffix))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		e.Payload, e.Route = nil, event.Route{}
		out = append(out, e)
	}
	return out, errors.Join(errs...)
}

// Get returns the events that are kept under an id: one for each sink that has
// refused it.
func (f *Folder) Get(id string) ([]Event, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	keys, err := f.keys(id)
	if err != nil {
		return nil, err
	}
	var out []Event
	for _, key := range keys {
		e, err := f.read(key)
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}

// Remove forgets an event.
func (f *Folder) Remove(id string) error {
	return f.remove(id, func(string) bool { return true })
}

// RemoveOf forgets that one sink has refused an event.
func (f *Folder) RemoveOf(id, sink string) error {
	return f.remove(id, func(key string) bool { e, err := f.read(key); return err == nil && e.Sink == sink })
}

func (f *Folder) remove(id string, which func(key string) bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	keys, err := f.keys(id)
	for _, key := range keys {
		if err == nil && which(key) {
			err = os.Remove(filepath.Join(f.dir, key+suffix))
		}
	}
	return err
}

// path returns the file of a key. An id comes from outside.
func (f *Folder) path(id string) (string, error) {
	if id == "" || len(id) > 200 || strings.ContainsAny(id, "/\\\x00") || id[0] == '.' {
		return "", fmt.Errorf("%q: %w", id, ErrUnknown)
	}
	return filepath.Join(f.dir, id+suffix), nil
}

// read reads the event of a key. mu is held.
func (f *Folder) read(key string) (e Event, err error) {
	id, _, _ := strings.Cut(key, apart)
	path, err := f.path(key)
	if err != nil {
		return e, err
	}
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return e, fmt.Errorf("%q: %w", id, ErrUnknown)
	case err != nil:
		return e, fmt.Errorf("read a refused event: %w", err)
	case !info.Mode().IsRegular() || info.Size() > maxFile:
		return e, fmt.Errorf("read a refused event: %s is no file of at most %d MiB", path, maxFile>>20)
	}
	file, err := os.Open(path)
	if err != nil {
		return e, fmt.Errorf("read a refused event: %w", err)
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxFile))
	var is struct{ Format int }
	if err == nil {
		err = json.Unmarshal(text, &is)
	}
	if err == nil {
		if err := format.CheckFile(path, is.Format, fileFormat); err != nil {
			return e, err
		}
		err = json.Unmarshal(text, &e)
	}
	if err == nil && (e.ID != id || e.Name == "") {
		err = errors.New("it is not what was kept under this id")
	}
	if err != nil {
		return e, fmt.Errorf("read the refused event %s: %w", path, err)
	}
	return e, nil
}
