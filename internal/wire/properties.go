package wire

import "encoding/binary"

// property is a property identifier (2.2.2.2).
type property byte

const (
	propPayloadFormat   property = 0x01
	propMessageExpiry   property = 0x02
	propContentType     property = 0x03
	propResponseTopic   property = 0x08
	propCorrelation     property = 0x09
	propSubscriptionID  property = 0x0B
	propSessionExpiry   property = 0x11
	propAssignedID      property = 0x12
	propServerKeepAlive property = 0x13
	propAuthMethod      property = 0x15
	propAuthData        property = 0x16
	propRequestProblem  property = 0x17
	propWillDelay       property = 0x18
	propRequestResponse property = 0x19
	propResponseInfo    property = 0x1A
	propServerReference property = 0x1C
	propReasonString    property = 0x1F
	propReceiveMax      property = 0x21
	propTopicAliasMax   property = 0x22
	propTopicAlias      property = 0x23
	propMaxQoS          property = 0x24
	propRetainAvailable property = 0x25
	propUser            property = 0x26
	propMaxPacket       property = 0x27
	propWildcards       property = 0x28
	propSubscriptionIDs property = 0x29
	propShared          property = 0x2A
)

type form byte

const (
	formByte form = iota + 1
	formUint16
	formUint32
	formVarint
	formString
	formBinary
	formPair
)

var forms = [...]form{
	propPayloadFormat: formByte, propMessageExpiry: formUint32, propContentType: formString, propResponseTopic: formString,
	propCorrelation: formBinary, propSubscriptionID: formVarint, propSessionExpiry: formUint32, propAssignedID: formString,
	propServerKeepAlive: formUint16, propAuthMethod: formString, propAuthData: formBinary, propRequestProblem: formByte,
	propWillDelay: formUint32, propRequestResponse: formByte, propResponseInfo: formString, propServerReference: formString,
	propReasonString: formString, propReceiveMax: formUint16, propTopicAliasMax: formUint16, propTopicAlias: formUint16,
	propMaxQoS: formByte, propRetainAvailable: formByte, propUser: formPair, propMaxPacket: formUint32,
	propWildcards: formByte, propSubscriptionIDs: formByte, propShared: formByte,
}

// propertySet holds the properties a packet may have.
type propertySet uint64

func set(ids ...property) (s propertySet) {
	for _, id := range ids {
		s |= 1 << id
	}
	return s
}

var (
	connackProperties = set(propSessionExpiry, propReceiveMax, propMaxQoS, propRetainAvailable, propMaxPacket,
		propAssignedID, propTopicAliasMax, propReasonString, propUser, propWildcards, propSubscriptionIDs, propShared,
		propServerKeepAlive, propResponseInfo, propServerReference, propAuthMethod, propAuthData)
	connectProperties = set(propSessionExpiry, propReceiveMax, propMaxPacket, propTopicAliasMax,
		propRequestResponse, propRequestProblem, propUser, propAuthMethod, propAuthData)
	publishProperties = set(propPayloadFormat, propMessageExpiry, propTopicAlias, propResponseTopic,
		propCorrelation, propUser, propSubscriptionID, propContentType)
	willProperties = set(propWillDelay, propPayloadFormat, propMessageExpiry, propContentType,
		propResponseTopic, propCorrelation, propUser)
	ackProperties         = set(propReasonString, propUser)
	subscribeProperties   = set(propSubscriptionID, propUser)
	unsubscribeProperties = set(propUser)
	disconnectProperties  = set(propSessionExpiry, propReasonString, propUser, propServerReference)
)

type value struct {
	num uint32
	str string
}

