package journal

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"
)

// This file keeps the marks of the cursors: how far each one is, and since
// when a closed one is closed.
//
// They are in two files. cursors.json is replaced as a whole, with two syncs,
// where that matters and every wholeMarks. cursors.now is written in place,
// which costs one call of the system, as soon as a mark moves: that is what a
// killed process leaves behind. It is synced less often, for a power cut. It
// counts only together with the cursors.json that it was written after, whose
// Save it names. Losing both sends events twice and loses none.

const (
	marksFile = "cursors.json"
	noteFile  = "cursors.now"
	// noteSlot is the size of each of the two places in noteFile that are
	// written in turn, so that a torn write leaves the one before.
	noteSlot = 4 << 10
	// marksFormat is what marksFile says; files of a later one are refused.
	marksFormat = 1
)

// mark is how far one cursor is. j.mu guards it.
type mark struct {
	name   string
	acked  uint64
	cursor *Cursor   // nil if none is open
	closed time.Time // since when none is
	// closedAt is what the files say of that, in ms since 1970.
	closedAt int64
	// whenFull is what SetWhenFull said.
	whenFull FullPolicy
	lost     uint64    // events that went undelivered, ever
	unsaid   uint64    // of them, those that no line in the log tells of
	said     time.Time // when such a line was written
}

// close notes since when no cursor is open.
func (m *mark) close(now time.Time) { m.closed, m.closedAt = now, now.UnixMilli() }

// holds reports whether a full journal keeps what the mark has yet to pass, and
// so takes no more, where Options.WhenFull is policy.
func (m *mark) holds(policy FullPolicy) bool { return cmp.Or(m.whenFull, policy) == Refuse }

// SetWhenFull says what happens when the journal is full of events that the
// cursor of a name has not acknowledged: Refuse holds them, so that no more are
// taken; with DropOldest this cursor loses its oldest, counted and logged, also on
// a full disk. Either goes before Options.WhenFull, which holds for those of which
// nothing was said, or "". It holds whether the cursor is open or closed, and
// survives a restart. A cursor that is not known stays so.
func (j *Journal) SetWhenFull(name string, policy FullPolicy) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if m := j.marks[name]; m != nil && m.whenFull != policy {
		m.whenFull = policy
		j.moved()
	}
}

// Mark is what is known of a cursor, open or not.
type Mark struct {
	Name string
	Open bool
	// Used is when the cursor was closed, or now if it is open. One that was
	// open when its process ended counts as used until the journal was opened
	// again. It survives a restart.
	Used time.Time
	// Lag is how many events wait to be acknowledged.
	Lag uint64
	// Lost is how many were removed before they were, because the journal was
	// full. It survives a restart, too.
	Lost uint64
	// WhenFull is what SetWhenFull said, Refuse if nothing.
	WhenFull FullPolicy
}

