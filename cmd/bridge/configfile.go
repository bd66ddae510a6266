package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/renameio/v2"

	"event2mqtt/internal/bridge"
	"event2mqtt/internal/config/edit"
	"event2mqtt/internal/config/file"
	"event2mqtt/internal/control"
)

// This file is how commands add to a configuration file: they find it, change
// it, check the result as check does, and only then put it in its place.

// serviceConfig is the configuration of the packaged service, as
// deploy/systemd/event2mqtt.service names it.
const serviceConfig = "/etc/event2mqtt/config.yaml"

// maxConfig bounds a configuration file, in bytes; config.Load has the same.
const maxConfig = 4 << 20

// configFile is a configuration that a command adds to.
type configFile struct {
	flags    *flags
	stateDir string
	path     string       // absolute
	real     string       // behind links
	text     []byte       // empty if there is no file yet
	info     fs.FileInfo  // nil if there is no file yet
	plan     *bridge.Plan // what is configured now
	// byHand says why the file is not changed automatically; nil if it can be.
	byHand error
}

// findConfig names the configuration that a command is about: the one of
// --config, that of the running program, or that of the service.
func findConfig(f *flags, stateDir, service string, says io.Writer) (string, error) {
	if f.config != "" {
		return filepath.Abs(f.config)
	}
	running, err := control.Read(stateDir)
	switch {
	case err == nil && running.Config != "":
		fmt.Fprintf(says, "using the configuration %s (of the running event2mqtt)\n", running.Config)
		return running.Config, nil
	case err == nil:
		return "", misused("the running event2mqtt has no configuration file; name one with --config FILE, which is made if it is not there, and start event2mqtt with the same")
	}
	if _, err := file.Stat(filepath.Dir(service)); err == nil {
		fmt.Fprintf(says, "using the configuration %s (of the service)\n", service)
		return service, nil
	}
	return "", misused("which configuration is it for? name its file with --config FILE; one that is not there is made")
}

// openConfig reads a configuration, as far as there is one. It must be without
// mistakes: what is added is checked together with it.
func openConfig(f *flags, stateDir, path string) (*configFile, error) {
	c := &configFile{flags: f, stateDir: stateDir, path: path, real: path}
	info, err := file.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, err := file.Stat(filepath.Dir(path)); err != nil {
			return nil, fmt.Errorf("there is no folder for %s; make it first", path)
		}
		if link, err := os.Readlink(path); err == nil {
			return nil, fmt.Errorf("%s is a link to %s, which is not there; make that file first", path, link)
		}
		if c.plan, err = bridge.Load("", os.Environ(), stateDir, f.set...); err != nil {
			return nil, fmt.Errorf("%w\nnothing was changed; correct this first", explain(err))
		}
		return c, nil
	case err != nil:
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	c.info = info
	load := path
	if info.IsDir() {
		c.byHand = errors.New("it is a folder")
	} else {
		if c.real, err = behindLinks(path); err == nil {
			c.text, err = file.Read(c.real, maxConfig)
		}
		if err != nil {
			return nil, fmt.Errorf("read the configuration: %w", err)
		}
		if len(c.text) == 0 {
			load = ""
		}
	}
	if c.plan, err = bridge.Load(load, os.Environ(), stateDir, f.set...); err != nil {
		return nil, fmt.Errorf("%w\nnothing was changed; correct this first", explain(err))
	}
	return c, nil
}

// with returns the file's text after a change. When the file cannot be changed
// automatically, that is noted in byHand.
func (c *configFile) with(change func([]byte) ([]byte, error)) ([]byte, error) {
	if c.byHand != nil {
		return nil, c.byHand
	}
	text, err := change(c.text)
	if errors.Is(err, edit.ErrByHand) {
		c.byHand = errors.New("it is written in a way that is not changed automatically")
	}
	return text, err
}

// check is what would be configured with a text, or what is wrong with it.
func (c *configFile) check(text []byte) (*bridge.Plan, error) {
	pending, err := c.pending(text)
	if err != nil {
		return nil, err
	}
	defer pending.Cleanup() //nolint:errcheck // it is a temporary file
	return c.checkFile(pending.Name())
}

func (c *configFile) checkFile(name string) (*bridge.Plan, error) {
	plan, err := bridge.Load(name, os.Environ(), c.stateDir, c.flags.set...)
	if err != nil {
		return nil, errors.New(strings.ReplaceAll(explain(err).Error(), name, c.path))
	}
	return plan, nil
}

// pending writes a text beside the file that is to have it.
func (c *configFile) pending(text []byte) (*renameio.PendingFile, error) {
	options := []renameio.Option{renameio.WithTempDir(filepath.Dir(c.real)), renameio.WithPermissions(0o644)} // no secret is in it
	if c.info != nil {
		options = append(options, renameio.WithStaticPermissions(c.info.Mode().Perm()))
	}
	pending, err := renameio.NewPendingFile(c.real, options...)
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("write the configuration: %w; do this as root, with sudo", err)
	}
	if err != nil {
		return nil, fmt.Errorf("write the configuration: %w", err)
	}
	if _, err = pending.Write(text); err == nil && c.info != nil {
		err = giveTo(pending.File, c.info)
	}
	if err != nil {
		_ = pending.Cleanup()
		return nil, fmt.Errorf("write the configuration: %w", err)
	}
	return pending, nil
}

