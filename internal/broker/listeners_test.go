package broker_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/rs/zerolog"

	"event2mqtt/internal/broker"
	"event2mqtt/internal/broker/accounts"
	"event2mqtt/internal/testkit"
	"event2mqtt/internal/web/origin"
	"event2mqtt/internal/wire"
	"event2mqtt/test/certtest"
	"event2mqtt/test/mqttest"
)

// serveOn serves b on one more listener until the test ends.
func serveOn(t testing.TB, l net.Listener, serve func(net.Listener) error) string {
	t.Helper()
	var wg sync.WaitGroup
	wg.Go(func() { _ = serve(l) })
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return l.Addr().String()
}

func listenTCP(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	testkit.OK(t, err)
	return l
}

func dialTLS(c *tls.Config) func(string) (net.Conn, error) {
	return func(addr string) (net.Conn, error) { return tls.Dial("tcp", addr, c) }
}

func TestEveryListenerServesTheSameBroker(t *testing.T) {
	b, addr := start(t, broker.Limits{})
	ca := certtest.New(t)
	cert, key := ca.Issue("broker", nil)
	secure, err := broker.NewTLS(broker.TLSOptions{Cert: cert, Key: key, MinVersion: tls.VersionTLS12})
	testkit.OK(t, err)
	roots := x509.NewCertPool()
	roots.AddCert(ca.Cert)
	trust := &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"}
	webSocket := func(l net.Listener) error { return b.ServeWebSocket(l, nil) }
	socket := filepath.Join(t.TempDir(), "mqtt.sock")
	unix, err := net.Listen("unix", socket)
	testkit.OK(t, err)
	serveOn(t, unix, b.Serve)
	ways := map[string]mqttest.Options{
		"tcp":       {},
		"tls":       {Dial: dialTLS(trust)},
		"ws":        {Dial: mqttest.WebSocket("/mqtt", 0, nil, nil)},
		"ws at /":   {Dial: mqttest.WebSocket("/", 0, nil, nil)},
		"wss":       {Dial: mqttest.WebSocket("/mqtt", 0, trust, nil)},
		"unix":      {Dial: func(string) (net.Conn, error) { return net.Dial("unix", socket) }},
		"http port": {Dial: mqttest.WebSocket("/mqtt", 0, nil, nil)},
	}
	addresses := map[string]string{
		"tcp": addr, "tls": serveOn(t, tls.NewListener(listenTCP(t), secure), b.Serve), "ws": serveOn(t, listenTCP(t), webSocket),
		"wss":  serveOn(t, tls.NewListener(listenTCP(t), secure), webSocket),
		"unix": "", "http port": serveOn(t, listenTCP(t), func(l net.Listener) error {
			mux := http.NewServeMux()
			mux.Handle("/mqtt", b.WebSocket(nil))
			return http.Serve(l, mux)
		}),
	}
	addresses["ws at /"] = addresses["ws"]
	p := dial(t, addr, mqttest.Options{})
	for name, o := range ways {
		for versionName, version := range versions {
			t.Run(name+"/"+versionName, func(t *testing.T) {
				o.Version = version
				c := dial(t, addresses[name], o)
				subscribe(t, c, "t", 2)
				for qos := range byte(3) {
					payload := make([]byte, 100_000)
					payload[50_000] = qos
					testkit.OK(t, p.Publish(wire.Publish{Topic: "t", Payload: payload, QoS: qos}))
					if m := next(t, c); len(m.Payload) != 100_000 || m.Payload[50_000] != qos || m.QoS != qos {
						t.Errorf("got %d bytes, QoS %d", len(m.Payload), m.QoS)
					}
				}
				testkit.OK(t, c.Disconnect())
			})
		}
	}
}

