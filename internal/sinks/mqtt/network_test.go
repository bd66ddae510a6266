package mqtt_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"event2mqtt/internal/event"
	"event2mqtt/internal/health"
	"event2mqtt/internal/journal"
	"event2mqtt/internal/sinks"
	"event2mqtt/internal/sinks/mqtt"
	"event2mqtt/internal/testkit"
	"event2mqtt/internal/wire"
	"event2mqtt/test/certtest"
)

// TestStoppingInterruptsConnecting: nobody waits for the time-out of a broker
// that accepts and says nothing.
func TestStoppingInterruptsConnecting(t *testing.T) {
	for _, scheme := range []string{"mqtt", "mqtts", "ws"} {
		t.Run(scheme, func(t *testing.T) {
			silent := listen(t, "127.0.0.1:0")
			defer silent.Close()
			r := newRig(t, func(c *mqtt.Config, _ *mqtt.PublishConfig) { c.Timeout = time.Hour }, scheme+"://"+silent.Addr().String())
			c, err := silent.Accept()
			testkit.OK(t, err)
			defer c.Close()
			_, err = c.Read(make([]byte, 1)) // it is in the middle of it
			testkit.OK(t, err)
			r.stop()
			if scheme != "ws" { // which is left to itself
				_, _ = io.Copy(io.Discard, c)
			}
		})
	}
}

// watched is a context that counts what waits for its end.
type watched struct {
	context.Context
	waiting *atomic.Int32
}

func (w watched) Value(any) any { return nil } // or it would be looked through

func (w watched) AfterFunc(f func()) (stop func() bool) {
	w.waiting.Add(1)
	forget := context.AfterFunc(w.Context, f)
	return sync.OnceValue(func() bool { w.waiting.Add(-1); return forget() })
}

// TestFailedConnectionsLeaveNothingBehind until the program ends, which may be
// months away.
func TestFailedConnectionsLeaveNothingBehind(t *testing.T) {
	refusing := listen(t, "127.0.0.1:0")
	var wg sync.WaitGroup
	defer wg.Wait()
	defer refusing.Close()
	var refused atomic.Int32
	wg.Go(func() {
		for {
			c, err := refusing.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte{0x20, 2, 0, 5})
			_ = c.Close()
			refused.Add(1)
		}
	})
	j, err := journal.Open(journal.Options{FS: journal.DirFS(t.TempDir()), Log: zerolog.Nop()})
	testkit.OK(t, err)
	defer j.Close()
	cursor, err := j.Cursor("mqtt")
	testkit.OK(t, err)
	c, p := mqtt.Defaults()
	for range 10 {
		c.URL = append(c.URL, "mqtt://"+refusing.Addr().String())
	}
	sink, err := mqtt.New(mqtt.Options{Config: c, Publish: p}, sinks.Deps{ID: j.ID, Log: zerolog.Nop()})
	testkit.OK(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var waiting atomic.Int32
	wg.Go(func() { _ = sink.Run(watched{ctx, &waiting}, cursor, event.NewStates(), func(health.Status) {}) })
	testkit.Eventually(t, "between two attempts nothing waits", func() bool { return refused.Load() >= 10 && waiting.Load() == 0 })
}

// TestTLSWorksOrSaysInWordsWhyNot is about the complaint that users of other
// bridges have most.
func TestTLSWorksOrSaysInWordsWhyNot(t *testing.T) {
	a := certtest.New(t)
	good := listenTLS(t, a, "good", nil, &tls.Config{})
	expired := listenTLS(t, a, "expired", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }, &tls.Config{})
	other := listenTLS(t, a, "other", func(c *x509.Certificate) { c.IPAddresses, c.DNSNames = nil, []string{"broker.example"} }, &tls.Config{})
	unnamed := listenTLS(t, a, "unnamed", func(c *x509.Certificate) { c.IPAddresses = nil }, &tls.Config{})
	strict := listenTLS(t, a, "strict", nil, &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert})
	old := listenTLS(t, a, "old", nil, &tls.Config{MaxVersion: tls.VersionTLS12})
	cert, key := a.Issue("client", nil)
	plain := listen(t, "127.0.0.1:0")
	serve(t, plain)

	trust := func(c *mqtt.Config) { c.TLS.CA = a.CAFile }
	for _, c := range []struct {
		name, address string
		change        func(*mqtt.Config)
		says          string // "" is success
	}{
		{"trusted", good, trust, ""},
		{"unknown authority", good, nil, "mqtt.tls.ca"},
		{"unknown authority, insecure", good, func(c *mqtt.Config) { c.TLS.Insecure = true }, ""},
		{"expired", expired, trust, "clock"},
		{"other name", other, trust, "mqtt.tls.server_name"},
		{"a common name only", unnamed, trust, "has no subjectAltName, only the common name \\\"unnamed\\\", which no longer counts; have a new one issued that names \\\"127.0.0.1\\\" there"},
		{"other name, told", other, func(c *mqtt.Config) { trust(c); c.TLS.ServerName = "broker.example" }, ""},
		{"no client certificate", strict, trust, "mqtt.tls.cert"},
		{"client certificate", strict, func(c *mqtt.Config) { trust(c); c.TLS.Cert, c.TLS.Key = cert, key }, ""},
		{"version too old", old, func(c *mqtt.Config) { trust(c); c.TLS.MinVersion = "1.3" }, "protocol version"},
		{"cipher", old, func(c *mqtt.Config) {
			trust(c)
			c.TLS.MaxVersion, c.TLS.Ciphers = "1.2", []string{"TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"}
		}, ""},
		{"not TLS", plain.Addr().String(), trust, "mqtt:// instead of mqtts://"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, func(config *mqtt.Config, _ *mqtt.PublishConfig) {
				if c.change != nil {
					c.change(config)
				}
			}, "mqtts://"+c.address)
			r.emit(1)
			if c.says == "" {
				r.delivered()
				return
			}
			testkit.Eventually(t, "the log says "+c.says, func() bool { return strings.Contains(r.log.String(), c.says) })
		})
	}
}

func TestRefusedLoginsSayWhichKeyToLookAt(t *testing.T) {
	for code, says := range map[byte]string{1: "mqtt.protocol", 2: "mqtt.client_id", 3: "unavailable", 4: "mqtt.password", 5: "not authorized"} {
		l := listen(t, "127.0.0.1:0")
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				nc, err := l.Accept()
				if err != nil {
					return
				}
				reader := wire.NewReader(nc, 1<<20)
				_, _, _ = reader.Next()
				_, _ = nc.Write([]byte{0x20, 2, 0, code})
				nc.Close()
			}
		})
		r := newRig(t, func(c *mqtt.Config, _ *mqtt.PublishConfig) { c.Username, c.Password = "u", "hunter2" }, "mqtt://"+l.Addr().String())
		testkit.Eventually(t, says, func() bool { return strings.Contains(r.log.String(), says) })
		if strings.Contains(r.log.String(), "hunter2") {
			t.Error("the password is in the log")
		}
		r.stop()
		l.Close()
		wg.Wait()
	}
}
