package wire

import (
	"bytes"
	"io"
)

// Buffer sizes of a Reader, in bytes. A connection that says little keeps the
// smallest; one that says much, or says big things, gets more while it does.
const (
	minBuffer  = 1 << 10
	fastBuffer = 32 << 10
)

// Reader takes packets off a stream. It buffers what has arrived and never
// more than twice that.
type Reader struct {
	r          io.Reader
	buf        []byte
	start, end int
	limit      int
	// Version is set once it is known; version 5 has stricter rules.
	Version byte
}

// NewReader returns a Reader that refuses packets of more than limit bytes
// after the fixed header.
func NewReader(r io.Reader, limit int) *Reader { return &Reader{r: r, limit: limit} }

// SetLimit changes the limit for the packets to come.
func (r *Reader) SetLimit(limit int) { r.limit = limit }

// Buffered returns how many bytes wait to be decoded.
func (r *Reader) Buffered() int { return r.end - r.start }

// Compact gives back the memory of a large packet. The body that Next returned
// is not valid any more.
func (r *Reader) Compact() {
	if len(r.buf) <= fastBuffer {
		return
	}
	r.buf = append([]byte(nil), r.buf[r.start:r.end]...)
	r.start, r.end = 0, len(r.buf)
}

// PeekVersion returns the protocol version of a CONNECT that has begun to
// arrive, or 0 if that cannot be told.
func (r *Reader) PeekVersion() byte {
	b := r.buf[r.start:r.end]
	if len(b) == 0 || Type(b[0]>>4) != CONNECT {
		return 0
	}
	_, n := varint(b[1:])
	if n <= 0 {
		return 0
	}
	d := decoder{data: b[1+n:]}
	name, version := string(d.binary()), d.byte()
	if d.err != nil || name != "MQTT" && name != "MQIsdp" || version < V31 || version > V5 {
		return 0
	}
	return version
}

// methods begin what an HTTP client says first, also of HTTP/2 (RFC 9113, 3.4).
var methods = []string{"GET /", "POST /", "PUT /", "HEAD /", "PATCH /", "DELETE /", "OPTIONS ", "CONNECT ", "PRI * HTTP/2"}

// OtherProtocol tells that a stream is no MQTT but HTTP or TLS, by what has
// arrived until the first Next returned; it is "" if neither can be told. None
// of them begins as a CONNECT does: an HTTP method is a letter, and TLS sets
// flags that a CONNECT must not have (a handshake's record, RFC 8446, 5.1).
func (r *Reader) OtherProtocol() string {
	b := r.buf[:r.end]
	if len(b) > 2 && b[0] == 0x16 && b[1] == 3 {
		return "TLS"
	}
	for _, method := range methods {
		if bytes.HasPrefix(b, []byte(method)) {
			return "HTTP"
		}
	}
	return ""
}

// Next returns the next packet's first byte and body. The body is valid until
// the next call. The error is an *Error, or that of the stream: io.EOF only
// between packets.
func (r *Reader) Next() (header byte, body []byte, err error) {
	for {
		b := r.buf[r.start:r.end]
		need := 2
		if len(b) > 0 {
			if err := checkHeader(b[0], r.Version); err != nil {
				return 0, nil, err
			}
			length, n := varint(b[1:])
			switch {
			case n < 0:
				return 0, nil, malformed("remaining length has more than 4 bytes")
			case n > 1 && b[n] == 0 && r.Version == V5:
				return 0, nil, malformed("remaining length is not minimal") // MQTT-1.5.5-1
			case n == 0:
				need = len(b) + 1
			default:
				if int64(length) > int64(r.limit) {
					return 0, nil, &TooLarge{Type(b[0] >> 4), int64(length), r.limit}
				}
				need = 1 + n + int(length)
				if len(b) >= need {
					r.start += need
					return b[0], b[1+n : need : need], nil
				}
			}
		}
		if err := r.fill(need); err != nil {
			if err == io.EOF && len(b) > 0 {
				err = io.ErrUnexpectedEOF
			}
			return 0, nil, err
		}
	}
}

// fill reads at least one more byte of a packet that needs need in all.
func (r *Reader) fill(need int) error {
	have := r.end - r.start
	size := len(r.buf)
	switch {
	case size == 0:
		size = minBuffer
	case have == 0 && size > fastBuffer:
		size = minBuffer // the big packet is over
	case have == size:
		size = min(2*size, max(need, fastBuffer)) // full of what arrived
	}
	if size != len(r.buf) {
		buf := make([]byte, size)
		copy(buf, r.buf[r.start:r.end])
		r.buf, r.start, r.end = buf, 0, have
	} else if r.start > 0 {
		copy(r.buf, r.buf[r.start:r.end])
		r.start, r.end = 0, have
	}
	n, err := r.r.Read(r.buf[r.end:])
	r.end += n
	if n > 0 {
		if r.end == len(r.buf) && len(r.buf) < fastBuffer && need <= len(r.buf) {
			// More came than fits: this one is fast.
			buf := make([]byte, min(4*len(r.buf), fastBuffer))
			copy(buf, r.buf[:r.end])
			r.buf = buf
		}
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// checkHeader checks a packet's type and its flags (2.1.3).
func checkHeader(b, version byte) error {
	t, flags := Type(b>>4), b&15
	want := byte(0)
	switch t {
	case 0:
		return malformed("packet type 0")
	case PUBLISH:
		return nil
	case PUBREL, SUBSCRIBE, UNSUBSCRIBE:
		want = 2
	}
	if version == V31 && want == 2 {
		flags &^= 8 // 3.1 sets DUP on these
	}
	if flags != want {
		return malformed("%s with flags 0x%x", t, flags) // MQTT-2.1.3-1
	}
	return nil
}
