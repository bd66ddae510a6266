package config

import (
	"context"
	"crypto/sha256"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/rs/zerolog"

	"event2mqtt/internal/config/file"
)

// Bounds of Watch.
const (
	// settle is how long a file must stay as it is to count as written: while
	// an editor or a slow copy is at work, it is not looked at.
	settle = 250 * time.Millisecond
	// poll is how often the file is looked at where the system gives no
	// notice, as with some mounts.
	poll = 2 * time.Second
	// leave is how long the end waits for a look that is under way.
	leave = time.Second
)

// Sum stands for a file's content.
type Sum [sha256.Size]byte

// Watch calls changed with the sum whenever the content of a file, or of the
// files in a folder, has become another than that of seen, and stays so for a
// moment. It watches the folders that the path goes through, since editors put new files in the old one's place and mounted
// folders are swapped as a whole, and looks now and then where there is no
// notice of changes. A file that is gone changes nothing; it is waited for. It
// returns when ctx ends.
func Watch(ctx context.Context, path string, seen Sum, changed func(Sum), log zerolog.Logger) {
	w := &watch{path: path, seen: seen, changed: changed, log: log}
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.run(ctx)
	}()
	select {
	case <-done:
		return
	case <-ctx.Done():
	}
	select {
	case <-done:
	case <-time.After(leave):
		// A call to a mount that does not answer cannot be interrupted. The
		// goroutine ends when it does, and nobody waits for that.
	}
}

func (w *watch) run(ctx context.Context) {
	var events chan fsnotify.Event
	var failures chan error
	if watcher, err := fsnotify.NewWatcher(); err == nil {
		defer watcher.Close()
		w.watcher, events, failures = watcher, watcher.Events, watcher.Errors
	}
	w.follow()
	tick := time.NewTicker(poll)
	defer tick.Stop()
	quiet := time.NewTimer(settle) // it may have changed before there was a watch
	defer quiet.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-events: // also of neighbours
			if w.touched() {
				quiet.Reset(settle)
			}
		case <-failures: // events were missed
			quiet.Reset(settle)
		case <-tick.C:
			if w.touched() {
				quiet.Reset(settle)
			}
		case <-quiet.C:
			w.follow()
			if w.touched() {
				quiet.Reset(settle) // it is being written to
				continue
			}
			w.look()
		}
	}
}

type watch struct {
	path    string
	changed func(Sum)
	log     zerolog.Logger
	watcher *fsnotify.Watcher // nil where there is none

	seen    Sum
	gone    bool          // the log says so
	info    []fs.FileInfo // of the files that are there
	folders map[string]bool
}

// touched reports whether a file is another than at the last call, or was
// written to since.
func (w *watch) touched() bool {
	before := w.info
	w.info = nil
	if names, err := files(w.path); err == nil {
		for _, name := range names {
			if info, err := file.Stat(name); err == nil {
				w.info = append(w.info, info)
			}
		}
	}
	return !slices.EqualFunc(before, w.info, func(a, b fs.FileInfo) bool {
		return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
	})
}

// look reads the files and tells if they are others.
func (w *watch) look() {
	sum, err := SumOf(w.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if !w.gone {
			w.log.Warn().Str("file", w.path).Msg("the configuration file is gone; everything goes on as before, and it is read when it is back")
		}
		w.gone = true
		return
	case err != nil:
		w.log.Warn().Err(err).Msg("the configuration file cannot be read; everything goes on as before")
		return
	}
	w.gone = false
	if sum != w.seen {
		w.seen = sum
		w.changed(sum)
	}
}

// follow watches every folder that the path leads through, by symbolic links,
// too. One that was made anew is watched anew.
func (w *watch) follow() {
	if w.watcher == nil {
		return
	}
	now := map[string]bool{}
	if info, err := file.Stat(w.path); err == nil && info.IsDir() {
		now[w.path] = true
	}
	for path, n := w.path, 0; n < 40; n++ {
		dir := filepath.Dir(path)
		now[dir] = true
		if real, err := filepath.EvalSymlinks(dir); err == nil {
			now[real] = true
			now[filepath.Dir(real)] = true // Kubernetes swaps the folder
		}
		target, err := os.Readlink(path)
		if err != nil {
			break
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(dir, target)
		}
		path = target
	}
	for dir := range w.folders {
		if !now[dir] {
			_ = w.watcher.Remove(dir)
		}
	}
	for dir := range now {
		_ = w.watcher.Add(dir) // one that is watched already stays so
	}
	w.folders = now
}
