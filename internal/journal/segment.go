package journal

import (
	"cmp"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// segment is one file of the log. Its name carries what a damaged first page
// must not take with it: the seq of its first event and the salt.
type segment struct {
	name  string
	first uint64
	salt  uint64
	// head is the size of the checkpoint, as far as it is known.
	head int64
	// size counts the bytes that hold records; the file may be longer.
	size int64
	// modified is when the last record was written.
	modified time.Time
}

const segmentSuffix = ".seg"

func newSegment(first uint64) *segment {
	var salt [8]byte
	_, _ = rand.Read(salt[:]) // never fails, see its documentation
	s := &segment{first: first, salt: binary.LittleEndian.Uint64(salt[:])}
	s.name = fmt.Sprintf("%016x-%016x%s", s.first, s.salt, segmentSuffix)
	return s
}

func parseSegment(info FileInfo) (*segment, bool) {
	stem, ok := strings.CutSuffix(info.Name, segmentSuffix)
	if !ok || len(stem) != 33 {
		return nil, false
	}
	s := &segment{name: info.Name, size: info.Size, modified: info.Modified}
	if _, err := fmt.Sscanf(stem, "%016x-%016x", &s.first, &s.salt); err != nil {
		return nil, false
	}
	return s, true
}

func listSegments(fsys FS) ([]*segment, error) {
	files, err := fsys.List()
	if err != nil {
		return nil, err
	}
	var segments []*segment
	for _, info := range files {
		if s, ok := parseSegment(info); ok {
			segments = append(segments, s)
		}
	}
	slices.SortFunc(segments, func(a, b *segment) int { return cmp.Compare(a.first, b.first) })
	return segments, nil
}

// checkpoint stands at the head of each segment and says what all the
// segments before it would say, so that opening a journal reads one segment.
type checkpoint struct {
	// ID is the journal's, the first half of every event id.
	ID string `json:"id"`
	// Positions are the newest of each source and key.
	Positions map[string]map[string][]byte `json:"positions,omitempty"`
	// Last is the newest event of the segments before: what is missing up to it
	// was there once. Numbers behind it may never have been used.
	Last uint64 `json:"last,omitempty"`
	// Cursors are the marks as they were then, a fallback for a lost file.
	Cursors map[string]uint64 `json:"cursors,omitempty"`
}

// recovered is what reading a segment back finds.
type recovered struct {
	checkpoint *checkpoint
	head       int64 // where it ends
	positions  map[string]map[string][]byte
	last       uint64 // seq of the last event, 0 if there is none
	end        int64  // where the good records end
	damage     []damage
	err        error // ErrNewer; the rest says nothing then
}

type damage struct {
	offset int64
	bytes  []byte
}

// recoverSegment reads a segment after a restart. With cut, it is the one
// that was being written: a bad stretch that may hold what was never
// acknowledged ends it, together with all that follows. Elsewhere the bad
// stretch is skipped. How the two are told apart is said at record.unsynced.
func recoverSegment(data []byte, salt uint64, cut bool) recovered {
	// The last good record decides about the bad stretches before it; nothing
	// is collected on the way there, however many records there are.
	var lastBatch uint64
	s := scanner{data: data, salt: salt}
	for {
		rec, _, ok := s.next()
		if !ok {
			break
		}
		lastBatch = rec.unsynced
	}
	if s.err != nil {
		return recovered{err: s.err}
	}
	r := recovered{positions: map[string]map[string][]byte{}}
	var tail []byte
	s = scanner{data: data, salt: salt, sums: s.sums}
	for {
		start := s.off
		rec, bad, ok := s.next()
		if !ok {
			tail = bad
			break
		}
		if len(bad) > 0 {
			mayBeUnacknowledged := rec.unsynced == lastBatch && rec.seq > lastBatch
			if cut && mayBeUnacknowledged {
				tail = data[r.end:]
				break
			}
			r.damage = append(r.damage, damage{int64(start), bad})
		}
		r.end = int64(s.off)
		switch rec.kind {
		case kindEvent, kindPosition:
			if rec.kind == kindEvent {
				r.last = rec.seq
			}
			if p := rec.event.Position; p.Key != "" {
				setPosition(r.positions, rec.event.Source, p.Key, p.Value)
			}
		case kindCheckpoint:
			var c checkpoint
			if json.Unmarshal(rec.body, &c) == nil {
				r.checkpoint, r.head = &c, int64(s.off)
			}
		}
	}
	if len(tail) > 0 {
		r.damage = append(r.damage, damage{r.end, tail})
	}
	return r
}

func setPosition(positions map[string]map[string][]byte, source, key string, value []byte) {
	keys := positions[source]
	if keys == nil {
		keys = map[string][]byte{}
		positions[source] = keys
	}
	keys[key] = value
}
