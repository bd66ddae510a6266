package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"event2mqtt/internal/event"
	"event2mqtt/internal/journal"
)

// store keeps sessions, what is queued for them and retained messages across
// a crash. It is a journal of changes, which is read back at the start and
// written anew, as it then is, when most of it is of no more use. What is in
// memory is what counts: should the disk fail, everything is written anew as
// soon as it works again, and until then nothing is acknowledged that has to
// be stored.
type store struct {
	journal *journal.Journal
	cursor  *journal.Cursor // at where the last snapshot begins
	save    atomic.Int64    // nanoseconds
	half    atomic.Int64    // of the bytes that the log may have

	// mu orders what is recorded as it happened: whoever changes a stored
	// session or a retained message holds it for the change and the record.
	mu sync.Mutex
	// unsaved are topics whose retained message is not yet recorded.
	unsaved map[string]struct{}
	changed chan struct{} // cap 1: there is something to keep

	// resynced is the number of failures that the last snapshot made good.
	resynced atomic.Uint64

	// Of keepStore.
	live int64 // bytes of the last snapshot
}

// The kinds of record, as names of the journal's entries.
const (
	recordMessage     = "message"     // for sessions; and retained, if it says so
	recordRetained    = "retained"    // an empty one clears its topic
	recordOpen        = "open"        // a session was taken up, or left
	recordEnd         = "end"         // of a session
	recordSubscribe   = "subscribe"   //
	recordUnsubscribe = "unsubscribe" //
	recordCaughtUp    = "caught up"   // what is retained for a filter was queued
	recordChanges     = "changes"     // see type changes
	recordIDs         = "ids"         // of QoS 2 messages
	recordKept        = "kept"        // a message of the session that follows
	recordSession     = "session"     // all of a session, in place of what was known
)

// knowsRecord reports whether this version reads records of a name.
func knowsRecord(name string) bool {
	switch name {
	case recordMessage, recordRetained, recordOpen, recordEnd, recordSubscribe, recordUnsubscribe,
		recordCaughtUp, recordChanges, recordIDs, recordKept, recordSession:
		return true
	}
	return false
}

// CheckFolder returns journal.ErrNewer if a newer version wrote the store in a
// folder (Options.Folder), or an error of the file system. It changes nothing.
// New does the same.
func CheckFolder(folder journal.FS) error {
	if err := journal.Check(folder, knowsRecord); err != nil {
		return fmt.Errorf("check the broker's store: %w", err)
	}
	return nil
}

// ticket is for something that was submitted; the zero value for nothing.
type ticket struct {
	pending  *journal.Pending
	failures uint64
	refused  bool // it was not even taken
}

// then is for both, u being the later.
func (t ticket) then(u ticket) ticket {
	switch {
	case t.pending == nil:
		return ticket{u.pending, u.failures, t.refused || u.refused}
	case u.pending == nil:
		return ticket{t.pending, t.failures, t.refused || u.refused}
	}
	return ticket{u.pending, min(t.failures, u.failures), t.refused || u.refused}
}

// submit records a change. mu is held.
func (s *store) submit(kind string, rec []byte) ticket {
	s.wake()
	t := ticket{failures: s.journal.Failures()}
	var err error
	t.pending, err = s.journal.Submit(event.Event{Name: kind, Payload: rec})
	t.refused = err != nil // too large, or closed
	return t
}

// wait waits until what t is for cannot be lost any more, and reports whether
// that worked. Nothing has to be waited for without a store.
func (s *store) wait(t ticket) bool {
	if s == nil || t == (ticket{}) {
		return true
	}
	if t.refused || t.pending == nil || t.failures != s.resynced.Load() {
		return false
	}
	_, err := t.pending.Wait()
	return err == nil && s.journal.Failures() == t.failures
}

// behind reports whether changes are in memory that are not on disk and will
// not be before the next snapshot.
func (s *store) behind() bool { return s.journal.Failures() != s.resynced.Load() }

// retain records a retained message: at once, or within the save interval,
// so that only the newest of many is written. mu is held.
func (s *store) retain(m *Message, now bool) ticket {
	switch {
	case strings.HasPrefix(m.Topic, "$"):
		return ticket{}
	case now:
		delete(s.unsaved, m.Topic)
		return s.submit(recordRetained, appendMessage(nil, m))
	}
	s.unsaved[m.Topic] = struct{}{}
	s.wake()
	return ticket{}
}

