//go:build !unix

package file

import (
	"io/fs"
	"os"
)

const openFlags = 0

// lock does nothing where there is no flock.
func lock(*os.File) error { return nil }

// unlinked is false where a file that is open cannot be removed.
func unlinked(fs.FileInfo) bool { return false }
