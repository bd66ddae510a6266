// Package file is the sink that appends events to a file, each as a line. What
// is acknowledged is on the disk: lines are written in batches, and the cursor
// moves after each batch was synced. A full disk, a folder that is gone or a
// file that may not be written is waited for, as brokers are.
//
// The file is rotated by size. It does not compress, does not rotate by time,
// and makes no folders.
package file

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"event2mqtt/internal/config"
	"event2mqtt/internal/config/file"
	"event2mqtt/internal/sinks"
	"event2mqtt/internal/template"
)

// Type is the kind of sink.
var Type = sinks.Type{Name: "file", Options: func() sinks.Options {
	o := &Options{}
	config.SetDefaults(o)
	return o
}}

// Options are those of one file.
type Options struct {
	sinks.Common `koanf:",squash"`
	Path         string      `koanf:"path" required:"the file to write to" example:"/var/log/events.jsonl" doc:"The file that events are written to; its folder is waited for if it does not exist."`
	Template     string      `koanf:"template" default:"{payload}" doc:"What a line looks like: {payload}, {payload.KEY}, {event}, {source}, {time} and {id} are replaced, and each but {payload} may be followed by |lower, |snake, |url or |json."`
	MaxSize      config.Size `koanf:"max_size" default:"100MiB" min:"4KiB" max:"1TiB" off:"0B" doc:"The size at which the file is renamed to PATH.1, and a new one is begun; 0B is never."`
	Keep         int         `koanf:"keep" default:"5" min:"1" max:"1000" doc:"How many renamed files are kept, PATH.1 being the newest; older ones are removed."`
}

// maxName bounds the file's name, in bytes: file systems take 255, and a
// rotated file's number needs some of them.
const maxName = 240

// Check implements sinks.Options.
func (o *Options) Check() error {
	var errs config.Errors
	errs.Add(o.CheckMatch())
	if _, err := template.Parse(o.Template); err != nil {
		errs.Bad("template", "%w", err)
	}
	if o.Path != "" {
		errs.Add(checkPath(o.Path))
	}
	return errs.Err()
}

// checkPath tells what is certain: what may not be looked at may be all right
// for the user that the program runs as.
func checkPath(path string) error {
	bad := func(format string, args ...any) error { return config.Errorf("path", format, args...) }
	dir, name := filepath.Dir(path), path[strings.LastIndexByte(path, '/')+1:]
	switch {
	case !filepath.IsAbs(path):
		return bad("%q must begin with /: what a relative path means changes with the folder that the program is started in", path)
	case name == "" || name == "." || name == "..":
		return bad("%q is a folder; write the name of a file behind it", path)
	case len(name) > maxName:
		return bad("the file's name has %d bytes; at most %d are allowed", len(name), maxName)
	case strings.ContainsRune(path, 0):
		return bad("%q cannot be the path of a file", path)
	}
	switch info, err := file.Stat(dir); {
	case err != nil:
		return nil // it may come; Warn tells
	case !info.IsDir():
		return bad("%s is no folder", dir)
	}
	if info, err := os.Lstat(path); err == nil {
		if err := regular(path, info.Mode()); err != nil {
			return bad("%w", err)
		}
	}
	return nil
}

// Warn tells, as a KeyError, of a folder that is not there: the sink waits for it,
// as for a disk that is mounted later.
func (o *Options) Warn() error {
	if err := there(filepath.Dir(o.Path)); err != nil {
		return config.Errorf("path", "%w; until then its events wait in the journal", err)
	}
	return nil
}

// there returns why nothing can be in a folder, as far as that is certain.
func there(dir string) error {
	switch _, err := file.Stat(dir); {
	case errors.Is(err, fs.ErrNotExist):
		return noFolder(dir)
	case errors.Is(err, file.ErrNoAnswer):
		return err
	}
	return nil
}

func noFolder(dir string) error {
	return fmt.Errorf("the folder %s does not exist; make it, so that the user who runs event2mqtt may write there", dir)
}

// regular refuses what is no file that can be synced and rotated.
func regular(path string, mode fs.FileMode) error {
	switch {
	case mode&fs.ModeSymlink != 0:
		return errors.New(path + " is a symbolic link; write the path that it leads to")
	case !mode.IsRegular():
		return errors.New(path + " is " + file.Kind(mode) + ", not a file")
	}
	return nil
}

// HintsOf tells what people take keep for.
func (o *Options) HintsOf(written map[string]any) map[string]string {
	if text, ok := written["keep"].(string); ok {
		if _, err := config.ParseDuration(text); err == nil {
			return map[string]string{"keep": fmt.Sprintf("is how many renamed files are kept, such as 5, and not %q; how long the place of a removed sink is kept is journal.keep", text)}
		}
	}
	return nil
}

// Clash tells that another sink writes to the same files, as a KeyError.
func (o *Options) Clash(other sinks.Options, name string) error {
	p, ok := other.(*Options)
	if !ok || o.Path == "" || p.Path == "" {
		return nil
	}
	mine, its := filepath.Clean(o.Path), filepath.Clean(p.Path)
	switch {
	case mine == its:
		return config.Errorf("path", "%s is the file of %s already; two sinks cannot write to one file", mine, name)
	case rotatedFrom(mine, its) || rotatedFrom(its, mine):
		return config.Errorf("path", "%s and the file of %s would be the same once one of them is rotated; choose another name", mine, name)
	}
	return nil
}

// rotatedFrom reports whether path is one that other gets when it is rotated.
func rotatedFrom(path, other string) bool {
	number, ok := strings.CutPrefix(path, other+".")
	_, err := strconv.ParseUint(number, 10, 32)
	return ok && err == nil
}

// Writes returns the file and what it is renamed to first; the others are like
// that.
func (o *Options) Writes() []string {
	return []string{filepath.Clean(o.Path), filepath.Clean(o.Path) + ".1"}
}

// Fingerprint implements sinks.Options.
func (o *Options) Fingerprint() any {
	own := *o
	own.Common = sinks.Common{}
	return own
}

// Build implements sinks.Options.
func (o *Options) Build(d sinks.Deps) (sinks.Sink, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	line, err := template.Parse(o.Template)
	if err != nil {
		return nil, err
	}
	s := &Sink{name: o.Name, deps: d, line: line, limit: int64(o.MaxSize)}
	if s.limit == 0 {
		s.limit = maxLine
	}
	s.out = output{path: filepath.Clean(o.Path), maxSize: int64(o.MaxSize), keep: o.Keep, limit: s.limit, begins: line.Begins(), sync: (*os.File).Sync}
	return s, nil
}
