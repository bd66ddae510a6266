package mqtt

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/rs/zerolog"

	"event2mqtt/internal/health"
	"event2mqtt/internal/sinks"
	"event2mqtt/internal/testkit"
	"event2mqtt/test/certtest"
)

// TestAListIsTriedInRounds: the pause comes once for each round of the list,
// doubles with each round and not with each broker, and ends at five seconds.
func TestAListIsTriedInRounds(t *testing.T) {
	c, p := Defaults()
	c.URL = []string{"mqtt://a", "mqtt://b", "mqtt://c"}
	s, err := New(Options{Config: c, Publish: p}, sinks.Deps{Log: zerolog.Nop()})
	testkit.OK(t, err)
	s.tell = func(health.Status) {}
	for round, most := range []time.Duration{1, 2, 4, 5, 5, 5, 5, 5} {
		most *= time.Second
		for broker := range c.URL {
			pause := s.report(errors.New("away"), 0)
			if last := broker == len(c.URL)-1; !last && pause != 0 || last && (pause < most/2 || pause > most) {
				t.Errorf("round %d, broker %d: a pause of %s", round, broker, pause)
			}
		}
	}
}

// TestALostAcknowledgementIsExplained: paho's words say nothing of the cause.
func TestALostAcknowledgementIsExplained(t *testing.T) {
	if got := mainKeys.explain(errors.New("connection lost before Publish completed"), false); !strings.Contains(got, "without acknowledging it") {
		t.Error(got)
	}
}

// TestALengthIsBoundedBeforeItIsRead: five bytes of a broker cannot take 256 MiB,
// whatever carries them, and the error names the broker and the length.
func TestALengthIsBoundedBeforeItIsRead(t *testing.T) {
	answer := []byte{0x20, 2, 0, 0, 0x30, 0xff, 0xff, 0xff, 0x7f} // CONNACK, and a PUBLISH of 256 MiB
	a := certtest.New(t)
	pair, err := tls.LoadX509KeyPair(a.Issue("broker", nil))
	testkit.OK(t, err)
	secure := &tls.Config{Certificates: []tls.Certificate{pair}}
	for _, scheme := range []string{"mqtt", "mqtts", "ws", "wss"} {
		t.Run(scheme, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			testkit.OK(t, err)
			address := l.Addr().String()
			if strings.HasSuffix(scheme, "s") && scheme != "ws" {
				l = tls.NewListener(l, secure)
			}
			var serving sync.WaitGroup
			defer serving.Wait()
			if strings.HasPrefix(scheme, "ws") {
				up := websocket.Upgrader{Subprotocols: []string{"mqtt"}}
				server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if c, err := up.Upgrade(w, r, nil); err == nil {
						_, _, _ = c.ReadMessage()
						_ = c.WriteMessage(websocket.BinaryMessage, answer)
						_, _, _ = c.ReadMessage() // its end
						_ = c.Close()
					}
				})}
				serving.Go(func() { _ = server.Serve(l) })
				defer server.Close()
			} else {
				serving.Go(func() {
					if c, err := l.Accept(); err == nil {
						b := make([]byte, 1024)
						_, _ = c.Read(b)
						_, _ = c.Write(answer)
						for err == nil {
							_, err = c.Read(b)
						}
						_ = c.Close()
					}
				})
				defer l.Close()
			}
			c, p := Defaults()
			c.URL, c.Timeout, c.TLS.CA = []string{scheme + "://" + address}, 20*time.Second, a.CAFile
			ctx, cancel := context.WithTimeout(t.Context(), c.Timeout)
			defer cancel()
			log := &testkit.Log{}
			s, err := New(Options{Config: c, Publish: p}, sinks.Deps{ClientID: "a", Log: zerolog.New(log)})
			testkit.OK(t, err)
			s.tell = func(health.Status) {}
			link, err := s.dialOne(ctx, false)
			if err == nil { // paho had its CONNACK first
				select {
				case <-link.down():
					err = link.err()
				case <-ctx.Done():
					t.Fatal("the connection goes on")
				}
				link.close()
			}
			s.report(err, 0)
			if got := log.String(); !strings.Contains(got, address) || !strings.Contains(got, "268435455 bytes") {
				t.Error(got)
			}
		})
	}
}
