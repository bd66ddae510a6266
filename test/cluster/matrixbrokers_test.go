package cluster

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"path/filepath"
	"testing"

	"event2mqtt/internal/testkit"
	"event2mqtt/test/certtest"
	"event2mqtt/test/mqttest"
)

// destination is a kind of broker.
type destination struct {
	name string
	// prepare makes one that can be started, with its doors.
	prepare func(t *testing.T, transport string, c *certificates) *broker
	// unable is what event2mqtt says of protocols that the broker does not
	// speak.
	unable map[string]string
	// most is the highest QoS that event2mqtt is told to use, and note why.
	most int
	note string
	once bool // a message with QoS 2 is not repeated to a subscriber, whatever is killed
}

// broker is one that keeps on disk what it has acknowledged, and for whom.
type broker struct {
	*process
	url   string // of the door for event2mqtt
	watch string // the address of the door for the watcher
	// login is the watcher's, and dial makes its connection; nil is TCP.
	login mqttest.Options
	dial  func(address string) (net.Conn, error)
}

// certificates are those of a broker and of a client.
type certificates struct {
	ca, cert, key, clientCert, clientKey string // files
	client                               *tls.Config
}

func newCertificates(t *testing.T) *certificates {
	a := certtest.New(t)
	c := &certificates{ca: a.CAFile}
	c.cert, c.key = a.Issue("broker", nil)
	c.clientCert, c.clientKey = a.Issue("printer", nil)
	pool := x509.NewCertPool()
	pool.AddCert(a.Cert)
	pair, err := tls.LoadX509KeyPair(c.clientCert, c.clientKey)
	testkit.OK(t, err)
	c.client = &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}}
	return c
}

func (c *certificates) dial(address string) (net.Conn, error) {
	return tls.Dial("tcp", address, c.client)
}

// urlOf is what leads event2mqtt to an address.
func urlOf(transport, address string) string {
	switch transport {
	case "ws", "wss":
		return transport + "://" + address + "/mqtt"
	case "tls", "certificate":
		return "mqtts://" + address
	}
	return "mqtt://" + address
}

// mosquittoAlone has a plain listener for the watcher: the one for WebSocket
// writes after it has acknowledged, and what a killed one had not written is lost.
// For the same reason nothing may wait for the watcher's acknowledgements.
func mosquittoAlone(t *testing.T) *destination {
	path := findMosquitto(t)
	return &destination{name: "Mosquitto", most: 2, prepare: func(t *testing.T, transport string, c *certificates) *broker {
		dir, door, watch := t.TempDir(), testkit.FreeAddress(t), testkit.FreeAddress(t)
		config := fmt.Sprintf("allow_anonymous true\npersistence true\npersistence_location %s/\nautosave_on_changes true\nautosave_interval 1\n"+
			"max_queued_messages 0\nmax_inflight_messages 0\nuser root\nset_tcp_nodelay true\nlistener %s 127.0.0.1\nlistener %s 127.0.0.1\n", dir, port(watch), port(door))
		switch transport {
		case "ws", "wss":
			config += "protocol websockets\n"
		}
		switch transport {
		case "tls", "certificate", "wss":
			config += fmt.Sprintf("certfile %s\nkeyfile %s\n", c.cert, c.key)
		}
		if transport == "certificate" {
			config += fmt.Sprintf("cafile %s\nrequire_certificate true\n", c.ca)
		}
		p := newProcess(t, path, nil, "-c", testkit.Write(t, filepath.Join(dir, "mosquitto.conf"), config))
		return &broker{process: p, url: urlOf(transport, door), watch: watch}
	}}
}

func port(address string) string {
	_, port, _ := net.SplitHostPort(address)
	return port
}

