// Package health is how parts of the program say how they are: a source that
// waits for its printer, a sink that is connected, a part that has failed. It
// knows nothing of what the parts do, and does not decide what follows.
package health

import (
	"fmt"
	"slices"
	"sync"
	"time"
)

// Level is how a part is.
type Level uint8

const (
	// Up is a part that does its work.
	Up Level = iota
	// Waiting is a part that runs, and lacks something outside: a peer that is
	// away, a file that may not be read. It goes on by itself when that comes.
	Waiting
	// Failed is a part that has stopped with an error and is started again. The
	// supervisor alone says so of a part.
	Failed
)

var names = [...]string{Up: "up", Waiting: "waiting", Failed: "failed"}

// String returns up, waiting or failed.
func (l Level) String() string { return names[l] }

// MarshalText implements encoding.TextMarshaler.
func (l Level) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (l *Level) UnmarshalText(text []byte) error {
	i := slices.Index(names[:], string(text))
	if i < 0 {
		return fmt.Errorf("%q is not a level of health", text)
	}
	*l = Level(i)
	return nil
}

// Status is what a part says of itself.
type Status struct {
	Level Level `json:"level"`
	// Detail says in words what the part does, or what it lacks.
	Detail string `json:"detail"`
	// Since is when the part came to this level. A Record sets it.
	Since time.Time `json:"since,omitzero"`
	// Error is what went wrong, if anything did; a Record keeps the last one.
	Error string `json:"-"`
}

// Running is the status of a part that does its work.
func Running(detail string) Status { return Status{Level: Up, Detail: detail} }

// Lacking is the status of a part that waits for what is normal to wait for,
// such as its first connection.
func Lacking(detail string) Status { return Status{Level: Waiting, Detail: detail} }

// Trouble is the status of a part that waits because of an error.
func Trouble(err error) Status {
	return Status{Level: Waiting, Detail: err.Error(), Error: err.Error()}
}

// Failure is the status of a part that has stopped with an error.
func Failure(err error) Status {
	return Status{Level: Failed, Detail: "failed: " + err.Error(), Error: err.Error()}
}

// Report is all that is known of a part's health.
type Report struct {
	Status
	LastError   string    `json:"last_error,omitempty"`
	LastErrorAt time.Time `json:"last_error_at,omitzero"`
	// Restarts is how often the part has failed and was started again.
	Restarts int `json:"restarts,omitempty"`
}

// Record keeps the newest status of one part. The zero value is a part that is
// up and has said nothing. It is safe for concurrent use.
type Record struct {
	// Changed, if set, is called after the level or the words have changed. It
	// must not call the Record's methods that write. It is set before use.
	Changed func(Report)

	mu     sync.Mutex
	report Report
}

// Tell replaces the status.
func (r *Record) Tell(s Status) {
	r.mu.Lock()
	now := time.Now()
	old := r.report.Status
	s.Since = old.Since
	if s.Level != old.Level || old.Since.IsZero() {
		s.Since = now
	}
	if s.Error != "" {
		r.report.LastError, r.report.LastErrorAt = s.Error, now
	}
	if s.Level == Failed {
		r.report.Restarts++
	}
	r.report.Status = s
	report := r.report
	r.mu.Unlock()
	if r.Changed != nil && (s.Level != old.Level || s.Detail != old.Detail) {
		r.Changed(report)
	}
}

// Report returns what is known.
func (r *Record) Report() Report {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.report
}
