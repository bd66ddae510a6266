package mqtt_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"event2mqtt/internal/event"
	"event2mqtt/internal/sinks"
	"event2mqtt/internal/sinks/mqtt"
	"event2mqtt/internal/testkit"
	"event2mqtt/test/certtest"
	"event2mqtt/test/hosted"
)

// This file tries presets against stand-ins for their services. No account at a
// real one was used.

// extra returns checked options of a sink, as they are written.
func extra(t testing.TB, set map[string]bool, change func(*mqtt.Extra)) (*mqtt.Extra, error) {
	t.Helper()
	c, p := mqtt.Defaults()
	o := mqtt.Type.Options().(*mqtt.Extra)
	o.Name = "service"
	change(o)
	main := &mqtt.Options{Config: c, Publish: p, Calm: 50 * time.Millisecond, Pause: 20 * time.Millisecond, Idle: 100 * time.Millisecond}
	written := map[string]any{}
	if o.Publish.BaseTopic != p.BaseTopic {
		written["base_topic"] = o.Publish.BaseTopic
	}
	o.Settle("sinks[0]", map[string]any{"publish": written}, main)
	o.Lay(func(key string) bool { return set[strings.TrimPrefix(key, "sinks[0].")] })
	return o, o.Check()
}

// presetRig runs a sink; what before stores waits for it.
func presetRig(t testing.TB, set map[string]bool, change func(*mqtt.Extra), before func(*rig)) *rig {
	t.Helper()
	o, err := extra(t, set, change)
	testkit.OK(t, err)
	r := &rig{t: t, states: event.NewStates()}
	r.run(nil, nil, func(d sinks.Deps) (*mqtt.Sink, error) {
		before(r)
		sink, err := o.Build(d)
		if err != nil {
			return nil, err
		}
		return sink.(*mqtt.Sink), nil
	})
	return r
}

// TestPresetsKeepToTheLimitsOfTheirServices: what the service does not take is
// never sent, and is in refused with the reason; all else arrives.
func TestPresetsKeepToTheLimitsOfTheirServices(t *testing.T) {
	a := certtest.New(t)
	pair, err := tls.LoadX509KeyPair(a.Issue("service", nil))
	testkit.OK(t, err)
	cert, key := a.Issue("device", nil)
	pool := x509.NewCertPool()
	pool.AddCert(a.Cert)
	secure := &tls.Config{Certificates: []tls.Certificate{pair}}
	mutual := &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, NextProtos: []string{"x-amzn-mqtt-ca"}}
	account := func(o *mqtt.Extra) { o.Username, o.Password = "ada", "secret" }
	for name, c := range map[string]struct {
		service *hosted.Service
		change  func(*mqtt.Extra)
		events  int
		large   int    // bytes of an event that is refused
		deep    bool   // an event with a deep topic is refused
		topic   string // of the events that arrive
	}{
		"aws-iot": {
			&hosted.Service{Secure: mutual, MaxQoS: 1, MaxPacket: 128 << 10, MaxLevels: 8, PerSecond: 100},
			func(o *mqtt.Extra) { o.TLS.Cert, o.TLS.Key, o.TLS.ALPN = cert, key, []string{"x-amzn-mqtt-ca"} }, 250, 128 << 10, true, "event2mqtt/event/E",
		},
		"hivemq-cloud":           {&hosted.Service{Secure: secure, User: "ada", Password: "secret", MaxQoS: 2, Retains: true, MaxPacket: 5 << 20}, account, 100, 5 << 20, false, "event2mqtt/event/E"},
		"hivemq-cloud WebSocket": {&hosted.Service{Secure: secure, WebSocket: true, User: "ada", Password: "secret", MaxQoS: 2, Retains: true, MaxPacket: 5 << 20}, account, 100, 5 << 20, false, "event2mqtt/event/E"},
		"emqx":                   {&hosted.Service{Secure: secure, User: "ada", Password: "secret", MaxQoS: 2, Retains: true, MaxPacket: 1 << 20, PerSecond: 10}, account, 25, 1 << 20, false, "event2mqtt/event/E"},
		"emqx WebSocket":         {&hosted.Service{Secure: secure, WebSocket: true, User: "ada", Password: "secret", MaxQoS: 2, Retains: true, MaxPacket: 1 << 20, PerSecond: 10}, account, 25, 1 << 20, false, "event2mqtt/event/E"},
		"adafruit-io": {
			&hosted.Service{Secure: secure, User: "ada", Password: "secret", MaxQoS: 1, MaxPacket: 1000, PerSecond: 1, Takes: func(topic string) bool { return strings.HasPrefix(topic, "ada/feeds/") }},
			account, 2, 1000, false, "ada/feeds/e",
		},
		"test.mosquitto.org":                    {&hosted.Service{MaxQoS: 2}, func(o *mqtt.Extra) { o.Publish.BaseTopic = "mine" }, 100, 0, false, "mine/event/E"},
		"test.mosquitto.org WebSocket":          {&hosted.Service{WebSocket: true, MaxQoS: 2}, func(o *mqtt.Extra) { o.Publish.BaseTopic = "mine" }, 100, 0, false, "mine/event/E"},
		"test.mosquitto.org client certificate": {&hosted.Service{Secure: mutual, MaxQoS: 2}, func(o *mqtt.Extra) { o.Publish.BaseTopic, o.TLS.Cert, o.TLS.Key = "mine", cert, key }, 100, 0, false, "mine/event/E"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			service := c.service.Start(t)
			preset, _, _ := strings.Cut(name, " ")
			r := presetRig(t, nil, func(o *mqtt.Extra) {
				o.Preset, o.URL = preset, []string{service.URL}
				o.TLS.CA = a.CAFile
				c.change(o)
			}, func(r *rig) {
				if c.large > 0 {
					r.post("E", `{"x":"`+strings.Repeat("x", c.large)+`"}`, event.Route{})
				}
				if c.deep {
					r.post("E", `{}`, event.Route{Topic: "a/b/c/d/e/f/g/h/i"})
				}
				r.post("E", `{"retained":true}`, event.Route{Retain: true})
				r.emit(c.events)
			})
			r.states.Report("s", event.State{Source: "s", Key: "k", Payload: []byte("1")})
			r.delivered()
			service.Unhurt(t)
			got := service.Taken()
			for i := range c.events + 1 {
				want := fmt.Sprintf(`{"n":%d`, i)
				if i == 0 {
					want = `{"retained"`
				}
				for len(got) > 0 && !strings.HasPrefix(got[0], c.topic+" ") {
					got = got[1:] // the birth message
				}
				if len(got) == 0 || !strings.Contains(got[0], strings.TrimPrefix(want, "{")) {
					t.Fatalf("in place of %s there came %.300q", want, got)
				}
				got = got[1:]
			}
			want := 0
			for _, is := range []bool{c.large > 0, c.deep} {
				if is {
					want++
				}
			}
			if kept := r.kept(); len(kept) != want {
				t.Errorf("%d events were refused, not %d", len(kept), want)
			}
		})
	}
}