// hasUnsaved reports whether a retained message is not yet recorded.
func (s *store) hasUnsaved() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.unsaved) > 0
}

// wake has keepStore look.
func (s *store) wake() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// openStore reads back what was stored.
func (b *Broker) openStore(folder journal.FS, save time.Duration) error {
	j, err := journal.Open(journal.Options{
		FS: folder, MaxSize: roomFor(b.limit()), MaxAge: 1, Memory: 1, Knows: knowsRecord,
		Log: b.log.With().Str("of", "broker").Logger(),
	})
	if err != nil {
		return fmt.Errorf("open the broker's store: %w", err)
	}
	s := &store{journal: j, unsaved: map[string]struct{}{}, changed: make(chan struct{}, 1)}
	s.save.Store(int64(save))
	s.resize(b.limit())
	if s.cursor, err = j.Cursor("snapshot"); err == nil {
		err = b.restore(s)
	}
	if err != nil {
		_ = j.Close()
		return fmt.Errorf("read the broker's store: %w", err)
	}
	b.store = s
	return nil
}

// roomFor is how large the log may become for what the limits allow to be kept:
// large enough that a snapshot, begun when half of it is used, is over long
// before the other half is.
func roomFor(l *Limits) int64 {
	return 8*(int64(l.RetainedBytes)+int64(l.QueuedTotal)+int64(l.PacketSize)) + 256<<20
}

// resize makes room for what other limits allow.
func (s *store) resize(l *Limits) {
	s.half.Store(roomFor(l) / 2)
	// What is there already has to fit, and the snapshot that replaces it.
	s.journal.SetBounds(max(roomFor(l), 2*s.journal.Stats().Bytes), 1, journal.Refuse)
}

// restore builds sessions and retained messages of what is stored.
func (b *Broker) restore(s *store) error {
	r := newRestorer(b)
	ended, cancel := context.WithCancel(context.Background())
	cancel() // to read what there is and not wait for more
	buf := make([]journal.Entry, 0, 64)
	for {
		entries, err := s.cursor.Next(ended, buf)
		if errors.Is(err, context.Canceled) {
			break
		}
		if err != nil {
			return err
		}
		for i := range entries {
			if e := &entries[i].Event; knowsRecord(e.Name) {
				r.apply(e)
			} else { // so far behind that Open did not see it
				return fmt.Errorf("a record is named %.40q: it %w", e.Name, journal.ErrNewer)
			}
		}
		clear(entries)
	}
	r.finish()
	if r.refused > 0 {
		b.log.Warn().Int("messages", r.refused).Msg("broker: fewer messages may be retained than were stored (broker.max_retained, max_retained_bytes); the others are dropped")
	}
	if r.bad > 0 {
		b.log.Error().Int("records", r.bad).Msg("broker: some stored records could not be read and were skipped")
	}
	if len(b.sessions)+b.retained.count > 0 {
		b.log.Info().Int("sessions", len(b.sessions)).Int("retained", b.retained.count).Msg("broker: restored sessions and retained messages")
	}
	return nil
}

// keepStore records what may wait, and writes everything anew when that saves
// space or makes a failure good.
func (b *Broker) keepStore() {
	const look, often, tooMuch, longest = 250 * time.Millisecond, 10 * time.Second, 4 << 20, time.Minute
	s := b.store
	timer := time.NewTimer(look)
	defer timer.Stop()
	saved, tried, changed := time.Now(), time.Time{}, time.Now()
	pause := time.Duration(0)   // after failures
	var resting <-chan struct{} // s.changed while nothing happens: an idle program is woken up rarely
	for {
		select {
		case <-b.stop:
			return
		case <-resting:
			resting, changed = nil, time.Now()
			timer.Reset(look)
			continue
		case <-timer.C:
		}
		select {
		case <-s.changed:
			changed = time.Now()
		default:
		}
		rest := look
		if resting = nil; time.Since(changed) > often && !s.behind() && !s.hasUnsaved() {
			resting, rest = s.changed, often
		}
		timer.Reset(rest)
		if time.Since(saved) >= time.Duration(s.save.Load()) {
			saved = time.Now()
			b.saveRetained()
		}
		size, failed := s.journal.Stats().Bytes, s.behind()
		due := size > tooMuch+3*s.live && time.Since(tried) > often || size > s.half.Load()
		if (due || failed) && time.Since(tried) > pause {
			tried = time.Now()
			pause = min(max(2*pause, time.Second), longest)
			switch err := b.snapshot(); {
			case err != nil:
				b.warn("store").Err(err).Msg("broker: sessions and retained messages cannot be stored; QoS 1 and 2 messages for stored sessions are refused until that works again")
			case failed:
				pause = 0
				b.log.Info().Msg("broker: sessions and retained messages are stored again")
			default:
				pause = 0
			}
		}
	}
}

