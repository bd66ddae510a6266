package file

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// output is the file, as far as it is written to. It is used by one goroutine.
// While it is open it is locked, so that no other sink or process that asks for
// that writes between its lines.
type output struct {
	path    string // clean
	maxSize int64  // 0 is any
	keep    int
	limit   int64  // of a line
	begins  string // what each line begins with; "" if that is not known
	sync    func(*os.File) error

	f      *os.File
	size   int64  // of the file, without buf
	synced int64  // what of it is on the disk, and acknowledged
	buf    []byte // lines that are not written yet
}

// mode is the file's when it is made, before the umask.
const mode = 0o640

// Bounds of what is written at once, and of buffers that are kept, in bytes.
const (
	maxWrite = 256 << 10
	maxKept  = 1 << 20
)

// errRemoved says that lines went into a file that has no name any more.
var errRemoved = errors.New("the file was removed while it was written to")

// reusable returns the buffer, emptied, unless it has grown too large to keep.
func reusable(buf []byte) []byte {
	if cap(buf) > maxKept {
		return nil
	}
	return buf[:0]
}

// torn is what was wrong with the file's end.
type torn struct {
	cut   int64 // bytes of a line that were cut off
	ended bool  // a line was given its end
}

// open opens the file, or makes it, and mends its end. A crash leaves a line
// that is not whole, and has not been acknowledged.
func (o *output) open() (torn, error) {
	if info, err := os.Lstat(o.path); err == nil {
		if err := regular(o.path, info.Mode()); err != nil {
			return torn{}, err
		}
	}
	f, err := os.OpenFile(o.path, os.O_RDWR|os.O_APPEND|os.O_CREATE|openFlags, mode)
	if errors.Is(err, fs.ErrNotExist) {
		err = noFolder(filepath.Dir(o.path))
	}
	if err != nil {
		return torn{}, err
	}
	t, err := o.begin(f)
	if err != nil {
		_ = f.Close()
		return torn{}, err
	}
	o.f = f
	return t, nil
}

func (o *output) begin(f *os.File) (torn, error) {
	info, err := f.Stat()
	if err != nil {
		return torn{}, err
	}
	if err := regular(o.path, info.Mode()); err != nil {
		return torn{}, err
	}
	if err := lock(f); err != nil {
		return torn{}, fmt.Errorf("%s is written to by another program or sink: %w", o.path, err)
	}
	if err := syncDir(filepath.Dir(o.path)); err != nil { // its name
		return torn{}, err
	}
	t, err := o.mend(f, info.Size())
	if err != nil {
		return torn{}, fmt.Errorf("mend the last line of %s: %w", o.path, err)
	}
	if info, err = f.Stat(); err != nil {
		return torn{}, err
	}
	o.size, o.synced, o.buf = info.Size(), info.Size(), o.buf[:0]
	return t, nil
}

// close closes the file; what is in the buffer is dropped.
func (o *output) close() {
	if o.f != nil {
		_ = o.f.Close() // what counts was synced
	}
	o.f, o.buf = nil, o.buf[:0]
}

// moved reports whether the path leads to another file than the open one, or to
// none. It also looks how large the file is: others may have emptied it.
func (o *output) moved() (bool, error) {
	info, err := os.Lstat(o.path)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	open, err := o.f.Stat()
	if err != nil {
		return false, err
	}
	o.size, o.synced = open.Size(), open.Size()
	return !os.SameFile(info, open), nil
}

// needsRotation reports whether a line must go into the next file.
func (o *output) needsRotation(line int) bool {
	before := o.size + int64(len(o.buf))
	return o.maxSize > 0 && before > 0 && before+int64(line) > o.maxSize
}

// write takes a line. On error nothing is in the file that was not there after
// the last commit, as far as that can be had.
func (o *output) write(line []byte) error {
	o.buf = append(o.buf, line...)
	if len(o.buf) < maxWrite {
		return nil
	}
	return o.flush()
}

func (o *output) flush() error {
	n, err := o.f.Write(o.buf)
	o.size += int64(n)
	o.buf = reusable(o.buf)
	if err != nil {
		o.takeBack()
	}
	return err
}

// commit returns when all lines are on the disk, in a file that has a name.
func (o *output) commit() error {
	if len(o.buf) > 0 {
		if err := o.flush(); err != nil {
			return err
		}
	}
	if err := o.sync(o.f); err != nil {
		o.takeBack()
		return err
	}
	info, err := o.f.Stat()
	if err != nil {
		return err
	}
	if unlinked(info) {
		return errRemoved
	}
	o.synced = o.size
	return nil
}

// takeBack removes lines that are not acknowledged, so that they need not come
// twice. Where it cannot, opening the file again mends its end. What others
// have written behind them is left alone, and so are they.
func (o *output) takeBack() {
	if info, err := o.f.Stat(); err == nil && info.Size() == o.size {
		_ = o.f.Truncate(o.synced)
	}
}

// rotate renames the file to PATH.1, that to PATH.2 and so on, as far as there
// are such files, and removes those that are too many. All of the file is on
// the disk. Should it end halfway, the next call goes on where it was.
func (o *output) rotate() error {
	free := 1
	for ; free < o.keep; free++ {
		if _, err := os.Lstat(o.rotated(free)); errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	for n := free; n > 1; n-- {
		if err := os.Rename(o.rotated(n-1), o.rotated(n)); err != nil {
			return fmt.Errorf("rotate: %w", err)
		}
	}
	if err := os.Rename(o.path, o.rotated(1)); err != nil {
		return fmt.Errorf("rotate: %w", err)
	}
	for n := o.keep + 1; os.Remove(o.rotated(n)) == nil; n++ { // keep may have been more
	}
	return syncDir(filepath.Dir(o.path))
}

func (o *output) rotated(n int) string { return fmt.Sprintf("%s.%d", o.path, n) }

// mend makes the file of size bytes end with a line's end. A last line without
// one is cut off if it begins like those of this sink, or with the zeros that a
// power cut leaves: its event comes again. Any other is somebody else's, and is
// ended instead.
func (o *output) mend(f *os.File, size int64) (torn, error) {
	begin, err := o.lastLine(f, size)
	if err != nil || begin == size {
		return torn{}, err
	}
	if begin >= 0 {
		head := make([]byte, min(int64(max(len(o.begins), 1)), size-begin))
		if _, err := f.ReadAt(head, begin); err != nil {
			return torn{}, err
		}
		mine := o.begins != "" && strings.HasPrefix(o.begins, string(head))
		if mine || head[0] == 0 {
			return torn{cut: size - begin}, f.Truncate(begin)
		}
	}
	_, err = f.WriteString("\n")
	return torn{ended: true}, err
}

// lastLine returns where the bytes behind the last line's end begin, or -1 if
// they are more than a line of this sink can have.
func (o *output) lastLine(f *os.File, size int64) (int64, error) {
	chunk := make([]byte, 64<<10)
	for end := size; end > 0; {
		if size-end > o.limit {
			return -1, nil
		}
		part := chunk[:min(int64(len(chunk)), end)]
		end -= int64(len(part))
		if _, err := f.ReadAt(part, end); err != nil {
			return 0, err
		}
		if i := bytes.LastIndexByte(part, '\n'); i >= 0 {
			return end + int64(i) + 1, nil
		}
	}
	return 0, nil
}

// syncDir has the names in a folder survive a power cut.
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