// TestPresetsSayWhatIsMissingOrTooMuch: each error names the key, and the preset.
func TestPresetsSayWhatIsMissingOrTooMuch(t *testing.T) {
	for says, change := range map[string]func(*mqtt.Extra){
		"url: is missing; write that of your account":      func(o *mqtt.Extra) { o.Preset = "emqx" },
		"username: is missing":                             func(o *mqtt.Extra) { o.Preset = "adafruit-io" },
		"password: is missing":                             func(o *mqtt.Extra) { o.Preset, o.Username = "adafruit-io", "ada" },
		"tls.cert: is missing":                             func(o *mqtt.Extra) { o.Preset, o.URL = "aws-iot", []string{"mqtts://x"} },
		"is not encrypted":                                 func(o *mqtt.Extra) { o.Preset, o.URL = "hivemq-cloud", []string{"mqtt://x"} },
		"publish.base_topic: everybody who tries this out": func(o *mqtt.Extra) { o.Preset = "test.mosquitto.org" },
		"port 8883 has a certificate of the broker's own": func(o *mqtt.Extra) {
			o.Preset, o.URL = "test.mosquitto.org", []string{"mqtts://test.mosquitto.org:8883"}
		},
		"port 8884 asks for a client certificate": func(o *mqtt.Extra) {
			o.Preset, o.URL = "test.mosquitto.org", []string{"mqtts://test.mosquitto.org:8884"}
		},
		"protocol: the service does not speak MQTT 5":        func(o *mqtt.Extra) { o.Preset, o.Protocol = "thingspeak", "5" },
		"max_qos: 2: the service takes QoS 1 at most":        func(o *mqtt.Extra) { o.Preset, o.MaxQoS = "aws-iot", 2 },
		"retain: as_told: the service retains nothing":       func(o *mqtt.Extra) { o.Preset = "thingspeak" },
		"max_packet: 1MiB: the service takes 128KiB at most": func(o *mqtt.Extra) { o.Preset, o.MaxPacket = "aws-iot", 1<<20 },
		"in_flight: 101: the service takes 100 at most":      func(o *mqtt.Extra) { o.Preset, o.InFlight = "aws-iot", 101 },
		"max_topic_levels: 9: the service takes 8 at most":   func(o *mqtt.Extra) { o.Preset, o.MaxTopicLevels = "aws-iot", 9 },
		"client_id: has 129 bytes":                           func(o *mqtt.Extra) { o.Preset, o.ClientID = "aws-iot", strings.Repeat("x", 129) },
		"keepalive: 1h: the service takes from 5s to 20m":    func(o *mqtt.Extra) { o.Preset, o.KeepAlive = "aws-iot", time.Hour },
		"states: the service has no place for states":        func(o *mqtt.Extra) { o.Preset, o.States = "adafruit-io", true },
		"channel: is missing":                                func(o *mqtt.Extra) { o.Preset = "thingspeak" },
		`channel: "abc" is not the number of a channel`:      func(o *mqtt.Extra) { o.Preset, o.Channel = "thingspeak", "abc" },
		"fields: is missing":                                 func(o *mqtt.Extra) { o.Preset, o.Channel = "thingspeak", "1" },
		"fields.9: a channel has the fields 1 to 8":          func(o *mqtt.Extra) { o.Preset, o.Fields = "thingspeak", map[string]string{"9": "payload.x"} },
		`fields.1: "x" does not name a value`:                func(o *mqtt.Extra) { o.Preset, o.Fields = "thingspeak", map[string]string{"1": "x"} },
		"fields: it is for preset: thingspeak alone":         func(o *mqtt.Extra) { o.URL, o.Fields = []string{"mqtt://x"}, map[string]string{"1": "payload.x"} },
		"url: is needed":                                     func(*mqtt.Extra) {},
		"username: that is in the file already":              func(o *mqtt.Extra) { o.Preset, o.CredentialsFile, o.Username = "adafruit-io", "f", "ada" },
	} {
		set := map[string]bool{}
		for _, key := range []string{"max_qos", "retain", "max_packet", "in_flight", "max_topic_levels"} {
			set[key] = strings.HasPrefix(says, key)
		}
		if _, err := extra(t, set, change); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("the error is %v, not %q", err, says)
		}
	}
	c, p := mqtt.Defaults()
	c.Preset = "thingspeak"
	o := mqtt.Options{Config: c, Publish: p}
	if err := o.Check(); err == nil || !strings.Contains(err.Error(), "mqtt.preset: it is for a sink of its own") {
		t.Errorf("the error is %v", err)
	}
}

