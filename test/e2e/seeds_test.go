package e2e

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"go.yaml.in/yaml/v3"

	"event2mqtt/internal/testkit"
	"event2mqtt/internal/wire"
	"event2mqtt/test/certtest"
	"event2mqtt/test/mqttest"
)

// TestWhatOtherProgramsConfigureHasItsCounterpart tries every row of the tables in
// docs/from-other-programs.md: the program connects to a Mosquitto with it, as
// the row says, and delivers an event.
func TestWhatOtherProgramsConfigureHasItsCounterpart(t *testing.T) {
	text, err := os.ReadFile("../../docs/from-other-programs.md")
	testkit.OK(t, err)
	tried := map[string]bool{}
	program := ""
	for line := range strings.Lines(string(text)) {
		if heading, is := strings.CutPrefix(line, "## "); is {
			program = strings.Trim(strings.Fields(heading)[0], "`'")
		}
		cells := strings.Split(line, "|")
		if len(cells) != 5 || !strings.HasPrefix(line, "| `") {
			continue
		}
		key, snippet := strings.ReplaceAll(strings.TrimSpace(cells[1]), "`", ""), strings.Trim(cells[2], " `")
		tried[key] = true
		t.Run(program+"/"+key, func(t *testing.T) {
			check := seeds[key]
			if check == nil {
				t.Fatalf("nothing is known of what %q does", key)
			}
			tryRow(t, snippet, check)
		})
	}
	for key := range seeds {
		if !tried[key] {
			t.Errorf("the documentation does not say what is the counterpart of %s", key)
		}
	}
}

// seeds says what has to be seen of a connection, by the first cell of a row.
var seeds = map[string]func(*connected) bool{
	"MQTT_BROKER_URL, MQTT_BROKER_PORT":  func(c *connected) bool { return c.tls == nil && c.request == nil },
	"MQTT_CLIENT_ID":                     isClient,
	"MQTT_USERNAME":                      isUser,
	"MQTT_PASSWORD":                      hasPassword,
	"MQTT_KEEPALIVE":                     isKeptAlive,
	"MQTT_TRANSPORT = websockets":        func(c *connected) bool { return c.tls == nil && c.request != nil && c.request.URL.Path == "/mqtt" },
	"MQTT_PROTOCOL_VERSION = MQTTv311":   isVersion(4),
	"MQTT_PROTOCOL_VERSION = MQTTv31":    isVersion(3),
	"MQTT_PROTOCOL_VERSION = MQTTv5":     isVersion(5),
	"MQTT_LAST_WILL_TOPIC":               func(c *connected) bool { return c.Will.Topic == "printer/status" },
	"MQTT_LAST_WILL_MESSAGE":             func(c *connected) bool { return string(c.Will.Payload) == "gone" },
	"MQTT_LAST_WILL_QOS":                 func(c *connected) bool { return c.Will.QoS == 2 },
	"MQTT_LAST_WILL_RETAIN":              func(c *connected) bool { return !c.Will.Retain },
	"MQTT_TLS_ENABLED":                   isEncrypted,
	"MQTT_TLS_CA_CERTS":                  isEncrypted,
	"MQTT_TLS_CERTFILE":                  isCertified,
	"MQTT_TLS_KEYFILE":                   isCertified,
	"MQTT_TLS_CERT_REQS = ssl.CERT_NONE": isEncrypted,
	"MQTT_TLS_INSECURE":                  isOtherName,
	"MQTT_TLS_VERSION":                   func(c *connected) bool { return c.tls.Version == tls.VersionTLS12 },
	"MQTT_TLS_CIPHERS":                   func(c *connected) bool { return c.tls.CipherSuite == tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 },
	"broker, port":                       func(c *connected) bool { return c.tls == nil && c.request == nil },
	"client_id":                          isClient,
	"username":                           isUser,
	"password":                           hasPassword,
	"keepalive":                          isKeptAlive,
	"protocol = 3.1.1":                   isVersion(4),
	"protocol = 3.1":                     isVersion(3),
	"protocol = 5":                       isVersion(5),
	"certificate = auto":                 isEncrypted,
	"certificate":                        isEncrypted,
	"client_cert, client_key":            isCertified,
	"tls_insecure":                       isOtherName,
	"transport, ws_path":                 func(c *connected) bool { return c.request.URL.Path == "/path" },
	"ws_headers":                         func(c *connected) bool { return c.request.Header.Get("X-Tenant") == "printers" },
	"birth_message":                      func(c *connected) bool { return c.kept("printer/status") == "here" },
	"will_message": func(c *connected) bool {
		return c.Will.Topic == "printer/status" && string(c.Will.Payload) == "gone" && c.Will.QoS == 1 && c.Will.Retain
	},
	"discovery":        func(c *connected) bool { return c.kept("homeassistant/device/+/config") != "" },
	"discovery_prefix": func(c *connected) bool { return c.kept("ha/device/+/config") != "" },
}

