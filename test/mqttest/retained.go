package mqttest

import (
	"fmt"
	"time"

	"event2mqtt/internal/broker/wire"
)

// Retained returns what a broker keeps for a filter, by topic.
func Retained(addr, filter string) (map[string]string, error) {
	c, err := Dial(addr, Options{})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(Patience))
	if code, err := c.Subscribe(filter, 0); err != nil || code >= 0x80 {
		return nil, fmt.Errorf("subscribe to %s: code %d, %v", filter, code, err)
	}
	kept := map[string]string{}
	for range 2 { // one answer may overtake messages
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
			if p.Retain {
				kept[p.Topic] = string(p.Payload)
			}
		}
	}
	return kept, nil
}
