// Package wire reads and writes MQTT 3.1, 3.1.1 and 5 packets as bytes. It is
// strict: what the specifications call malformed is an error that carries the
// reason code for it. It allocates for bytes that have arrived, never for
// bytes that a length field claims. It knows nothing of sessions or topics'
// meaning; section numbers refer to the MQTT 5.0 specification.
package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Type is a control packet type (2.1.2).
type Type byte

// The control packet types.
const (
	CONNECT Type = iota + 1
	CONNACK
	PUBLISH
	PUBACK
	PUBREC
	PUBREL
	PUBCOMP
	SUBSCRIBE
	SUBACK
	UNSUBSCRIBE
	UNSUBACK
	PINGREQ
	PINGRESP
	DISCONNECT
	AUTH
)

var typeNames = [...]string{"reserved", "CONNECT", "CONNACK", "PUBLISH", "PUBACK", "PUBREC", "PUBREL", "PUBCOMP",
	"SUBSCRIBE", "SUBACK", "UNSUBSCRIBE", "UNSUBACK", "PINGREQ", "PINGRESP", "DISCONNECT", "AUTH"}

func (t Type) String() string { return typeNames[t&15] }

// Protocol levels, as in CONNECT.
const (
	V31  byte = 3
	V311 byte = 4
	V5   byte = 5
)

// Code is a reason code (2.4).
type Code byte

// The reason codes in use.
const (
	Success                Code = 0x00
	DisconnectWithWill     Code = 0x04
	NoMatchingSubscribers  Code = 0x10
	NoSubscriptionExisted  Code = 0x11
	Unspecified            Code = 0x80
	Malformed              Code = 0x81
	ProtocolError          Code = 0x82
	ImplementationSpecific Code = 0x83
	UnsupportedVersion     Code = 0x84
	BadClientID            Code = 0x85
	BadCredentials         Code = 0x86
	NotAuthorized          Code = 0x87
	ServerUnavailable      Code = 0x88
	ServerBusy             Code = 0x89
	Banned                 Code = 0x8A
	ShuttingDown           Code = 0x8B
	BadAuthMethod          Code = 0x8C
	KeepAliveTimeout       Code = 0x8D
	TakenOver              Code = 0x8E
	BadFilter              Code = 0x8F
	BadTopic               Code = 0x90
	PacketIDInUse          Code = 0x91
	PacketIDNotFound       Code = 0x92
	ReceiveMaxExceeded     Code = 0x93
	BadTopicAlias          Code = 0x94
	PacketTooLarge         Code = 0x95
	MessageRateTooHigh     Code = 0x96
	QuotaExceeded          Code = 0x97
	AdministrativeAction   Code = 0x98
	BadPayload             Code = 0x99
	RetainNotSupported     Code = 0x9A
	QoSNotSupported        Code = 0x9B
	UseAnotherServer       Code = 0x9C
	ServerMoved            Code = 0x9D
	SharedNotSupported     Code = 0x9E
	RateExceeded           Code = 0x9F
	MaximumConnectTime     Code = 0xA0
	IDsNotSupported        Code = 0xA1
	WildcardsNotSupported  Code = 0xA2
)

// codeNames say in words what clients are refused or cut off for.
var codeNames = map[Code]string{
	Success: "success", Malformed: "malformed packet", ProtocolError: "protocol error", UnsupportedVersion: "unsupported version",
	BadClientID: "bad client id", BadCredentials: "bad user name or password", NotAuthorized: "not authorized",
	ServerUnavailable: "server unavailable", ServerBusy: "server busy", Banned: "banned", ShuttingDown: "shutting down",
	BadAuthMethod: "bad authentication method", KeepAliveTimeout: "keep alive timeout", TakenOver: "session taken over",
	BadTopic: "bad topic", PacketTooLarge: "packet too large", QuotaExceeded: "quota exceeded",
	DisconnectWithWill: "disconnect with the will", NoMatchingSubscribers: "no matching subscribers", NoSubscriptionExisted: "no subscription existed",
	Unspecified: "unspecified error", ImplementationSpecific: "implementation specific error", BadFilter: "bad topic filter",
	PacketIDInUse: "packet identifier in use", PacketIDNotFound: "packet identifier not found", ReceiveMaxExceeded: "receive maximum exceeded",
	BadTopicAlias: "bad topic alias", MessageRateTooHigh: "message rate too high", AdministrativeAction: "administrative action",
	BadPayload: "payload format invalid", RetainNotSupported: "retain not supported", QoSNotSupported: "QoS not supported",
	UseAnotherServer: "use another server", ServerMoved: "server moved", SharedNotSupported: "shared subscriptions not supported",
	RateExceeded: "connection rate exceeded", MaximumConnectTime: "maximum connect time", IDsNotSupported: "subscription identifiers not supported",
	WildcardsNotSupported: "wildcard subscriptions not supported",
}

