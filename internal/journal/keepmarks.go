package journal

import "time"

// How often marks are written. A note goes to the system's memory, a sync of it
// and a save of all to the disk. Each is followed by a pause of several times
// what it took, so that a slow disk has less to do for marks; but no pause is
// longer than longestRest or the write itself.
const (
	notePause   = 5 * time.Millisecond   // from the move of a mark until it is noted
	endPause    = time.Second            // the same for the end of the log
	noteRest    = 4                      // times what it took
	syncPause   = 200 * time.Millisecond // between syncs of what is noted
	syncRest    = 20                     // which leaves the log nine tenths of the disk's time and more
	wholeMarks  = 10 * time.Second       // until all is saved, also for versions that know no notes
	retryMarks  = time.Second            // after a failure
	longestRest = time.Second
)

// rest is how long to wait after a write that took so long.
func rest(atLeast, took, factor time.Duration) time.Duration {
	return max(atLeast, min(factor*took, longestRest), took)
}

// keepMarks writes the marks that moved, until the journal is closed.
func (j *Journal) keepMarks() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var note, whole time.Time // when to do that; zero if there is nothing to do
	pause := notePause
	var told time.Time // when it was said, or began, that marks cannot be saved; zero while they can
	for {
		select {
		case <-j.stop:
			return
		case <-j.markMoved:
			note = earliest(note, time.Now().Add(pause))
		case <-j.endMoved:
			soonest(&note, time.Now().Add(max(endPause, pause)))
		case <-timer.C:
		}
		// A save comes before a note that is due at the same time: that may fail,
		// and must not put off the save which then makes up for it.
		if start := time.Now(); due(&whole, start) {
			switch err := j.saveMarks(); {
			case err == nil:
				told = time.Time{}
			default:
				whole = start.Add(rest(retryMarks, time.Since(start), 1))
				soonest(&told, start)
				if start.Sub(told) >= time.Minute { // the log tells at once of what ails the disk
					told = start
					j.opt.Log.Error().Err(err).Msg("journal: cursors could not be saved; after a crash some events would be sent twice")
				} else if pause == retryMarks {
					note = time.Time{} // the disk takes neither, and the save is tried again
				}
			}
		}
		if start := time.Now(); due(&note, start) {
			if j.noteMarks() == nil {
				signal(j.noted)
				soonest(&whole, start.Add(wholeMarks))
				pause = rest(notePause, time.Since(start), noteRest)
			} else { // too many for a note, or the disk fails
				whole, pause = earliest(whole, start.Add(retryMarks)), retryMarks
			}
		}
		timer.Reset(time.Until(earliest(note, whole)))
	}
}

// syncNotes has notes survive a power cut, until the journal is closed. Marks
// are noted meanwhile.
func (j *Journal) syncNotes() {
	for {
		select {
		case <-j.stop:
			return
		case <-j.noted:
		}
		start := time.Now()
		_ = j.syncNote() // a disk that fails is told of by others
		took := time.Since(start)
		select {
		case <-j.stop:
			return
		case <-time.After(rest(syncPause, took, syncRest)):
		}
	}
}

// due reports whether it is time, and takes the time back if so.
func due(at *time.Time, now time.Time) bool {
	if at.IsZero() || now.Before(*at) {
		return false
	}
	*at = time.Time{}
	return true
}

// soonest sets a time unless there is one already. It may be past.
func soonest(at *time.Time, t time.Time) {
	if at.IsZero() {
		*at = t
	}
}

// earliest is the first of those that are set, or far away.
func earliest(times ...time.Time) time.Time {
	first := time.Now().Add(time.Hour)
	for _, t := range times {
		if !t.IsZero() && t.Before(first) {
			first = t
		}
	}
	return first
}
