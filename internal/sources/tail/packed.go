package tail

import (
	"bytes"
	"cmp"
	"compress/bzip2"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"event2mqtt/internal/config"
	"event2mqtt/internal/event"
)

// This file reads compressed files, as rotation makes them: what they hold is
// read where it was not before, and never as text.

// maxUnpacked bounds what is read of a compressed file, in bytes that it holds.
const maxUnpacked = 1 << 30

// magics are the first bytes of compressed files. Those that cannot be read
// are known, so that they are not taken for text.
var magics = []struct {
	kind, bytes string
	open        func(io.Reader) (io.Reader, error)
}{
	{"gzip", "\x1f\x8b\x08", func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) }},
	{"bzip2", "BZh91AY&SY", func(r io.Reader) (io.Reader, error) { return bzip2.NewReader(r), nil }},
	{"zstd", "\x28\xb5\x2f\xfd", nil},
	{"xz", "\xfd7zXZ\x00", nil},
	{"lz4", "\x04\x22\x4d\x18", nil},
	{"zip", "PK\x03\x04", nil},
}

// magic returns how the file is compressed, "" if it is not.
func (f *file) magic() string {
	for _, m := range magics {
		if strings.HasPrefix(string(f.first[:]), m.bytes) {
			return m.kind
		}
	}
	return ""
}

// unpack opens what a compressed file holds.
func (f *file) unpack(size int64) (io.Reader, error) {
	for _, m := range magics {
		if strings.HasPrefix(string(f.first[:]), m.bytes) {
			if m.open == nil {
				break
			}
			r, err := m.open(io.NewSectionReader(f.File, 0, size))
			if err != nil {
				return nil, err
			}
			return io.LimitReader(r, maxUnpacked), nil
		}
	}
	return nil, errUnreadable
}

var errUnreadable = errors.New("this compression is not read")

// asPacked is the position of a compressed file of which offset bytes were read.
func (f *file) asPacked(how packing, offset int64) (p position) {
	var head [headSize]byte
	n, err := readAt(f.File, head[:], 0)
	if err != nil {
		n = 0
	}
	return position{offset: offset, headLen: n, headSum: crc32.Checksum(head[:n], table), packed: how}
}

// skipPacked leaves a compressed file out.
func (f *file) skipPacked(size int64) { f.position, f.size = f.asPacked(packedDone, 0), size }

// readPacked reads what a compressed file holds and was not read before.
func (s *Source) readPacked(ctx context.Context, f *file, size int64, written time.Time) error {
	if f.packed != notPacked && !f.matches(f.File) {
		f.position = position{} // another one is in its place
	}
	if size != f.size {
		f.grew = time.Now()
	}
	if f.damage != nil && size == f.size && written.Equal(f.seen) {
		return f.damage
	}
	f.size, f.seen, f.checked, f.wrote, f.unpacking, f.damage = size, written, time.Now(), false, false, nil
	if f.packed == packedDone {
		return nil
	}
	done := func(why string) error {
		if why != "" {
			s.log.Info().Str("path", f.path).Msg("tail: a compressed file is not read: " + why)
		}
		f.skipPacked(size)
		return s.mark(ctx, []event.Position{positionOf(f)})
	}
	if f.packed == notPacked && f.offset > 0 {
		return done("an earlier version has taken it for text")
	}
	from := f.offset
	var key string
	if f.packed == notPacked {
		claim, err := s.claimed(ctx, f, size)
		switch {
		case errors.Is(err, errUnreadable):
			return done("it is " + f.magic() + "; gzip and bzip2 are read")
		case err != nil && ctx.Err() != nil:
			return ctx.Err()
		case err != nil && time.Since(f.grew) < max(s.config.RotateWait, time.Second):
			f.unpacking = true // it is being made
			return nil
		case err != nil:
			f.damage = fmt.Errorf("it is damaged or not whole (%s: %w) and is not read until it is", f.magic(), err)
			return f.damage
		case claim.read:
			return done("what it holds was read when it was not compressed")
		}
		if claim.cut {
			s.log.Warn().Str("path", f.path).Msgf("tail: a compressed file holds more than %s; what is behind that is not read", config.Size(maxUnpacked))
		}
		from, key = claim.offset, claim.key
	}
	s.log.Info().Str("path", f.path).Int64("from", from).Msg("tail: reading a compressed file")
	if err := s.readUnpacked(ctx, f, size, from); err != nil {
		return err
	}
	if err := done(""); err != nil {
		return err
	}
	delete(s.missing, key)
	if key != "" && !slices.ContainsFunc(s.files, func(other *file) bool { return other.key == key }) {
		s.out.Forget(key)
	}
	return nil
}

