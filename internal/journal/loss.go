package journal

import (
	"errors"
	"io/fs"
	"slices"
)

// This file notices what others took from the log: segments that are missing,
// emptied or cut, and the folder that is gone.

// errGone is what inPlace returns of a segment that is not there any more.
var errGone = errors.New("the current segment is gone")

// inPlace makes sure that what was written is where a restart would look for
// it. If not, the current segment is given up, so that the next store begins
// another. writing is held.
func (j *Journal) inPlace() error {
	if j.active == nil {
		return nil
	}
	err := j.active.InPlace()
	if err == nil {
		return nil
	}
	files, listErr := j.opt.FS.List()
	if listErr != nil {
		// The folder may come back as it was, with all that is in it; what is
		// behind the end then was refused, and must go first.
		j.broken = true
		return errors.Join(errGone, listErr)
	}
	size := map[string]int64{}
	for _, f := range files {
		size[f.Name] = f.Size
	}
	j.mu.Lock()
	var missing []string
	j.segments = slices.DeleteFunc(j.segments, func(s *segment) bool {
		n, there := size[s.name]
		if s.size = min(s.size, n); !there {
			missing = append(missing, s.name)
		}
		return !there
	})
	j.reserved = false
	j.moved()
	j.mu.Unlock()
	j.opt.Log.Error().Err(err).Strs("missing", missing).Msg("journal: segments were removed or replaced under the running program; what was not sent and is no longer in memory is lost, new events go into a new segment")
	j.closeActive()
	j.broken, j.distrusted = false, false
	return errGone
}

// present is what reconsider and the housekeeping look at: whether the folder
// is there. writing is held.
func (j *Journal) present() error {
	if j.active == nil {
		if _, err := j.opt.FS.List(); errors.Is(err, fs.ErrNotExist) {
			return errors.Join(ErrMissing, err)
		}
		return nil
	}
	if err := j.inPlace(); err != nil {
		if _, listErr := j.opt.FS.List(); listErr != nil {
			return errors.Join(ErrMissing, listErr)
		}
	}
	return nil
}

// report logs that the disk fails, or works again, when that changes. full is
// set where it is the disk that is full, not the journal within its bounds.
func (j *Journal) report(err error, full bool) {
	failed := err != nil && (full || !errors.Is(err, ErrFull))
	j.mu.Lock()
	changed := failed != j.failing && (failed || err == nil)
	if changed {
		j.failing = failed
	}
	j.mu.Unlock()
	switch {
	case !changed:
	case errors.Is(err, ErrMissing):
		j.opt.Log.Error().Err(err).Msg("journal: its folder is not there; events are refused until it is put back, or an empty one is made in its place")
	case failed:
		j.opt.Log.Error().Err(err).Msg("journal: the disk fails; events are refused until it works again")
	default:
		j.opt.Log.Info().Msg("journal: the disk works again; events are stored")
	}
}

// lose reports that the events after one, up to another, are gone.
func (j *Journal) lose(after, last uint64, why string) {
	if last <= after {
		return
	}
	j.mu.Lock()
	j.stats.Lost += last - after
	j.mu.Unlock()
	j.opt.Log.Error().Uint64("from", after+1).Uint64("to", last).Msg("journal: events with these numbers are gone: " + why)
}

// lostEnd reports what the saved marks say was stored, and recovery did not
// find. known is the newest event that the segments tell of.
func (j *Journal) lostEnd(content marksContent, known uint64) {
	j.lostTo = content.Lost
	from := max(known, content.Removed, content.Lost)
	if len(content.Cursors) > 0 {
		low := content.Last
		for _, mark := range content.Cursors {
			low = min(low, mark)
		}
		from = max(from, low) // what all have is missed by none
	}
	if content.Last > from {
		j.next = max(j.next, content.Last+1)
		j.lostTo = content.Last
		j.moved()
		j.lose(from, content.Last, "the newest segments are missing, emptied or cut")
	}
}
