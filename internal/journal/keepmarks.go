package journal

import "time"

// How often marks are written. Each write is followed by a pause of at least
// restFactor times what it took, so that marks take a twentieth of the disk's
// time at most, but no pause is longer than longestRest or the write itself.
const (
	notePause   = 20 * time.Millisecond  // from a mark's move until it is noted
	syncPause   = 200 * time.Millisecond // between syncs of what is noted
	wholeMarks  = 10 * time.Second       // until all is saved, also for versions that know no notes
	retryMarks  = time.Second            // after a failure
	restFactor  = 20
	longestRest = time.Second
)

// rest is how long to wait after a write that took so long.
func rest(atLeast, took time.Duration) time.Duration {
	return max(atLeast, min(restFactor*took, longestRest), took)
}

// keepMarks writes the marks that moved, until the journal is closed.
func (j *Journal) keepMarks() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	// When to do what; zero if nothing is to be done.
	var note, sync, whole time.Time
	pause, syncFrom, told := notePause, time.Now(), time.Time{}
	for {
		select {
		case <-j.stop:
			return
		case <-j.markMoved:
			soonest(&note, time.Now().Add(pause))
		case <-timer.C:
		}
		var err error
		if start := time.Now(); due(&note, start) {
			if j.noteMarks() == nil {
				soonest(&sync, syncFrom)
				soonest(&whole, start.Add(wholeMarks))
				pause = rest(notePause, time.Since(start))
			} else { // too many for a note, or the disk fails
				whole, pause = start.Add(retryMarks), retryMarks
			}
		}
		if start := time.Now(); due(&sync, start) {
			if j.opt.Sync != SyncNever && j.syncNote() != nil {
				soonest(&whole, start.Add(retryMarks))
			}
			took := time.Since(start)
			syncFrom = start.Add(took + rest(syncPause, took))
		}
		if start := time.Now(); due(&whole, start) {
			if err = j.saveMarks(); err != nil {
				whole = start.Add(rest(retryMarks, time.Since(start)))
			}
		}
		if err != nil && time.Since(told) > time.Minute {
			told = time.Now()
			j.opt.Log.Error().Err(err).Msg("journal: cursors could not be saved; after a crash some events would be sent twice")
		}
		timer.Reset(time.Until(earliest(note, sync, whole)))
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