// Marks returns all cursors that the journal remembers, sorted by name.
func (j *Journal) Marks() []Mark {
	j.mu.Lock()
	defer j.mu.Unlock()
	out := make([]Mark, 0, len(j.marks))
	for _, m := range j.marks {
		entry := Mark{Name: m.name, Open: m.cursor != nil, Used: m.closed, Lag: j.last - min(m.acked, j.last), Lost: m.lost}
		if entry.Open {
			entry.Used = time.Now()
		}
		entry.WhenFull = cmp.Or(m.whenFull, Refuse)
		out = append(out, entry)
	}
	slices.SortFunc(out, func(a, b Mark) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// ErrOpen is returned where a cursor must not be open.
var ErrOpen = errors.New("the cursor is open")

// DropCursor forgets a cursor for good: it holds no segments any more, and
// begins at the end of the journal should it be opened again. The error is
// ErrOpen, or that this could not be saved; then the cursor is still known.
// Forgetting one that is not known does nothing.
func (j *Journal) DropCursor(name string) error {
	j.mu.Lock()
	m := j.marks[name]
	switch {
	case m == nil:
		j.mu.Unlock()
		return nil
	case m.cursor != nil:
		j.mu.Unlock()
		return fmt.Errorf("forget cursor %q: %w", name, ErrOpen)
	}
	delete(j.marks, name)
	j.dropped, j.unmarked = true, false
	j.moved()
	j.mu.Unlock()
	if err := j.saveMarks(); err != nil {
		j.mu.Lock()
		if j.marks[name] == nil { // nobody has opened it anew meanwhile
			j.marks[name] = m
		}
		j.mu.Unlock()
		return fmt.Errorf("forget cursor %q: %w", name, err)
	}
	j.Retire()
	return nil
}

// moved tells that marks are not those of the files any more. j.mu is held.
func (j *Journal) moved() {
	j.stale = true
	if !j.dirty {
		j.dirty = true
		signal(j.markMoved)
	}
}

// grew tells the same of the end of the log, which the files name so that a
// segment that is missing later is noticed. j.mu is held.
func (j *Journal) grew() {
	j.stale = true
	if !j.grown {
		j.grown = true
		signal(j.endMoved)
	}
}

type marksContent struct {
	Format  int               `json:"format"`
	ID      string            `json:"id"`
	Cursors map[string]uint64 `json:"cursors"`
	// None tells that there is rightly no cursor: the last one was dropped.
	None bool `json:"none,omitempty"`
	// Closed is when cursors were closed that are not open, in ms since 1970,
	// and Given how many events went that they had not delivered.
	Closed map[string]int64  `json:"closed,omitempty"`
	Given  map[string]uint64 `json:"given,omitempty"`
	// Yields are the cursors that lose their oldest when the journal is full,
	// and Holds those that never do.
	Yields map[string]bool `json:"yields,omitempty"`
	Holds  map[string]bool `json:"holds,omitempty"`
	// Last is the newest event, Removed the newest that went by order, and
	// Lost the newest that was reported as missing.
	Last    uint64 `json:"last,omitempty"`
	Lost    uint64 `json:"lost,omitempty"`
	Removed uint64 `json:"removed,omitempty"`
	// Save names a version of marksFile. In noteFile it is the one that this
	// was written after, and Turn counts what was written there.
	Save string `json:"save,omitempty"`
	Turn uint64 `json:"turn,omitempty"`
}

// content returns the marks as they are to be saved. j.mu is held.
func (j *Journal) content() marksContent {
	c := marksContent{
		Format: marksFormat, ID: j.id, Cursors: j.acked(), None: len(j.marks) == 0 && j.dropped,
		Last: max(j.last, j.lostTo), Removed: j.removed, Lost: j.lostTo,
	}
	for name, m := range j.marks {
		if m.cursor == nil && m.closedAt != 0 {
			set(&c.Closed, name, m.closedAt)
		}
		if m.lost > 0 {
			set(&c.Given, name, m.lost)
		}
		switch m.whenFull {
		case DropOldest:
			set(&c.Yields, name, true)
		case Refuse:
			set(&c.Holds, name, true)
		}
	}
	return c
}

// acked returns how far each cursor is. j.mu is held.
func (j *Journal) acked() map[string]uint64 {
	out := make(map[string]uint64, len(j.marks))
	for name, m := range j.marks {
		out[name] = m.acked
	}
	return out
}

func set[V any](m *map[string]V, key string, value V) {
	if *m == nil {
		*m = map[string]V{}
	}
	(*m)[key] = value
}

// loadMarks reads the marks, or takes fallback where the file is damaged.
// known is the newest event that the segments tell of. Nothing runs yet.
func (j *Journal) loadMarks(fallback map[string]uint64, known uint64) error {
	content, err := readMarks(j.opt.FS)
	if err == nil {
		if note, ok := readNote(j.opt.FS, content.Save); ok && note.check(known) == nil {
			content = note
			j.turn, j.stale = note.Turn, true
		}
		j.save = content.Save
		err = content.check(known)
	}
	if err != nil {
		content = marksContent{}
	}
	switch {
	case err == nil:
		j.removed, j.dropped = content.Removed, content.None
		j.lostEnd(content, known)
		content.Cursors = maps.Clone(content.Cursors)
		j.skipRemoved(&content)
		j.putBack(content.Cursors, fallback, known)
		if j.id == "" {
			j.id = content.ID
		}
	case errors.Is(err, errNoMarks):
		content.Cursors = maps.Clone(fallback)
	case errors.Is(err, ErrNewer):
		return err
	default:
		j.opt.Log.Error().Err(err).Msg("journal: the saved cursors are damaged and set aside; events since the last segment began are sent again, or all that are stored if it does not tell the cursors either")
		content.Cursors = maps.Clone(fallback)
		j.stats.Damaged++
		if err := j.opt.FS.Rename(marksFile, marksFile+".damaged"); err != nil {
			return fmt.Errorf("set aside %s: %w", marksFile, err)
		}
	}
	if content.Last == 0 && len(j.segments) > 0 {
		j.removed = j.segments[0].first - 1 // nobody knows better
	}
	j.takeMarks(&content)
	j.unmarked = len(j.marks) == 0 && known > 0 && !content.None
	if j.id == "" {
		j.id = newID()
	}
	j.next = max(j.next, 1)
	j.unsynced = j.next
	return nil
}

// takeMarks makes the marks of what was saved.
func (j *Journal) takeMarks(content *marksContent) {
	now, removed := time.Now(), j.orderly()
	for name, acked := range content.Cursors {
		if acked > maxSeq { // of a checkpoint
			continue
		}
		// What went by order waits for nobody. Other events that are missing are
		// reported when the cursor comes to them.
		acked = max(acked, removed)
		m := &mark{name: name, acked: acked, lost: content.Given[name]}
		m.close(now) // it was open until now, as far as anybody knows
		switch ms, ok := content.Closed[name]; {
		case !ok || ms < firstClock:
			j.moved()
		case ms > now.UnixMilli(): // once the clock is right, this is
			m.closedAt = ms
		default:
			m.close(time.UnixMilli(ms))
		}
		switch {
		case content.Yields[name]:
			m.whenFull = DropOldest
		case content.Holds[name]:
			m.whenFull = Refuse
		}
		j.marks[name] = m
		// After a power cut without sync the log may end before a mark. Were
		// those numbers used again, the cursor would skip new events.
		j.next = max(j.next, acked+1)
	}
}

// firstClock is the beginning of 2020, in ms since 1970: before that no clock was
// right that a cursor was closed by.
const firstClock = 1577836800_000

// skipRemoved has cursors give up what went by order from behind them, as far as
// nothing told of that yet: a version went by that knows nothing of them.
func (j *Journal) skipRemoved(content *marksContent) {
	to := j.orderly()
	for name, acked := range content.Cursors {
		if acked >= to {
			continue
		}
		lost := to - acked
		content.Cursors[name] = to
		set(&content.Given, name, content.Given[name]+lost)
		j.stats.Dropped += lost
		j.moved()
		j.opt.Log.Error().Str("sink", name).Uint64("events", lost).Msg("journal: events that this sink had not got were removed while an older version ran, which did not know it; it goes on behind them")
	}
}

// orderly is the newest event that is not on disk, and rightly so.
func (j *Journal) orderly() uint64 {
	if len(j.segments) == 0 {
		return 0
	}
	return min(j.removed, j.segments[0].first-1)
}

// putBack puts marks that are ahead of all that is stored back to where the
// newest segment's head has them: either that segment was cut, or a mark is
// wrong, and then events that nobody got would be skipped.
func (j *Journal) putBack(marks, fallback map[string]uint64, known uint64) {
	for name, acked := range marks {
		if acked <= known || known == 0 {
			continue
		}
		j.next = max(j.next, acked+1) // or the same id would be that of another event
		marks[name] = min(fallback[name], known)
		j.moved()
		j.opt.Log.Error().Str("cursor", name).Uint64("mark", acked).Uint64("newest", known).Msg("journal: a saved cursor is ahead of all events that are stored; those since the last segment began are sent again")
	}
}

// check returns what no journal saves: marks of events that never were, and no
// mark at all where there are events. known is the newest event that the
// segments tell of; behind it there may have been more, which are lost.
func (c *marksContent) check(known uint64) error {
	last := max(known, c.Last)
	for name, seq := range c.Cursors {
		if seq > last {
			return fmt.Errorf("cursor %q is at event %d, and the newest is %d", name, seq, last)
		}
	}
	switch {
	case max(c.Last, c.Lost, c.Removed) > maxSeq/2: // which leaves room for more
		return fmt.Errorf("they tell of more than %d events", uint64(maxSeq/2))
	case len(c.Cursors) == 0 && known > 0 && !c.None:
		return errors.New("they hold no cursor")
	}
	return nil
}

var errNoMarks = errors.New("no marks")

// readMarks reads what was saved last as a whole. The error is errNoMarks,
// ErrNewer, what is damaged, or one of the file system.
func readMarks(fsys FS) (marksContent, error) {
	files, err := fsys.List()
	if err != nil {
		return marksContent{}, err
	}
	for _, info := range files {
		if info.Name != marksFile {
			continue
		}
		data, err := readFile(fsys, marksFile, 0, min(info.Size, 1<<20))
		if err != nil {
			return marksContent{}, err
		}
		return openMarks(data)
	}
	return marksContent{}, errNoMarks
}

// readNote returns the newest that was noted after a save, if anything was.
func readNote(fsys FS, save string) (newest marksContent, ok bool) {
	if save == "" {
		return newest, false
	}
	data, err := readFile(fsys, noteFile, 0, 2*noteSlot)
	if err != nil {
		return newest, false
	}
	for slot := range slices.Chunk(data, noteSlot) {
		c, err := openMarks(bytes.TrimRight(slot, "\x00"))
		if err == nil && c.Save == save && c.Turn > newest.Turn {
			newest, ok = c, true
		}
	}
	return newest, ok
}

// sealMarks encodes marks with a checksum.
func sealMarks(c *marksContent) ([]byte, error) {
	body, err := json.Marshal(c)
	return fmt.Appendf(nil, `{"crc32c":%d,"body":%s}`, checksum(0, body), body), err
}

func openMarks(data []byte) (c marksContent, err error) {
	var sealed struct {
		Sum  uint32          `json:"crc32c"`
		Body json.RawMessage `json:"body"`
	}
	if err := json.Unmarshal(data, &sealed); err != nil {
		return c, err
	}
	if checksum(0, sealed.Body) != sealed.Sum {
		return c, errors.New("checksum does not match")
	}
	if err := json.Unmarshal(sealed.Body, &c); err != nil {
		return marksContent{}, err
	}
	if c.Format > marksFormat {
		return marksContent{}, fmt.Errorf("%s has format %d, not %d: it %w", marksFile, c.Format, marksFormat, ErrNewer)
	}
	return c, nil
}

// saveMarks replaces the file of marks, if it is not up to date.
func (j *Journal) saveMarks() error {
	j.saving.Lock()
	defer j.saving.Unlock()
	j.mu.Lock()
	if !j.stale {
		j.mu.Unlock()
		return nil
	}
	j.stale, j.dirty, j.grown = false, false, false
	content := j.content()
	j.mu.Unlock()
	content.Save = rand.Text()
	sealed, err := sealMarks(&content)
	if err == nil {
		err = replaceFile(j.opt.FS, marksFile, sealed)
	}
	if err != nil {
		j.mu.Lock()
		j.moved()
		j.mu.Unlock()
		// Whether the file was replaced nobody knows: a note counts with the
		// one before, or not at all.
		return err
	}
	j.save = content.Save
	return nil
}

// errNoNote is returned where marks cannot be noted, but saved as a whole.
var errNoNote = errors.New("cannot be noted")

// noteMarks writes the marks, if they moved, for whoever starts after a kill.
// A power cut may take them back. The error is that they must be saved instead.
func (j *Journal) noteMarks() error {
	j.saving.Lock()
	defer j.saving.Unlock()
	if j.save == "" {
		return errNoNote
	}
	j.mu.Lock()
	if !j.dirty && !j.grown {
		j.mu.Unlock()
		return nil
	}
	j.dirty, j.grown = false, false
	content := j.content()
	j.mu.Unlock()
	j.turn++
	content.Save, content.Turn = j.save, j.turn
	sealed, err := sealMarks(&content)
	if err == nil && len(sealed) > noteSlot {
		err = errNoNote
	}
	if err == nil {
		err = j.writeNote(append(sealed, make([]byte, noteSlot-len(sealed))...), int64(j.turn%2)*noteSlot)
	}
	if err != nil {
		j.mu.Lock()
		j.moved()
		j.mu.Unlock()
	}
	return err
}

// writeNote writes one slot. The file stays open, and is looked for each time:
// it may have been removed, or its folder replaced. j.saving is held.
func (j *Journal) writeNote(slot []byte, at int64) error {
	if j.note != nil && j.note.InPlace() != nil {
		j.closeNote()
	}
	if j.note == nil {
		f, err := j.opt.FS.Open(noteFile)
		if errors.Is(err, fs.ErrNotExist) {
			f, err = j.opt.FS.Create(noteFile)
		}
		if err != nil {
			return err
		}
		j.note = f
	}
	_, err := j.note.WriteAt(slot, at)
	if err != nil {
		j.closeNote()
	}
	return err
}

// closeNote closes the file of notes, if it is open. j.saving is held, or
// nothing runs any more.
func (j *Journal) closeNote() {
	if j.note != nil {
		_ = j.note.Close()
		j.note = nil
	}
}

// syncNote has what was noted survive a power cut.
func (j *Journal) syncNote() error {
	f, err := j.opt.FS.Open(noteFile)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