// thingSpeak is a stand-in, with a sink for it.
func thingSpeak(t *testing.T, service *hosted.Service, change func(*mqtt.Extra), before func(*rig)) *rig {
	t.Helper()
	a := certtest.New(t)
	pair, err := tls.LoadX509KeyPair(a.Issue("thingspeak", nil))
	testkit.OK(t, err)
	service.Secure, service.WebSocket = &tls.Config{Certificates: []tls.Certificate{pair}}, true
	service.User, service.Password = "DEVICE", "p=w=="
	service.Takes = func(topic string) bool { return topic == "channels/12345/publish" }
	service.Start(t)
	file := filepath.Join(t.TempDir(), "mqtt_secrets.h")
	testkit.OK(t, os.WriteFile(file, []byte("#define SECRET_MQTT_USERNAME \"DEVICE\"\n#define SECRET_MQTT_CLIENT_ID \"DEVICE\"\n#define SECRET_MQTT_PASSWORD \"p=w==\"\n"), 0o600))
	return presetRig(t, map[string]bool{"rate": true}, func(o *mqtt.Extra) {
		o.Preset, o.Channel, o.Fields, o.CredentialsFile = "thingspeak", "12345", map[string]string{"1": "payload.progress", "2": "payload.temps.bed"}, file
		o.URL, o.TLS.CA, o.Rate = []string{service.URL}, a.CAFile, "5/s"
		change(o)
	}, before)
}

