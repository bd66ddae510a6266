package tail

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	cfile "event2mqtt/internal/config/file"
)

// This file tries out whether a source's files can be read.

// Probe implements sources.Prober: it opens the files that there are. It gives
// up on one that blocks; its goroutine stays with that until the program ends,
// which is next.
func (s *Source) Probe(ctx context.Context) (detail string, err error) {
	if err := noFiles(s.config.Paths); err != nil {
		return "", err
	}
	type result struct {
		n   int
		err error
	}
	done := make(chan result, 1)
	go func() {
		n, err := s.open()
		done <- result{n, err}
	}()
	const patience = 10 * time.Second
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case r := <-done:
		switch {
		case r.n == 0 && r.err == nil:
			return "no file is there yet", brackets(s.config.Paths)
		case r.n == 1:
			return "1 file can be read", r.err
		}
		return fmt.Sprintf("%d files can be read", r.n), r.err
	case <-timer.C:
		return "", fmt.Errorf("a file does not answer within %s; is one of those that %s names a pipe, or on a mount whose server is away?", patience, strings.Join(s.config.Paths, ", "))
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// open opens the files that there are, and returns how many; the error tells
// which cannot be read.
func (s *Source) open() (files int, err error) {
	for _, m := range s.match() {
		f, openErr := os.Open(m.path)
		if openErr != nil {
			s.cannot(m.path, openErr)
			continue
		}
		_ = f.Close()
		files++
	}
	s.troubles.turn()
	texts, more := s.troubles.texts()
	if len(texts) == 0 {
		return files, nil
	}
	if more > 0 {
		texts = append(texts, fmt.Sprintf("and %d more", more))
	}
	return files, errors.New(strings.Join(texts, "\n"))
}

// noFiles tells which paths, written without a pattern, are something that has
// no lines to read, such as a folder or a pipe.
func noFiles(paths []string) error {
	var errs []error
	for _, path := range paths {
		info, err := cfile.Stat(path)
		switch {
		case errors.Is(err, cfile.ErrNoAnswer):
			errs = append(errs, err)
		case err != nil: // a pattern, or not there yet
		case info.IsDir():
			errs = append(errs, fmt.Errorf("%s is a folder, not a file; write %s for the files in it", path, filepath.Join(path, "*")))
		case !info.Mode().IsRegular():
			errs = append(errs, fmt.Errorf("%s is %s, not a file; what comes through it is not read", path, cfile.Kind(info.Mode())))
		}
	}
	return errors.Join(errs...)
}

// brackets tells of a path that is there as it is written, and that means
// another one since it is a pattern.
func brackets(paths []string) error {
	for _, path := range paths {
		if _, err := cfile.Stat(path); err == nil && strings.ContainsAny(path, "[{*?") {
			escaped := strings.NewReplacer("[", `\[`, "{", `\{`, "*", `\*`, "?", `\?`).Replace(path)
			return fmt.Errorf("%s is there and does not match itself: in a pattern, [ ] stand for one of the letters between them; write %s", path, escaped)
		}
	}
	return nil
}
