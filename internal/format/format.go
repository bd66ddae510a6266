// Package format is the gate of the state folder: a small file in it says in
// which form the folder is written, so that a program that is too old for it
// says so and stops, in place of taking what it does not know for damage.
package format

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
)

// Current is the form in which this version writes the state folder. It is
// raised only by a change that older versions would take for damage, or that
// would have them lose something: until then one may go back to any of them.
const Current = 1

// FileName is the name of the file in the state folder.
const FileName = "format"

// maxFile bounds what is read of the file, in bytes.
const maxFile = 4 << 10

// ErrNewer is what Check, CheckFile and Enter return for a folder that is not for this
// version.
var ErrNewer = errors.New("the state folder is too new")

// ErrDamaged is what Check returns of a file that says nothing. Such a file is
// no reason to stop: what a newer version wrote is known by its records, too.
var ErrDamaged = errors.New("does not say how the folder is written")

// content is what the file holds. Later versions may add to it.
type content struct {
	// Format is the newest form in which something in the folder is written.
	Format int `json:"format"`
	// MinReader is the least Current of a version that reads all of it.
	MinReader int `json:"min_reader"`
	// WrittenBy is the version of event2mqtt that set these first: the oldest
	// that is known to read the folder.
	WrittenBy string `json:"written_by"`
}

// Check reads the format of a state folder and changes nothing. A folder
// without the file, or none, is an old or a new one, which is fine. The error
// is ErrNewer, whose text is whole and for people, ErrDamaged, or one of the
// file system.
func Check(dir string) error {
	_, err := check(dir, Current)
	return err
}

func check(dir string, current int) (content, error) {
	c, err := read(filepath.Join(dir, FileName))
	if errors.Is(err, fs.ErrNotExist) {
		return content{}, nil
	}
	if err != nil {
		return content{}, fmt.Errorf("read the format of the state folder: %w", err)
	}
	if c.MinReader <= current {
		return c, nil
	}
	version := "a newer event2mqtt"
	if c.WrittenBy != "" {
		version = fmt.Sprintf("event2mqtt %.60s", c.WrittenBy)
	}
	return c, newer(fmt.Sprintf("the state folder %s was written by %s (format %d), and this version reads formats up to %d only: install that version or newer, or choose another folder with --state-dir; nothing was changed", dir, version, c.MinReader, current))
}

// CheckFile returns ErrNewer, with its text, for a file of the state folder that
// says it has a format, if this version knows up to another.
func CheckFile(path string, has, known int) error {
	if has <= known {
		return nil
	}
	return newer(fmt.Sprintf("%s has format %d, and this version reads formats up to %d only: it was written by a newer event2mqtt; install that version or newer, or choose another folder with --state-dir; nothing was changed", path, has, known))
}

// newer is ErrNewer with its text.
type newer string

func (e newer) Error() string        { return string(e) }
func (e newer) Is(target error) bool { return target == ErrNewer }

// Enter is Check for a program of a version that is about to write to the
// folder, and notes its format there if that is not known yet, or older. A file
// that is damaged is replaced. The folder must be there.
func Enter(dir, version string) error { return enter(dir, version, Current) }

func enter(dir, version string, current int) error {
	c, err := check(dir, current)
	if err != nil && !errors.Is(err, ErrDamaged) {
		return err
	}
	// What a newer version wrote that this one can read stays noted.
	if c.Format >= current && c.MinReader >= current {
		return nil
	}
	c = content{Format: max(c.Format, current), MinReader: current, WrittenBy: version}
	text, err := json.Marshal(c)
	if err != nil {
		return err
	}
	if err := renameio.WriteFile(filepath.Join(dir, FileName), append(text, '\n'), 0o600); err != nil {
		return fmt.Errorf("note the format of the state folder: %w", err)
	}
	return nil
}

func read(path string) (c content, err error) {
	f, err := os.Open(path)
	if err != nil {
		return c, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return c, err
	}
	if json.Unmarshal(text, &c) != nil || c.Format <= 0 || c.MinReader < 0 {
		return content{}, fmt.Errorf("%s %w", path, ErrDamaged)
	}
	if c.MinReader == 0 {
		c.MinReader = c.Format
	}
	return c, nil
}
