package broker_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"event2mqtt/internal/broker"
	"event2mqtt/internal/testkit"
	"event2mqtt/internal/wire"
	"event2mqtt/test/mqttest"
)

var update = flag.Bool("update", false, "write docs/conformance.md anew")

const conformanceDoc = "../../docs/conformance.md"

// TestConformance checks every normative statement of MQTT 5.0 and 3.1.1 that
// binds a server, each in a test of its name. conformance5 and conformance311
// say which check stands for which statement, or why there is none.
func TestConformance(t *testing.T) {
	var doc strings.Builder
	doc.WriteString(conformanceIntro)
	for _, spec := range []struct {
		title, file string
		version     byte
		checks      map[string]conformance
	}{
		{"MQTT 5.0", "testdata/mqtt5.tsv", wire.V5, conformance5},
		{"MQTT 3.1.1", "testdata/mqtt311.tsv", wire.V311, conformance311},
	} {
		t.Run(spec.title, func(t *testing.T) {
			text, err := os.ReadFile(spec.file)
			testkit.OK(t, err)
			rest := map[string]conformance{}
			for id, c := range spec.checks {
				rest[id] = c
			}
			var table strings.Builder
			tested, omitted, clients := 0, 0, 0
			for line := range strings.Lines(string(text)) {
				field := strings.Split(strings.TrimSpace(line), "\t")
				id, binds, says := field[0], field[1], field[2]
				c, known := rest[id]
				delete(rest, id)
				switch {
				case known && c.check != nil:
					tested++
					fmt.Fprintf(&table, "| %s | %s | tested |\n", id, says)
					t.Run(id, func(t *testing.T) { c.check(newRig(t, spec.version)) })
				case known:
					omitted++
					fmt.Fprintf(&table, "| %s | %s | not tested: %s |\n", id, says, c.omitted)
				case binds == "C":
					clients++
				default:
					t.Errorf("%s has no check and no reason: %s", id, says)
				}
			}
			for id := range rest {
				t.Errorf("%s is not in %s", id, spec.file)
			}
			fmt.Fprintf(&doc, "\n## %s\n\n%d statements that bind a server: %d are tested, %d are not. %d more bind clients alone.\n\n| statement | says | here |\n| --- | --- | --- |\n%s",
				spec.title, tested+omitted, tested, omitted, clients, table.String())
		})
	}
	if strings.Contains(flag.Lookup("test.run").Value.String(), "/") {
		return // not all of it ran
	}
	if *update {
		testkit.OK(t, os.WriteFile(conformanceDoc, []byte(doc.String()), 0o644))
	}
	have, err := os.ReadFile(conformanceDoc)
	if err != nil || string(have) != doc.String() {
		t.Errorf("docs/conformance.md is out of date (%v); run: go test ./internal/broker -run TestConformance -update", err)
	}
}

const conformanceIntro = `# What the bundled broker keeps of the MQTT specifications

Every normative statement (appendix B) of MQTT 5.0 and 3.1.1 that binds a server, in short words of our own, and
whether a test of its name checks it: ` + "`go test ./internal/broker -run TestConformance -v`" + `. MQTT 3.1 has no numbered statements;
what it shares with 3.1.1 is tested with all three versions in the same package. This file is written by that test.

## Deviations that stay

Each is tested by TestDeviations.

| what | the specification | here, and why |
| --- | --- | --- |
| an empty topic filter in SUBSCRIBE or UNSUBSCRIBE | MQTT-4.7.3-1: filters have at least one character; a packet that breaks this is malformed, and the connection is closed | SUBACK refuses that filter (0x8F, or 0x80 before version 5) and grants the others; UNSUBACK says that there was no such subscription. One mistake in a list does not cut the client off. |
| reason codes in PUBACK, PUBREC, PUBREL and PUBCOMP of version 5 | 3.4.2.1 and so on list which codes each may have; others are a protocol error | any code is taken: below 0x80 as success, from 0x80 as failure. What a client means is clear, and its message is not sent for ever. |
| reserved bits of MQTT 3.1 | 3.1 says that reserved bits are not used, and asks for no check | the reserved CONNECT flag and wrong flags in fixed headers are refused as in 3.1.1; only DUP, which 3.1 sets on PUBREL, SUBSCRIBE and UNSUBSCRIBE, is let pass. No client in use sets them. |
| a client that takes no packet as large as the answer to its CONNECT | MQTT-3.1.2-24 forbids to send it, and nothing says what then | it is refused with 0x95 if that fits (5 bytes), else the connection is closed. SUBSCRIBE and UNSUBSCRIBE with so many filters that their answer does not fit end with DISCONNECT 0x95 and change nothing. |
| the same client id with another user name | MQTT-3.1.4-3: a client with the id of one that is connected ends its connection | holds for clients of the same user. Each user has client ids of its own, so that nobody can end or block another user's client. |
`

// conformance is how a statement is checked, or why it is not.
type conformance struct {
	check   func(*rig)
	omitted string
}

func checked(f func(*rig)) conformance { return conformance{check: f} }
func without(why string) conformance   { return conformance{omitted: why} }

// rig is a broker and a version to speak with it.
type rig struct {
	*testing.T
	v    byte
	b    *broker.Broker
	addr string
}

func newRig(t *testing.T, version byte) *rig {
	b, addr := start(t, broker.Limits{Inflight: 20, PacketSize: 100 << 10})
	return &rig{t, version, b, addr}
}

func (r *rig) five() bool { return r.v == wire.V5 }

func (r *rig) dial(o mqttest.Options) *mqttest.Client {
	r.Helper()
	o.Version = r.v
	return dial(r.T, r.addr, o)
}

// client is a plain client.
func (r *rig) client() *mqttest.Client { r.Helper(); return r.dial(mqttest.Options{}) }

