package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"event2mqtt/internal/testkit"
	"event2mqtt/test/certtest"
	"event2mqtt/test/hosted"
)

// way is one to a stand-in for a hosted broker.
type way struct {
	name    string // of the preset, and how it is reached
	service *hosted.Service
	options string // of the sink, but for preset and url
	pause   time.Duration
}

// TestNothingIsLostOnTheWayToAHostedBroker: with each preset, over each transport
// that its service has, events of each QoS that it takes arrive while event2mqtt
// is killed and the service ends its connections, ten times each in turn. Nothing
// is sent that the service does not take.
//
// A table goes to the test's output, and to the file that HOSTED_TABLE names.
func TestNothingIsLostOnTheWayToAHostedBroker(t *testing.T) {
	a := certtest.New(t)
	pair, err := tls.LoadX509KeyPair(a.Issue("service", nil))
	testkit.OK(t, err)
	cert, key := a.Issue("device", nil)
	pool := x509.NewCertPool()
	pool.AddCert(a.Cert)
	secure := &tls.Config{Certificates: []tls.Certificate{pair}}
	mutual := &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}
	trust := fmt.Sprintf("tls: {ca: %q}", a.CAFile)
	account, device := trust+", username: ada, password: secret", fmt.Sprintf("tls: {ca: %q, cert: %q, key: %q}", a.CAFile, cert, key)
	below := func(prefix string) func(string) bool {
		return func(topic string) bool { return strings.HasPrefix(topic, prefix) }
	}
	const mine = ", publish: {base_topic: mine}"
	ways := []way{
		{"aws-iot, client certificate", &hosted.Service{Secure: mutual, MaxQoS: 1, MaxPacket: 128 << 10, MaxLevels: 8, PerSecond: 100}, device, 30 * time.Millisecond},
		{"hivemq-cloud, tls", &hosted.Service{Secure: secure, User: "ada", Password: "secret", MaxQoS: 2, Retains: true, MaxPacket: 5 << 20}, account, 30 * time.Millisecond},
		{"hivemq-cloud, wss", &hosted.Service{Secure: secure, WebSocket: true, User: "ada", Password: "secret", MaxQoS: 2, Retains: true, MaxPacket: 5 << 20}, account, 30 * time.Millisecond},
		{"emqx, tls", &hosted.Service{Secure: secure, User: "ada", Password: "secret", MaxQoS: 2, Retains: true, MaxPacket: 1 << 20, PerSecond: 10}, account, 200 * time.Millisecond},
		{"emqx, wss", &hosted.Service{Secure: secure, WebSocket: true, User: "ada", Password: "secret", MaxQoS: 2, Retains: true, MaxPacket: 1 << 20, PerSecond: 10}, account, 200 * time.Millisecond},
		// Thirty a minute, twenty kills, and a few events after each would take minutes.
		{"adafruit-io, tls", &hosted.Service{Secure: secure, User: "ada", Password: "secret", MaxQoS: 1, MaxPacket: 1000, PerSecond: 10, Takes: below("ada/feeds/")}, account + ", rate: 10/s", 200 * time.Millisecond},
		{"test.mosquitto.org, tcp", &hosted.Service{MaxQoS: 2, Takes: below("mine/")}, trust + mine, 30 * time.Millisecond},
		{"test.mosquitto.org, tls", &hosted.Service{Secure: secure, MaxQoS: 2, Takes: below("mine/")}, trust + mine, 30 * time.Millisecond},
		{"test.mosquitto.org, client certificate", &hosted.Service{Secure: mutual, MaxQoS: 2, Takes: below("mine/")}, device + mine, 30 * time.Millisecond},
		{"test.mosquitto.org, ws", &hosted.Service{WebSocket: true, MaxQoS: 2, Takes: below("mine/")}, trust + mine, 30 * time.Millisecond},
		{"test.mosquitto.org, wss", &hosted.Service{Secure: secure, WebSocket: true, MaxQoS: 2, Takes: below("mine/")}, trust + mine, 30 * time.Millisecond},
		{"thingspeak, wss", &hosted.Service{Secure: secure, WebSocket: true, User: "ada", Password: "secret", PerSecond: 5, Takes: below("channels/1/publish")}, account + ", channel: \"1\", fields: {1: payload.number}, rate: 5/s", 30 * time.Millisecond},
	}
	rows := make([]string, len(ways))
	var running sync.WaitGroup
	for i, w := range ways { // they wait most of the time
		running.Go(func() { t.Run(w.name, func(t *testing.T) { rows[i] = w.run(t) }) })
	}
	running.Wait()
	table := "stand-ins for hosted brokers, as their documentation says they behave; 20 kills each\n" + fmt.Sprintf("%-40s %8s %5s %6s %5s\n", "preset, transport", "accepted", "came", "again", "lost") +
		strings.Join(rows, "") + "accepted: events of each QoS that the service takes, mixed; lost: of QoS 1 and 2. ThingSpeak gets the newest value, merged, with QoS 0.\n"
	t.Log("\n" + table)
	if file := os.Getenv("HOSTED_TABLE"); file != "" {
		testkit.OK(t, os.WriteFile(file, []byte(table), 0o644))
	}
}

