package wire

import (
	"encoding/binary"
	"fmt"
)

// This file is what a client needs of the codec: what it sends that a server
// only reads, and the other way around.

// AppendConnect appends a CONNECT packet of the version that c names. Of the
// properties of a will, those in Properties and the two that have fields are
// sent. No string may be longer than MaxStringLen bytes.
func AppendConnect(b []byte, c *Connect) []byte {
	body := appendString(make([]byte, 0, 256), "MQTT")
	if c.Version == V31 {
		body = appendString(body[:0], "MQIsdp")
	}
	body = append(body, c.Version, connectFlags(c))
	body = binary.BigEndian.AppendUint16(body, c.KeepAlive)
	if c.Version == V5 {
		body = appendBlock(body, appendConnectProperties(nil, c))
	}
	body = appendString(body, c.ClientID)
	if w := c.Will; w != nil {
		if c.Version == V5 {
			props := []byte(nil)
			if w.Delay > 0 {
				props = appendProperty(props, propWillDelay, w.Delay)
			}
			if w.HasExpiry {
				props = appendProperty(props, propMessageExpiry, w.Expiry)
			}
			body = appendBlock(body, append(props, w.Properties...))
		}
		body = appendString(body, w.Topic)
		body = appendString(body, string(w.Payload))
	}
	if c.HasUser {
		body = appendString(body, c.Username)
	}
	if c.HasPass {
		body = appendString(body, string(c.Password))
	}
	return append(appendHeader(b, byte(CONNECT)<<4, len(body)), body...)
}

func connectFlags(c *Connect) (flags byte) {
	if c.CleanStart {
		flags |= 2
	}
	if c.HasPass {
		flags |= 0x40
	}
	if c.HasUser {
		flags |= 0x80
	}
	if w := c.Will; w != nil {
		flags |= 4 | w.QoS<<3
		if w.Retain {
			flags |= 0x20
		}
	}
	return flags
}

func appendConnectProperties(props []byte, c *Connect) []byte {
	if c.SessionExpiry != 0 {
		props = appendProperty(props, propSessionExpiry, c.SessionExpiry)
	}
	if c.ReceiveMaximum != 0 && c.ReceiveMaximum != 65535 {
		props = appendProperty(props, propReceiveMax, c.ReceiveMaximum)
	}
	if c.MaximumPacket != 0 {
		props = appendProperty(props, propMaxPacket, c.MaximumPacket)
	}
	if c.TopicAliasMax != 0 {
		props = appendProperty(props, propTopicAliasMax, c.TopicAliasMax)
	}
	if c.NoProblems {
		props = appendProperty(props, propRequestProblem, byte(0))
	}
	if c.AuthMethod != "" {
		props = appendString(append(props, byte(propAuthMethod)), c.AuthMethod)
	}
	return props
}

// appendHeader appends a fixed header (2.1.1).
func appendHeader(b []byte, first byte, length int) []byte {
	return appendVarint(append(b, first), uint32(length))
}

// appendBlock appends properties with their length before them.
func appendBlock(b, props []byte) []byte {
	return append(appendVarint(b, uint32(len(props))), props...)
}

// AppendSubscribe appends a SUBSCRIBE packet. Its filters must be at most
// MaxStringLen bytes.
func AppendSubscribe(b []byte, version byte, s *Subscribe) []byte {
	body := binary.BigEndian.AppendUint16(nil, s.PacketID)
	if version == V5 {
		var props []byte
		if s.SubscriptionID != 0 {
			props = appendVarint(append(props, byte(propSubscriptionID)), s.SubscriptionID)
		}
		body = appendBlock(body, props)
	}
	for _, f := range s.Filters {
		options := f.QoS
		if version == V5 {
			options |= f.RetainHandling << 4
			if f.NoLocal {
				options |= 4
			}
			if f.RetainAsPublished {
				options |= 8
			}
		}
		body = append(appendString(body, f.Filter), options)
	}
	return append(appendHeader(b, byte(SUBSCRIBE)<<4|2, len(body)), body...)
}

// AppendUnsubscribe appends an UNSUBSCRIBE packet.
func AppendUnsubscribe(b []byte, version byte, u *Unsubscribe) []byte {
	body := binary.BigEndian.AppendUint16(nil, u.PacketID)
	if version == V5 {
		body = append(body, 0)
	}
	for _, f := range u.Filters {
		body = appendString(body, f)
	}
	return append(appendHeader(b, byte(UNSUBSCRIBE)<<4|2, len(body)), body...)
}

// AppendPingreq appends a PINGREQ packet.
func AppendPingreq(b []byte) []byte { return append(b, byte(PINGREQ)<<4, 0) }