// String is the code in words, or as a number if it has none here.
func (c Code) String() string {
	if name, ok := codeNames[c]; ok {
		return name
	}
	return fmt.Sprintf("0x%02x", byte(c))
}

// Error is a violation of the protocol, with the code to answer it.
type Error struct {
	Code   Code
	Reason string
}

func (e *Error) Error() string { return e.Reason }

// TooLarge is a packet that the reader's limit does not allow. It is an Error
// with PacketTooLarge, too.
type TooLarge struct {
	Type  Type
	Size  int64 // bytes after the fixed header
	Limit int
}

func (e *TooLarge) Error() string {
	return fmt.Sprintf("%s packet of %d bytes; at most %d are allowed", e.Type, e.Size, e.Limit)
}

// Unwrap makes it an Error.
func (e *TooLarge) Unwrap() error { return &Error{PacketTooLarge, e.Error()} }

func malformed(format string, args ...any) error {
	return &Error{Malformed, fmt.Sprintf(format, args...)}
}

func violation(format string, args ...any) error {
	return &Error{ProtocolError, fmt.Sprintf(format, args...)}
}

// CodeOf returns the reason code of an error, Unspecified if it has none.
func CodeOf(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return Unspecified
}

// Connect is a CONNECT packet (3.1).
type Connect struct {
	Version    byte
	CleanStart bool
	KeepAlive  uint16 // seconds; 0 is never
	ClientID   string
	Username   string
	Password   []byte
	HasUser    bool
	HasPass    bool
	Will       *Will

	SessionExpiry  uint32 // seconds; 0xFFFFFFFF is never
	ReceiveMaximum uint16
	MaximumPacket  uint32 // 0 is unlimited
	TopicAliasMax  uint16
	// NoProblems asks for no reason strings but where a packet ends things.
	NoProblems bool
	AuthMethod string
}

// Will is the message a client leaves for its sudden end.
type Will struct {
	Publish
	Delay uint32 // seconds
}

// Publish is a PUBLISH packet (3.3).
type Publish struct {
	Topic     string
	Payload   []byte
	QoS       byte
	Retain    bool
	Dup       bool
	PacketID  uint16 // with QoS 1 and 2
	Alias     uint16 // 0 is none
	Expiry    uint32 // seconds, if HasExpiry
	HasExpiry bool
	// Properties are those that go to subscribers unaltered, encoded.
	Properties []byte
	// SubscriptionIDs are for the receiver of the packet alone.
	SubscriptionIDs []uint32
}

// Ack is a PUBACK, PUBREC, PUBREL or PUBCOMP packet.
type Ack struct {
	PacketID uint16
	Code     Code
	Reason   string // in words; "" if the peer gives none
}

// Subscribe is a SUBSCRIBE packet (3.8).
type Subscribe struct {
	PacketID       uint16
	SubscriptionID uint32 // 0 is none
	Filters        []Filter
}

// Filter is one topic filter with its options (3.8.3.1).
type Filter struct {
	Filter            string
	QoS               byte
	NoLocal           bool
	RetainAsPublished bool
	RetainHandling    byte
}

// Unsubscribe is an UNSUBSCRIBE packet (3.10).
type Unsubscribe struct {
	PacketID uint16
	Filters  []string
}

// Disconnect is a DISCONNECT packet (3.14).
type Disconnect struct {
	Code             Code
	SessionExpiry    uint32
	HasSessionExpiry bool
	Reason           string
	ServerReference  string // other servers to use, as the server writes them
}

// decoder takes values off the front of a packet's body. The first error
// sticks; values after it are zero.
type decoder struct {
	data []byte
	err  error
}

func (d *decoder) fail(err error) {
	if d.err == nil {
		d.err = err
	}
	d.data = nil
}

func (d *decoder) take(n int) []byte {
	if n > len(d.data) {
		d.fail(malformed("packet ends too early"))
		return nil
	}
	b := d.data[:n]
	d.data = d.data[n:]
	return b
}

