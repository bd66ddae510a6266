package file

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"event2mqtt/internal/event"
	"event2mqtt/internal/health"
	"event2mqtt/internal/journal"
	"event2mqtt/internal/refused"
	"event2mqtt/internal/retry"
	"event2mqtt/internal/sinks"
	"event2mqtt/internal/template"
)

const (
	// maxLine bounds a line where max_size does not, in bytes: the largest
	// payload there can be, twice.
	maxLine = 128 << 20
	// batch is how many events are written with one sync, at most.
	batch = 512
	// maxPause bounds the pause before the next attempt: it is a disk that is
	// waited for, and somebody who makes room on it looks whether it helped.
	maxPause = 10 * time.Second
	// steady is how long the file must have been written to for its failures to
	// be forgotten: on a disk that is full again and again, each is no news.
	steady = time.Minute
)

// Sink writes to one file.
type Sink struct {
	name  string // as configured
	deps  sinks.Deps
	line  template.Template
	limit int64 // of a line, in bytes

	// Of Run.
	out     output
	scratch []byte // for a line
	tell    func(health.Status)
	failed  bool // what was written last did not get there
	told    bool // the log says that something fails

	mu      sync.Mutex
	skipped uint64 // events that the file will never take; mu guards it
}

// Skipped implements sinks.Counter.
func (s *Sink) Skipped() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.skipped
}

// Run implements sinks.Sink. One write and its sync may still end after ctx.
func (s *Sink) Run(ctx context.Context, in *journal.Cursor, _ *event.States, tell func(health.Status)) error {
	s.tell = tell
	tell(health.Lacking("opening " + s.out.path))
	loop := retry.Loop{Max: maxPause, Steady: steady, Failed: func(err error, fresh bool, _ time.Duration) {
		tell(health.Trouble(fmt.Errorf("%w; events wait in the journal, and are written when it works again", err)))
		if fresh {
			s.told = true
			s.deps.Log.Warn().Msgf("file: %s; events wait in the journal, and are written when it works again", err)
		}
	}}
	_ = loop.Run(ctx, func(ctx context.Context) error { return s.session(ctx, in) })
	return nil
}

// session writes until ctx ends or something fails.
func (s *Sink) session(ctx context.Context, in *journal.Cursor) error {
	in.Rewind() // what was read and not acknowledged comes first
	if err := s.open(); err != nil {
		return err
	}
	defer s.out.close()
	if !s.failed || in.Lag() == 0 {
		s.works()
	}
	buf := make([]journal.Entry, 0, batch)
	for {
		entries, err := in.Next(ctx, buf)
		if err != nil {
			return err
		}
		err = s.deliver(in, entries)
		clear(entries)
		switch {
		case errors.Is(err, errRemoved):
			in.Rewind()
			s.deps.Log.Warn().Msgf("file: %s was removed while it was written to; the events that were not acknowledged are written again", s.out.path)
		case err != nil:
			s.failed = true
			return err
		case s.failed:
			s.works()
		}
	}
}

// open opens the file, and says what was wrong with its end.
func (s *Sink) open() error {
	torn, err := s.out.open()
	if err != nil {
		return err
	}
	switch {
	case torn.cut > 0:
		s.deps.Log.Warn().Int64("bytes", torn.cut).Msgf("file: the last line of %s was not whole, as after a crash, and is cut off; its event is written again", s.out.path)
	case torn.ended:
		s.deps.Log.Warn().Msgf("file: the last line of %s had no end, and does not begin like those of this sink; it is kept, and what comes begins on the next line", s.out.path)
	}
	return nil
}

// works notes that nothing fails any more, and says so once.
func (s *Sink) works() {
	s.running()
	if s.told {
		s.deps.Log.Info().Msgf("file: %s is written to again", s.out.path)
	}
	s.failed, s.told = false, false
}

func (s *Sink) running() {
	detail := "writing to " + s.out.path
	if n := s.Skipped(); n > 0 {
		detail += fmt.Sprintf("; %d events were refused and skipped since the start", n)
	}
	s.tell(health.Running(detail))
}

// deliver writes events and acknowledges them once they are on the disk.
func (s *Sink) deliver(in *journal.Cursor, entries []journal.Entry) error {
	if moved, err := s.out.moved(); err != nil {
		return err
	} else if moved { // somebody else has rotated or removed it
		s.out.close()
		if err := s.open(); err != nil {
			return err
		}
	}
	acked := entries[0].Seq - 1 // nothing of these
	commit := func(upTo uint64) error {
		if upTo <= acked {
			return nil
		}
		if err := s.out.commit(); err != nil {
			return err
		}
		in.Ack(upTo)
		acked = upTo
		return nil
	}
	for i := range entries {
		e := &entries[i]
		line, fits := s.line.Append(s.scratch[:0], e, s.deps.ID(e.Seq), s.limit)
		line = append(line, '\n')
		s.scratch = reusable(line)
		if !fits {
			if err := s.skip(e); err != nil {
				return cmp.Or(commit(e.Seq-1), err)
			}
			continue
		}
		if s.out.needsRotation(len(line)) {
			if err := commit(e.Seq - 1); err != nil {
				return err
			}
			if err := s.rotate(); err != nil {
				return err
			}
		}
		if err := s.out.write(line); err != nil {
			return err
		}
	}
	return commit(entries[len(entries)-1].Seq)
}

// rotate begins another file.
func (s *Sink) rotate() error {
	if err := s.out.rotate(); err != nil {
		return err
	}
	s.out.close()
	return s.open()
}

// skip keeps an event whose line is too long for any file, counts it, and says
// so. One that cannot be kept is not skipped.
func (s *Sink) skip(e *journal.Entry) error {
	id := s.deps.ID(e.Seq)
	reason := fmt.Sprintf("its line has more than the %d bytes that the file may have", s.limit)
	if s.deps.Refused != nil {
		if err := s.deps.Refused.Keep(refused.Event{
			ID: id, Sink: s.name, Refused: time.Now(), Reason: reason,
			Name: e.Name, Source: e.Source, Time: e.Time, Route: e.Route, Payload: e.Payload,
		}); err != nil {
			return fmt.Errorf("an event that is too long for the file cannot be kept either, so it is not skipped: %w", err)
		}
	}
	s.mu.Lock()
	s.skipped++
	s.mu.Unlock()
	if !s.failed {
		s.running()
	}
	s.deps.Log.Error().Str("event", strings.ToValidUTF8(e.Name, "")).Str("source", e.Source).Str("id", id).Int("bytes", len(e.Payload)).Str("reason", reason).
		Msg("file: this event cannot be written and is skipped; \"event2mqtt refused\" lists what was skipped, and sends it again")
	return nil
}