func TestACertificateIsWhoAClientIs(t *testing.T) {
	ca, other := certtest.New(t), certtest.New(t)
	cert, key := ca.Issue("broker", nil)
	a, err := accounts.New(accounts.Options{Delay: time.Millisecond, Configured: []accounts.User{{Name: "printer", Allow: []string{"p/#:rw"}}}})
	testkit.OK(t, err)
	var l logLines
	b, _ := startWith(t, broker.Options{Accounts: a, Log: l.logger()})
	secure, err := broker.NewTLS(broker.TLSOptions{Cert: cert, Key: key, ClientCA: ca.CAFile, RequireCertificate: true, MinVersion: tls.VersionTLS12})
	testkit.OK(t, err)
	addr := serveOn(t, tls.NewListener(listenTCP(t), secure), b.Serve)
	addrWS := serveOn(t, tls.NewListener(listenTCP(t), secure), func(l net.Listener) error { return b.ServeWebSocket(l, nil) })
	with := func(ca2 *certtest.Authority, name string) *tls.Config {
		roots := x509.NewCertPool()
		roots.AddCert(ca.Cert)
		c := &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"}
		if ca2 != nil {
			file, key := ca2.Issue(name, nil)
			pair, err := tls.LoadX509KeyPair(file, key)
			testkit.OK(t, err)
			c.Certificates = []tls.Certificate{pair}
		}
		return c
	}
	c := dial(t, addr, mqttest.Options{Version: wire.V5, Dial: dialTLS(with(ca, "printer"))})
	subscribe(t, c, "p/#", 0)
	if code, err := c.Subscribe("q/#", 0); err != nil || code != wire.NotAuthorized {
		t.Errorf("code 0x%02x, %v", byte(code), err)
	}
	dial(t, addrWS, mqttest.Options{Dial: mqttest.WebSocket("/mqtt", 0, with(ca, "printer"), nil)})
	for name, config := range map[string]*tls.Config{
		"no certificate": with(nil, ""), "another authority's": with(other, "printer"), "a name without an account": with(ca, "stranger"),
	} {
		if c, err := mqttest.Dial(addr, mqttest.Options{Dial: dialTLS(config)}); err == nil {
			c.Close()
			t.Errorf("%s: let in", name)
		}
	}
	testkit.Eventually(t, "the log names the certificate without an account", func() bool {
		for _, line := range l.find("client was refused") {
			if line["certificate"] == "stranger" && strings.Contains(fmt.Sprint(line["why"]), "user add") {
				return true
			}
		}
		return false
	})
}

func TestANewCertificateIsShownAndDropsNobody(t *testing.T) {
	ca := certtest.New(t)
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "crt"), filepath.Join(dir, "key")
	install := func(name string) {
		c, k := ca.Issue(name, nil)
		for from, to := range map[string]string{c: cert, k: key} {
			text, err := os.ReadFile(from)
			testkit.OK(t, err)
			testkit.OK(t, os.WriteFile(to, text, 0o600))
		}
	}
	install("first")
	secure, err := broker.NewTLS(broker.TLSOptions{Cert: cert, Key: key, MinVersion: tls.VersionTLS12, Log: zerolog.Nop()})
	testkit.OK(t, err)
	b, _ := start(t, broker.Limits{})
	addr := serveOn(t, tls.NewListener(listenTCP(t), secure), b.Serve)
	roots := x509.NewCertPool()
	roots.AddCert(ca.Cert)
	trust := &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"}
	shown := func() string {
		c, err := tls.Dial("tcp", addr, trust)
		testkit.OK(t, err)
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].Subject.CommonName
	}
	old := dial(t, addr, mqttest.Options{Dial: dialTLS(trust)})
	install("second")
	testkit.Eventually(t, "the new one is shown", func() bool { return shown() == "second" })
	testkit.OK(t, old.Quiet())
	testkit.OK(t, os.WriteFile(key, []byte("half written"), 0o600))
	time.Sleep(1100 * time.Millisecond) // files are looked at once a second
	if got := shown(); got != "second" {
		t.Errorf("%s is shown while the key is damaged", got)
	}
	install("third")
	testkit.Eventually(t, "the newest one is shown", func() bool { return shown() == "third" })
	testkit.OK(t, old.Quiet())
	if _, err := broker.NewTLS(broker.TLSOptions{Cert: cert, Key: filepath.Join(dir, "none")}); err == nil {
		t.Error("a missing key is no error")
	}
}

