package tail

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"

	"event2mqtt/internal/health"
)

// This file says what cannot be read, and what to do about it.

// troubles are what cannot be read now. It is safe for concurrent use.
type troubles struct {
	mu    sync.Mutex
	now   map[string]string // by path
	round map[string]string // as found in this look
	more  int               // found in this look beyond maxTroubles
	extra int               // of the last look
	said  map[string]bool   // were logged
}

// maxTroubles bounds the paths that are remembered and logged one by one.
const maxTroubles = 100

// add notes a path that cannot be read, and returns whether it is to be logged.
func (t *troubles) add(path, what string) (log bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.round == nil {
		t.round = map[string]string{}
	}
	if _, known := t.round[path]; !known && len(t.round) >= maxTroubles {
		t.more++
		return false
	}
	t.round[path] = what
	if t.said == nil || len(t.said) > 10*maxTroubles {
		t.said = map[string]bool{}
	}
	log = !t.said[path+what]
	t.said[path+what] = true
	return log
}

// turn ends a look: what was not found in it is none any more. It returns the
// paths of these.
func (t *troubles) turn() (gone []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for path, what := range t.now {
		if _, still := t.round[path]; !still {
			gone = append(gone, path)
			delete(t.said, path+what)
		}
	}
	t.now, t.extra = t.round, t.more
	t.round, t.more = nil, 0
	return gone
}

// has reports whether a path could not be read in the last look.
func (t *troubles) has(path string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, has := t.now[path]
	return has || t.extra > 0 // which may be any
}

// texts are what cannot be read now, in order, and how many more there are.
func (t *troubles) texts() (texts []string, more int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, what := range t.now {
		texts = append(texts, what)
	}
	slices.Sort(texts)
	return texts, t.extra
}

// health is up, or says what cannot be read.
func (t *troubles) health() health.Status {
	texts, more := t.texts()
	if len(texts) == 0 {
		return health.Running("running")
	}
	if more += len(texts) - 1; more > 0 {
		texts[0] = fmt.Sprintf("%s; and %d more", texts[0], more)
	}
	return health.Trouble(errors.New(texts[0]))
}

// cannot notes that a path cannot be read; it is said once for as long as it
// lasts.
func (s *Source) cannot(path string, err error) {
	what := explain(path, err)
	if outOfDescriptors(err) { // which is said once, whichever files it hits
		what, path = explain("files", err), "open files"
	}
	if s.troubles.add(path, what) {
		s.log.Warn().Str("path", path).Msg("tail: " + what)
	}
}

// settleTroubles ends a look.
func (s *Source) settleTroubles() {
	for _, path := range s.troubles.turn() {
		s.log.Info().Str("path", path).Msg("tail: what could not be read is readable now, or gone")
	}
	s.out.Tell(s.troubles.health())
}

// kindError says that a path leads to something that is not read.
type kindError struct{ mode fs.FileMode }

func (e kindError) Error() string {
	kind := "a device"
	switch {
	case e.mode.IsDir():
		return "it is a folder, not a regular file; write a glob such as " + "*.log behind it to read the files in it"
	case e.mode&fs.ModeNamedPipe != 0:
		kind = "a named pipe"
	case e.mode&fs.ModeSocket != 0:
		kind = "a socket"
	}
	return "it is " + kind + ", not a regular file; only regular files are read"
}

// explain says in words why path cannot be read, and what to do.
func explain(path string, err error) string {
	what := "cannot read"
	cause := err.Error()
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		cause = pathErr.Err.Error()
	}
	switch {
	case errors.Is(err, fs.ErrPermission):
		cause = "permission denied"
		if advice := advise(path); advice != "" {
			cause += "; " + advice
		}
	case outOfDescriptors(err):
		cause = "too many files are open; allow the program more (LimitNOFILE of its systemd unit), or lower max_open"
	}
	return fmt.Sprintf("%s %s: %s", what, path, cause)
}

func outOfDescriptors(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

// advise tells how path, which may not be read, could be: whose it is, and
// which group its reader needs.
func advise(path string) string {
	// The first on the way that cannot be looked at tells that the folder
	// before it is closed; else it is the path itself.
	at, need := path, fs.FileMode(0o040)
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(at); !errors.Is(err, fs.ErrPermission) {
			break
		}
		at, need = dir, 0o010 // x is what it takes to go through it
		if dir == filepath.Dir(dir) {
			break
		}
	}
	info, err := os.Stat(at)
	if err != nil {
		return ""
	}
	uid, gid, ok := ownerOf(info)
	if !ok {
		return ""
	}
	if info.IsDir() {
		need |= 0o010
	}
	name := cmp.Or(groupName(gid), strconv.FormatUint(uint64(gid), 10))
	kind := "it"
	if at != path {
		kind = "the folder " + at
	}
	whose := fmt.Sprintf("%s has mode %04o and belongs to user %s and group %s", kind, info.Mode().Perm(), userName(uid), name)
	return whose + "; " + remedy(name, gid, info.Mode(), need)
}

// mighty are groups whose members may do, or read, far more than logs. Group 0
// is one under any name.
var mighty = map[string]bool{
	"root": true, "wheel": true, "sudo": true, "admin": true, "docker": true, "lxd": true, "incus": true,
	"disk": true, "shadow": true, "kmem": true,
}

// remedy tells how the program may get the rights that it needs to what belongs
// to a group. It never advises to join a mighty one.
func remedy(group string, gid uint32, mode, need fs.FileMode) string {
	avoid := gid == 0 || mighty[group]
	if mode.Perm()&need == need && !avoid {
		return fmt.Sprintf("add the user that event2mqtt runs as to group %s (SupplementaryGroups=%s in its systemd unit) and restart it", group, group)
	}
	letters, which := "r", "a"
	if mode.IsDir() {
		letters = "rx"
	}
	if avoid {
		which = "another"
	}
	return fmt.Sprintf("let %s group read it (chgrp GROUP and chmod g+%s), and add the user that event2mqtt runs as to that group (SupplementaryGroups=GROUP in its systemd unit)", which, letters)
}

func groupName(gid uint32) string {
	g, err := user.LookupGroupId(strconv.FormatUint(uint64(gid), 10))
	if err != nil {
		return ""
	}
	return g.Name
}

func userName(uid uint32) string {
	id := strconv.FormatUint(uint64(uid), 10)
	u, err := user.LookupId(id)
	if err != nil {
		return id
	}
	return u.Username
}
