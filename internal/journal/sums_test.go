package journal

import (
	"encoding/binary"
	"hash/crc32"
	"math/rand/v2"
	"testing"
)

// TestSumsOfParts compares them with sums made the plain way.
func TestSumsOfParts(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, size := range []int{0, 1, 63, 64, 65, 5000} {
		data := make([]byte, size)
		for i := range data {
			data[i] = byte(rng.Uint32())
		}
		p := newPrefixSums(data)
		for range 200 {
			from := rng.IntN(size + 1)
			to := from + rng.IntN(size-from+1)
			crc := rng.Uint32()
			if got, want := p.between(crc, from, to), crc32.Update(crc, castagnoli, data[from:to]); got != want {
				t.Fatalf("%d..%d of %d: %x, want %x", from, to, size, got, want)
			}
		}
	}
}

// TestAChecksumIsThatOfSaltLengthAndBody: what older versions have written is
// read, and the other way round.
func TestAChecksumIsThatOfSaltLengthAndBody(t *testing.T) {
	body := []byte("what happened")
	for _, salt := range []uint64{0, 1, 0x0123456789abcdef, 1<<64 - 1} {
		head := binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint64(nil, salt), uint32(len(body)))
		if got, want := checksum(salt, body), crc32.Checksum(append(head, body...), castagnoli); got != want {
			t.Errorf("salt %x: %08x, want %08x", salt, got, want)
		}
	}
}
