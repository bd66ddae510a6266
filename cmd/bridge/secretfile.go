package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"

	"event2mqtt/internal/config/file"
	"event2mqtt/internal/control"
)

// This file writes secrets, each into a file of its own.

// newSecret writes a secret into a file beside the configuration that is not
// there yet, NAME.EXT, or NAME-2.EXT and so on, and returns its path.
func (c *configFile) newSecret(name, ext, secret string) (path string, err error) {
	const most = 1000
	dir := c.path
	if c.info == nil || !c.info.IsDir() {
		dir = filepath.Dir(c.path)
	}
	name = strings.Map(func(r rune) rune {
		if r < 0x80 && (r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_') {
			return r
		}
		return '_'
	}, name)
	for n := 1; n <= most; n++ {
		path = filepath.Join(dir, name+ext)
		if n > 1 {
			path = filepath.Join(dir, fmt.Sprintf("%s-%d%s", name, n, ext))
		}
		if err = c.createSecret(path, secret); !errors.Is(err, fs.ErrExist) {
			return path, err
		}
	}
	return "", err
}

// reader describes what the owner of has to be able to read secrets: the program
// that runs with this configuration, and without one the file or its folder.
func (c *configFile) reader() fs.FileInfo {
	if running, err := control.Read(c.stateDir); err == nil && samePath(running.Config, c.path) || c.path == serviceConfig {
		if info, err := file.Stat(c.stateDir); err == nil {
			return info
		}
	}
	if c.info != nil {
		return c.info
	}
	info, _ := file.Stat(filepath.Dir(c.path))
	return info
}

// createSecret writes a file that its owner alone can read. What is at the path
// already, be it a link, is never replaced: the error is fs.ErrExist then.
func (c *configFile) createSecret(path, secret string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("write the secret: %w", err)
	}
	_, err = f.WriteString(secret + "\n")
	if owner := c.reader(); err == nil && owner != nil {
		err = giveTo(f, owner)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write the secret: %w", errors.Join(err, os.Remove(path)))
	}
	return nil
}

// writeSecret puts a secret into a file. One that is there keeps its mode and
// owner, one that is not is made as by createSecret.
func (c *configFile) writeSecret(path, secret string) error {
	info, err := file.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c.createSecret(path, secret)
	}
	if err == nil {
		path, err = behindLinks(path)
	}
	if err != nil {
		return fmt.Errorf("write the secret: %w", err)
	}
	pending, err := renameio.NewPendingFile(path, renameio.WithTempDir(filepath.Dir(path)), renameio.WithPermissions(info.Mode().Perm()), renameio.IgnoreUmask())
	if err != nil {
		return fmt.Errorf("write the secret: %w", err)
	}
	defer pending.Cleanup() //nolint:errcheck // it has an effect only if the rest has failed
	if _, err = pending.WriteString(secret + "\n"); err == nil {
		err = giveTo(pending.File, info)
	}
	if err == nil {
		err = pending.CloseAtomicallyReplace()
	}
	if err != nil {
		return fmt.Errorf("write the secret: %w", err)
	}
	return nil
}

// behindLinks is the path of a file that is there, less the symbolic links on
// the way to it. Root follows none that another user can point elsewhere, such as
// at /etc/shadow: its own, and those of the file's owner.
func behindLinks(path string) (string, error) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", err
	}
	target, err := file.Stat(real)
	if err != nil {
		return "", err
	}
	const most = 100 // EvalSymlinks refuses more than 255 in a row
	ways := []string{path}
	for n := 0; n < len(ways); n++ {
		if n == most {
			return "", fmt.Errorf("%s leads through more than %d links", path, most)
		}
		for at := ways[n]; at != filepath.Dir(at); at = filepath.Dir(at) {
			to, by, err := followed(at, target)
			switch {
			case err != nil:
				return "", err
			case by != "":
				return "", fmt.Errorf("%s is a link that the user %s can point elsewhere, so root does not follow it; name the file itself, %s", at, by, real)
			case to != "":
				ways = append(ways, to)
			}
		}
	}
	return real, nil
}

// followed is where a symbolic link leads to, empty if path is none, and which
// user other than root and the target's owner has a say in that.
func followed(path string, target fs.FileInfo) (to, by string, err error) {
	info, err := os.Lstat(path)
	if err != nil || info.Mode()&fs.ModeSymlink == 0 {
		return "", "", err
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		return "", "", err
	}
	folder, err := os.Stat(dir)
	if err != nil {
		return "", "", err
	}
	if to, err = os.Readlink(path); err == nil && !filepath.IsAbs(to) {
		to = filepath.Join(dir, to)
	}
	return to, foreign(target, info, folder), err
}
