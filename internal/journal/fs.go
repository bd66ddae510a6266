package journal

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// FS is the folder the journal lives in. It is the seam through which tests
// inject full disks, failing syncs and power cuts; DirFS is the real one.
// Names are plain file names, without folders.
type FS interface {
	// Create makes a new file and fails if it exists.
	Create(name string) (File, error)
	// Open opens an existing file for reading and writing.
	Open(name string) (File, error)
	// Rename replaces newName by oldName, atomically.
	Rename(oldName, newName string) error
	Remove(name string) error
	List() ([]FileInfo, error)
	// SyncDir makes created, renamed and removed names durable.
	SyncDir() error
}

// File is an open file of an FS.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Truncate(size int64) error
	// Sync makes the file's data durable, and its size where that changed.
	Sync() error
	// InPlace returns an error unless the file is still found under its name:
	// somebody may remove, move or replace it or its folder.
	InPlace() error
}

// FileInfo describes one file of an FS.
type FileInfo struct {
	Name     string
	Size     int64
	Modified time.Time
}

// DirFS is the folder at a path, readable by its owner alone.
type DirFS string

// Create implements FS.
func (d DirFS) Create(name string) (File, error) {
	return d.open(name, os.O_RDWR|os.O_CREATE|os.O_EXCL)
}

// Open implements FS.
func (d DirFS) Open(name string) (File, error) { return d.open(name, os.O_RDWR) }

func (d DirFS) open(name string, flags int) (File, error) {
	f, err := os.OpenFile(filepath.Join(string(d), name), flags, 0o600)
	if err != nil {
		return nil, err
	}
	id, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return diskFile{f, f.Fd(), id}, nil
}

// Rename implements FS.
func (d DirFS) Rename(oldName, newName string) error {
	return os.Rename(filepath.Join(string(d), oldName), filepath.Join(string(d), newName))
}

// Remove implements FS.
func (d DirFS) Remove(name string) error { return os.Remove(filepath.Join(string(d), name)) }

// List implements FS.
func (d DirFS) List() ([]FileInfo, error) {
	entries, err := os.ReadDir(string(d))
	if err != nil {
		return nil, err
	}
	var files []FileInfo
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil {
			if os.IsNotExist(err) {
				continue
			}
			return nil, err
		}
		if info.Mode().Type() == fs.FileMode(0) {
			files = append(files, FileInfo{info.Name(), info.Size(), info.ModTime()})
		}
	}
	return files, nil
}

// SyncDir implements FS.
func (d DirFS) SyncDir() error {
	f, err := os.Open(string(d))
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

type diskFile struct {
	*os.File
	fd uintptr     // of File, which takes a call of the system to ask for
	id fs.FileInfo // which file it is, as of opening it
}

func (f diskFile) Sync() error { return syncData(f) }

// InPlace takes one call of the system and no access to the disk.
func (f diskFile) InPlace() error {
	named, err := os.Stat(f.Name())
	if err == nil && !os.SameFile(named, f.id) {
		err = &fs.PathError{Op: "write", Path: f.Name(), Err: errors.New("was replaced by another file")}
	}
	return err
}

// replaceFile writes a file so that after a crash either the old or the new
// content is there, whole.
func replaceFile(fsys FS, name string, content []byte) error {
	tmp := name + ".tmp"
	_ = fsys.Remove(tmp) // left over from a crash, if at all
	f, err := fsys.Create(tmp)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(content, 0)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = fsys.Rename(tmp, name)
	}
	if err != nil {
		_ = fsys.Remove(tmp)
		return err
	}
	return fsys.SyncDir()
}

// readFile reads bytes [from, to) of a file. What the disk cannot read comes
// back as zeros: it is damage like any other.
func readFile(fsys FS, name string, from, to int64) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data := make([]byte, to-from)
	n, err := f.ReadAt(data, from)
	if errors.Is(err, syscall.EIO) {
		const block = 4 << 10
		for n = 0; n < len(data); n += block {
			part := data[n:min(n+block, len(data))]
			if got, err := f.ReadAt(part, from+int64(n)); err != nil {
				clear(part[got:])
			}
		}
		return data, nil
	}
	if err == io.EOF {
		err = nil
	}
	return data[:n], err
}
