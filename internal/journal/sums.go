package journal

import "hash/crc32"

// sumEvery is how many bytes lie between two sums that are kept.
const sumEvery = 64

// prefixSums hold CRCs of the beginnings of data, from which that of any part
// follows in the time of a logarithm: a CRC is linear, so the CRC register
// after a part is that of the beginning up to the part's end, less that of the
// beginning up to its start, moved on by the part's length (zlib's
// crc32_combine does the same).
type prefixSums struct {
	data []byte
	sums []uint32 // registers, from 0, after each sumEvery bytes
}

func newPrefixSums(data []byte) *prefixSums {
	p := &prefixSums{data: data, sums: make([]uint32, 0, len(data)/sumEvery+1)}
	register := uint32(0)
	for off := 0; ; off += sumEvery {
		p.sums = append(p.sums, register)
		if off+sumEvery > len(data) {
			return p
		}
		register = update(register, data[off:off+sumEvery])
	}
}

// update moves a CRC register on over data, without the complements that
// crc32.Update puts around it.
func update(register uint32, data []byte) uint32 {
	return ^crc32.Update(^register, castagnoli, data)
}

func (p *prefixSums) upTo(end int) uint32 {
	i := end / sumEvery
	return update(p.sums[i], p.data[i*sumEvery:end])
}

// between is crc32.Update(crc, castagnoli, data[from:to]).
func (p *prefixSums) between(crc uint32, from, to int) uint32 {
	return ^(p.upTo(to) ^ times(power(to-from), ^crc^p.upTo(from)))
}

// powers[k] is x^(8*2^k) modulo the Castagnoli polynomial, bits reversed.
var powers = func() (p [32]uint32) {
	p[0] = 1 << 23 // x^8
	for k := 1; k < len(p); k++ {
		p[k] = times(p[k-1], p[k-1])
	}
	return p
}()

// power is x^(8*n), by which a register is moved on over n zeros.
func power(n int) uint32 {
	p := uint32(1 << 31) // x^0
	for k := 0; n > 0; k, n = k+1, n>>1 {
		if n&1 == 1 {
			p = times(powers[k], p)
		}
	}
	return p
}

// times multiplies modulo the polynomial.
func times(a, b uint32) (product uint32) {
	for bit := uint32(1 << 31); bit > 0; bit >>= 1 {
		if a&bit != 0 {
			product ^= b
		}
		low := b & 1
		b >>= 1
		if low == 1 {
			b ^= crc32.Castagnoli
		}
	}
	return product
}
