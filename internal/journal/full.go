package journal

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// This file says who fills the journal, to those who are refused and to the log.

// errHeld tells ErrFull within the journal's bounds from a full disk.
var errHeld = errors.New("holds what is not delivered")

// held is why nothing more fits within the journal's bounds.
type held string

func (e held) Error() string        { return string(e) }
func (e held) Is(target error) bool { return target == ErrFull || target == errHeld }

// maxNamed bounds the names of sinks in a message.
const maxNamed = 5

// fullError says whose events fill the journal. It holds no figure that changes
// while they do: it is one cause.
func (j *Journal) fullError() error {
	b := j.bounds.Load()
	j.mu.Lock()
	var names []string
	if len(j.segments) > 0 {
		names = j.holders(0, b.whenFull)
	}
	j.mu.Unlock()
	who := "that are not yet delivered"
	if n := len(names); n > maxNamed {
		who = fmt.Sprintf("that the sinks %s and %d more have not got", strings.Join(names[:maxNamed], ", "), n-maxNamed)
	} else if n > 1 {
		who = fmt.Sprintf("that the sinks %s have not got", strings.Join(names, ", "))
	} else if n == 1 {
		who = fmt.Sprintf("that the sink %s has not got", names[0])
	}
	return held(fmt.Sprintf("%v: its %d bytes (journal.max_size) hold events %s", ErrFull, b.maxSize, who))
}

// fullEvery is how often the log is told that the journal is full.
const fullEvery = time.Minute

// sayFull logs that events were refused since the journal is full, each
// fullEvery. writing is held.
func (j *Journal) sayFull(err error, refused uint64) {
	j.fullUnsaid += refused
	if time.Since(j.fullSaid) < fullEvery {
		return
	}
	j.opt.Log.Error().Err(err).Uint64("refused", j.fullUnsaid).Msg("journal: new events are refused until it has room; see why the sink does not deliver, raise journal.max_size, or set when_full: drop_oldest")
	j.fullSaid, j.fullUnsaid, j.fullTold = time.Now(), 0, true
}

// fits notes that there is room again. writing is held.
func (j *Journal) fits() {
	j.lacking = 0
	if j.fullTold {
		j.opt.Log.Info().Uint64("refused", j.fullUnsaid).Msg("journal: there is room again; events are stored")
		j.fullUnsaid, j.fullTold = 0, false
	}
}
