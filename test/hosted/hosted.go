// Package hosted is a stand-in for hosted brokers: it does with what is beyond its
// limits what their documentation says, and notes it. It is for tests.
package hosted

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"event2mqtt/internal/wire"
)

// Service is one that listens. Its limits are set before Start.
type Service struct {
	Secure         *tls.Config // nil is without TLS
	WebSocket      bool
	User, Password string // "" lets anybody in
	MaxQoS         byte
	Retains        bool
	MaxPacket      int
	MaxLevels      int
	PerSecond      int                     // more is discarded; 0 is any
	Idle           time.Duration           // after which a connection without a message is ended; 0 is never
	Takes          func(topic string) bool // nil takes all topics

	URL string // of Start

	mu     sync.Mutex // guards what follows
	open   map[io.Closer]bool
	conns  int
	ids    []string // client ids that came
	got    []string // topic and payload of what was taken
	faults []string
}

// Start listens until the test ends.
func (b *Service) Start(t testing.TB) *Service {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	scheme := map[bool]string{false: "mqtt", true: "ws"}[b.WebSocket]
	b.URL = scheme + "://" + l.Addr().String()
	if b.Secure != nil {
		b.URL = scheme + "s://" + l.Addr().String()
		l = tls.NewListener(l, b.Secure)
	}
	var wg sync.WaitGroup
	b.open = map[io.Closer]bool{}
	serve := func(nc net.Conn) {
		b.mu.Lock()
		b.open[nc] = true
		b.mu.Unlock()
		defer func() {
			_ = nc.Close()
			b.mu.Lock()
			delete(b.open, nc)
			b.mu.Unlock()
		}()
		if why := b.serve(nc); why != "" {
			b.mu.Lock()
			b.faults = append(b.faults, why)
			b.mu.Unlock()
		}
	}
	if b.WebSocket {
		up := websocket.Upgrader{Subprotocols: []string{"mqtt"}}
		server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/mqtt" {
				http.NotFound(w, r)
			} else if c, err := up.Upgrade(w, r, nil); err == nil {
				serve(&webSocketConn{Conn: c.NetConn(), ws: c})
			}
		})}
		wg.Go(func() { _ = server.Serve(l) })
	} else {
		wg.Go(func() {
			for {
				nc, err := l.Accept()
				if err != nil {
					return
				}
				wg.Go(func() { serve(nc) })
			}
		})
	}
	t.Cleanup(func() {
		l.Close()
		b.Cut()
		wg.Wait()
	})
	return b
}

// webSocketConn is the stream of bytes in a WebSocket's messages.
type webSocketConn struct {
	net.Conn
	ws *websocket.Conn
	in io.Reader
}

func (c *webSocketConn) Read(p []byte) (n int, err error) {
	for n == 0 && err == nil {
		if c.in == nil {
			if _, c.in, err = c.ws.NextReader(); err != nil {
				return 0, err
			}
		}
		if n, err = c.in.Read(p); err == io.EOF {
			c.in, err = nil, nil
		}
	}
	return n, err
}

func (c *webSocketConn) Write(p []byte) (int, error) {
	return len(p), c.ws.WriteMessage(websocket.BinaryMessage, p)
}

// serve returns why a connection is ended by the service, or "".
func (b *Service) serve(nc net.Conn) (fault string) {
	reader, began, sent := wire.NewReader(nc, 64<<20), time.Now(), 0
	if b.Idle > 0 {
		_ = nc.SetReadDeadline(began.Add(b.Idle))
	}
	for {
		header, body, err := reader.Next()
		if err != nil {
			return "" // the client, or the idle time
		}
		switch wire.Type(header >> 4) {
		case wire.CONNECT:
			c, err := wire.DecodeConnect(body)
			if err != nil {
				return err.Error()
			}
			b.mu.Lock()
			b.conns++
			b.ids = append(b.ids, c.ClientID)
			b.mu.Unlock()
			if b.User != "" && (c.Username != b.User || string(c.Password) != b.Password) {
				_, _ = nc.Write([]byte{0x20, 2, 0, 5})
				return "wrong user"
			}
			if w := c.Will; w != nil && (w.Retain && !b.Retains || w.QoS > b.MaxQoS || b.Takes != nil && !b.Takes(w.Topic)) {
				return "a will that is not taken: " + w.Topic
			}
			_, _ = nc.Write([]byte{0x20, 2, 0, 0})
		case wire.PUBLISH:
			var p wire.Publish
			if err := wire.DecodePublish(&p, wire.V311, header, body, ""); err != nil {
				return err.Error()
			}
			if b.Idle > 0 {
				_ = nc.SetReadDeadline(time.Now().Add(b.Idle))
			}
			if fault := b.judge(&p, len(body)); fault != "" {
				return fault
			}
			// What comes late, on a busy machine, counts as later than it was sent.
			if sent++; b.PerSecond > 0 && float64(sent) > float64(b.PerSecond)*(1+time.Since(began).Seconds()) {
				b.mu.Lock()
				b.faults = append(b.faults, "too fast")
				b.mu.Unlock()
				continue // and no answer
			}
			b.mu.Lock()
			b.got = append(b.got, p.Topic+" "+string(p.Payload))
			b.mu.Unlock()
			if p.QoS == 1 {
				_, _ = nc.Write(wire.AppendAck(nil, wire.V311, wire.PUBACK, wire.Ack{PacketID: p.PacketID}))
			} else if p.QoS == 2 {
				_, _ = nc.Write(wire.AppendAck(nil, wire.V311, wire.PUBREC, wire.Ack{PacketID: p.PacketID}))
			}
		case wire.PUBREL:
			_, _ = nc.Write(append([]byte{0x70, 2}, body[:2]...))
		case wire.PINGREQ:
			_, _ = nc.Write([]byte{0xD0, 0})
		case wire.SUBSCRIBE:
			_, _ = nc.Write(append([]byte{0x90, 3}, body[0], body[1], 0))
		}
	}
}

// judge returns why a message is not taken, or "".
func (b *Service) judge(p *wire.Publish, size int) string {
	switch {
	case p.QoS > b.MaxQoS:
		return fmt.Sprintf("QoS %d", p.QoS)
	case p.Retain && !b.Retains:
		return "retained: " + p.Topic
	case b.MaxPacket > 0 && size > b.MaxPacket:
		return fmt.Sprintf("%d bytes", size)
	case b.MaxLevels > 0 && strings.Count(p.Topic, "/") >= b.MaxLevels:
		return "too many levels: " + p.Topic
	case b.Takes != nil && !b.Takes(p.Topic):
		return "not allowed: " + p.Topic
	}
	return ""
}

// Taken are the messages, each with its topic before it.
func (b *Service) Taken() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.got...)
}

// Connections is how many were made.
func (b *Service) Connections() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.conns
}

// Unhurt tells if anything was beyond the limits.
func (b *Service) Unhurt(t testing.TB) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.faults) > 0 {
		t.Errorf("the service was given what it does not take: %q", b.faults)
	}
}

// IDs are the client ids that came.
func (b *Service) IDs() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.ids...)
}

// Cut ends all connections, as a service does that is restarted.
func (b *Service) Cut() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for nc := range b.open {
		_ = nc.Close()
	}
}
