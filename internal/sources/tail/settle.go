package tail

import (
	"context"
	"hash/crc32"
	"io"
	"os"
	"time"

	"event2mqtt/internal/event"
)

// This file tells copies, as copytruncate makes, from files of their own.

// countHomes notes where files were found first.
func (s *Source) countHomes() {
	clear(s.homes)
	for _, f := range s.files {
		if f.home != "" {
			s.homes[f.home]++
		}
	}
}

// settle decides whether a fresh file is to be read, or is a copy of another,
// as copytruncate makes. A copy waits until its original is truncated: it is
// then read from where that one was, and no line twice. While it is being made
// it cannot be told from a file that begins as another does: for the rotation
// wait it is looked at again. What goes on to grow after that is no copy, and
// neither is what is made where another file was, unless it holds at once what
// that one did, nor a short file whose original is not truncated meanwhile: it
// may say the same by chance. settle returns the positions to keep.
func (s *Source) settle(f *file) (marks []event.Position) {
	s.pinned = f
	if s.hold(f) != nil {
		return nil
	}
	size, _, err := f.stat()
	if err != nil || s.beginFile(f, size) != nil {
		return nil
	}
	late := time.Since(f.opened) >= s.config.RotateWait
	if f.copyOf != nil && (!late || size == f.copied && !f.byChance) {
		f.copied = size
		return nil
	}
	others := s.homes[f.path]
	if f.home == f.path {
		others--
	}
	wait := size == 0
	var sums [headSize + 1]uint32
	summed := false
	for _, other := range s.files {
		if f.copyOf != nil || other == f || other.fresh || other.copyOf != nil || other.offset == 0 || other.packed != notPacked || other.headLen < int(min(other.offset, lastSize)) {
			continue
		}
		if n := min(f.firstLen, other.firstLen, other.headLen); string(f.first[:n]) != string(other.first[:n]) {
			continue // without reading
		}
		if other.offset < lastSize && !related(f.path, other.home) {
			continue
		}
		if !summed {
			summed = true
			sumHead(f.File, &sums)
		}
		if int64(other.headLen) <= size && sums[other.headLen] != other.headSum {
			continue
		}
		if other.matches(f.File) {
			f.fresh, f.copyOf, f.copied, f.home = false, other, size, ""
			f.byChance = other.offset < lastSize
			s.restless[f] = true
			return nil
		}
		// Should the other have been truncated just now, the copy is whole at
		// the next look.
		if !wait && size < other.offset {
			wait = s.hold(other) != nil || sameUpTo(size, f.File, other.File) || !other.matches(other.File)
		}
	}
	if f.fresh && wait && others == 0 && !late {
		return nil
	}
	f.fresh, f.copyOf, f.home = false, nil, f.path
	s.log.Info().Str("path", f.path).Msg("tail: reading a file that has appeared")
	return []event.Position{{Key: f.key, Value: f.position.append(nil)}}
}

// sumHead sums up every beginning of a file, as far as heads go.
func sumHead(f *os.File, sums *[headSize + 1]uint32) {
	var head [headSize]byte
	n, _ := readAt(f, head[:], 0)
	for i := range n {
		sums[i+1] = crc32.Update(sums[i], table, head[i:i+1])
	}
}

// sameUpTo reports whether two files have the same beginning, as far as the
// first and last of so many bytes tell.
func sameUpTo(size int64, a, b *os.File) bool {
	var inA, inB [headSize]byte
	n := int(min(size, headSize))
	for _, at := range []int64{0, size - int64(n)} {
		if _, err := readAt(a, inA[:n], at); err != nil {
			return false
		}
		if got, _ := b.ReadAt(inB[:n], at); got < n || inA != inB {
			return false
		}
	}
	return true
}

// readAt is ReadAt without the error for the end of the file.
func readAt(f *os.File, b []byte, at int64) (int, error) {
	n, err := f.ReadAt(b, at)
	if err == io.EOF {
		err = nil
	}
	return n, err
}

// releaseCopies lets the copies of f be read on from where f was read to, or
// from their ends if f has been read further: these were not made to truncate f.
func (s *Source) releaseCopies(ctx context.Context, f *file) error {
	for c := range s.restless {
		if c.copyOf != f {
			continue
		}
		c.copyOf = nil
		if err := s.hold(c); err != nil {
			return err
		}
		if f.matches(c.File) {
			c.position = f.position
		} else if err := s.skipToEnd(c); err != nil {
			return err
		}
		s.log.Info().Str("path", c.path).Str("of", f.path).Msg("tail: going on in a copy where its original was read to")
		if err := s.mark(ctx, []event.Position{{Key: c.key, Value: c.position.append(nil)}}); err != nil {
			return err
		}
	}
	return nil
}