// bundledAlone is event2mqtt as nothing but a broker.
func bundledAlone() *destination {
	return &destination{name: "event2mqtt", most: 2, once: true, prepare: func(t *testing.T, transport string, c *certificates) *broker {
		dir, door, watch := t.TempDir(), testkit.FreeAddress(t), testkit.FreeAddress(t)
		text := fmt.Sprintf("http: {listen: %q}\nhome_assistant: {discovery: false}\nbroker:\n  listen: %q\n", testkit.FreeAddress(t), watch)
		files := fmt.Sprintf("cert: %q, key: %q", c.cert, c.key)
		var login mqttest.Options
		switch transport {
		case "tcp":
			door = watch
		case "tls":
			text += fmt.Sprintf("  tls: {listen: %q, %s}\n", door, files)
		case "certificate":
			login = mqttest.Options{User: "printer", Password: "secret"}
			text += fmt.Sprintf("  tls: {listen: %q, %s, client_ca: %q, require_certificate: true}\n", door, files, c.ca)
			text += fmt.Sprintf("  users: [{name: %s, password: %s}]\n", login.User, login.Password)
		case "ws":
			text += fmt.Sprintf("  websocket: {listen: %q}\n", door)
		case "wss":
			text += fmt.Sprintf("  tls: {%s}\n  websocket: {tls_listen: %q}\n", files, door)
		}
		config := testkit.Write(t, filepath.Join(dir, "config.yaml"), text)
		p := newProcess(t, built("event2mqtt"), []string{"STATE_DIRECTORY=" + filepath.Join(dir, "state")}, "--config", config)
		return &broker{process: p, url: urlOf(transport, door), watch: watch, login: login}
	}}
}

// natsAlone has one listener for MQTT, so with TLS the watcher uses it, too. Its
// QoS 2 is tried by TestNATSMixesUpMessagesOfConnections.
func natsAlone() *destination {
	return &destination{name: "NATS 2.15", most: 1, note: "max_qos: 1", unable: map[string]string{
		"3.1": "does not take this protocol",
		"5":   "mqtt.protocol: auto", // over WebSocket, NATS may close without an answer
	}, prepare: func(t *testing.T, transport string, c *certificates) *broker {
		dir, door, watch := t.TempDir(), testkit.FreeAddress(t), testkit.FreeAddress(t)
		secure := fmt.Sprintf("tls { cert_file: %q, key_file: %q", c.cert, c.key)
		var dial func(string) (net.Conn, error)
		mqtt, websocket := "", ""
		switch transport {
		case "tcp":
			door = watch
		case "tls":
			mqtt = secure + " }"
		case "certificate":
			mqtt = fmt.Sprintf("%s, ca_file: %q, verify: true }", secure, c.ca)
		case "ws":
			websocket = "no_tls: true"
		case "wss":
			websocket = secure + " }"
		}
		if mqtt != "" {
			watch, dial = door, c.dial
		}
		if websocket != "" {
			websocket = fmt.Sprintf("websocket { listen: %q, %s }\n", door, websocket)
		}
		config := testkit.Write(t, filepath.Join(dir, "nats.conf"), fmt.Sprintf(`
server_name: alone
listen: %q
jetstream { store_dir: %q, max_memory_store: 64MB, max_file_store: 1GB }
mqtt { listen: %q, ack_wait: "5s", %s }
%s`, testkit.FreeAddress(t), filepath.Join(dir, "data"), watch, mqtt, websocket))
		return &broker{process: newProcess(t, built("nats-server"), nil, "-c", config), url: urlOf(transport, door), watch: watch, dial: dial}
	}}
}

// refusesStrangers looks that a door wants a certificate.
func (b *broker) refusesStrangers(t *testing.T, c *certificates) {
	t.Helper()
	stranger := c.client.Clone()
	stranger.Certificates = nil
	_, err := mqttest.Dial(b.url[len("mqtts://"):], mqttest.Options{Dial: func(address string) (net.Conn, error) {
		return tls.Dial("tcp", address, stranger)
	}})
	if err == nil {
		t.Error("the broker takes a client without a certificate")
	}
}