func isClient(c *connected) bool    { return c.ClientID == "printer-1" }
func isUser(c *connected) bool      { return c.Username == "printer" && !c.HasPass }
func hasPassword(c *connected) bool { return c.Username == "printer" && string(c.Password) == "secret" }
func isKeptAlive(c *connected) bool { return c.KeepAlive == 5 }
func isEncrypted(c *connected) bool { return c.tls != nil && c.tls.Version >= tls.VersionTLS12 }
func isOtherName(c *connected) bool { return c.tls != nil && c.tls.ServerName == "other.example" }
func isCertified(c *connected) bool {
	return c.tls != nil && len(c.tls.PeerCertificates) == 1 && c.tls.PeerCertificates[0].Subject.CommonName == "printer"
}
func isVersion(v byte) func(*connected) bool {
	return func(c *connected) bool { return c.Version == v }
}

// brokerURLs are those of the documentation.
var brokerURLs = regexp.MustCompile(`(mqtts?|wss?)://broker\.example(:\d+)?`)

// tryRow runs the program with a row of the tables.
func tryRow(t *testing.T, snippet string, check func(*connected) bool) {
	ca := certtest.New(t)
	t.Setenv("SSL_CERT_FILE", ca.CAFile) // this is what the system trusts
	g := newGate(t, ca, strings.Contains(snippet, "other.example"))
	if !brokerURLs.MatchString(snippet) {
		url := "mqtt://broker.example"
		if strings.Contains(snippet, "tls:") {
			url = "mqtts://broker.example"
		}
		snippet = merge(t, snippet, "mqtt: {url: \""+url+"\"}")
	}
	url := brokerURLs.FindStringSubmatch(snippet)
	g.secure, g.web = url[1] == "mqtts" || url[1] == "wss", url[1] == "ws" || url[1] == "wss"
	cert, key := ca.Issue("printer", nil)
	snippet = brokerURLs.ReplaceAllString(snippet, "${1}://"+g.address)
	snippet = strings.NewReplacer("/etc/event2mqtt/ca.pem", ca.CAFile, "/etc/event2mqtt/client.pem", cert, "/etc/event2mqtt/client.key", key).Replace(snippet)
	go g.serve()
	watcher, err := mqttest.Dial(g.broker, mqttest.Options{})
	testkit.OK(t, err)
	defer watcher.Close()
	testkit.OK(t, watcher.SetDeadline(time.Now().Add(mqttest.Patience)))
	_, err = watcher.Subscribe("event2mqtt/event/#", 1)
	testkit.OK(t, err)

	p := configure(t, merge(t, snippet, "sources: [{name: default, type: webhook}]"))
	p.start()
	if status := post(p.http, `{"event":"PrintDone"}`); status/100 != 2 {
		t.Fatalf("the event was not accepted: %d", status)
	}
	if m, err := watcher.Next(); err != nil || m.Topic != "event2mqtt/event/PrintDone" {
		t.Fatalf("the event did not come: %v %v", m, err)
	}
	testkit.Eventually(t, "the connection is as the row says", func() bool {
		c := g.first()
		return c != nil && check(c)
	})
}

// merge adds the options of one document to another.
func merge(t *testing.T, one, other string) string {
	t.Helper()
	a, b := map[string]any{}, map[string]any{}
	testkit.OK(t, yaml.Unmarshal([]byte(one), &a))
	testkit.OK(t, yaml.Unmarshal([]byte(other), &b))
	for section, options := range b {
		into, is := a[section].(map[string]any)
		if !is {
			a[section] = options
			continue
		}
		for key, value := range options.(map[string]any) {
			into[key] = value
		}
	}
	text, err := yaml.Marshal(a)
	testkit.OK(t, err)
	return string(text)
}

