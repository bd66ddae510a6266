package e2e

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"event2mqtt/internal/testkit"
	"event2mqtt/test/certtest"
)

const started = `{"event":"PrintStarted","file":"a.gcode"}`

// mosquittoSub runs mosquitto_sub until it has printed n lines.
func mosquittoSub(t *testing.T, n int, args ...string) <-chan string {
	t.Helper()
	cmd := exec.Command(need(t, "mosquitto_sub"), append(args, "-v", "-C", fmt.Sprint(n), "-W", "30")...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, n)
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			lines <- s.Text()
		}
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		for range lines {
		}
	})
	return lines
}

func expectStarted(t *testing.T, line string) {
	t.Helper()
	before, after, _ := strings.Cut(line, `"_timestamp":`)
	stamp, rest, _ := strings.Cut(after, ",")
	if before != `event2mqtt/event/PrintStarted {"_event":"PrintStarted",` || len(stamp) != 10 || rest != `"event":"PrintStarted","file":"a.gcode"}` {
		t.Errorf("got %s", line)
	}
}

// TestMosquittosClientsUseTheBundledBroker in every version and QoS.
func TestMosquittosClientsUseTheBundledBroker(t *testing.T) {
	port := freePort(t)
	p := configure(t, fmt.Sprintf("broker: {listen: \"127.0.0.1:%d\"}\n", port))
	p.start()
	for _, version := range []string{"mqttv31", "mqttv311", "mqttv5"} {
		for qos := range 3 {
			t.Run(fmt.Sprintf("%s QoS %d", version, qos), func(t *testing.T) {
				// The retained birth message tells that the subscription is made.
				lines := mosquittoSub(t, 3, "-p", fmt.Sprint(port), "-V", version, "-q", fmt.Sprint(qos), "-t", "event2mqtt/mqtt", "-t", "event2mqtt/event/#", "-t", "pub/#")
				if line := <-lines; line != "event2mqtt/mqtt connected" {
					t.Fatalf("birth: %s", line)
				}
				if status := post(p.http, started); status != 202 {
					t.Fatalf("status %d", status)
				}
				expectStarted(t, <-lines)
				pub := exec.Command(need(t, "mosquitto_pub"), "-p", fmt.Sprint(port), "-V", version, "-q", fmt.Sprint(qos), "-t", "pub/x", "-m", "hello")
				if out, err := pub.CombinedOutput(); err != nil {
					t.Fatalf("mosquitto_pub: %v: %s", err, out)
				}
				if line := <-lines; line != "pub/x hello" {
					t.Errorf("got %s", line)
				}
			})
		}
	}
}

// TestEveryWayToMosquitto publishes over each transport, with each kind of
// proof of who we are, to the broker that most people run.
func TestEveryWayToMosquitto(t *testing.T) {
	need(t, "mosquitto_passwd")
	ca := certtest.New(t)
	cert, key := ca.Issue("server", nil)
	clientCert, clientKey := ca.Issue("client", nil)
	passwords := filepath.Join(t.TempDir(), "passwords")
	if out, err := exec.Command("mosquitto_passwd", "-b", "-c", passwords, "printer", "s3cret").CombinedOutput(); err != nil {
		t.Fatalf("mosquitto_passwd: %v: %s", err, out)
	}
	ports := map[string]int{}
	for _, name := range []string{"tls", "mutual", "ws", "wss"} {
		ports[name] = freePort(t)
	}
	tls := fmt.Sprintf("cafile %s\ncertfile %s\nkeyfile %s\n", ca.CAFile, cert, key)
	m := mosquitto(t, fmt.Sprintf("allow_anonymous false\npassword_file %s\n"+
		"listener %d 127.0.0.1\n%s"+
		"listener %d 127.0.0.1\n%srequire_certificate true\nuse_identity_as_username false\n"+
		"listener %d 127.0.0.1\nprotocol websockets\n"+
		"listener %d 127.0.0.1\nprotocol websockets\n%s",
		passwords, ports["tls"], tls, ports["mutual"], tls, ports["ws"], ports["wss"], tls))
	m.start()
	_, plainPort, _ := net.SplitHostPort(m.addr)

	// A retained message tells subscribers that their subscription is made.
	ready := exec.Command(need(t, "mosquitto_pub"), "-p", plainPort, "-u", "printer", "-P", "s3cret", "-r", "-t", "ready", "-m", "x")
	if out, err := ready.CombinedOutput(); err != nil {
		t.Fatalf("mosquitto_pub: %v: %s", err, out)
	}
	for name, mqtt := range map[string]string{
		"plain":              "url: mqtt://127.0.0.1:" + plainPort,
		"version 3.1":        "protocol: '3.1', url: mqtt://127.0.0.1:" + plainPort,
		"TLS":                fmt.Sprintf("url: mqtts://127.0.0.1:%d, tls: {ca: %s}", ports["tls"], ca.CAFile),
		"client certificate": fmt.Sprintf("url: mqtts://127.0.0.1:%d, tls: {ca: %s, cert: %s, key: %s}", ports["mutual"], ca.CAFile, clientCert, clientKey),
		"websocket":          fmt.Sprintf("url: ws://127.0.0.1:%d, websocket: {headers: {X-Test: a}}", ports["ws"]),
		"secure websocket":   fmt.Sprintf("url: wss://127.0.0.1:%d/mqtt, tls: {ca: %s}", ports["wss"], ca.CAFile),
		"second of a list":   fmt.Sprintf("url: ['mqtt://127.0.0.1:%d', 'mqtt://127.0.0.1:%s']", freePort(t), plainPort),
	} {
		t.Run(name, func(t *testing.T) {
			lines := mosquittoSub(t, 2, "-p", plainPort, "-u", "printer", "-P", "s3cret", "-q", "1", "-t", "event2mqtt/event/#", "-t", "ready")
			if line := <-lines; line != "ready x" {
				t.Fatalf("got %s", line)
			}
			p := configure(t, "mqtt: {username: printer, password: s3cret, "+mqtt+"}\n")
			p.start()
			if status := post(p.http, started); status != 202 {
				t.Fatalf("status %d", status)
			}
			select {
			case line := <-lines:
				expectStarted(t, line)
			case <-time.After(30 * time.Second):
				t.Fatal("nothing came")
			}
			if strings.Contains(p.log.String(), "s3cret") {
				t.Error("the password is in the log")
			}
		})
	}

	p := configure(t, "mqtt: {username: printer, password: wrong, url: mqtt://"+m.addr+"}\n")
	p.start()
	testkit.Eventually(t, "a refused login is told", func() bool { return strings.Contains(p.log.String(), "mqtt.password") })
}