func TestPagesOfOtherOriginsMayNotConnect(t *testing.T) {
	b, _ := start(t, broker.Limits{})
	addr := serveOn(t, listenTCP(t), func(l net.Listener) error {
		return b.ServeWebSocket(l, origin.New(origin.Options{SocketOrigins: []string{"*.example.org"}}))
	})
	for origin, want := range map[string]bool{
		"": true, "http://" + addr: true, "https://app.example.org": true, "https://example.org": false, "https://evil.example": false, "null": false, "https://evil.example/app.example.org": false,
	} {
		header := http.Header{}
		if origin != "" {
			header.Set("Origin", origin)
		}
		ws, _, err := (&websocket.Dialer{Subprotocols: []string{"mqtt"}}).Dial("ws://"+addr+"/mqtt", header)
		if err == nil {
			ws.Close()
		}
		if (err == nil) != want {
			t.Errorf("origin %q: %v", origin, err)
		}
	}
}

// TestRebindingANameIsNoWayIn: a page of the name that its owner has let point
// to this machine has the same origin as the broker, for the browser.
func TestRebindingANameIsNoWayIn(t *testing.T) {
	b, _ := start(t, broker.Limits{})
	addr := serveOn(t, listenTCP(t), func(l net.Listener) error {
		return b.ServeWebSocket(l, origin.New(origin.Options{Machine: "workshop"}))
	})
	for host, want := range map[string]bool{
		"evil.example:1": false, "evil.example": false, "local": false, "printer.local": false, "workshop.local": true, "localhost:8080": true, "192.168.1.7:9001": true, "[::1]:9001": true,
	} {
		header := http.Header{"Host": {host}, "Origin": {"http://" + host}}
		ws, _, err := (&websocket.Dialer{Subprotocols: []string{"mqtt"}}).Dial("ws://"+addr+"/mqtt", header)
		if err == nil {
			ws.Close()
		}
		if (err == nil) != want {
			t.Errorf("host %q: %v", host, err)
		}
	}
}

// TestAProxyDoesNotMakeStrangersLocal: behind one on this machine everybody
// comes from 127.0.0.1, and anonymous clients of this machine are let in.
func TestAProxyDoesNotMakeStrangersLocal(t *testing.T) {
	a, err := accounts.New(accounts.Options{Delay: time.Millisecond})
	testkit.OK(t, err)
	b, _ := startWith(t, broker.Options{Accounts: a})
	addr := serveOn(t, listenTCP(t), func(l net.Listener) error { return b.ServeWebSocket(l, nil) })
	for forwarded, want := range map[string]bool{
		"": true, "127.0.0.1": true, "203.0.113.5": false, "127.0.0.1, 203.0.113.5": false, "nonsense": false,
		"127.0.0.1|203.0.113.5": false, // a line each
	} {
		header := http.Header{}
		if forwarded != "" {
			header["X-Forwarded-For"] = strings.Split(forwarded, "|")
		}
		c, err := mqttest.Dial(addr, mqttest.Options{Dial: mqttest.WebSocket("/mqtt", 0, nil, header)})
		if err == nil {
			c.Close()
		}
		if (err == nil) != want {
			t.Errorf("forwarded for %q: %v", forwarded, err)
		}
	}
}

func TestSystemTopicsTellHowTheBrokerDoes(t *testing.T) {
	_, addr := startWith(t, broker.Options{SysInterval: 20 * time.Millisecond, Version: "1.2.3"})
	c := dial(t, addr, mqttest.Options{})
	subscribe(t, c, "$SYS/#", 0)
	want := map[string]string{
		"version": "event2mqtt version 1.2.3", "clients/connected": "1", "clients/maximum": "1", "subscriptions/count": "1", "retained messages/count": "",
		"uptime": "", "messages/received": "", "publish/messages/dropped": "0", "bytes/sent": "", "load/messages/received/1min": "", "load/bytes/sent/15min": "",
		"heap/current": "", "heap/maximum": "", "publish/bytes/received": "0", "publish/bytes/sent": "", "shared_subscriptions/count": "0",
	}
	for deadline := time.Now().Add(mqttest.Patience); len(want) > 0; {
		m := next(t, c)
		name := m.Topic[len("$SYS/broker/"):]
		if value, wanted := want[name]; wanted && (value == "" || value == string(m.Payload)) {
			delete(want, name)
		}
		if time.Now().After(deadline) {
			t.Fatal(fmt.Sprint("missing: ", want))
		}
	}
}