// saveRetained records the retained messages that changed.
func (b *Broker) saveRetained() {
	s := b.store
	s.mu.Lock()
	defer s.mu.Unlock()
	for topic := range s.unsaved {
		m := b.retained.get(topic)
		if m == nil {
			m = &Message{Topic: topic, Retain: true}
		}
		s.retain(m, true)
	}
}

// snapshot writes everything anew. It takes turns with changes: each session
// and each retained message is recorded as it is at some moment, in order
// with the changes before and after.
func (b *Broker) snapshot() error {
	s := b.store
	failures, begin := s.journal.Failures(), s.journal.Stats().Last
	w := &snapshotWriter{journal: s.journal}
	b.mu.Lock()
	var sessions []*session
	for _, session := range b.sessions {
		if session.stored {
			sessions = append(sessions, session)
		}
	}
	b.mu.Unlock()
	for _, session := range sessions {
		b.mu.Lock() // for what it guards of the session
		s.mu.Lock()
		session.mu.Lock()
		if !session.gone {
			submitSession(session, w.add)
			w.submit()
		}
		session.mu.Unlock()
		s.mu.Unlock()
		b.mu.Unlock()
		w.wait(snapshotPart)
	}
	now := time.Now()
	for rest := b.retained.all(); len(rest) > 0; w.wait(snapshotPart) {
		s.mu.Lock()
		for len(rest) > 0 && w.unwritten < snapshotPart {
			m := rest[0]
			rest = rest[1:]
			if !m.expired(now) && m.Topic[0] != '$' && b.retained.get(m.Topic) == m {
				delete(s.unsaved, m.Topic)
				w.add(recordRetained, appendMessage(make([]byte, 0, retainedSize(m)), m))
			}
		}
		w.submit()
		s.mu.Unlock()
	}
	w.wait(0)
	if w.refused != nil {
		return w.refused
	}
	if s.journal.Failures() != failures {
		return cmp.Or(s.journal.Failure(), errors.New("a write failed; is the disk full?"))
	}
	s.live = w.total
	s.resynced.Store(failures)
	s.cursor.Ack(begin)
	s.journal.Retire()
	return nil
}

// snapshotPart is how many bytes of a snapshot are in memory at a time, but
// that a session is recorded at once.
const snapshotPart = 128 << 10

// snapshotWriter hands the records of a snapshot to the journal.
type snapshotWriter struct {
	journal   *journal.Journal
	part      []event.Event // not yet submitted
	size      int           // bytes of it
	last      *journal.Pending
	unwritten int // bytes that nobody has waited for
	total     int64
	refused   error
}

func (w *snapshotWriter) add(kind string, rec []byte) {
	w.part = append(w.part, event.Event{Name: kind, Payload: rec})
	w.size += len(rec)
	w.unwritten += len(rec)
	if w.size >= snapshotPart {
		w.submit()
	}
}

// submit hands over what was added. It comes before the locks are released
// under which that was read.
func (w *snapshotWriter) submit() {
	if len(w.part) == 0 {
		return
	}
	p, err := w.journal.Submit(w.part...)
	if w.refused = cmp.Or(w.refused, err); err == nil {
		w.last = p
		w.total += int64(w.size)
	}
	w.part, w.size = nil, 0
}

// wait has what was submitted written once it is so many bytes. Failures are
// counted by the journal.
func (w *snapshotWriter) wait(atLeast int) {
	if w.last != nil && w.unwritten >= atLeast {
		_, _ = w.last.Wait()
		w.last, w.unwritten = nil, 0
	}
}

// close records what waits and ends the store.
func (s *store) close(b *Broker) {
	b.saveRetained()
	err := s.journal.Close()
	if err = cmp.Or(err, s.journal.Failure()); err != nil {
		b.log.Error().Err(err).Msg("broker: the store was not closed cleanly")
	}
}