// TestThingSpeakGetsTheNewestOfEachField in one message, with the name of the
// newest event as its status; QoS, topic and account are those it takes.
func TestThingSpeakGetsTheNewestOfEachField(t *testing.T) {
	service := &hosted.Service{}
	r := thingSpeak(t, service, func(*mqtt.Extra) {}, func(r *rig) {
		r.post("Progress", `{"progress":1,"temps":{"bed":20}}`, event.Route{})
		r.post("Temperature", `{"temps":{"bed":60.5}}`, event.Route{Retain: true, Topic: "elsewhere"})
		r.post("Progress", `{"progress":"2 & more","temps":null}`, event.Route{})
		r.post("Print Done", `{"other":true}`, event.Route{})
	})
	r.delivered()
	testkit.Eventually(t, "a message comes", func() bool { return len(service.Taken()) > 0 })
	if got := service.Taken(); len(got) != 1 || got[0] != "channels/12345/publish field1=2+%26+more&field2=60.5&status=Print+Done" {
		t.Errorf("it got %q", got)
	}
	service.Unhurt(t)
	if id := service.IDs()[0]; id != "DEVICE" {
		t.Errorf("the client id is %q", id)
	}
}

// TestThingSpeakGetsNoMoreThanItTakes however fast events come, and in the end
// what is newest.
func TestThingSpeakGetsNoMoreThanItTakes(t *testing.T) {
	service := &hosted.Service{PerSecond: 5}
	r := thingSpeak(t, service, func(*mqtt.Extra) {}, func(*rig) {})
	for i := range 200 {
		r.post("Progress", fmt.Sprintf(`{"progress":%d}`, i+1), event.Route{})
		time.Sleep(5 * time.Millisecond)
	}
	r.delivered()
	testkit.Eventually(t, "the newest comes", func() bool {
		got := service.Taken()
		return len(got) > 0 && strings.Contains(got[len(got)-1], "field1=200&")
	})
	service.Unhurt(t)
}

// TestThingSpeakEndsIdleConnections, and that is no trouble: the sink connects
// again, says nothing of it, and what comes later arrives.
func TestThingSpeakEndsIdleConnections(t *testing.T) {
	service := &hosted.Service{Idle: 300 * time.Millisecond}
	r := thingSpeak(t, service, func(*mqtt.Extra) {}, func(*rig) {})
	testkit.Eventually(t, "it has connected several times", func() bool { return service.Connections() >= 4 })
	testkit.Eventually(t, "it says that it is connected", r.up)
	if text := r.log.String(); strings.Count(text, "\n") > 1+strings.Count(text, `"level":"debug"`) || strings.Contains(text, `"level":"warn"`) || strings.Contains(text, `"level":"error"`) {
		t.Errorf("the log is\n%s", text)
	}
	testkit.Eventually(t, "an event arrives", func() bool {
		r.post("Later", `{"progress":7}`, event.Route{}) // one that meets the end of a connection is lost: QoS 0
		for _, m := range service.Taken() {
			if strings.Contains(m, "status=Later") {
				return true
			}
		}
		return false
	})
	service.Unhurt(t)
}

// TestCredentialsAsServicesOfferThem for download are read in each form.
func TestCredentialsAsServicesOfferThem(t *testing.T) {
	for name, text := range map[string]string{
		"Arduino": "#define SECRET_MQTT_USERNAME \"DEVICE\"\r\n#define SECRET_MQTT_CLIENT_ID \"DEVICE\"\r\n#define SECRET_MQTT_PASSWORD \"p=w==\"\r\n",
		"plain":   "username = DEVICE\nclientId = DEVICE\npassword = p=w==\n",
		"Python":  "mqtt_client_ID = \"DEVICE\"\nmqtt_username  = \"DEVICE\"\nmqtt_password  = \"p=w==\"\n",
		"JSON":    `{"username":"DEVICE","clientId":"DEVICE","password":"p=w=="}`,
		"colons":  "Client ID: DEVICE\nUsername: DEVICE\nPassword: p=w==\n",
	} {
		t.Run(name, func(t *testing.T) {
			service := (&hosted.Service{User: "DEVICE", Password: "p=w=="}).Start(t)
			file := filepath.Join(t.TempDir(), "credentials")
			testkit.OK(t, os.WriteFile(file, []byte(text), 0o600))
			presetRig(t, nil, func(o *mqtt.Extra) {
				o.Preset, o.Channel, o.Fields, o.CredentialsFile, o.URL = "thingspeak", "12345", map[string]string{"1": "payload.n"}, file, []string{service.URL}
			}, func(r *rig) { r.emit(1) })
			testkit.Eventually(t, "it comes", func() bool { return len(service.Taken()) == 1 })
			if id := service.IDs()[0]; id != "DEVICE" {
				t.Errorf("the client id is %q", id)
			}
		})
	}
}