// locked keeps other commands from the configuration until unlock is called, and
// reads it anew: it may have changed while somebody allowed a key. Nothing may
// be asked of people under the lock.
func (c *configFile) locked() (fresh *configFile, unlock func(), err error) {
	dir := filepath.Dir(c.real)
	if c.info != nil && c.info.IsDir() {
		dir = c.real
	}
	if unlock, err = lockFolder(dir); err != nil {
		return nil, nil, fmt.Errorf("change %s: %w", c.path, err)
	}
	if fresh, err = openConfig(c.flags, c.stateDir, c.path); err != nil {
		unlock()
		return nil, nil, err
	}
	return fresh, unlock, nil
}

// unchanged reports whether the file is as it was read. People write to it
// without a lock, and so do commands where the system has none.
func (c *configFile) unchanged() error {
	text, err := file.Read(c.real, maxConfig)
	switch {
	case errors.Is(err, fs.ErrNotExist) && c.info == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s was removed meanwhile, and is not made again", c.path)
	case err != nil:
		return fmt.Errorf("read the configuration: %w", err)
	case c.info == nil:
		return fmt.Errorf("%s was made meanwhile, and is left as it is", c.path)
	case !bytes.Equal(text, c.text):
		return fmt.Errorf("%s was changed meanwhile, and is left as it is", c.path)
	}
	return nil
}

// replace puts the changed text in the place of the file's, if that is as it was
// read and the text is free of mistakes. It is called under the lock.
func (c *configFile) replace(change func([]byte) ([]byte, error)) error {
	text, err := c.with(change)
	if err != nil {
		return err
	}
	pending, err := c.pending(text)
	if err != nil {
		return err
	}
	defer pending.Cleanup() //nolint:errcheck // it has an effect only if the rest has failed
	if _, err := c.checkFile(pending.Name()); err != nil {
		return err
	}
	if err := c.unchanged(); err != nil {
		return err
	}
	if err := pending.CloseAtomicallyReplace(); err != nil {
		return fmt.Errorf("write the configuration: %w", err)
	}
	c.text = text
	return nil
}

// samePath reports whether two paths lead to the same.
func samePath(a, b string) bool {
	if a == b {
		return true
	}
	x, err := file.Stat(a)
	if err != nil {
		return false
	}
	y, err := file.Stat(b)
	return err == nil && os.SameFile(x, y)
}

// start is the command that runs event2mqtt with this configuration, and with
// what else was given on the command line here.
func (c *configFile) start() string {
	words := []string{"event2mqtt", "--config", c.path}
	if c.flags.stateDir != "" {
		words = append(words, "--state-dir", c.flags.stateDir)
	}
	for _, set := range c.flags.set {
		words = append(words, "--set", set)
	}
	for i, word := range words {
		if strings.ContainsAny(word, " \t\n\"'`$&|;<>()[]{}*?!#~\\") {
			words[i] = "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
		}
	}
	return strings.Join(words, " ")
}

// reload has the running program apply the configuration, and says how that went: whether a
// source is connected. A program that does not run is no error.
func (c *configFile) reload(ctx context.Context, source string, patience time.Duration, out io.Writer) error {
	say := func(format string, args ...any) { fmt.Fprintf(out, format+"\n", args...) }
	running, err := control.Read(c.stateDir)
	var o control.Outcome
	if err == nil && running.Config != "" && samePath(running.Config, c.path) {
		o, err = control.Reload(ctx, c.stateDir)
	}
	switch {
	case errors.Is(err, control.ErrNotRunning):
		say("event2mqtt does not run yet; start it: %s", c.start())
		return nil
	case err != nil:
		return fmt.Errorf("the configuration is written, but whether the running event2mqtt has applied it is unknown: %w", err)
	case running.Config == "":
		say("the running event2mqtt has no configuration file; restart it: %s", c.start())
		return nil
	case !samePath(running.Config, c.path):
		say("the running event2mqtt has another configuration, %s; to run this one, stop that and start: %s", running.Config, c.start())
		return nil
	case !o.OK:
		return fmt.Errorf("the configuration is written, but the running event2mqtt has not applied it: %w", explain(errors.New(strings.Join(o.Problems, "\n"))))
	}
	var part control.Part
	for end := time.Now().Add(patience); ; {
		parts, err := control.Parts(ctx, c.stateDir)
		if err != nil {
			return fmt.Errorf("the running event2mqtt has applied it, but does not say how it is now: %w", err)
		}
		for _, p := range parts {
			if p.Name == "source "+source {
				part = p
			}
		}
		if part.OK || time.Now().After(end) || ctx.Err() != nil {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if !part.OK {
		return fmt.Errorf("the running event2mqtt has applied it, but is not connected yet: %s", part.Detail)
	}
	say("the running event2mqtt has applied it: %s", part.Detail)
	return nil
}

// addSource returns what adds a source to a file's text.
func addSource(item edit.Group) func([]byte) ([]byte, error) {
	return func(text []byte) ([]byte, error) {
		return edit.AppendItem(text, "sources", strings.TrimSpace(item.String()))
	}
}