// keep are options of a client whose session outlives its connection.
func (r *rig) keep(id string) mqttest.Options {
	o := mqttest.Options{ID: id, Keep: true}
	if r.five() {
		o.Properties = []byte{0x11, 0, 0, 0xff, 0xff}
	}
	return o
}

func (r *rig) sub(c *mqttest.Client, filter string, options byte, props ...byte) {
	r.Helper()
	subscribe(r.T, c, filter, options, props...)
}

func (r *rig) pub(c *mqttest.Client, p wire.Publish) {
	r.Helper()
	testkit.OK(r.T, c.Publish(p))
}

func (r *rig) next(c *mqttest.Client) wire.Publish { r.Helper(); return next(r.T, c) }

func (r *rig) quiet(c *mqttest.Client) { r.Helper(); testkit.OK(r.T, c.Quiet()) }

// all returns what has come, and answers it.
func (r *rig) all(c *mqttest.Client) (got []wire.Publish) {
	r.Helper()
	r.send(c, r.packet(wire.PINGREQ, 0))
	quiet := 0 // pings in a row that brought nothing; an answer may overtake messages
	for {
		header, body, err := c.Reader.Next()
		testkit.OK(r.T, err)
		switch wire.Type(header >> 4) {
		case wire.PUBLISH:
			var m wire.Publish
			testkit.OK(r.T, wire.DecodePublish(&m, r.v, header, bytes.Clone(body), ""))
			got = append(got, m)
			if m.QoS > 0 {
				testkit.OK(r.T, c.Ack(map[byte]wire.Type{1: wire.PUBACK, 2: wire.PUBREC}[m.QoS], m.PacketID))
				quiet = -1
			}
		case wire.PUBREL:
			testkit.OK(r.T, c.Ack(wire.PUBCOMP, binary.BigEndian.Uint16(body)))
			quiet = -1
		case wire.PINGRESP:
			if quiet++; quiet == 2 {
				return got
			}
			r.send(c, r.packet(wire.PINGREQ, 0))
		}
	}
}

func (r *rig) want(what string, holds bool) {
	r.Helper()
	if !holds {
		r.Errorf("not so: %s", what)
	}
}

func (r *rig) expect(c *mqttest.Client, t wire.Type) []byte {
	r.Helper()
	body, err := c.Expect(t)
	testkit.OK(r.T, err)
	return body
}

func (r *rig) send(c io.Writer, b []byte) {
	r.Helper()
	_, err := c.Write(b)
	testkit.OK(r.T, err)
}

// S is a string with its length before it, P are properties.
type (
	S string
	P string
)

// packet makes one of its parts: S, P (in version 5), uint16, byte, string
// and []byte as they are.
func (r *rig) packet(t wire.Type, flags byte, parts ...any) []byte {
	var body []byte
	for _, p := range parts {
		switch p := p.(type) {
		case S:
			body = append(binary.BigEndian.AppendUint16(body, uint16(len(p))), p...)
		case P:
			if r.five() {
				body = append(append(body, byte(len(p))), p...)
			}
		case uint16:
			body = binary.BigEndian.AppendUint16(body, p)
		case byte:
			body = append(body, p)
		case int:
			body = append(body, byte(p))
		case string:
			body = append(body, p...)
		case []byte:
			body = append(body, p...)
		}
	}
	return mqttest.Packet(nil, t, flags, body)
}

// connect makes a CONNECT with the given flags and payload.
func (r *rig) connect(flags byte, payload ...any) []byte {
	return r.packet(wire.CONNECT, 0, append([]any{S("MQTT"), r.v, flags, uint16(0), P("")}, payload...)...)
}

// cut sends a packet on a connection that was accepted: it must be closed,
// with a DISCONNECT in version 5 that has one of the codes.
func (r *rig) cut(packet []byte, codes ...wire.Code) {
	r.Helper()
	c := r.client()
	r.send(c, packet)
	r.closed(c, codes...)
}

func (r *rig) closed(c *mqttest.Client, codes ...wire.Code) {
	r.Helper()
	var code wire.Code
	for {
		header, body, err := c.Reader.Next()
		if err != nil {
			if !errors.Is(err, io.EOF) && !strings.Contains(err.Error(), "reset") {
				r.Errorf("not closed: %v", err)
			}
			break
		}
		if wire.Type(header>>4) == wire.DISCONNECT {
			code = wire.Code(body[0])
		}
	}
	if !r.five() {
		r.want("3.1.1 knows no DISCONNECT from a server", code == 0)
		return
	}
	for _, want := range codes {
		if code == want {
			return
		}
	}
	if len(codes) > 0 {
		r.Errorf("DISCONNECT with 0x%02x, want one of %x", byte(code), codes)
	}
}

// first sends bytes on a new connection and returns all that comes back
// before it is closed.
func (r *rig) first(b []byte) []byte {
	r.Helper()
	nc, err := net.Dial("tcp", r.addr)
	testkit.OK(r.T, err)
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(mqttest.Patience))
	r.send(nc, b)
	answer, err := io.ReadAll(nc)
	if err != nil && !strings.Contains(err.Error(), "reset") {
		r.Errorf("not closed: %v", err)
	}
	return answer
}

// refused sends a CONNECT that must be refused: nothing, or a CONNACK with
// the code of the version, and then the end.
func (r *rig) refused(b []byte, code5, code3 byte) {
	r.Helper()
	answer := r.first(b)
	if len(answer) == 0 && code5 == 0 {
		return
	}
	want := code3
	if r.five() {
		want = code5
	}
	if len(answer) < 4 || answer[0] != 0x20 || answer[2] != 0 || answer[3] != want {
		r.Errorf("got % x, want a CONNACK with 0x%02x", answer, want)
	}
}
