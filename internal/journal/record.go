package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"time"

	"event2mqtt/internal/event"
)

// A record on disk:
//
//	marker  4 bytes
//	length  uint32, little endian: bytes of the body
//	crc     uint32: CRC-32C over the segment's salt, length and body
//	body    kind, seq, unsynced (uvarint), then what the kind holds
//
// The salt is random for each segment and stands in the segment's file name.
// It keeps bytes that a sender put into a payload, shaped like a record, from
// being taken for one when a reader looks for the next good record.
const (
	marker     = "\xe2\x1amq"
	headerSize = len(marker) + 4 + 4
	// maxBody bounds what a length field may claim.
	maxBody = 256 << 20
	// maxSeq bounds the number of an event. At a million events per second it
	// is reached in 146,000 years; what is beyond was not written by a journal.
	maxSeq = 1 << 62
)

type kind byte

const (
	kindEvent      kind = 1
	kindCheckpoint kind = 2
	kindPosition   kind = 3 // an event without a name: only its position counts
	kindRouted     kind = 4 // an event with a route of its own
	kindAddressed  kind = 5 // the same, for one sink alone
	kindExpiring   kind = 6 // the same, for one sink or all, with an expiry
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// record is one decoded record.
type record struct {
	kind kind
	// seq is the event's number, or for another kind that of the next event.
	seq uint64
	// unsynced is the first seq that was not known to be on disk when this
	// record was written. What lies before it and is missing was damaged
	// later; what lies from it on may never have been acknowledged.
	unsynced uint64
	event    event.Event // of all kinds but kindCheckpoint
	body     []byte      // of kindCheckpoint
}

// appendRecord appends an encoded record whose body is made by fill.
func appendRecord(buf []byte, salt uint64, k kind, seq, unsynced uint64, fill func([]byte) []byte) []byte {
	start := len(buf)
	buf = append(buf, marker...)
	buf = append(buf, 0, 0, 0, 0, 0, 0, 0, 0)
	buf = append(buf, byte(k))
	buf = binary.AppendUvarint(buf, seq)
	buf = binary.AppendUvarint(buf, seq-unsynced)
	buf = fill(buf)
	body := buf[start+headerSize:]
	binary.LittleEndian.PutUint32(buf[start+4:], uint32(len(body)))
	binary.LittleEndian.PutUint32(buf[start+8:], checksum(salt, body))
	return buf
}

func appendEvent(buf []byte, salt, seq, unsynced uint64, e *event.Event) []byte {
	k := kindEvent
	switch {
	case e.Name == "":
		k = kindPosition
	case e.Route.Expiry > 0:
		k = kindExpiring
	case e.Only != "":
		k = kindAddressed
	case !e.Route.IsZero():
		k = kindRouted
	}
	return appendRecord(buf, salt, k, seq, unsynced, func(b []byte) []byte {
		b = binary.AppendVarint(b, e.Time.UnixNano())
		b = appendBytes(b, e.Source)
		b = appendBytes(b, e.Name)
		b = appendBytes(b, e.Position.Key)
		b = appendBytes(b, e.Position.Value)
		if k == kindRouted || k == kindAddressed || k == kindExpiring {
			b = appendBytes(append(b, routeFlags(e.Route)), e.Route.Topic)
		}
		if k == kindAddressed || k == kindExpiring {
			b = appendBytes(b, e.Only)
		}
		if k == kindExpiring {
			b = binary.AppendUvarint(b, uint64(e.Route.Expiry))
		}
		return append(b, e.Payload...)
	})
}

// routeFlags are the QoS, plus one if there is one, the retain flag, and whether
// the topic is from outside, which older versions do not look at, and the message
// published as it is.
func routeFlags(r event.Route) (flags byte) {
	if r.QoS != nil {
		flags = *r.QoS + 1
	}
	if r.Retain {
		flags |= 4
	}
	if r.Outside {
		flags |= 8
	}
	if r.Raw { // versions before this flag publish the event, as JSON
		flags |= 16
	}
	return flags
}

func readRoute(flags byte, topic []byte) event.Route {
	r := event.Route{Topic: string(topic), Retain: flags&4 != 0, Outside: flags&8 != 0, Raw: flags&16 != 0}
	if qos := flags & 3; qos > 0 {
		qos--
		r.QoS = &qos
	}
	return r
}

func appendBytes[T string | []byte](buf []byte, s T) []byte {
	buf = binary.AppendUvarint(buf, uint64(len(s)))
	return append(buf, s...)
}

// recordSize is an upper bound of an event's encoded size.
func recordSize(e *event.Event) int {
	return headerSize + 2 + 10*binary.MaxVarintLen64 + len(e.Route.Topic) + len(e.Only) +
		len(e.Source) + len(e.Name) + len(e.Position.Key) + len(e.Position.Value) + len(e.Payload)
}

func checksum(salt uint64, body []byte) uint32 {
	return crc32.Update(checksumHead(salt, len(body)), castagnoli, body)
}

// checksumHead is the checksum of a salt and a length. It is worked out byte by
// byte: what is given to crc32 is allocated, for each record.
func checksumHead(salt uint64, length int) uint32 {
	register := ^uint32(0)
	for range 8 {
		register = castagnoli[byte(register)^byte(salt)] ^ register>>8
		salt >>= 8
	}
	for range 4 {
		register = castagnoli[byte(register)^byte(length)] ^ register>>8
		length >>= 8
	}
	return ^register
}

var errDamaged = errors.New("damaged record")

// decode decodes the record at the beginning of data and returns its size on
// disk. The record's bytes are copied. The error is errDamaged, or ErrNewer for
// a good record of a kind that this version does not know.
func decode(data []byte, salt uint64) (record, int, error) {
	return decodeSummed(data, func(body []byte) uint32 { return checksum(salt, body) })
}

// decodeSummed is decode with another way to the checksum of a body.
func decodeSummed(data []byte, sum func(body []byte) uint32) (record, int, error) {
	if len(data) < headerSize || string(data[:len(marker)]) != marker {
		return record{}, 0, errDamaged
	}
	length := binary.LittleEndian.Uint32(data[4:])
	if length > maxBody || int64(length) > int64(len(data)-headerSize) {
		return record{}, 0, errDamaged
	}
	size := headerSize + int(length)
	body := data[headerSize:size]
	if sum(body) != binary.LittleEndian.Uint32(data[8:]) {
		return record{}, 0, errDamaged
	}
	d := decoder{data: bytes.Clone(body)}
	rec := record{kind: kind(d.byte()), seq: d.uvarint()}
	rec.unsynced = rec.seq - d.uvarint()
	switch rec.kind {
	case kindEvent, kindPosition, kindRouted, kindAddressed, kindExpiring:
		rec.event.Time = time.Unix(0, d.varint())
		rec.event.Source = string(d.bytes())
		rec.event.Name = string(d.bytes())
		rec.event.Position.Key = string(d.bytes())
		rec.event.Position.Value = d.bytes()
		if rec.kind != kindEvent && rec.kind != kindPosition {
			rec.event.Route = readRoute(d.byte(), d.bytes())
			if rec.kind != kindRouted {
				rec.event.Only = string(d.bytes())
			}
			if rec.kind == kindExpiring {
				seconds := d.uvarint()
				rec.event.Route.Expiry = uint32(min(seconds, math.MaxUint32))
			}
			rec.kind = kindEvent // which it is, for all others
		}
		rec.event.Payload = d.data
	case kindCheckpoint:
		rec.body = d.data
	default:
		if d.bad {
			return record{}, 0, errDamaged // not even a kind
		}
		return record{}, 0, fmt.Errorf("a record is of kind %d: it %w", rec.kind, ErrNewer)
	}
	if d.bad || rec.unsynced > rec.seq || rec.seq > maxSeq {
		return record{}, 0, errDamaged
	}
	return rec, size, nil
}

// decoder takes values off the front of data; bad is set once it ran short.
type decoder struct {
	data []byte
	bad  bool
}

func (d *decoder) byte() byte {
	if len(d.data) == 0 {
		d.bad = true
		return 0
	}
	b := d.data[0]
	d.data = d.data[1:]
	return b
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.data)
	d.skip(n)
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.data)
	d.skip(n)
	return v
}

