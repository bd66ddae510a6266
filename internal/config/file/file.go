// Package file reads the files that a configuration or a command line names:
// certificates, keys, secrets, accounts, tests, and the configuration itself.
// What is named need not be a file, and need not answer: a pipe blocks, a device
// has no end, and a mount whose server is away keeps a call for ever. So
// everything here is bounded in size and in time. Files that the program keeps
// for itself, or that grow while they are read, are not its business.
package file

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"syscall"
	"time"
)

// Limits of what is read, in bytes.
const (
	MaxPEM    = 4 << 20  // certificates, with room for the authorities of a whole system
	MaxSecret = 64 << 10 // passwords, tokens, hashes
)

// Patience is how long a file may take to be read.
const Patience = 3 * time.Second

// ErrNoAnswer is for a file whose file system does not answer.
var ErrNoAnswer = errors.New("the file system does not answer; is it a mount whose server is away?")

// Read returns the content of a regular file of at most limit bytes. The error
// names the path.
func Read(path string, limit int64) ([]byte, error) {
	return within(path, Patience, func() ([]byte, error) { return read(path, limit) })
}

// Stat is os.Stat, with the words of Read for what is not there.
func Stat(path string) (fs.FileInfo, error) {
	return within(path, Patience, func() (fs.FileInfo, error) { return stat(path) })
}

func stat(path string) (fs.FileInfo, error) {
	info, err := os.Stat(path)
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		e.Op = "open" // as it would have failed
	}
	return info, err
}

// List is os.ReadDir, for a folder with at most limit entries.
func List(dir string, limit int) ([]fs.DirEntry, error) {
	return within(dir, Patience, func() ([]fs.DirEntry, error) {
		f, err := os.Open(dir)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		entries, err := f.ReadDir(limit + 1)
		if errors.Is(err, io.EOF) {
			err = nil
		}
		if len(entries) > limit {
			return nil, fmt.Errorf("%s holds more than %d files", dir, limit)
		}
		return entries, err
	})
}

// KeyPair reads a certificate and its key, PEM files.
func KeyPair(cert, key string) (tls.Certificate, error) {
	certificate, err := Read(cert, MaxPEM)
	if err != nil {
		return tls.Certificate{}, err
	}
	private, err := Read(key, MaxPEM)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(certificate, private)
}

// Kind says what stands at a path instead of a file: "a folder", "a named
// pipe". It is "" for a regular file.
func Kind(mode fs.FileMode) string {
	switch {
	case mode.IsRegular():
		return ""
	case mode.IsDir():
		return "a folder"
	case mode&fs.ModeNamedPipe != 0:
		return "a named pipe"
	case mode&fs.ModeSocket != 0:
		return "a socket"
	case mode&fs.ModeDevice != 0:
		return "a device"
	}
	return "something else"
}

func read(path string, limit int64) ([]byte, error) {
	check := func(info fs.FileInfo, err error) error {
		switch {
		case err != nil:
			return err
		case !info.Mode().IsRegular():
			return fmt.Errorf("%s is %s, not a file", path, Kind(info.Mode()))
		case info.Size() > limit:
			return fmt.Errorf("%s has %d bytes; at most %d are allowed", path, info.Size(), limit)
		}
		return nil
	}
	// Opening a device may already do something, so it is looked at before, and
	// again afterwards, since another may have been put in its place.
	if err := check(stat(path)); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe does not block then
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := check(f.Stat()); err != nil {
		return nil, err
	}
	_ = f.SetReadDeadline(time.Now().Add(Patience / 2)) // files that can be waited for, as in /proc
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, fmt.Errorf("read %s: it has no end", path)
	case err == nil && int64(len(text)) > limit:
		return nil, fmt.Errorf("%s has more than %d bytes, which is all that is allowed", path, limit)
	}
	return text, err
}

// stuck are the paths whose calls have not come back.
var stuck struct {
	sync.Mutex
	paths map[string]bool
}

// within calls f and waits for it, at most for so long. A call to a dead mount
// cannot be interrupted: its goroutine stays until the mount answers or the
// program ends, holding nothing that anybody waits for. There is at most one of
// them for each path; while it is there, the path fails at once. That is why
// stuck belongs to the process, like the threads that such calls take.
func within[T any](path string, patience time.Duration, f func() (T, error)) (none T, err error) {
	noAnswer := fmt.Errorf("%s: %w", path, ErrNoAnswer)
	stuck.Lock()
	waiting := stuck.paths[path]
	stuck.Unlock()
	if waiting {
		return none, noAnswer
	}
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		value, err := f()
		done <- result{value, err}
		stuck.Lock()
		delete(stuck.paths, path)
		stuck.Unlock()
	}()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case r := <-done:
		return r.value, r.err
	case <-timer.C:
	}
	stuck.Lock()
	defer stuck.Unlock()
	select {
	case r := <-done: // just now
		return r.value, r.err
	default:
	}
	if stuck.paths == nil {
		stuck.paths = map[string]bool{}
	}
	stuck.paths[path] = true
	return none, noAnswer
}