// gate stands before a Mosquitto and sees how the program connects: it ends TLS
// and WebSocket, and passes on what is within.
type gate struct {
	t           *testing.T
	address     string
	broker      string
	secure, web bool
	config      *tls.Config
	listener    net.Listener

	mu  sync.Mutex
	saw *connected
}

// connected is what was seen of the program's first connection.
type connected struct {
	*wire.Connect
	tls     *tls.ConnectionState // nil without
	request *http.Request        // nil without WebSocket
	broker  string
}

// kept is what the broker retains for a filter, if it is one message.
func (c *connected) kept(filter string) string {
	all, _ := mqttest.Retained(c.broker, filter)
	for _, payload := range all {
		return payload
	}
	return ""
}

func newGate(t *testing.T, ca *certtest.Authority, otherName bool) *gate {
	t.Helper()
	m := mosquitto(t, "")
	m.start()
	file, key := ca.Issue("broker", func(c *x509.Certificate) {
		if otherName {
			c.IPAddresses, c.DNSNames = nil, []string{"other.example"}
		}
	})
	cert, err := tls.LoadX509KeyPair(file, key)
	testkit.OK(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	testkit.OK(t, err)
	t.Cleanup(func() { _ = l.Close() })
	return &gate{t: t, address: l.Addr().String(), broker: m.addr, listener: l,
		config: &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequestClientCert}}
}

func (g *gate) first() *connected {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.saw
}

// serve passes connections on until the listener is closed.
func (g *gate) serve() {
	for {
		c, err := g.listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			_ = g.pass(c) // the program says what is wrong
		}()
	}
}

func (g *gate) pass(c net.Conn) error {
	saw := &connected{broker: g.broker}
	if g.secure {
		secure := tls.Server(c, g.config)
		if err := secure.Handshake(); err != nil {
			return err
		}
		state := secure.ConnectionState()
		saw.tls, c = &state, secure
	}
	var in io.Reader = c
	var out io.Writer = c
	if g.web {
		request, socket, err := upgrade(c)
		if err != nil {
			return err
		}
		saw.request, in, out = request, socket, socket
	}
	reader := wire.NewReader(in, 1<<20)
	header, body, err := reader.Next()
	if err != nil {
		return err
	}
	if saw.Connect, err = wire.DecodeConnect(bytes.Clone(body)); err != nil {
		return err
	}
	g.mu.Lock()
	if g.saw == nil {
		g.saw = saw
	}
	g.mu.Unlock()
	up, err := net.Dial("tcp", g.broker)
	if err != nil {
		return err
	}
	defer up.Close()
	go func() {
		_, _ = io.Copy(out, up)
		_ = c.Close()
	}()
	for err == nil {
		if _, err = up.Write(mqttest.Packet(nil, wire.Type(header>>4), header&15, body)); err == nil {
			header, body, err = reader.Next()
		}
	}
	return err
}

// webSocket is the stream of bytes within one.
type webSocket struct {
	*websocket.Conn
	rest io.Reader
}

// upgrade answers a WebSocket's request.
func upgrade(c net.Conn) (*http.Request, *webSocket, error) {
	request, err := http.ReadRequest(bufio.NewReader(c))
	if err != nil {
		return nil, nil, err
	}
	w := &hijacked{c: c, header: http.Header{}}
	conn, err := (&websocket.Upgrader{Subprotocols: []string{"mqtt", "mqttv3.1"}}).Upgrade(w, request, nil)
	return request, &webSocket{Conn: conn}, err
}

// hijacked is the answer to a request that becomes a WebSocket.
type hijacked struct {
	c      net.Conn
	header http.Header
}

func (h *hijacked) Header() http.Header { return h.header }
func (h *hijacked) WriteHeader(int)     {}
func (h *hijacked) Write([]byte) (int, error) {
	return 0, errors.New("the request is no WebSocket's")
}
func (h *hijacked) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return h.c, bufio.NewReadWriter(bufio.NewReader(h.c), bufio.NewWriter(h.c)), nil
}

func (w *webSocket) Read(p []byte) (int, error) {
	for {
		if w.rest == nil {
			kind, r, err := w.NextReader()
			if err != nil {
				return 0, err
			}
			if kind != websocket.BinaryMessage {
				return 0, fmt.Errorf("a message of type %d", kind)
			}
			w.rest = r
		}
		n, err := w.rest.Read(p)
		if err == io.EOF {
			w.rest, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

func (w *webSocket) Write(p []byte) (int, error) {
	return len(p), w.WriteMessage(websocket.BinaryMessage, p)
}
