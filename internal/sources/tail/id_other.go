//go:build !unix

package tail

import (
	"hash/fnv"
	"os"
)

// idOf goes by the name where there are no inodes: rotation is then seen by
// what the file holds.
func idOf(info os.FileInfo) (fileID, bool) {
	h := fnv.New64a()
	_, _ = h.Write([]byte(info.Name()))
	return fileID{0, h.Sum64()}, true
}

func ownerOf(os.FileInfo) (uid, gid uint32, ok bool) { return 0, 0, false }

func maxDescriptors() int { return 2048 }

const seekData = 3 // is refused
