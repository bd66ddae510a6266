package wire

import "encoding/binary"

// MaxStringLen is the most a string or binary value can hold (1.5.4).
const MaxStringLen = 65535

func appendVarint(b []byte, v uint32) []byte {
	for v >= 0x80 {
		b = append(b, byte(v)|0x80)
		v >>= 7
	}
	return append(b, byte(v))
}

func varintLen(v uint32) int {
	switch {
	case v < 1<<7:
		return 1
	case v < 1<<14:
		return 2
	case v < 1<<21:
		return 3
	}
	return 4
}

// appendString cuts what does not fit rather than writing a wrong length.
func appendString(b []byte, s string) []byte {
	if len(s) > MaxStringLen {
		s = s[:MaxStringLen]
	}
	b = binary.BigEndian.AppendUint16(b, uint16(len(s)))
	return append(b, s...)
}

// Connack is a CONNACK packet (3.2). What is zero is left out.
type Connack struct {
	SessionPresent bool
	Code           Code // of version 5; translated for others
	SessionExpiry  *uint32
	ReceiveMaximum uint16
	MaximumPacket  uint32
	TopicAliasMax  uint16
	AssignedID     string
	ServerKeep     *uint16
	// MaximumQoS is the highest QoS that the server takes; nil is 2.
	MaximumQoS *byte
	// NoRetain, NoWildcards and NoShared say what the server does not offer.
	NoRetain, NoWildcards, NoShared bool
	ServerReference                 string // other servers to use
	AuthMethod                      string
	Reason                          string // left out where the packet would be too large for the client
	// Fits is the largest packet that the client takes; 0 is any.
	Fits int
}

// AppendConnack appends a CONNACK packet for a client of the given version.
func AppendConnack(b []byte, version byte, c Connack) []byte {
	present := byte(0)
	if c.SessionPresent && version != V31 { // a reserved byte then
		present = 1
	}
	if version != V5 {
		return append(b, byte(CONNACK)<<4, 2, present, connackCode3(c.Code))
	}
	props := make([]byte, 0, 64)
	if c.SessionExpiry != nil {
		props = appendProperty(props, propSessionExpiry, *c.SessionExpiry)
	}
	if c.ReceiveMaximum != 0 {
		props = appendProperty(props, propReceiveMax, c.ReceiveMaximum)
	}
	if c.MaximumPacket != 0 {
		props = appendProperty(props, propMaxPacket, c.MaximumPacket)
	}
	if c.TopicAliasMax != 0 {
		props = appendProperty(props, propTopicAliasMax, c.TopicAliasMax)
	}
	if c.AssignedID != "" {
		props = appendString(append(props, byte(propAssignedID)), c.AssignedID)
	}
	if c.ServerKeep != nil {
		props = appendProperty(props, propServerKeepAlive, *c.ServerKeep)
	}
	if c.MaximumQoS != nil {
		props = appendProperty(props, propMaxQoS, *c.MaximumQoS)
	}
	if c.NoRetain {
		props = appendProperty(props, propRetainAvailable, byte(0))
	}
	if c.NoWildcards {
		props = appendProperty(props, propWildcards, byte(0))
	}
	if c.NoShared {
		props = appendProperty(props, propShared, byte(0))
	}
	if c.ServerReference != "" {
		props = appendString(append(props, byte(propServerReference)), c.ServerReference)
	}
	if c.AuthMethod != "" {
		props = appendString(append(props, byte(propAuthMethod)), c.AuthMethod)
	}
	props = appendReason(props, c.Reason, 2, c.Fits)
	b = append(b, byte(CONNACK)<<4)
	b = appendVarint(b, uint32(2+varintLen(uint32(len(props)))+len(props)))
	b = append(b, present, byte(c.Code))
	b = appendVarint(b, uint32(len(props)))
	return append(b, props...)
}

// ConnackSize returns how many bytes AppendConnack appends without the reason.
func ConnackSize(version byte, c Connack) int {
	c.Reason = ""
	return len(AppendConnack(nil, version, c))
}

// appendReason appends a reason string, unless a packet of other bytes beside
// the properties would not fit then (MQTT-3.2.2-19, MQTT-3.14.2-3).
func appendReason(props []byte, reason string, other, fits int) []byte {
	const headers = 1 + 4 + 4 // first byte and both lengths at their longest
	if reason == "" || fits > 0 && headers+other+len(props)+3+len(reason) > fits {
		return props
	}
	return appendString(append(props, byte(propReasonString)), reason)
}

// connackCode3 translates to the return codes of 3.1.1, table 3.1. What is over
// after a while is 3, server unavailable: clients such as Home Assistant take 4
// and 5 as final and never come back.
func connackCode3(c Code) byte {
	switch c {
	case Success:
		return 0
	case UnsupportedVersion:
		return 1
	case BadClientID:
		return 2
	case BadCredentials:
		return 4
	case NotAuthorized:
		return 5
	}
	return 3
}

