package tail

import (
	"sync/atomic"
	"time"
)

// This file is about lines that make no event.

const (
	// sayAgain is how long a cause is not logged again.
	sayAgain = time.Minute
	// maxCauses bounds the causes that are logged in that time: a cause may
	// quote its line, so there may be as many as lines.
	maxCauses = 20
)

// skips counts the lines that are skipped, and tells which of them to log.
type skips struct {
	count atomic.Uint64
	said  map[string]time.Time // when a cause was logged last; Run's
}

// note counts a line. log means that its cause was not logged for a while.
func (s *skips) note(why string, now time.Time) (log bool) {
	s.count.Add(1)
	if at, said := s.said[why]; said && now.Sub(at) < sayAgain {
		return false
	}
	for cause, at := range s.said {
		if now.Sub(at) >= sayAgain {
			delete(s.said, cause)
		}
	}
	if len(s.said) >= maxCauses {
		return false
	}
	if s.said == nil {
		s.said = map[string]time.Time{}
	}
	s.said[why] = now
	return true
}

// skip notes a line that makes no event, without filling the log.
func (s *Source) skip(key, where, why string) {
	if s.skips.note(why, time.Now()) {
		s.log.Warn().Str(key, where).Uint64("skipped", s.Skipped()).Msg("tail: a line is skipped: " + why)
	}
}

// Skipped returns how many lines, or items of an array in a line, made no
// event though they say something. It is safe to call while the source runs.
func (s *Source) Skipped() uint64 { return s.skips.count.Load() }

// UnreadTimes returns how many times could not be read; their events got the
// time at which they were made. It is safe to call while the source runs.
func (s *Source) UnreadTimes() uint64 { return s.lines.UnreadTimes() }