func (w *way) run(t *testing.T) (row string) {
	w.service.Start(t)
	preset, _, _ := strings.Cut(w.name, ",")
	p := configure(t, fmt.Sprintf("broker: {listen: \"off\"}\nhome_assistant: {discovery: false}\nsources: [{name: default, type: webhook}]\n"+
		"rules: [{when: payload.number %% 3 == 0, qos: 0}, {when: payload.number %% 3 == 2, qos: 2}]\n"+
		"sinks: [{name: service, type: mqtt, preset: %s, url: %q, %s}]\n", preset, w.service.URL, w.options))
	stop := make(chan struct{})
	last := 0 // that was accepted
	var posting sync.WaitGroup
	posting.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(w.pause):
			}
			if post(p.http, fmt.Sprintf(`{"event":"Posted","number":%d}`, last+1)) == http.StatusAccepted {
				last++
			}
		}
	})
	p.start()
	for kill := range 20 {
		before := len(w.service.Taken())
		testkit.Eventually(t, fmt.Sprintf("events come after %d kills", kill), func() bool { return len(w.service.Taken()) > before+1 })
		if kill%2 == 0 {
			p.kill()
			p.start()
		} else {
			w.service.Cut()
		}
	}
	close(stop)
	posting.Wait()
	again, lost := 0, 0
	if preset == "thingspeak" {
		w.newestComes(t, p, last)
	} else {
		testkit.Eventually(t, "all that was accepted comes", func() bool {
			lost, again = w.missing(last)
			return lost == 0
		})
	}
	w.service.Unhurt(t)
	return fmt.Sprintf("%-40s %8d %5d %6d %5d\n", w.name, last, len(w.service.Taken()), again, lost)
}

// missing tells how many of the events up to last have not come, of those that the
// service acknowledges, and how many messages were there before.
func (w *way) missing(last int) (lost, again int) {
	came := map[int]bool{}
	for _, m := range w.service.Taken() {
		if _, rest, ok := strings.Cut(m, `"number":`); ok {
			var n int
			_, _ = fmt.Sscanf(rest, "%d", &n)
			if came[n] {
				again++
			}
			came[n] = true
		}
	}
	for n := 1; n <= last; n++ {
		if n%3 != 0 && !came[n] {
			lost++
		}
	}
	return lost, again
}

// newestComes posts until a value has come: with QoS 0 one that meets the end of a
// connection is lost, and the next takes its place.
func (w *way) newestComes(t *testing.T, p *program, last int) {
	t.Helper()
	testkit.Eventually(t, "the newest value comes", func() bool {
		last++
		post(p.http, fmt.Sprintf(`{"event":"Posted","number":%d}`, last))
		want := fmt.Sprintf("field1=%d&", last)
		for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			if taken := w.service.Taken(); strings.Contains(taken[len(taken)-1], want) {
				return true
			}
		}
		return false
	})
}
