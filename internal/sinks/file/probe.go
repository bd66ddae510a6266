package file

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Probe implements sinks.Prober: whether the file can be written, and others made
// beside it for rotation. It leaves nothing behind, and makes no file.
func (s *Sink) Probe(context.Context) (string, error) {
	dir := filepath.Dir(s.out.path)
	if err := there(dir); err != nil {
		return "", err
	}
	f, err := os.OpenFile(s.out.path, os.O_WRONLY|os.O_APPEND|openFlags, 0)
	switch {
	case err == nil:
		_ = f.Close() // nothing was written
	case !errors.Is(err, fs.ErrNotExist):
		return "", err
	}
	try, err := os.CreateTemp(dir, ".event2mqtt-*")
	if err != nil {
		return "", fmt.Errorf("no file can be made in the folder: %w", err)
	}
	_ = try.Close()
	if err := os.Remove(try.Name()); err != nil {
		return "", err
	}
	detail := "can be written"
	if free, known := room(dir); known {
		detail += fmt.Sprintf("; %d MiB are free there", free>>20)
	}
	return detail, nil
}
