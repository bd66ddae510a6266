// Package tasmota is a plug that speaks MQTT as Tasmota does (14.2, with its
// default settings), for tests: what it is given in its console, what it says when
// it connects, how it is found, and how it is switched. It has no other commands
// than those, and is not for use in the program.
package tasmota

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"event2mqtt/internal/wire"
	"event2mqtt/test/mqttest"
)

// Plug is a device with one relay. Its methods may be called from one goroutine
// at a time; Power from any.
type Plug struct {
	mac      string // twelve digits
	settings map[string]string
	client   *mqttest.Client
	done     chan struct{} // closed when it answers no more

	mu    sync.Mutex
	power bool
}

// New is a plug as it comes from its box.
func New(mac string) *Plug {
	mac = strings.ToUpper(strings.ReplaceAll(mac, ":", ""))
	return &Plug{mac: mac, settings: map[string]string{
		"MqttHost": "", "MqttPort": "1883", "MqttClient": "DVES_" + mac[6:], "MqttUser": "DVES_USER", "MqttPassword": "", "SetOption19": "0",
		"Topic": "tasmota_" + mac[6:], "FullTopic": "%prefix%/%topic%/", "GroupTopic": "tasmotas",
	}}
}

// Enter takes a line of its console: settings, or Backlog with several.
func (p *Plug) Enter(line string) error {
	line, _ = strings.CutPrefix(strings.TrimSpace(line), "Backlog ")
	for command := range strings.SplitSeq(line, ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(command), " ")
		if _, known := p.settings[name]; !known {
			return fmt.Errorf("the plug has no command %q", name)
		}
		p.settings[name] = value
	}
	return nil
}

// Setting is what was entered, or is so by default.
func (p *Plug) Setting(name string) string { return p.settings[name] }

// Power reports whether it is switched on.
func (p *Plug) Power() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.power
}

// topic is one of its own, by FullTopic.
func (p *Plug) topic(prefix, rest string) string {
	return strings.NewReplacer("%prefix%", prefix, "%topic%", p.settings["Topic"]).Replace(p.settings["FullTopic"]) + rest
}

// filters are what it subscribes to: its commands, those to its group, and those
// to its fallback topic.
func (p *Plug) filters() []string {
	group := strings.NewReplacer("%prefix%", "cmnd", "%topic%", p.settings["GroupTopic"]).Replace(p.settings["FullTopic"])
	return []string{p.topic("cmnd", "#"), group + "#", "cmnd/" + p.settings["MqttClient"] + "_fb/#"}
}

// Start connects as the firmware does, and answers commands until Stop or the end
// of the connection. It fails where it is refused.
func (p *Plug) Start() error {
	c, err := mqttest.Dial(p.settings["MqttHost"]+":"+p.settings["MqttPort"], mqttest.Options{
		ID: p.settings["MqttClient"], User: p.settings["MqttUser"], Password: p.settings["MqttPassword"], KeepAlive: 30,
		Will: &wire.Publish{Topic: p.topic("tele", "LWT"), Payload: []byte("Offline"), Retain: true, QoS: 1},
	})
	if err != nil {
		return err
	}
	granted := make(chan wire.Code, len(p.filters()))
	p.client, p.done = c, make(chan struct{})
	p.say(p.topic("tele", "LWT"), "Online", true)
	p.say(p.topic("cmnd", "POWER"), "", false) // so that a retained one is not taken for a command
	for i, filter := range p.filters() {
		_, _ = c.Write(mqttest.AppendSubscribe(nil, c.Version, uint16(i+1), filter, 0, nil)) // if it fails, no answer comes
	}
	go p.run(granted, p.done)
	for _, filter := range p.filters() {
		select {
		case code := <-granted:
			if code > 2 {
				p.Stop()
				return fmt.Errorf("it may not subscribe to %s", filter)
			}
		case <-time.After(mqttest.Patience):
			p.Stop()
			return errors.New("its subscriptions are not answered")
		}
	}
	p.say(p.topic("tele", "INFO1"), `{"Info1":{"Module":"Sonoff Basic","Version":"14.2.0(tasmota)","FallbackTopic":"cmnd/`+p.settings["MqttClient"]+`_fb/","GroupTopic":"cmnd/tasmotas/"}}`, false)
	p.say(p.topic("tele", "STATE"), p.state(), false)
	if p.settings["SetOption19"] == "0" {
		p.discover()
	}
	return nil
}