// PublishSize returns how many bytes AppendPublish would append.
func PublishSize(version byte, p *Publish) int {
	n := publishLen(version, p)
	return 1 + varintLen(uint32(n)) + n
}

func publishLen(version byte, p *Publish) int {
	n := 2 + len(p.Topic) + len(p.Payload)
	if p.QoS > 0 {
		n += 2
	}
	if version == V5 {
		props := publishPropertiesLen(p)
		n += varintLen(uint32(props)) + props
	}
	return n
}

func publishPropertiesLen(p *Publish) int {
	n := len(p.Properties)
	if p.HasExpiry {
		n += 5
	}
	if p.Alias != 0 {
		n += 3
	}
	for _, id := range p.SubscriptionIDs {
		n += 1 + varintLen(id)
	}
	return n
}

// AppendPublish appends a PUBLISH packet. The topic must be at most
// MaxStringLen bytes.
func AppendPublish(b []byte, version byte, p *Publish) []byte {
	header := byte(PUBLISH)<<4 | p.QoS<<1
	if p.Retain {
		header |= 1
	}
	if p.Dup {
		header |= 8
	}
	b = append(b, header)
	b = appendVarint(b, uint32(publishLen(version, p)))
	b = appendString(b, p.Topic)
	if p.QoS > 0 {
		b = binary.BigEndian.AppendUint16(b, p.PacketID)
	}
	if version == V5 {
		b = appendVarint(b, uint32(publishPropertiesLen(p)))
		if p.HasExpiry {
			b = appendProperty(b, propMessageExpiry, p.Expiry)
		}
		if p.Alias != 0 {
			b = appendProperty(b, propTopicAlias, p.Alias)
		}
		for _, id := range p.SubscriptionIDs {
			b = appendVarint(append(b, byte(propSubscriptionID)), id)
		}
		b = append(b, p.Properties...)
	}
	return append(b, p.Payload...)
}

// AppendAck appends a PUBACK, PUBREC, PUBREL or PUBCOMP packet. Versions
// before 5 have no codes.
func AppendAck(b []byte, version byte, t Type, a Ack) []byte {
	header := byte(t) << 4
	if t == PUBREL {
		header |= 2
	}
	switch {
	case version != V5 || a.Code == Success:
		return append(b, header, 2, byte(a.PacketID>>8), byte(a.PacketID))
	case a.Reason == "":
		return append(b, header, 3, byte(a.PacketID>>8), byte(a.PacketID), byte(a.Code))
	}
	props := appendReason(nil, a.Reason, 0, 0)
	b = append(b, header)
	b = appendVarint(b, uint32(3+varintLen(uint32(len(props)))+len(props)))
	b = append(b, byte(a.PacketID>>8), byte(a.PacketID), byte(a.Code))
	b = appendVarint(b, uint32(len(props)))
	return append(b, props...)
}

// SubackSize returns how many bytes AppendSuback would append.
func SubackSize(version byte, t Type, count int) int {
	n := 2 + count
	if version == V5 {
		n++
	} else if t == UNSUBACK {
		n = 2
	}
	return 1 + varintLen(uint32(n)) + n
}

// AppendSuback appends a SUBACK or UNSUBACK packet with a code a filter.
func AppendSuback(b []byte, version byte, t Type, packetID uint16, codes []Code) []byte {
	n := 2 + len(codes)
	if version == V5 {
		n++
	} else if t == UNSUBACK {
		n = 2 // 3.1.1 has no codes here
	}
	b = append(b, byte(t)<<4)
	b = appendVarint(b, uint32(n))
	b = binary.BigEndian.AppendUint16(b, packetID)
	if version == V5 {
		b = append(b, 0)
	} else if t == UNSUBACK {
		return b
	}
	for _, c := range codes {
		if version != V5 && c >= Unspecified {
			c = Unspecified // the one failure 3.1.1 knows
		}
		b = append(b, byte(c))
	}
	return b
}

// AppendPingresp appends a PINGRESP packet.
func AppendPingresp(b []byte) []byte { return append(b, byte(PINGRESP)<<4, 0) }

// AppendDisconnect appends a DISCONNECT packet from the server, which only
// version 5 knows. The reason is left out where the packet would be larger
// than fits, unless that is 0.
func AppendDisconnect(b []byte, version byte, c Code, reason string, fits int) []byte {
	if version != V5 {
		return b
	}
	props := appendReason(nil, reason, 1, fits)
	b = append(b, byte(DISCONNECT)<<4)
	b = appendVarint(b, uint32(1+varintLen(uint32(len(props)))+len(props)))
	b = append(b, byte(c))
	b = appendVarint(b, uint32(len(props)))
	return append(b, props...)
}
