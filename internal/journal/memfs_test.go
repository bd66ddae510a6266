package journal_test

import (
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"time"

	"event2mqtt/internal/journal"
)

// memFS is a folder in memory that behaves like one on a disk with a cache:
// what was not synced may be lost, page by page, when power fails; names too.
// It fails on demand.
type memFS struct {
	mu    sync.Mutex
	names map[string]*inode
	// durable is what the folder itself looks like on disk; ops are the
	// changes to it since the last SyncDir.
	durable map[string]*inode
	ops     []func(map[string]*inode)

	// fail is asked before each operation; an error is returned as it is.
	// A write that fails leaves a random part of itself behind.
	fail func(op, name string) error
	rng  *rand.Rand
}

type inode struct {
	data   []byte // as a process sees it
	synced []byte // as the disk has it
	dirty  map[int]bool
}

const page = 512

func newMemFS(seed uint64) *memFS {
	return &memFS{names: map[string]*inode{}, durable: map[string]*inode{}, rng: rand.New(rand.NewPCG(seed, 1))}
}

// failWith sets fail beside operations that are under way.
func (m *memFS) failWith(fail func(op, name string) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = fail
}

func (m *memFS) check(op, name string) error {
	if m.fail == nil {
		return nil
	}
	return m.fail(op, name)
}

func (m *memFS) change(op func(map[string]*inode)) {
	op(m.names)
	m.ops = append(m.ops, op)
}

func (m *memFS) Create(name string) (journal.File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.check("create", name); err != nil {
		return nil, err
	}
	if m.names[name] != nil {
		return nil, fs.ErrExist
	}
	node := &inode{dirty: map[int]bool{}}
	m.change(func(names map[string]*inode) { names[name] = node })
	return &memFile{m, node, name}, nil
}

func (m *memFS) Open(name string) (journal.File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.check("open", name); err != nil {
		return nil, err
	}
	if m.names[name] == nil {
		return nil, fs.ErrNotExist
	}
	return &memFile{m, m.names[name], name}, nil
}

func (m *memFS) Rename(from, to string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.check("rename", from); err != nil {
		return err
	}
	node := m.names[from]
	if node == nil {
		return fs.ErrNotExist
	}
	m.change(func(names map[string]*inode) { delete(names, from); names[to] = node })
	return nil
}

func (m *memFS) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.check("remove", name); err != nil {
		return err
	}
	if m.names[name] == nil {
		return fs.ErrNotExist
	}
	m.change(func(names map[string]*inode) { delete(names, name) })
	return nil
}

func (m *memFS) List() ([]journal.FileInfo, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.check("list", ""); err != nil {
		return nil, err
	}
	var out []journal.FileInfo
	for name, node := range m.names {
		out = append(out, journal.FileInfo{Name: name, Size: int64(len(node.data)), Modified: time.Now()})
	}
	return out, nil
}

func (m *memFS) SyncDir() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.check("syncdir", ""); err != nil {
		return err
	}
	for _, op := range m.ops {
		op(m.durable)
	}
	m.ops = nil
	return nil
}

// powerCut leaves only what is on disk: all that was synced, and of the rest
// a random part. Folder changes are journaled in order, as on ext4.
func (m *memFS) powerCut() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, op := range m.ops[:m.rng.IntN(len(m.ops)+1)] {
		op(m.durable)
	}
	m.ops = nil
	m.names = map[string]*inode{}
	for name, node := range m.durable {
		disk := slices.Clone(node.synced)
		if m.rng.IntN(2) == 0 && len(node.data) < len(disk) {
			disk = disk[:len(node.data)]
		}
		for p := range node.dirty {
			if m.rng.IntN(2) == 0 || p*page >= len(node.data) {
				continue
			}
			end := min((p+1)*page, len(node.data))
			if end > len(disk) {
				disk = append(disk, make([]byte, end-len(disk))...)
			}
			copy(disk[p*page:end], node.data[p*page:end])
		}
		node.data, node.synced, node.dirty = disk, slices.Clone(disk), map[int]bool{}
		m.names[name] = node
	}
}

type memFile struct {
	fs   *memFS
	node *inode
	name string
}

func (f *memFile) ReadAt(b []byte, off int64) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.fs.check("read", f.name); err != nil {
		return 0, err
	}
	if off >= int64(len(f.node.data)) {
		return 0, io.EOF
	}
	n := copy(b, f.node.data[off:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memFile) WriteAt(b []byte, off int64) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	err := f.fs.check("write", f.name)
	if err != nil {
		b = b[:f.fs.rng.IntN(len(b)+1)]
	}
	if end := int(off) + len(b); end > len(f.node.data) {
		f.node.data = append(f.node.data, make([]byte, end-len(f.node.data))...)
	}
	copy(f.node.data[off:], b)
	for p := int(off) / page; p <= (int(off)+len(b))/page; p++ {
		f.node.dirty[p] = true
	}
	return len(b), err
}

func (f *memFile) Truncate(size int64) error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.fs.check("truncate", f.name); err != nil {
		return err
	}
	if int(size) < len(f.node.data) {
		f.node.data = slices.Clone(f.node.data[:size])
		f.node.dirty[int(size)/page] = true
	}
	return nil
}

func (f *memFile) Sync() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.fs.check("sync", f.name); err != nil {
		return err
	}
	f.node.synced, f.node.dirty = slices.Clone(f.node.data), map[int]bool{}
	return nil
}

func (f *memFile) InPlace() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if f.fs.names[f.name] != f.node {
		return fs.ErrNotExist
	}
	return nil
}

func (f *memFile) Close() error { return nil }

var (
	errIO    = &fs.PathError{Op: "test", Err: syscall.EIO}
	errSpace = &fs.PathError{Op: "test", Err: syscall.ENOSPC}
	errDead  = errors.New("the machine is off")
)
