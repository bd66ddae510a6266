package mqtt_test

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

// hosted is a stand-in for a hosted broker: it does with what is beyond its limits
// what the documentation of the service says, and notes it.
type hosted struct {
	secure         *tls.Config // nil is without TLS
	webSocket      bool
	user, password string // "" lets anybody in
	maxQoS         byte
	retains        bool
	maxPacket      int
	maxLevels      int
	perSecond      int                     // more is discarded; 0 is any
	idle           time.Duration           // after which a connection without a message is ended; 0 is never
	takes          func(topic string) bool // nil takes all topics

	url string

	mu     sync.Mutex
	conns  int
	ids    []string // client ids that came
	got    []string // topic and payload of what was taken
	faults []string
}

func (b *hosted) start(t testing.TB) *hosted {
	t.Helper()
	l := listen(t, "127.0.0.1:0")
	scheme := map[bool]string{false: "mqtt", true: "ws"}[b.webSocket]
	b.url = scheme + "://" + l.Addr().String()
	if b.secure != nil {
		b.url = scheme + "s://" + l.Addr().String()
		l = tls.NewListener(l, b.secure)
	}
	var wg sync.WaitGroup
	open := map[io.Closer]bool{}
	serve := func(nc net.Conn) {
		b.mu.Lock()
		open[nc] = true
		b.mu.Unlock()
		defer nc.Close()
		if why := b.serve(nc); why != "" {
			b.mu.Lock()
			b.faults = append(b.faults, why)
			b.mu.Unlock()
		}
	}
	if b.webSocket {
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
		b.mu.Lock()
		for nc := range open {
			nc.Close()
		}
		b.mu.Unlock()
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
func (b *hosted) serve(nc net.Conn) (fault string) {
	reader, began, sent := wire.NewReader(nc, 64<<20), time.Now(), 0
	if b.idle > 0 {
		_ = nc.SetReadDeadline(began.Add(b.idle))
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
			if b.user != "" && (c.Username != b.user || string(c.Password) != b.password) {
				_, _ = nc.Write([]byte{0x20, 2, 0, 5})
				return "wrong user"
			}
			if w := c.Will; w != nil && (w.Retain && !b.retains || w.QoS > b.maxQoS || b.takes != nil && !b.takes(w.Topic)) {
				return "a will that is not taken: " + w.Topic
			}
			_, _ = nc.Write([]byte{0x20, 2, 0, 0})
		case wire.PUBLISH:
			var p wire.Publish
			if err := wire.DecodePublish(&p, wire.V311, header, body, ""); err != nil {
				return err.Error()
			}
			if b.idle > 0 {
				_ = nc.SetReadDeadline(time.Now().Add(b.idle))
			}
			if fault := b.judge(&p, len(body)); fault != "" {
				return fault
			}
			// What comes late, on a busy machine, counts as later than it was sent.
			if sent++; b.perSecond > 0 && float64(sent) > float64(b.perSecond)*(1+time.Since(began).Seconds()) {
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
func (b *hosted) judge(p *wire.Publish, size int) string {
	switch {
	case p.QoS > b.maxQoS:
		return fmt.Sprintf("QoS %d", p.QoS)
	case p.Retain && !b.retains:
		return "retained: " + p.Topic
	case b.maxPacket > 0 && size > b.maxPacket:
		return fmt.Sprintf("%d bytes", size)
	case b.maxLevels > 0 && strings.Count(p.Topic, "/") >= b.maxLevels:
		return "too many levels: " + p.Topic
	case b.takes != nil && !b.takes(p.Topic):
		return "not allowed: " + p.Topic
	}
	return ""
}

// taken are the messages, each with its topic before it.
func (b *hosted) taken() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.got...)
}

func (b *hosted) connections() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.conns
}

// unhurt tells if anything was beyond the limits.
func (b *hosted) unhurt(t testing.TB) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.faults) > 0 {
		t.Errorf("the service was given what it does not take: %q", b.faults)
	}
}
