package wire_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"reflect"
	"testing"
	"testing/iotest"

	"event2mqtt/internal/wire"
)

// FuzzPackets feeds arbitrary bytes to the reader and every decoder: none may
// panic, none may take more memory than twice what came, and it must not
// matter in what pieces the bytes arrive.
func FuzzPackets(f *testing.F) {
	for _, s := range []string{
		"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00", "\x10\x17\x00\x04MQTT\x05\x06\x00\x3c\x05\x11\x00\x00\x00\x01\x00\x01x\x00\x00\x01w\x00\x00",
		"\x33\x07\x00\x01x\x00\x01hi", "\x32\x09\x00\x01x\x00\x01\x02\x01\x01y", "\x82\x09\x00\x01\x02\x0b\x01\x00\x01a\x01",
		"\xa2\x06\x00\x01\x00\x00\x01a", "\x40\x04\x00\x01\x10\x00", "\xe0\x02\x00\x00", "\x20\x02\x00\x01",
		"\x20\x0b\x00\x00\x08\x24\x01\x25\x00\x27\x00\x00\x01", "\x90\x04\x00\x01\x00\x01", "\xb0\x02\x00\x01", "\xc0\x00", "\xff\xff\xff\xff\x7f",
	} {
		f.Add([]byte(s), true)
	}
	f.Fuzz(func(t *testing.T, data []byte, v5 bool) {
		version := wire.V311
		if v5 {
			version = wire.V5
		}
		read := func(r io.Reader) (out [][]byte) {
			reader := wire.NewReader(r, 1<<20)
			reader.Version = version
			for {
				header, body, err := reader.Next()
				if err != nil {
					return out
				}
				out = append(out, append([]byte{header}, body...))
			}
		}
		whole := read(bytes.NewReader(data))
		pieces := read(iotest.OneByteReader(bytes.NewReader(data)))
		if len(whole) != len(pieces) {
			t.Fatalf("%d packets at once, %d in pieces", len(whole), len(pieces))
		}
		for i, p := range whole {
			if !bytes.Equal(p, pieces[i]) {
				t.Fatalf("packet %d differs: % x, % x", i, p, pieces[i])
			}
			decode(t, version, p[0], p[1:])
		}
	})
}

func decode(t *testing.T, version, header byte, body []byte) {
	switch wire.Type(header >> 4) {
	case wire.CONNECT:
		c, err := wire.DecodeConnect(body)
		if err != nil {
			return
		}
		again, err := wire.DecodeConnect(bodyOf(t, wire.AppendConnect(nil, c)))
		if err != nil || !reflect.DeepEqual(c, again) {
			t.Fatalf("%+v became %+v: %v", c, again, err)
		}
	case wire.CONNACK:
		c, err := wire.DecodeConnack(version, body)
		if err != nil || version != wire.V5 || len(body) == 2 {
			return
		}
		again, err := wire.DecodeConnack(version, bodyOf(t, wire.AppendConnack(nil, version, *c)))
		if err != nil || !reflect.DeepEqual(c, again) {
			t.Fatalf("%+v became %+v: %v", c, again, err)
		}
	case wire.SUBACK, wire.UNSUBACK:
		if s, err := wire.DecodeSuback(version, wire.Type(header>>4), body, 3); err == nil && len(s.Codes) > 3 {
			t.Fatalf("%d codes", len(s.Codes))
		}
	case wire.PUBLISH:
		var p, again wire.Publish
		if wire.DecodePublish(&p, version, header, body, "") != nil {
			return
		}
		b := wire.AppendPublish(nil, version, &p)
		if len(b) != wire.PublishSize(version, &p) {
			t.Fatalf("size %d, want %d", wire.PublishSize(version, &p), len(b))
		}
		r := wire.NewReader(bytes.NewReader(b), len(b))
		h, body, err := r.Next()
		if err != nil || wire.DecodePublish(&again, version, h, body, p.Topic) != nil {
			t.Fatalf("%+v does not survive: %v", p, err)
		}
		if again.Topic != p.Topic || !bytes.Equal(again.Payload, p.Payload) || !bytes.Equal(again.Properties, p.Properties) || again.Expiry != p.Expiry {
			t.Fatalf("%+v became %+v", p, again)
		}
	case wire.PUBACK, wire.PUBREC, wire.PUBREL, wire.PUBCOMP:
		_, _ = wire.DecodeAck(version, body)
	case wire.SUBSCRIBE:
		s, err := wire.DecodeSubscribe(version, body, 100)
		if err != nil {
			return
		}
		again, err := wire.DecodeSubscribe(version, bodyOf(t, wire.AppendSubscribe(nil, version, s)), 100)
		if err != nil || !reflect.DeepEqual(s, again) {
			t.Fatalf("%+v became %+v: %v", s, again, err)
		}
	case wire.UNSUBSCRIBE:
		u, err := wire.DecodeUnsubscribe(version, body, 100)
		if err != nil {
			return
		}
		again, err := wire.DecodeUnsubscribe(version, bodyOf(t, wire.AppendUnsubscribe(nil, version, u)), 100)
		if err != nil || !reflect.DeepEqual(u, again) {
			t.Fatalf("%+v became %+v: %v", u, again, err)
		}
	case wire.DISCONNECT:
		_, _ = wire.DecodeDisconnect(version, body)
	}
}

// bodyOf returns the body of the one packet that b holds.
func bodyOf(t *testing.T, b []byte) []byte {
	r := wire.NewReader(bytes.NewReader(b), len(b))
	_, body, err := r.Next()
	if err != nil || r.Buffered() != 0 {
		t.Fatalf("% x is no packet: %v, %d bytes too many", b, err, r.Buffered())
	}
	return body
}

// TestUserPropertiesCostNothingEach: a packet may have hundreds of thousands.
func TestUserPropertiesCostNothingEach(t *testing.T) {
	props := bytes.Repeat([]byte("\x26\x00\x03key\x00\x05value"), 20_000)
	body := binary.AppendUvarint([]byte("\x00\x01t"), uint64(len(props)))
	body = append(body, props...)
	var p wire.Publish
	allocs := testing.AllocsPerRun(5, func() {
		if err := wire.DecodePublish(&p, wire.V5, 0x30, body, ""); err != nil {
			t.Fatal(err)
		}
	})
	if allocs > 50 || len(p.Properties) != len(props) {
		t.Errorf("%v allocations, %d bytes", allocs, len(p.Properties))
	}
}
