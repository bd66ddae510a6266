package journal

import (
	"fmt"
	"strings"
)

// This file reads a log back after a restart; segment.go knows how.

// recover finds the end of the log, the positions and the marks.
func (j *Journal) recover() error {
	segments, err := listSegments(j.opt.FS)
	if err != nil {
		return err
	}
	if segments, err = j.plausible(segments); err != nil {
		return err
	}
	j.segments = segments
	newest := true // nothing newer holds a record
	known := false // positions and marks are, from a checkpoint
	var fallback map[string]uint64
	var stored uint64 // what the newest checkpoint says was stored before
	for i := len(segments) - 1; i >= 0; i-- {
		seg := segments[i]
		data, err := readFile(j.opt.FS, seg.name, 0, seg.size)
		if err != nil {
			return fmt.Errorf("read %s: %w", seg.name, err)
		}
		r := recoverSegment(data, seg.salt, newest)
		if r.err != nil {
			return fmt.Errorf("read %s: %w", seg.name, r.err)
		}
		j.reportDamage(seg, r.damage)
		if newest {
			if r.end == 0 {
				// Nothing good in it: most likely a crash came between
				// creating the file and its first write. Its name is not
				// believed either.
				j.segments = j.segments[:i]
				if err := j.putAway(seg, len(r.damage) > 0); err != nil {
					return err
				}
				continue
			}
			if n := len(r.damage); n > 0 && r.damage[n-1].offset >= r.end || j.opt.Sync != SyncAlways {
				// What was cut off, or never reached the disk, may have been
				// sent: its numbers are not used again.
				j.next += skipAhead
			}
			newest = false
			j.next = max(j.next, seg.first, r.last+1)
			seg.head = r.head
			if err := j.reopen(seg, r.end); err != nil {
				return err
			}
		}
		if !known {
			j.addPositions(r.positions)
			if c := r.checkpoint; c != nil {
				stored = c.Last
				j.addPositions(c.Positions)
				j.id, fallback, known = c.ID, c.Cursors, true
			}
		}
		if j.last = r.last; known && j.last > 0 {
			break
		}
	}
	// Where all that was stored is gone but for the head of the newest segment,
	// readers are to know how much that was.
	told := max(j.last, stored)
	j.last = max(j.last, min(stored, max(j.next, 1)-1)) // and the next number stays behind it
	return j.loadMarks(fallback, told)
}

// plausible sets segments aside whose first number no journal ever reaches,
// and returns the rest. Behind such a number the next ones would begin at 0
// again, where every cursor has been.
func (j *Journal) plausible(segments []*segment) (good []*segment, err error) {
	for _, seg := range segments {
		if seg.first > 0 && seg.first <= maxSeq {
			good = append(good, seg)
			continue
		}
		if err := j.putAway(seg, true); err != nil {
			return nil, err
		}
		j.stats.Damaged++
		j.opt.Log.Warn().Str("segment", seg.name).Str("copy", seg.name+damagedSuffix).Msg("journal: a file whose name is that of no segment is set aside, all else goes on")
	}
	return good, nil
}

// putAway removes a segment without a good record, or keeps it for whoever
// wants to look if there are bytes in it.
func (j *Journal) putAway(seg *segment, keep bool) error {
	if keep {
		return j.opt.FS.Rename(seg.name, seg.name+damagedSuffix)
	}
	return j.opt.FS.Remove(seg.name)
}

// addPositions takes over those of which no newer one is known.
func (j *Journal) addPositions(older map[string]map[string][]byte) {
	for source, keys := range older {
		for key, value := range keys {
			if _, newer := j.positions[source][key]; !newer {
				setPosition(j.positions, source, key, value)
			}
		}
	}
}

// reopen makes seg, whose good records end at end, the one to append to.
func (j *Journal) reopen(seg *segment, end int64) error {
	f, err := j.opt.FS.Open(seg.name)
	if err != nil {
		return err
	}
	// What lies behind the end must not be found by a later recovery.
	err = f.Truncate(end)
	// Neither must what is found now be lost by a later power cut: a killed
	// process leaves records, and names, that were never synced.
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = j.opt.FS.SyncDir()
	}
	if err != nil {
		_ = f.Close()
		return fmt.Errorf("cut %s: %w", seg.name, err)
	}
	seg.size = end
	j.active, j.current, j.alloc = f, seg, end
	return nil
}

// reportDamage copies damaged stretches into files of their own and logs
// them, once each.
func (j *Journal) reportDamage(seg *segment, found []damage) {
	for _, d := range found {
		name := fmt.Sprintf("%s-%d"+damagedSuffix, strings.TrimSuffix(seg.name, segmentSuffix), d.offset)
		j.mu.Lock()
		known := j.setAside[name]
		j.setAside[name] = true
		if !known {
			j.stats.Damaged++
		}
		copies := len(j.setAside)
		j.mu.Unlock()
		if known {
			continue
		}
		log := j.opt.Log.Warn().Str("segment", seg.name).Int64("offset", d.offset).Int("bytes", len(d.bytes))
		if copies > maxCopies {
			log.Msg("journal: skipped a damaged or unfinished stretch; no copy is made of any more of them")
			continue
		}
		if err := replaceFile(j.opt.FS, name, d.bytes); err != nil {
			log.AnErr("copy", err).Msg("journal: skipped a damaged or unfinished stretch; no copy could be made")
			continue
		}
		log.Str("copy", name).Msg("journal: skipped a damaged or unfinished stretch; a copy is set aside, all else goes on")
	}
}
