package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	packets5 "github.com/eclipse/paho.golang/packets"
	paho5 "github.com/eclipse/paho.golang/paho"
	paho3 "github.com/eclipse/paho.mqtt.golang"

	"event2mqtt/test/certtest"
	"event2mqtt/test/mqttest"
)

// realClient is a client library or program as people use them.
type realClient struct {
	name       string
	versions   []string
	transports []string
	// missing skips the test if what is needed is not installed.
	missing func(*testing.T)
	// roundTrip subscribes to a topic, publishes to it and receives that.
	roundTrip func(w *world, transport, version string, qos int, topic string) error
	// will connects with a will for the topic and vanishes.
	will func(w *world, transport, version string, qos int, topic string) error
}

// world is the program with all its listeners.
type world struct {
	t         *testing.T
	ports     map[string]int // by transport
	ca        string
	cert, key string // of a client, for the transport "tls-cert"
	trust     *tls.Config
}

const (
	matrixUser = "tester"
	matrixPass = "tester-secret"
)

// TestRealClients has every client do its round trip in every version it
// speaks, over every transport, with every QoS, and leave a will. The matrix
// goes to the test's output, and to the file that E2E_MATRIX names.
func TestRealClients(t *testing.T) {
	ca := certtest.New(t)
	cert, key := ca.Issue("broker", nil)
	w := &world{t: t, ca: ca.CAFile, ports: map[string]int{}}
	w.cert, w.key = ca.Issue("certified", nil)
	roots := x509.NewCertPool()
	roots.AddCert(ca.Cert)
	w.trust = &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"}
	for _, name := range []string{"tcp", "tls", "ws", "wss"} {
		w.ports[name] = freePort(t)
	}
	w.ports["tls-cert"] = w.ports["tls"]
	p := configure(t, fmt.Sprintf(`
broker:
  listen: 127.0.0.1:%d
  tls: {listen: "127.0.0.1:%d", cert: %s, key: %s, client_ca: %s}
  websocket: {listen: "127.0.0.1:%d", tls_listen: "127.0.0.1:%d"}
  users:
    - {name: %s, password: %s}
    - {name: certified, allow: ["#:rw"]}
`, w.ports["tcp"], w.ports["tls"], cert, key, ca.CAFile, w.ports["ws"], w.ports["wss"], matrixUser, matrixPass))
	p.start()
	witness, err := mqttest.Dial(fmt.Sprintf("127.0.0.1:%d", w.ports["tcp"]), mqttest.Options{User: matrixUser, Password: matrixPass})
	if err != nil {
		t.Fatal(err)
	}
	defer witness.Close()
	_ = witness.SetDeadline(time.Now().Add(10 * time.Minute))
	if _, err := witness.Subscribe("will/#", 2); err != nil {
		t.Fatal(err)
	}

	var matrix strings.Builder
	for _, c := range realClients {
		t.Run(c.name, func(t *testing.T) {
			if c.missing != nil {
				c.missing(t)
			}
			w := *w
			w.t = t
			for _, version := range c.versions {
				for _, transport := range c.transports {
					var done []string
					for qos := range 3 {
						topic := fmt.Sprintf("matrix/%s/%s/%s/%d", strings.ReplaceAll(c.name, " ", "-"), version, transport, qos)
						if err := c.roundTrip(&w, transport, version, qos, topic); err != nil {
							t.Errorf("%s, %s, QoS %d: %v", version, transport, qos, err)
							continue
						}
						done = append(done, fmt.Sprintf("QoS %d", qos))
					}
					topic := fmt.Sprintf("will/%s/%s/%s", strings.ReplaceAll(c.name, " ", "-"), version, transport)
					if err := c.will(&w, transport, version, 1, topic); err != nil {
						t.Errorf("%s, %s, will: %v", version, transport, err)
						continue
					}
					m, err := witness.Next()
					for err == nil && m.Topic != topic {
						t.Errorf("a will for %s came late, or twice", m.Topic)
						m, err = witness.Next()
					}
					if err != nil || string(m.Payload) != "gone" {
						t.Fatalf("%s, %s: the will: %+v, %v", version, transport, m, err)
					}
					fmt.Fprintf(&matrix, "%-14s %-6s %-9s %s, will\n", c.name, version, transport, strings.Join(done, ", "))
				}
			}
		})
	}
	t.Log("\n" + matrix.String())
	if file := os.Getenv("E2E_MATRIX"); file != "" {
		if err := os.WriteFile(file, []byte(matrix.String()), 0o644); err != nil {
			t.Error(err)
		}
	}
}

