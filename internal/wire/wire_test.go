package wire_test

import (
	"bytes"
	"encoding/binary"
	"io"
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
		"\xa2\x06\x00\x01\x00\x00\x01a", "\x40\x04\x00\x01\x10\x00", "\xe0\x02\x00\x00", "\xc0\x00", "\xff\xff\xff\xff\x7f",
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
		_, _ = wire.DecodeConnect(body)
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
		_, _ = wire.DecodeSubscribe(version, body, 100)
	case wire.UNSUBSCRIBE:
		_, _ = wire.DecodeUnsubscribe(version, body, 100)
	case wire.DISCONNECT:
		_, _ = wire.DecodeDisconnect(version, body)
	}
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
