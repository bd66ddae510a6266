package journal

import (
	"errors"
	"fmt"
)

// ErrNewer is returned for what a newer version wrote and this one cannot
// read. It is not damage: nothing of it is skipped or set aside.
var ErrNewer = errors.New("was written by a newer event2mqtt; install that version or newer, or choose another folder with --state-dir or journal.path")

// maxChecked bounds how much of a log is looked through by Check, in bytes. A
// cursor that comes to a record of an unknown kind behind that stops there.
const maxChecked = 16 << 20

// Check returns ErrNewer if a newer version wrote the log in a folder. It looks
// at the newest segment, and at what is not yet delivered, newest first, up to
// maxChecked. knows is Options.Knows. It changes nothing. Damage is no error.
func Check(fsys FS, knows func(name string) bool) error {
	segments, err := listSegments(fsys)
	if err != nil {
		return err
	}
	content, err := readMarks(fsys)
	if errors.Is(err, ErrNewer) {
		return err
	}
	if note, ok := readNote(fsys, content.Save); ok {
		content = note
	}
	delivered := content.Last
	for _, acked := range content.Cursors {
		delivered = min(delivered, acked)
	}
	left, newest := int64(maxChecked), true // newest: nothing newer holds a record
	for i := len(segments) - 1; i >= 0 && left > 0; i-- {
		seg := segments[i]
		if !newest && segments[i+1].first-1 <= delivered {
			break
		}
		left -= seg.size
		data, err := readFile(fsys, seg.name, 0, seg.size)
		if err != nil {
			return fmt.Errorf("read %s: %w", seg.name, err)
		}
		s := scanner{data: data, salt: seg.salt}
		for {
			rec, _, ok := s.next()
			if !ok {
				break
			}
			newest = false
			if rec.kind == kindEvent && knows != nil && !knows(rec.event.Name) {
				return fmt.Errorf("%s: a record is named %.40q: it %w", seg.name, rec.event.Name, ErrNewer)
			}
		}
		if s.err != nil {
			return fmt.Errorf("%s: %w", seg.name, s.err)
		}
	}
	return nil
}