// AppendGoodbye appends a DISCONNECT packet from a client. Versions before 5
// know no code.
func AppendGoodbye(b []byte, version byte, code Code) []byte {
	if version != V5 || code == Success {
		return append(b, byte(DISCONNECT)<<4, 0)
	}
	return append(b, byte(DISCONNECT)<<4, 1, byte(code))
}

// AppendUserProperty appends a user property to the Properties of a Publish.
// What does not fit is cut.
func AppendUserProperty(b []byte, name, value string) []byte {
	return appendString(appendString(append(b, byte(propUser)), name), value)
}

// AppendContentType appends the content type to the Properties of a Publish.
func AppendContentType(b []byte, mime string) []byte {
	return appendString(append(b, byte(propContentType)), mime)
}

// AppendIsText appends to the Properties of a Publish that its payload is
// UTF-8, by the payload format indicator.
func AppendIsText(b []byte) []byte { return appendProperty(b, propPayloadFormat, byte(1)) }

// maxConnack3 is how many bytes the body of a CONNACK has before version 5.
const maxConnack3 = 2

// DecodeConnack decodes the body of a CONNACK packet. A server that does not
// know version 5 answers in the form of an older one, which is understood:
// its code is translated, as that of older versions is.
func DecodeConnack(version byte, body []byte) (*Connack, error) {
	d := &decoder{data: body}
	flags := d.byte()
	code := d.byte()
	if d.err == nil && flags > 1 {
		return nil, malformed("CONNACK with flags 0x%02x", flags) // MQTT-3.2.2-1
	}
	c := &Connack{SessionPresent: flags == 1, Code: Code(code)}
	if version != V5 || len(body) == maxConnack3 && code > 0 && code < byte(Unspecified) {
		if d.err == nil && int(code) >= len(codes3) {
			return nil, malformed("CONNACK with the unknown code %d", code)
		}
		if d.err == nil {
			c.Code = codes3[code]
		}
		return c, d.end()
	}
	d.properties(connackProperties, c.property)
	if err := d.end(); err != nil {
		return nil, err
	}
	return c, nil
}

// codes3 are the return codes of 3.1.1, table 3.1, in the words of version 5.
var codes3 = [...]Code{Success, UnsupportedVersion, BadClientID, ServerUnavailable, BadCredentials, NotAuthorized}

func (c *Connack) property(id property, v value) error {
	switch id {
	case propSessionExpiry:
		c.SessionExpiry = &v.num
	case propReceiveMax:
		if v.num == 0 {
			return violation("receive maximum is 0")
		}
		c.ReceiveMaximum = uint16(v.num)
	case propMaxPacket:
		if v.num == 0 {
			return violation("maximum packet size is 0")
		}
		c.MaximumPacket = v.num
	case propMaxQoS:
		most := byte(v.num)
		c.MaximumQoS = &most
	case propRetainAvailable:
		c.NoRetain = v.num == 0
	case propWildcards:
		c.NoWildcards = v.num == 0
	case propShared:
		c.NoShared = v.num == 0
	case propTopicAliasMax:
		c.TopicAliasMax = uint16(v.num)
	case propServerKeepAlive:
		seconds := uint16(v.num)
		c.ServerKeep = &seconds
	case propAssignedID:
		c.AssignedID = v.str
	case propServerReference:
		c.ServerReference = v.str
	case propAuthMethod:
		c.AuthMethod = v.str
	case propReasonString:
		c.Reason = v.str
	}
	return nil
}

// Suback is a SUBACK or an UNSUBACK packet (3.9, 3.11).
type Suback struct {
	PacketID uint16
	Codes    []Code // one for each filter; an UNSUBACK before version 5 has none
	Reason   string
}

// DecodeSuback decodes the body of a SUBACK or UNSUBACK packet with at most
// limit codes.
func DecodeSuback(version byte, t Type, body []byte, limit int) (*Suback, error) {
	d := &decoder{data: body}
	s := &Suback{PacketID: d.packetID()}
	if version == V5 {
		d.properties(ackProperties, func(id property, v value) error {
			if id == propReasonString {
				s.Reason = v.str
			}
			return nil
		})
	}
	switch {
	case d.err != nil:
		return nil, d.err
	case version != V5 && t == UNSUBACK:
		return s, d.end()
	case len(d.data) == 0:
		return nil, malformed("%s without a code", t)
	case len(d.data) > limit:
		return nil, &Error{QuotaExceeded, fmt.Sprintf("%s with %d codes; %d were asked for", t, len(d.data), limit)}
	}
	for _, code := range d.data {
		s.Codes = append(s.Codes, Code(code))
	}
	return s, nil
}
