package mqtt_test

import (
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"event2mqtt/internal/event"
	"event2mqtt/internal/sinks/mqtt"
	"event2mqtt/internal/testkit"
	"event2mqtt/internal/wire"
	"event2mqtt/test/certtest"
)

// TestTheRateIsKept also right after an outage, when many events wait: however
// slow this machine is, they cannot have come faster.
func TestTheRateIsKept(t *testing.T) {
	t.Parallel()
	const n, burst, rate = 30, 5, 50
	least := time.Duration(n-burst) * time.Second / rate
	var away atomic.Bool
	b := (&pickyBroker{connect: func(int, *wire.Connect) verdict {
		if away.Load() {
			return hangUp
		}
		return take
	}, publish: func(int, *wire.Publish) verdict {
		if away.Load() {
			return hangUp
		}
		return take
	}}).start(t)
	began := time.Now()
	r := newRig(t, func(c *mqtt.Config, _ *mqtt.PublishConfig) { c.Rate, c.Burst = fmt.Sprint(rate, "/s"), burst }, b.url)
	r.emit(n)
	r.delivered()
	if took := time.Since(began); took < least {
		t.Errorf("%d events in %s", n, took)
	}
	away.Store(true)
	r.emit(n)
	testkit.Eventually(t, "it is away", func() bool { return !r.up() })
	began = time.Now()
	away.Store(false)
	r.delivered()
	if took := time.Since(began); took < least-time.Second/rate { // one may have been on its way
		t.Errorf("%d events in %s after the outage", n, took)
	}
}

// TestWhatTheBrokerDoesNotTakeIsNotSentToIt: no retain flag and no QoS above the
// highest leaves, in events, states, the birth or the will; all arrives.
func TestWhatTheBrokerDoesNotTakeIsNotSentToIt(t *testing.T) {
	for most := range 2 {
		t.Run(fmt.Sprint("QoS ", most), func(t *testing.T) {
			t.Parallel()
			var wrong atomic.Int32
			judge := func(p *wire.Publish) verdict {
				if p.Retain || int(p.QoS) > most {
					wrong.Add(1)
					return hangUp
				}
				return take
			}
			b := (&pickyBroker{connect: func(_ int, c *wire.Connect) verdict { return judge(&c.Will.Publish) }, publish: func(_ int, p *wire.Publish) verdict { return judge(p) }}).start(t)
			r := newRig(t, func(c *mqtt.Config, p *mqtt.PublishConfig) {
				c.Retain, c.MaxQoS, p.QoS = "never", most, 2
			}, b.url)
			two := byte(2)
			r.post("a", "{}", event.Route{})
			r.post("b", "{}", event.Route{QoS: &two, Retain: true})
			report(t, r.states, "s", "k", "1")
			r.delivered()
			testkit.Eventually(t, "all is there", func() bool {
				return slices.Equal(b.events(), []string{"a", "b"}) && b.took("event2mqtt/s/k") > 0 && b.took("event2mqtt/mqtt") > 0
			})
			r.states.Remove("s", "k") // of which nothing is published
			r.post("c", "{}", event.Route{})
			r.delivered()
			r.stop()
			if n := b.connections(); wrong.Load() != 0 || n != 1 {
				t.Errorf("%d messages that the broker does not take, %d connections", wrong.Load(), n)
			}
			if n := b.took("event2mqtt/s/k"); n != 1 {
				t.Errorf("the state came %d times", n)
			}
		})
	}
}

// TestWhatIsBeyondTheLimitsIsSkippedBeforeItIsSent and kept; nothing waits, and no
// connection is lost for it.
func TestWhatIsBeyondTheLimitsIsSkippedBeforeItIsSent(t *testing.T) {
	t.Parallel()
	b := (&pickyBroker{publish: func(_ int, p *wire.Publish) verdict {
		if len(p.Payload) > 600 || strings.Count(p.Topic, "/") > 3 {
			return hangUp
		}
		return take
	}}).start(t)
	r := newRig(t, func(c *mqtt.Config, _ *mqtt.PublishConfig) { c.MaxPacket, c.MaxTopicLevels = 512, 4 }, b.url)
	large := fmt.Sprintf(`{"x":%q}`, strings.Repeat("x", 600))
	r.post("before", "{}", event.Route{})
	r.post("large", large, event.Route{})
	r.post("deep", "{}", event.Route{Topic: "a/b/c/d/e"})
	r.post("after", "{}", event.Route{})
	report(t, r.states, "s", "k", strings.Repeat("x", 600), "l", "1", "m/n/o", "1")
	r.delivered()
	testkit.Eventually(t, "the states that fit are there, the others are told of", func() bool {
		return b.took("event2mqtt/s/l") == 1 && strings.Count(r.log.String(), "this state cannot be published and is skipped") == 2
	})
	if got := b.events(); !slices.Equal(got, []string{"before", "after"}) {
		t.Errorf("arrived: %q", got)
	}
	kept := r.kept()
	if len(kept) != 2 || b.connections() != 1 {
		t.Fatalf("%d kept, %d connections", len(kept), b.connections())
	}
	for _, e := range kept {
		want := "max_packet of this destination is 512B"
		if e.Name == "deep" {
			want = "its topic has 5 levels, and max_topic_levels of this destination is 4"
		}
		if !strings.Contains(e.Reason, want) {
			t.Errorf("%s: %s", e.Name, e.Reason)
		}
	}
}

