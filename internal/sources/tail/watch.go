package tail

import (
	"errors"
	"os"

	"github.com/fsnotify/fsnotify"
	"github.com/rs/zerolog"
)

// eventBuffer is how many changes wait for the reader; the system holds more.
const eventBuffer = 4096

// watcher tells when something changes in the watched folders, where the
// system can tell; polling does the rest.
type watcher struct {
	fs      *fsnotify.Watcher // nil if there is none
	log     zerolog.Logger
	watched map[string]bool
}

func newWatcher(log zerolog.Logger) *watcher {
	fs, err := fsnotify.NewBufferedWatcher(eventBuffer)
	if err != nil {
		log.Warn().Err(err).Msg("tail: no notice of file changes; polling only")
	}
	return &watcher{fs, log, map[string]bool{}}
}

// watch watches a folder, once it is there.
func (w *watcher) watch(dir string) {
	if w.fs == nil || w.watched[dir] {
		return
	}
	if err := w.fs.Add(dir); err != nil {
		if !errors.Is(err, os.ErrNotExist) {
			w.log.Debug().Err(err).Str("folder", dir).Msg("tail: no notice of changes in this folder; polling")
		}
		return
	}
	w.watched[dir] = true
}

func (w *watcher) events() chan fsnotify.Event {
	if w.fs == nil {
		return nil
	}
	return w.fs.Events
}

func (w *watcher) errors() chan error {
	if w.fs == nil {
		return nil
	}
	return w.fs.Errors
}

func (w *watcher) close() {
	if w.fs != nil {
		_ = w.fs.Close()
	}
}