func (d *decoder) skip(n int) {
	if n <= 0 {
		d.bad = true
		d.data = nil
		return
	}
	d.data = d.data[n:]
}

func (d *decoder) bytes() []byte {
	n := d.uvarint()
	if n > uint64(len(d.data)) {
		d.bad = true
		d.data = nil
		return nil
	}
	b := d.data[:n:n]
	d.data = d.data[n:]
	return b
}

// scanner walks the records in a segment's bytes, past damaged stretches.
type scanner struct {
	data []byte
	salt uint64
	off  int         // of the next record
	sums *prefixSums // made when a record is looked for
	err  error       // ErrNewer, where the next good record is of an unknown kind
}

// next returns the next good record. bad is the stretch that had to be
// skipped to find it, empty as a rule; at the end ok is false, and bad is
// what follows the last good record, unless that is all zeros, which is space
// set aside but not yet written. It goes no further than err.
func (s *scanner) next() (rec record, bad []byte, ok bool) {
	start := s.off
	for {
		// Where bytes that only look like records claim to be long, each would
		// be summed to the end: sums of all beginnings keep that linear.
		sum := func(body []byte) uint32 { return checksum(s.salt, body) }
		if s.off > start {
			sum = s.sum
		}
		rec, size, err := decodeSummed(s.data[s.off:], sum)
		if err == nil {
			bad = s.data[start:s.off]
			s.off += size
			return rec, bad, true
		}
		if errors.Is(err, ErrNewer) {
			s.off, s.err = start, err
			return record{}, nil, false
		}
		from := min(s.off+1, len(s.data))
		i := bytes.Index(s.data[from:], []byte(marker))
		if i < 0 {
			s.off = len(s.data)
			bad = bytes.TrimRight(s.data[start:], "\x00")
			return record{}, bad, false
		}
		s.off = from + i
	}
}

// sum is checksum for the body of what begins at s.off.
func (s *scanner) sum(body []byte) uint32 {
	if len(body) < 4*sumEvery {
		return checksum(s.salt, body)
	}
	if s.sums == nil {
		s.sums = newPrefixSums(s.data)
	}
	from := s.off + headerSize
	return s.sums.between(checksumHead(s.salt, len(body)), from, from+len(body))
}