func (d *decoder) byte() byte {
	if b := d.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) uint16() uint16 {
	if b := d.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (d *decoder) uint32() uint32 {
	if b := d.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// varint reads a variable byte integer (1.5.5).
func (d *decoder) varint() uint32 {
	v, n := varint(d.data)
	if n <= 0 {
		d.fail(malformed("bad variable byte integer"))
		return 0
	}
	if n > 1 && d.data[n-1] == 0 {
		d.fail(malformed("variable byte integer is not minimal")) // MQTT-1.5.5-1
		return 0
	}
	d.data = d.data[n:]
	return v
}

// varint returns n = 0 if more bytes are needed and n < 0 if it is too long.
func varint(b []byte) (v uint32, n int) {
	for i := 0; i < len(b); i++ {
		if i == 4 {
			return 0, -1
		}
		v |= uint32(b[i]&0x7f) << (7 * i)
		if b[i] < 0x80 {
			return v, i + 1
		}
	}
	if len(b) >= 4 {
		return 0, -1
	}
	return 0, 0
}

func (d *decoder) binary() []byte { return d.take(int(d.uint16())) }

// string reads a UTF-8 encoded string (1.5.4).
func (d *decoder) string() string { return string(d.text()) }

// text is string without a copy: there may be hundreds of thousands of them.
func (d *decoder) text() []byte {
	b := d.binary()
	if !utf8.Valid(b) {
		d.fail(malformed("string is not valid UTF-8")) // MQTT-1.5.4-1
		return nil
	}
	if bytes.IndexByte(b, 0) >= 0 {
		d.fail(malformed("string holds U+0000")) // MQTT-1.5.4-2
		return nil
	}
	return b
}

// topic reads a topic name (4.7.1): no wildcards.
func (d *decoder) topic() string {
	s := d.string()
	if strings.ContainsAny(s, "+#") {
		d.fail(&Error{BadTopic, "topic name holds a wildcard"}) // MQTT-3.3.2-2
	}
	return s
}

func (d *decoder) packetID() uint16 {
	id := d.uint16()
	if id == 0 && d.err == nil {
		d.fail(violation("packet identifier is 0")) // MQTT-2.2.1-3
	}
	return id
}

func (d *decoder) end() error {
	if d.err == nil && len(d.data) > 0 {
		d.err = malformed("%d bytes too many in the packet", len(d.data))
	}
	return d.err
}

// DecodeConnect decodes a CONNECT packet. A version that is not supported
// gives an Error with UnsupportedVersion.
func DecodeConnect(body []byte) (*Connect, error) {
	d := &decoder{data: body}
	c := &Connect{ReceiveMaximum: 65535}
	name := string(d.binary())
	c.Version = d.byte()
	if d.err != nil {
		return nil, d.err
	}
	switch {
	case name == "MQTT" && (c.Version == V311 || c.Version == V5), name == "MQIsdp" && c.Version == V31:
	case name == "MQTT" || name == "MQIsdp":
		return nil, &Error{UnsupportedVersion, fmt.Sprintf("protocol version %d is not supported", c.Version)}
	default:
		return nil, violation("not an MQTT client")
	}
	flags := d.byte()
	c.KeepAlive = d.uint16()
	c.CleanStart = flags&2 != 0
	c.HasUser, c.HasPass = flags&0x80 != 0, flags&0x40 != 0
	hasWill, willQoS, willRetain := flags&4 != 0, flags>>3&3, flags&0x20 != 0
	switch {
	case flags&1 != 0:
		return nil, malformed("reserved CONNECT flag is set") // MQTT-3.1.2-3
	case willQoS == 3, !hasWill && (willQoS != 0 || willRetain):
		return nil, malformed("will flags contradict each other") // MQTT-3.1.2-11..13
	case c.Version < V5 && c.HasPass && !c.HasUser:
		return nil, malformed("password without user name") // 3.1.1: MQTT-3.1.2-22
	}
	if c.Version == V5 {
		c.properties(d)
	} else if !c.CleanStart {
		c.SessionExpiry = 0xFFFFFFFF
	}
	c.ClientID = d.string()
	if hasWill {
		c.Will = &Will{Publish: Publish{QoS: willQoS, Retain: willRetain}}
		if c.Version == V5 {
			c.Will.properties(d)
		}
		c.Will.Topic = d.topic()
		c.Will.Payload = append([]byte(nil), d.binary()...)
		if d.err == nil && c.Will.Topic == "" {
			d.fail(malformed("will topic is empty"))
		}
	}
	if c.HasUser {
		c.Username = d.string()
	}
	if c.HasPass {
		c.Password = append([]byte(nil), d.binary()...)
	}
	return c, d.end()
}

// DecodePublish decodes a PUBLISH packet into p. Payload and Properties alias
// body. intern, if it equals the topic, is used instead of a new string.
func DecodePublish(p *Publish, version, header byte, body []byte, intern string) error {
	*p = Publish{QoS: header >> 1 & 3, Retain: header&1 != 0, Dup: header&8 != 0}
	if p.QoS == 3 {
		return malformed("QoS 3") // MQTT-3.3.1-4
	}
	if p.QoS == 0 && p.Dup {
		return malformed("DUP with QoS 0") // MQTT-3.3.1-2
	}
	d := decoder{data: body}
	if n := len(intern); n > 0 && len(body) >= n+2 && int(binary.BigEndian.Uint16(body)) == n && string(body[2:n+2]) == intern {
		p.Topic = intern
		d.data = body[n+2:]
	} else {
		p.Topic = d.topic()
	}
	if p.QoS > 0 {
		p.PacketID = d.packetID()
	}
	if version == V5 {
		p.properties(&d)
	}
	if p.Topic == "" && p.Alias == 0 && d.err == nil {
		return violation("PUBLISH without topic") // MQTT-4.7.3-1
	}
	p.Payload = d.data
	return d.err
}

// DecodeAck decodes the body of a PUBACK, PUBREC, PUBREL or PUBCOMP packet.
func DecodeAck(version byte, body []byte) (Ack, error) {
	d := decoder{data: body}
	a := Ack{PacketID: d.packetID()}
	if version == V5 && len(d.data) > 0 {
		a.Code = Code(d.byte())
		if len(d.data) > 0 {
			d.properties(ackProperties, func(id property, v value) error {
				if id == propReasonString {
					a.Reason = v.str
				}
				return nil
			})
		}
	}
	return a, d.end()
}

// DecodeSubscribe decodes a SUBSCRIBE packet with at most limit filters.
func DecodeSubscribe(version byte, body []byte, limit int) (*Subscribe, error) {
	d := &decoder{data: body}
	s := &Subscribe{PacketID: d.packetID()}
	if version == V5 {
		d.properties(subscribeProperties, func(id property, v value) error {
			if id == propSubscriptionID {
				if v.num == 0 {
					return violation("subscription identifier is 0")
				}
				s.SubscriptionID = v.num
			}
			return nil
		})
	}
	for len(d.data) > 0 && d.err == nil {
		f := Filter{Filter: d.string()}
		options := d.byte()
		f.QoS = options & 3
		reserved := byte(0xC0)
		if version == V5 {
			f.NoLocal, f.RetainAsPublished, f.RetainHandling = options&4 != 0, options&8 != 0, options>>4&3
		} else {
			reserved = 0xFC
		}
		if d.err == nil && (options&reserved != 0 || f.QoS == 3 || f.RetainHandling == 3) {
			return nil, malformed("bad subscription options 0x%02x", options) // MQTT-3.8.3-5
		}
		if s.Filters = append(s.Filters, f); len(s.Filters) > limit {
			return nil, &Error{QuotaExceeded, fmt.Sprintf("more than %d filters in one SUBSCRIBE", limit)}
		}
	}
	if d.err == nil && len(s.Filters) == 0 {
		return nil, violation("SUBSCRIBE without a filter") // MQTT-3.8.3-2
	}
	return s, d.end()
}

// DecodeUnsubscribe decodes an UNSUBSCRIBE packet with at most limit filters.
func DecodeUnsubscribe(version byte, body []byte, limit int) (*Unsubscribe, error) {
	d := &decoder{data: body}
	u := &Unsubscribe{PacketID: d.packetID()}
	if version == V5 {
		d.properties(unsubscribeProperties, nil)
	}
	for len(d.data) > 0 && d.err == nil {
		if u.Filters = append(u.Filters, d.string()); len(u.Filters) > limit {
			return nil, &Error{QuotaExceeded, fmt.Sprintf("more than %d filters in one UNSUBSCRIBE", limit)}
		}
	}
	if d.err == nil && len(u.Filters) == 0 {
		return nil, violation("UNSUBSCRIBE without a filter") // MQTT-3.10.3-2
	}
	return u, d.end()
}

// DecodeDisconnect decodes a DISCONNECT packet.
func DecodeDisconnect(version byte, body []byte) (Disconnect, error) {
	d := decoder{data: body}
	var p Disconnect
	if version == V5 && len(body) > 0 {
		p.Code = Code(d.byte())
		if len(d.data) > 0 {
			d.properties(disconnectProperties, func(id property, v value) error {
				switch id {
				case propSessionExpiry:
					p.SessionExpiry, p.HasSessionExpiry = v.num, true
				case propReasonString:
					p.Reason = v.str
				case propServerReference:
					p.ServerReference = v.str
				}
				return nil
			})
		}
	}
	return p, d.end()
}