var realClients = []realClient{
	{
		name: "mosquitto", versions: []string{"3.1", "3.1.1", "5"}, transports: []string{"tcp", "tls", "tls-cert"},
		missing:   func(t *testing.T) { need(t, "mosquitto_sub"); need(t, "mosquitto_pub") },
		roundTrip: mosquittoRoundTrip,
		will: func(w *world, transport, version string, qos int, topic string) error {
			// What the round trip has retained tells that it is connected.
			cmd := exec.Command("mosquitto_sub", append(w.mosquittoArgs(transport, version), "-t", strings.Replace(topic, "will/", "matrix/", 1)+"/1",
				"--will-topic", topic, "--will-payload", "gone", "--will-qos", fmt.Sprint(qos))...)
			return killWhen(cmd, "ready")
		},
	},
	{
		name: "MQTT.js", versions: []string{"3.1.1", "5"}, transports: []string{"tcp", "tls", "ws", "wss"},
		missing: func(t *testing.T) {
			node := need(t, "node")
			if out, err := exec.Command(node, "-e", "require('mqtt')").CombinedOutput(); err != nil {
				absent(t, "the npm package mqtt is not installed where NODE_PATH points: %.200s", out)
			}
		},
		roundTrip: func(w *world, transport, version string, qos int, topic string) error {
			return succeed(w.node(transport, version, "trip", qos, topic))
		},
		will: func(w *world, transport, version string, qos int, topic string) error {
			return killWhen(w.node(transport, version, "will", qos, topic), "ready")
		},
	},
	{
		name: "paho Python", versions: []string{"3.1", "3.1.1", "5"}, transports: []string{"tcp", "tls", "ws", "wss"},
		missing: func(t *testing.T) {
			if out, err := exec.Command(debianPython, "-c", "import paho.mqtt.client").CombinedOutput(); err != nil {
				absent(t, "Debian's python3-paho-mqtt is not installed: %v %.200s", err, out)
			}
		},
		roundTrip: func(w *world, transport, version string, qos int, topic string) error {
			return succeed(w.python(transport, version, "trip", qos, topic))
		},
		will: func(w *world, transport, version string, qos int, topic string) error {
			return killWhen(w.python(transport, version, "will", qos, topic), "ready")
		},
	},
	{name: "paho Go", versions: []string{"3.1", "3.1.1"}, transports: []string{"tcp", "tls", "ws", "wss"}, roundTrip: paho3RoundTrip, will: paho3Will},
	{name: "paho Go 5", versions: []string{"5"}, transports: []string{"tcp", "tls", "ws", "wss"}, roundTrip: paho5RoundTrip, will: paho5Will},
}

// debianPython is the interpreter that Debian's packages are for.
const debianPython = "/usr/bin/python3"

