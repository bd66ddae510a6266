package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"event2mqtt/internal/mqttclient"
	"event2mqtt/internal/wire"
)

const (
	linkMessages = 200_000
	linkWindow   = 128
)

// links are the clients that are compared, by name.
var links = []struct {
	name    string
	version byte // 0 is paho's, which knows no 5
}{{"paho 3.1.1", 0}, {"ours 3.1.1", wire.V311}, {"ours 5", wire.V5}}

// link measures the client libraries alone: QoS 1, a window of 128, to Mosquitto.
func (b *bench) link() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	m, err := b.startMosquitto()
	if err != nil {
		return err
	}
	defer m.end()
	best := make([]linkResult, len(links))
	for range 3 {
		for i, l := range links {
			out, err := exec.Command(self, "bare", "link", fmt.Sprint(i), m.mqtt).Output()
			if err != nil {
				return fmt.Errorf("%s: %w", l.name, err)
			}
			var r linkResult
			if _, err := fmt.Sscan(string(out), &r.rate, &r.cpu); err != nil {
				return fmt.Errorf("%s: %q: %w", l.name, out, err)
			}
			if r.rate > best[i].rate {
				best[i] = r
			}
		}
	}
	for i, l := range links[1:] {
		r, paho := best[i+1], best[0]
		b.add("client "+strings.TrimPrefix(l.name, "ours ")+", 256 B, QoS 1: messages/s", fmt.Sprintf("%.0f", r.rate), "", fmt.Sprintf("paho 3.1.1 %.0f, ratio %.2f", paho.rate, r.rate/paho.rate))
		b.add("  CPU per message, us", fmt.Sprintf("%.1f", r.cpu), "", fmt.Sprintf("paho 3.1.1 %.1f, ratio %.2f", paho.cpu, r.cpu/paho.cpu))
	}
	return nil
}

type linkResult struct {
	rate float64 // messages a second
	cpu  float64 // us a message, of the whole process
}

// ticket is the promise of an acknowledgement.
type ticket interface{ Done() <-chan struct{} }

// bareLink publishes with one client, in a process of its own, and prints a
// linkResult.
func bareLink(version byte, broker string) {
	connect := pahoPublish
	if version != 0 {
		connect = func(broker string) func([]byte) ticket { return ownPublish(version, broker) }
	}
	publish := connect(broker)
	tickets, done := make(chan ticket, linkWindow), make(chan struct{})
	go func() {
		defer close(done)
		for t := range tickets {
			<-t.Done()
		}
	}()
	began, cpu, payload := time.Now(), used(), make([]byte, 256)
	for range linkMessages {
		tickets <- publish(payload)
	}
	close(tickets)
	<-done
	took := time.Since(began)
	fmt.Println(linkMessages/took.Seconds(), float64(used()-cpu)/1e3/linkMessages)
}

// used is the CPU time of this process.
func used() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		log.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

const linkTopic = "event2mqtt/event/Bench"

func pahoPublish(broker string) func([]byte) ticket {
	o := paho.NewClientOptions().AddBroker("mqtt://" + broker).SetClientID("link").SetProtocolVersion(4).SetAutoReconnect(false)
	client := paho.NewClient(o)
	if t := client.Connect(); t.Wait() && t.Error() != nil {
		log.Fatal(t.Error())
	}
	return func(payload []byte) ticket {
		return client.Publish(linkTopic, 1, false, payload)
	}
}

func ownPublish(version byte, broker string) func([]byte) ticket {
	conn, err := net.Dial("tcp", broker)
	if err != nil {
		log.Fatal(err)
	}
	client, err := mqttclient.Connect(context.Background(), conn, mqttclient.Options{Version: version, ClientID: "link", Window: linkWindow})
	if err != nil {
		log.Fatal(err)
	}
	return func(payload []byte) ticket {
		t, err := client.Publish(context.Background(), &wire.Publish{Topic: linkTopic, Payload: payload, QoS: 1})
		if err != nil {
			log.Fatal(err)
		}
		return t
	}
}