// Stop breaks the connection off, as pulling the plug does, and waits until no
// more commands are answered.
func (p *Plug) Stop() {
	_ = p.client.Close()
	<-p.done
}

// say publishes as it says everything: at QoS 0. That it cannot is seen when it
// reads.
func (p *Plug) say(topic, payload string, retain bool) {
	_ = p.client.Send(wire.Publish{Topic: topic, Payload: []byte(payload), Retain: retain})
}

// discover publishes what Home Assistant's integration Tasmota goes by.
func (p *Plug) discover() {
	none := make([]int, 8)
	config, _ := json.Marshal(map[string]any{ // of numbers and texts; it cannot fail
		"ip": "192.168.7.20", "dn": "Plug", "fn": []any{"Plug", nil, nil, nil, nil, nil, nil, nil}, "hn": "tasmota-" + p.mac[6:], "mac": p.mac, "md": "Sonoff Basic",
		"ty": 0, "if": 0, "cam": 0, "ofln": "Offline", "onln": "Online", "state": []string{"OFF", "ON", "TOGGLE", "HOLD"}, "sw": "14.2.0",
		"t": p.settings["Topic"], "ft": p.settings["FullTopic"], "tp": []string{"cmnd", "stat", "tele"}, "rl": []int{1, 0, 0, 0, 0, 0, 0, 0},
		"swc": []int{-1, -1, -1, -1, -1, -1, -1, -1}, "swn": make([]any, 8), "btn": none,
		"so": map[string]int{"4": 0, "11": 0, "13": 0, "17": 0, "20": 0, "30": 0, "68": 0, "73": 0, "82": 0, "114": 0, "117": 0},
		"lk": 0, "lt_st": 0, "bat": 0, "dslp": 0, "sho": none[:4], "sht": [][]int{}, "ver": 1,
	})
	p.say("tasmota/discovery/"+p.mac+"/config", string(config), true)
	p.say("tasmota/discovery/"+p.mac+"/sensors", `{"sn":{"Time":"2026-11-26T08:00:00","ENERGY":{"Power":0}},"ver":1}`, true)
}

func (p *Plug) state() string {
	return `{"Time":"2026-11-26T08:00:00","Uptime":"0T00:00:10","POWER":"` + onOff(p.Power()) + `","Wifi":{"AP":1,"SSId":"home","RSSI":80,"Signal":-60,"LinkCount":1}}`
}

func onOff(on bool) string {
	if on {
		return "ON"
	}
	return "OFF"
}

// run obeys commands until the connection ends. granted gets the answers to
// subscriptions, in their order.
func (p *Plug) run(granted chan<- wire.Code, done chan<- struct{}) {
	defer close(done)
	for {
		header, body, err := p.client.Reader.Next()
		if err != nil {
			return
		}
		switch wire.Type(header >> 4) {
		case wire.SUBACK:
			granted <- wire.Code(body[len(body)-1])
		case wire.PUBLISH:
			var m wire.Publish
			if err := wire.DecodePublish(&m, p.client.Version, header, body, ""); err != nil {
				return
			}
			p.obey(strings.ToUpper(m.Topic[strings.LastIndexByte(m.Topic, '/')+1:]), string(m.Payload))
		}
	}
}

// obey answers one command.
func (p *Plug) obey(command, value string) {
	switch command {
	case "POWER", "POWER1":
		p.switchTo(strings.ToUpper(value))
	case "STATE":
		p.say(p.topic("stat", "RESULT"), p.state(), false)
	case "STATUS":
		p.say(p.topic("stat", "STATUS"+value), `{"StatusSNS":{"Time":"2026-11-26T08:00:00","ENERGY":{"Power":7}}}`, false)
	default:
		p.say(p.topic("stat", "RESULT"), `{"Command":"Unknown"}`, false)
	}
}

// switchTo switches the relay, or only tells how it is, and says so as it answers.
func (p *Plug) switchTo(value string) {
	p.mu.Lock()
	switch value {
	case "ON", "1":
		p.power = true
	case "OFF", "0":
		p.power = false
	case "TOGGLE", "2":
		p.power = !p.power
	}
	is := onOff(p.power)
	p.mu.Unlock()
	p.say(p.topic("stat", "RESULT"), `{"POWER":"`+is+`"}`, false)
	p.say(p.topic("stat", "POWER"), is, false)
}
