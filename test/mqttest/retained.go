package mqttest

import (
	"fmt"
	"time"

	"event2mqtt/internal/wire"
)

// Retained returns what a broker keeps for a filter, by topic. What is retained
// while it looks counts, too: such a message comes as a live one, marked as
// retained for version 5 alone, and in place of the one that it replaces
// (Retain As Published, MQTT-3.3.1-12).
func Retained(addr, filter string) (map[string]string, error) {
	c, err := Dial(addr, Options{Version: 5})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(Patience))
	const asPublished = 1 << 3
	if code, err := c.Subscribe(filter, asPublished); err != nil || code >= 0x80 {
		return nil, fmt.Errorf("subscribe to %s: code %d, %v", filter, code, err)
	}
	kept := map[string]string{}
	for range 2 { // the first answer may come before messages that were queued with it
		if _, err := c.Write([]byte{byte(wire.PINGREQ) << 4, 0}); err != nil {
			return nil, err
		}
		for {
			header, body, err := c.Reader.Next()
			if err != nil {
				return nil, err
			}
			if wire.Type(header>>4) == wire.PINGRESP {
				break
			}
			var p wire.Publish
			if err := wire.DecodePublish(&p, c.Version, header, append([]byte(nil), body...), ""); err != nil {
				return nil, err
			}
			switch {
			case p.Retain && len(p.Payload) == 0:
				delete(kept, p.Topic)
			case p.Retain:
				kept[p.Topic] = string(p.Payload)
			}
		}
	}
	return kept, nil
}
