package tail

import (
	"encoding/binary"
	"hash/crc32"
	"os"
)

// Sizes of the pieces of a file that tell whether it is still the same one.
const (
	headSize = 1024
	lastSize = 256
)

// position says how far a file was read, and what stood at its beginning and
// just before that place. Device and inode alone do not tell: inodes are used
// again, and copytruncate keeps the inode and changes the content.
type position struct {
	offset  int64
	headLen int
	headSum uint32
	lastLen int
	lastSum uint32
	// packed is set for a compressed file: the head is of the file as it is,
	// offset counts what it holds.
	packed packing
}

// packing says what is known of a compressed file, or of one that was never
// opened.
type packing byte

const (
	notPacked  packing = iota
	packedOpen         // some of it was read
	packedDone         // nothing of it is to be read any more
	// neverOpened is only of positions that are kept for later: the file had
	// that size on the very first run.
	neverOpened
)

var table = crc32.MakeTable(crc32.Castagnoli)

func (p position) append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(p.offset))
	b = binary.AppendUvarint(b, uint64(p.headLen))
	b = binary.LittleEndian.AppendUint32(b, p.headSum)
	b = binary.AppendUvarint(b, uint64(p.lastLen))
	b = binary.LittleEndian.AppendUint32(b, p.lastSum)
	if p.packed != notPacked {
		b = append(b, byte(p.packed))
	}
	return b
}

func parsePosition(b []byte) (p position, ok bool) {
	offset, n := binary.Uvarint(b)
	if n <= 0 {
		return p, false
	}
	b = b[n:]
	headLen, n := binary.Uvarint(b)
	if n <= 0 || len(b) < n+4 || headLen > headSize {
		return p, false
	}
	headSum := binary.LittleEndian.Uint32(b[n:])
	b = b[n+4:]
	lastLen, n := binary.Uvarint(b)
	if n <= 0 || len(b) < n+4 || lastLen > lastSize || lastLen > offset {
		return p, false
	}
	p = position{offset: int64(offset), headLen: int(headLen), headSum: headSum, lastLen: int(lastLen), lastSum: binary.LittleEndian.Uint32(b[n:])}
	if b = b[n+4:]; len(b) > 0 {
		p.packed = packing(b[0])
	}
	return p, p.packed <= neverOpened
}

// read moves the position behind a line, of which text is what was read last.
func (p *position) read(to int64, text []byte) {
	if to == int64(len(text)) && p.packed == notPacked && p.headLen < headSize { // it is all that was read
		p.headLen = min(headSize, len(text))
		p.headSum = crc32.Checksum(text[:p.headLen], table)
	}
	text = text[max(0, len(text)-lastSize):]
	p.offset, p.lastLen, p.lastSum = to, len(text), crc32.Checksum(text, table)
}

// extendHead takes more of the file's beginning into account as it grows.
func (p *position) extendHead(f *os.File) {
	if p.headLen == headSize || p.offset == 0 {
		return
	}
	var head [headSize]byte
	n, err := readAt(f, head[:min(headSize, p.offset)], 0)
	if err == nil && n > p.headLen {
		p.headLen, p.headSum = n, crc32.Checksum(head[:n], table)
	}
}

// matches reports whether f holds what the position remembers.
func (p position) matches(f *os.File) bool {
	return sumIs(f, 0, p.headLen, p.headSum) && (p.packed != notPacked || sumIs(f, p.offset-int64(p.lastLen), p.lastLen, p.lastSum))
}

func sumIs(f *os.File, at int64, n int, sum uint32) bool {
	if n == 0 {
		return true
	}
	var buf [headSize]byte
	got, err := readAt(f, buf[:n], at)
	return got == n && err == nil && crc32.Checksum(buf[:n], table) == sum
}