// claim is what is known of a compressed file's content.
type claim struct {
	read   bool   // nothing of it is to be read
	cut    bool   // it holds more than is read
	offset int64  // what is before it was read
	key    string // under which that was kept
	position
	of *file
}

// claimed reads a compressed file through once, which tells whether it is
// whole, and finds the file whose content it holds: as far as that was read, it
// is not to be read again.
func (s *Source) claimed(ctx context.Context, f *file, size int64) (best claim, err error) {
	r, err := f.unpack(size)
	if err != nil {
		return best, err
	}
	var claims []claim
	const keep = lastSize
	buf := make([]byte, keep+readSize)
	have, end := 0, int64(0) // buf[:have] ends at end
	for first := true; ; first = false {
		if have > keep {
			have = copy(buf, buf[have-keep:have])
		}
		n, err := io.ReadFull(r, buf[have:])
		have, end = have+n, end+int64(n)
		if first {
			claims = s.claims(f, buf[:min(have, headSize)])
		}
		for len(claims) > 0 && claims[0].position.offset <= end {
			c := claims[0]
			claims = claims[1:]
			at := have - int(end-c.position.offset)
			if at >= c.lastLen && crc32.Checksum(buf[at-c.lastLen:at], table) == c.lastSum {
				best, best.offset = c, c.position.offset
			}
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF && n < readSize && drained(r) {
			break
		}
		if err != nil {
			return best, err
		}
		if ctx.Err() != nil {
			return best, ctx.Err()
		}
	}
	best.cut = end >= maxUnpacked
	twin := s.byPath[strings.TrimSuffix(f.path, filepath.Ext(f.path))]
	switch {
	case best.of != nil:
		_, _, err := best.of.stat()
		best.read = err == nil // it is read itself
	case best.cut && len(claims) > 0:
		best.read = true // more of it was read than is looked at
	case best.key == "" && twin != nil && twin != f:
		best.read = true
	}
	return best, nil
}

// drained reports whether a reader that ended in the middle of what was asked
// for did so because all was read, and not because the file is cut off.
func drained(r io.Reader) bool {
	_, err := r.Read(make([]byte, 1))
	return err == io.EOF
}

// claims returns the positions that a file with such a beginning may be the
// continuation of, those that lead less far first.
func (s *Source) claims(f *file, head []byte) (claims []claim) {
	fits := func(p position) bool {
		return p.packed == notPacked && p.offset > 0 && p.headLen > 0 && p.headLen <= len(head) && crc32.Checksum(head[:p.headLen], table) == p.headSum
	}
	for _, other := range s.files {
		if other != f && !other.fresh && other.copyOf == nil && fits(other.position) {
			claims = append(claims, claim{position: other.position, of: other, key: other.key})
		}
	}
	for key, p := range s.missing {
		if fits(p) {
			claims = append(claims, claim{position: p, key: key})
		}
	}
	slices.SortFunc(claims, func(a, b claim) int { return cmp.Compare(a.position.offset, b.position.offset) })
	return claims
}

// readUnpacked reads what a compressed file holds from a place on.
func (s *Source) readUnpacked(ctx context.Context, f *file, size, from int64) error {
	r, err := f.unpack(size)
	if err != nil {
		return err
	}
	f.position = f.asPacked(packedOpen, 0)
	head := make([]byte, headSize)
	n, err := io.ReadFull(r, head)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return err
	}
	head = head[:n]
	f.charset, f.bom = s.lines.Charset(head)
	f.header = bytes.Clone(head[min(f.bom, n):])
	f.header = f.header[:firstLine(f, f.header)]
	r = io.MultiReader(bytes.NewReader(head), r)
	if _, err := io.CopyN(io.Discard, r, from); err != nil && err != io.EOF {
		return err
	}
	f.offset = from
	buf, have, ended := make([]byte, min(s.most(), readSize)), 0, false
	for have > 0 || !ended {
		if !ended && have < len(buf) {
			n, err := io.ReadFull(r, buf[have:])
			have += n
			ended = err != nil // claimed has told that it is whole
		}
		used, err := s.takeEntries(f, buf[:have], ended)
		switch {
		case err != nil:
			return err
		case used == 0 && !ended && have == len(buf) && len(buf) < s.most():
			buf = append(buf, make([]byte, min(len(buf), s.most()-len(buf)))...)
		case used == 0 && (ended || have == len(buf)):
			if holes(buf[:have]) < have {
				s.addCut(f, buf[:have], buf[:have], f.offset+int64(have))
			}
			used = have
		}
		if err := s.flushFull(ctx); err != nil { // before what the batch was read into is moved
			return err
		}
		have = copy(buf, buf[used:have])
	}
	return nil
}