// properties reads a property block and hands each property to use, which
// may be nil. Properties that do not belong to the packet, and such as come
// twice though they must not, are protocol errors (2.2.2.2).
func (d *decoder) properties(allowed propertySet, use func(property, value) error) {
	block := decoder{data: d.take(int(d.varint()))}
	var seen propertySet
	for len(block.data) > 0 && d.err == nil {
		number := block.varint()
		id := property(number)
		if block.err == nil && (number >= uint32(len(forms)) || forms[id] == 0) {
			block.fail(malformed("unknown property 0x%02x", number))
		}
		if block.err == nil && allowed&(1<<id) == 0 {
			block.fail(violation("property 0x%02x does not belong here", byte(id)))
		}
		repeats := id == propUser || id == propSubscriptionID && allowed == publishProperties
		if block.err == nil && seen&(1<<id) != 0 && !repeats {
			block.fail(violation("property 0x%02x comes twice", byte(id)))
		}
		if block.err != nil {
			break
		}
		seen |= 1 << id
		var v value
		switch forms[id] {
		case formByte:
			if v.num = uint32(block.byte()); v.num > 1 && block.err == nil {
				block.fail(violation("property 0x%02x must be 0 or 1", byte(id)))
			}
		case formUint16:
			v.num = uint32(block.uint16())
		case formUint32:
			v.num = block.uint32()
		case formVarint:
			v.num = block.varint()
		case formString:
			v.str = block.string()
		case formBinary:
			v.str = string(block.binary())
		case formPair:
			_, _ = block.text(), block.text()
		}
		if block.err == nil && use != nil {
			if err := use(id, v); err != nil {
				block.fail(err)
			}
		}
	}
	if block.err != nil {
		d.fail(block.err)
	}
}

func (c *Connect) properties(d *decoder) {
	hasData := false
	d.properties(connectProperties, func(id property, v value) error {
		switch id {
		case propSessionExpiry:
			c.SessionExpiry = v.num
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
		case propTopicAliasMax:
			c.TopicAliasMax = uint16(v.num)
		case propRequestProblem:
			c.NoProblems = v.num == 0
		case propAuthMethod:
			c.AuthMethod = v.str
		case propAuthData:
			hasData = true
		}
		return nil
	})
	if hasData && c.AuthMethod == "" {
		d.fail(violation("authentication data without a method"))
	}
}

func (p *Publish) properties(d *decoder) {
	if len(d.data) > 0 && d.data[0] == 0 {
		d.data = d.data[1:] // the common case: none
		return
	}
	block := d.data
	own := false // holds properties that must not be passed on as they are
	d.properties(publishProperties, func(id property, v value) error {
		switch id {
		case propTopicAlias:
			if v.num == 0 {
				return &Error{BadTopicAlias, "topic alias is 0"} // MQTT-3.3.2-8
			}
			p.Alias, own = uint16(v.num), true
		case propMessageExpiry:
			p.Expiry, p.HasExpiry, own = v.num, true, true
		case propSubscriptionID:
			p.SubscriptionIDs, own = append(p.SubscriptionIDs, v.num), true
		case propResponseTopic:
			return checkResponseTopic(v.str)
		}
		return nil
	})
	if d.err != nil {
		return
	}
	_, n := varint(block)
	p.Properties = block[n : len(block)-len(d.data)]
	if own {
		p.Properties = without(p.Properties, set(propTopicAlias, propMessageExpiry, propSubscriptionID))
	}
}

func (w *Will) properties(d *decoder) {
	block := d.data
	d.properties(willProperties, func(id property, v value) error {
		switch id {
		case propWillDelay:
			w.Delay = v.num
		case propMessageExpiry:
			w.Expiry, w.HasExpiry = v.num, true
		case propResponseTopic:
			return checkResponseTopic(v.str)
		}
		return nil
	})
	if d.err != nil {
		return
	}
	_, n := varint(block)
	w.Properties = without(block[n:len(block)-len(d.data)], set(propWillDelay, propMessageExpiry))
}

func checkResponseTopic(topic string) error {
	for i := range len(topic) {
		if topic[i] == '+' || topic[i] == '#' {
			return violation("response topic holds a wildcard") // MQTT-3.3.2-14
		}
	}
	return nil
}

// without copies a valid property block, less some properties.
func without(block []byte, drop propertySet) []byte {
	var out []byte
	d := decoder{data: block}
	for len(d.data) > 0 {
		start := d.data
		id := property(d.varint())
		switch forms[id] {
		case formByte:
			d.take(1)
		case formUint16:
			d.take(2)
		case formUint32:
			d.take(4)
		case formVarint:
			d.varint()
		case formString, formBinary:
			d.binary()
		case formPair:
			d.binary()
			d.binary()
		}
		if drop&(1<<id) == 0 {
			out = append(out, start[:len(start)-len(d.data)]...)
		}
	}
	return out
}

func appendProperty[T byte | uint16 | uint32](b []byte, id property, v T) []byte {
	b = append(b, byte(id))
	switch v := any(v).(type) {
	case byte:
		return append(b, v)
	case uint16:
		return binary.BigEndian.AppendUint16(b, v)
	case uint32:
		return binary.BigEndian.AppendUint32(b, v)
	}
	return b
}