// TestAPasswordFileIsReadAtEachConnect.
func TestAPasswordFileIsReadAtEachConnect(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "password")
	var mu sync.Mutex
	var got []string
	b := (&pickyBroker{connect: func(n int, c *wire.Connect) verdict {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, string(c.Password))
		if n == 1 {
			testkit.OK(t, os.WriteFile(path, []byte("second"), 0o600))
			return hangUp
		}
		return take
	}}).start(t)
	r := newRig(t, func(c *mqtt.Config, _ *mqtt.PublishConfig) { c.Username, c.PasswordFile = "u", path }, b.url)
	testkit.Eventually(t, "that there is no file is told", func() bool {
		return strings.Contains(r.log.String(), "read the password that mqtt.password_file names")
	})
	testkit.OK(t, os.WriteFile(path, []byte("first\n"), 0o600))
	testkit.Eventually(t, "it is connected", r.up)
	mu.Lock()
	defer mu.Unlock()
	if !slices.Equal(got, []string{"first", "second"}) {
		t.Errorf("passwords: %q", got)
	}
}

// TestAPinnedCertificateIsAllThatIsChecked: no authority and no name; another
// certificate is refused, and the message tells its fingerprint.
func TestAPinnedCertificateIsAllThatIsChecked(t *testing.T) {
	t.Parallel()
	a := certtest.New(t)
	certFile, keyFile := a.Issue("other.example", nil)
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	testkit.OK(t, err)
	var offered atomic.Value
	l := tls.NewListener(listen(t, "127.0.0.1:0"), &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"x-mqtt"}, VerifyConnection: func(s tls.ConnectionState) error {
		offered.Store(s.NegotiatedProtocol)
		return nil
	}})
	serve(t, l)
	url := "mqtts://" + l.Addr().String()
	sum := fmt.Sprintf("%X", sha256.Sum256(pair.Certificate[0]))
	colons := strings.TrimSuffix(strings.Join(slices.Collect(func(yield func(string) bool) {
		for i := 0; i < len(sum) && yield(sum[i:i+2]); i += 2 {
		}
	}), ":"), ":")
	r := newRig(t, func(c *mqtt.Config, _ *mqtt.PublishConfig) {
		c.TLS.Pin, c.TLS.ALPN = []string{"sha256:" + strings.Repeat("0", 64), "sha256:" + colons}, []string{"x-mqtt"}
	}, url)
	r.emit(1)
	r.delivered()
	if offered.Load() != "x-mqtt" {
		t.Errorf("the protocol is %v", offered.Load())
	}
	r.stop()
	r = newRig(t, func(c *mqtt.Config, _ *mqtt.PublishConfig) { c.TLS.Pin = []string{"sha256:" + strings.Repeat("0", 64)} }, url)
	testkit.Eventually(t, "the fingerprint is told", func() bool {
		return strings.Contains(r.log.String(), "none of those of mqtt.tls.pin: it has the fingerprint sha256:"+strings.ToLower(sum))
	})
}

// TestAPayloadCanBeATemplate: for destinations that take no JSON. States, and what
// is published as it is, are not changed; a reload changes it in place.
func TestAPayloadCanBeATemplate(t *testing.T) {
	t.Parallel()
	addr := kept(t)
	s := subscriber(t, addr, "event2mqtt/event/#")
	r := newRig(t, func(_ *mqtt.Config, p *mqtt.PublishConfig) {
		p.Payload, p.SourceField = "field1={payload.progress|url}&by={payload._source}&status={event|url}", "_source"
	}, "mqtt://"+addr)
	report(t, r.states, "a", "k", "1")
	r.post("Print done", `{"progress":"50 %"}`, event.Route{})
	if _, payload, _ := next(t, s); payload != "field1=50+%25&by=s&status=Print+done" {
		t.Error(payload)
	}
	keeps(t, addr, "a/k=1")
	p := r.publish
	p.Payload = "{payload.progress}"
	testkit.OK(t, r.sink.Adjust(&mqtt.Options{Config: r.config, Publish: p}))
	r.post("Print", `{"progress":51}`, event.Route{})
	if _, payload, _ := next(t, s); payload != "51" {
		t.Error(payload)
	}
}