// absent skips a test for what is not installed, which in CI is a failure.
func absent(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

const clientTimeout = 30 * time.Second

// succeed runs a client to its end.
func succeed(cmd *exec.Cmd) error {
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	timer := time.AfterFunc(clientTimeout, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	if err := cmd.Run(); err != nil || !strings.Contains(out.String(), "ok") {
		return fmt.Errorf("%v: %.500s", err, out.String())
	}
	return nil
}

// killWhen runs a client and kills it once it has said a word.
func killWhen(cmd *exec.Cmd, word string) error {
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		return err
	}
	timer := time.AfterFunc(clientTimeout, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	said := false
	var all []string
	for s := bufio.NewScanner(out); s.Scan(); {
		all = append(all, s.Text())
		if strings.Contains(s.Text(), word) {
			said = true
			_ = cmd.Process.Kill()
		}
	}
	_ = cmd.Wait()
	if !said {
		return fmt.Errorf("it did not say %s but %q", word, all)
	}
	return nil
}

func (w *world) mosquittoArgs(transport, version string) []string {
	args := []string{"-h", "127.0.0.1", "-p", fmt.Sprint(w.ports[transport]), "-V", "mqttv" + strings.ReplaceAll(version, ".", "")}
	switch transport {
	case "tls":
		args = append(args, "--cafile", w.ca)
	case "tls-cert":
		return append(args, "--cafile", w.ca, "--cert", w.cert, "--key", w.key)
	}
	return append(args, "-u", matrixUser, "-P", matrixPass)
}

func mosquittoRoundTrip(w *world, transport, version string, qos int, topic string) error {
	args := append(w.mosquittoArgs(transport, version), "-t", topic, "-q", fmt.Sprint(qos))
	pub := func(more ...string) error {
		if out, err := exec.Command("mosquitto_pub", append(slices.Clone(args), more...)...).CombinedOutput(); err != nil {
			return fmt.Errorf("mosquitto_pub: %w: %s", err, out)
		}
		return nil
	}
	// A retained message tells that the subscription is made.
	if err := pub("-r", "-m", "ready"); err != nil {
		return err
	}
	sub := exec.Command("mosquitto_sub", append(slices.Clone(args), "-C", "2", "-W", "20", "-F", "%p %q")...)
	out, err := sub.StdoutPipe()
	if err != nil {
		return err
	}
	if err := sub.Start(); err != nil {
		return err
	}
	defer func() { _ = sub.Process.Kill(); _ = sub.Wait() }()
	lines := bufio.NewScanner(out)
	for _, want := range []string{"ready", "hello"} {
		if !lines.Scan() || lines.Text() != fmt.Sprintf("%s %d", want, qos) {
			return fmt.Errorf("mosquitto_sub printed %q instead of %q, QoS %d", lines.Text(), want, qos)
		}
		if want == "ready" {
			if err := pub("-m", "hello"); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *world) url(transport string) string {
	scheme := map[string]string{"tcp": "mqtt", "tls": "mqtts", "ws": "ws", "wss": "wss"}[transport]
	path := ""
	if strings.HasPrefix(transport, "w") {
		path = "/mqtt"
	}
	return fmt.Sprintf("%s://127.0.0.1:%d%s", scheme, w.ports[transport], path)
}

func (w *world) node(transport, version, mode string, qos int, topic string) *exec.Cmd {
	number := map[string]string{"3.1.1": "4", "5": "5"}[version]
	return exec.Command("node", filepath.Join("testdata", "client.js"), w.url(transport), number, matrixUser, matrixPass, w.ca, mode, fmt.Sprint(qos), topic)
}

func (w *world) python(transport, version, mode string, qos int, topic string) *exec.Cmd {
	return exec.Command(debianPython, filepath.Join("testdata", "client.py"), "127.0.0.1", fmt.Sprint(w.ports[transport]), transport, version, matrixUser, matrixPass, w.ca, mode, fmt.Sprint(qos), topic)
}

func (w *world) paho3(transport, version string) *paho3.ClientOptions {
	return paho3.NewClientOptions().AddBroker(w.url(transport)).SetClientID("go3").SetUsername(matrixUser).SetPassword(matrixPass).
		SetProtocolVersion(map[string]uint{"3.1": 3, "3.1.1": 4}[version]).SetTLSConfig(w.trust).SetAutoReconnect(false)
}

func waitToken(t paho3.Token) error {
	if !t.WaitTimeout(clientTimeout) {
		return errors.New("no answer")
	}
	return t.Error()
}

func paho3RoundTrip(w *world, transport, version string, qos int, topic string) error {
	c := paho3.NewClient(w.paho3(transport, version))
	if err := waitToken(c.Connect()); err != nil {
		return err
	}
	defer c.Disconnect(100)
	got := make(chan paho3.Message, 1)
	if err := waitToken(c.Subscribe(topic, byte(qos), func(_ paho3.Client, m paho3.Message) { got <- m })); err != nil {
		return err
	}
	if err := waitToken(c.Publish(topic, byte(qos), false, "hello")); err != nil {
		return err
	}
	select {
	case m := <-got:
		if string(m.Payload()) != "hello" || int(m.Qos()) != qos {
			return fmt.Errorf("got %s, QoS %d", m.Payload(), m.Qos())
		}
		return nil
	case <-time.After(clientTimeout):
		return errors.New("nothing came")
	}
}

func paho3Will(w *world, transport, version string, qos int, topic string) error {
	var conn net.Conn
	o := w.paho3(transport, version).SetWill(topic, "gone", byte(qos), false)
	if transport == "tcp" || transport == "tls" {
		o.SetCustomOpenConnectionFn(func(u *url.URL, _ paho3.ClientOptions) (net.Conn, error) {
			var err error
			conn, err = w.dial(transport)
			return conn, err
		})
	}
	c := paho3.NewClient(o)
	if err := waitToken(c.Connect()); err != nil {
		return err
	}
	if conn == nil {
		// This client hides its WebSocket: another one with its id ends it.
		other := paho3.NewClient(w.paho3(transport, version))
		if err := waitToken(other.Connect()); err != nil {
			return err
		}
		other.Disconnect(100)
		return nil
	}
	return conn.Close()
}

func (w *world) dial(transport string) (net.Conn, error) {
	addr := fmt.Sprintf("127.0.0.1:%d", w.ports[transport])
	switch transport {
	case "tls":
		return tls.Dial("tcp", addr, w.trust)
	case "ws":
		return mqttest.WebSocket("/mqtt", 0, nil, nil)(addr)
	case "wss":
		return mqttest.WebSocket("/mqtt", 0, w.trust, nil)(addr)
	}
	return net.Dial("tcp", addr)
}

func (w *world) paho5(transport string, will *paho5.WillMessage, received chan<- *paho5.Publish) (*paho5.Client, net.Conn, error) {
	conn, err := w.dial(transport)
	if err != nil {
		return nil, nil, err
	}
	// Without the wrapper this client mixes packets that it writes at the same
	// time, over anything but plain TCP.
	c := paho5.NewClient(paho5.ClientConfig{Conn: packets5.NewThreadSafeConn(conn), OnPublishReceived: []func(paho5.PublishReceived) (bool, error){
		func(p paho5.PublishReceived) (bool, error) { received <- p.Packet; return true, nil },
	}})
	ctx, cancel := context.WithTimeout(context.Background(), clientTimeout)
	defer cancel()
	_, err = c.Connect(ctx, &paho5.Connect{
		ClientID: "go5", CleanStart: true, KeepAlive: 30, Username: matrixUser, UsernameFlag: true, Password: []byte(matrixPass), PasswordFlag: true, WillMessage: will,
	})
	return c, conn, err
}

func paho5RoundTrip(w *world, transport, _ string, qos int, topic string) error {
	received := make(chan *paho5.Publish, 1)
	c, _, err := w.paho5(transport, nil, received)
	if err != nil {
		return err
	}
	defer func() { _ = c.Disconnect(&paho5.Disconnect{}) }()
	ctx, cancel := context.WithTimeout(context.Background(), clientTimeout)
	defer cancel()
	id := 7
	if _, err := c.Subscribe(ctx, &paho5.Subscribe{
		Subscriptions: []paho5.SubscribeOptions{{Topic: topic, QoS: byte(qos)}}, Properties: &paho5.SubscribeProperties{SubscriptionIdentifier: &id},
	}); err != nil {
		return err
	}
	p := &paho5.Publish{Topic: topic, QoS: byte(qos), Payload: []byte("hello"), Properties: &paho5.PublishProperties{ContentType: "text/plain", User: paho5.UserProperties{{Key: "k", Value: "v"}}}}
	if _, err := c.Publish(ctx, p); err != nil {
		return err
	}
	select {
	case m := <-received:
		switch {
		case string(m.Payload) != "hello" || int(m.QoS) != qos:
			return fmt.Errorf("got %s, QoS %d", m.Payload, m.QoS)
		case m.Properties.SubscriptionIdentifier == nil || *m.Properties.SubscriptionIdentifier != id:
			return errors.New("the subscription identifier is missing")
		case m.Properties.ContentType != "text/plain" || m.Properties.User.Get("k") != "v":
			return errors.New("properties are missing")
		}
		return nil
	case <-ctx.Done():
		return errors.New("nothing came")
	}
}

func paho5Will(w *world, transport, _ string, qos int, topic string) error {
	_, conn, err := w.paho5(transport, &paho5.WillMessage{Topic: topic, Payload: []byte("gone"), QoS: byte(qos)}, make(chan *paho5.Publish, 1))
	if err != nil {
		return err
	}
	return conn.Close()
}
